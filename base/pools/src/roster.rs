//! What the servers of a pool are made of: the config, what names resolve to, what was added and
//! removed while running. Only the control side comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Instant;

use sumun_config::checked::{self as config, Name, ServerAddress};

use crate::capacity::Room;
use crate::limits::SERVERS_MAX;
use crate::pool::{Pool, milliseconds};
use crate::server::{NewServer, Server, Target};
use crate::set::{Member, ServerSet};
use crate::sticky;

#[derive(Debug)]
pub(crate) struct Roster {
    settings: Arc<config::Pool>,
    secret: Arc<[u8]>,
    /// Host name to the addresses of its last good answer.
    resolved: BTreeMap<String, Vec<IpAddr>>,
    /// Added while running; they live on through reloads.
    added: Vec<config::Server>,
    /// Names of servers of the file that were removed while running; forgotten when the file
    /// no longer has them.
    removed: BTreeSet<Name>,
    /// The weight that the file gave each server last: only another one overrides what was set
    /// while running.
    weights: BTreeMap<Name, u32>,
}

/// A server that should be there.
struct Wanted<'a> {
    name: Name,
    target: Target,
    from: &'a config::Server,
}

impl Roster {
    pub(crate) fn new(settings: &Arc<config::Pool>, secret: &Arc<[u8]>) -> Self {
        Self {
            settings: Arc::clone(settings),
            secret: Arc::clone(secret),
            resolved: BTreeMap::new(),
            added: Vec::new(),
            removed: BTreeSet::new(),
            weights: BTreeMap::new(),
        }
    }

    pub(crate) const fn settings(&self) -> &Arc<config::Pool> {
        &self.settings
    }

    /// The file was read again.
    pub(crate) fn set_settings(&mut self, settings: &Arc<config::Pool>, secret: &Arc<[u8]>) {
        let names: BTreeSet<&Name> = settings.servers.iter().map(|server| &server.name).collect();
        self.removed.retain(|name| names.contains(name));
        self.added.retain(|server| !names.contains(&server.name));
        self.settings = Arc::clone(settings);
        self.secret = Arc::clone(secret);
        self.forget_hosts();
    }

    /// Names that no server has any more.
    fn forget_hosts(&mut self) {
        let hosts = self.hosts();
        self.resolved.retain(|host, _| hosts.contains(host));
    }

