//! The static table (RFC 7541 appendix A), each entry as the line it decodes to.

use sumun_http::Known;

use super::{LINE_OVERHEAD, Name, Pseudo};

/// An entry whose index is its place, counted from 1.
pub(super) struct Entry {
    pub(super) line: &'static str,
    pub(super) name_length: usize,
    pub(super) name: Name,
}

impl Entry {
    pub(super) fn value_length(&self) -> usize {
        self.line.len() - self.name_length - LINE_OVERHEAD
    }
}

/// Entries of the static table.
pub(super) const LENGTH: usize = 61;

macro_rules! entries {
    ($($name:literal $value:literal $kind:ident :: $which:ident;)*) => {
        &[$(Entry {
            line: concat!($name, ": ", $value, "\r\n"),
            name_length: $name.len(),
            name: entries!(@ $kind $which),
        },)*]
    };
    (@ Pseudo $which:ident) => { Name::Pseudo(Pseudo::$which) };
    (@ Known $which:ident) => { Name::Field(Known::$which) };
}

pub(super) static ENTRIES: &[Entry; LENGTH] = entries! {
    ":authority" "" Pseudo::Authority;
    ":method" "GET" Pseudo::Method;
    ":method" "POST" Pseudo::Method;
    ":path" "/" Pseudo::Path;
    ":path" "/index.html" Pseudo::Path;
    ":scheme" "http" Pseudo::Scheme;
    ":scheme" "https" Pseudo::Scheme;
    ":status" "200" Pseudo::Status;
    ":status" "204" Pseudo::Status;
    ":status" "206" Pseudo::Status;
    ":status" "304" Pseudo::Status;
    ":status" "400" Pseudo::Status;
    ":status" "404" Pseudo::Status;
    ":status" "500" Pseudo::Status;
    "accept-charset" "" Known::Other;
    "accept-encoding" "gzip, deflate" Known::AcceptEncoding;
    "accept-language" "" Known::Other;
    "accept-ranges" "" Known::Other;
    "accept" "" Known::Accept;
    "access-control-allow-origin" "" Known::Other;
    "age" "" Known::Age;
    "allow" "" Known::Other;
    "authorization" "" Known::Authorization;
    "cache-control" "" Known::CacheControl;
    "content-disposition" "" Known::Other;
    "content-encoding" "" Known::ContentEncoding;
    "content-language" "" Known::Other;
    "content-length" "" Known::ContentLength;
    "content-location" "" Known::Other;
    "content-range" "" Known::Other;
    "content-type" "" Known::ContentType;
    "cookie" "" Known::Cookie;
    "date" "" Known::Date;
    "etag" "" Known::ETag;
    "expect" "" Known::Expect;
    "expires" "" Known::Other;
    "from" "" Known::Other;
    "host" "" Known::Host;
    "if-match" "" Known::IfMatch;
    "if-modified-since" "" Known::IfModifiedSince;
    "if-none-match" "" Known::IfNoneMatch;
    "if-range" "" Known::IfRange;
    "if-unmodified-since" "" Known::IfUnmodifiedSince;
    "last-modified" "" Known::LastModified;
    "link" "" Known::Other;
    "location" "" Known::Location;
    "max-forwards" "" Known::MaxForwards;
    "proxy-authenticate" "" Known::ProxyAuthenticate;
    "proxy-authorization" "" Known::ProxyAuthorization;
    "range" "" Known::Range;
    "referer" "" Known::Referer;
    "refresh" "" Known::Other;
    "retry-after" "" Known::Other;
    "server" "" Known::Server;
    "set-cookie" "" Known::SetCookie;
    "strict-transport-security" "" Known::Other;
    "transfer-encoding" "" Known::TransferEncoding;
    "user-agent" "" Known::UserAgent;
    "vary" "" Known::Other;
    "via" "" Known::Via;
    "www-authenticate" "" Known::Other;
};

/// Buckets of the table from names to indices; with this many, no three names share one.
const BUCKETS: usize = 128;

/// For each bucket the first indices of the names in it; 0 is none.
static BY_NAME: [[u8; 2]; BUCKETS] = by_name();

const fn by_name() -> [[u8; 2]; BUCKETS] {
    let mut table = [[0; 2]; BUCKETS];
    let mut place = 0;
    while place < LENGTH {
        let entry = &ENTRIES[place];
        let is_first = place == 0 || !same_name(entry, &ENTRIES[place - 1]);
        if is_first {
            let bucket = bucket_of(entry.line.as_bytes(), entry.name_length);
            let free = if table[bucket][0] == 0 { 0 } else { 1 };
            assert!(table[bucket][free] == 0, "three names share one bucket: change the mix");
            table[bucket][free] = place as u8 + 1;
        }
        place += 1;
    }
    table
}

const fn same_name(one: &Entry, other: &Entry) -> bool {
    if one.name_length != other.name_length {
        return false;
    }
    let mut index = 0;
    while index < one.name_length {
        if one.line.as_bytes()[index] != other.line.as_bytes()[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// Length, first, middle and last letter tell the names apart.
const fn bucket_of(name: &[u8], length: usize) -> usize {
    let (first, middle, last) = (name[0] as usize, name[length / 2] as usize, name[length - 1] as usize);
    (length * 37 + first * 3 + middle * 9 + last) % BUCKETS
}

/// The lowest index with this name, which is in lower case; 0 where there is none.
#[inline]
pub(super) fn index_of_name(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    for index in BY_NAME[bucket_of(name, name.len())] {
        let Some(entry) = ENTRIES.get(usize::from(index).wrapping_sub(1)) else { return 0 };
        if entry.line.as_bytes().get(..entry.name_length) == Some(name) {
            return usize::from(index);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_names_agree() {
        for (place, entry) in ENTRIES.iter().enumerate() {
            let (name, rest) = entry.line.split_at(entry.name_length);
            assert!(rest.starts_with(": ") && rest.ends_with("\r\n"), "{name}");
            assert_eq!(rest.len() - LINE_OVERHEAD, entry.value_length());
            match entry.name {
                Name::Pseudo(_) => assert!(name.starts_with(':')),
                Name::Field(known) => assert_eq!(known, Known::of(name.as_bytes()), "{name}"),
            }
            let first = ENTRIES.iter().position(|other| other.line.split(": ").next() == Some(name));
            assert_eq!(Some(index_of_name(name.as_bytes()) - 1), first, "{place} {name}");
        }
        for name in ["", "x", "accept-rangez", "x-request-id", ":"] {
            assert_eq!(index_of_name(name.as_bytes()), 0, "{name}");
        }
        assert_eq!((ENTRIES[1].line, ENTRIES[60].line), (":method: GET\r\n", "www-authenticate: \r\n"));
    }
}
