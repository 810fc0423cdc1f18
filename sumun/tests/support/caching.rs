//! A gateway with a route that caches, and servers whose answers say what may be kept.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::instance::{Instance, Place};
use super::server::{Request, Server};
use super::talk::Answer;

/// A gateway whose only route has this `cache`, with as many workers as may be.
pub(crate) fn caching(place: Place, server: &Server, cache: &str) -> Instance {
    let address = server.address();
    let config = format!(
        "workers: 2\ncache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app, cache: {cache} }}] }} }}\n"
    );
    Instance::start(place, &config)
}

/// An answer with a status, whole field lines and a body.
pub(crate) fn said(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Answers each request with its number, and these fields.
pub(crate) fn counting(place: Place, fields: &'static str) -> Server {
    let count = AtomicUsize::new(0);
    Server::answering(place.ip, move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        said("200 OK", fields, &format!("answer {number}"))
    })
}

pub(crate) fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

/// `/SIZE/…` is a body of so many bytes that says where it is from; each answer counts on.
pub(crate) fn sized(place: Place, fields: &'static str) -> Server {
    let count = AtomicUsize::new(0);
    Server::answering(place.ip, move |request: &Request| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let size = request.target.split('/').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
        let head = format!("HTTP/1.1 200 OK\r\n{fields}X-Number: {number}\r\nContent-Length: {size}\r\n\r\n");
        [head.into_bytes(), body(&request.target, size)].concat()
    })
}

pub(crate) fn body(target: &str, size: usize) -> Vec<u8> {
    let seed = target.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (0..size as u32).map(|at| (seed.wrapping_add(at / 3) ^ (at >> 9)) as u8).collect()
}
