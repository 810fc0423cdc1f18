//! What the next process has to know of servers, as text: what operators changed at run time, and
//! what was found out about servers. The next one is of the same host and may be of another version.
//!
//! Changes of operators hold until they are changed back, so they are carried whatever their age.
//! What was found out gets old: behind `KNOWLEDGE_MS` nothing is better than that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sumun_config::checked::Name;
use sumun_host::clock::monotonic_ms;
use sumun_traffic::health::Health;
use sumun_traffic::outlier::Ejections;

use crate::limits::{ADDED_SERVERS_MAX, ADDRESSES_PER_NAME_MAX, KNOWLEDGE_MS, WEIGHTS};
use crate::operations::added_server;
use crate::pool::{Pool, milliseconds};
use crate::pools::Pools;
use crate::server::{AdminState, Server};

#[derive(Serialize, Deserialize)]
struct Carried {
    /// CLOCK_MONOTONIC, which all processes of a host share.
    at_ms: u64,
    pools: BTreeMap<String, CarriedPool>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct CarriedPool {
    added: Vec<String>,
    /// Those of added servers, in hexadecimal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    quic_ids: BTreeMap<String, String>,
    removed: Vec<String>,
    /// What names resolved to.
    names: BTreeMap<String, Vec<IpAddr>>,
    servers: BTreeMap<String, CarriedServer>,
    /// What an adaptive concurrency found out: places, and microseconds of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive: Option<(u32, u64)>,
}

/// What differs from a server that just joined.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct CarriedServer {
    /// Where it was reached: a server of the same name elsewhere is another one.
    target: String,
    /// As it was set, and what the file said then.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_up: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_check: String,
    /// How many ejections are held against it, and how long the last one lasts still.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejections: Option<(u32, u64)>,
    /// What its adaptive concurrency found out, as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive: Option<(u32, u64)>,
    /// It is in its slow start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Draining,
    Disabled,
}

impl Pools {
    /// What the next process has to know.
    pub fn carry_out(&self) -> String {
        let pools = self.all().iter().map(|(name, pool)| (name.to_string(), carry_out(pool))).collect();
        // Numbers and texts only: there is nothing that could not be written.
        serde_json::to_string(&Carried { at_ms: monotonic_ms(), pools }).unwrap_or_default()
    }

    /// Goes on with what the process before knew; for the time between [`Pools::apply`] and the first
    /// request.
    ///
    /// # Errors
    /// The text is of another form: nothing is known then.
    pub fn carry_in(&self, text: &str) -> Result<(), String> {
        let carried: Carried = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let age_ms = monotonic_ms().saturating_sub(carried.at_ms);
        for (name, mut carried) in carried.pools {
            if let Some(pool) = self.pool(&name) {
                carried.added.retain(|address| self.can_reach_added(&name, address));
                carry_in(&pool, carried, age_ms);
            }
        }
        self.note_change();
        Ok(())
    }
}

fn carry_out(pool: &Pool) -> CarriedPool {
    let (now_ms, ramp_ms) = (pool.now_ms(), milliseconds(pool.settings().slow_start));
    let set = pool.servers();
    let roster = pool.roster();
    let (added, removed, resolved) = roster.changes();
    let texts = |names: &mut dyn Iterator<Item = &Name>| names.map(|name| name.to_string()).collect();
    let servers = set.members().iter().filter_map(|member| {
        let server = &member.server;
        let carried = carry_out_server(server, roster.file_weight(server.name()), now_ms, ramp_ms);
        let is_news = carried != CarriedServer { target: carried.target.clone(), ..CarriedServer::default() };
        is_news.then(|| (server.name().to_string(), carried))
    });
    CarriedPool {
        added: texts(&mut added.iter().map(|server| &server.name)),
        quic_ids: added
            .iter()
            .filter_map(|server| Some((server.name.to_string(), format!("{:?}", server.quic_id?))))
            .collect(),
        removed: texts(&mut removed.iter()),
        names: resolved.clone(),
        servers: servers.collect(),
        adaptive: pool.admission().found_out().filter(|(_, base_us)| *base_us > 0),
    }
}

