//! What must hold for `core/http2` whatever is thrown at it. A broken rule is a panic; so is a broken
//! invariant, which the machine checks itself in debug builds.
//!
//! Included by each fuzz target and by the plain test that plays the kept corpus. Inputs are raw
//! wire bytes, so that a file of the corpus can be read; the places where they are cut come from a
//! hash of them.

// Each of those that include this file uses a part of it.
#![allow(dead_code)]

mod dice;

use dice::Dice;
use sumun_http::{RequestHead, ResponseHead};
use sumun_http2::hpack::{Decoder, Encoder};
use sumun_http2::{Connection, Event, PREFACE, RequestLine, Settings};

/// Longer inputs teach nothing and cost time, bytes.
pub(crate) const INPUT_MAX: usize = 8 * 1024;
const RANDOM_CUTS: usize = 3;
/// Requests of a client before it hears anything.
const REQUESTS: usize = 4;

/// An empty SETTINGS frame and the acknowledgement of ours: most inputs begin behind them.
const SETTINGS: [u8; 18] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];

/// Bounds small enough for short inputs to reach them.
fn settings() -> Settings {
    Settings { streams_max: 4, head_bytes: 400, fields_max: 12, ..Settings::default() }
}

// --- http2_receive: cut anywhere, the input means the same, and the output is well formed -----------

/// The same bytes at a server and at a client with requests under way, whole and in pieces.
pub(crate) fn http2_receive(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    for is_server in [true, false] {
        let whole = listen(is_server, &[data]);
        let every_byte: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(whole, listen(is_server, &every_byte), "byte by byte");
        let mut dice = Dice::of(data);
        for _ in 0..RANDOM_CUTS {
            assert_eq!(whole, listen(is_server, &dice.cut(data)), "in pieces");
        }
    }
}

/// What came out of a connection: events as text, with data in one piece, and bytes.
#[derive(Debug, PartialEq, Eq, Default)]
struct Heard {
    events: Vec<String>,
    output: Vec<u8>,
    error: Option<String>,
}

fn listen(is_server: bool, pieces: &[&[u8]]) -> Heard {
    let mut connection =
        if is_server { Connection::server(&settings(), 0) } else { Connection::client(&settings(), 0) };
    let mut heard = Heard::default();
    let skips_start = pieces.concat().starts_with(PREFACE);
    if is_server && !skips_start {
        hear(&mut connection, PREFACE, &mut heard);
    }
    if !is_server {
        let methods: [&[u8]; REQUESTS] = [b"GET", b"HEAD", b"CONNECT", b"POST"];
        for method in methods {
            let line = RequestLine { method, scheme: b"https", authority: b"a.test", path: b"/", protocol: None };
            connection.send_request(&line, method == b"GET", |fields| fields.add(b"a", b"b")).expect("room for few");
        }
    }
    if !skips_start {
        hear(&mut connection, &SETTINGS, &mut heard);
    }
    for piece in pieces {
        hear(&mut connection, piece, &mut heard);
    }
    // Whatever it was, it ends in time, and says so in whole frames.
    let rest = heard.output.strip_prefix(PREFACE).unwrap_or(&heard.output);
    let mut rest = rest;
    while let [l0, l1, l2, _, _, _, _, _, _, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        rest = after.get(length..).expect("a whole frame");
    }
    assert!(rest.is_empty(), "a whole frame header");
    connection.expire(1 << 40).ok();
    heard
}

/// Feeds bytes, and answers as a gateway would.
fn hear(connection: &mut Connection, input: &[u8], heard: &mut Heard) {
    let mut rest = input;
    loop {
        let step = match connection.receive(0, rest) {
            Ok(step) => step,
            Err(error) => {
                heard.error = Some(format!("{error:?}"));
                break;
            }
        };
        rest = &rest[step.consumed..];
        let Some(event) = step.event else {
            assert!(rest.is_empty(), "without an event all is consumed");
            break;
        };
        note(connection, event, heard);
    }
    while connection.next_writable().is_some() {}
    heard.output.extend_from_slice(connection.output());
    connection.consume(usize::MAX);
}

