//! Traces in flight to a pool: a traceparent (W3C Trace Context) that comes a second time, from
//! another client, while the first is still there is a call of the pool to itself.
//!
//! The same client's are its own: a browser that takes part in tracing sends all requests of a page
//! in one trace. An application that calls itself on behalf of a request passes the trace on, but
//! connects from its own address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{TRACE_SHARDS, TRACES_PER_SHARD_MAX};

/// Traces in flight by their hash.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    shards: [Mutex<HashMap<u64, InFlight>>; TRACE_SHARDS],
}

/// The requests of one trace.
#[derive(Debug)]
struct InFlight {
    /// Who sent the first of them; `None` for a client without an address. It stays as long as any
    /// of them is here: the first may be answered before those that it has led to.
    client: Option<IpAddr>,
    count: u32,
}

/// A trace in flight, until it is dropped.
#[derive(Debug)]
pub struct TraceGuard {
    traces: Arc<Traces>,
    /// `None` where the set had no room.
    hash: Option<u64>,
    is_self_call: bool,
}

impl TraceGuard {
    /// The same trace was in flight to this pool before, and another client had sent it.
    pub const fn is_self_call(&self) -> bool {
        self.is_self_call
    }
}

impl Traces {
    pub(crate) fn enter(self: &Arc<Self>, hash: u64, client: Option<IpAddr>) -> TraceGuard {
        let client = client.map(|client| client.to_canonical());
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let room = shard.len() < TRACES_PER_SHARD_MAX;
        let (hash, is_self_call) = match shard.get_mut(&hash) {
            Some(trace) => {
                trace.count += 1;
                (Some(hash), trace.client != client)
            }
            None if room => {
                shard.insert(hash, InFlight { client, count: 1 });
                (Some(hash), false)
            }
            None => (None, false),
        };
        drop(shard);
        TraceGuard { traces: Arc::clone(self), hash, is_self_call }
    }

    fn shard(&self, hash: u64) -> &Mutex<HashMap<u64, InFlight>> {
        &self.shards[hash as usize % TRACE_SHARDS]
    }
}

impl Drop for TraceGuard {
    fn drop(&mut self) {
        let Some(hash) = self.hash else { return };
        let mut shard = self.traces.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = shard.get_mut(&hash) {
            trace.count -= 1;
            if trace.count == 0 {
                shard.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn browser() -> Option<IpAddr> {
        "192.0.2.1".parse().ok()
    }

    fn application() -> Option<IpAddr> {
        "192.0.2.99".parse().ok()
    }

    #[test]
    fn another_clients_is_seen_until_the_last_is_gone() {
        let traces = Arc::new(Traces::default());
        let page = traces.enter(7, browser());
        assert!(!page.is_self_call());
        assert!(!traces.enter(8, application()).is_self_call());
        let call = traces.enter(7, application());
        assert!(call.is_self_call());
        // The page is there, its call goes on.
        drop(page);
        assert!(traces.enter(7, application()).is_self_call());
        assert!(traces.enter(7, None).is_self_call());
        assert!(!traces.enter(7, browser()).is_self_call());
        drop(call);
        assert!(!traces.enter(7, application()).is_self_call());
    }

    #[test]
    fn a_client_may_use_its_trace_again() {
        let traces = Arc::new(Traces::default());
        let page: Vec<TraceGuard> = (0..10).map(|_| traces.enter(7, browser())).collect();
        assert!(page.iter().all(|guard| !guard.is_self_call()));
        // The same address, as a socket for both families has it.
        assert!(!traces.enter(7, "::ffff:192.0.2.1".parse().ok()).is_self_call());
    }

    #[test]
    fn a_full_shard_forgets_new_ones() {
        let traces = Arc::new(Traces::default());
        let hashes = (0..TRACES_PER_SHARD_MAX as u64).map(|number| number * TRACE_SHARDS as u64);
        let guards: Vec<TraceGuard> = hashes.map(|hash| traces.enter(hash, browser())).collect();
        let beyond = (TRACES_PER_SHARD_MAX * TRACE_SHARDS) as u64;
        let _first = traces.enter(beyond, browser());
        assert!(!traces.enter(beyond, application()).is_self_call());
        drop(guards);
        let _again = traces.enter(beyond, browser());
        assert!(traces.enter(beyond, application()).is_self_call());
    }
}
