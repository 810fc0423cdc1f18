//! What must hold for `core/http` whatever is thrown at it. A broken rule is a panic.
//!
//! Included by each fuzz target and by the plain test that plays the kept corpus. Inputs are raw
//! wire bytes, so that a file of the corpus can be read, and one file serves several targets; where
//! an input is cut into pieces, the places come from a hash of its bytes.

// Each of those that include this file uses a part of it.
#![allow(dead_code)]

mod dice;

use dice::Dice;
use sumun_http::chunked::{self, Decoder};
use sumun_http::conditional::EntityTag;
use sumun_http::field::{Field, is_token};
use sumun_http::forward::{ConnectionLine, Edits, Framing, RequestPlan, ResponsePlan, write_request, write_response};
use sumun_http::limits::LEADING_EMPTY_LINES_MAX;
use sumun_http::range::{self, Selection};
use sumun_http::scan::HeadScan;
use sumun_http::{
    BodyLength, Known, Method, Reject, RequestHead, ResponseBody, ResponseHead, Version, date, media_type, negotiate,
    target,
};

/// Bounds as an operator may set them, small, so that inputs reach them. Bytes, and fields.
const LINE_MAX: usize = 120;
const HEAD_MAX: usize = 400;
const FIELDS_MAX: usize = 12;

/// Requests of one connection, and ways to cut an input: a fuzzer wants many short runs.
const MESSAGES_MAX: usize = 16;
const RANDOM_CUTS: usize = 3;
/// Longer inputs teach nothing and cost time, bytes.
pub(crate) const INPUT_MAX: usize = 8 * 1024;

/// A name and its value.
type Line = (Vec<u8>, Vec<u8>);

/// A message as its receiver understood it.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    /// Method and target, or status and reason.
    first: (Vec<u8>, Vec<u8>),
    version: Version,
    /// `Debug` of the framing, and the other decisions that the head led to.
    meaning: String,
    lines: Vec<Line>,
    body: Vec<u8>,
    trailers: Vec<u8>,
}

/// What a connection held: whole messages, and how it went on behind the last.
#[derive(Debug)]
struct Conversation {
    messages: Vec<Message>,
    /// Bytes of those messages.
    used: usize,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The head of the next message is not all there.
    HeadOpen,
    HeadRefused,
    /// The body of the next message is not all there: so much of it is.
    BodyOpen(Message),
    /// The head was taken, and this came of its body.
    BodyRefused(Message, Reject),
    /// Enough messages, or one that ends with the connection or changes the protocol.
    Enough,
}

// --- request_split, response_split: cut anywhere, a stream means the same -----------------------

/// A stream of requests means the same in one piece, byte by byte and in random pieces.
pub(crate) fn request_split(data: &[u8]) {
    same_in_pieces(data, |pieces| read_stream(pieces, &mut requests()));
}

/// A stream of responses does too, for each kind of request that it may answer.
pub(crate) fn response_split(data: &[u8]) {
    for method in [Method::Get, Method::Head] {
        same_in_pieces(data, |pieces| read_stream(pieces, &mut responses(method)));
    }
}

fn same_in_pieces(data: &[u8], read: impl Fn(&[&[u8]]) -> Conversation) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let whole = read(&[data]);
    let every_byte: Vec<&[u8]> = data.chunks(1).collect();
    compare(&whole, &read(&every_byte), data);
    let mut dice = Dice::of(data);
    for _ in 0..RANDOM_CUTS {
        compare(&whole, &read(&dice.cut(data)), data);
    }
}

fn compare(whole: &Conversation, pieces: &Conversation, data: &[u8]) {
    let shown = String::from_utf8_lossy(data);
    assert_eq!(whole.messages, pieces.messages, "messages of {shown:?}");
    assert_eq!(whole.used, pieces.used, "where the last message of {shown:?} ends");
    let same = match (&whole.end, &pieces.end) {
        // A head in pieces is judged when its end has come; in one piece, at once.
        (End::HeadRefused, End::HeadOpen) => true,
        (whole, pieces) => whole == pieces,
    };
    assert!(same, "{:?} in one piece, {:?} in pieces: {shown:?}", whole.end, pieces.end);
}

/// What reads one kind of message.
struct Reading<F> {
    /// Bounds on the first line and on the head, bytes.
    line_max: usize,
    head_max: usize,
    empty_lines_max: usize,
    parse: F,
}

