//! The rules for messages (RFC 9113 section 8), and what comes out of those that keep them.

mod common;

use common::*;
use sumun_http::{BodyLength, Known, Method, Reject, RequestHead, ResponseBody, ResponseHead};
use sumun_http2::{ErrorCode, Malformed, RequestLine, Scheme, Settings};

/// A request of these fields, with `GET` in front where they do not begin with a pseudo-field.
fn request<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = if fields.first().is_some_and(|(name, _)| name.starts_with(':')) { Vec::new() } else { GET.to_vec() };
    all.extend_from_slice(fields);
    all
}

/// What is said to a request without a body.
fn verdict(fields: &[(&str, &str)]) -> Result<String, Malformed> {
    let mut play = Play::server(&Settings::default());
    play.feed(&headers(1, fields, END_STREAM));
    verdict_of(&mut play)
}

fn verdict_of(play: &mut Play) -> Result<String, Malformed> {
    assert_eq!(play.error, None);
    let last = play.events.last().unwrap().clone();
    let Some((_, name)) = last.split_once("Malformed(") else { return Ok(play.texts.last().unwrap().clone()) };
    let name = name.trim_end_matches(") }");
    assert_eq!(play.codes().0, [(1, ErrorCode::PROTOCOL_ERROR)]);
    assert_eq!(play.connection.streams(), 0);
    Err(ALL.into_iter().find(|malformed| format!("{malformed:?}") == name).unwrap())
}

const ALL: [Malformed; 19] = [
    Malformed::Name,
    Malformed::Value,
    Malformed::ConnectionField,
    Malformed::Te,
    Malformed::PseudoUnknown,
    Malformed::PseudoRepeated,
    Malformed::PseudoLate,
    Malformed::PseudoMissing,
    Malformed::PseudoInTrailers,
    Malformed::Path,
    Malformed::Authority,
    Malformed::Host,
    Malformed::ContentLength,
    Malformed::BodyLength,
    Malformed::Status,
    Malformed::Interim,
    Malformed::TrailersWithoutEnd,
    Malformed::TrailersTooLarge,
    Malformed::FieldsInTunnel,
];

