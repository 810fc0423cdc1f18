//! What our side says: windows, turns, bounds of the output, and how connections end.

mod common;

use common::*;
use sumun_http::Known;
use sumun_http2::hpack::Decoder;
use sumun_http2::{Connection, ErrorCode, Event, RequestLine, SendError, Settings, limits};

const LINE: RequestLine<'_> =
    RequestLine { method: b"GET", scheme: b"https", authority: b"a.test", path: b"/x?y", protocol: None };

fn server() -> Play {
    Play::server(&Settings::default())
}

fn client() -> Play {
    Play::client(&Settings::default())
}

/// A stream whose response has begun.
fn responding(play: &mut Play, stream: u32) {
    play.feed(&get(stream));
    play.connection.send_response(stream, 200, false, |_| {}).unwrap();
    play.sent();
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> String {
    let mut text = Vec::new();
    let mut reader = decoder.read(block);
    while reader.next(&mut text).unwrap().is_some() {}
    String::from_utf8(text).unwrap()
}

#[test]
fn a_response() {
    let mut play = server();
    play.feed(&get(1));
    play.connection.send_response(1, 103, true, |fields| fields.add(b"Link", b"</a>")).unwrap();
    play.connection
        .send_response(1, 404, false, |fields| {
            fields.add(b"Content-Type", b"text/plain");
            for dropped in ["Connection", "keep-alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "TE"] {
                fields.add(dropped.as_bytes(), b"x");
                fields.add_never_indexed(dropped.as_bytes(), b"x");
            }
            fields.add(b"te", b"trailers");
            fields.add_known(Known::Server, b"s");
            fields.add_known(Known::Connection, b"x");
            fields.add_lines(b"A: 1\r\nB:2\r\nbroken\r\n: x\r\n");
        })
        .unwrap();
    assert_eq!(play.connection.send_response(1, 200, false, |_| {}), Err(SendError::Gone));
    assert_eq!(play.connection.send_data(0, 1, b"data", false), Ok(4));
    play.connection.send_trailers(1, |fields| fields.add(b"X-Sum", b"7")).unwrap();
    assert_eq!(play.connection.send_data(0, 1, b"data", false), Err(SendError::Gone));
    assert_eq!(play.connection.streams(), 0);

    let sent = play.sent();
    let mut decoder = Decoder::default();
    let texts: Vec<_> =
        sent.iter().filter(|sent| sent.kind == HEADERS).map(|sent| decoded(&mut decoder, &sent.payload)).collect();
    assert_eq!(
        texts,
        [
            ":status: 103\r\nlink: </a>\r\n",
            ":status: 404\r\ncontent-type: text/plain\r\nte: trailers\r\nserver: s\r\na: 1\r\nb: 2\r\n",
            "x-sum: 7\r\n"
        ]
    );
    let flags: Vec<_> = sent.iter().map(|sent| (sent.kind, sent.flags)).collect();
    assert_eq!(flags, [(HEADERS, 4), (HEADERS, 4), (DATA, 0), (HEADERS, 5)]);
}

#[test]
fn a_request() {
    let mut play = client();
    let stream = play.connection.send_request(&LINE, true, |fields| fields.add(b"A", b"1"));
    assert_eq!(stream, Ok(1));
    let connect = RequestLine { method: b"CONNECT", ..LINE };
    assert_eq!(play.connection.send_request(&connect, false, |_| {}), Ok(3));
    let websocket = RequestLine { protocol: Some(b"websocket"), ..connect };
    assert_eq!(play.connection.send_request(&websocket, false, |_| {}), Ok(5));
    let sent = play.sent();
    let mut decoder = Decoder::default();
    let texts: Vec<_> = sent.iter().map(|sent| decoded(&mut decoder, &sent.payload)).collect();
    assert_eq!(
        texts,
        [
            ":method: GET\r\n:scheme: https\r\n:path: /x?y\r\n:authority: a.test\r\na: 1\r\n",
            ":method: CONNECT\r\n:authority: a.test\r\n",
            ":method: CONNECT\r\n:scheme: https\r\n:path: /x?y\r\n:protocol: websocket\r\n:authority: a.test\r\n",
        ]
    );
    assert_eq!(sent.iter().map(|sent| sent.flags).collect::<Vec<_>>(), [5, 4, 4]);
    assert_eq!(play.connection.send_data(0, 3, b"SSH", false), Ok(3));
    // A server cannot ask, a client cannot answer.
    assert_eq!(server().connection.send_request(&LINE, true, |_| {}), Err(SendError::Gone));
    assert_eq!(play.connection.send_response(3, 200, true, |_| {}), Err(SendError::Gone));
}

#[test]
fn secrets_stay_out_of_tables() {
    let mut play = client();
    for stream in [1, 3, 5] {
        let sent = play.connection.send_request(&LINE, true, |fields| {
            for name in ["Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"] {
                fields.add(name.as_bytes(), b"secret");
            }
            fields.add_never_indexed(b"X-Key", b"secret");
            fields.add_known(Known::Authorization, b"secret");
        });
        assert_eq!(sent, Ok(stream));
        let payload = play.sent().remove(0).payload;
        let mut text = Vec::new();
        let mut decoder = Decoder::default();
        let mut reader = decoder.read(&payload);
        let mut never = 0;
        // The third time, the path and the authority lie in a table that this decoder has not.
        while let Ok(Some(line)) = reader.next(&mut text) {
            never += usize::from(line.never_indexed);
        }
        assert!(never == 6 || stream == 5, "{stream}");
    }
}

#[test]
fn long_sections_go_on_in_continuations() {
    let mut play = server();
    play.feed(&get(1));
    let long = "abc~{}|".repeat(4_000);
    play.connection
        .send_response(1, 200, true, |fields| {
            fields.add(b"a", long.as_bytes());
            fields.add(b"b", long.as_bytes());
        })
        .unwrap();
    let sent = play.sent();
    let kinds: Vec<_> = sent.iter().map(|sent| (sent.kind, sent.flags, sent.payload.len())).collect();
    assert_eq!(kinds[0], (HEADERS, END_STREAM, 16_384));
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == (CONTINUATION, 0, 16_384)), "{kinds:?}");
    assert!(kinds.len() > 3 && kinds[kinds.len() - 1].1 == END_HEADERS);
    let block: Vec<u8> = sent.iter().flat_map(|sent| sent.payload.clone()).collect();
    let text = decoded(&mut Decoder::default(), &block);
    assert_eq!(text, format!(":status: 200\r\na: {long}\r\nb: {long}\r\n"));
}

