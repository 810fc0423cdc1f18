//! Bytes in both directions until both have ended.
//!
//! A direction copies through a buffer that it holds only while the other side does not take its
//! bytes. One that fills its buffer again and again carries a bulk: there the kernel moves the bytes
//! (splice(2)), and none of them comes into this process, until little comes at a time. Who waits
//! for bytes holds neither a buffer nor a pipe.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sumun_engine::pipes::PipeLease;
use sumun_engine::{Deadline, Lease, Worker};

use crate::end::End;
use crate::events::Reason;
use crate::limits::{FULL_READS, REST, SMALL_MOVE_BYTES, SMALL_MOVES, SPLICE_BYTES};
use crate::metrics::ListenerCell;
use sumun_engine::pace::{Lane, Pace};

/// One direction.
#[derive(Debug)]
pub(crate) struct Direction {
    /// What has been read and not been written.
    held: Held,
    read: Reading,
    /// Nothing more is written: the end was passed on, or nobody takes it.
    write_ended: bool,
    /// The kernel could move the bytes.
    can_splice: bool,
    /// It does.
    is_bulk: bool,
    /// The end that has come is not passed on.
    keeps_end: bool,
    /// In a row: reads that filled their buffer; of a bulk, moves of little.
    streak: u8,
    /// Bytes that the other side has taken.
    pub(crate) moved: u64,
    lane: Lane,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Bytes(Lease),
    Pipe(PipeLease),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    GoesOn,
    Ended,
    Broken,
}

/// Both directions of a connection.
#[derive(Debug)]
pub(crate) struct Relay {
    /// From the client to the server.
    pub(crate) up: Direction,
    pub(crate) down: Direction,
    /// Who ended or broke off first.
    first: Option<Reason>,
}

impl Relay {
    pub(crate) fn new(client: &End, server: &End, pace: Option<&Rc<Pace>>) -> Self {
        let can_splice = client.socket().is_some() && server.socket().is_some();
        let direction = |index| Direction::new(can_splice, Lane::new(pace, index));
        Self { up: direction(0), down: direction(1), first: None }
    }

    /// Runs until both directions have ended, and says why; also when the server ends before anything was
    /// said, where another one may be asked. `first_byte` is called when the first byte of the server has
    /// reached the client.
    pub(crate) async fn run(
        &mut self,
        client: &mut End,
        server: &mut End,
        (worker, deadline): (&Worker, &Deadline),
        (idle, may_ask_another): (Duration, bool),
        cell: &ListenerCell,
        mut first_byte: impl FnMut(),
    ) -> Reason {
        let (idle_ms, rest_ms) = (idle.as_millis() as u64, REST.as_millis() as u64);
        let mut moved_at_ms = deadline.now_ms();
        let mut is_watched = false;
        poll_fn(|context| {
            if worker.is_over() {
                return Poll::Ready(Reason::Drained);
            }
            let tick = deadline.now_ms();
            self.up.lane.begin(tick);
            self.down.lane.begin(tick);
            loop {
                let before = (self.up.moved, self.down.moved);
                let now = || worker.clock.now_us().saturating_mul(1000);
                let up = self.up.poll(context, client, server, self.down.write_ended, &now);
                // An end that comes before everything else is not passed on yet: another server may be asked.
                let may_ask_another = may_ask_another && self.is_untouched();
                let is_last = self.up.write_ended;
                self.down.keeps_end = may_ask_another;
                let down = self.down.poll(context, server, client, is_last, &now);
                if before.1 == 0 && self.down.moved > 0 {
                    first_byte();
                }
                self.note_end();
                cell.bytes_in.add(self.up.moved - before.0);
                cell.bytes_out.add(self.down.moved - before.1);
                let is_over = (up.is_ready() && down.is_ready())
                    // Nobody is there to be given what the other side says.
                    || [(&self.up, up), (&self.down, down)]
                        .into_iter()
                        .any(|(direction, over)| over.is_ready() && direction.read == Reading::Broken)
                    || (may_ask_another && self.is_untouched() && self.down.read == Reading::Ended);
                if is_over {
                    return Poll::Ready(self.first.unwrap_or(Reason::ServerEnded));
                }
                if (self.up.moved, self.down.moved) == before {
                    break;
                }
                moved_at_ms = deadline.now_ms();
            }
            let now_ms = deadline.now_ms();
            let waits_for_share = self.up.lane.waits() || self.down.lane.waits();
            if waits_for_share {
                // That is our doing: nobody is idle.
                moved_at_ms = now_ms;
            }
            if now_ms > moved_at_ms.saturating_add(idle_ms) {
                return Poll::Ready(Reason::Idle);
            }
            if !is_watched && now_ms > moved_at_ms.saturating_add(rest_ms) {
                is_watched = true;
                client.watch();
                server.watch();
            }
            // Who waits for its share of a bandwidth looks again at the next tick.
            let next_ms = match () {
                () if waits_for_share => now_ms,
                () if is_watched => moved_at_ms.saturating_add(idle_ms),
                () => moved_at_ms.saturating_add(idle_ms.min(rest_ms)),
            };
            deadline.set_at(next_ms.saturating_add(1));
            Poll::Pending
        })
        .await
    }