/// A parsed head: its message, its length, how its body ends, and whether something of the same
/// kind may follow.
type Parsed = (Message, usize, ResponseBody, bool);

fn requests() -> Reading<impl FnMut(&[u8]) -> Result<Option<Parsed>, Reject>> {
    let mut head = RequestHead::default();
    let parse = move |bytes: &[u8]| {
        let Some(length) = head.parse(bytes, FIELDS_MAX)? else { return Ok(None) };
        if head.line_length() > LINE_MAX {
            return Err(Reject::RequestLineTooLong);
        }
        if length > HEAD_MAX {
            return Err(Reject::HeadTooLarge);
        }
        let message = Message {
            first: (head.method.as_str().into(), head.target.of_bytes(bytes).to_vec()),
            version: head.version,
            meaning: format!(
                "{:?} keep {} expect {} websocket {} path {:?} query {:?} host {:?} asterisk {} plain {} nominated {:?}",
                head.body,
                head.keep_alive,
                head.expect_continue,
                head.websocket,
                head.path.of_bytes(bytes),
                head.query.map(|query| query.of_bytes(bytes)),
                head.host_value(bytes),
                head.asterisk,
                head.path_is_plain,
                head.nominated,
            ),
            lines: lines_of(&head.fields, bytes),
            body: Vec::new(),
            trailers: Vec::new(),
        };
        let body = match head.body {
            BodyLength::None => ResponseBody::None,
            BodyLength::Length(length) => ResponseBody::Length(length),
            BodyLength::Chunked => ResponseBody::Chunked,
        };
        let goes_on = head.keep_alive && !head.websocket && head.method != Method::Connect;
        Ok(Some((message, length, body, goes_on)))
    };
    Reading { line_max: LINE_MAX, head_max: HEAD_MAX, empty_lines_max: LEADING_EMPTY_LINES_MAX, parse }
}

fn responses(method: Method) -> Reading<impl FnMut(&[u8]) -> Result<Option<Parsed>, Reject>> {
    let mut head = ResponseHead::default();
    let parse = move |bytes: &[u8]| {
        let Some(length) = head.parse(bytes, method)? else { return Ok(None) };
        let message = Message {
            first: (head.status.to_string().into_bytes(), head.reason.of_bytes(bytes).to_vec()),
            version: head.version,
            meaning: format!(
                "{:?} length {:?} keep {} upgraded {} nominated {:?}",
                head.body, head.content_length, head.keep_alive, head.upgraded, head.nominated
            ),
            lines: lines_of(&head.fields, bytes),
            body: Vec::new(),
            trailers: Vec::new(),
        };
        Ok(Some((message, length, head.body, head.keep_alive && !head.upgraded)))
    };
    // The gateway bounds heads of responses by its buffer alone.
    Reading { line_max: INPUT_MAX + 1, head_max: INPUT_MAX + 1, empty_lines_max: 0, parse }
}

fn lines_of(fields: &[Field], bytes: &[u8]) -> Vec<Line> {
    fields.iter().map(|field| (field.name.of_bytes(bytes).to_vec(), field.value.of_bytes(bytes).to_vec())).collect()
}