#[test]
fn windows_of_the_peer_are_kept() {
    let mut play = server();
    play.feed(&setting(4, 10));
    responding(&mut play, 1);
    assert_eq!(play.connection.send_data(0, 1, &[0; 25], true), Ok(10));
    assert_eq!(play.connection.send_data(0, 1, &[0; 15], true), Ok(0));
    assert_eq!(play.connection.next_writable(), None);
    // A larger setting opens it (RFC 9113 section 6.9.2), a smaller one takes it below zero.
    play.feed(&setting(4, 13));
    assert_eq!(play.connection.next_writable(), Some(1));
    assert_eq!(play.connection.next_writable(), None);
    assert_eq!(play.connection.send_data(0, 1, &[0; 15], true), Ok(3));
    play.feed(&setting(4, 3)).feed(&word(WINDOW_UPDATE, 1, 10));
    assert_eq!(play.connection.next_writable(), None);
    play.feed(&word(WINDOW_UPDATE, 1, 1));
    assert_eq!(play.connection.next_writable(), Some(1));
    assert_eq!(play.connection.send_data(0, 1, &[0; 12], true), Ok(1));
    play.feed(&word(WINDOW_UPDATE, 1, 100));
    assert_eq!(play.connection.send_data(0, 1, &[0; 11], true), Ok(11));
    let data: Vec<_> = play.sent().into_iter().filter(|sent| sent.kind == DATA).collect();
    assert_eq!(
        data.iter().map(|sent| (sent.payload.len(), sent.flags)).collect::<Vec<_>>(),
        [(10, 0), (3, 0), (1, 0), (11, 1)]
    );
}

#[test]
fn an_end_needs_no_window() {
    let mut play = server();
    play.feed(&setting(4, 0));
    responding(&mut play, 1);
    assert_eq!(play.connection.send_data(0, 1, b"", true), Ok(0));
    assert_eq!(play.sent(), [Sent { kind: DATA, flags: END_STREAM, stream: 1, payload: Vec::new() }]);
    assert_eq!(play.connection.streams(), 0);
    // And nothing makes no frame.
    responding(&mut play, 3);
    assert_eq!(play.connection.send_data(0, 3, b"", false), Ok(0));
    assert_eq!(play.sent(), []);
}

