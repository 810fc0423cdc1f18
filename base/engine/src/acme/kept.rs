//! What is kept of ACME between two starts, by the names of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use sumun_config::checked::{Acme, Config};

use crate::tls::Blob;

/// One file, bytes: a chain and its key, or what is known of an order. A larger one is not kept.
pub const ENTRY_BYTES: usize = 40 * 1024;

/// Characters of a host's name at the beginning of a file's name; the hash tells them apart.
const TITLE_CHARACTERS: usize = 64;

/// Octets of that hash: what is told apart is the operator's own.
const HASH_BYTES: usize = 8;

/// The end of a certificate's file name.
const CERTIFICATE: &str = ".pem";

/// The name of a file. Only those of [`entries`] are ever written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry(String);

impl Entry {
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.0
    }

    /// A key and its chain, and not what is known of orders.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        self.0.ends_with(CERTIFICATE)
    }
}

/// Contents by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept(Vec<(Entry, Blob)>);

impl Kept {
    #[must_use]
    pub fn get(&self, entry: &Entry) -> Option<&Blob> {
        self.0.iter().find(|(known, _)| known == entry).map(|(_, content)| content)
    }

    pub fn put(&mut self, entry: Entry, content: Blob) {
        match self.0.iter_mut().find(|(known, _)| *known == entry) {
            Some((_, known)) => *known = content,
            None => self.0.push((entry, content)),
        }
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, content)| content.bytes().len()).sum()
    }
}

/// What belongs to one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// For people: `www.example.com`, and a hash where several begin with that name.
    pub id: String,
    /// The account with the authority; several certificates may share one.
    pub account: Entry,
    /// PEM: the key, then the chain.
    pub certificate: Entry,
    /// Where the next order stands, and when it is due.
    pub progress: Entry,
}

impl Names {
    #[must_use]
    pub fn of(acme: &Acme) -> Self {
        let mut domains: Vec<String> = acme.domains.iter().map(ToString::to_string).collect();
        let title = domains.first().map(|name| file_title(name)).unwrap_or_default();
        domains.sort();
        let kind = format!("{:?}", acme.key_type);
        let hash = hash([&acme.directory.url, &kind].into_iter().chain(&domains).map(String::as_str));
        let email = acme.email.as_deref().unwrap_or_default();
        let key_id = acme.external_account.as_ref().map(|account| account.key_id.as_str()).unwrap_or_default();
        let account = self::hash([acme.directory.url.as_str(), email, key_id].into_iter());
        Self {
            account: Entry(format!("account-{}-{account}.json", file_title(&acme.directory.host))),
            certificate: Entry(format!("{title}-{hash}{CERTIFICATE}")),
            progress: Entry(format!("{title}-{hash}.json")),
            id: format!("{title}-{hash}"),
        }
    }
}

/// Each certificate that the config wants to be obtained, once.
#[must_use]
pub fn all(config: &Config) -> BTreeMap<String, (Names, &Acme)> {
    let acmes = config.listeners.values().flat_map(|listener| listener.tls.values()).flat_map(|tls| &tls.acme);
    acmes.map(|acme| (Names::of(acme), acme)).map(|(names, acme)| (names.id.clone(), (names, acme))).collect()
}

/// Everything that may be kept with this config.
#[must_use]
pub fn entries(config: &Config) -> BTreeSet<Entry> {
    let of = |(names, _): (Names, &Acme)| [names.account, names.certificate, names.progress];
    all(config).into_values().flat_map(of).collect()
}

/// An IP address has characters that read badly in the name of a file.
fn file_title(name: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() || character == '.' { character } else { '-' };
    name.chars().take(TITLE_CHARACTERS).map(plain).collect()
}

fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let mut text = String::with_capacity(2 * HASH_BYTES);
    for byte in digest(&SHA256, &bytes).as_ref().iter().take(HASH_BYTES) {
        // Writing into a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acmes(acme: &str) -> Config {
        let text = format!(
            "listeners: {{ web: {{ bind: [':80', {{ address: ':443', tls: {{ acme: [{acme}] }} }}], routes: [ respond: 204 ] }} }}"
        );
        sumun_config::check_text("test.yaml", &text).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn names(acme: &str) -> Names {
        let config = acmes(&format!("{{ directory: 'https://acme.example/dir', {acme} }}"));
        let found = all(&config).into_values().map(|(names, _)| names).next();
        found.unwrap()
    }

    #[test]
    fn what_is_another_certificate_has_another_name() {
        let one = names("domains: [a.example, b.example]");
        assert!(one.certificate.file_name().starts_with("a.example-") && one.certificate.file_name().ends_with(".pem"));
        assert_eq!(one, names("domains: [A.example, b.example], challenge: tls-alpn-01"));
        for other in ["domains: a.example", "domains: [a.example, b.example], key_type: rsa-2048"] {
            assert_ne!(one.certificate, names(other).certificate);
            assert_eq!(one.account, names(other).account);
        }
        // The order of names says who comes first, and nothing else.
        let turned = names("domains: [b.example, a.example]");
        assert_eq!(turned.id.rsplit('-').next(), one.id.rsplit('-').next());
        for other in ["email: a@a.example", "external_account: { key_id: k, hmac_key: AAECAwQFBgcICQoLDA0ODw }"] {
            assert_ne!(one.account, names(&format!("domains: [a.example, b.example], {other}")).account);
        }
        let address = names("domains: '2001:db8::1'").certificate;
        assert!(address.file_name().starts_with("2001-db8--1-"), "{address:?}");
    }

    #[test]
    fn a_certificate_on_two_addresses_is_one() {
        let config = acmes("{ directory: 'https://acme.example/dir', domains: a.example }");
        assert_eq!(config.listeners["web"].tls.len(), 2);
        assert_eq!((all(&config).len(), entries(&config).len()), (1, 3));
        assert!(entries(&acmes("{ directory: 'https://acme.example/dir', domains: a.example }")) == entries(&config));
    }

    #[test]
    fn contents_by_name() {
        let entry = names("domains: a.example").progress;
        let mut kept = Kept::default();
        assert_eq!(kept.get(&entry), None);
        for text in ["one", "another"] {
            kept.put(entry.clone(), Blob::new(text.into()));
        }
        assert_eq!((kept.get(&entry).map(Blob::bytes), kept.bytes()), (Some(&b"another"[..]), 7));
        let written = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&written).unwrap(), kept);
    }
}
