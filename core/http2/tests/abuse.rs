//! What a peer is cut off for, each with its own reason, and what honest peers may do.

mod common;

use common::*;
use sumun_http::RequestHead;
use sumun_http2::{Abuse, Connection, ErrorCode, Fault, PREFACE, RequestLine, Settings, limits};

/// Feeds what `attack` says for 0, 1, 2 ... until the connection ends; says why and how soon.
fn attack(mut play: Play, rounds: u32, mut attack: impl FnMut(&mut Play, u32) -> Vec<u8>) -> Option<(Fault, u32)> {
    for round in 0..rounds {
        let bytes = attack(&mut play, round);
        play.feed(&bytes);
        if let Some(error) = play.error {
            assert_eq!(error.code, error.fault.code());
            assert_eq!(play.codes().1, Some(error.code));
            return Some((error.fault, round));
        }
        // The attacker reads.
        play.connection.consume(usize::MAX);
    }
    None
}

fn server() -> Play {
    Play::server(&Settings::default())
}

fn is_cut_off(abuse: Abuse, within: std::ops::Range<u32>, how: impl FnMut(&mut Play, u32) -> Vec<u8>) {
    let (fault, round) = attack(server(), 100_000, how).expect("it ends");
    assert_eq!(fault, Fault::Abuse(abuse));
    assert!(within.contains(&round), "{abuse:?} after {round}");
    assert_eq!(fault.code(), ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn rapid_reset() {
    is_cut_off(Abuse::RapidReset, 200..300, |_, round| {
        [get(2 * round + 1), word(RST_STREAM, 2 * round + 1, 8)].concat()
    });
    // Who finishes as many as it leaves may leave many.
    let half = attack(server(), 2_000, |play, round| {
        if round > 0 {
            play.answer(4 * round - 3);
        }
        let stream = 4 * round + 1;
        [get(stream), get(stream + 2), word(RST_STREAM, stream + 2, 8)].concat()
    });
    assert_eq!(half, None);
    // A user who leaves a page every ten seconds.
    let leaving = attack(server(), 100, |play, round| {
        play.now_ms += 10_000;
        (0..100)
            .flat_map(|number| {
                let stream = 200 * round + 2 * number + 1;
                [get(stream), word(RST_STREAM, stream, 8)].concat()
            })
            .collect()
    });
    assert_eq!(leaving, None);
}

#[test]
fn made_you_reset() {
    // A window update by zero; a window that overflows; data behind the end; a bad request.
    let ways: [fn(u32) -> Vec<u8>; 4] = [
        |stream| [get(stream), word(WINDOW_UPDATE, stream, 0)].concat(),
        |stream| [get(stream), word(WINDOW_UPDATE, stream, 0x7fff_ffff)].concat(),
        |stream| [get(stream), data(stream, b"x", 0)].concat(),
        |stream| headers(stream, &[("A", "b")], END_STREAM),
    ];
    for way in ways {
        is_cut_off(Abuse::MadeReset, 50..100, |_, round| way(2 * round + 1));
    }
}

#[test]
fn refused_streams() {
    is_cut_off(Abuse::Refused, 600..700, |_, round| post(2 * round + 1));
    // Twice as many as allowed, before the settings are known, are refused and no more.
    let mut play = server();
    for stream in (1..513).step_by(2) {
        play.feed(&post(stream));
    }
    let (resets, end) = play.codes();
    assert_eq!((resets.len(), end), (128, None));
    assert!(resets.iter().all(|(stream, code)| *stream > 256 && *code == ErrorCode::REFUSED_STREAM));
    // The headers of those were decoded all the same: the next request is understood.
    play.connection.reset(1, ErrorCode::CANCEL);
    play.feed(&get(513));
    assert_eq!(play.events.last().unwrap(), "Head { stream: 513, end: true }");
}

#[test]
fn floods() {
    is_cut_off(Abuse::Settings, 20..50, |_, _| frame(SETTINGS, 0, 0, &[]));
    is_cut_off(Abuse::Settings, 20..50, |_, _| frame(SETTINGS, ACK, 0, &[]));
    is_cut_off(Abuse::Settings, 0..1, |_, _| frame(SETTINGS, 0, 0, &[0; 6 * 65]));
    is_cut_off(Abuse::Ping, 1_000..1_100, |_, _| frame(PING, 0, 0, &[0; 8]));
    is_cut_off(Abuse::Ping, 1_000..1_100, |_, _| frame(PING, ACK, 0, &[0; 8]));
    is_cut_off(Abuse::Priority, 1_000..1_100, |_, _| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]));
    is_cut_off(Abuse::Priority, 1_000..1_100, |_, _| frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"));
    is_cut_off(Abuse::WindowUpdate, 4_000..4_200, |_, _| word(WINDOW_UPDATE, 0, 1));
    is_cut_off(Abuse::Useless, 200..300, |_, _| frame(0xfa, 0, 0, b"x"));
    is_cut_off(Abuse::Useless, 200..300, |_, _| go_away(0, 0));
    is_cut_off(Abuse::EmptyData, 200..300, |_, round| if round == 0 { post(1) } else { data(1, b"", 0) });
    is_cut_off(
        Abuse::EmptyData,
        200..300,
        |_, round| {
            if round == 0 { post(1) } else { frame(DATA, PADDED, 1, b"\x02\0\0") }
        },
    );
    is_cut_off(Abuse::ClosedStream, 2_000..2_200, |play, round| {
        if round > 0 {
            return data(1, b"", 0);
        }
        play.feed(&post(1)).connection.reset(1, ErrorCode::CANCEL);
        Vec::new()
    });
}

#[test]
fn a_pace_that_is_kept_is_no_flood() {
    let calm = attack(server(), 3_000, |play, round| {
        play.now_ms += 250;
        let first = if round == 0 { post(1) } else { Vec::new() };
        let frames =
            [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8]), data(1, b"", 0), word(WINDOW_UPDATE, 0, 1)];
        [first, frames.concat()].concat()
    });
    assert_eq!(calm, None);
}