/// Reads messages as the gateway does: parse what is here; where the end has not come, scan for it
/// as more arrives, and parse once it has.
fn read_stream(
    pieces: &[&[u8]],
    reading: &mut Reading<impl FnMut(&[u8]) -> Result<Option<Parsed>, Reject>>,
) -> Conversation {
    let mut pieces = pieces.iter();
    let mut input: Vec<u8> = Vec::new();
    let mut conversation = Conversation { messages: Vec::new(), used: 0, end: End::Enough };
    while conversation.messages.len() < MESSAGES_MAX {
        let mut scan: Option<HeadScan> = None;
        let mut empty_lines = 0;
        let parsed = loop {
            while scan.is_none() && reading.empty_lines_max > 0 && input.starts_with(b"\r\n") {
                empty_lines += 1;
                if empty_lines > reading.empty_lines_max {
                    break;
                }
                input.drain(..2);
                conversation.used += 2;
            }
            if empty_lines > reading.empty_lines_max {
                break Err(Reject::LeadingEmptyLines);
            }
            let may_be_empty_line = scan.is_none() && reading.empty_lines_max > 0 && input == b"\r";
            if !input.is_empty() && !may_be_empty_line {
                match parse_or_scan(&input, &mut scan, reading) {
                    Ok(None) => {}
                    Ok(Some(parsed)) => break Ok(Some(parsed)),
                    Err(reject) => break Err(reject),
                }
            }
            match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => break Ok(None),
            }
        };
        let (mut message, length, body, goes_on) = match parsed {
            Ok(Some(parsed)) => parsed,
            Ok(None) => {
                conversation.end = End::HeadOpen;
                return conversation;
            }
            Err(_) => {
                conversation.end = End::HeadRefused;
                return conversation;
            }
        };
        let mut used = length;
        input.drain(..length);
        match read_body(&mut message, body, &mut input, &mut pieces) {
            Ok(Some(length)) => used += length,
            Ok(None) => {
                conversation.end = End::BodyOpen(message);
                return conversation;
            }
            Err(reject) => {
                conversation.end = End::BodyRefused(message, reject);
                return conversation;
            }
        }
        conversation.used += used;
        conversation.messages.push(message);
        if !goes_on {
            return conversation;
        }
    }
    conversation
}

fn parse_or_scan(
    input: &[u8],
    scan: &mut Option<HeadScan>,
    reading: &mut Reading<impl FnMut(&[u8]) -> Result<Option<Parsed>, Reject>>,
) -> Result<Option<Parsed>, Reject> {
    if let Some(scan) = scan
        && scan.advance(input, reading.line_max, reading.head_max)?.is_none()
    {
        return Ok(None);
    }
    if let Some(parsed) = (reading.parse)(input)? {
        return Ok(Some(parsed));
    }
    let mut fresh = HeadScan::default();
    let end = fresh.advance(input, reading.line_max, reading.head_max)?;
    assert_eq!(end, None, "the scan sees the end of a head that the parser does not see: {input:?}");
    *scan = Some(fresh);
    Ok(None)
}

/// Reads the body into `message`; its length on the wire, `None` where it is not all there.
fn read_body<'a>(
    message: &mut Message,
    framing: ResponseBody,
    input: &mut Vec<u8>,
    pieces: &mut impl Iterator<Item = &'a &'a [u8]>,
) -> Result<Option<usize>, Reject> {
    let mut decoder = Decoder::default();
    let mut used = 0;
    loop {
        match framing {
            ResponseBody::None => return Ok(Some(0)),
            ResponseBody::UntilClose => {
                used += input.len();
                message.body.append(input);
            }
            ResponseBody::Length(length) => {
                let missing = usize::try_from(length).unwrap_or(usize::MAX) - message.body.len();
                message.body.extend(input.drain(..missing.min(input.len())));
                if message.body.len() as u64 == length {
                    return Ok(Some(message.body.len()));
                }
            }
            ResponseBody::Chunked => {
                while !input.is_empty() && !decoder.is_done() {
                    let step = decoder.decode(input)?;
                    assert!(step.consumed > 0, "a decoder that stands still never ends");
                    message.body.extend_from_slice(&input[step.data]);
                    used += step.consumed;
                    input.drain(..step.consumed);
                }
                if decoder.is_done() {
                    message.trailers = decoder.trailers().to_vec();
                    return Ok(Some(used));
                }
            }
        }
        match pieces.next() {
            Some(piece) => input.extend_from_slice(piece),
            None => return Ok(if framing == ResponseBody::UntilClose { Some(used) } else { None }),
        }
    }
}

// --- chunked --------------------------------------------------------------------------------------

