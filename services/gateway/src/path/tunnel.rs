//! A connection that became a tunnel: bytes in both directions until both have ended.
//!
//! A tunnel is a WebSocket. Its bytes are passed on unread, but for where its frames end: when the
//! time of a drain is over, both sides are told at such a place that we go away (RFC 6455 section 7.4.1).

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use sumun_engine::Lease;
use sumun_engine::pace::{DOWN, UP};
use sumun_http::ResponseHead;
use sumun_http::forward::{self, ConnectionLine, Framing, ResponsePlan};
use sumun_http::websocket::{Frames, GOING_AWAY, close_frame};

use super::bandwidth::{Paced, wake_at_next_tick};
use super::{Ended, Exchange};
use crate::events::Reason;
use crate::io::{self, Stream};
use crate::limits::{LINGER, LINGER_BYTES};
use crate::site::Route;
use crate::upstream::{LocalPool, ServerConnection};

/// One direction.
struct Direction {
    /// Held only while there are bytes the other side has not taken.
    bytes: Option<Lease>,
    read_ended: bool,
    write_ended: bool,
    moved: u64,
    /// Of what was written.
    frames: Frames,
    paced: Paced,
}

/// Passes a 101 on and becomes a tunnel.
pub(super) async fn begin(
    exchange: &mut Exchange<'_>,
    route: &Route,
    pool: &LocalPool,
    response: &ResponseHead,
    mut input: Lease,
    head_length: usize,
    mut connection: ServerConnection,
) -> Ended {
    let mut output = Vec::new();
    let plan = ResponsePlan {
        framing: Framing::Silent,
        connection: ConnectionLine::Websocket,
        date: b"",
        cookie: None,
        own_fields: &exchange.own_fields,
        hsts: exchange.hsts(),
        edits: &route.response_edits,
    };
    forward::write_response(&mut output, response, input.filled().get(..head_length).unwrap_or_default(), &plan);
    input.consume(head_length);
    exchange.record.status = 101;
    if io::write_all(exchange.stream, exchange.deadline, &output).await.is_err() {
        connection.stream.say_goodbye();
        return Ended::closing(Reason::ClientClosed);
    }
    exchange.site.cell.tunnels.increment();
    run(exchange, connection.stream, input, pool.config.timeouts.idle).await
}