    /// The names that have to be resolved.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let host = |server: &config::Server| match &server.address {
            ServerAddress::Name { host, .. } => Some(host.clone()),
            ServerAddress::Ip(_) | ServerAddress::Unix(_) => None,
        };
        self.settings.servers.iter().chain(&self.added).filter_map(host).collect()
    }

    /// The names without a good answer so far.
    pub(crate) fn unresolved(&self) -> Vec<String> {
        self.hosts().into_iter().filter(|host| !self.resolved.contains_key(host)).collect()
    }

    /// What a name resolves to now; returns whether that is news.
    pub(crate) fn set_resolved(&mut self, host: &str, addresses: Vec<IpAddr>) -> bool {
        if !self.hosts().contains(host) || self.resolved.get(host) == Some(&addresses) {
            return false;
        }
        self.resolved.insert(host.to_owned(), addresses);
        true
    }

    /// Added while running, removed while running, and what names resolved to.
    pub(crate) fn changes(&self) -> (&[config::Server], &BTreeSet<Name>, &BTreeMap<String, Vec<IpAddr>>) {
        (&self.added, &self.removed, &self.resolved)
    }

    /// The weight that the file gave a server.
    pub(crate) fn file_weight(&self, name: &Name) -> Option<u32> {
        self.weights.get(name).copied()
    }

    /// Goes on with what another process had changed, as far as the file allows it still.
    pub(crate) fn resume(
        &mut self,
        added: Vec<config::Server>,
        removed: BTreeSet<Name>,
        resolved: BTreeMap<String, Vec<IpAddr>>,
    ) {
        self.removed = removed;
        self.removed.retain(|name| self.settings.servers.iter().any(|server| server.name == *name));
        for server in added {
            self.add(server);
        }
        self.resolved = resolved;
        self.forget_hosts();
    }

    pub(crate) fn added_count(&self) -> usize {
        self.added.len()
    }

    /// Adds a server, or takes back that it was removed; false if it is there.
    pub(crate) fn add(&mut self, server: config::Server) -> bool {
        if self.removed.remove(&server.name) {
            return true;
        }
        let mut all = self.settings.servers.iter().chain(&self.added);
        if all.any(|there| there.name == server.name || there.address == server.address) {
            return false;
        }
        self.added.push(server);
        true
    }

    /// Removes a server by its name, or all addresses of a name; false if there is none.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.added.len();
        self.added.retain(|server| &*server.name != name);
        if self.added.len() != before {
            self.forget_hosts();
            return true;
        }
        match self.settings.servers.iter().find(|server| &*server.name == name) {
            Some(server) => self.removed.insert(Arc::clone(&server.name)),
            None => false,
        }
    }

    /// The set as it should be; servers of `before` with the same name and target are kept.
    pub(crate) fn build(
        &mut self,
        before: &ServerSet,
        room: &Arc<Room>,
        pool: &Weak<Pool>,
        started: Instant,
    ) -> ServerSet {
        let now_ms = milliseconds(started.elapsed());
        // A server that joins others starts slowly; the first ones of a pool have nobody to wait for.
        let ramp_from_ms = if before.members().is_empty() { 0 } else { now_ms.max(1) };
        let there: BTreeMap<&Name, &Arc<Server>> =
            before.members().iter().map(|member| (member.server.name(), &member.server)).collect();
        let mut weights = BTreeMap::new();
        let mut members = Vec::new();
        for wanted in self.wanted() {
            let weight = wanted.from.weight;
            let kept = there.get(&wanted.name).filter(|server| *server.target() == wanted.target);
            let server = match kept {
                Some(server) => {
                    if self.weights.get(&wanted.name) != Some(&weight) {
                        server.set_weight(weight);
                    }
                    Arc::clone(server)
                }
                None => {
                    let (name, target) = (Arc::clone(&wanted.name), wanted.target);
                    Arc::new(Server::new(NewServer { name, target, weight, ramp_from_ms, started }, room, pool))
                }
            };
            server.set_adaptive(self.settings.adaptive_servers);
            let cookie = self.settings.sticky.as_ref().map(|sticky| {
                let secret = sticky.secret.as_ref().map_or(&*self.secret, |secret| secret.as_bytes());
                sticky::cookie_value(secret, &self.settings.name, &wanted.name).into()
            });
            weights.insert(wanted.name, weight);
            members.push(Member {
                server,
                max_connections: wanted.from.max_connections,
                backup: wanted.from.backup,
                zone: wanted.from.zone.clone(),
                cookie,
                quic_id: wanted.from.quic_id,
            });
        }
        self.weights = weights;
        ServerSet::new(members)
    }

    /// One for each address, without doubles, in the order of the file.
    fn wanted(&self) -> Vec<Wanted<'_>> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        let mut names = BTreeSet::new();
        let present = self.settings.servers.iter().filter(|server| !self.removed.contains(&server.name));
        for server in present.chain(&self.added) {
            let targets: Vec<(Name, Target)> = match &server.address {
                ServerAddress::Ip(address) => {
                    vec![(Arc::clone(&server.name), Target::Tcp(*address))]
                }
                ServerAddress::Unix(path) => {
                    vec![(Arc::clone(&server.name), Target::Unix(path.clone()))]
                }
                ServerAddress::Name { host, port } => {
                    let addresses = self.resolved.get(host).map(Vec::as_slice).unwrap_or_default();
                    let named = |address: &IpAddr| {
                        (format!("{}@{address}", server.name).into(), Target::Tcp(SocketAddr::new(*address, *port)))
                    };
                    addresses.iter().map(named).collect()
                }
            };
            for (name, target) in targets {
                if names.insert(Arc::clone(&name)) {
                    wanted.push(Wanted { name, target, from: server });
                }
            }
        }
        if wanted.len() > SERVERS_MAX {
            let left_out = wanted.len() - SERVERS_MAX;
            tracing::warn!(
                pool = &*self.settings.name,
                left_out,
                "more servers than a pool may have: the last are left out"
            );
            wanted.truncate(SERVERS_MAX);
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers come and go by the API: what their names led to goes with them.
    #[test]
    fn addresses_of_removed_servers_are_forgotten() {
        let text = "pools: { app: { servers: [\"app.example:80\"] } }\n\
                    listeners: { web: { bind: \"127.0.0.1:80\", routes: [{ path: /, proxy: app }] } }\n";
        let checked =
            sumun_config::check_text("test", text).unwrap_or_else(|report| panic!("{}", report.render(false)));
        let mut roster = Roster::new(&checked.config.pools["app"], &Arc::from(*b"secret"));
        assert!(roster.set_resolved("app.example", vec![IpAddr::from([192, 0, 2, 1])]));
        for number in 0..100 {
            let (name, host) = (format!("s{number}.example:80"), format!("s{number}.example"));
            let address = ServerAddress::Name { host: host.clone(), port: 80 };
            let server = config::Server {
                name: name.as_str().into(),
                address,
                ..checked.config.pools["app"].servers[0].clone()
            };
            assert!(roster.add(server));
            assert!(roster.set_resolved(&host, vec![IpAddr::from([192, 0, 2, 2])]));
            assert!(roster.remove(&name));
        }
        assert!(roster.remove("app.example:80"));
        assert_eq!(roster.resolved.keys().collect::<Vec<_>>(), ["app.example"], "this one may be brought back");
    }
}
