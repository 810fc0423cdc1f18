//! What end-to-end tests share: the real program on loopback, a recording server behind it, a
//! raw client in front, and a look at the kernel's socket table to wait for.

// Each test binary includes all of this and uses a part of it.
#![allow(dead_code)]

pub(crate) mod acme;
pub(crate) mod caching;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod instance;
pub(crate) mod l4;
pub(crate) mod origin;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod slices;
pub(crate) mod sockets;
pub(crate) mod talk;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// A TCP port that nothing listens on at this address now.
pub(crate) fn free_tcp_port(address: IpAddr) -> u16 {
    TcpListener::bind(SocketAddr::new(address, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free TCP port at {address}: {error}"))
        .port()
}

/// A directory of this test alone, removed with everything in it when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("sumun-test-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Whatever the umask is: the worker process that serves from here is another user.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind lies in the system's directory for temporary files.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Bytes as a person reads them: visible ASCII as it is, the rest escaped, a line for each
/// CRLF, and the middle of long texts left out.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 900;

    let half = SHOWN_BYTES_MAX / 2;
    let (head, left_out, tail) = if bytes.len() > SHOWN_BYTES_MAX {
        let (head, rest) = bytes.split_at(half);
        let (middle, tail) = rest.split_at(rest.len() - half);
        (head, middle.len(), tail)
    } else {
        (bytes, 0, &[][..])
    };
    let mut text = show_all(head);
    if left_out > 0 {
        write!(text, " … {left_out} bytes … ").expect("a String takes every write");
        text.push_str(&show_all(tail));
    }
    text
}

fn show_all(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n\n        "),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a String takes every write"),
        }
    }
    text
}