#[test]
fn malformed_requests() {
    const METHOD: (&str, &str) = (":method", "GET");
    const SCHEME: (&str, &str) = (":scheme", "http");
    const PATH: (&str, &str) = (":path", "/");
    const WHO: (&str, &str) = (":authority", "a.test");
    const CONNECT: (&str, &str) = (":method", "CONNECT");
    let cases: &[(&[(&str, &str)], Malformed)] = &[
        // 8.2.1 Field validity
        (&[("A", "b")], Malformed::Name),
        (&[("", "b")], Malformed::Name),
        (&[("a b", "c")], Malformed::Name),
        (&[("a:b", "c")], Malformed::Name),
        (&[("a\0", "c")], Malformed::Name),
        (&[("\u{e9}", "c")], Malformed::Name),
        (&[("a", "b\r\nc: d")], Malformed::Value),
        (&[("a", "b\nc")], Malformed::Value),
        (&[("a", "b\0")], Malformed::Value),
        (&[("a", " b")], Malformed::Value),
        (&[("a", "b\t")], Malformed::Value),
        (&[("a", "b\x7f")], Malformed::Value),
        (&[METHOD, SCHEME, (":path", "/ HTTP/1.1\r\nx: y"), WHO], Malformed::Value),
        (&[(":method", "GET "), SCHEME, PATH, WHO], Malformed::Value),
        // 8.2.2 Connection-specific fields
        (&[("connection", "close")], Malformed::ConnectionField),
        (&[("keep-alive", "1")], Malformed::ConnectionField),
        (&[("proxy-connection", "x")], Malformed::ConnectionField),
        (&[("transfer-encoding", "chunked")], Malformed::ConnectionField),
        (&[("upgrade", "h2c")], Malformed::ConnectionField),
        (&[("te", "gzip")], Malformed::Te),
        (&[("te", "trailers, gzip")], Malformed::Te),
        // 8.3 Pseudo-fields
        (&[METHOD, SCHEME, PATH, WHO, (":unknown", "x")], Malformed::PseudoUnknown),
        (&[METHOD, SCHEME, PATH, WHO, (":Path", "/")], Malformed::PseudoUnknown),
        (&[METHOD, SCHEME, PATH, WHO, (":status", "200")], Malformed::PseudoUnknown),
        (&[METHOD, SCHEME, PATH, WHO, (":protocol", "websocket")], Malformed::PseudoUnknown),
        (&[METHOD, METHOD, SCHEME, PATH, WHO], Malformed::PseudoRepeated),
        (&[METHOD, SCHEME, SCHEME, PATH, WHO], Malformed::PseudoRepeated),
        (&[METHOD, SCHEME, PATH, PATH, WHO], Malformed::PseudoRepeated),
        (&[METHOD, SCHEME, PATH, WHO, WHO], Malformed::PseudoRepeated),
        (&[METHOD, SCHEME, WHO, ("a", "b"), PATH], Malformed::PseudoLate),
        (&[METHOD, SCHEME, WHO, ("cookie", "b"), PATH], Malformed::PseudoLate),
        (&[SCHEME, PATH, WHO], Malformed::PseudoMissing),
        (&[METHOD, PATH, WHO], Malformed::PseudoMissing),
        (&[METHOD, SCHEME, WHO], Malformed::PseudoMissing),
        (&[METHOD, SCHEME, (":path", ""), WHO], Malformed::Path),
        (&[METHOD, SCHEME, (":path", "a"), WHO], Malformed::Path),
        (&[METHOD, SCHEME, (":path", "*"), WHO], Malformed::Path),
        (&[METHOD, SCHEME, (":path", "http://b.test/"), WHO], Malformed::Path),
        (&[METHOD, SCHEME, PATH], Malformed::Authority),
        (&[METHOD, SCHEME, PATH, (":authority", "")], Malformed::Authority),
        (&[METHOD, SCHEME, PATH, ("host", "")], Malformed::Authority),
        (&[METHOD, SCHEME, PATH, WHO, ("host", "b.test")], Malformed::Host),
        (&[METHOD, SCHEME, PATH, WHO, ("host", "a.test:80")], Malformed::Host),
        (&[METHOD, SCHEME, PATH, WHO, ("host", "a.test"), ("host", "a.test")], Malformed::Host),
        // 8.1.1 Content-Length
        (&[("content-length", "x")], Malformed::ContentLength),
        (&[("content-length", "-1")], Malformed::ContentLength),
        (&[("content-length", "+1")], Malformed::ContentLength),
        (&[("content-length", "")], Malformed::ContentLength),
        (&[("content-length", "0, 0")], Malformed::ContentLength),
        (&[("content-length", "99999999999999999999")], Malformed::ContentLength),
        (&[("content-length", "0"), ("content-length", "0")], Malformed::ContentLength),
        (&[("content-length", "1")], Malformed::BodyLength),
        // 8.5 CONNECT, RFC 8441
        (&[CONNECT, SCHEME, PATH, WHO], Malformed::PseudoUnknown),
        (&[CONNECT, PATH, WHO], Malformed::PseudoUnknown),
        (&[CONNECT], Malformed::Authority),
        (&[CONNECT, ("host", "a.test")], Malformed::Authority),
        (&[CONNECT, (":protocol", "websocket"), PATH, WHO], Malformed::PseudoMissing),
        (&[CONNECT, (":protocol", "websocket"), SCHEME, WHO], Malformed::PseudoMissing),
    ];
    for (fields, wanted) in cases {
        assert_eq!(verdict(&request(fields)), Err(*wanted), "{fields:?}");
    }
    // Extended CONNECT is not for everybody.
    let mut play = Play::server(&Settings { extended_connect: false, ..Settings::default() });
    play.feed(&headers(1, &[CONNECT, (":protocol", "websocket"), SCHEME, PATH, WHO], 0));
    assert_eq!(verdict_of(&mut play), Err(Malformed::PseudoUnknown));
}

