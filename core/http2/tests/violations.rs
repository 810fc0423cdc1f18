//! What breaks a rule of framing, case by case as the conformance suites have them: which error, and
//! of the connection or of the stream alone.

mod common;

use common::*;
use sumun_http2::{Connection, ErrorCode, Fault, PREFACE, Settings};

/// What a peer is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Reset(u32, ErrorCode),
    GoAway(ErrorCode),
}

const PROTOCOL: Told = Told::GoAway(ErrorCode::PROTOCOL_ERROR);
const SIZE: Told = Told::GoAway(ErrorCode::FRAME_SIZE_ERROR);
const FLOW: Told = Told::GoAway(ErrorCode::FLOW_CONTROL_ERROR);
const CLOSED: Told = Told::GoAway(ErrorCode::STREAM_CLOSED);
const COMPRESSION: Told = Told::GoAway(ErrorCode::COMPRESSION_ERROR);
const STREAM_CLOSED: Told = Told::Reset(1, ErrorCode::STREAM_CLOSED);
const STREAM_PROTOCOL: Told = Told::Reset(1, ErrorCode::PROTOCOL_ERROR);

fn told(play: &mut Play) -> Told {
    let (resets, end) = play.codes();
    match (resets.as_slice(), end) {
        ([], None) => Told::Nothing,
        ([(stream, code)], None) => Told::Reset(*stream, *code),
        (_, Some(code)) => Told::GoAway(code),
        (resets, None) => panic!("{resets:?}"),
    }
}

