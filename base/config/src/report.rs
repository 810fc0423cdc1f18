//! What is wrong with a config, each problem with its place.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// What kind of rule was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The text is no YAML, or YAML that a config does not use.
    Yaml,
    /// Keys, types and units: what the JSON Schema rejects too.
    Shape,
    /// A value that only makes sense together with others, or with the host.
    Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As it was named on the command line or by `include`.
    pub file: PathBuf,
    /// From 1; 0 when the problem has no place in the file.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Of the offending text, in characters; at least 1.
    pub length: u32,
    pub message: String,
    /// What would have been right.
    pub help: Option<String>,
    pub severity: Severity,
    pub rule: Rule,
    /// The line as it stands in the file; empty where it is not to be shown.
    pub source: String,
}

/// Problems in the order of their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub problems: Vec<Problem>,
    /// Problems beyond [`limits::PROBLEMS`], counted only.
    pub omitted: usize,
}

impl Report {
    /// A report of one problem that has no line, such as a file that cannot be read.
    pub fn of_file(file: impl Into<PathBuf>, message: impl Into<String>, help: Option<String>) -> Self {
        let problem = Problem {
            file: file.into(),
            line: 0,
            column: 0,
            length: 1,
            message: message.into(),
            help,
            severity: Severity::Error,
            rule: Rule::Meaning,
            source: String::new(),
        };
        Self { problems: vec![problem], omitted: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// Text for a terminal; with ANSI colours where `colour`.
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint { on: colour };
        let mut out = String::new();
        for problem in &self.problems {
            render_problem(&mut out, problem, &paint);
            out.push('\n');
        }
        if self.omitted > 0 {
            let line = format!("… and {} more", self.omitted);
            out.push_str(&paint.bold(&line));
            out.push('\n');
        }
        out
    }

    /// An array of objects: `file`, `line`, `column`, `length`, `severity`, `message`, `help`.
    pub fn to_json(&self) -> Value {
        let problems: Vec<Value> = self
            .problems
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.file.to_string_lossy(),
                    "line": problem.line,
                    "column": problem.column,
                    "length": problem.length,
                    "severity": severity_word(problem.severity),
                    "message": problem.message,
                    "help": problem.help,
                })
            })
            .collect();
        json!({ "problems": problems, "omitted": self.omitted })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Report {}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn render_problem(out: &mut String, problem: &Problem, paint: &Paint) {
    let word = severity_word(problem.severity);
    let head = match problem.severity {
        Severity::Error => paint.red(word),
        Severity::Warning => paint.yellow(word),
    };
    let file = printable(&problem.file.to_string_lossy());
    push_line(out, &format!("{head}{}", paint.bold(&format!(": {}", printable(&problem.message)))));
    if problem.line == 0 {
        push_line(out, &format!("  {} {file}", paint.blue("-->")));
    } else {
        push_line(out, &format!("  {} {file}:{}:{}", paint.blue("-->"), problem.line, problem.column));
    }
    let margin = " ".repeat(problem.line.to_string().len());
    if problem.line > 0 && !problem.source.is_empty() {
        let (text, start, width) = window(&problem.source, problem.column, problem.length);
        let carets = format!("{}{}", " ".repeat(start), "^".repeat(width));
        let bar = paint.blue("|");
        let number = paint.blue(&problem.line.to_string());
        push_line(out, &format!("{margin} {bar}"));
        push_line(out, &format!("{number} {bar} {text}"));
        let carets = match problem.severity {
            Severity::Error => paint.red(&carets),
            Severity::Warning => paint.yellow(&carets),
        };
        push_line(out, &format!("{margin} {bar} {carets}"));
    }
    if let Some(help) = &problem.help {
        push_line(out, &format!("{margin} {} {}", paint.blue("="), paint.green(&format!("help: {}", printable(help)))));
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

/// The part of a line that is shown, where the carets start in it, and how many they are.
fn window(source: &str, column: u32, length: u32) -> (String, usize, usize) {
    let characters: Vec<char> = printable(source).chars().collect();
    let at = (column.max(1) as usize - 1).min(characters.len());
    let most = limits::SHOWN_LINE_CHARACTERS;
    let from = if characters.len() <= most { 0 } else { at.saturating_sub(most / 2).min(characters.len() - most) };
    let to = (from + most).min(characters.len());
    let mut text = String::new();
    let mut start = at - from;
    if from > 0 {
        text.push('…');
        start += 1;
    }
    text.extend(characters.iter().take(to).skip(from));
    if to < characters.len() {
        text.push('…');
    }
    let width = (length.max(1) as usize).min(to.saturating_sub(at).max(1));
    (text, start, width)
}

/// Control characters could move the cursor or recolour an operator's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The offending text as a message repeats it: shortened, with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (count, character) in text.chars().enumerate() {
        if count == limits::QUOTED_CHARACTERS {
            out.push('…');
            break;
        }
        if character.is_control() {
            // Writing to a String cannot fail.
            write!(out, "{}", character.escape_default()).ok();
        } else {
            out.push(character);
        }
    }
    out.push('`');
    out
}

/// The word of `known` that somebody who wrote `word` may have meant.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / limits::SUGGESTION_SHARE).max(1);
    known
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a, b or c`.
pub(crate) fn or_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    joined(words, "or")
}

/// `a, b and c`.
pub(crate) fn and_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    joined(words, "and")
}

fn joined<'a>(words: impl Iterator<Item = &'a str>, last_word: &str) -> String {
    let words: Vec<&str> = words.collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} {last_word} {last}", rest.join(", ")),
    }
}

struct Paint {
    on: bool,
}

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn red(&self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn yellow(&self, text: &str) -> String {
        self.wrap("1;33", text)
    }

    fn blue(&self, text: &str) -> String {
        self.wrap("1;34", text)
    }

    fn green(&self, text: &str) -> String {
        self.wrap("32", text)
    }
}