/// A chunked body decodes the same in any pieces, and what it decoded to can be encoded again.
pub(crate) fn chunked(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let whole = decode(&[data]);
    let mut dice = Dice::of(data);
    let every_byte: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(whole, decode(&every_byte), "{:?}", String::from_utf8_lossy(data));
    for _ in 0..RANDOM_CUTS {
        assert_eq!(whole, decode(&dice.cut(data)), "{:?}", String::from_utf8_lossy(data));
    }
    let Ok((body, Some((_, trailers)))) = whole else { return };
    let mut wire = Vec::new();
    for piece in dice.cut(&body).into_iter().filter(|piece| !piece.is_empty()) {
        chunked::begin_chunk(&mut wire, piece.len());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    chunked::end_body(&mut wire, &trailers);
    assert_eq!(decode(&[&wire]), Ok((body, Some((wire.len(), trailers)))), "encoded again");
}

/// The body so far, and where it ended, length on the wire and trailers.
type Decoded = Result<(Vec<u8>, Option<(usize, Vec<u8>)>), Reject>;

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::default();
    let mut body = Vec::new();
    let mut used = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.decode(rest)?;
            assert!(step.consumed > 0 && step.data.end <= step.consumed);
            body.extend_from_slice(&rest[step.data]);
            used += step.consumed;
            rest = &rest[step.consumed..];
        }
    }
    Ok((body, decoder.is_done().then(|| (used, decoder.trailers().to_vec()))))
}

// --- forward, response_forward: what is written again means what was understood -------------------

const CLIENT: &[u8] = b"192.0.2.1";
const NODE: &[u8] = b"\"[2001:db8::1]\"";
const LOOP_ID: &[u8] = b"sumun-1";
const REQUEST_ID: (&[u8], &[u8]) = (b"X-Request-Id", b"0123");

/// Names that the gateway takes off or writes itself; from nobody else do they reach a server.
const OURS: [&str; 22] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "expect",
    "via",
    "cdn-loop",
    "max-forwards",
    "proxy-authorization",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
    "x-real-ip",
    "x-forwarded-port",
    "http2-settings",
];
/// Of those, the ones that a trusted proxy may set.
const TRUSTED_ONLY: [&str; 2] = ["x-real-ip", "x-forwarded-port"];

/// A request that was understood is written so that the next server understands the same: no
/// smuggling by rewriting.
pub(crate) fn forward(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let mut head = RequestHead::default();
    let Ok(Some(length)) = head.parse(data, FIELDS_MAX) else { return };
    if head.method == Method::Connect {
        return;
    }
    let bytes = &data[..length];
    for trusted in [false, true] {
        forward_once(&head, bytes, trusted);
    }
}

fn forward_once(head: &RequestHead, bytes: &[u8], trusted: bool) {
    let shown = String::from_utf8_lossy(bytes);
    let path = target::normalize(head.path.of_bytes(bytes));
    let path: &[u8] = if head.asterisk { b"*" } else { &path };
    // A 1.0 client may name nobody; the server behind is named then.
    let host = if head.host_value(bytes).is_empty() { b"server" } else { head.host_value(bytes) };
    let framing = match head.body {
        BodyLength::None => Framing::Silent,
        BodyLength::Length(length) => Framing::Length(length),
        BodyLength::Chunked => Framing::Chunked,
    };
    let plan = RequestPlan {
        path,
        query: head.query.map(|query| query.of_bytes(bytes)),
        host,
        client_host: head.host_value(bytes),
        client: CLIENT,
        client_node: NODE,
        scheme: b"http",
        trusted,
        request_id: REQUEST_ID,
        client_subject: None,
        loop_id: LOOP_ID,
        framing,
        websocket: head.websocket,
        websocket_key: None,
        te_trailers: false,
        expect_continue: head.expect_continue,
        max_forwards: None,
        edits: &Edits::default(),
    };
    let mut wire = Vec::new();
    write_request(&mut wire, head, bytes, &plan);
    let written = String::from_utf8_lossy(&wire);

    // The gateway adds fields of its own: the next one needs room for them.
    let mut next = RequestHead::default();
    let parsed = next.parse(&wire, sumun_http::limits::FIELDS_MAX);
    assert_eq!(parsed, Ok(Some(wire.len())), "{shown:?} became {written:?}");
    assert_eq!((next.method, next.version), (head.method, Version::Http11), "{shown:?} became {written:?}");
    assert_eq!((next.body, next.websocket, next.expect_continue), (head.body, head.websocket, head.expect_continue));
    assert!(next.keep_alive && next.authority.is_none(), "{shown:?} became {written:?}");
    assert_eq!(next.host_value(&wire), host);
    assert_eq!(next.asterisk, head.asterisk);
    assert_eq!(next.query.map(|query| query.of_bytes(&wire)), plan.query);
    if !head.asterisk {
        assert_eq!(next.path.of_bytes(&wire), path);
        assert_eq!(target::normalize(path), path, "what is forwarded is normal");
    }

    let kept = |name: &[u8]| {
        let lower = name.to_ascii_lowercase();
        let hyphenated: Vec<u8> = lower.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).collect();
        let hyphenated = String::from_utf8_lossy(&hyphenated).into_owned();
        !OURS.contains(&hyphenated.as_str()) || (trusted && TRUSTED_ONLY.contains(&hyphenated.as_str()))
    };
    let nominated = |name: &[u8]| head.nominated.iter().any(|span| span.of_bytes(bytes).eq_ignore_ascii_case(name));
    let from_client: Vec<Line> =
        lines_of(&head.fields, bytes).into_iter().filter(|(name, _)| kept(name) && !nominated(name)).collect();
    let to_server: Vec<Line> = lines_of(&next.fields, &wire).into_iter().filter(|(name, _)| kept(name)).collect();
    assert_eq!(from_client, to_server, "end-to-end fields of {shown:?} in {written:?}");

    let forwarded: Vec<&[u8]> = next.values(&wire, b"x-forwarded-for").collect();
    let [forwarded] = forwarded.as_slice() else { panic!("one X-Forwarded-For in {written:?}") };
    assert!(if trusted { forwarded.ends_with(CLIENT) } else { *forwarded == CLIENT }, "{written:?}");
    assert_eq!(next.values(&wire, b"x-request-id").collect::<Vec<_>>(), [REQUEST_ID.1]);
    assert!(next.known(&wire, Known::CdnLoop).is_some_and(|value| value.ends_with(LOOP_ID)), "{written:?}");
}