    fn note_end(&mut self) {
        // What was broken says more than what came to its end before.
        let broken = match (self.up.is_broken(), self.down.is_broken()) {
            _ if matches!(self.first, Some(Reason::ClientReset | Reason::ServerReset)) => return,
            (Some(Broken::Reading), _) | (_, Some(Broken::Writing)) => Some(Reason::ClientReset),
            (_, Some(Broken::Reading)) | (Some(Broken::Writing), _) => Some(Reason::ServerReset),
            (None, None) => None,
        };
        let ended = || match (self.up.read, self.down.read) {
            (Reading::GoesOn, Reading::GoesOn) => None,
            (Reading::GoesOn, _) => Some(Reason::ServerEnded),
            _ => Some(Reason::ClientEnded),
        };
        self.first = broken.or(self.first).or_else(ended);
    }

    /// Nothing has gone from either side to the other, not even the client's end, which would be reason
    /// enough for a server to leave.
    pub(crate) fn is_untouched(&self) -> bool {
        self.up.moved == 0 && self.down.moved == 0 && self.up.read == Reading::GoesOn
    }

    /// What was taken from the client and no server has.
    pub(crate) fn take_unsent(&mut self) -> Option<Lease> {
        match std::mem::replace(&mut self.up.held, Held::Nothing) {
            Held::Bytes(lease) => Some(lease),
            Held::Nothing | Held::Pipe(_) => None,
        }
    }

    /// These come first on the way to the server.
    pub(crate) fn give_unsent(&mut self, unsent: Option<Lease>) {
        if let Some(lease) = unsent {
            self.up.held = Held::Bytes(lease);
        }
    }

    /// Bytes were taken from one side and have not reached the other.
    pub(crate) fn holds_bytes(&self) -> bool {
        [&self.up, &self.down].into_iter().any(|direction| !matches!(direction.held, Held::Nothing))
    }
}

/// Which side of a direction broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Reading,
    Writing,
}

impl Direction {
    fn new(can_splice: bool, lane: Lane) -> Self {
        Self {
            held: Held::Nothing,
            read: Reading::GoesOn,
            write_ended: false,
            can_splice,
            is_bulk: false,
            keeps_end: false,
            streak: 0,
            moved: 0,
            lane,
        }
    }

    fn is_broken(&self) -> Option<Broken> {
        match self.read {
            Reading::Broken => Some(Broken::Reading),
            Reading::GoesOn if self.write_ended => Some(Broken::Writing),
            Reading::GoesOn | Reading::Ended => None,
        }
    }

