//! The gateway's counters as families, for whoever publishes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumun_engine::telemetry::{Family, names};

use crate::control::Gateway;
use crate::events::Side;
use crate::metrics::Metrics;
use crate::rooms::RoomTotal;

/// Labels of the statuses' first digit.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Gateway {
    /// All counters, and the connections that are open now.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut connections = Family::gauge(names::LISTENER_CONNECTIONS, "Connections of clients that are open now.");
        for (listener, count) in self.connections() {
            connections.push(&[("listener", &listener)], u64::from(count));
        }
        let mut refused = Family::counter(
            names::LISTENER_REFUSED,
            "Connections that were closed unanswered: a bound in all (full), for one client (client), its rate (rate), allow and deny (denied), or own limits (own_limits).",
        );
        for (listener, causes) in self.refused_connections() {
            for (cause, count) in causes {
                refused.push(&[("listener", &listener), ("cause", &cause.into())], count);
            }
        }
        let blocks = &self.blocks;
        let blocked = [
            Family::gauge("sumun_blocks", "Clients that are blocked now.").with(blocks.count()),
            Family::counter("sumun_blocks_begun_total", "Clients that were blocked by a rule.").with(blocks.begun()),
            Family::counter("sumun_blocked_total", "Requests and connections of blocked clients that were refused.")
                .with(blocks.refused()),
        ];
        let mut families = self.metrics.families();
        families.extend(blocked);
        families.push(connections);
        families.push(refused);
        families.extend(self.room_families());
        families.extend(self.cache_families());
        families.extend(super::storage::families(self.volumes().as_ref()));
        families.extend(self.shared_families());
        families
    }

    fn shared_families(&self) -> [Family; 4] {
        let (commands, failures) = self.redis.counts();
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut keys = Family::counter(
            "sumun_shared_keys_total",
            "Keys of shared limits of which other gateways were told (told), and those of which they were not (lost).",
        );
        keys.push(&[("result", &"told".into())], told(&self.told.keys));
        keys.push(&[("result", &"lost".into())], told(&self.told.lost));
        [
            Family::gauge("sumun_shared_up", "1 while what gateways share is reached.")
                .with(u64::from(self.redis.is_up())),
            Family::counter("sumun_shared_commands_total", "Commands that were answered there.").with(commands),
            Family::counter(
                "sumun_shared_failures_total",
                "Connections there that could not be had, or broke, and scripts that it refused.",
            )
            .with(failures),
            keys,
        ]
    }

    fn cache_families(&self) -> [Family; 5] {
        let report = self.cache_report();
        let mut requests = Family::counter(
            "sumun_cache_requests_total",
            "Requests on routes that cache: answered with what was stored (hit), stale while it was fetched anew (stale), fetched (miss), waited for somebody else's answer (collapsed), gone past (pass).",
        );
        let results = [
            ("hit", report.hits),
            ("stale", report.stale_hits),
            ("miss", report.misses),
            ("collapsed", report.collapsed),
            ("pass", report.passes),
        ];
        for (result, count) in results {
            requests.push(&[("result", &result.into())], count);
        }
        let mut answers = Family::counter(
            "sumun_cache_answers_total",
            "Answers that were stored (stored), that servers said are still right (revalidated), that had to go for others in memory (evicted), that were read from disk into memory (loaded), slices of large ones that were fetched (slice).",
        );
        let ends = [
            ("stored", report.stored),
            ("revalidated", report.revalidated),
            ("evicted", report.evicted),
            ("loaded", report.loaded),
            ("slice", report.slices),
        ];
        for (what, count) in ends {
            answers.push(&[("what", &what.into())], count);
        }
        [
            requests,
            answers,
            Family::gauge("sumun_cache_bytes", "Bytes of memory that the cache holds.").with(report.bytes),
            Family::gauge("sumun_cache_room_bytes", "Bytes of memory that the cache may hold.").with(report.room),
            Family::gauge("sumun_cache_entries", "What the cache holds: answers, and what it remembers of URLs.")
                .with(report.entries),
        ]
    }

    fn room_families(&self) -> [Family; 6] {
        let mut waiting = Family::gauge("sumun_waiting_room_waiting", "Visitors that wait to be called.");
        let mut active = Family::gauge(
            "sumun_waiting_room_active",
            "Visitors that are inside, those who were called and have not come yet among them.",
        );
        let mut admitted = Family::counter("sumun_waiting_room_admitted_total", "Visitors that came in.");
        let mut issued = Family::counter("sumun_waiting_room_issued_total", "Visitors that had to wait.");
        let mut expired =
            Family::counter("sumun_waiting_room_expired_total", "Visitors that were called and did not come in time.");
        let mut refused = Family::counter(
            "sumun_waiting_room_refused_total",
            "What visitors showed or asked for in vain: not signed here (forged), exchanged before (used), called too long ago or unknown (late), too many places for one client (client), nobody more may wait (full).",
        );
        for RoomTotal { listener, route, counts, refused: causes } in self.rooms.totals() {
            let labels = [("listener", &listener), ("route", &route)];
            waiting.push(&labels, counts.waiting);
            active.push(&labels, counts.active);
            admitted.push(&labels, counts.admitted);
            issued.push(&labels, counts.issued);
            expired.push(&labels, counts.passed);
            for (cause, count) in causes {
                refused.push(&[labels[0], labels[1], ("cause", &cause.into())], count);
            }
        }
        [waiting, active, admitted, issued, expired, refused]
    }
}

