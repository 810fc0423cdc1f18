//! Which certificate for which name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sumun_certificates::Leaf;

use super::limits::INDEXED_NAMES;
use super::pairs::Pair;
use crate::acme::{Challenges, TLS_PROTOCOL};

/// The certificates of one listener's address, found by the name that a client asks for (SNI,
/// RFC 6066 section 3). Never changed: another one takes its place.
#[derive(Debug)]
pub(super) struct CertStore {
    /// Names in lower case. Several certificates for one name differ in their kind of key.
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// `*.example.com` as `example.com`: one label in front (RFC 9525 section 6.3).
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for no name, or for one that is not here: the first of the list, and
    /// those for the same names.
    default: Vec<Arc<CertifiedKey>>,
    /// For authorities that look whether a name is ours.
    challenges: Arc<Challenges>,
}

impl CertStore {
    pub(super) fn new(pairs: &[Arc<Pair>], challenges: Arc<Challenges>) -> Self {
        let (exact, wildcard) = (HashMap::new(), HashMap::new());
        let mut store = Self { exact, wildcard, default: Vec::new(), challenges };
        let mut first: Option<&Leaf> = None;
        for pair in pairs {
            let Pair { certified, leaf } = &**pair;
            for name in &leaf.dns_names {
                let (index, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut store.wildcard, rest),
                    None => (&mut store.exact, name.as_str()),
                };
                if index.len() < INDEXED_NAMES || index.contains_key(name) {
                    index.entry(name.into()).or_default().push(Arc::clone(certified));
                }
            }
            if first.as_ref().is_none_or(|first| first.dns_names == leaf.dns_names) {
                store.default.push(Arc::clone(certified));
                first.get_or_insert(leaf);
            }
        }
        store
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |list: &Vec<Arc<CertifiedKey>>| {
            list.iter().find(|certified| certified.key.choose_scheme(schemes).is_some()).cloned()
        };
        let named = name.and_then(|name| {
            let exact = self.exact.get(name).and_then(usable);
            exact.or_else(|| self.wildcard.get(name.split_once('.')?.1).and_then(usable))
        });
        // Of a client that can use none of them rustls says so, once it has one to try.
        named.or_else(|| usable(&self.default)).or_else(|| self.default.first().cloned())
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = client_hello.server_name();
        if self.challenges.are_awaited() && looks_for_proof(&client_hello) {
            return self.challenges.certificate(name?);
        }
        self.choose(name, client_hello.signature_schemes())
    }
}

/// RFC 8737 section 3: it offers that one protocol and no other.
fn looks_for_proof(client_hello: &ClientHello<'_>) -> bool {
    client_hello.alpn().is_some_and(|mut offered| offered.next() == Some(TLS_PROTOCOL) && offered.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::super::tests::certificates::{self, Kind};
    use super::*;

    const ANY: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];

    fn chosen(store: &CertStore, name: Option<&str>, schemes: &[SignatureScheme]) -> String {
        let certified = store.choose(name, schemes).unwrap();
        let leaf = Leaf::parse(certified.end_entity_cert().unwrap()).unwrap();
        format!("{} {:?}", leaf.dns_names.join(" "), certified.key.algorithm())
    }

    #[test]
    fn names_find_their_certificate() {
        let authority = certificates::authority("Authority");
        let made = [&["a.example"][..], &["b.example", "*.b.example"], &["*.c.b.example"], &["x.b.example"]];
        let pairs = made.map(|names| Arc::new(Pair::from(authority.identity(names, Kind::Ecdsa))));
        let store = CertStore::new(&pairs, Arc::default());
        let found = |name| chosen(&store, name, ANY);
        assert_eq!(found(Some("a.example")), "a.example ECDSA");
        assert_eq!(found(Some("b.example")), "b.example *.b.example ECDSA");
        assert_eq!(found(Some("y.b.example")), "b.example *.b.example ECDSA");
        assert_eq!(found(Some("x.b.example")), "x.b.example ECDSA");
        // A wildcard stands for one label.
        assert_eq!(found(Some("y.c.b.example")), "*.c.b.example ECDSA");
        assert_eq!(found(Some("z.y.b.example")), "a.example ECDSA");
        assert_eq!(found(Some("elsewhere.example")), "a.example ECDSA");
        assert_eq!(found(None), "a.example ECDSA");
    }

    #[test]
    fn of_two_kinds_of_key_the_client_gets_the_one_it_knows() {
        let authority = certificates::authority("Authority");
        let kinds = [Kind::Ecdsa, Kind::Ed25519];
        let pairs = kinds.map(|kind| Arc::new(Pair::from(authority.identity(&["a.example"], kind))));
        let store = CertStore::new(&pairs, Arc::default());
        assert_eq!(chosen(&store, Some("a.example"), ANY), "a.example ECDSA");
        for name in [Some("a.example"), None] {
            assert_eq!(chosen(&store, name, &[SignatureScheme::ED25519]), "a.example ED25519");
        }
    }
}
