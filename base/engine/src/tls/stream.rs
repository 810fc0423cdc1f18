//! A connection over TLS, for one task of one worker.
//!
//! It holds a buffer only while something is in it: ciphertext of a record that is not complete,
//! plaintext that the caller had no room for, ciphertext that the kernel has not taken. An idle
//! connection holds none.
//!
//! One read of the socket serves as many records as came; one write carries up to three full
//! records, and with them what a handshake left to be said: the tickets of a server, the last
//! message of a client.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{HandshakeKind, ProtocolVersion};
use sumun_certificates::Leaf;

use super::failure::{Failure, Reason};
use super::limits::{RECORD_BYTES, WRITE_BYTES};
use super::metrics::{Counts, Tally};
use super::records::{Connection, Order, Progress, Sink, cut_off, has_record, record_bytes, reserve};
use super::server::HTTP_2;
use super::transport::Transport;
use crate::acme::TLS_PROTOCOL;
use crate::buffers::Lease;
use crate::limits::{LARGE_BUFFER_BYTES, SMALL_BUFFER_BYTES};

/// The first byte of every handshake record (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// See above.
pub struct TlsStream {
    transport: Transport,
    connection: Connection,
    /// Ciphertext that was read, not yet opened.
    incoming: Option<Lease>,
    /// Ciphertext that is to be sent.
    outgoing: Option<Lease>,
    /// Plaintext for the next read.
    plaintext: Option<Lease>,
    /// Bytes of the caller that lie in `outgoing`: it is told once they are sent.
    owed: usize,
    /// The kernel has taken some of what was encrypted of them.
    owed_begun: bool,
    /// The last read filled its buffer: the next one is worth a large one.
    reads_are_full: bool,
    /// Bytes of `incoming` that nothing more can be done with until others follow.
    looked_at: usize,
    /// The first bytes have been seen.
    begun: bool,
    /// The other side has said that nothing more comes.
    ended: bool,
    close_sent: bool,
    tally: Tally,
    /// The first thing that a server said behind the handshake was this failure's alert.
    refused: bool,
    failure: Option<Failure>,
}

/// What a handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Taken up again with a ticket: no certificate was shown.
    pub resumed: bool,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
}

/// What the other side does while it should wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The connection is broken.
    Gone,
    /// It has ended its direction.
    SendsNoMore,
    /// It has sent more already.
    SentMore,
}

impl TlsStream {
    pub(super) fn new(transport: Transport, connection: Connection, counts: Arc<Counts>, worker: usize) -> Self {
        Self {
            transport,
            connection,
            incoming: None,
            outgoing: None,
            plaintext: None,
            owed: 0,
            owed_begun: false,
            reads_are_full: false,
            looked_at: 0,
            begun: false,
            ended: false,
            close_sent: false,
            tally: Tally::new(counts, worker),
            refused: false,
            failure: None,
        }
    }

    /// Opens the connection. What is left to be sent afterwards goes with the first write, or as
    /// soon as a read has to wait.
    ///
    /// # Errors
    /// The connection cannot be used; the other side has been told why, if it listens.
    pub fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<Result<Session, Failure>> {
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            if let Some(failure) = self.not_tls() {
                return Poll::Ready(Err(self.fail(failure)));
            }
            match self.advance(Order::Handshake, &mut []) {
                Err(failure) => {
                    self.say_why(context);
                    return Poll::Ready(Err(failure));
                }
                Ok((Progress::Done, _)) => return Poll::Ready(Ok(self.session())),
                // It said goodbye before it had opened.
                Ok((Progress::Blocked, _)) if self.ended => {
                    return Poll::Ready(Err(self.fail(Failure::of_transport(&cut_off()))));
                }
                Ok((Progress::Blocked, _)) => {}
            }
            if let Err(error) = ready!(self.poll_send(context)) {
                return Poll::Ready(Err(self.fail(Failure::of_transport(&error))));
            }
            match ready!(self.poll_fill(context)) {
                Ok(0) => return Poll::Ready(Err(self.fail(Failure::of_transport(&cut_off())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.fail(Failure::of_transport(&error)))),
            }
        }
    }

    /// Whoever waited for the handshake gave up.
    pub fn give_up(&mut self) -> Failure {
        self.fail(Failure::new(Reason::Timeout, "the handshake took too long"))
    }

    /// A request in plain text is best answered in plain text: the socket, and what was read of it.
    #[must_use]
    pub fn into_plain(self) -> (Transport, Option<Lease>) {
        (self.transport, self.incoming)
    }

