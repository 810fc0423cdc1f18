//! Certificates by ACME: what is asked for, once all listeners are known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Lower, Section};
use crate::check::Probe;
use crate::checked::{
    Acme, AcmeChallenge, BindAddress, CertifiedName, ExternalAccount, HmacKey, KeyType, Listener, ListenerTls, Name,
};
use crate::limits::{ACME_CERTIFICATES, ACME_NAMES};
use crate::node::{Node, Place};
use crate::problems::Problems;
use crate::report::quoted;
use crate::table;
use crate::values::acme;

/// What makes one certificate another than the next, whoever asks for it.
type Key = (String, BTreeSet<CertifiedName>, KeyType);

/// Where a certificate is asked for.
pub(super) struct Order {
    place: Place,
    found: Acme,
    /// The operator has chosen the challenge.
    is_chosen: bool,
}

/// TCP ports that authorities come to (RFC 8555 section 8.3, RFC 8737 section 3).
const HTTP_PORT: u16 = 80;
const TLS_PORT: u16 = 443;

impl Lower<'_> {
    /// What stands under `acme` of a listener's TLS. Certificates from files that are beside it,
    /// as far as they were read, are known by their names.
    pub(super) fn acme(&mut self, tls: Section<'_>, of_files: &[CertifiedName]) -> Vec<Acme> {
        let nodes = tls.given("acme").map(Node::one_or_list).unwrap_or_default();
        let mut taken = BTreeSet::new();
        let mut all = Vec::new();
        for node in nodes {
            let Some(order) = self.acme_order(node, &mut taken, of_files) else { continue };
            all.push(order.found.clone());
            self.note_order(order);
        }
        all
    }

    fn acme_order(
        &mut self,
        node: &Node,
        taken: &mut BTreeSet<CertifiedName>,
        of_files: &[CertifiedName],
    ) -> Option<Order> {
        let section = Section::of(node, &table::ACME);
        let mut domains: Vec<CertifiedName> = Vec::new();
        for (node, text) in section.texts("domains") {
            let Ok(name) = acme::certified_name(text) else { continue };
            if domains.contains(&name) {
                self.error(node.place, format!("{} stands here twice", quoted(text)), "write it once");
            } else if !taken.insert(name.clone()) {
                let message = format!("another certificate of this address is for {} already", quoted(text));
                self.error(node.place, message, "clients that ask for a name get one of them: name it in one place");
            } else {
                if of_files.contains(&name) {
                    let message = format!("a certificate under `certs` is for {} already", quoted(text));
                    self.problems.warn(
                        node.place,
                        message,
                        "clients get that one, and this one is obtained for nothing",
                    );
                }
                domains.push(name);
            }
        }
        if let Some(node) = section.given("domains").filter(|_| domains.len() > ACME_NAMES) {
            let message = format!("{} names in one certificate, at most {ACME_NAMES} can be", domains.len());
            self.error(node.place, message, "spread them over several: `acme` takes a list");
        }
        let ca = section.given("ca").and_then(|node| Some((node, self.path(node, section.text("ca")?))));
        if let Some((node, path)) = &ca {
            self.probe_authorities(node.place, path);
        }
        let directory = section.given("directory")?;
        let found = Acme {
            directory: section.text("directory").and_then(|text| acme::directory(text).ok())?,
            domains,
            email: section.text("email").filter(|text| acme::email(text).is_ok()).map(str::to_owned),
            challenge: match section.text("challenge") {
                Some("tls-alpn-01") => AcmeChallenge::TlsAlpn01,
                _ => AcmeChallenge::Http01,
            },
            key_type: match section.text("key_type") {
                Some("ecdsa-p384") => KeyType::EcdsaP384,
                Some("rsa-2048") => KeyType::Rsa2048,
                _ => KeyType::EcdsaP256,
            },
            ca: ca.map(|(_, path)| path),
            external_account: section.given("external_account").and_then(|_| self.external_account(section)),
        };
        let place = section.given("challenge").unwrap_or(directory).place;
        let is_chosen = section.given("challenge").is_some();
        (!found.domains.is_empty()).then_some(Order { place, found, is_chosen })
    }

    fn external_account(&mut self, acme: Section<'_>) -> Option<ExternalAccount> {
        let section = acme.section("external_account");
        let hmac_key = match section.given("hmac_key_file") {
            Some(node) => {
                let path = self.path(node, section.text("hmac_key_file")?);
                self.probe_hmac_key(node.place, &path);
                HmacKey::File(path)
            }
            None => HmacKey::Bytes(section.value("hmac_key", acme::hmac_key)?),
        };
        Some(ExternalAccount { key_id: section.text("key_id")?.to_owned(), hmac_key })
    }

    fn probe_hmac_key(&mut self, place: Place, path: &std::path::Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        let Some(bytes) = self.tls_file(place, path) else { return };
        if let Err(wrong) = acme::hmac_key(String::from_utf8_lossy(&bytes).trim()) {
            self.error(place, format!("{}: {}", path.display(), wrong.message), wrong.help.unwrap_or_default());
        }
    }

    /// The same certificate may be shown on several addresses, and is obtained once.
    fn note_order(&mut self, order: Order) {
        let key = key(&order.found);
        let Some(first) = self.orders.iter().find(|known| self::key(&known.found) == key) else {
            self.orders.push(order);
            return;
        };
        if first.found != order.found || first.is_chosen != order.is_chosen {
            let first = Problems::place_text(&self.sources.files, first.place);
            let message = format!("the same certificate is asked for in another way ({first})");
            self.error(order.place, message, "write all of its keys alike, or leave one of the two out");
        }
    }

    /// Chooses challenges where nobody did, and looks whether they can be answered.
    pub(super) fn settle_acme(&mut self, listeners: &mut BTreeMap<Name, Arc<Listener>>) {
        if self.orders.len() > ACME_CERTIFICATES
            && let Some(last) = self.orders.last()
        {
            let message = format!("{} certificates by ACME, at most {ACME_CERTIFICATES} can be", self.orders.len());
            self.error(last.place, message, "put several names into one certificate");
        }
        let is_plain = |listener: &Listener, address: &BindAddress| {
            listener.stream.is_none() && matches!(address, BindAddress::Tcp(_)) && !listener.tls.contains_key(address)
        };
        let plain: Vec<u16> = listeners
            .values()
            .flat_map(|listener| listener.bind.iter().filter(|address| is_plain(listener, address)))
            .filter_map(port)
            .collect();
        for order in std::mem::take(&mut self.orders) {
            let wanted = key(&order.found);
            let places: Vec<(Option<u16>, Arc<ListenerTls>)> = listeners
                .values()
                .flat_map(|listener| listener.tls.iter())
                .filter(|(_, tls)| tls.acme.iter().any(|acme| key(acme) == wanted))
                .map(|(address, tls)| (port(address), Arc::clone(tls)))
                .collect();
            // Beside the one protocol of the challenge a listener of streams has none, and whoever offers
            // some would be turned away.
            let refuses =
                |tls: &ListenerTls| !tls.is_http || tls.client_auth.as_ref().is_some_and(|auth| auth.required);
            if order.is_chosen {
                if order.found.challenge == AcmeChallenge::TlsAlpn01 && places.iter().any(|(_, tls)| refuses(tls)) {
                    let message = "`tls-alpn-01` cannot be answered where clients have to show a certificate, or by `tcp` and `sni`";
                    self.error(order.place, message, "write `challenge: http-01`");
                }
            } else if !plain.contains(&HTTP_PORT)
                && places.iter().any(|(port, tls)| *port == Some(TLS_PORT) && !refuses(tls))
            {
                choose(listeners, &wanted);
                continue;
            }
            if order.found.challenge == AcmeChallenge::Http01 && plain.is_empty() {
                let message =
                    "`http-01` is answered where clients come without TLS, and no listener has such an address";
                let help = "add one to a `bind`, such as \":80\"; or write `challenge: tls-alpn-01`";
                self.problems.warn(order.place, message, help);
            }
        }
    }
}

/// Gives TLS-ALPN-01 to this certificate wherever it is shown.
fn choose(listeners: &mut BTreeMap<Name, Arc<Listener>>, wanted: &Key) {
    let is_wanted = |acme: &Acme| key(acme) == *wanted;
    for listener in listeners.values_mut() {
        if !listener.tls.values().any(|tls| tls.acme.iter().any(is_wanted)) {
            continue;
        }
        for tls in Arc::make_mut(listener).tls.values_mut() {
            for acme in Arc::make_mut(tls).acme.iter_mut().filter(|acme| is_wanted(acme)) {
                acme.challenge = AcmeChallenge::TlsAlpn01;
            }
        }
    }
}

fn key(acme: &Acme) -> Key {
    (acme.directory.url.clone(), acme.domains.iter().cloned().collect(), acme.key_type)
}

/// `None` for a Unix socket and for the kernel's choice.
fn port(address: &BindAddress) -> Option<u16> {
    match address {
        BindAddress::Tcp(socket) => Some(socket.port()),
        BindAddress::Unix(_) | BindAddress::Udp(_) => None,
    }
}