#[test]
fn who_takes_data_may_open_windows() {
    let mut play = server();
    play.feed(&get(1));
    play.connection.send_response(1, 200, false, |_| {}).unwrap();
    // Two updates for every four kilobytes, at one moment.
    for _ in 0..10_000 {
        let taken = play.connection.send_data(0, 1, &[0; 4_096], false).unwrap();
        assert_eq!(taken, 4_096);
        play.connection.consume(usize::MAX);
        play.feed(&word(WINDOW_UPDATE, 0, 4_096)).feed(&word(WINDOW_UPDATE, 1, 4_096));
        assert_eq!(play.error, None);
    }
}

#[test]
fn continuation_floods() {
    let begin = |rest: &[u8]| [frame(HEADERS, END_STREAM, 1, rest)].concat();
    is_cut_off(
        Abuse::Continuations,
        16..18,
        |_, round| {
            if round == 0 { begin(b"") } else { frame(CONTINUATION, 0, 1, b"") }
        },
    );
    let long = block(&[("a", &"x".repeat(16_000))]);
    is_cut_off(Abuse::HeadBlock, 6..10, |_, round| {
        if round == 0 { begin(&block(&GET)) } else { frame(CONTINUATION, 0, 1, &long) }
    });
}

#[test]
fn heads_that_are_too_large_are_told_so() {
    // Somewhat too large, in bytes and in fields: an answer, and the table stays in step.
    let mut play = server();
    let piece = "x".repeat(14_000);
    let large: Vec<(&str, &str)> = GET.into_iter().chain([("a", piece.as_str()); 5]).collect();
    let block_of_all = block(&large);
    let mut pieces = block_of_all.chunks(16_384).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        play.feed(&frame(kind, if pieces.peek().is_none() { END_HEADERS } else { 0 } | END_STREAM, 1, piece));
        kind = CONTINUATION;
    }
    let many: Vec<(&str, &str)> = GET.into_iter().chain([("a", "b"); 101]).collect();
    play.feed(&headers(3, &many, END_STREAM)).feed(&get(5));
    assert_eq!(play.texts, ["HeadTooLarge", "TooManyFields", ""]);
    assert_eq!(play.error, None);
    // As many as may be.
    let many: Vec<(&str, &str)> = GET.into_iter().chain([("a", "b"); 100]).collect();
    play.feed(&headers(7, &many, END_STREAM));
    assert_eq!(play.texts.last().unwrap().matches("a=b").count(), 100);
}

