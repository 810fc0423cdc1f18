//! Reads the corpus of hostile requests beside this file; README.md there holds the grammar.
//!
//! Used by the format test of this crate and by the end-to-end runner of the binary, which
//! includes this one file by path.

use std::fs;
use std::path::Path;

/// One conversation and its verdict.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// File name and line of the `==` line.
    pub(crate) place: String,
    pub(crate) name: String,
    pub(crate) reference: String,
    pub(crate) why: String,
    /// One for each final response, in order; never empty.
    pub(crate) expects: Vec<Expect>,
    /// What the server behind may see. Empty: nothing at all.
    pub(crate) server: Vec<ServerLine>,
    /// Requests that were cut short may reach the server, as long as it sees them cut short.
    pub(crate) cut_allowed: bool,
    pub(crate) split: Split,
    /// The client shuts its sending side down after the last byte.
    pub(crate) half_close: bool,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Hold the rest back until an interim response with this status, or a final one, arrived.
    AwaitInterim(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Split {
    /// One write for each step.
    Whole,
    EveryByte,
    /// Offsets in bytes from the start of the first step, ascending.
    At(Vec<usize>),
}

/// A final response, as the client must see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expect {
    /// Allowed status codes; empty only with `silent`.
    pub(crate) statuses: Vec<u16>,
    /// The connection may also be closed without any answer.
    pub(crate) silent: bool,
    pub(crate) after: After,
    /// The response has no body whatever its framing fields say (HEAD).
    pub(crate) no_body: bool,
    /// No interim response may come before it.
    pub(crate) no_interim: bool,
    /// Texts that the body has to contain.
    pub(crate) says: Vec<String>,
    /// Fields that the response has to carry.
    pub(crate) with: Vec<Field>,
    /// Names of fields, in lower case, that the response may not carry.
    pub(crate) without: Vec<String>,
}

/// What becomes of the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Close,
    Keep,
    /// Closed, or still usable and in step.
    Any,
    /// Turned into a tunnel to the server.
    Tunnel,
}

/// A request that the server has to see.
#[derive(Debug, Clone)]
pub(crate) struct ServerLine {
    /// Counts only if the first final response had this status.
    pub(crate) only_if: Option<u16>,
    /// May be seen or not.
    pub(crate) optional: bool,
    pub(crate) method: String,
    /// Any of these.
    pub(crate) targets: Vec<String>,
    /// After the transfer coding is undone.
    pub(crate) body: Vec<u8>,
    pub(crate) host: Option<String>,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// A header field line of this name; with a value, equal to it.
    Header(Field),
    /// A header field line of this name whose value contains the text.
    HeaderContains(Field),
    /// No such header field line; with a value, none whose value contains it.
    NoHeader(Field),
    NoTrailer(Field),
}

/// A field name in lower case, and a value if one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

/// All cases of the `*.txt` files in a directory, in the order of the file names, or every
/// error with its place.
pub(crate) fn read_directory(directory: &Path) -> Result<Vec<Case>, Vec<String>> {
    let mut files = match fs::read_dir(directory) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect::<Vec<_>>(),
        Err(error) => return Err(vec![format!("{}: {error}", directory.display())]),
    };
    files.sort();

    let mut cases = Vec::new();
    let mut errors = Vec::new();
    for path in files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match fs::read_to_string(&path) {
            Ok(text) => match parse_text(&file, &text) {
                Ok(mut found) => cases.append(&mut found),
                Err(mut found) => errors.append(&mut found),
            },
            Err(error) => errors.push(format!("{file}: {error}")),
        }
    }

    let mut names: Vec<_> = cases.iter().map(|case| (&case.name, &case.place)).collect();
    names.sort();
    for pair in names.windows(2) {
        if let [(name, place), (next, next_place)] = pair
            && name == next
        {
            errors.push(format!("{next_place}: `{name}` was already used at {place}"));
        }
    }
    if errors.is_empty() { Ok(cases) } else { Err(errors) }
}

