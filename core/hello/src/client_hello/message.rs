//! The fields of a ClientHello (RFC 8446 section 4.1.2). Those that say nothing about where it wants to
//! go are stepped over, and still have to be whole: a server that understood them in another way would
//! find another name.

use std::net::IpAddr;
use std::ops::Range;

use super::Malformed;
use crate::limits::{EXTENSIONS_MAX, LABEL_BYTES_MAX, SERVER_NAME_BYTES_MAX};
use crate::reader::Reader;

const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;

/// Types of extensions, and of names.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// Where in the message things lie.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) server_name: Option<Range<usize>>,
    pub(super) alpn: Range<usize>,
}

pub(super) fn read(body: &[u8]) -> Result<Places, Malformed> {
    let mut fields = Reader(body);
    let mut places = Places::default();
    let version = fields.u16().ok_or(Malformed::Field)?;
    if version >> 8 != 3 {
        return Err(Malformed::Version);
    }
    fields.take(RANDOM_BYTES).ok_or(Malformed::Field)?;
    fields.short().filter(|session_id| session_id.len() <= SESSION_ID_BYTES_MAX).ok_or(Malformed::Field)?;
    fields.long().filter(|suites| !suites.is_empty() && suites.len().is_multiple_of(2)).ok_or(Malformed::Field)?;
    fields.short().filter(|compressions| !compressions.is_empty()).ok_or(Malformed::Field)?;
    // Before TLS 1.3 a hello may end here (RFC 5246 section 7.4.1.2).
    if fields.is_empty() {
        return Ok(places);
    }
    let mut extensions = fields.long().filter(|_| fields.is_empty()).map(Reader).ok_or(Malformed::Field)?;
    let mut seen = [0; EXTENSIONS_MAX];
    let mut count = 0;
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or(Malformed::Field)?;
        let data = extensions.long().ok_or(Malformed::Field)?;
        if seen.iter().take(count).any(|&other| other == kind) {
            return Err(Malformed::RepeatedExtension);
        }
        *seen.get_mut(count).ok_or(Malformed::TooManyExtensions)? = kind;
        count += 1;
        // Extensions end where the message ends, and what is looked for ends where its extension does.
        let end = body.len() - extensions.0.len();
        match kind {
            SERVER_NAME => places.server_name = server_name(data, end)?,
            ALPN => places.alpn = end - protocols(data)?.len()..end,
            _ => {}
        }
    }
    Ok(places)
}

/// Where the one name lies in an extension that ends at `end`. Other types of names are not defined,
/// not even how long they are (RFC 6066 section 3).
fn server_name(data: &[u8], end: usize) -> Result<Option<Range<usize>>, Malformed> {
    let mut data = Reader(data);
    let mut list = data.long().filter(|_| data.is_empty()).map(Reader).ok_or(Malformed::ServerName)?;
    if list.u8() != Some(HOST_NAME) {
        return Err(Malformed::ServerName);
    }
    let name = list.long().filter(|_| list.is_empty()).ok_or(Malformed::ServerName)?;
    if name.len() > SERVER_NAME_BYTES_MAX {
        return Err(Malformed::ServerName);
    }
    let start = end - name.len();
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_address = str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok());
    if is_address {
        return Ok(None);
    }
    if !is_host_name(name) {
        return Err(Malformed::ServerName);
    }
    Ok(Some(start..start + name.len()))
}

/// Names of hosts and, since they are asked for too, of other things in DNS: with underscores.
fn is_host_name(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'.').all(|label| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

/// The list of protocols, without its length (RFC 7301 section 3.1).
fn protocols(data: &[u8]) -> Result<&[u8], Malformed> {
    let mut data = Reader(data);
    let list = data.long().filter(|list| !list.is_empty() && data.is_empty()).ok_or(Malformed::Alpn)?;
    let mut names = Reader(list);
    while !names.is_empty() {
        names.short().filter(|name| !name.is_empty()).ok_or(Malformed::Alpn)?;
    }
    Ok(list)
}
