//! rustls without its buffers: records in, records and plaintext out.

use std::io;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, Error, InvalidMessage};

use super::limits::{HANDSHAKE_BYTES, RECORD_BYTES, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES, RECORD_WIRE_BYTES};
use crate::buffers::Lease;

/// Either side of a connection.
pub(super) enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is to be done once nothing else is in the way.
#[derive(Clone, Copy)]
pub(super) enum Order<'a> {
    /// Stop as soon as application data may flow.
    Handshake,
    /// Take plaintext.
    Read,
    /// Encrypt this.
    Write(&'a [u8]),
    /// Tell the other side that nothing more comes (RFC 8446 section 6.1).
    Close,
}

/// How far it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing more can be done with the records that are here.
    Blocked,
    /// The order was carried out; of reading: the sink is full.
    Done,
}

/// Where plaintext goes: the caller's buffer, and what does not fit into it to the connection's own.
pub(super) struct Sink<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) filled: usize,
    pub(super) rest: &'a mut Option<Lease>,
}

impl Sink<'_> {
    fn take(&mut self, plaintext: &[u8]) {
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
        // Behind what waits already, nothing may overtake.
        let direct = if self.rest.is_some() { 0 } else { room.len().min(plaintext.len()) };
        let (now, later) = plaintext.split_at(direct);
        if let Some(room) = room.get_mut(..direct) {
            room.copy_from_slice(now);
            self.filled += direct;
        }
        if !later.is_empty() {
            append(self.rest, later);
        }
    }

    fn room(&self) -> usize {
        if self.rest.is_some() { 0 } else { self.bytes.len() - self.filled }
    }
}

/// Appends all of it; the buffer grows as needed.
fn append(lease: &mut Option<Lease>, bytes: &[u8]) {
    reserve(lease, bytes.len()).append(bytes);
}

/// With at least this much room behind what is filled.
pub(super) fn reserve(lease: &mut Option<Lease>, bytes: usize) -> &mut Lease {
    let mut held = lease.take().unwrap_or_else(|| Lease::of(bytes));
    if held.spare().len() < bytes {
        held.compact();
    }
    if held.spare().len() < bytes {
        let wanted = held.len() + bytes;
        held = held.grown(wanted);
    }
    lease.insert(held)
}

/// Whether the first record is here as a whole, or never will be; what it is does not matter.
pub(super) fn has_record(incoming: Option<&Lease>) -> bool {
    incoming.is_some_and(|lease| {
        let bytes = record_bytes(lease.filled());
        lease.len() >= bytes || bytes > RECORD_WIRE_BYTES
    })
}

/// Bytes of the first record with its header; of the header where that is not complete.
pub(super) fn record_bytes(filled: &[u8]) -> usize {
    match filled {
        [_, _, _, high, low, ..] => RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])),
        _ => RECORD_HEADER_BYTES,
    }
}

/// What one step of rustls came to.
enum Step {
    Again,
    Blocked,
    Done,
    PeerClosed,
}

