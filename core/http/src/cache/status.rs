//! Tells the client what the cache did (RFC 9211).

use super::Unstorable;

/// Why the request went on to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The route or the request goes past the cache.
    Bypass,
    /// Not a method that is answered from the cache.
    Method,
    /// Nothing is stored for the URL.
    UriMiss,
    /// Something is, but not for such a request.
    VaryMiss,
    Stale,
    /// Of what is asked for only a part is stored.
    Partial,
}

impl Forwarded {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    Hit {
        ttl_s: i64,
    },
    /// It went to the server by itself; why its answer is not stored, where that is known before.
    Past {
        why: Forwarded,
        detail: Option<Unstorable>,
    },
    Forwarded {
        why: Forwarded,
        /// Of the server's answer, where it is not the one that the client gets.
        status: Option<u16>,
        stored: Result<(), Unstorable>,
        /// It waited for the answer to somebody else's request.
        collapsed: bool,
    },
}

impl CacheStatus {
    /// Appends the member of the list that is ours.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"sumun; ");
        match *self {
            Self::Hit { ttl_s } => {
                out.extend_from_slice(b"hit; ttl=");
                out.extend_from_slice(itoa::Buffer::new().format(ttl_s).as_bytes());
            }
            Self::Past { why, detail } => {
                out.extend_from_slice(b"fwd=");
                out.extend_from_slice(why.as_str().as_bytes());
                if let Some(detail) = detail {
                    out.extend_from_slice(b"; detail=");
                    out.extend_from_slice(detail.as_str().as_bytes());
                }
            }
            Self::Forwarded { why, status, stored, collapsed } => {
                out.extend_from_slice(b"fwd=");
                out.extend_from_slice(why.as_str().as_bytes());
                if let Some(status) = status {
                    out.extend_from_slice(b"; fwd-status=");
                    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
                }
                match stored {
                    Ok(()) => out.extend_from_slice(b"; stored"),
                    Err(why) => {
                        out.extend_from_slice(b"; detail=");
                        out.extend_from_slice(why.as_str().as_bytes());
                    }
                }
                if collapsed {
                    out.extend_from_slice(b"; collapsed");
                }
            }
        }
    }
}