#[test]
fn streams_take_turns_at_the_connections_window() {
    let mut play = server();
    for stream in [1, 3, 5] {
        responding(&mut play, stream);
    }
    play.feed(&word(WINDOW_UPDATE, 1, 1_000));
    // 65,535 bytes, of which the first takes all but one.
    for bytes in [16_384, 16_384, 16_384, 16_382] {
        assert_eq!(play.connection.send_data(0, 1, &vec![0; bytes], false), Ok(bytes));
        play.connection.consume(usize::MAX);
    }
    assert_eq!(play.connection.send_data(0, 1, &[0; 100], false), Ok(1));
    for stream in [3, 5] {
        assert_eq!(play.connection.send_data(0, stream, &[0; 100], false), Ok(0));
    }
    assert_eq!(play.connection.next_writable(), None);
    // A head needs no window.
    play.feed(&get(7));
    play.connection.send_response(7, 204, true, |_| {}).unwrap();
    play.feed(&word(WINDOW_UPDATE, 0, 150));
    assert_eq!(play.connection.next_writable(), Some(1));
    assert_eq!(play.connection.send_data(0, 1, &[0; 100], false), Ok(100));
    assert_eq!(play.connection.send_data(0, 1, &[0; 100], false), Ok(50));
    assert_eq!(play.connection.next_writable(), None);
    // A stream that goes takes its turn with it.
    play.feed(&word(RST_STREAM, 3, 8)).feed(&word(WINDOW_UPDATE, 0, 1_000));
    let turns: Vec<_> = std::iter::from_fn(|| play.connection.next_writable()).collect();
    assert_eq!(turns, [5, 1]);
}

#[test]
fn a_full_output_takes_no_more() {
    let mut play = server();
    play.feed(&setting(4, 10_000_000)).feed(&word(WINDOW_UPDATE, 0, 10_000_000));
    responding(&mut play, 1);
    play.feed(&get(3)).feed(&get(5));
    let taken = play.connection.send_data(0, 1, &[7; 1_000_000], true).unwrap();
    assert!(taken <= limits::OUTPUT_DATA_BYTES && taken > limits::OUTPUT_DATA_BYTES - 100);
    assert_eq!(play.connection.send_data(0, 1, &[7; 1_000_000], true), Ok(0));
    assert_eq!(play.connection.send_response(3, 200, false, |_| {}), Err(SendError::Busy));
    assert_eq!(play.connection.next_writable(), None);
    // No window is missing, so nobody is stalled.
    assert_eq!(play.connection.deadline(), None);
    let half = play.connection.output().len() / 2;
    play.connection.consume(half);
    let turns: Vec<_> = std::iter::from_fn(|| play.connection.next_writable()).collect();
    assert_eq!(turns, [1, 3]);
    play.connection.send_response(3, 200, true, |_| {}).unwrap();
    let taken = play.connection.send_data(0, 1, &[7; 20_000], true).unwrap();
    assert_eq!(taken, 20_000);
    let mut client = client();
    while client.connection.send_request(&LINE, false, |fields| fields.add(b"a", &[b'~'; 3_000])).is_ok() {}
    assert_eq!(client.connection.send_request(&LINE, true, |_| {}), Err(SendError::Busy));
    assert!(client.connection.capacity() > 0);
}

