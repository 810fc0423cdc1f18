//! A connection that became a tunnel: bytes in both directions until both have ended.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use sumun_engine::Lease;

use super::{Ended, Exchange};
use crate::events::Reason;
use crate::io::Stream;

/// One direction.
struct Direction {
    /// Held only while there are bytes the other side has not taken.
    bytes: Option<Lease>,
    read_ended: bool,
    write_ended: bool,
    moved: u64,
}

/// Runs the tunnel. `early` is what the server sent behind its 101.
pub(super) async fn run(exchange: &mut Exchange<'_>, mut server: Stream, early: Lease, idle: Duration) -> Ended {
    let mut up = Direction::new(None);
    if !exchange.arrived.is_empty() {
        let mut lease = Lease::of(exchange.arrived.len());
        lease.append(exchange.arrived);
        up.bytes = Some(lease);
    }
    let mut down = Direction::new(Some(early).filter(|lease| !lease.is_empty()));
    exchange.set_deadline(idle);
    let ended = poll_fn(|context| {
        loop {
            let before = up.moved + down.moved;
            let up_result = up.poll(context, exchange.stream, &mut server);
            let down_result = down.poll(context, &mut server, exchange.stream);
            match (up_result, down_result) {
                (Poll::Ready(Err(())), _) | (_, Poll::Ready(Err(()))) => return Poll::Ready(Reason::TunnelClosed),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Reason::TunnelClosed),
                _ => {}
            }
            if up.moved + down.moved == before {
                break;
            }
            exchange.set_deadline(idle);
        }
        if exchange.deadline.passed() { Poll::Ready(Reason::TunnelClosed) } else { Poll::Pending }
    })
    .await;
    exchange.record.bytes_in += up.moved;
    exchange.record.bytes_out += down.moved;
    Ended::closing(ended)
}

impl Direction {
    fn new(bytes: Option<Lease>) -> Self {
        Self { bytes, read_ended: false, write_ended: false, moved: 0 }
    }

    /// Moves bytes until one side makes it wait. `Ready(Ok)`: this direction has ended in order.
    fn poll(&mut self, context: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Result<(), ()>> {
        loop {
            if let Some(lease) = &mut self.bytes {
                match to.poll_write(context, lease.filled()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(())),
                    Poll::Ready(Ok(count)) => {
                        self.moved += count as u64;
                        lease.consume(count);
                        if lease.is_empty() {
                            self.bytes = None;
                        }
                    }
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
            let mut lease = Lease::medium();
            match from.poll_read(context, lease.spare()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(count)) => {
                    lease.advance(count);
                    self.bytes = Some(lease);
                }
            }
        }
    }
}
