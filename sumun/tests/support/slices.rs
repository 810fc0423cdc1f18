//! A gateway that caches large answers in slices, and servers that have files with versions.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::caching::status;
use super::instance::{Instance, Place, eventually};
use super::server::{Request, Server};
use super::talk::Answer;

pub(crate) const SLICE: usize = 64 * 1024;
/// Four slices and a part of a fifth.
pub(crate) const SIZE: usize = 4 * SLICE + 30_000;

/// A gateway whose only route has slices in memory; `route` are further keys.
pub(crate) fn in_memory(place: Place, server: &Server, route: &str) -> Instance {
    let address = server.address();
    let config = format!(
        "workers: 2\ncache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: \
         [{{ path: /, proxy: app, cache: {{ slice: 64KiB, {route} }} }}] }} }}\n"
    );
    Instance::start(place, &config)
}

/// The same with slices of so many KiB on disk.
pub(crate) fn on_disk(place: Place, server: &Server, folder: &Path, slice_kib: usize) -> Instance {
    let (address, folder) = (server.address(), folder.display());
    let config = format!(
        "state: {folder}/state\n\
         cache: {{ memory: 16MiB, group: {{ extent: 1MiB, physical_volumes: [\
         {{ path: {folder}/a, size: 48MiB }}, {{ path: {folder}/b, size: 48MiB }}] }}, \
         volumes: {{ pages: {{ size: 64MiB }} }} }}\n\
         pools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: \
         [{{ path: /, proxy: app, cache: {{ slice: {slice_kib}KiB, tags: Cache-Tag }} }}] }} }}\n"
    );
    let gateway = Instance::start(place, &config);
    eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
    gateway
}

pub(crate) fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("sumun; hit")
}

/// Bytes of a version of a file: no two slices are alike.
pub(crate) fn content(version: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| ((at / 7) ^ (at >> 11) ^ (version * 37)) as u8).collect()
}

/// What a server has: a version and its size.
#[derive(Clone)]
pub(crate) struct File(Arc<Mutex<(usize, usize)>>);

impl File {
    pub(crate) fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new((1, size))))
    }

    pub(crate) fn change(&self) {
        self.0.lock().unwrap().0 += 1;
    }

    /// By a byte, as the same version.
    pub(crate) fn grow(&self) {
        self.0.lock().unwrap().1 += 1;
    }

    pub(crate) fn now(&self) -> (usize, usize) {
        *self.0.lock().unwrap()
    }

    /// Answers as RFC 9110 says, ranges, `If-Range` and `If-None-Match` among it.
    pub(crate) fn answer(&self, request: &Request, fields: &str) -> Vec<u8> {
        let (version, size) = self.now();
        let fields = format!("ETag: \"v{version}\"\r\nAccept-Ranges: bytes\r\n{fields}");
        if request.header("if-none-match").is_some_and(|tags| tags == format!("\"v{version}\"")) {
            return format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n").into_bytes();
        }
        let whole = content(version, size);
        let holds = request.header("if-range").is_none_or(|tag| tag == format!("\"v{version}\""));
        match range_of(request).filter(|_| holds) {
            None => said("200 OK", &fields, &whole),
            Some((first, _)) if first >= size => {
                said("416 Range Not Satisfiable", &format!("Content-Range: bytes */{size}\r\n"), b"")
            }
            Some((first, last)) => {
                let last = last.min(size - 1);
                part(&fields, (first, last, size), &whole[first..=last])
            }
        }
    }

    pub(crate) fn serve(&self, place: Place, fields: &'static str) -> Server {
        let file = self.clone();
        Server::answering(place.ip, move |request| file.answer(request, fields))
    }
}

pub(crate) fn range_of(request: &Request) -> Option<(usize, usize)> {
    let range = request.header("range")?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

pub(crate) fn said(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

pub(crate) fn part(fields: &str, (first, last, size): (usize, usize, usize), body: &[u8]) -> Vec<u8> {
    said("206 Partial Content", &format!("{fields}Content-Range: bytes {first}-{last}/{size}\r\n"), body)
}

/// The ranges that the server was asked for, in order; `-`: without.
pub(crate) fn asked(server: &Server) -> Vec<String> {
    let range =
        |request: &Request| request.header("range").map_or_else(|| "-".to_owned(), |range| range.replace("bytes=", ""));
    server.requests().iter().map(range).collect()
}

pub(crate) fn slice(number: usize) -> String {
    format!("{}-{}", number * SLICE, (number * SLICE + SLICE - 1).min(SIZE - 1))
}

pub(crate) const FRESH: &str =
    "Cache-Control: max-age=600\r\nContent-Type: text/plain\r\nContent-Digest: sha-256=:AA==:\r\n";