/// All cases of one file's text, or every error with its place.
pub(crate) fn parse_text(file: &str, text: &str) -> Result<Vec<Case>, Vec<String>> {
    let mut cases = Vec::new();
    let mut errors = Vec::new();
    let mut block: Vec<(usize, &str)> = Vec::new();

    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    for (number, line) in numbered {
        if line.starts_with("== ") {
            finish(file, &mut block, &mut cases, &mut errors);
            block.push((number, line));
        } else if block.is_empty() {
            if !line.is_empty() && !line.starts_with('#') {
                errors.push(format!("{file}:{number}: text before the first case"));
            }
        } else {
            block.push((number, line));
        }
    }
    finish(file, &mut block, &mut cases, &mut errors);
    if errors.is_empty() { Ok(cases) } else { Err(errors) }
}

fn finish(file: &str, block: &mut Vec<(usize, &str)>, cases: &mut Vec<Case>, errors: &mut Vec<String>) {
    if block.is_empty() {
        return;
    }
    match parse_block(file, block) {
        Ok(case) => cases.push(case),
        Err((line, message)) => errors.push(format!("{file}:{line}: {message}")),
    }
    block.clear();
}

/// Line number and message.
type BlockError = (usize, String);

fn parse_block(file: &str, block: &[(usize, &str)]) -> Result<Case, BlockError> {
    let [(first_line, title), rest @ ..] = block else {
        return Err((0, String::from("empty case")));
    };
    let at_title = |message: &str| (*first_line, String::from(message));

    let title = title.strip_prefix("== ").unwrap_or_default();
    let (name, reference) =
        title.split_once(" | ").ok_or_else(|| at_title("the first line is `== name | RFC section`"))?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(at_title("a name is made of a-z, 0-9 and -"));
    }
    if !reference.starts_with("RFC ") {
        return Err(at_title("a reference starts with `RFC `"));
    }

    let mut case = Case {
        place: format!("{file}:{first_line}"),
        name: String::from(name),
        reference: String::from(reference),
        why: String::new(),
        expects: Vec::new(),
        server: Vec::new(),
        cut_allowed: false,
        split: Split::Whole,
        half_close: false,
        steps: Vec::new(),
    };
    let mut nothing = false;
    let mut bytes = None;
    for (number, line) in rest {
        let here = |message: String| (*number, message);
        if line.ends_with([' ', '\t']) || !line.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(here(String::from("write \\x20, \\t and \\xNN: only visible ASCII here")));
        }
        if let Some(bytes) = &mut bytes {
            String::push_str(bytes, line);
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once(':').ok_or_else(|| here(String::from("`key: value` expected")))?;
        let value = value.trim();
        match key {
            "why" if !value.is_empty() && case.why.is_empty() => case.why = String::from(value),
            "expect" => case.expects.push(parse_expect(value).map_err(here)?),
            "split" => case.split = parse_split(value).map_err(here)?,
            "end" if value == "half-close" => case.half_close = true,
            "server" if value == "nothing" => nothing = true,
            "server" if value == "nothing-whole" => {
                nothing = true;
                case.cut_allowed = true;
            }
            "bytes" if value.is_empty() => bytes = Some(String::new()),
            _ if key.starts_with("server") => {
                case.server.push(parse_server(key, value).map_err(here)?);
            }
            _ => return Err(here(format!("unknown, doubled or misused key `{key}`"))),
        }
    }

    if case.why.is_empty() {
        return Err(at_title("no `why:`"));
    }
    if nothing != case.server.is_empty() {
        return Err(at_title("either `server: nothing` or requests"));
    }
    case.steps =
        parse_steps(&bytes.ok_or_else(|| at_title("no `bytes:`"))?).map_err(|message| (*first_line, message))?;
    check_sense(&case).map_err(|message| (*first_line, message))?;
    Ok(case)
}

