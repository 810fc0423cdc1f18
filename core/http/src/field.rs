//! Header fields as places in the bytes they came in, and the names this gateway acts on.

/// A range of the bytes that a head was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// The place of `part` inside `whole`, of which it must be a slice.
    #[must_use]
    pub fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    /// The bytes at this place; empty when `bytes` is not what the head was read from.
    #[must_use]
    pub fn of_bytes(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// One field line.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub known: Known,
}

macro_rules! known_fields {
    ($($(#[$note:meta])* $variant:ident = $name:literal,)*) => {
        /// Names that the gateway acts on; everything else is `Other`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known { Other, $($(#[$note])* $variant,)* }

        impl Known {
            /// The field name in lower case; empty for `Other`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { Self::Other => "", $(Self::$variant => $name,)* }
            }

            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $name),)*];
        }
    };
}

known_fields! {
    Te = "te",
    Age = "age",
    Via = "via",
    Date = "date",
    Host = "host",
    ETag = "etag",
    Range = "range",
    Accept = "accept",
    Cookie = "cookie",
    Expect = "expect",
    Server = "server",
    Trailer = "trailer",
    Upgrade = "upgrade",
    IfMatch = "if-match",
    IfRange = "if-range",
    Location = "location",
    CdnLoop = "cdn-loop",
    Forwarded = "forwarded",
    XRealIp = "x-real-ip",
    Connection = "connection",
    KeepAlive = "keep-alive",
    SetCookie = "set-cookie",
    MaxForwards = "max-forwards",
    TraceParent = "traceparent",
    ContentType = "content-type",
    LastModified = "last-modified",
    Authorization = "authorization",
    IfNoneMatch = "if-none-match",
    XRequestId = "x-request-id",
    ContentLength = "content-length",
    AcceptEncoding = "accept-encoding",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedProto = "x-forwarded-proto",
    XForwardedPort = "x-forwarded-port",
    ProxyConnection = "proxy-connection",
    TransferEncoding = "transfer-encoding",
    IfModifiedSince = "if-modified-since",
    IfUnmodifiedSince = "if-unmodified-since",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ContentEncoding = "content-encoding",
    CacheControl = "cache-control",
    UserAgent = "user-agent",
    SecWebSocketKey = "sec-websocket-key",
    Referer = "referer",
}

/// Longest known name; a longer one is `Other` at once.
const KNOWN_NAME_MAX: usize = 19;

/// A name in one case, in three words: its first eight bytes, the eight behind them, its last eight
/// (shorter names are padded). Two names of one length are equal when these are.
type Folded = [u64; 3];

/// For each length and mix of two letters the known names that it can be: one comparison settles
/// nearly every name.
const BUCKETS: usize = (KNOWN_NAME_MAX + 1) * 32;
static TABLE: [[(Known, Folded); 2]; BUCKETS] = build_table();

const fn build_table() -> [[(Known, Folded); 2]; BUCKETS] {
    let mut table = [[(Known::Other, [0; 3]); 2]; BUCKETS];
    let mut index = 0;
    while index < Known::ALL.len() {
        let (known, name) = Known::ALL[index];
        let name = name.as_bytes();
        let bucket = bucket_of(name);
        let place = if matches!(table[bucket][0].0, Known::Other) { 0 } else { 1 };
        assert!(matches!(table[bucket][place].0, Known::Other), "three known names share one bucket: widen the table");
        table[bucket][place] = (known, fold(name));
        index += 1;
    }
    table
}

/// Sets the bit that makes capitals small. Of the bytes a field name may have, only `^` and `~`
/// meet, and no known name has either.
const CASE_BIT: u64 = 0x2020_2020_2020_2020;

#[inline]
const fn fold(name: &[u8]) -> Folded {
    let (mut first, mut second) = (0, 0);
    let last = match name.last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk) | CASE_BIT,
        None => 0,
    };
    match name.first_chunk::<8>() {
        Some(chunk) => first = u64::from_le_bytes(*chunk) | CASE_BIT,
        None => {
            let mut index = 0;
            while index < name.len() {
                first = first << 8 | (name[index] | 0x20) as u64;
                index += 1;
            }
        }
    }
    if let Some((_, rest)) = name.split_at_checked(8)
        && let Some(chunk) = rest.first_chunk::<8>()
    {
        second = u64::from_le_bytes(*chunk) | CASE_BIT;
    }
    [first, second, last]
}

