//! What is measured: the rows.

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    /// Connections at once.
    pub(crate) connections: u32,
    /// Workers (threads, processes) that do the proxy's work.
    pub(crate) workers: u32,
    /// Every proxy writes a JSON access log to a file of its own.
    pub(crate) access_log: bool,
    /// Clients come over TLS, and the certificate has such a key.
    pub(crate) tls: Option<Key>,
}

/// Of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA of 2,048 bits.
    Rsa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// GET of this file of the origin, passed on.
    Proxy(&'static OriginFile),
    /// GET of this file from the proxy's own disk.
    Files(&'static OriginFile),
    /// GET of this file of the origin, from the cache of the proxy.
    Cached(&'static OriginFile),
    /// The same from a cache that has it on disk.
    CachedOnDisk(&'static OriginFile),
    /// All connections ask at once for one object that the cache does not have yet.
    Herd,
    /// The cache is filled with as many small objects as the row has connections.
    Objects { on_disk: bool },
    /// Connections that made one request and now wait.
    Idle,
    /// A connection for each GET of the small file of the origin; sessions are resumed or not.
    Handshake { resumed: bool },
    /// GET of the small file of the origin, so many at once on each connection of HTTP/2.
    Http2 { streams: u32 },
    /// Bytes or datagrams that pass through as they are.
    Stream(Traffic),
}

/// What passes through a switch of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// As much as goes, one way.
    Bulk,
    /// 64 bytes there and back, again and again.
    Small,
    /// A connection for one byte there and back.
    New,
    /// Connections that carried one byte there and back and now wait.
    Idle,
    /// Datagrams at a fixed rate, one way or there and back.
    Datagrams { bytes: usize, per_second: u32, echo: bool },
}

/// A file that the origin serves, and the file servers as well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OriginFile {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
}

/// The suffix is one that nobody compresses.
pub(crate) const BYTES_64: OriginFile = OriginFile { name: "64.bin", bytes: 64 };
const KIB_1: OriginFile = OriginFile { name: "1k.bin", bytes: 1024 };
const KIB_64: OriginFile = OriginFile { name: "64k.bin", bytes: 64 * 1024 };
const MIB_1: OriginFile = OriginFile { name: "1m.bin", bytes: 1024 * 1024 };

pub(crate) const ORIGIN_FILES: [&OriginFile; 4] = [&BYTES_64, &KIB_1, &KIB_64, &MIB_1];

const fn proxy(name: &'static str, what: &'static str, file: &'static OriginFile, connections: u32) -> Row {
    Row { name, what, kind: Kind::Proxy(file), connections, workers: 1, access_log: false, tls: None }
}

const fn cached(name: &'static str, what: &'static str, file: &'static OriginFile, connections: u32) -> Row {
    Row { name, what, kind: Kind::Cached(file), connections, workers: 1, access_log: false, tls: None }
}

const fn files(name: &'static str, what: &'static str, file: &'static OriginFile, connections: u32) -> Row {
    Row { name, what, kind: Kind::Files(file), connections, workers: 1, access_log: false, tls: None }
}

const fn idle(name: &'static str, what: &'static str, connections: u32) -> Row {
    Row { name, what, kind: Kind::Idle, connections, workers: 1, access_log: false, tls: None }
}

const fn secure(name: &'static str, what: &'static str, kind: Kind, connections: u32, key: Key) -> Row {
    Row { name, what, kind, connections, workers: 1, access_log: false, tls: Some(key) }
}

const fn stream(name: &'static str, what: &'static str, traffic: Traffic, connections: u32) -> Row {
    Row { name, what, kind: Kind::Stream(traffic), connections, workers: 1, access_log: false, tls: None }
}

/// `cargo xtask bench stream`.
pub(crate) const STREAM_ROWS: [Row; 8] = [
    stream("stream-bulk-1", "TCP through a switch at full speed, one connection", Traffic::Bulk, 1),
    stream("stream-bulk-8", "the same, 8 connections", Traffic::Bulk, 8),
    stream("stream-small", "64 bytes there and back over TCP, 64 connections", Traffic::Small, 64),
    stream("stream-new", "a TCP connection for one byte there and back, 16 at once", Traffic::New, 16),
    stream("stream-idle-5000", "5,000 idle TCP connections", Traffic::Idle, 5_000),
    // Each takes two files there, and there are 20,000.
    stream("stream-idle-9000", "9,000 idle TCP connections", Traffic::Idle, 9_000),
    stream(
        "stream-udp",
        "64-byte datagrams there and back, 10,000 a second of 64 clients",
        Traffic::Datagrams { bytes: 64, per_second: 10_000, echo: true },
        64,
    ),
    stream(
        "stream-udp-bulk",
        "1,200-byte datagrams one way, 20,000 a second of 4 clients",
        Traffic::Datagrams { bytes: 1_200, per_second: 20_000, echo: false },
        4,
    ),
];

/// `cargo xtask bench tls`.
pub(crate) const TLS_ROWS: [Row; 9] = [
    secure(
        "handshake-ecdsa",
        "a full TLS 1.3 handshake and one proxied request a connection, ECDSA P-256, 8 clients",
        Kind::Handshake { resumed: false },
        8,
        Key::Ecdsa,
    ),
    secure("handshake-resumed", "the same with sessions resumed", Kind::Handshake { resumed: true }, 8, Key::Ecdsa),
    secure("handshake-rsa", "the same, full, RSA 2048", Kind::Handshake { resumed: false }, 8, Key::Rsa),
    secure("tls-small", "64-byte bodies through a proxy, 64 connections", Kind::Proxy(&BYTES_64), 64, Key::Ecdsa),
    secure("tls-64k", "64 KiB bodies through a proxy, 64 connections", Kind::Proxy(&KIB_64), 64, Key::Ecdsa),
    secure("tls-static-64k", "64 KiB files from disk, 64 connections", Kind::Files(&KIB_64), 64, Key::Ecdsa),
    secure(
        "http2-1",
        "64-byte bodies through a proxy, HTTP/2, 32 connections with 1 stream each",
        Kind::Http2 { streams: 1 },
        32,
        Key::Ecdsa,
    ),
    secure("http2-32", "the same, 4 connections with 32 streams each", Kind::Http2 { streams: 32 }, 4, Key::Ecdsa),
    secure("http2-100", "the same, 2 connections with 100 streams each", Kind::Http2 { streams: 100 }, 2, Key::Ecdsa),
];

/// `cargo xtask bench cache`.
pub(crate) const CACHE_ROWS: [Row; 7] = [
    cached("cache-1k", "1 KiB bodies from the cache in memory, 64 connections", &KIB_1, 64),
    cached("cache-64k", "64 KiB bodies from the cache in memory, 64 connections", &KIB_64, 64),
    cached("cache-1m", "1 MiB bodies from the cache in memory, 16 connections", &MIB_1, 16),
    Row {
        kind: Kind::CachedOnDisk(&MIB_1),
        ..cached("cache-disk-1m", "1 MiB bodies from the cache on disk, 16 connections", &MIB_1, 16)
    },
    Row {
        kind: Kind::Herd,
        ..cached(
            "cache-herd",
            "1,000 clients at once on one cold object of 64 KiB, which takes its server 200 ms",
            &KIB_64,
            1_000,
        )
    },
    Row {
        kind: Kind::Objects { on_disk: false },
        ..cached("cache-objects", "memory for 100,000 objects of 1 KiB in memory", &KIB_1, 100_000)
    },
    Row {
        kind: Kind::Objects { on_disk: true },
        ..cached("cache-objects-disk", "memory for 100,000 objects of 1 KiB on disk", &KIB_1, 100_000)
    },
];

/// `cargo xtask bench gateway`.
pub(crate) const ROWS: [Row; 10] = [
    proxy("proxy-small-64", "64-byte bodies through a proxy, 64 connections", &BYTES_64, 64),
    proxy("proxy-small-512", "64-byte bodies through a proxy, 512 connections", &BYTES_64, 512),
    proxy("proxy-64k", "64 KiB bodies through a proxy, 64 connections", &KIB_64, 64),
    proxy("proxy-1m", "1 MiB bodies through a proxy, 16 connections", &MIB_1, 16),
    files("static-1k", "1 KiB files from disk, 64 connections", &KIB_1, 64),
    files("static-1m", "1 MiB files from disk, 16 connections", &MIB_1, 16),
    idle("idle-5000", "5,000 idle keep-alive connections", 5_000),
    idle("idle-15000", "15,000 idle keep-alive connections", 15_000),
    Row {
        access_log: true,
        ..proxy("proxy-small-64-log", "as proxy-small-64, each proxy with a JSON access log to a file", &BYTES_64, 64)
    },
    Row {
        workers: 2,
        ..proxy("proxy-small-2workers", "as proxy-small-64, with two workers on both CPUs", &BYTES_64, 64)
    },
];

impl Row {
    /// The path to ask for.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            Kind::Proxy(file) | Kind::Cached(file) | Kind::CachedOnDisk(file) => format!("/{}", file.name),
            Kind::Herd => "/cold/first".to_owned(),
            Kind::Objects { .. } => "/object/first".to_owned(),
            Kind::Files(file) => format!("/static/{}", file.name),
            Kind::Idle | Kind::Handshake { .. } | Kind::Http2 { .. } => format!("/{}", BYTES_64.name),
            Kind::Stream(_) => String::new(),
        }
    }

    /// What stands before the address in a URL.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// What is counted.
    pub(crate) fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Herd => "client",
            Kind::Stream(Traffic::Bulk) => "8 MiB",
            Kind::Stream(Traffic::Small) => "round trip",
            Kind::Stream(Traffic::New | Traffic::Idle) => "connection",
            Kind::Stream(Traffic::Datagrams { .. }) => "packet",
            _ => "request",
        }
    }

    /// How many of them go by.
    pub(crate) fn rate(&self) -> String {
        match self.kind {
            // As that of somebody who carries boxes of 8 MiB.
            Kind::Stream(Traffic::Bulk) => format!("({})/s", self.unit()),
            _ => format!("{}s/s", self.unit()),
        }
    }

    /// What counts is memory, not time.
    pub(crate) fn is_about_memory(&self) -> bool {
        matches!(self.kind, Kind::Idle | Kind::Objects { .. } | Kind::Stream(Traffic::Idle))
    }

    /// The cache has it on disk.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.kind, Kind::CachedOnDisk(_) | Kind::Objects { on_disk: true })
    }

    pub(crate) fn is_cached(&self) -> bool {
        matches!(self.kind, Kind::Cached(_) | Kind::CachedOnDisk(_)) || self.has_counting_server()
    }

    /// Its server is one of our own, which counts how often it is asked.
    pub(crate) fn has_counting_server(&self) -> bool {
        matches!(self.kind, Kind::Herd | Kind::Objects { .. })
    }

    /// Over UDP; all others over TCP.
    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.kind, Kind::Stream(Traffic::Datagrams { .. }))
    }

    pub(crate) fn body_bytes(&self) -> usize {
        match self.kind {
            Kind::Proxy(file) | Kind::Files(file) | Kind::Cached(file) | Kind::CachedOnDisk(file) => file.bytes,
            Kind::Herd => KIB_64.bytes,
            Kind::Objects { .. } => KIB_1.bytes,
            Kind::Idle | Kind::Handshake { .. } | Kind::Http2 { .. } => BYTES_64.bytes,
            Kind::Stream(traffic) => match traffic {
                Traffic::Bulk => 8 * MIB_1.bytes,
                Traffic::Small => 64,
                Traffic::New | Traffic::Idle => 1,
                Traffic::Datagrams { bytes, .. } => bytes,
            },
        }
    }

    /// CPUs that the proxy may use; load and origin have CPU 1.
    pub(crate) fn proxy_cpus(&self) -> &'static [u32] {
        if self.workers == 1 { &[0] } else { &[0, 1] }
    }
}
