//! A request body is waited for before a server is asked.

use std::future::poll_fn;
use std::task::Poll;

use sumun_http::BodyLength;

use super::body::Body;
use super::{Ended, Exchange, Pace, answer};
use crate::events::Reason;
use crate::limits::COLLECT_PAUSE;

/// Waits for a body that trickles in, so that it holds no thread of an application server.
///
/// One without a length that pauses may be half of a conversation: its beginning goes to the server.
/// One of gRPC is that more often than not, and is not waited for at all.
pub(super) async fn whole(exchange: &mut Exchange<'_>, body: &mut Body<'_>) -> Result<(), Ended> {
    let pace = Pace::begin(exchange);
    let is_grpc = exchange.is_grpc();
    let pause_ms = match exchange.head.body {
        BodyLength::Chunked => COLLECT_PAUSE.as_millis() as u64,
        _ => u64::MAX,
    };
    while body.wants_collecting() {
        let mut due_ms = pace.due_ms(exchange.deadline, body.received);
        exchange.deadline.set_at(due_ms.min(exchange.deadline.now_ms().saturating_add(pause_ms)));
        let (stream, deadline, limit_ms) = (&mut *exchange.stream, exchange.deadline, exchange.limit_ms);
        let collected = poll_fn(|context| match body.poll_collect(context, stream) {
            Poll::Pending if is_grpc => Poll::Ready(None),
            Poll::Pending if body.waits_for_share() && deadline.now_ms() < limit_ms => {
                pace.pause(deadline);
                Poll::Pending
            }
            Poll::Pending => {
                if pace.go_on(deadline, body.received) {
                    due_ms = pace.due_ms(deadline, body.received);
                }
                if deadline.passed() { Poll::Ready(None) } else { Poll::Pending }
            }
            Poll::Ready(result) => Poll::Ready(Some(result)),
        })
        .await;
        match collected {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(answer::of_body_error(exchange, &error).await),
            None if exchange.deadline.now_ms() < due_ms => return Ok(()),
            None => return Err(answer::of_reason(exchange, Reason::BodyTimeout).await),
        }
    }
    Ok(())
}
