//! A client that holds each byte against what it should be.

use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::things::{EDITION, Edition, Thing, World};

/// A new worker process needs its time, more so on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(30);

const PIECE_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) thing: Thing,
    pub(super) variant: u32,
    pub(super) is_head: bool,
    /// Of what is stored alone.
    pub(super) only_if_cached: bool,
    pub(super) range: Option<Range<u64>>,
    /// Goes away after so many bytes of the body.
    pub(super) leave_after: Option<u64>,
}

impl Ask {
    pub(super) fn whole(thing: Thing, variant: u32) -> Self {
        Self { thing, variant, is_head: false, only_if_cached: false, range: None, leave_after: None }
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Seen {
    /// All that came is right.
    Right {
        edition: Edition,
        is_hit: bool,
        bytes: u64,
    },
    /// It is not stored (504, where nothing else was asked for).
    NotStored,
    /// We went away; what had come was right.
    Left,
    /// It broke off, or there was an error in place of an answer.
    Broken(String),
    Wrong(String),
}

/// A connection that is opened anew where it has broken.
pub(super) struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    /// Before it was opened.
    kills: u64,
}

/// Why there is no right answer.
enum Fault {
    Broken(String),
    Wrong(String),
    Left,
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

fn broken(what: &str) -> Fault {
    Fault::Broken(what.to_owned())
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, kills: 0 }
    }

    /// Asks, and looks at every byte.
    pub(super) fn ask(&mut self, world: &World, ask: &Ask) -> Seen {
        let kills = world.kills.load(Ordering::SeqCst);
        if kills != self.kills {
            (self.connection, self.kills) = (None, kills);
        }
        let floor = world.floor(ask.thing);
        let (seen, keeps) = match self.try_ask(world, ask, floor) {
            Ok((seen, keeps)) => (seen, keeps),
            Err(Fault::Broken(why)) => (Seen::Broken(why), false),
            Err(Fault::Wrong(what)) => (Seen::Wrong(format!("{}: {what}", describe(ask))), false),
            Err(Fault::Left) => (Seen::Left, false),
        };
        if !keeps {
            self.connection = None;
        }
        seen
    }

    fn connected(&mut self) -> Result<&mut BufReader<TcpStream>, Fault> {
        if self.connection.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            self.connection = Some(BufReader::with_capacity(PIECE_BYTES, stream));
        }
        self.connection.as_mut().ok_or_else(|| broken("no connection"))
    }

    fn try_ask(&mut self, world: &World, ask: &Ask, floor: u32) -> Result<(Seen, bool), Fault> {
        let address = self.address;
        let connection = self.connected()?;
        connection.get_mut().write_all(request(address, ask).as_bytes())?;
        let head = Head::read(connection)?;
        if ask.only_if_cached && head.status == 504 {
            head.skip_body(connection, ask.is_head)?;
            return Ok((Seen::NotStored, head.keeps));
        }
        if head.status >= 500 {
            return Err(Fault::Broken(format!("status {}", head.status)));
        }
        let edition = head.edition.ok_or_else(|| Fault::Wrong(format!("status {} and no edition", head.status)))?;
        judge(edition, ask, floor, world)?;
        let wanted = head.wanted(ask, edition)?;
        let mut checker = Checker { world, edition, at: wanted.start, end: wanted.end, leave_at: ask.leave_after };
        if !ask.is_head {
            head.read_body(connection, &mut checker)?;
            if checker.at != checker.end {
                return Err(Fault::Wrong(format!("complete at {} of {wanted:?}, {edition:?}", checker.at)));
            }
        }
        let bytes = if ask.is_head { 0 } else { wanted.end - wanted.start };
        Ok((Seen::Right { edition, is_hit: head.is_hit, bytes }, head.keeps))
    }
}

fn request(address: SocketAddr, ask: &Ask) -> String {
    let method = if ask.is_head { "HEAD" } else { "GET" };
    let mut text = format!("{method} {} HTTP/1.1\r\nHost: {address}\r\nX-Kind: {}\r\n", ask.thing.path(), ask.variant);
    if ask.only_if_cached {
        text.push_str("Cache-Control: only-if-cached\r\n");
    }
    if let Some(range) = &ask.range {
        text.push_str(&format!("Range: bytes={}-{}\r\n", range.start, range.end.saturating_sub(1)));
    }
    text.push_str("\r\n");
    text
}

/// Whether this edition may be seen by who asks so now.
fn judge(edition: Edition, ask: &Ask, floor: u32, world: &World) -> Result<(), Fault> {
    let wrong = |what: &str| Err(Fault::Wrong(format!("{what}: {edition:?}")));
    if edition.thing != ask.thing {
        return wrong("another thing");
    }
    if edition.variant != ask.variant % ask.thing.variants() {
        return wrong("another variant");
    }
    if edition.version < floor {
        return wrong(&format!("purged up to version {floor}"));
    }
    if edition.version > world.version(ask.thing) || edition.length != ask.thing.length(edition.version) {
        return wrong("there never was such a version");
    }
    Ok(())
}