#[test]
fn odd_requests_that_keep_the_rules() {
    for (fields, wanted) in [
        (&[("te", "trailers")][..], "te=trailers"),
        (&[("te", "Trailers")], "te=Trailers"),
        (&[("host", "A.TEST")], "host=A.TEST"),
        (&[("content-length", "0")], "content-length=0"),
        (&[("a", "")], "a="),
        (&[("a", "\u{ac00} \t!")], "a=\u{ac00} \t!"),
        (&[(":authority", "a"), (":path", "/"), (":scheme", "https"), (":method", "GET")], ""),
        (&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a")], "host=a"),
        (&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")], ""),
    ] {
        assert_eq!(verdict(&request(fields)), Ok(wanted.into()), "{fields:?}");
    }
}

#[test]
fn requests_that_get_a_status() {
    let with = |method: &'static str, scheme: &'static str, path: &'static str, who: &'static str| {
        verdict(&[(":method", method), (":scheme", scheme), (":path", path), (":authority", who)]).unwrap()
    };
    assert_eq!(with("BREW", "http", "/", "a"), "Method");
    assert_eq!(with("get", "http", "/", "a"), "Method");
    assert_eq!(with("GET", "ftp", "/", "a"), "Target");
    assert_eq!(with("GET", "http", "/%zz", "a"), "Target");
    assert_eq!(with("GET", "http", "/a b", "a"), "Target");
    assert_eq!(with("GET", "http", "/#a", "a"), "Target");
    assert_eq!(with("GET", "http", "/", "user@a"), "HostSyntax");
    assert_eq!(with("GET", "http", "/", "a:99999"), "HostSyntax");
    assert_eq!(verdict(&request(&[("expect", "200-ok")])).unwrap(), "Expectation");
}

#[test]
fn bodies_and_their_length() {
    let post = |length: &str, frames: &[(usize, u8)]| {
        let mut play = Play::server(&Settings::default());
        let fields: Vec<_> = POST.into_iter().chain([("content-length", length)]).collect();
        play.feed(&headers(1, &fields, 0));
        for (bytes, flags) in frames {
            play.feed(&data(1, &vec![b'x'; *bytes], *flags));
        }
        let last = play.events.last().unwrap().clone();
        (last.contains("BodyLength"), play.codes().0)
    };
    let reset = vec![(1, ErrorCode::PROTOCOL_ERROR)];
    assert_eq!(post("4", &[(4, END_STREAM)]), (false, vec![]));
    assert_eq!(post("4", &[(2, 0), (2, 0), (0, END_STREAM)]), (false, vec![]));
    assert_eq!(post("4", &[(3, END_STREAM)]), (true, reset.clone()));
    assert_eq!(post("4", &[(5, END_STREAM)]), (true, reset.clone()));
    assert_eq!(post("4", &[(3, 0), (3, 0)]), (true, reset.clone()));
    assert_eq!(post("0", &[(0, END_STREAM)]), (false, vec![]));
    assert_eq!(post("0", &[(1, 0)]), (true, reset));
}

#[test]
fn trailers() {
    let with = |frames: &[Vec<u8>]| {
        let mut play = Play::server(&Settings::default());
        play.feed(&headers(1, &[POST.as_slice(), &[("content-length", "1")]].concat(), 0));
        for frame in frames {
            play.feed(frame);
        }
        verdict_of(&mut play)
    };
    let body = data(1, b"x", 0);
    let end = |fields: &[(&str, &str)]| headers(1, fields, END_STREAM);
    let good =
        [("grpc-status", "0"), ("content-length", "1"), ("host", "b"), ("etag", "\"1\""), ("x_forwarded-for", "1")];
    assert_eq!(with(&[body.clone(), end(&good)]), Ok("grpc-status: 0\r\netag: \"1\"\r\n".into()));
    assert_eq!(with(&[body.clone(), end(&[])]), Ok(String::new()));
    for (fields, wanted) in [
        (&[(":path", "/")][..], Malformed::PseudoInTrailers),
        (&[("a", "b"), (":status", "200")], Malformed::PseudoInTrailers),
        (&[("A", "b")], Malformed::Name),
        (&[("a", "b ")], Malformed::Value),
        (&[("connection", "b")], Malformed::ConnectionField),
        (&[("te", "trailers")], Malformed::ConnectionField),
        (&[("a", "b"); 33], Malformed::TrailersTooLarge),
    ] {
        assert_eq!(with(&[body.clone(), end(fields)]), Err(wanted), "{fields:?}");
    }
    let long = "x".repeat(5_000);
    assert_eq!(with(&[body.clone(), end(&[("a", &long), ("b", &long)])]), Err(Malformed::TrailersTooLarge));
    assert_eq!(with(&[body, headers(1, &[("a", "b")], 0)]), Err(Malformed::TrailersWithoutEnd));
    assert_eq!(with(&[end(&[("a", "b")])]), Err(Malformed::BodyLength));
}

#[test]
fn a_request_as_the_gateway_gets_it() {
    let mut play = Play::server(&Settings::default());
    let mut head = RequestHead::default();
    let mut bytes = b"of the last request".to_vec();
    let mut take = |block: &[u8], flags: u8| {
        let input = frame(HEADERS, END_HEADERS | flags, play.connection.streams() as u32 * 2 + 1, block);
        let step = play.connection.receive(0, &input).unwrap();
        assert!(step.consumed == input.len() && step.event.is_some());
        let extra = play.connection.take_request(&mut head, &mut bytes).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        (std::mem::take(&mut head), text, extra)
    };

    let fields = [
        (":method", "PUT"),
        (":scheme", "https"),
        (":authority", "a.test:8443"),
        (":path", "/b//c%41?d=e"),
        ("cookie", "x=1"),
        ("content-length", "7"),
        ("host", "a.test:8443"),
        ("cookie", "y=2"),
        ("expect", "100-continue"),
    ];
    let mut section = block(&fields);
    section.extend_from_slice(b"\x10\x05x-key\x01k\x10\x06cookie\x03z=3");
    let (head, text, extra) = take(&section, 0);
    let of = |span: sumun_http::Span| span.of_bytes(text.as_bytes()).to_vec();
    assert_eq!((head.method, head.body, head.keep_alive), (Method::Put, BodyLength::Length(7), true));
    assert_eq!((of(head.target), of(head.path)), (b"/b//c%41?d=e".to_vec(), b"/b//c%41".to_vec()));
    assert_eq!((head.query.map(of), head.path_is_plain), (Some(b"d=e".to_vec()), false));
    assert_eq!(head.host_value(text.as_bytes()), b"a.test:8443");
    assert!(head.expect_continue && head.has_body() && !head.websocket && head.has(Known::Cookie));
    assert_eq!((extra.scheme, extra.protocol), (Scheme::Https, None));
    // Lines as in HTTP/1, one of cookies, the last.
    let lines =
        "content-length: 7\r\nhost: a.test:8443\r\nexpect: 100-continue\r\nx-key: k\r\ncookie: x=1; y=2; z=3\r\n\r\n";
    assert!(text.ends_with(lines), "{text}");
    assert_eq!(head.fields[0].name.start as usize, text.len() - lines.len());
    assert_eq!(of(head.fields[head.host.unwrap()].value), b"a.test:8443");
    assert_eq!(head.known(text.as_bytes(), Known::Cookie), Some(&b"x=1; y=2; z=3"[..]));
    let never: Vec<_> = (0..10).filter(|index| extra.never_indexed.has(*index)).collect();
    assert_eq!(never, [3, 4]);

    let (head, _, extra) = take(&block(&GET), END_STREAM);
    assert_eq!((head.body, head.has_body(), head.host, extra.scheme), (BodyLength::None, false, None, Scheme::Http));
    assert!(head.path_is_plain && extra.never_indexed.is_empty());
    let (head, ..) = take(&block(&POST), 0);
    assert_eq!(head.body, BodyLength::Chunked);

    // RFC 8441, and a plain CONNECT.
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat?a"),
        (":authority", "a.test"),
        ("sec-websocket-version", "13"),
    ];
    let (head, text, extra) = take(&block(&websocket), 0);
    assert_eq!((head.method, head.websocket), (Method::Connect, true));
    assert_eq!(head.path.of_bytes(text.as_bytes()), b"/chat");
    assert_eq!(extra.protocol.unwrap().of_bytes(text.as_bytes()), b"websocket");
    let (head, text, extra) = take(&block(&[(":method", "CONNECT"), (":authority", "a.test:22")]), 0);
    assert_eq!((head.method, head.websocket, extra.scheme), (Method::Connect, false, Scheme::None));
    assert_eq!(head.target.of_bytes(text.as_bytes()), b"a.test:22");
    let (head, ..) = take(&block(&[(":method", "CONNECT"), (":authority", "a.test:22"), ("content-length", "3")]), 0);
    assert_eq!(head.body, BodyLength::Chunked);
}

#[test]
fn a_tunnel_carries_data_alone() {
    let mut play = Play::server(&Settings::default());
    play.feed(&headers(1, &[(":method", "CONNECT"), (":authority", "a.test:22")], 0));
    play.feed(&data(1, b"SSH", 0)).feed(&headers(1, &[("a", "b")], END_STREAM));
    assert!(play.events.last().unwrap().contains("FieldsInTunnel"), "{:?}", play.events);
}

#[test]
fn responses() {
    let with = |method: &'static str, frames: &[Vec<u8>]| {
        let mut play = Play::client(&Settings::default());
        let line =
            RequestLine { method: method.as_bytes(), scheme: b"http", authority: b"a", path: b"/", protocol: None };
        play.connection.send_request(&line, true, |_| {}).unwrap();
        play.sent();
        for frame in frames {
            play.feed(frame);
        }
        verdict_of(&mut play)
    };
    let head = |fields: &[(&str, &str)], flags: u8| headers(1, fields, flags);
    let end = |fields: &[(&str, &str)]| head(fields, END_STREAM);
    for (fields, wanted) in [
        (&[("a", "b")][..], Malformed::PseudoMissing),
        (&[(":status", "20")], Malformed::Status),
        (&[(":status", "0200")], Malformed::Status),
        (&[(":status", "600")], Malformed::Status),
        (&[(":status", "99x")], Malformed::Status),
        (&[(":status", "101")], Malformed::Status),
        (&[(":status", "100")], Malformed::Interim),
        (&[(":status", "200"), (":status", "200")], Malformed::PseudoRepeated),
        (&[(":status", "200"), (":path", "/")], Malformed::PseudoUnknown),
        (&[("a", "b"), (":status", "200")], Malformed::PseudoLate),
        (&[(":status", "200"), ("connection", "close")], Malformed::ConnectionField),
        (&[(":status", "200"), ("te", "trailers")], Malformed::ConnectionField),
        (&[(":status", "200"), ("content-length", "1")], Malformed::BodyLength),
        (&[(":status", "200"), ("a", "b\r\n")], Malformed::Value),
    ] {
        assert_eq!(with("GET", &[end(fields)]), Err(wanted), "{fields:?}");
    }
    let sized = [(":status", "200"), ("content-length", "3")];
    assert_eq!(with("HEAD", &[end(&sized)]), Ok("content-length=3".into()));
    assert_eq!(with("HEAD", &[head(&sized, 0), data(1, b"abc", END_STREAM)]), Err(Malformed::BodyLength));
    assert_eq!(with("GET", &[head(&sized, 0), data(1, b"ab", END_STREAM)]), Err(Malformed::BodyLength));
    assert_eq!(with("GET", &[end(&[(":status", "304"), ("content-length", "3")])]), Ok("content-length=3".into()));
    assert_eq!(with("GET", &[head(&[(":status", "204")], 0), data(1, b"a", 0)]), Err(Malformed::BodyLength));
    // Interim ones, as many as anybody needs.
    let interim = || head(&[(":status", "103"), ("link", "</a>")], 0);
    assert_eq!(with("GET", &[interim(), interim(), end(&OK)]), Ok(String::new()));
    assert_eq!(with("GET", &vec![interim(); 17]), Err(Malformed::Interim));
    assert_eq!(with("GET", &[interim(), data(1, b"a", 0)]), Err(Malformed::PseudoMissing));
    // Trailers.
    assert_eq!(with("GET", &[head(&OK, 0), end(&[("a", "b")])]), Ok("a: b\r\n".into()));
    assert_eq!(with("GET", &[head(&OK, 0), head(&[("a", "b")], 0)]), Err(Malformed::TrailersWithoutEnd));
    assert_eq!(with("CONNECT", &[head(&OK, 0), end(&[("a", "b")])]), Err(Malformed::FieldsInTunnel));
}