fn note(connection: &mut Connection, event: Event<'_>, heard: &mut Heard) {
    let mut text = match event {
        Event::Data { stream, .. } => format!("data of {stream}:"),
        _ => format!("{event:?}"),
    };
    match event {
        Event::Head { stream, .. } => {
            let mut bytes = Vec::new();
            let (mut request, mut response) = (RequestHead::default(), ResponseHead::default());
            if heard.events.len().is_multiple_of(2) {
                text += &format!("{:?} {request:?}", connection.take_request(&mut request, &mut bytes).err());
            } else {
                text += &format!("{:?} {response:?}", connection.take_response(&mut response, &mut bytes).err());
            }
            assert!(bytes.len() <= 2 * settings().head_bytes, "a bound on heads");
            text += &String::from_utf8_lossy(&bytes);
            let sent = connection.send_response(stream, 200, false, |fields| fields.add(b"server", b"s"));
            if sent.is_ok() {
                connection.send_data(0, stream, &[b'x'; 100], stream % 3 == 0).ok();
            }
        }
        Event::Data { stream, bytes, end } => {
            connection.release(stream, bytes.len());
            let begins_anew =
                !heard.events.last().is_some_and(|last| last.starts_with(&text) && !last.ends_with("end"));
            if begins_anew {
                heard.events.push(text);
            }
            let last = heard.events.last_mut().expect("just pushed");
            for byte in bytes {
                *last += &format!(" {byte:02x}");
            }
            if end {
                *last += " end";
            }
            return;
        }
        Event::Trailers { .. } => {
            let mut lines = Vec::new();
            connection.take_trailers(&mut lines);
            assert!(lines.is_empty() || lines.ends_with(b"\r\n"), "whole lines");
            text += &String::from_utf8_lossy(&lines);
        }
        _ => {}
    }
    heard.events.push(text);
}

// --- hpack_decode: blocks decode to lines, and lines encode to blocks that mean the same -----------

/// The input as header blocks of one connection, each behind a byte that says how long it is.
pub(crate) fn hpack_decode(data: &[u8]) {
    let mut rest = data.get(..INPUT_MAX).unwrap_or(data);
    let (mut reading, mut skipping) = (Decoder::default(), Decoder::default());
    let (mut encoder, mut again) = (Encoder::default(), Decoder::default());
    while let [length, after @ ..] = rest {
        let (block, next) = after.split_at(after.len().min(usize::from(*length)));
        rest = next;
        let (mut text, mut scratch) = (Vec::new(), b"kept".to_vec());
        let mut lines = Vec::new();
        let mut reader = reading.read(block);
        let verdict = loop {
            match reader.next(&mut text) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break Ok(text.len()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(skipping.read(block).skip(&mut scratch), verdict, "skipping is reading");
        if verdict.is_err() {
            return;
        }
        assert_eq!(scratch, b"kept", "and leaves nothing");
        let (mut coded, mut wanted) = (Vec::new(), Vec::new());
        encoder.begin(&mut coded);
        for line in &lines {
            let (name, value) = (line.name_span().of_bytes(&text), line.value_span().of_bytes(&text));
            assert_eq!(text[line.start..].get(name.len()..name.len() + 2), Some(&b": "[..]), "lines of text");
            if line.flaw.is_some() {
                continue;
            }
            if line.never_indexed {
                encoder.never_indexed(&mut coded, name, value);
            } else {
                encoder.field(&mut coded, name, value);
            }
            wanted.extend_from_slice(&[&name.to_ascii_lowercase()[..], b": ", value, b"\r\n"].concat());
        }
        let mut text = Vec::new();
        let mut reader = again.read(&coded);
        while let Some(line) = reader.next(&mut text).expect("our own code") {
            assert_eq!(line.flaw, None, "what was sound stays sound");
        }
        assert_eq!(text, wanted, "there and back");
    }
}