fn describe(ask: &Ask) -> String {
    let Ask { thing, variant, is_head, only_if_cached, range, .. } = ask;
    let method = if *is_head { "HEAD" } else { "GET" };
    format!("{method} {} variant {variant} range {range:?} only-if-cached {only_if_cached}", thing.path())
}

struct Head {
    status: u16,
    edition: Option<Edition>,
    length: Option<u64>,
    is_chunked: bool,
    content_range: Option<String>,
    is_hit: bool,
    keeps: bool,
}

/// Of a line of a head; ours are far shorter.
const LINE_MAX: u64 = 16 * 1024;

fn line(connection: &mut BufReader<TcpStream>) -> Result<String, Fault> {
    let mut line = String::new();
    connection.by_ref().take(LINE_MAX).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(broken("closed in a line"));
    }
    Ok(line.trim_end().to_owned())
}

impl Head {
    fn read(connection: &mut BufReader<TcpStream>) -> Result<Self, Fault> {
        let first = line(connection)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Fault::Wrong(format!("a status line {first:?}")))?;
        let mut head = Self {
            status,
            edition: None,
            length: None,
            is_chunked: false,
            content_range: None,
            is_hit: false,
            keeps: true,
        };
        loop {
            let line = line(connection)?;
            let Some((name, value)) = line.split_once(':') else { return Ok(head) };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                EDITION => head.edition = Edition::of_field(value),
                "content-length" => head.length = value.parse().ok(),
                "transfer-encoding" => head.is_chunked = true,
                "content-range" => head.content_range = Some(value.to_owned()),
                "cache-status" => head.is_hit = value.contains("; hit"),
                "connection" => head.keeps = !value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
    }

    /// Which bytes of the edition have to come.
    fn wanted(&self, ask: &Ask, edition: Edition) -> Result<Range<u64>, Fault> {
        let whole = edition.length;
        let wrong = |what: &str| Err(Fault::Wrong(format!("{what}, status {}, {edition:?}", self.status)));
        let wanted = match (self.status, &ask.range) {
            (200, _) => 0..whole,
            (206, Some(range)) if range.start < whole => {
                let end = range.end.min(whole);
                let expected = format!("bytes {}-{}/{whole}", range.start, end - 1);
                if self.content_range.as_ref() != Some(&expected) {
                    return wrong(&format!("Content-Range {:?} and not {expected}", self.content_range));
                }
                range.start..end
            }
            _ => return wrong("an unexpected status"),
        };
        match self.length {
            Some(length) if length != wanted.end - wanted.start => wrong(&format!("Content-Length {length}")),
            _ => Ok(wanted),
        }
    }

    fn read_body(&self, connection: &mut BufReader<TcpStream>, checker: &mut Checker<'_>) -> Result<(), Fault> {
        if self.is_chunked {
            loop {
                let size = line(connection)?;
                let size = u64::from_str_radix(&size, 16).map_err(|_| Fault::Wrong(format!("a chunk of {size:?}")))?;
                checker.take(connection, size)?;
                line(connection)?;
                if size == 0 {
                    return Ok(());
                }
            }
        }
        let length = self.length.ok_or_else(|| Fault::Wrong("a body without an end".to_owned()))?;
        checker.take(connection, length)
    }

    fn skip_body(&self, connection: &mut BufReader<TcpStream>, is_head: bool) -> Result<(), Fault> {
        let length = if is_head { 0 } else { self.length.unwrap_or(0) };
        std::io::copy(&mut connection.by_ref().take(length), &mut std::io::sink())?;
        Ok(())
    }
}

/// Holds a body against its edition.
struct Checker<'a> {
    world: &'a World,
    edition: Edition,
    at: u64,
    end: u64,
    leave_at: Option<u64>,
}

impl Checker<'_> {
    fn take(&mut self, connection: &mut BufReader<TcpStream>, bytes: u64) -> Result<(), Fault> {
        let mut left = bytes;
        let mut expected = vec![0; PIECE_BYTES];
        while left > 0 {
            let piece = match connection.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                piece => piece?,
            };
            if piece.is_empty() {
                return Err(Fault::Broken(format!("closed at {} of {}", self.at, self.end)));
            }
            let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = piece.get(..count).unwrap_or_default();
            let expected = expected.get_mut(..count).unwrap_or_default();
            self.edition.fill(self.at, expected);
            if piece != &*expected {
                let place = piece.iter().zip(&*expected).position(|(one, other)| one != other).unwrap_or(0);
                let found = self.world.whose(piece.get(place..).unwrap_or_default());
                let place = self.at + place as u64;
                return Err(Fault::Wrong(format!("byte {place} of {:?} is not its own: {found}", self.edition)));
            }
            self.at += count as u64;
            left -= count as u64;
            if self.at > self.end {
                return Err(Fault::Wrong(format!("longer than {}, {:?}", self.end, self.edition)));
            }
            connection.consume(count);
            if self.leave_at.is_some_and(|leave_at| self.at >= leave_at) {
                return Err(Fault::Left);
            }
        }
        Ok(())
    }
}