/// Each case: what it is, what is sent, and what a server says to the last of it.
fn cases() -> Vec<(&'static str, Vec<Vec<u8>>, Told)> {
    let open = || headers(1, &POST, 0);
    let half_closed = || get(1);
    let reset = |stream| word(RST_STREAM, stream, 8);
    let dependency = |on: u32| [&on.to_be_bytes()[..], &[15]].concat();
    let padded = |stream, pad: u8, rest: &[u8]| frame(DATA, PADDED, stream, &[&[pad][..], rest].concat());
    let get_block = block(&GET);
    let (first, second) = get_block.split_at(9);
    vec![
        // 4.1 Frame format
        ("unknown type", vec![frame(0xfa, 0xff, 0, b"x"), frame(0xfb, 0, 5, b"")], Told::Nothing),
        ("undefined flags", vec![frame(PING, 0xfe, 0, b"12345678")], Told::Nothing),
        ("reserved bit", vec![frame(PING, 0, 0x8000_0000, b"12345678")], Told::Nothing),
        // 4.2 Frame size
        ("DATA of 2^14", vec![open(), data(1, &[0; 16_384], 0)], Told::Nothing),
        ("DATA above", vec![open(), data(1, &[0; 16_385], 0)], SIZE),
        ("HEADERS above", vec![frame(HEADERS, END_HEADERS, 1, &[0; 16_385])], SIZE),
        ("unknown above", vec![frame(0xfa, 0, 0, &[0; 16_385])], SIZE),
        // 4.3 Field section
        ("invalid block", vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40")], COMPRESSION),
        ("PRIORITY in a block", vec![frame(HEADERS, 0, 1, first), frame(PRIORITY, 0, 1, &dependency(0))], PROTOCOL),
        ("unknown in a block", vec![frame(HEADERS, 0, 1, first), frame(0xfa, 0, 1, b"")], PROTOCOL),
        ("another HEADERS in a block", vec![frame(HEADERS, 0, 1, first), get(3)], PROTOCOL),
        (
            "block in pieces",
            vec![frame(HEADERS, 1, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)],
            Told::Nothing,
        ),
        ("CONTINUATION of another", vec![frame(HEADERS, 1, 1, first), frame(CONTINUATION, 4, 3, second)], PROTOCOL),
        // 5.1 Stream states
        ("idle: DATA", vec![data(1, b"x", 0)], PROTOCOL),
        ("idle: RST_STREAM", vec![reset(1)], PROTOCOL),
        ("idle: WINDOW_UPDATE", vec![word(WINDOW_UPDATE, 1, 1)], PROTOCOL),
        ("idle: CONTINUATION", vec![frame(CONTINUATION, END_HEADERS, 1, &get_block)], PROTOCOL),
        ("idle: PRIORITY", vec![frame(PRIORITY, 0, 1, &dependency(0))], Told::Nothing),
        ("idle and even: RST_STREAM", vec![get(5), reset(2)], PROTOCOL),
        ("half-closed: DATA", vec![half_closed(), data(1, b"x", END_STREAM)], STREAM_CLOSED),
        ("half-closed: HEADERS", vec![half_closed(), get(1)], STREAM_CLOSED),
        ("half-closed: CONTINUATION", vec![half_closed(), frame(CONTINUATION, 4, 1, b"")], PROTOCOL),
        ("half-closed: WINDOW_UPDATE", vec![half_closed(), word(WINDOW_UPDATE, 1, 1)], Told::Nothing),
        ("half-closed: PRIORITY", vec![half_closed(), frame(PRIORITY, 0, 1, &dependency(0))], Told::Nothing),
        ("half-closed: RST_STREAM", vec![half_closed(), reset(1)], Told::Nothing),
        ("reset: DATA", vec![open(), reset(1), data(1, b"x", 0)], STREAM_CLOSED),
        ("reset: HEADERS", vec![open(), reset(1), get(1)], STREAM_CLOSED),
        ("reset: CONTINUATION", vec![open(), reset(1), frame(CONTINUATION, 4, 1, b"")], PROTOCOL),
        ("reset: WINDOW_UPDATE", vec![open(), reset(1), word(WINDOW_UPDATE, 1, 1)], Told::Nothing),
        ("reset: RST_STREAM", vec![open(), reset(1), reset(1)], Told::Nothing),
        // 5.1.1 Stream identifiers
        ("even stream", vec![get(2)], PROTOCOL),
        ("lower stream", vec![get(5), get(3)], PROTOCOL),
        ("DATA on a skipped stream", vec![get(5), data(3, b"x", 0)], PROTOCOL),
        // 5.3.1 Stream dependencies of RFC 7540
        (
            "HEADERS on itself",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                &[&dependency(1)[..], &get_block].concat(),
            )],
            STREAM_PROTOCOL,
        ),
        ("PRIORITY on itself", vec![open(), frame(PRIORITY, 0, 1, &dependency(1))], STREAM_PROTOCOL),
        ("idle PRIORITY on itself", vec![frame(PRIORITY, 0, 1, &dependency(1))], PROTOCOL),
        // 6.1 DATA
        ("DATA on stream 0", vec![data(0, b"x", 0)], PROTOCOL),
        ("padded DATA", vec![open(), padded(1, 3, b"xy\0\0\0")], Told::Nothing),
        ("DATA of padding", vec![open(), padded(1, 3, b"\0\0\0")], Told::Nothing),
        ("too much padding", vec![open(), padded(1, 4, b"xyz")], PROTOCOL),
        ("no pad length", vec![open(), frame(DATA, PADDED, 1, b"")], SIZE),
        // 6.2 HEADERS
        ("HEADERS on stream 0", vec![get(0)], PROTOCOL),
        (
            "HEADERS with too much padding",
            vec![frame(HEADERS, PADDED | 5, 1, &[&[200][..], &get_block].concat())],
            PROTOCOL,
        ),
        ("HEADERS without its priority", vec![frame(HEADERS, WITH_PRIORITY | 5, 1, b"\0\0\0")], SIZE),
        ("HEADERS without its pad length", vec![frame(HEADERS, PADDED | 5, 1, b"")], SIZE),
        (
            "padded HEADERS with priority",
            vec![frame(
                HEADERS,
                PADDED | WITH_PRIORITY | 5,
                1,
                &[&[2][..], &dependency(3), &get_block, &[0, 0]].concat(),
            )],
            Told::Nothing,
        ),
        // 6.3 PRIORITY
        ("PRIORITY on stream 0", vec![frame(PRIORITY, 0, 0, &dependency(1))], PROTOCOL),
        ("short PRIORITY", vec![open(), frame(PRIORITY, 0, 1, b"1234")], Told::Reset(1, ErrorCode::FRAME_SIZE_ERROR)),
        ("idle short PRIORITY", vec![frame(PRIORITY, 0, 1, b"1234")], SIZE),
        // 6.4 RST_STREAM
        ("RST_STREAM on stream 0", vec![reset(0)], PROTOCOL),
        ("short RST_STREAM", vec![open(), frame(RST_STREAM, 0, 1, b"123")], SIZE),
        // 6.5 SETTINGS
        ("SETTINGS acknowledged with something", vec![frame(SETTINGS, ACK, 0, &[0; 6])], SIZE),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], PROTOCOL),
        ("SETTINGS of an odd size", vec![frame(SETTINGS, 0, 0, &[0; 3])], SIZE),
        ("ENABLE_PUSH 2", vec![setting(2, 2)], PROTOCOL),
        ("ENABLE_PUSH 1", vec![setting(2, 1)], Told::Nothing),
        ("INITIAL_WINDOW_SIZE 2^31", vec![setting(4, 1 << 31)], FLOW),
        ("MAX_FRAME_SIZE below", vec![setting(5, 16_383)], PROTOCOL),
        ("MAX_FRAME_SIZE above", vec![setting(5, 1 << 24)], PROTOCOL),
        ("MAX_FRAME_SIZE at its most", vec![setting(5, (1 << 24) - 1)], Told::Nothing),
        ("ENABLE_CONNECT_PROTOCOL 2", vec![setting(8, 2)], PROTOCOL),
        ("ENABLE_CONNECT_PROTOCOL taken back", vec![setting(8, 1), setting(8, 0)], PROTOCOL),
        ("NO_RFC7540_PRIORITIES 2", vec![setting(9, 2)], PROTOCOL),
        ("unknown setting", vec![setting(0xff, 1)], Told::Nothing),
        // 6.6 PUSH_PROMISE
        ("PUSH_PROMISE", vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], PROTOCOL),
        // 6.7 PING
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], PROTOCOL),
        ("short PING", vec![frame(PING, 0, 0, &[0; 6])], SIZE),
        ("PING that answers nothing", vec![frame(PING, ACK, 0, &[0; 8])], Told::Nothing),
        // 6.8 GOAWAY
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL),
        ("short GOAWAY", vec![frame(GOAWAY, 0, 0, &[0; 7])], SIZE),
        ("GOAWAY, then a request", vec![go_away(0, 77), get(1)], Told::Nothing),
        // 6.9 WINDOW_UPDATE
        ("WINDOW_UPDATE by 0", vec![word(WINDOW_UPDATE, 0, 0)], PROTOCOL),
        ("stream WINDOW_UPDATE by 0", vec![open(), word(WINDOW_UPDATE, 1, 0)], STREAM_PROTOCOL),
        ("short WINDOW_UPDATE", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], SIZE),
        ("window overflow", vec![word(WINDOW_UPDATE, 0, 0x7fff_ffff)], FLOW),
        (
            "stream window overflow",
            vec![open(), word(WINDOW_UPDATE, 1, 0x7fff_ffff)],
            Told::Reset(1, ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "window overflow by SETTINGS",
            vec![open(), word(WINDOW_UPDATE, 1, 0x7fff_0000), setting(4, 0x7fff_ffff)],
            FLOW,
        ),
        // 6.10 CONTINUATION
        ("CONTINUATION on stream 0", vec![frame(HEADERS, 1, 1, first), frame(CONTINUATION, 4, 0, second)], PROTOCOL),
        ("CONTINUATION behind the end", vec![get(1), frame(CONTINUATION, 4, 1, second)], PROTOCOL),
        ("CONTINUATION behind DATA", vec![open(), data(1, b"x", 0), frame(CONTINUATION, 4, 1, second)], PROTOCOL),
        // RFC 9218 section 7.1
        ("PRIORITY_UPDATE", vec![frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x07u=0, i")], Told::Nothing),
        ("PRIORITY_UPDATE on a stream", vec![frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\x07u=0")], PROTOCOL),
        ("PRIORITY_UPDATE of nothing", vec![frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0")], PROTOCOL),
        ("short PRIORITY_UPDATE", vec![frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0")], SIZE),
        // RFC 7541
        ("index 0", vec![frame(HEADERS, 5, 1, b"\x80")], COMPRESSION),
        ("index too high", vec![frame(HEADERS, 5, 1, b"\xbe")], COMPRESSION),
        ("size update at the end", vec![frame(HEADERS, 5, 1, &[&get_block[..], &[0x20]].concat())], COMPRESSION),
        ("size update above", vec![frame(HEADERS, 5, 1, b"\x3f\xe2\x1f")], COMPRESSION),
        (
            "end of string inside",
            vec![frame(HEADERS, 5, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\x8d\x7f")],
            COMPRESSION,
        ),
    ]
}

#[test]
fn a_server_says_what_the_rules_say() {
    for (name, frames, wanted) in cases() {
        let mut play = Play::server(&Settings::default());
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            play.feed(frame);
            assert_eq!(told(&mut play), Told::Nothing, "{name}: too early");
        }
        play.feed(last);
        assert_eq!(told(&mut play), wanted, "{name}: {:?}", play.events);
        assert_eq!(play.error.is_some(), matches!(wanted, Told::GoAway(_)), "{name}");
        // An error of a stream, or none, leaves the connection as it was.
        if play.error.is_none() {
            play.feed(&get(101));
            assert_eq!(play.events.last().unwrap(), "Head { stream: 101, end: true }", "{name}");
            assert_eq!(told(&mut play), Told::Nothing, "{name}: afterwards");
        }
    }
}

#[test]
fn streams_that_ended_are_told_from_streams_that_were_reset() {
    let ended = |frame: Vec<u8>| {
        let mut play = Play::server(&Settings::default());
        play.feed(&get(1)).answer(1);
        play.sent();
        play.feed(&frame);
        told(&mut play)
    };
    assert_eq!(ended(data(1, b"x", END_STREAM)), CLOSED);
    assert_eq!(ended(get(1)), CLOSED);
    assert_eq!(ended(frame(CONTINUATION, END_HEADERS, 1, b"")), PROTOCOL);
    for harmless in [word(WINDOW_UPDATE, 1, 1), word(RST_STREAM, 1, 0), frame(PRIORITY, 0, 1, &[0; 5])] {
        assert_eq!(ended(harmless), Told::Nothing);
    }
    // What we reset may still be sent on, and the data does not count against the connection.
    let mut play = Play::server(&Settings { connection_window: 65_535, ..Settings::default() });
    for stream in (1..401).step_by(2) {
        play.feed(&post(stream));
        play.connection.reset(stream, ErrorCode::CANCEL);
        for frame in [data(stream, &[0; 10_000], END_STREAM), get(stream), word(WINDOW_UPDATE, stream, 1)] {
            play.feed(&frame);
        }
        assert_eq!((play.error, play.codes().0.len()), (None, 1), "{stream}");
    }
}

#[test]
fn tables_stay_in_step_whatever_becomes_of_a_block() {
    // A field that is added to the table, and one that means it.
    let adds = |fields: &[(&str, &str)]| [&block(fields)[..], b"\x40\x01k\x01v"].concat();
    let means = [&block(&GET)[..], b"\xbe"].concat();
    let bad = [&b"\x00\x01A\x01b"[..], &adds(&[])].concat();
    let on_itself = [&5_u32.to_be_bytes()[..], &[0], &adds(&GET)].concat();
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("refused", vec![post(1), frame(HEADERS, 5, 3, &adds(&GET))]),
        ("malformed", vec![frame(HEADERS, 5, 1, &bad)]),
        ("too many fields", vec![frame(HEADERS, 5, 1, &adds(&[("a", "b"); 101]))]),
        ("behind the end", vec![get(1), frame(HEADERS, 5, 1, &adds(&GET))]),
        ("behind a reset", vec![get(1), word(RST_STREAM, 1, 8), frame(HEADERS, 5, 1, &adds(&GET))]),
        ("trailers without an end", vec![post(1), frame(HEADERS, 4, 1, &adds(&[]))]),
        ("a dependency on itself", vec![frame(HEADERS, 5 | WITH_PRIORITY, 5, &on_itself)]),
        ("a dependency on itself, again", vec![post(5), frame(HEADERS, 5 | WITH_PRIORITY, 5, &on_itself)]),
    ];
    for (name, frames) in cases {
        let mut play = Play::server(&Settings { streams_max: 1, ..Settings::default() });
        for frame in frames {
            play.feed(&frame);
        }
        for stream in [1, 3, 5] {
            play.connection.reset(stream, ErrorCode::CANCEL);
        }
        play.feed(&frame(HEADERS, 5, 7, &means));
        assert_eq!((play.error, play.texts.last().map(String::as_str)), (None, Some("k=v")), "{name}");
    }
}

#[test]
fn the_preface_comes_first() {
    for bad in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", b"\0"] {
        let mut play = Play::of(Connection::server(&Settings::default(), 0));
        play.feed(bad);
        assert_eq!(play.error.map(|error| error.fault), Some(Fault::Preface), "{bad:?}");
    }
    for first in [frame(PING, 0, 0, &[0; 8]), get(1), frame(SETTINGS, ACK, 0, b""), frame(0xfa, 0, 0, b"")] {
        let mut play = Play::of(Connection::server(&Settings::default(), 0));
        play.feed(PREFACE).feed(&first);
        assert_eq!(play.error.map(|error| error.fault), Some(Fault::Preface));
        let mut play = Play::of(Connection::client(&Settings::default(), 0));
        play.feed(&first);
        assert_eq!(play.error.map(|error| error.fault), Some(Fault::Preface));
    }
}

#[test]
fn both_ends_greet() {
    let server = Connection::server(&Settings::default(), 0);
    let sent = frames(server.output());
    assert_eq!(sent.iter().map(|sent| sent.kind).collect::<Vec<_>>(), [SETTINGS, WINDOW_UPDATE]);
    assert_eq!(sent[1].word(0), 1024 * 1024 - 65_535);
    let client = Connection::client(&Settings { connection_window: 0, ..Settings::default() }, 0);
    let rest = client.output().strip_prefix(PREFACE).unwrap();
    assert_eq!(frames(rest).iter().map(|sent| sent.kind).collect::<Vec<_>>(), [SETTINGS]);
}

#[test]
fn a_client_says_what_the_rules_say() {
    let line =
        sumun_http2::RequestLine { method: b"GET", scheme: b"http", authority: b"a", path: b"/", protocol: None };
    for (name, frames, wanted) in [
        ("response", vec![headers(1, &OK, END_STREAM)], Told::Nothing),
        ("response to nobody", vec![headers(3, &OK, END_STREAM)], PROTOCOL),
        ("stream of a server", vec![headers(2, &OK, END_STREAM)], PROTOCOL),
        ("data before the response", vec![data(1, b"x", 0)], STREAM_PROTOCOL),
        ("data for nobody", vec![data(3, b"x", 0)], PROTOCOL),
        ("response behind its end", vec![headers(1, &OK, END_STREAM), headers(1, &OK, END_STREAM)], CLOSED),
        ("PUSH_PROMISE", vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], PROTOCOL),
        ("ENABLE_PUSH 1", vec![setting(2, 1)], PROTOCOL),
        ("ENABLE_PUSH 0", vec![setting(2, 0)], Told::Nothing),
        ("PRIORITY_UPDATE", vec![frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=0")], PROTOCOL),
        ("RST_STREAM of nobody", vec![word(RST_STREAM, 3, 0)], PROTOCOL),
    ] {
        let mut play = Play::client(&Settings::default());
        assert_eq!(play.connection.send_request(&line, true, |_| {}), Ok(1));
        play.sent();
        for frame in frames {
            play.feed(&frame);
        }
        assert_eq!(told(&mut play), wanted, "{name}: {:?}", play.events);
    }
}
