//! The servers of a pool at one time: immutable, replaced whole when servers come or go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use sumun_config::checked::Name;
use sumun_hello::quic_lb::ServerId;

use crate::server::{Server, Target};

/// The servers of a pool, in the order of the file.
#[derive(Debug, Default)]
pub struct ServerSet {
    members: Vec<Member>,
    /// Cookie value to place in `members`; empty without sticky sessions.
    by_cookie: HashMap<Box<[u8]>, usize>,
    /// The first of several where a name has several addresses.
    by_quic_id: HashMap<ServerId, usize>,
    /// Addresses of the servers, sorted, without loopback ones.
    addresses: Vec<IpAddr>,
    bounded: bool,
}

/// A server, and what the config says of it in this pool.
#[derive(Debug, Clone)]
pub struct Member {
    pub server: Arc<Server>,
    /// `None` is unbounded.
    pub max_connections: Option<u32>,
    pub backup: bool,
    pub zone: Option<Name>,
    /// The value of the sticky cookie that names it.
    pub cookie: Option<Arc<str>>,
    /// What it calls itself in connection ids of QUIC.
    pub quic_id: Option<ServerId>,
}

impl ServerSet {
    pub(crate) fn new(members: Vec<Member>) -> Self {
        let cookies = members.iter().enumerate();
        let by_cookie =
            cookies.filter_map(|(place, member)| Some((member.cookie.as_ref()?.as_bytes().into(), place))).collect();
        let quic_ids = members.iter().enumerate().rev();
        let by_quic_id = quic_ids.filter_map(|(place, member)| Some((member.quic_id?, place))).collect();
        let mut addresses: Vec<IpAddr> = members
            .iter()
            .filter_map(|member| match member.server.target() {
                Target::Tcp(address) => Some(address.ip().to_canonical()),
                Target::Unix(_) => None,
            })
            .filter(|address| !address.is_loopback())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let bounded = members.iter().any(|member| member.max_connections.is_some() || member.server.is_adaptive());
        Self { members, by_cookie, by_quic_id, addresses, bounded }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A cookie's value to the server it names; a made-up value names none.
    pub fn by_cookie(&self, value: &[u8]) -> Option<&Member> {
        self.members.get(*self.by_cookie.get(value)?)
    }

    pub fn by_quic_id(&self, id: ServerId) -> Option<&Member> {
        self.members.get(*self.by_quic_id.get(&id)?)
    }

    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &**member.server.name() == name)
    }

    pub fn by_id(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.server.id() == id)
    }

    /// A server of this set has this address, and it is not a loopback one (which anybody on this
    /// host has).
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.binary_search(&address.to_canonical()).is_ok()
    }

    /// Some server has a bound of connections.
    pub(crate) const fn is_bounded(&self) -> bool {
        self.bounded
    }
}