/// Runs the tunnel. `early` is what the server sent behind its 101.
async fn run(exchange: &mut Exchange<'_>, mut server: Stream, early: Lease, idle: Duration) -> Ended {
    let mut up = Direction::new(None, Paced::new(exchange, UP));
    if !exchange.arrived.is_empty() {
        let mut lease = Lease::of(exchange.arrived.len());
        lease.append(exchange.arrived);
        up.bytes = Some(lease);
    }
    let mut down = Direction::new(Some(early).filter(|lease| !lease.is_empty()), Paced::new(exchange, DOWN));
    let mut paused = false;
    exchange.set_deadline(idle);
    poll_fn(|context| {
        if exchange.worker.is_over() {
            return Poll::Ready(());
        }
        loop {
            let before = up.moved + down.moved;
            let up_result = up.poll(context, exchange.stream, &mut server);
            let down_result = down.poll(context, &mut server, exchange.stream);
            match (up_result, down_result) {
                (Poll::Ready(Err(())), _) | (_, Poll::Ready(Err(()))) => return Poll::Ready(()),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(()),
                _ => {}
            }
            if up.moved + down.moved == before {
                break;
            }
            exchange.set_deadline(idle);
        }
        if up.paced.waits() || down.paced.waits() {
            // That is our doing: nobody is idle.
            paused = true;
            wake_at_next_tick(exchange.deadline, exchange.limit_ms);
            return if exchange.is_over_limit() { Poll::Ready(()) } else { Poll::Pending };
        }
        if std::mem::take(&mut paused) {
            exchange.set_deadline(idle);
        }
        if exchange.deadline.passed() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if exchange.worker.is_over() {
        take_leave(exchange, &mut server, &mut up, &mut down).await;
    }
    server.say_goodbye();
    exchange.record.bytes_in += up.moved;
    exchange.record.bytes_out += down.moved;
    Ended::closing(Reason::TunnelClosed)
}

/// Ends both directions behind a whole frame, the last one of ours: going away. Then what both sides
/// still send is read and thrown away until they close, since closing first would reset the
/// connection and take that frame with it.
async fn take_leave(exchange: &mut Exchange<'_>, server: &mut Stream, up: &mut Direction, down: &mut Direction) {
    let _taking_leave = exchange.worker.take_leave();
    exchange.deadline.set(LINGER);
    // There is no time to wait for shares.
    (up.paced, down.paced) = (Paced::default(), Paced::default());
    // A mask that can be guessed is no harm where nobody has chosen the payload (RFC 6455 section 10.3).
    let mask = fastrand::u32(..).to_be_bytes();
    let mut to_server = Some(close_frame(GOING_AWAY, Some(mask)));
    let mut to_client = Some(close_frame(GOING_AWAY, None));
    let mut left = LINGER_BYTES;
    poll_fn(|context| {
        let up_ended = up.poll_last(context, exchange.stream, server, &mut to_server);
        let down_ended = down.poll_last(context, server, exchange.stream, &mut to_client);
        let client_ended = up_ended.is_ready() && poll_throw_away(context, exchange.stream, &mut left).is_ready();
        let server_ended = down_ended.is_ready() && poll_throw_away(context, server, &mut left).is_ready();
        if (client_ended && server_ended) || exchange.deadline.passed() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Reads until the other side has ended, or has sent too much.
fn poll_throw_away(context: &mut Context<'_>, stream: &mut Stream, left: &mut usize) -> Poll<()> {
    while *left > 0 {
        let mut lease = Lease::small();
        match stream.poll_read(context, lease.spare()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(count)) => *left = left.saturating_sub(count),
        }
    }
    Poll::Ready(())
}

impl Direction {
    fn new(bytes: Option<Lease>, paced: Paced) -> Self {
        Self { bytes, read_ended: false, write_ended: false, moved: 0, frames: Frames::default(), paced }
    }

    /// Goes on to the end of the frame that has begun, then writes `last` and ends, whatever is left.
    /// `Ready` also where that cannot be done any more.
    fn poll_last(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        last: &mut Option<Vec<u8>>,
    ) -> Poll<()> {
        while !self.write_ended {
            // A write that is pending is finished first, with the same bytes.
            let owed = to.owed();
            if let Some(bytes) = last.take_if(|_| owed == 0 && self.frames.is_between()) {
                // A side that was told already hears nothing more.
                let close = if self.frames.is_closed() { Vec::new() } else { bytes };
                let mut lease = Lease::of(close.len());
                lease.append(&close);
                self.bytes = Some(lease);
            }
            match &mut self.bytes {
                Some(lease) if !lease.is_empty() => {
                    let bytes = lease.filled();
                    let whole = if last.is_some() { self.frames.rest_of_frame(bytes).max(owed) } else { bytes.len() };
                    match to.poll_write(context, bytes.get(..whole).unwrap_or_default()) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0) | Err(_)) => self.write_ended = true,
                        Poll::Ready(Ok(count)) => self.written(count),
                    }
                }
                _ if last.is_none() || self.read_ended => match to.poll_shutdown(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) => self.write_ended = true,
                },
                _ => match self.poll_fill(context, from) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(())) => self.read_ended = true,
                },
            }
        }
        Poll::Ready(())
    }

    fn written(&mut self, count: usize) {
        self.moved += count as u64;
        if let Some(lease) = &mut self.bytes {
            self.frames.advance(lease.filled().get(..count).unwrap_or_default());
            lease.consume(count);
            if lease.is_empty() {
                self.bytes = None;
            }
        }
    }

    /// Reads into a buffer of its own, or notes the end.
    fn poll_fill(&mut self, context: &mut Context<'_>, from: &mut Stream) -> Poll<Result<(), ()>> {
        let most = self.paced.allows();
        if most == 0 {
            return Poll::Pending;
        }
        let mut lease = Lease::medium();
        let spare = lease.spare();
        let room = spare.len().min(most);
        match from.poll_read(context, spare.get_mut(..room).unwrap_or_default()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
            Poll::Ready(Ok(0)) => self.read_ended = true,
            Poll::Ready(Ok(count)) => {
                lease.advance(count);
                self.paced.note(count);
                self.bytes = Some(lease);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves bytes until one side makes it wait. `Ready(Ok)`: this direction has ended in order.
    fn poll(&mut self, context: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Result<(), ()>> {
        loop {
            if let Some(lease) = &self.bytes {
                match to.poll_write(context, lease.filled()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(())),
                    Poll::Ready(Ok(count)) => self.written(count),
                }
                continue;
            }
            if self.read_ended {
                if !self.write_ended {
                    match to.poll_shutdown(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                        Poll::Ready(Ok(())) => self.write_ended = true,
                    }
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_fill(context, from) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(())) => return Poll::Ready(Err(())),
                Poll::Ready(Ok(())) => {}
            }
        }
    }
}