/// What the grammar allows and nobody can mean.
fn check_sense(case: &Case) -> Result<(), String> {
    let Some((last, before)) = case.expects.split_last() else {
        return Err(String::from("no `expect:`"));
    };
    if before.iter().any(|expect| !matches!(expect.after, After::Keep | After::Any)) {
        return Err(String::from("only the last response may close the connection"));
    }
    if case.half_close && last.after != After::Close {
        return Err(String::from("a half-closed connection ends with `close`"));
    }
    if last.after == After::Tunnel && last.statuses != [101] {
        return Err(String::from("`tunnel` goes with 101"));
    }
    if let Some(first) = case.expects.first() {
        for line in &case.server {
            if line.only_if.is_some_and(|status| !first.statuses.contains(&status)) {
                return Err(String::from("a condition names a status that is not expected"));
            }
        }
    }
    let size = match case.steps.first() {
        Some(Step::Send(bytes)) => bytes.len(),
        _ => 0,
    };
    if let Split::At(offsets) = &case.split {
        let ascending = offsets.windows(2).all(|pair| pair.first() < pair.last());
        if !ascending || offsets.iter().any(|offset| *offset == 0 || *offset >= size) {
            return Err(String::from("split offsets ascend and lie inside the bytes"));
        }
    }
    Ok(())
}

fn parse_expect(text: &str) -> Result<Expect, String> {
    let mut words = Words { rest: text };
    let mut expect = Expect {
        statuses: Vec::new(),
        silent: false,
        after: After::Close,
        no_body: false,
        no_interim: false,
        says: Vec::new(),
        with: Vec::new(),
        without: Vec::new(),
    };
    let statuses = words.bare().ok_or("a status is missing")?;
    for status in statuses.split('|') {
        if status == "none" {
            expect.silent = true;
            continue;
        }
        match status.parse() {
            Ok(number @ (101 | 200..=599)) => expect.statuses.push(number),
            _ => return Err(format!("`{status}` is no status of a final response")),
        }
    }
    expect.after = match words.bare() {
        Some("close") => After::Close,
        Some("keep") => After::Keep,
        Some("any") => After::Any,
        Some("tunnel") => After::Tunnel,
        _ => {
            return Err(String::from("`close`, `keep`, `any` or `tunnel` is missing"));
        }
    };
    if expect.silent && expect.after != After::Close {
        return Err(String::from("`none` goes with `close`"));
    }
    while let Some(word) = words.bare() {
        match word {
            "no-body" => expect.no_body = true,
            "no-interim" => expect.no_interim = true,
            "says" => expect.says.push(words.quoted()?),
            "with" => expect.with.push(field(&words.quoted()?)),
            "without" => expect.without.push(words.quoted()?.to_ascii_lowercase()),
            other => return Err(format!("unknown word `{other}`")),
        }
    }
    Ok(expect)
}

fn parse_server(key: &str, text: &str) -> Result<ServerLine, String> {
    let (only_if, optional) = match key.strip_prefix("server").unwrap_or_default() {
        "" => (None, false),
        "?" => (None, true),
        condition => match condition.strip_prefix(' ').and_then(|status| status.parse().ok()) {
            Some(status) => (Some(status), false),
            None => return Err(format!("unknown key `{key}`")),
        },
    };
    let mut words = Words { rest: text };
    let method = String::from(words.bare().ok_or("a method is missing")?);
    let targets = if words.at_quote() {
        vec![words.quoted()?]
    } else {
        let targets = words.bare().ok_or("a target is missing")?;
        targets.split('|').map(String::from).collect()
    };
    let mut line = ServerLine { only_if, optional, method, targets, body: Vec::new(), host: None, checks: Vec::new() };
    while let Some(word) = words.bare() {
        match word {
            "body=" => line.body = unescape(words.quoted_raw()?)?,
            "host=" => line.host = Some(words.quoted()?),
            "+header" => line.checks.push(Check::Header(field(&words.quoted()?))),
            "~header" => line.checks.push(Check::HeaderContains(field(&words.quoted()?))),
            "-header" => line.checks.push(Check::NoHeader(field(&words.quoted()?))),
            "-trailer" => line.checks.push(Check::NoTrailer(field(&words.quoted()?))),
            other => return Err(format!("unknown word `{other}`")),
        }
    }
    Ok(line)
}