    /// Moves bytes until one side makes it wait. Ready: this direction is over. `is_last`: the other one
    /// is already.
    ///
    /// Where nobody takes the bytes any more it is over at once, and the other direction goes on: what
    /// that side said before it broke off is still to be heard.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut End,
        to: &mut End,
        is_last: bool,
        now_ns: &impl Fn() -> u64,
    ) -> Poll<()> {
        loop {
            let step = match (&self.held, self.read) {
                _ if self.write_ended => return Poll::Ready(()),
                (Held::Bytes(_), _) => self.poll_write(context, to),
                (Held::Pipe(_), _) => self.poll_empty(context, to),
                (Held::Nothing, Reading::Ended) if self.keeps_end => return Poll::Ready(()),
                (Held::Nothing, Reading::Ended) => self.poll_end(context, to, is_last),
                (Held::Nothing, Reading::Broken) => return Poll::Ready(()),
                (Held::Nothing, Reading::GoesOn) if self.is_bulk => self.poll_fill(context, from, now_ns),
                (Held::Nothing, Reading::GoesOn) => self.poll_read(context, from, now_ns),
            };
            if step.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, from: &mut End, now_ns: &impl Fn() -> u64) -> Poll<()> {
        // Looked at first: who waits needs no buffer.
        match from.poll_readable(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => self.read = Reading::Broken,
            Poll::Ready(Ok(())) => {
                let most = self.lane.allows(now_ns);
                if most == 0 {
                    return Poll::Pending;
                }
                let mut lease = Lease::medium();
                let spare = lease.spare();
                let room = spare.len().min(most);
                match from.poll_read(context, spare.get_mut(..room).unwrap_or_default()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => self.read = Reading::Broken,
                    Poll::Ready(Ok(0)) => self.read = Reading::Ended,
                    Poll::Ready(Ok(count)) => {
                        lease.advance(count);
                        self.lane.note(count, now_ns);
                        self.streak = if lease.spare().is_empty() { self.streak + 1 } else { 0 };
                        self.held = Held::Bytes(lease);
                        if self.can_splice && self.streak >= FULL_READS {
                            (self.is_bulk, self.streak) = (true, 0);
                        }
                        self.streak = self.streak.min(FULL_READS);
                    }
                }
            }
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, context: &mut Context<'_>, to: &mut End) -> Poll<()> {
        let Held::Bytes(lease) = &mut self.held else { return Poll::Ready(()) };
        match to.poll_write(context, lease.filled()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => self.write_ended = true,
            Poll::Ready(Ok(count)) => {
                self.moved += count as u64;
                lease.consume(count);
                if lease.is_empty() {
                    self.held = Held::Nothing;
                }
            }
        }
        Poll::Ready(())
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, from: &End, now_ns: &impl Fn() -> u64) -> Poll<()> {
        let most = self.lane.allows(now_ns).min(SPLICE_BYTES);
        if most == 0 {
            return Poll::Pending;
        }
        let (Some(mut pipe), Some(socket)) = (PipeLease::take(), from.socket()) else {
            self.is_bulk = false;
            return Poll::Ready(());
        };
        match socket.poll_readable_io(context, |socket| pipe.fill(socket, most)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => self.read = Reading::Broken,
            Poll::Ready(Ok(0)) => self.read = Reading::Ended,
            Poll::Ready(Ok(count)) => {
                self.lane.note(count, now_ns);
                self.streak = if count < SMALL_MOVE_BYTES { self.streak + 1 } else { 0 };
                if self.streak >= SMALL_MOVES {
                    (self.is_bulk, self.streak) = (false, 0);
                }
                self.held = Held::Pipe(pipe);
            }
        }
        Poll::Ready(())
    }

    fn poll_empty(&mut self, context: &mut Context<'_>, to: &End) -> Poll<()> {
        let (Held::Pipe(pipe), Some(socket)) = (&mut self.held, to.socket()) else { return Poll::Ready(()) };
        match socket.poll_writable_io(context, |socket| pipe.empty(socket)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => self.write_ended = true,
            Poll::Ready(Ok(count)) => {
                self.moved += count as u64;
                if pipe.held() == 0 {
                    self.held = Held::Nothing;
                }
            }
        }
        Poll::Ready(())
    }

    fn poll_end(&mut self, context: &mut Context<'_>, to: &mut End, is_last: bool) -> Poll<()> {
        // The socket is about to be closed, which says the same for one system call less; over TLS there
        // is more to say. One that cannot be told has gone already.
        let is_said = is_last && to.socket().is_some();
        let told = if is_said { Poll::Ready(()) } else { to.poll_shutdown(context).map(drop) };
        self.write_ended = told.is_ready();
        told
    }
}