#[test]
fn windows_are_given_back_by_halves() {
    let mut play = Play::server(&Settings { stream_window: 65_535, connection_window: 100_000, ..Settings::default() });
    play.feed(&post(1)).feed(&post(3));
    for stream in [1, 1, 1, 3] {
        play.feed(&data(stream, &[0; 16_000], 0));
    }
    assert_eq!(play.connection.release(1, 16_000), ());
    assert_eq!(play.sent(), []);
    play.connection.release(1, 16_767);
    assert_eq!(
        play.sent(),
        [Sent { kind: WINDOW_UPDATE, flags: 0, stream: 1, payload: 32_767_u32.to_be_bytes().into() }]
    );
    // More than came cannot be released, and a stream that ends releases all.
    play.connection.release(1, 1_000_000);
    play.connection.release(77, 1_000_000);
    play.feed(&word(RST_STREAM, 3, 8));
    let updates: Vec<_> = play.sent().iter().map(|sent| (sent.stream, sent.word(0))).collect();
    assert_eq!(updates, [(0, 64_000)]);
    // Padding comes back by itself.
    let padded = frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat());
    for _ in 0..200 {
        play.feed(&padded);
    }
    let updates: Vec<_> = play.sent().iter().map(|sent| sent.stream).collect();
    assert_eq!(updates, [1, 0, 1]);
    // What is not released is at last too much, for the stream or for all.
    for (stream, frames, by_stream) in [(1, 5, true), (1, 4, false)] {
        let mut play = Play::server(&Settings {
            stream_window: if by_stream { 65_535 } else { 1_000_000 },
            connection_window: if by_stream { 1_000_000 } else { 65_535 },
            ..Settings::default()
        });
        play.feed(&post(stream));
        for _ in 0..frames {
            play.feed(&data(stream, &[0; 16_384], 0));
        }
        let flow = ErrorCode::FLOW_CONTROL_ERROR;
        let wanted = if by_stream { (vec![(1, flow)], None) } else { (vec![], Some(flow)) };
        let (mut resets, end) = play.codes();
        resets.truncate(1);
        assert_eq!((resets, end), wanted);
    }
}

#[test]
fn a_reset_in_the_middle_of_a_frame() {
    let mut play = server();
    play.feed(&post(1));
    let input = data(1, b"0123456789", END_STREAM);
    let step = play.connection.receive(0, &input[..12]).unwrap();
    assert_eq!(step.event, Some(Event::Data { stream: 1, bytes: b"012", end: false }));
    play.connection.reset(1, ErrorCode::CANCEL);
    play.feed(&input[12..]).feed(&get(3));
    assert_eq!(play.events, ["Head { stream: 1, end: false }", "Head { stream: 3, end: true }"]);
}

#[test]
fn a_server_drains() {
    let mut play = server();
    play.feed(&get(1));
    play.now_ms = 500;
    play.connection.shutdown(500);
    play.connection.shutdown(500);
    let sent = play.sent();
    assert_eq!((sent[0].kind, sent[0].word(0), sent[0].word(4)), (GOAWAY, 0x7fff_ffff, 0));
    assert_eq!((sent[1].kind, sent.len()), (PING, 2));
    // What was under way is served.
    play.feed(&get(3)).feed(&frame(PING, ACK, 0, &sent[1].payload));
    assert_eq!(play.events, ["Head { stream: 1, end: true }", "Head { stream: 3, end: true }"]);
    let last = play.sent();
    assert_eq!((last[0].kind, last[0].word(0), last.len()), (GOAWAY, 3, 1));
    // What comes after that is not looked at, but for the tables.
    play.feed(&post(5))
        .feed(&data(5, b"x", 0))
        .feed(&word(WINDOW_UPDATE, 5, 1))
        .feed(&word(RST_STREAM, 5, 8))
        .feed(&get(7));
    assert_eq!((play.events.len(), play.sent()), (2, vec![]));
    assert!(!play.connection.is_drained());
    play.answer(1);
    play.answer(3);
    assert!(play.connection.is_drained() && !play.connection.is_over());

    // A client that does not answer the PING.
    let mut play = server();
    play.connection.shutdown(0);
    assert_eq!(play.connection.deadline(), Some(limits::DRAIN_PING_MS));
    assert_eq!(play.connection.expire(limits::DRAIN_PING_MS), Ok(None));
    assert!(play.connection.is_drained() && play.connection.deadline().is_none());
}

#[test]
fn a_client_is_told_to_go() {
    let mut play = client();
    for _ in 0..3 {
        play.connection.send_request(&LINE, false, |_| {}).unwrap();
    }
    play.feed(&go_away(0x7fff_ffff, 0)).feed(&go_away(1, 0));
    assert_eq!(
        play.events,
        [
            "GoAway { last_stream: 2147483647, code: NO_ERROR(0x0) }",
            "GoAway { last_stream: 1, code: NO_ERROR(0x0) }",
            "Reset { stream: 3, code: REFUSED_STREAM(0x7), cause: GoAway }",
            "Reset { stream: 5, code: REFUSED_STREAM(0x7), cause: GoAway }",
        ]
    );
    assert_eq!(play.connection.send_request(&LINE, true, |_| {}), Err(SendError::NoStream));
    assert!(!play.connection.is_drained());
    assert_eq!(play.connection.send_data(0, 1, b"x", true), Ok(1));
    play.feed(&headers(1, &OK, END_STREAM));
    assert!(play.connection.is_drained());
}