fn carry_out_server(server: &Server, file_weight: Option<u32>, now_ms: u64, ramp_ms: u64) -> CarriedServer {
    let about = server.about();
    let count = about.ejections.count();
    CarriedServer {
        target: server.target().to_string(),
        weight: file_weight.map(|of_file| (server.weight(), of_file)).filter(|(weight, of_file)| weight != of_file),
        state: match server.admin_state() {
            AdminState::Enabled => None,
            AdminState::Draining => Some(State::Draining),
            AdminState::Disabled => Some(State::Disabled),
        },
        is_up: match server.health() {
            Health::Unknown => None,
            Health::Up => Some(true),
            Health::Down => Some(false),
        },
        reason: about.reason.clone(),
        last_check: about.last_check.clone(),
        ejections: (count > 0).then(|| (count, server.ejected_until_ms().saturating_sub(now_ms))),
        adaptive: server.admission().found_out().filter(|(_, base_us)| *base_us > 0),
        is_slow: server.weight_hundredths(now_ms, ramp_ms).1,
    }
}

fn carry_in(pool: &Pool, carried: CarriedPool, age_ms: u64) {
    let CarriedPool { added, quic_ids, removed, names, servers, adaptive } = carried;
    let settings = pool.settings();
    let quic_id = |address: &String| quic_ids.get(address).and_then(|text| sumun_config::quic_id(text));
    let added = added.iter().take(ADDED_SERVERS_MAX);
    let added = added.filter_map(|address| added_server(&settings, address, quic_id(address))).collect();
    let removed: BTreeSet<Name> = removed.iter().map(|name| name.as_str().into()).collect();
    let names = names.into_iter().map(|(host, mut addresses)| {
        addresses.truncate(ADDRESSES_PER_NAME_MAX);
        (host, addresses)
    });
    // They are the first ones here, and not new: none of them starts slowly for having been added.
    pool.restart_servers(|roster| roster.resume(added, removed, names.collect()));
    for member in pool.servers().members() {
        let server = &member.server;
        if let Some(carried) = servers.get(&**server.name())
            && carried.target == server.target().to_string()
        {
            carry_in_server(pool, server, carried, age_ms);
        }
    }
    if let Some((places, base_us)) = adaptive.filter(|_| age_ms <= KNOWLEDGE_MS) {
        pool.admission().restore(places, base_us);
    }
    pool.touch();
}

fn carry_in_server(pool: &Pool, server: &Arc<Server>, carried: &CarriedServer, age_ms: u64) {
    let settings = pool.settings();
    if let Some((weight, of_file)) = carried.weight
        && pool.roster().file_weight(server.name()) == Some(of_file)
        && WEIGHTS.contains(&weight)
    {
        server.set_weight(weight);
    }
    match carried.state {
        None => {}
        Some(State::Draining) => server.set_admin(AdminState::Draining),
        Some(State::Disabled) => server.set_admin(AdminState::Disabled),
    }
    if age_ms > KNOWLEDGE_MS {
        return;
    }
    if let Some((places, base_us)) = carried.adaptive {
        server.admission().restore(places, base_us);
    }
    let now_ms = pool.now_ms();
    let mut about = server.about();
    // Without checks nobody would ever say that a server is up again.
    if settings.health.is_some()
        && let Some(is_up) = carried.is_up
    {
        server.set_health(if is_up { Health::Up } else { Health::Down });
        about.last_check.clone_from(&carried.last_check);
        about.reason.clone_from(&carried.reason);
    }
    if settings.outlier.failures > 0
        && let Some((count, left_ms)) = carried.ejections
    {
        let left_ms = left_ms.saturating_sub(age_ms).min(milliseconds(settings.outlier.eject_max));
        about.ejections = Ejections::resumed(count, now_ms + left_ms);
        if left_ms > 0 {
            about.reason.clone_from(&carried.reason);
            server.set_ejected_until(now_ms + left_ms);
            server.begin_ramp(now_ms + left_ms);
            return;
        }
    }
    drop(about);
    if carried.is_slow {
        // From its beginning: how far it was would have to be told in times before this process began.
        server.begin_ramp(now_ms);
    }
}