#[test]
fn a_response_as_the_gateway_gets_it() {
    let mut play = Play::client(&Settings::default());
    let (mut head, mut bytes) = (ResponseHead::default(), Vec::new());
    let mut take = |method: &[u8], fields: &[(&str, &str)], flags: u8| {
        let line = RequestLine { method, scheme: b"http", authority: b"a", path: b"/", protocol: None };
        let stream = play.connection.send_request(&line, true, |_| {}).unwrap();
        assert!(play.connection.receive(0, &headers(stream, fields, flags)).unwrap().event.is_some());
        let taken = play.connection.take_response(&mut head, &mut bytes);
        assert!(taken.is_ok_and(|never_indexed| never_indexed.is_empty()));
        (head.status, head.body, head.content_length)
    };
    let sized = [(":status", "203"), ("content-length", "3"), ("server", "s")];
    assert_eq!(take(b"GET", &sized, 0), (203, ResponseBody::Length(3), Some(3)));
    assert_eq!(take(b"HEAD", &sized, 0), (203, ResponseBody::None, Some(3)));
    assert_eq!(take(b"GET", &OK, 0), (200, ResponseBody::Chunked, None));
    assert_eq!(take(b"GET", &OK, END_STREAM), (200, ResponseBody::None, None));
    assert_eq!(take(b"GET", &[(":status", "304")], 0), (304, ResponseBody::None, None));
    assert_eq!(take(b"GET", &[(":status", "100")], 0), (100, ResponseBody::None, None));
    take(b"GET", &sized, 0);
    assert_eq!(head.known(&bytes, Known::Server), Some(&b"s"[..]));
    assert!(bytes.ends_with(b"content-length: 3\r\nserver: s\r\n\r\n"));

    // One that is too large is told, not forwarded.
    let mut play = Play::client(&Settings { head_bytes: 256, ..Settings::default() });
    let line = RequestLine { method: b"GET", scheme: b"http", authority: b"a", path: b"/", protocol: None };
    play.connection.send_request(&line, true, |_| {}).unwrap();
    let long = "x".repeat(300);
    let large = headers(1, &[(":status", "200"), ("a", &long)], END_STREAM);
    assert!(play.connection.receive(0, &large).unwrap().event.is_some());
    assert_eq!(play.connection.take_response(&mut head, &mut bytes), Err(Reject::HeadTooLarge));
    assert_eq!((head.status, head.fields.len()), (200, 0));
}
