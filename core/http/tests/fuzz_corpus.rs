//! The fuzz targets of this crate as plain tests: over the inputs that the fuzzer found worth
//! keeping, over the corpus of hostile requests, and over random ones.

#[path = "corpus/parser.rs"]
// The end-to-end runner needs more of it.
#[allow(dead_code)]
mod parser;
#[path = "../../../fuzz/targets/http.rs"]
mod targets;

use std::fs;

use proptest::prelude::*;

use parser::Step;

/// Plays every kept input of a target; there is at least one.
fn play(name: &str, target: fn(&[u8])) {
    let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        // The harness shows it where the target panics.
        println!("{}", path.display());
        target(&fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn kept_inputs() {
    play("request_split", targets::request_split);
    play("response_split", targets::response_split);
    play("chunked", targets::chunked);
    play("forward", targets::forward);
    play("response_forward", targets::response_forward);
    play("target_normalize", targets::target_normalize);
    play("field_values", targets::field_values);
}

#[test]
fn hostile_requests() {
    let directory =
        std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("tests/corpus");
    let cases = parser::read_directory(&directory).unwrap_or_else(|errors| panic!("\n{}", errors.join("\n")));
    for case in cases {
        println!("{} {}", case.place, case.name);
        let mut stream = Vec::new();
        for step in &case.steps {
            if let Step::Send(bytes) = step {
                stream.extend_from_slice(bytes);
            }
        }
        targets::request_split(&stream);
        targets::forward(&stream);
    }
}

/// A request line of exactly the bound is taken however it arrives; one byte more is refused.
#[test]
fn a_line_at_its_bound_arrives_in_any_pieces() {
    for length in 100..125 {
        let line = format!("GET /{} HTTP/1.1", "a".repeat(length - "GET / HTTP/1.1".len()));
        targets::request_split(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
    }
    for length in 380..410 {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        let filler = "a".repeat(length - head.len());
        targets::request_split(head.replace("X: ", &format!("X: {filler}")).as_bytes());
    }
}

/// Parts that streams are made of: most of them right, some of them nearly.
const REQUEST_PARTS: [&str; 44] = [
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "PUT http://h:1/../x HTTP/1.1\r\n",
    "HEAD /%2e%2e/a HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET /\r\n",
    "get / HTTP/1.1\r\n",
    "GET  / HTTP/1.1\r\n",
    "GET / HTTP/1.7\r\n",
    "GET / HTTP/2.0\r\n",
    "Host: a\r\n",
    "Host: a\r\n",
    "Host: a\r\n\r\n",
    "Host: [::1]:80\r\n\r\n",
    "host:\tb \r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 3\r\n\r\nabc",
    "Content-Length: 03\r\n",
    "Content-Length: -1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: X-A, keep-alive\r\n",
    "X-A: 1\r\n",
    "X_Forwarded_For: 1\r\n",
    "X-Forwarded-For: 9.9.9.9\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n",
    "Via: 1.1 x\r\n",
    "X: \u{e9}\r\n",
    " folded\r\n",
    "X : 1\r\n",
    "X: a\nY: b\r\n",
    "\r\n",
    "\r",
    "\n",
    "3\r\nabc\r\n",
    "5;x=\"y\"\r\nabcde\r\n",
    "0\r\n\r\n",
    "0\r\nX-Sum: 1\r\n\r\n",
    "0\r\nHost: b\r\n\r\n",
];

const RESPONSE_PARTS: [&str; 26] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 304 \r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n",
    "HTTP/2 200 OK\r\n",
    "HTTP/1.1 2000 OK\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 3\r\n\r\nabc",
    "Content-Length: 0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding: gzip\r\n",
    "Connection: close\r\n",
    "Connection: X-A\r\n",
    "X-A: 1\r\n",
    "Date: x\r\n",
    "Set-Cookie: a=b\r\n",
    "\r\n",
    "\n",
    " x\r\n",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nX: 1\r\n\r\n",
    "abc",
];

fn stream_of(parts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        20 => prop::sample::select(parts).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn requests_mean_the_same_in_pieces(stream in stream_of(&REQUEST_PARTS)) {
        targets::request_split(&stream);
    }

    #[test]
    fn requests_mean_the_same_to_the_next_server(stream in stream_of(&REQUEST_PARTS)) {
        targets::forward(&stream);
    }

    #[test]
    fn responses_mean_the_same_in_pieces(stream in stream_of(&RESPONSE_PARTS)) {
        targets::response_split(&stream);
    }

    #[test]
    fn responses_mean_the_same_to_the_client(stream in stream_of(&RESPONSE_PARTS)) {
        targets::response_forward(&stream);
    }

    #[test]
    fn chunked_bodies_mean_the_same_in_pieces(stream in prop::collection::vec(
        prop::sample::select(&["3\r\nabc\r\n", "0\r\n", "\r\n", "a;x=\"", "\";y\r\n", "0123456789", "X: 1\r\n", "\n", "Te: 1\r\n"][..]), 0..12)
    ) {
        targets::chunked(stream.concat().as_bytes());
    }

    #[test]
    fn paths_stay_below_the_root(path in prop::collection::vec(
        prop::sample::select(&["/", "/", ".", "..", "%2e", "%2F", "%5C", "a", "%41", "%", "?", "//", ";", "%25", "2e"][..]), 0..16)
    ) {
        targets::target_normalize(path.concat().as_bytes());
    }

    #[test]
    fn no_field_value_hurts(value in "[a-z0-9 =,;\"*/.\\-]{0,40}") {
        targets::field_values(value.as_bytes());
    }
}