fn field(text: &str) -> Field {
    match text.split_once(':') {
        Some((name, value)) => Field { name: name.to_ascii_lowercase(), value: Some(String::from(value.trim_start())) },
        None => Field { name: text.to_ascii_lowercase(), value: None },
    }
}

fn parse_split(text: &str) -> Result<Split, String> {
    if text == "every-byte" {
        return Ok(Split::EveryByte);
    }
    text.split(',')
        .map(|offset| offset.trim().parse().map_err(|_| format!("`{offset}` is no offset")))
        .collect::<Result<_, _>>()
        .map(Split::At)
}

/// Words and quoted texts of one line. `body="x"` is the word `body=` and the text `x`.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn at_quote(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.starts_with('"')
    }

    fn bare(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find([' ', '"']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return None;
        }
        self.rest = rest;
        Some(word)
    }

    /// The text between two quotes, still escaped; `\x22` writes a quote.
    fn quoted_raw(&mut self) -> Result<&'a str, String> {
        let text = self.rest.trim_start().strip_prefix('"').ok_or("a quoted text is missing")?;
        let (text, rest) = text.split_once('"').ok_or("a quote is not closed")?;
        self.rest = rest;
        Ok(text)
    }

    fn quoted(&mut self) -> Result<String, String> {
        let bytes = unescape(self.quoted_raw()?)?;
        // Field values are compared byte for byte as ISO 8859-1 (RFC 9110 5.5, obs-text).
        Ok(bytes.into_iter().map(char::from).collect())
    }
}

fn parse_steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{await:") {
        let (status, after) = after.split_once('}').ok_or("`{await:` is not closed")?;
        let Ok(status @ 100..=199) = status.parse() else {
            return Err(format!("`{status}` is no interim status"));
        };
        steps.push(Step::Send(unescape(before)?));
        steps.push(Step::AwaitInterim(status));
        rest = after;
    }
    steps.push(Step::Send(unescape(rest)?));
    Ok(steps)
}

/// Undoes `\r \n \t \0 \\ \xNN` and `{repeat:TEXT:COUNT}`.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    /// What one `{repeat:}` may grow to, in bytes.
    const REPEATED_BYTES_MAX: usize = 8 << 20;

    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{repeat:") {
        unescape_plain(before, &mut bytes)?;
        let (inside, after) = after.split_once('}').ok_or("`{repeat:` is not closed")?;
        let (unit, count) = inside.split_once(':').ok_or("`{repeat:TEXT:COUNT}` expected")?;
        let count: usize = count.parse().map_err(|_| format!("`{count}` is no count"))?;
        let mut unit_bytes = Vec::new();
        unescape_plain(unit, &mut unit_bytes)?;
        if unit_bytes.len().saturating_mul(count) > REPEATED_BYTES_MAX {
            return Err(String::from("a repetition of more than 8 MiB"));
        }
        bytes.extend(unit_bytes.repeat(count));
        rest = after;
    }
    unescape_plain(rest, &mut bytes)?;
    Ok(bytes)
}

fn unescape_plain(text: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        if letter != b'\\' {
            bytes.push(letter);
            continue;
        }
        bytes.push(match letters.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let mut digit = || letters.next().and_then(|byte| char::from(byte).to_digit(16));
                match (digit(), digit()) {
                    // Two hexadecimal digits are below 256, so the conversion loses nothing.
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or_default(),
                    _ => return Err(String::from("`\\x` needs two hexadecimal digits")),
                }
            }
            _ => return Err(String::from("unknown escape")),
        });
    }
    Ok(())
}
