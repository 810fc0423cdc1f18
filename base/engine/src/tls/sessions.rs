//! Sessions with servers, as one worker remembers them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// By the name that a server was verified for; those that were met first go first. It holds as many
/// servers as the pool has, which may change; rustls' own store takes its bound once, and makes room
/// for all of it at once.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<Servers>);

#[derive(Debug, Default)]
struct Servers {
    most: usize,
    by_name: HashMap<ServerName<'static>, Arc<ClientSessionMemoryCache>>,
    oldest_first: VecDeque<ServerName<'static>>,
}

/// Of one server: rustls keeps its last 8 tickets of TLS 1.3, or its session of TLS 1.2.
const ONE_SERVER: usize = 1;

impl Sessions {
    /// From now on with so many servers.
    pub(super) fn bound(&self, servers: usize) {
        let mut table = self.lock();
        table.most = servers.max(1);
        table.shorten();
    }

    fn of(&self, name: &ServerName<'_>) -> Option<Arc<ClientSessionMemoryCache>> {
        self.lock().by_name.get(name).map(Arc::clone)
    }

    fn make(&self, name: ServerName<'static>) -> Arc<ClientSessionMemoryCache> {
        let mut table = self.lock();
        if let Some(known) = table.by_name.get(&name) {
            return Arc::clone(known);
        }
        let made = Arc::new(ClientSessionMemoryCache::new(ONE_SERVER));
        table.by_name.insert(name.clone(), Arc::clone(&made));
        table.oldest_first.push_back(name);
        table.shorten();
        made
    }

    /// Nobody else comes here: the worker that it belongs to never waits.
    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    fn shorten(&mut self) {
        while self.oldest_first.len() > self.most.max(1)
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_name.remove(&oldest);
        }
        debug_assert_eq!(self.oldest_first.len(), self.by_name.len());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.make(server_name.clone()).set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.of(server_name)?.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.make(server_name.clone()).set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.of(server_name)?.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        if let Some(known) = self.of(server_name) {
            known.remove_tls12_session(server_name);
        }
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.make(server_name.clone()).insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.of(server_name)?.take_tls13_ticket(server_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(sessions: &Sessions, count: usize) -> Vec<usize> {
        (0..count).filter(|number| sessions.kx_hint(&name(*number)).is_some()).collect()
    }

    fn name(number: usize) -> ServerName<'static> {
        ServerName::try_from(format!("s{number}.example")).unwrap()
    }

    #[test]
    fn as_many_servers_are_known_as_there_are() {
        let sessions = Sessions::default();
        sessions.bound(500);
        for number in 0..500 {
            sessions.set_kx_hint(name(number), NamedGroup::X25519);
        }
        assert_eq!(known(&sessions, 500).len(), 500);
        // Known ones take no place of others; a new one takes that of the one met first.
        for number in [0, 7, 500] {
            sessions.set_kx_hint(name(number), NamedGroup::X25519);
        }
        assert_eq!(known(&sessions, 501), (1..=500).collect::<Vec<_>>());
        sessions.bound(2);
        assert_eq!(known(&sessions, 501), [499, 500]);
        sessions.bound(0);
        sessions.set_kx_hint(name(1), NamedGroup::X25519);
        assert_eq!(known(&sessions, 501), [1]);
    }
}