#[test]
fn decompression_bombs() {
    // An entry of four kilobytes, then one byte for each time it is meant.
    let bomb = |times: usize| {
        let value = "x".repeat(4_000);
        let mut payload = block(&GET);
        payload.extend_from_slice(b"\x40\x01a\x7f");
        payload.extend_from_slice(&[(value.len() - 127) as u8 | 0x80, ((value.len() - 127) >> 7) as u8]);
        payload.extend_from_slice(value.as_bytes());
        payload.extend(std::iter::repeat_n(0xbe, times));
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &payload)
    };
    is_cut_off(Abuse::HeadBomb, 0..1, |_, _| bomb(12_000));
    // A small one is a head that is too large, and is never written out.
    let mut play = server();
    play.feed(&bomb(50));
    assert_eq!(play.texts, ["HeadTooLarge"]);
    let (mut head, mut bytes) = (RequestHead::default(), Vec::new());
    let mut play = server();
    let step = play.connection.receive(0, &bomb(50)).unwrap().consumed;
    assert!(step > 0 && play.connection.take_request(&mut head, &mut bytes).is_err());
    assert!(bytes.capacity() < 3 * 64 * 1024, "{}", bytes.capacity());
}

#[test]
fn slow_heads() {
    let settings = Settings { head_ms: 1_000, ..Settings::default() };
    for begin in [&frame(HEADERS, END_STREAM, 1, b"")[..], &get(1)[..12]] {
        let mut play = Play::server(&settings);
        play.now_ms = 5_000;
        assert_eq!(play.connection.deadline(), None);
        play.feed(begin);
        assert_eq!(play.connection.deadline(), Some(6_000));
        assert_eq!(play.connection.expire(5_999), Ok(None));
        assert_eq!(play.connection.expire(6_000).unwrap_err().fault, Fault::Abuse(Abuse::SlowHead));
        assert_eq!(play.connection.deadline(), None);
    }
}

#[test]
fn unacknowledged_settings() {
    let mut connection = Connection::server(&Settings { settings_ack_ms: 700, ..Settings::default() }, 300);
    assert_eq!(connection.deadline(), Some(1_000));
    assert_eq!(connection.expire(999), Ok(None));
    let error = connection.expire(1_000).unwrap_err();
    assert_eq!((error.code, error.fault), (ErrorCode::SETTINGS_TIMEOUT, Fault::SettingsTimeout));
    let mut play = Play::of(Connection::server(&Settings::default(), 0));
    play.feed(PREFACE).feed(&frame(SETTINGS, 0, 0, &[]));
    assert!(play.connection.deadline().is_some());
    play.feed(&frame(SETTINGS, ACK, 0, &[]));
    assert_eq!(play.connection.deadline(), None);
}