    /// Reads once. 0 is the end, said by the other side. That we have ended our direction
    /// ([`Self::poll_shutdown`]) ends only that.
    ///
    /// # Errors
    /// `UnexpectedEof`: it ended and nobody said so, what came may be cut short.
    pub fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.take(bytes) {
                Ok(Some(count)) => return Poll::Ready(Ok(count)),
                Ok(None) => {}
                Err(failure) => {
                    self.say_why(context);
                    return Poll::Ready(Err(failure.into()));
                }
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(cut_off())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_tidy(context),
            }
        }
    }

    /// Reads without waiting and without registering interest; what the other side says to TLS
    /// alone, such as tickets, is taken in on the way.
    ///
    /// # Errors
    /// `WouldBlock`, and as [`Self::poll_read`].
    pub fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(count) = self.take(bytes)? {
                return Ok(count);
            }
            let lease = room(&mut self.incoming, self.reads_are_full);
            let result = self.transport.try_read(lease.spare());
            if let Ok(count) = result {
                lease.advance(count);
            }
            release(&mut self.incoming);
            if result? == 0 {
                return Err(cut_off());
            }
        }
    }

    /// There are bytes, an end or an error to be read; of TLS itself, perhaps. May be wrong once
    /// after a full read.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.plaintext.is_some() || self.ended || self.failure.is_some() || self.has_record() {
            return Poll::Ready(Ok(()));
        }
        match self.transport.poll_readable(context) {
            Poll::Pending => self.poll_tidy(context),
            ready => ready,
        }
    }

    /// A server has said something behind the handshake, which in TLS 1.3 is the first sign that it
    /// accepts us; before that version the handshake itself is.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        !self.tally.is_opening() && !self.tally.is_unconfirmed()
    }

    /// Of a connection that has ended or takes no more: the alert by which a server refused us behind
    /// our handshake, if that is the first thing it said. A write that failed may have overtaken it.
    pub fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<Option<Failure>> {
        loop {
            if self.refused {
                return Poll::Ready(self.failure.clone());
            }
            let is_readable = self.failure.as_ref().is_none_or(|failure| failure.reason == Reason::Gone);
            if !self.tally.is_unconfirmed() || !is_readable {
                return Poll::Ready(None);
            }
            if self.has_record() {
                // Its failure, if it is one, is noted.
                self.advance(Order::Read, &mut []).ok();
                continue;
            }
            match ready!(self.poll_fill(context)) {
                Ok(0) | Err(_) => return Poll::Ready(None),
                Ok(_) => {}
            }
        }
    }

    /// Whether the other side has gone while it should wait. What it sent is kept for a read.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Peer> {
        loop {
            if self.plaintext.is_some() {
                return Poll::Ready(Peer::SentMore);
            }
            if self.ended {
                return Poll::Ready(Peer::SendsNoMore);
            }
            if self.failure.is_some() {
                return Poll::Ready(Peer::Gone);
            }
            if self.has_record() {
                if self.advance(Order::Read, &mut []).is_err() {
                    return Poll::Ready(Peer::Gone);
                }
                continue;
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Peer::SendsNoMore),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Peer::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Writes some of the bytes; those that are counted are with the kernel. While it is pending,
    /// the same bytes have to come first again, since some of them are encrypted already; more may
    /// follow them.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.owed == 0 && !bytes.is_empty() {
            let now = bytes.get(..WRITE_BYTES).unwrap_or(bytes);
            self.encrypt(now)?;
            self.owed = now.len();
        }
        self.poll_owed(context)
    }

    /// As [`Self::poll_write`], of several parts after each other. Small ones share a record.
    pub fn poll_write_vectored(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.owed == 0 {
            let mut gathered: Option<Lease> = None;
            for part in parts {
                let mut rest: &[u8] = part;
                while !rest.is_empty() && self.owed < WRITE_BYTES {
                    let waiting = gathered.as_ref().map_or(0, Lease::len);
                    if waiting == 0 && rest.len() >= RECORD_BYTES {
                        let now = rest.get(..WRITE_BYTES - self.owed).unwrap_or(rest);
                        // Whole records, and at least one: what is owed by now is whole records, too.
                        let now = now.get(..now.len() - now.len() % RECORD_BYTES).unwrap_or(now);
                        self.encrypt(now)?;
                        self.owed += now.len();
                        rest = rest.get(now.len()..).unwrap_or_default();
                        continue;
                    }
                    let (now, later) = rest.split_at(rest.len().min(RECORD_BYTES - waiting));
                    reserve(&mut gathered, now.len()).append(now);
                    rest = later;
                    if waiting + now.len() == RECORD_BYTES {
                        self.encrypt_gathered(&mut gathered)?;
                    }
                }
            }
            self.encrypt_gathered(&mut gathered)?;
        }
        self.poll_owed(context)
    }

    /// Says that nothing more comes, then ends our direction.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.close_sent && self.failure.is_none() && !self.connection.common().is_handshaking() {
            self.advance(Order::Close, &mut [])?;
        }
        self.close_sent = true;
        ready!(self.poll_send(context))?;
        self.transport.poll_shutdown(context)
    }

    /// As the PROXY protocol calls it (its section 2.2.6); `None` before the handshake is done.
    pub fn version(&self) -> Option<&'static str> {
        match self.connection.common().protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The socket below.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Closing this connection will reset it, so that what it carried is not taken for complete.
    pub fn reset_on_close(&self) {
        self.transport.reset_on_close();
    }

    /// Who the other side proved to be (RFC 4514); `None` where it showed no certificate, or one that
    /// names nobody.
    #[must_use]
    pub fn peer_subject(&self) -> Option<String> {
        let certificate = self.connection.common().peer_certificates()?.first()?;
        // It has been verified, so it can be read; and if not, then it is nobody's.
        let leaf = Leaf::parse(certificate).ok()?;
        (!leaf.subject.is_empty() && !leaf.subject_is_cut).then_some(leaf.subject)
    }

    /// Both sides agreed on HTTP/2 (RFC 7301); otherwise it is HTTP/1.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.connection.common().alpn_protocol() == Some(HTTP_2)
    }

    /// The other side looked for the proof that a name is ours, and has it with the handshake: nothing
    /// is said over this connection (RFC 8737 section 3).
    #[must_use]
    pub fn is_validation(&self) -> bool {
        self.connection.common().alpn_protocol() == Some(TLS_PROTOCOL)
    }

    /// Says, if the kernel takes it at once, that nothing more comes (RFC 8446 section 6.1): for a
    /// connection that nobody waits for any more, and on which everything was said.
    pub fn say_goodbye(&mut self) {
        let usable = self.failure.is_none() && !self.connection.common().is_handshaking();
        if self.close_sent || !usable || self.advance(Order::Close, &mut []).is_err() {
            return;
        }
        self.close_sent = true;
        if let Some(lease) = self.outgoing.take() {
            // What it does not take is what a client that has gone would not have read either.
            self.transport.try_write(lease.filled()).ok();
        }
    }

    /// A record has begun and its end is not here.
    #[must_use]
    pub fn has_part_of_record(&self) -> bool {
        self.incoming.is_some()
    }

    /// Bytes of the buffers that it holds now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        [&self.incoming, &self.outgoing, &self.plaintext].into_iter().flatten().map(Lease::capacity).sum()
    }

    fn session(&mut self) -> Session {
        let common = self.connection.common();
        let session = Session {
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
        };
        // In TLS 1.3 a server looks at our certificate when we are done already (RFC 8446 section 2).
        let is_final = matches!(self.connection, Connection::Server(_)) || session.version == "TLSv1.2";
        self.tally.done(session.resumed, is_final);
        session
    }

    /// Looks at the first byte of a client, once.
    fn not_tls(&mut self) -> Option<Failure> {
        if self.begun || matches!(self.connection, Connection::Client(_)) {
            return None;
        }
        let first = *self.incoming.as_ref()?.filled().first()?;
        self.begun = true;
        (first != HANDSHAKE_RECORD).then(|| Failure::new(Reason::NotTls, "what came is no TLS"))
    }

    /// A record is here that has not been looked at.
    fn has_record(&self) -> bool {
        let incoming = self.incoming.as_ref();
        incoming.is_some_and(|lease| lease.len() > self.looked_at) && has_record(incoming)
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        if self.tally.is_unconfirmed() && failure.alert.is_some() {
            self.refused = true;
            self.tally.failed(failure.reason);
            // A write may have failed before this was read: it is why.
            return self.failure.insert(failure).clone();
        }
        if self.tally.is_opening() {
            self.tally.failed(failure.reason);
        }
        self.failure.get_or_insert(failure).clone()
    }

    /// Carries out an order, and says how much of `bytes` was filled.
    fn advance(&mut self, order: Order<'_>, bytes: &mut [u8]) -> Result<(Progress, usize), Failure> {
        let mut sink = Sink { bytes, filled: 0, rest: &mut self.plaintext };
        let (incoming, outgoing) = (&mut self.incoming, &mut self.outgoing);
        let result = self.connection.advance(order, incoming, outgoing, &mut sink, &mut self.ended);
        let filled = sink.filled;
        match result {
            Ok(progress) => {
                if self.ended {
                    self.incoming = None;
                }
                release(&mut self.incoming);
                if matches!(order, Order::Read) {
                    self.tally.confirm();
                }
                // A read may stop for want of room, everything else only for want of records.
                let all = !matches!((order, progress), (Order::Read | Order::Handshake, Progress::Done));
                self.looked_at = self.incoming.as_ref().filter(|_| all).map_or(0, Lease::len);
                Ok((progress, filled))
            }
            Err(error) => {
                self.connection.take_alert(&mut self.incoming, &mut self.outgoing);
                self.incoming = None;
                Err(self.fail(Failure::of_tls(&error)))
            }
        }
    }

    /// What can be read without the socket; `None` where it takes more ciphertext.
    fn take(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, Failure> {
        if let Some(lease) = &mut self.plaintext {
            let count = lease.len().min(bytes.len());
            if let (Some(to), Some(from)) = (bytes.get_mut(..count), lease.filled().get(..count)) {
                to.copy_from_slice(from);
            }
            lease.consume(count);
            release(&mut self.plaintext);
            return Ok(Some(count));
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.has_record() {
            match self.advance(Order::Read, bytes) {
                Ok((_, 0)) => {}
                Ok((_, filled)) => return Ok(Some(filled)),
                Err(failure) => return Err(failure),
            }
            // The caller had no room at all.
            if self.plaintext.is_some() {
                return Ok(Some(0));
            }
        }
        Ok(self.ended.then_some(0))
    }

    /// Reads ciphertext: 0 is the end of the transport.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let lease = room(&mut self.incoming, self.reads_are_full);
        let spare = lease.spare().len();
        let result = self.transport.poll_read(context, lease.spare());
        if let Poll::Ready(Ok(count)) = result {
            lease.advance(count);
            self.reads_are_full = count == spare;
        }
        release(&mut self.incoming);
        result
    }

    /// One try: whoever does not take an alert at once does not wait for it.
    fn say_why(&mut self, context: &mut Context<'_>) {
        if self.poll_send(context).is_pending() {
            self.outgoing = None;
        }
    }

    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        if self.close_sent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match self.advance(Order::Write(bytes), &mut [])? {
            (Progress::Done, _) => Ok(()),
            (Progress::Blocked, _) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn encrypt_gathered(&mut self, gathered: &mut Option<Lease>) -> io::Result<()> {
        if let Some(lease) = gathered.take() {
            self.encrypt(lease.filled())?;
            self.owed += lease.len();
        }
        Ok(())
    }

    fn poll_owed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What was to be sent is gone where it could not be sent: nothing of it counts as written.
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(failure.clone().into()));
        }
        if let Err(error) = ready!(self.poll_send(context)) {
            self.fail(Failure::of_transport(&error));
            return Poll::Ready(Err(error));
        }
        self.owed_begun = false;
        Poll::Ready(Ok(std::mem::take(&mut self.owed)))
    }

    /// Bytes of a write that has not come back, or has failed, may be with the other side already.
    #[must_use]
    pub fn has_sent_part(&self) -> bool {
        self.owed_begun
    }

    /// Bytes of a write that is pending: they have to come first again.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed
    }

    /// Sends all that is to be sent.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(lease) = &mut self.outgoing {
            match ready!(self.transport.poll_write(context, lease.filled())) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    lease.consume(count);
                    self.owed_begun |= self.owed > 0;
                }
                Err(error) => {
                    self.outgoing = None;
                    return Poll::Ready(Err(error));
                }
            }
            release(&mut self.outgoing);
        }
        Poll::Ready(Ok(()))
    }

    /// Before a wait for the other side: it may be waiting for what we still have to say.
    fn poll_tidy<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

/// A buffer with room for the rest of the first record, or for more where much is coming.
fn room(incoming: &mut Option<Lease>, reads_are_full: bool) -> &mut Lease {
    let Some(lease) = incoming else {
        let bytes = if reads_are_full { LARGE_BUFFER_BYTES } else { SMALL_BUFFER_BYTES };
        return incoming.insert(Lease::of(bytes));
    };
    let missing = record_bytes(lease.filled()).saturating_sub(lease.len());
    // A message of a handshake may span records, which stay here until it is complete.
    let wanted = if missing == 0 { SMALL_BUFFER_BYTES } else { missing };
    // Moving the few bytes of a record that began is cheaper than a short read.
    if lease.spare().len() < lease.capacity() / 2 {
        lease.compact();
    }
    reserve(incoming, wanted)
}

fn release(lease: &mut Option<Lease>) {
    if lease.as_ref().is_some_and(Lease::is_empty) {
        *lease = None;
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsStream")
            .field("transport", &self.transport)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
