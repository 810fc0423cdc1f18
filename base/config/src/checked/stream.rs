//! What a listener passes on without understanding it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// Connections, whatever is spoken on them.
    Tcp(Name),
    /// Connections that begin with TLS, by the name that it asks for.
    Sni(Sni),
    /// Datagrams.
    Udp(Udp),
}

/// Pools by the name that a client asks for (RFC 6066 section 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sni {
    /// In lower case, without a final dot.
    pub exact: BTreeMap<String, ByProtocol>,
    /// `*.example.com`, kept as `.example.com`: any number of labels, at least one.
    pub below: BTreeMap<String, ByProtocol>,
    /// Other names and none; without it such connections are closed.
    pub default: Option<ByProtocol>,
}

/// Pools by what a client would speak (RFC 7301).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByProtocol {
    pub protocols: BTreeMap<String, Name>,
    /// Clients that offer none of these.
    pub default: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    pub pool: Name,
    /// Answers for each datagram of a client, behind which a flow ends; `None`: only its idle time
    /// ends it.
    pub responses: Option<u32>,
    /// They are those of QUIC: where a client comes from elsewhere, its connection stays at its server.
    pub quic: Option<Quic>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quic {
    /// Every server of the pool has a `quic_id` of so many bytes; `None`: connection ids are learnt alone.
    pub server_id: Option<QuicServerId>,
}

/// How servers put their id into the connection ids that they make (draft-ietf-quic-load-balancers
/// section 5.3). The numbers are within the bounds of [`sumun_hello::quic_lb::Config::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicServerId {
    pub bytes: usize,
    pub nonce_bytes: usize,
    pub config_id: u8,
    /// `None`: ids are in the clear.
    pub key: Option<BlockKey>,
}

/// A key of AES-128.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockKey(pub [u8; 16]);

impl fmt::Debug for BlockKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BlockKey(…)")
    }
}

/// Bytes a second in each direction; 0 is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bandwidth {
    pub total: u64,
    /// Of one client address.
    pub client: u64,
    pub connection: u64,
}

/// So many in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    pub period: Duration,
}

impl Sni {
    /// The pools for a name, the longest of the wildcards where several fit.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&ByProtocol> {
        let Some(name) = name else { return self.default.as_ref() };
        let below = || {
            let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            dots.filter_map(|(at, _)| self.below.get(name.get(at..)?)).next()
        };
        self.exact.get(name).or_else(below).or(self.default.as_ref())
    }

    /// All of them.
    pub fn pools(&self) -> impl Iterator<Item = &Name> {
        let all = self.exact.values().chain(self.below.values()).chain(&self.default);
        all.flat_map(|choice| choice.protocols.values().chain(&choice.default))
    }
}

impl ByProtocol {
    /// The pool for a client that offers these, the one it likes best first.
    #[must_use]
    pub fn find<'a>(&self, mut offered: impl Iterator<Item = &'a [u8]>) -> Option<&Name> {
        let chosen = offered.find_map(|name| self.protocols.get(std::str::from_utf8(name).ok()?));
        chosen.or(self.default.as_ref())
    }
}

impl Stream {
    /// The pools that it passes on to; a name may come several times.
    #[must_use]
    pub fn pools(&self) -> Vec<&Name> {
        match self {
            Self::Tcp(pool) | Self::Udp(Udp { pool, .. }) => vec![pool],
            Self::Sni(sni) => sni.pools().collect(),
        }
    }

    #[must_use]
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(pool: &str) -> ByProtocol {
        ByProtocol { protocols: BTreeMap::new(), default: Some(Name::from(pool)) }
    }

    #[test]
    fn names_are_found_from_the_narrowest_on() {
        let sni = Sni {
            exact: BTreeMap::from([("a.example".to_owned(), to("exact"))]),
            below: BTreeMap::from([(".example".to_owned(), to("wide")), (".b.example".to_owned(), to("narrow"))]),
            default: Some(to("rest")),
        };
        let pool = |name| sni.find(name).and_then(|choice| choice.find(std::iter::empty())).unwrap().to_string();
        assert_eq!(pool(Some("a.example")), "exact");
        assert_eq!(pool(Some("c.a.example")), "wide");
        assert_eq!(pool(Some("x.b.example")), "narrow");
        assert_eq!(pool(Some("b.example")), "wide");
        assert_eq!(pool(Some("example")), "rest");
        assert_eq!(pool(Some(".example")), "rest");
        assert_eq!(pool(None), "rest");
        assert_eq!(Sni::default().find(Some("a")), None);
    }

    #[test]
    fn the_client_likes_one_protocol_best() {
        let choice = ByProtocol {
            protocols: BTreeMap::from([("h2".to_owned(), Name::from("two")), ("imap".to_owned(), Name::from("mail"))]),
            default: None,
        };
        let find = |offered: &[&str]| choice.find(offered.iter().map(|name| name.as_bytes())).map(|name| &**name);
        assert_eq!(find(&["imap", "h2"]), Some("mail"));
        assert_eq!(find(&["http/1.1", "h2"]), Some("two"));
        assert_eq!(find(&["http/1.1"]), None);
    }
}