#[test]
fn a_client_asks_no_more_than_it_may() {
    assert_eq!(Connection::client(&Settings::default(), 0).capacity(), limits::STREAMS_AT_FIRST as usize);
    let mut play = client();
    assert_eq!(play.connection.capacity(), 128);
    play.feed(&setting(3, 2));
    assert_eq!(play.events, ["Settings"]);
    for stream in [1, 3] {
        assert_eq!(play.connection.send_request(&LINE, true, |_| {}), Ok(stream));
    }
    assert_eq!(
        (play.connection.capacity(), play.connection.send_request(&LINE, true, |_| {})),
        (0, Err(SendError::NoStream))
    );
    play.feed(&headers(1, &OK, END_STREAM));
    assert_eq!(play.connection.send_request(&LINE, true, |_| {}), Ok(5));
    assert!(!play.connection.allows_extended_connect());
    play.feed(&setting(8, 1));
    assert!(play.connection.allows_extended_connect());
    play.connection.shutdown(0);
    assert_eq!(play.connection.capacity(), 0);
}

#[test]
fn an_early_answer_stops_the_request() {
    let mut play = server();
    play.feed(&post(1));
    play.answer(1);
    assert_eq!(play.connection.streams(), 1);
    play.connection.reset(1, ErrorCode::NO_ERROR);
    assert_eq!(play.connection.streams(), 0);
    play.feed(&data(1, b"still under way", END_STREAM));
    assert_eq!((play.codes().0, play.error), (vec![(1, ErrorCode::NO_ERROR)], None));
}

#[test]
fn pings() {
    let mut play = server();
    play.feed(&frame(PING, 0, 0, b"12345678"));
    play.connection.ping(*b"abcdefgh");
    let pings: Vec<_> = play.sent().into_iter().map(|sent| (sent.flags, sent.payload)).collect();
    assert_eq!(pings, [(ACK, b"12345678".to_vec()), (0, b"abcdefgh".to_vec())]);
    play.feed(&frame(PING, ACK, 0, b"abcdefgh"));
    assert_eq!(play.events, [format!("{:?}", Event::Pong { opaque: *b"abcdefgh" })]);
}

#[test]
fn the_peers_table_is_respected() {
    let mut play = server();
    play.feed(&setting(1, 0));
    for stream in [1, 3, 5, 7] {
        play.feed(&get(stream));
        play.connection.send_response(stream, 200, true, |fields| fields.add(b"server", b"s")).unwrap();
    }
    let blocks: Vec<_> = play.sent().into_iter().filter(|sent| sent.kind == HEADERS).map(|sent| sent.payload).collect();
    assert_eq!(blocks[0][0], 0x20);
    assert!(blocks[1..].iter().all(|block| *block == blocks[0][1..]), "{blocks:?}");
}

#[test]
fn an_end_is_an_end() {
    let mut play = server();
    play.feed(&get(1));
    play.connection.close(ErrorCode::INTERNAL_ERROR);
    play.connection.close(ErrorCode::INTERNAL_ERROR);
    assert_eq!(play.codes().1, Some(ErrorCode::INTERNAL_ERROR));
    assert!(play.connection.is_over() && play.connection.is_drained());
    assert_eq!(play.connection.send_response(1, 200, true, |_| {}), Err(SendError::Gone));
    play.connection.reset(1, ErrorCode::CANCEL);
    play.connection.ping([0; 8]);
    play.connection.shutdown(0);
    play.feed(b"whatever comes");
    assert_eq!((play.sent(), play.connection.expire(1 << 40)), (vec![], Ok(None)));
}

#[test]
fn settings_keep_to_their_bounds() {
    let wild = Settings {
        streams_max: 0,
        stream_window: 1,
        connection_window: u32::MAX,
        head_bytes: 0,
        fields_max: usize::MAX,
        ..Settings::default()
    };
    let connection = Connection::server(&wild, 0);
    let settings = frames(connection.output()).remove(0).payload;
    let value = |identifier: u16| {
        let found = settings.chunks(6).find(|parameter| parameter[..2] == identifier.to_be_bytes()).unwrap();
        u32::from_be_bytes(found[2..].try_into().unwrap())
    };
    assert_eq!((value(3), value(4), value(6)), (1, limits::WINDOW_DEFAULT, 256));
}