#[test]
fn answers_that_nobody_reads() {
    let mut play = server();
    for round in 0..100_000_u64 {
        play.now_ms = round * 4;
        play.feed(&frame(PING, 0, 0, &[0; 8]));
        if let Some(error) = play.error {
            assert_eq!(error.fault, Fault::Abuse(Abuse::Unread));
            assert!(play.connection.output().len() <= limits::OUTPUT_BYTES_MAX + 1_000);
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn streams_that_open_no_window() {
    let settings = Settings { stall_ms: 1_000, ..Settings::default() };
    let begin = |window: u32| {
        let mut play = Play::server(&settings);
        play.feed(&setting(4, window)).feed(&get(1)).feed(&get(3));
        play.sent();
        for stream in [1, 3] {
            play.connection.send_response(stream, 200, false, |_| {}).unwrap();
        }
        play
    };
    // One never; the other by single bytes, which does not help.
    let mut play = begin(0);
    assert_eq!(play.connection.send_data(5_000, 1, b"data", true), Ok(0));
    assert_eq!(play.connection.send_data(5_100, 3, &[0; 900], true), Ok(0));
    assert_eq!(play.connection.deadline(), Some(6_000));
    for now_ms in (5_200..6_000).step_by(10) {
        play.now_ms = now_ms;
        play.feed(&word(WINDOW_UPDATE, 3, 1));
        assert_eq!(play.connection.next_writable(), Some(3));
        assert_eq!(play.connection.send_data(now_ms, 3, &[0; 900], true), Ok(1));
    }
    play.sent();
    let event = play.connection.expire(6_000).unwrap().unwrap();
    assert_eq!(format!("{event:?}"), "Reset { stream: 1, code: CANCEL(0x8), cause: Stalled }");
    assert_eq!(play.connection.deadline(), Some(6_100));
    assert_eq!(play.connection.expire(6_000), Ok(None));
    assert!(play.connection.expire(6_100).unwrap().is_some());
    assert_eq!((play.connection.streams(), play.connection.deadline()), (0, None));
    assert_eq!(play.codes().0, [(1, ErrorCode::CANCEL), (3, ErrorCode::CANCEL)]);

    // The connection's window: all of it ends.
    let mut play = begin(1_000_000);
    for _ in 0..4 {
        play.connection.send_data(5_000, 1, &[0; 16_384], false).unwrap();
        play.connection.consume(usize::MAX);
    }
    assert_eq!(play.connection.send_data(5_000, 1, &[0; 16_384], false), Ok(0));
    assert_eq!(play.connection.expire(5_999), Ok(None));
    let error = play.connection.expire(6_000).unwrap_err();
    assert_eq!((error.fault, error.code), (Fault::Abuse(Abuse::Stalled), ErrorCode::ENHANCE_YOUR_CALM));

    // No patience at all is one millisecond.
    let mut play = Play::server(&Settings { stall_ms: 0, ..settings });
    play.feed(&setting(4, 0)).feed(&get(1)).connection.send_response(1, 200, false, |_| {}).unwrap();
    assert_eq!(play.connection.send_data(5_000, 1, b"x", true), Ok(0));
    assert_eq!(play.connection.expire(5_000), Ok(None));
    assert!(play.connection.expire(5_001).unwrap().is_some());

    // Many streams that share a slow connection wait longer than that, and it goes on.
    let mut play = begin(1_000_000);
    while play.connection.send_data(5_000, 1, &[0; 16_384], false).unwrap() == 16_384 {
        play.connection.consume(usize::MAX);
    }
    assert_eq!(play.connection.send_data(5_000, 3, &[0; 16_384], false), Ok(0));
    for now_ms in (5_500..20_000).step_by(500) {
        play.now_ms = now_ms;
        play.feed(&word(WINDOW_UPDATE, 0, 5_000));
        assert_eq!(play.connection.send_data(now_ms, 1, &[0; 16_384], false), Ok(5_000));
        play.connection.consume(usize::MAX);
        assert_eq!(play.connection.expire(now_ms), Ok(None));
    }
}

#[test]
fn a_server_behind_may_reset_as_it_likes() {
    let mut play = Play::client(&Settings::default());
    let line = RequestLine { method: b"GET", scheme: b"http", authority: b"a", path: b"/", protocol: None };
    for _ in 0..2_000 {
        let stream = play.connection.send_request(&line, true, |_| {}).unwrap();
        play.feed(&word(RST_STREAM, stream, 2));
        assert_eq!(play.error, None);
        play.connection.consume(usize::MAX);
    }
}