impl Connection {
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }

    /// Carries out the order as far as the records in `incoming` allow. `outgoing` takes what is
    /// to be sent. `closed` turns true once the other side has said that nothing more comes.
    pub(super) fn advance(
        &mut self,
        order: Order<'_>,
        incoming: &mut Option<Lease>,
        outgoing: &mut Option<Lease>,
        sink: &mut Sink<'_>,
        closed: &mut bool,
    ) -> Result<Progress, Error> {
        loop {
            if matches!(order, Order::Read) && !sink.bytes.is_empty() && is_enough(sink, incoming.as_ref()) {
                return Ok(Progress::Done);
            }
            let bytes = incoming.as_mut().map(Lease::filled_mut).unwrap_or_default();
            let (discard, step) = match self {
                Self::Server(connection) => handle(connection.process_tls_records(bytes), order, outgoing, sink),
                Self::Client(connection) => handle(connection.process_tls_records(bytes), order, outgoing, sink),
            };
            if let Some(lease) = incoming {
                lease.consume(discard);
            }
            let step = step?;
            // Its last messages are taken along: nothing else would ask rustls for them.
            if matches!(order, Order::Handshake) && !self.common().is_handshaking() && !self.common().wants_write() {
                return Ok(Progress::Done);
            }
            match step {
                Step::Again => {}
                Step::Done => return Ok(Progress::Done),
                Step::PeerClosed => *closed = true,
                Step::Blocked => {
                    if incoming.as_ref().is_some_and(|lease| lease.len() >= HANDSHAKE_BYTES) {
                        return Err(Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge));
                    }
                    return Ok(Progress::Blocked);
                }
            }
        }
    }

    /// After an error: the alert that says so to the other side (RFC 8446 section 6.2).
    pub(super) fn take_alert(&mut self, incoming: &mut Option<Lease>, outgoing: &mut Option<Lease>) {
        let mut nothing = None;
        let mut sink = Sink { bytes: &mut [], filled: 0, rest: &mut nothing };
        // What waits comes before anything else, and nothing else may be done any more.
        while self.common().wants_write() {
            let bytes = incoming.as_mut().map(Lease::filled_mut).unwrap_or_default();
            let order = Order::Handshake;
            let (_, step) = match self {
                Self::Server(connection) => handle(connection.process_tls_records(bytes), order, outgoing, &mut sink),
                Self::Client(connection) => handle(connection.process_tls_records(bytes), order, outgoing, &mut sink),
            };
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }
}

/// The caller has got something, and the next record would not fit.
fn is_enough(sink: &Sink<'_>, incoming: Option<&Lease>) -> bool {
    let next_fits = incoming.is_none_or(|lease| record_bytes(lease.filled()) <= sink.room());
    sink.rest.is_some() || (sink.filled > 0 && !next_fits)
}

fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    order: Order<'_>,
    outgoing: &mut Option<Lease>,
    sink: &mut Sink<'_>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut result = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        sink.take(record.payload);
                    }
                    Err(error) => result = Err(error),
                }
            }
            result
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => loop {
            let wanted = match data.encode(outgoing.as_mut().map(Lease::spare).unwrap_or_default()) {
                Ok(written) => {
                    if let Some(lease) = outgoing {
                        lease.advance(written);
                    }
                    break Ok(Step::Again);
                }
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => required_size,
                Err(error) => break Err(Error::General(error.to_string())),
            };
            reserve(outgoing, wanted);
        },
        // It is in `outgoing`, and goes out in order.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match order {
            Order::Handshake | Order::Read => Ok(Step::Blocked),
            Order::Write(plaintext) => {
                let records = plaintext.len().div_ceil(RECORD_BYTES);
                encrypt(outgoing, plaintext.len() + records * RECORD_OVERHEAD_BYTES, |spare| {
                    traffic.encrypt(plaintext, spare)
                })
            }
            Order::Close => encrypt(outgoing, RECORD_OVERHEAD_BYTES, |spare| traffic.queue_close_notify(spare)),
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        // Both sides have said so: there is nothing that could be written.
        Ok(ConnectionState::Closed) => match order {
            Order::Write(_) => Err(Error::General("the connection is closed".to_owned())),
            _ => Ok(Step::Blocked),
        },
        // Early data is not offered, and what may come later is not asked for.
        Ok(_) => Err(Error::General("an unexpected state".to_owned())),
    };
    (discard, step)
}

/// Encrypts into `outgoing`, which gets room for so many bytes at first.
fn encrypt(
    outgoing: &mut Option<Lease>,
    mut room: usize,
    mut into: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<Step, Error> {
    loop {
        let lease = reserve(outgoing, room);
        match into(lease.spare()) {
            Ok(written) => {
                lease.advance(written);
                return Ok(Step::Done);
            }
            // Something that was waiting goes first.
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size;
            }
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Server(_) => "Server",
            Self::Client(_) => "Client",
        })
    }
}

/// A connection that ended without the other side saying so: what it sent may be cut short.
pub(super) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended without close_notify")
}