impl Metrics {
    /// All counters, summed over the workers.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut families = self.route_families();
        families.extend(self.listener_families());
        families.extend(self.pool_families());
        families.push(self.limit_family());
        families
    }

    fn route_families(&self) -> Vec<Family> {
        let classes = CLASSES.map(Arc::<str>::from);
        let sides = Side::ALL.map(|side| (side, Arc::<str>::from(side.as_str())));
        let totals = self.routes();
        let mut requests =
            Family::counter(names::HTTP_REQUESTS, "Requests that have ended, by the class of their status.");
        let mut seconds =
            Family::histogram(names::HTTP_SECONDS, "From the head of a request to the end of its answer.");
        let mut ended =
            Family::counter(names::HTTP_ENDED, "Requests that have ended, by whose doing it was; none: all was well.");
        for route in totals.routes {
            let of_route = [("listener", &route.listener), ("route", &route.route)];
            let [listener, name] = of_route;
            for (class, count) in classes.iter().zip(route.statuses) {
                requests.push(&[listener, name, ("status", class)], count);
            }
            for (side, text) in &sides {
                ended.push(&[listener, name, ("side", text)], route.ended_by(*side));
            }
            seconds.push(&of_route, route.latency);
        }
        let mut bytes = Family::counter(
            "sumun_http_bytes_total",
            "Bytes of bodies, as seen by clients: in is received, out is sent.",
        );
        bytes.push(&[("direction", &"in".into())], totals.bytes_in);
        bytes.push(&[("direction", &"out".into())], totals.bytes_out);
        vec![requests, seconds, ended, bytes]
    }

    fn listener_families(&self) -> [Family; 7] {
        let mut accepted = Family::counter("sumun_listener_accepted_total", "Connections that were accepted.");
        let mut rejected = Family::counter(
            "sumun_listener_rejected_total",
            "Requests that were refused because they were not understood.",
        );
        let mut timeouts =
            Family::counter("sumun_listener_timeouts_total", "Requests whose head did not come in time.");
        let mut tunnels =
            Family::counter("sumun_listener_tunnels_total", "Connections that became tunnels (WebSocket).");
        let mut http2 =
            Family::counter("sumun_listener_http2_connections_total", "Connections of clients that speak HTTP/2.");
        let mut http2_connections = Family::counter(
            "sumun_listener_http2_connections_broken_total",
            "HTTP/2 connections that were cut off for what the client did, by the rule or the budget it broke.",
        );
        let mut http2_streams = Family::counter(
            "sumun_listener_http2_streams_broken_total",
            "HTTP/2 streams of clients that ended before their time, by the reason.",
        );
        for total in self.listeners() {
            let labels = [("listener", &total.listener)];
            accepted.push(&labels, total.accepted);
            rejected.push(&labels, total.rejected);
            timeouts.push(&labels, total.timeouts);
            tunnels.push(&labels, total.tunnels);
            http2.push(&labels, total.http2_connections);
            push_ends(&mut http2_connections, labels[0], &total.http2.connections);
            push_ends(&mut http2_streams, labels[0], &total.http2.streams);
        }
        [accepted, rejected, timeouts, tunnels, http2, http2_connections, http2_streams]
    }

    fn limit_family(&self) -> Family {
        let mut refused = Family::counter(
            "sumun_limit_refused_total",
            "Requests that a rate limit did not let pass; one that several refuse counts for each.",
        );
        for (limit, count) in self.limits() {
            refused.push(&[("limit", &limit)], count);
        }
        refused
    }

    fn pool_families(&self) -> [Family; 7] {
        let mut requests = Family::counter("sumun_pool_requests_total", "Requests that went to this pool.");
        let mut retries = Family::counter("sumun_pool_retries_total", "Further tries of requests on another server.");
        let mut connects = Family::counter("sumun_pool_connects_total", "Connections that were made to servers.");
        let mut reused = Family::counter("sumun_pool_reused_total", "Tries that found a connection open.");
        let mut seconds =
            Family::histogram("sumun_pool_request_seconds", "From the choice of a server to the end of its answer.");
        let mut http2_connections = Family::counter(
            "sumun_pool_http2_connections_broken_total",
            "HTTP/2 connections to servers that ended for what the server did, by the rule it broke.",
        );
        let mut http2_streams = Family::counter(
            "sumun_pool_http2_streams_broken_total",
            "HTTP/2 streams to servers that ended before their time, by the reason.",
        );
        for total in self.pools() {
            let labels = [("pool", &total.pool)];
            requests.push(&labels, total.requests);
            retries.push(&labels, total.retries);
            connects.push(&labels, total.connects);
            reused.push(&labels, total.reused);
            seconds.push(&labels, total.latency);
            push_ends(&mut http2_connections, labels[0], &total.http2.connections);
            push_ends(&mut http2_streams, labels[0], &total.http2.streams);
        }
        [requests, retries, connects, reused, seconds, http2_connections, http2_streams]
    }
}