/// Length, last and middle letter tell the known names apart.
#[inline]
const fn bucket_of(name: &[u8]) -> usize {
    let last = name[name.len() - 1] | 0x20;
    let middle = name[name.len() / 2] | 0x20;
    name.len() * 32 + ((last ^ middle.rotate_left(2)) & 31) as usize
}

impl Known {
    /// Which name this is, in any case. `name` is a token.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        if name.is_empty() || name.len() > KNOWN_NAME_MAX {
            return Self::Other;
        }
        let [(first, first_folded), (second, second_folded)] = &TABLE[bucket_of(name)];
        if *first == Self::Other {
            return Self::Other;
        }
        let folded = fold(name);
        if folded == *first_folded {
            return *first;
        }
        if *second != Self::Other && folded == *second_folded { *second } else { Self::Other }
    }

    /// Which name this is to a server that tells no sign from another ([`is_same_name`]).
    #[must_use]
    pub fn alike(name: &[u8]) -> Self {
        let exact = Self::of(name);
        if exact != Self::Other {
            return exact;
        }
        let mut hyphenated = [0; KNOWN_NAME_MAX];
        let Some(hyphenated) = hyphenated.get_mut(..name.len()) else { return Self::Other };
        for (to, &from) in hyphenated.iter_mut().zip(name) {
            *to = if from.is_ascii_alphanumeric() { from } else { b'-' };
        }
        Self::of(hyphenated)
    }
}

/// Both are one name to a CGI-like server: in any case, and with any sign for any other. Most of them
/// make an underscore of a hyphen, some of everything that is no letter and no digit.
#[must_use]
pub fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

/// RFC 9110 section 5.6.2.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| crate::token::is_token_byte(byte))
}

/// Elements of a `#list` (RFC 9110 section 5.6.1): split at commas outside quotes, white space
/// trimmed, empty elements skipped.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let mut quoted = false;
            let mut escaped = false;
            let end = rest.iter().position(|&byte| {
                if escaped {
                    escaped = false;
                    return false;
                }
                match byte {
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' => return !quoted,
                    _ => {}
                }
                false
            });
            let (element, after) = match end {
                Some(comma) => (&rest[..comma], &rest[comma + 1..]),
                None => (rest, &rest[rest.len()..]),
            };
            rest = after;
            let element = element.trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for &(known, name) in Known::ALL {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), known, "{name}");
            assert!(name.len() <= KNOWN_NAME_MAX, "{name}");
        }
        for name in ["", "hosts", "x", "content_length", "x-forwarded-fox", "averyveryverylongheadername"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name}");
        }
    }

    #[test]
    fn look_alikes_are_seen() {
        for &(known, name) in Known::ALL {
            assert_eq!(Known::alike(name.replace('-', "_").to_ascii_uppercase().as_bytes()), known, "{name}");
            assert_eq!(Known::alike(name.replacen('-', "_", 1).as_bytes()), known, "{name}");
            assert_eq!(Known::alike(name.replace('-', ".").as_bytes()), known, "{name}");
        }
        for name in ["", "x", "x_forwarded_fox", "averyveryverylong_header_name"] {
            assert_eq!(Known::alike(name.as_bytes()), Known::Other, "{name}");
        }
        assert!(is_same_name(b"X-Auth_User", b"x_auth-user"));
        for sign in b"!#$%&'*+-.^_`|~" {
            assert!(is_same_name(b"X-Auth-User", &[b"x", &[*sign], &b"Auth.user"[..]].concat()), "{sign}");
        }
        assert!(!is_same_name(b"X-Auth", b"X-Auth-User") && !is_same_name(b"X-Auth", b"XAuth"));
        assert!(!is_same_name(b"X-Auth1", b"X-Auth2") && !is_same_name(b"X-Auth", b"X1Auth"));
    }

    #[test]
    fn lists_split_outside_quotes() {
        let all: Vec<_> = list(b" a, \"b,\\\"c\" ,, d").collect();
        assert_eq!(all, [&b"a"[..], b"\"b,\\\"c\"", b"d"]);
    }
}
