//! What a certificate says of its owner.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::{BmpString, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectAltName};
use x509_cert::name::Name;

use crate::limits::{NAMES, SUBJECT_BYTES};

/// commonName (RFC 4519 section 2.3).
const COMMON_NAME: &str = "2.5.4.3";

/// The facts of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
    /// RFC 4514, in ASCII; empty where the certificate names nobody.
    pub subject: String,
    /// More of it did not fit: this is the beginning, which may be that of somebody else as well.
    pub subject_is_cut: bool,
    /// The DNS names, in lower case; `*.example.com` as it stands.
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Of the issuer's choice; big endian.
    pub serial: Vec<u8>,
    /// Which of its issuer's keys signed it, where it says so (RFC 5280 section 4.2.1.1).
    pub authority_key: Option<Vec<u8>>,
    common_name: Option<String>,
}

impl Leaf {
    /// # Errors
    /// It is no certificate; the words of the parser.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        // Serial numbers that break RFC 5280 are out there, and nothing here depends on them.
        let parsed = CertificateInner::<Raw>::from_der(certificate).map_err(|error| error.to_string())?;
        let facts = parsed.tbs_certificate();
        let (subject, subject_is_cut) = ascii(&facts.subject().to_string());
        let mut leaf = Self {
            not_before: facts.validity().not_before.to_unix_duration().as_secs(),
            not_after: facts.validity().not_after.to_unix_duration().as_secs(),
            subject,
            subject_is_cut,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            serial: facts.serial_number().as_bytes().to_vec(),
            authority_key: None,
            common_name: common_name(facts.subject()),
        };
        // Nothing depends on it but a suggestion when to renew: a broken one is as good as none.
        if let Ok(Some((_, AuthorityKeyIdentifier { key_identifier: Some(key), .. }))) = facts.get_extension() {
            leaf.authority_key = Some(key.as_bytes().to_vec());
        }
        let names = facts.get_extension::<SubjectAltName>().map_err(|error| error.to_string())?;
        for name in names.map(|(_, names)| names.0).unwrap_or_default().into_iter().take(NAMES) {
            match name {
                GeneralName::DnsName(name) => leaf.dns_names.push(name.as_str().to_ascii_lowercase()),
                GeneralName::IpAddress(octets) => leaf.addresses.extend(address(octets.as_bytes())),
                _ => {}
            }
        }
        Ok(leaf)
    }

    /// How a person calls it: a name or an address it is for, else who it says it is.
    #[must_use]
    pub fn title(&self) -> String {
        let address = || self.addresses.first().map(IpAddr::to_string);
        let name = self.dns_names.first().cloned().or_else(address).or_else(|| self.common_name.clone());
        match name {
            Some(name) => name,
            None if self.subject.is_empty() => "(no name)".to_owned(),
            None => self.subject.clone(),
        }
    }
}

/// `2026-12-04`, in UTC, of seconds since 1970.
#[must_use]
pub fn date(seconds: u64) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(seconds)) {
        Ok(time) => format!("{:04}-{:02}-{:02}", time.year(), time.month(), time.day()),
        // X.509 ends with the year 9999, for certificates that never expire (RFC 5280 section 4.1.2.5).
        Err(_) => "9999-12-31".to_owned(),
    }
}

/// `2026-12-04 08:05 UTC`, of seconds since 1970.
#[must_use]
pub fn moment(seconds: u64) -> String {
    let of_day = seconds % (24 * 3600);
    format!("{} {:02}:{:02} UTC", date(seconds), of_day / 3600, of_day / 60 % 60)
}

/// Other characters as escaped octets (RFC 4514 section 2.4), so that the text fits a header field.
/// True: only the beginning is within the bound.
fn ascii(text: &str) -> (String, bool) {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let at = out.len();
        if character.is_ascii() {
            out.push(character);
        } else {
            for octet in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing into a String cannot fail.
                write!(out, "\\{octet:02X}").unwrap_or_default();
            }
        }
        if out.len() > SUBJECT_BYTES {
            out.truncate(at);
            return (out, true);
        }
    }
    (out, false)
}

fn common_name(subject: &Name) -> Option<String> {
    let mut attributes = subject.iter();
    let value = attributes.find(|attribute| attribute.oid.to_string() == COMMON_NAME).map(|found| &found.value)?;
    let utf8 = || value.decode_as::<Utf8StringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().ok().map(|text| text.as_str().to_owned());
    let wide = || value.decode_as::<BmpString>().ok().map(|text| text.to_string());
    let text = utf8().or_else(printable).or_else(teletex).or_else(wide)?;
    Some(text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect())
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}
