//! TLS of listeners and pools, and the files that it needs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sumun_certificates::{Identity, Part, Problem, Staple, Status, date, limits as bounds};

use super::probe::RELATIVE;
use super::{Lower, Section};
use crate::check::Probe;
use crate::checked::{
    BindAddress, CertificateFiles, CertifiedName, ClientAuth, Hsts, ListenerTls, PoolTls, RedirectHttps, Server,
    ServerAddress, TlsVersion,
};
use crate::limits::EXPIRY_WARNING;
use crate::node::{Node, Place};
use crate::report::quoted;
use crate::table;
use crate::values::tls;

pub(super) type TlsByAddress = BTreeMap<BindAddress, Arc<ListenerTls>>;

/// Browsers' lists take no shorter one.
const PRELOAD_MAX_AGE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Lower<'_> {
    /// `None` where there is no certificate, which has been reported.
    pub(super) fn listener_tls(&mut self, node: &Node, is_http: bool) -> Option<Arc<ListenerTls>> {
        let section = Section::of(node, &table::LISTENER_TLS);
        if node.scalar().is_none() && section.given("certs").is_none() && section.given("acme").is_none() {
            let message = "there is neither a certificate in `certs` nor one to be obtained by `acme`";
            self.error(node.place, message, "such as `certs: { cert: site.pem, key: site.key }`");
        }
        let nodes = section.given("certs").map(Node::one_or_list).unwrap_or_default();
        let mut of_files = Vec::new();
        let certificates: Vec<CertificateFiles> = nodes
            .iter()
            .filter_map(|node| self.certificate(Section::of(node, &table::CERTIFICATE), &mut of_files))
            .collect();
        let client_auth = section.given("client_auth").and_then(|_| self.client_auth(section.section("client_auth")));
        let found = ListenerTls {
            acme: self.acme(section, &of_files),
            certificates,
            min_version: min_version(section),
            client_auth,
            tickets: section.switch("tickets"),
            is_http,
        };
        (!found.certificates.is_empty() || !found.acme.is_empty()).then(|| Arc::new(found))
    }

    pub(super) fn pool_tls(&mut self, pool: Section<'_>, servers: &[Server]) -> Option<PoolTls> {
        let node = pool.given("tls")?;
        if node.scalar().is_some() && !pool.switch("tls") {
            return None;
        }
        let section = pool.section("tls");
        let ca = section.given("ca").and_then(|node| Some((node, self.path(node, section.text("ca")?))));
        if let Some((node, ca)) = &ca {
            self.probe_authorities(node.place, ca);
        }
        if let (Some(node), None) = (section.given("key"), section.given("cert")) {
            self.error(node.place, "there is a `key` and no certificate that it belongs to", "name the file in `cert`");
        }
        let found = PoolTls {
            verify: section.switch("verify"),
            ca: ca.map(|(_, path)| path),
            sni: section.text("sni").and_then(|text| tls::server_name(text).ok()),
            identity: section.given("cert").and_then(|_| self.certificate(section, &mut Vec::new())),
            min_version: min_version(section),
        };
        let nameless = servers.iter().find(|server| matches!(server.address, ServerAddress::Unix(_)));
        if let Some(server) = nameless.filter(|_| found.verify && section.given("sni").is_none()) {
            let message = format!("nothing says which name the certificate of {} has to be for", quoted(&server.name));
            self.error(node.place, message, "write it down: `tls: { sni: app.example.com }`");
        }
        Some(found)
    }

    pub(super) fn hsts(&mut self, listener: Section<'_>) -> Option<Hsts> {
        let node = listener.given("hsts")?;
        let long = listener.section("hsts");
        let found = match node.scalar() {
            Some(_) => {
                Hsts { max_age: listener.value("hsts", crate::values::duration)?, subdomains: false, preload: false }
            }
            None => Hsts {
                max_age: long.duration("max_age"),
                subdomains: long.switch("subdomains"),
                preload: long.switch("preload"),
            },
        };
        if let Some(node) = long.given("preload")
            && found.preload
            && !(found.subdomains && found.max_age >= PRELOAD_MAX_AGE)
        {
            let help = "browsers take no other into their lists: `{ max_age: 365d, subdomains: on, preload: on }`";
            self.error(node.place, "`preload` needs `subdomains: on` and a `max_age` of 365d or more", help);
        }
        Some(found)
    }

    fn client_auth(&mut self, section: Section<'_>) -> Option<ClientAuth> {
        let node = section.given("ca")?;
        let ca = self.path(node, section.text("ca")?);
        self.probe_authorities(node.place, &ca);
        Some(ClientAuth {
            ca,
            required: section.text("mode") != Some("optional"),
            header: section.value("header", |text| Ok(text.to_ascii_lowercase())).unwrap_or_default(),
        })
    }

    /// The files under `cert`, `key` and `ocsp`; the certificate's names are added to `names` where
    /// it is looked at.
    fn certificate(&mut self, section: Section<'_>, names: &mut Vec<CertifiedName>) -> Option<CertificateFiles> {
        let certificate_node = section.given("cert")?;
        let certificate = self.path(certificate_node, section.text("cert")?);
        let key_node = section.given("key");
        let key = match (key_node, section.text("key")) {
            (Some(node), Some(text)) => self.path(node, text),
            (Some(_), None) => return None,
            (None, _) => certificate.clone(),
        };
        let ocsp_node = section.given("ocsp");
        let ocsp = ocsp_node.and_then(|node| Some(self.path(node, section.text("ocsp")?)));
        let files = CertificateFiles { certificate, key, ocsp };
        if self.probe != Probe::Nothing {
            let key_place = key_node.unwrap_or(certificate_node).place;
            let staple_place = ocsp_node.unwrap_or(certificate_node).place;
            self.probe_certificate(&files, [certificate_node.place, key_place, staple_place], names);
        }
        Some(files)
    }

    fn probe_certificate(
        &mut self,
        files: &CertificateFiles,
        [place, key_place, staple_place]: [Place; 3],
        names: &mut Vec<CertifiedName>,
    ) {
        let certificate = self.tls_file(place, &files.certificate);
        let key =
            if files.key == files.certificate { certificate.clone() } else { self.tls_file(key_place, &files.key) };
        let (Some(certificate), Some(key)) = (certificate, key) else { return };
        let leaf = match Identity::parse(&certificate, &key) {
            Ok(identity) => identity.leaf,
            Err(problem) if problem.part == Part::Key => {
                return self.tls_problem(key_place, "key", &files.key, &problem);
            }
            Err(problem) => return self.tls_problem(place, "certificate", &files.certificate, &problem),
        };
        names.extend(leaf.dns_names.iter().cloned().map(CertifiedName::Dns));
        names.extend(leaf.addresses.iter().copied().map(CertifiedName::Ip));
        let now = unix_seconds();
        let title = quoted(&leaf.title());
        let renew = "renew it; a replaced file is taken up without a reload";
        if leaf.not_after <= now {
            let message = format!("the certificate for {title} expired on {}", date(leaf.not_after));
            self.problems.warn(place, message, renew);
        } else if leaf.not_after <= now + EXPIRY_WARNING.as_secs() {
            let message = format!("the certificate for {title} expires on {}", date(leaf.not_after));
            self.problems.warn(place, message, renew);
        }
        if leaf.not_before > now {
            let message = format!("the certificate for {title} is not valid before {}", date(leaf.not_before));
            self.problems.warn(place, message, "is the clock of this host right?");
        }
        let Some(path) = &files.ocsp else { return };
        let Some(bytes) = self.tls_file(staple_place, path) else { return };
        match Staple::parse(&bytes, &leaf) {
            Err(problem) => self.tls_problem(staple_place, "OCSP response", path, &problem),
            Ok(staple) if !staple.is_fresh(now) => {
                let until = staple.next_update.map(date).unwrap_or_default();
                let message = format!("the OCSP response {} is out of date since {until}", path.display());
                self.problems.warn(staple_place, message, "clients get none until it is replaced");
            }
            Ok(staple) if staple.status == Status::Revoked => {
                let message = format!("the certificate for {title} is revoked, says its OCSP response");
                self.problems.warn(staple_place, message, "clients refuse it: get another one");
            }
            Ok(_) => {}
        }
    }

    pub(super) fn probe_authorities(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        let Some(bytes) = self.tls_file(place, path) else { return };
        if let Err(problem) = sumun_certificates::authorities(&bytes) {
            self.tls_problem(place, "file", path, &problem);
        }
    }

    fn tls_problem(&mut self, place: Place, what: &str, path: &Path, problem: &Problem) {
        self.error(place, format!("the {what} {} {}", path.display(), problem.message), problem.help.as_str());
    }

    /// The whole of a file, or `None` and an error.
    pub(super) fn tls_file(&mut self, place: Place, path: &Path) -> Option<Vec<u8>> {
        match read(path) {
            Ok(bytes) => Some(bytes),
            Err(reason) => {
                self.error(place, format!("the file {} cannot be read: {reason}", path.display()), RELATIVE);
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| crate::host_error(&error);
    let mut bytes = Vec::new();
    let file = sumun_host::files::open_regular(path).map_err(text)?;
    file.take(bounds::FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() > bounds::FILE_BYTES {
        return Err(format!("it is larger than {} MiB", bounds::FILE_BYTES / (1024 * 1024)));
    }
    Ok(bytes)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

fn min_version(section: Section<'_>) -> TlsVersion {
    section.value("min_version", tls::version).unwrap_or(TlsVersion::V1_2)
}

/// Where plain requests are sent.
pub(super) fn redirect_https(
    lower: &mut Lower<'_>,
    listener: Section<'_>,
    bind: &[BindAddress],
    tls: &TlsByAddress,
) -> Option<RedirectHttps> {
    let node = listener.given("redirect_https")?;
    if node.scalar().is_some() && !listener.switch("redirect_https") {
        return None;
    }
    let section = listener.section("redirect_https");
    let status: u16 = section.number("status");
    if let Some(node) = section.given("status")
        && (303..=306).contains(&status)
    {
        lower.error(node.place, format!("{status} does not redirect every method"), "it is 301, 302, 307 or 308");
    }
    let first = bind.iter().filter(|address| tls.contains_key(*address)).find_map(|address| match address {
        // The kernel's choice is not known here.
        BindAddress::Tcp(socket) if socket.port() != 0 => Some(socket.port()),
        _ => None,
    });
    Some(RedirectHttps { port: section.optional_number("port").or(first).unwrap_or(443), status })
}