fn push_ends(family: &mut Family, of: (&'static str, &Arc<str>), ends: &[(&'static str, u64)]) {
    for (reason, count) in ends {
        family.push(&[of, ("reason", &Arc::from(*reason))], *count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Reason;

    #[test]
    fn what_was_counted_is_published() {
        let metrics = Metrics::default();
        let (listener, route): (Arc<str>, Arc<str>) = ("web".into(), "/".into());
        for worker in 0..2 {
            metrics.route(&listener, &route, worker).record(200, Reason::Done, 10, 20, 100);
            metrics.route(&listener, &route, worker).record(502, Reason::ConnectFailed, 0, 0, 100);
        }
        metrics.listener(&listener, 1).accepted.increment();
        metrics.pool(&"app".into(), 0).retries.add(3);
        let text = sumun_engine::telemetry::render(&metrics.families());
        for line in [
            "sumun_http_requests_total{listener=\"web\",route=\"/\",status=\"2xx\"} 2",
            "sumun_http_ended_total{listener=\"web\",route=\"/\",side=\"server\"} 2",
            "sumun_http_request_seconds_count{listener=\"web\",route=\"/\"} 4",
            "sumun_http_bytes_total{direction=\"out\"} 40",
            "sumun_listener_accepted_total{listener=\"web\"} 1",
            "sumun_pool_retries_total{pool=\"app\"} 3",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
    }
}