/// A response that was understood is written so that the client understands the same.
pub(crate) fn response_forward(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    for method in [Method::Get, Method::Head] {
        let mut head = ResponseHead::default();
        let Ok(Some(length)) = head.parse(data, method) else { continue };
        let bytes = &data[..length];
        let framing = match head.body {
            ResponseBody::None => head.content_length.map_or(Framing::Silent, Framing::Length),
            ResponseBody::Length(length) => Framing::Length(length),
            ResponseBody::Chunked => Framing::Chunked,
            ResponseBody::UntilClose => Framing::Silent,
        };
        let connection = if head.upgraded { ConnectionLine::Websocket } else { ConnectionLine::Silent };
        let edits = Edits::default();
        let plan = ResponsePlan {
            framing,
            connection,
            date: b"Thu, 01 Jan 1970 00:00:00 GMT",
            cookie: None,
            own_fields: b"",
            hsts: None,
            edits: &edits,
        };
        let mut wire = Vec::new();
        write_response(&mut wire, &head, bytes, &plan);
        let shown = String::from_utf8_lossy(bytes);
        let written = String::from_utf8_lossy(&wire);

        // A `Date` and what the gateway says of the connection come on top; a head that was full
        // before is beyond the parser's table then, which is no matter of meaning.
        let mut next = ResponseHead::default();
        match next.parse(&wire, method) {
            Err(Reject::TooManyFields) => continue,
            parsed => assert_eq!(parsed, Ok(Some(wire.len())), "{shown:?} became {written:?}"),
        }
        assert_eq!(next.status, head.status);
        assert_eq!(next.reason.of_bytes(&wire), head.reason.of_bytes(bytes));
        assert_eq!((next.body, next.upgraded), (head.body, head.upgraded), "{shown:?} became {written:?}");
        let hop_by_hop = [
            &b"connection"[..],
            b"keep-alive",
            b"proxy-connection",
            b"te",
            b"trailer",
            b"upgrade",
            b"transfer-encoding",
            b"content-length",
        ];
        let ends_here = |name: &[u8]| hop_by_hop.iter().any(|known| name.eq_ignore_ascii_case(known));
        let nominated = |name: &[u8]| head.nominated.iter().any(|span| span.of_bytes(bytes).eq_ignore_ascii_case(name));
        let from_server =
            lines_of(&head.fields, bytes).into_iter().filter(|(name, _)| !ends_here(name) && !nominated(name));
        let mut expected: Vec<Line> = from_server.collect();
        if !head.has(Known::Date) && head.status >= 200 {
            expected.push((b"Date".to_vec(), plan.date.to_vec()));
        }
        let to_client: Vec<Line> =
            lines_of(&next.fields, &wire).into_iter().filter(|(name, _)| !ends_here(name)).collect();
        assert_eq!(expected, to_client, "{shown:?} became {written:?}");
    }
}

// --- target_normalize -------------------------------------------------------------------------------

/// Normalising is idempotent, never leaves the root, and a target that is taken for plain is.
pub(crate) fn target_normalize(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let clean = target::normalize(data);
    let shown = String::from_utf8_lossy(data);
    assert_eq!(clean.first(), Some(&b'/'), "{shown:?}");
    if escapes_are_whole(data) {
        assert_eq!(target::normalize(&clean), clean, "{shown:?} twice");
    }
    let segments: Vec<&[u8]> = clean.split(|&byte| byte == b'/').collect();
    assert!(!segments.iter().any(|segment| matches!(*segment, b"." | b"..")), "{shown:?} became {clean:?}");
    assert!(!segments[1..segments.len() - 1].contains(&&b""[..]), "{shown:?} became {clean:?}");

    let text = [b"GET ", data, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    if let Ok(Some(_)) = head.parse(&text, FIELDS_MAX) {
        let path = head.path.of_bytes(&text);
        assert!(!head.path_is_plain || target::normalize(path) == path, "{shown:?} is plain and is not normal");
        // What was understood stays understood, and normal.
        let again = [b"GET ", &*target::normalize(path), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let mut next = RequestHead::default();
        assert_eq!(next.parse(&again, FIELDS_MAX), Ok(Some(again.len())), "{shown:?}");
        assert_eq!(next.path.of_bytes(&again), &*target::normalize(path), "{shown:?}");
    }
    if target::is_host(data) {
        assert!(!data.iter().any(|byte| byte.is_ascii_whitespace() || b"/@\\,;\"".contains(byte)), "{shown:?}");
        let (name, port) = target::split_port(data);
        assert_eq!(name.len() + port.map_or(0, |port| port.len() + 1), data.len(), "{shown:?}");
    }
}

/// Behind each `%` are two hexadecimal digits; no other target gets as far as this.
fn escapes_are_whole(path: &[u8]) -> bool {
    let behind = path.split(|&byte| byte == b'%').skip(1);
    behind.into_iter().all(|part| part.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

// --- field_values -----------------------------------------------------------------------------------

/// Values of single fields: ranges, codings, dates, entity tags, media types.
pub(crate) fn field_values(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let shown = String::from_utf8_lossy(data);
    for length in [0, 1, 100, 10_000, u64::MAX] {
        let ranges = match range::select(data, length) {
            Selection::Whole | Selection::Unsatisfiable => continue,
            Selection::One(one) => vec![one],
            Selection::Many(many) => many,
        };
        assert!(!ranges.is_empty() && ranges.len() <= range::MAX_RANGES, "{shown:?}");
        assert!(
            ranges.iter().all(|one| one.first <= one.last && one.last < length),
            "{shown:?} of {length}: {ranges:?}"
        );
        let mut sorted = ranges;
        sorted.sort_by_key(|one| one.first);
        assert!(sorted.windows(2).all(|pair| pair[0].last < pair[1].first), "{shown:?} of {length}: {sorted:?}");
    }
    let codings: Vec<_> = negotiate::codings(Some(data)).iter().collect();
    for (index, coding) in codings.iter().enumerate() {
        assert!(!codings[..index].contains(coding), "{shown:?} names {coding:?} twice");
    }
    let _form = negotiate::page_form(Some(data));
    if let Some(seconds) = date::parse(data) {
        let mut text = [0; date::LENGTH];
        date::format(seconds, &mut text);
        assert_eq!(date::parse(&text), Some(seconds), "{shown:?}");
    }
    if let Some(tag) = EntityTag::parse(data) {
        assert!(tag.weak_match(tag), "{shown:?}");
    }
    if let Some(media_type) = media_type::of_name(data) {
        assert!(media_type.contains('/'), "{shown:?}");
    }
    for element in sumun_http::field::list(data) {
        assert!(!element.is_empty() && element == element.trim_ascii(), "{shown:?}");
    }
    if is_token(data) {
        let lower = data.to_ascii_lowercase();
        assert_eq!(Known::of(data), Known::of(&lower), "{shown:?}");
        let known = Known::of(data);
        assert!(known == Known::Other || known.name().as_bytes() == lower, "{shown:?} is taken for {known:?}");
    }
}
