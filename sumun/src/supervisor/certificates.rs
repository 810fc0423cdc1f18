//! Certificates, keys and authorities: read here, where the right to is, and sent to the worker
//! processes; looked at every second, and sent again where something good has taken their place.
//!
//! A pair of certificate and key is judged together once both files have been left alone from one
//! look to the next, since they are seldom replaced in one moment. What is bad changes nothing: the
//! log names the file, and what was read before goes on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sumun_certificates::{Identity, Part, Staple, date, limits as bounds};
use sumun_config::checked::{CertificateFiles, Config, HmacKey};
use sumun_engine::acme::{Entry, Kept};
use sumun_engine::tls::{Blob, IdentityMaterial, KEY_RANDOM_BYTES, Material, TicketKeys, of_path};
use sumun_host::files;

use super::{Supervisor, acme};
use crate::limits::{CERTIFICATES_AT_ONCE, CERTIFICATES_EVERY};

/// What TLS needs of this host's files, for one config.
#[derive(Debug)]
pub(super) struct Certificates {
    watched: Vec<Watched>,
    /// The host's own authorities; empty where nobody trusts them.
    system: Vec<Blob>,
    tickets: TicketKeys,
    /// What is kept of certificates that are obtained.
    acme: Kept,
    /// Some listener seals tickets.
    has_tickets: bool,
    next_look: Instant,
    /// Where the next look begins.
    cursor: usize,
}

/// Files that are read, judged and replaced together.
#[derive(Debug)]
struct Watched {
    what: What,
    /// Each file as it was at the last look, and as it was when it was read.
    files: Vec<(PathBuf, Stamp, Stamp)>,
    read: Contents,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Identity(CertificateFiles),
    Authorities(PathBuf),
    /// The key of an external account.
    HmacKey(PathBuf),
}

#[derive(Debug)]
enum Contents {
    Identity {
        certificate: Blob,
        key: Blob,
        staple: Option<Blob>,
        /// When clients would refuse the staple, in seconds since 1970.
        staple_until: Option<u64>,
    },
    Authorities(Blob),
    HmacKey(Blob),
}

/// What tells one state of a file from another; `None` for one that is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Certificates {
    /// Reads what the config names. `before` is what ran until now: its ticket keys are kept.
    ///
    /// # Errors
    /// A line for each file that cannot be used.
    pub(super) fn read(config: &Config, before: Option<&Self>, now: Instant) -> Result<Self, String> {
        let mut problems = Vec::new();
        let mut watched = Vec::new();
        for what in wanted(config) {
            match Watched::new(what) {
                Ok(found) => watched.push(found),
                Err(problem) => problems.push(problem),
            }
        }
        let system = if wants_system(config) { system_authorities(&mut problems) } else { Vec::new() };
        let acme = acme::read(config, before.map(|before| &before.acme)).unwrap_or_else(|problem| {
            problems.push(problem);
            Kept::default()
        });
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        let mut certificates = Self {
            watched,
            system,
            tickets: before.map(|before| before.tickets.clone()).unwrap_or_default(),
            acme,
            has_tickets: has_tickets(config),
            next_look: now + CERTIFICATES_EVERY,
            cursor: 0,
        };
        certificates.rotate_tickets(unix_seconds())?;
        Ok(certificates)
    }

    /// Goes on with what another program in this process had read; files that are another by now
    /// are found at the first looks.
    pub(super) fn from_material(config: &Config, material: Material, now: Instant) -> Result<Self, String> {
        let kept = |what: What| {
            let read = match &what {
                What::Identity(files) => {
                    let found = material.identities.iter().find(|one| one.is_of(files));
                    found.map(|one| Contents::Identity {
                        certificate: one.certificate.clone(),
                        key: one.key.clone(),
                        staple: one.staple.clone(),
                        staple_until: None,
                    })
                }
                What::Authorities(path) => {
                    let found = material.authorities.iter().find(|(known, _)| *known == of_path(path));
                    found.map(|(_, pem)| Contents::Authorities(pem.clone()))
                }
                What::HmacKey(path) => material.hmac_key(path).map(|text| Contents::HmacKey(text.clone())),
            };
            match read {
                Some(read) => {
                    let files = what.paths().into_iter().map(|path| (path, None, None)).collect();
                    Ok(Watched { what, files, read })
                }
                None => Watched::new(what),
            }
        };
        let watched = wanted(config).into_iter().map(kept).collect::<Result<Vec<Watched>, String>>()?;
        Ok(Self {
            watched,
            system: material.system,
            tickets: material.tickets,
            acme: acme::read(config, Some(&material.acme))?,
            has_tickets: has_tickets(config),
            next_look: now,
            cursor: 0,
        })
    }

    /// For the worker processes.
    pub(super) fn material(&self) -> Material {
        let mut material = Material {
            system: self.system.clone(),
            tickets: self.tickets.clone(),
            acme: self.acme.clone(),
            ..Material::default()
        };
        for watched in &self.watched {
            match (&watched.what, &watched.read) {
                (What::Identity(files), Contents::Identity { certificate, key, staple, .. }) => {
                    let (certificate, key) = (certificate.clone(), key.clone());
                    material.identities.push(IdentityMaterial::new(files, certificate, key, staple.clone()));
                }
                (What::Authorities(path), Contents::Authorities(pem)) => {
                    material.authorities.push((of_path(path), pem.clone()));
                }
                (What::HmacKey(path), Contents::HmacKey(text)) => {
                    material.hmac_keys.push((of_path(path), text.clone()));
                }
                _ => {}
            }
        }
        material
    }

    /// Something newer than what is kept.
    pub(super) fn keep(&mut self, entry: Entry, content: Blob) {
        self.acme.put(entry, content);
    }

    /// When to look again; never where there is nothing to look at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.has_tickets || !self.watched.is_empty()).then_some(self.next_look)
    }

    /// Looks at some of the files, all of them in turn; whether the worker processes have to know.
    fn look(&mut self, now: Instant, unix_now: u64) -> bool {
        self.next_look = now + CERTIFICATES_EVERY;
        let mut changed = false;
        for _ in 0..self.watched.len().min(CERTIFICATES_AT_ONCE) {
            self.cursor = (self.cursor + 1) % self.watched.len();
            if let Some(watched) = self.watched.get_mut(self.cursor) {
                changed |= watched.look(unix_now);
            }
        }
        match self.rotate_tickets(unix_now) {
            Ok(rotated) => changed | rotated,
            Err(why) => {
                tracing::error!("{why}: the old keys of session tickets stay");
                changed
            }
        }
    }

    fn rotate_tickets(&mut self, unix_now: u64) -> Result<bool, String> {
        if !self.has_tickets || !self.tickets.is_due(unix_now) {
            return Ok(false);
        }
        let random = sumun_host::random::random_bytes::<KEY_RANDOM_BYTES>();
        let random = random.map_err(|error| format!("no random bytes for a key of session tickets: {error}"))?;
        self.tickets = self.tickets.rotated(unix_now, &random);
        Ok(true)
    }
}

impl Watched {
    fn new(what: What) -> Result<Self, String> {
        // Before they are read: what is replaced meanwhile is another one at the next look.
        let files: Vec<(PathBuf, Stamp, Stamp)> =
            what.paths().into_iter().map(|path| (path.clone(), stamp(&path), stamp(&path))).collect();
        let read = what.read(None, unix_seconds())?;
        Ok(Self { what, files, read })
    }

    fn look(&mut self, unix_now: u64) -> bool {
        let mut is_settled = true;
        let mut is_other = self.read.is_stale(unix_now);
        for (path, seen, used) in &mut self.files {
            let now = stamp(path);
            is_settled &= *seen == now;
            *seen = now;
            is_other |= *seen != *used;
        }
        if !is_settled || !is_other {
            return false;
        }
        for (_, seen, used) in &mut self.files {
            *used = *seen;
        }
        match self.what.read(Some(&self.read), unix_now) {
            Ok(read) => {
                let changed = !read.is_same(&self.read);
                self.read = read;
                if changed {
                    tracing::info!("{}", self.what.taken_up());
                }
                changed
            }
            Err(why) => {
                tracing::error!("{why}; what was read before goes on");
                false
            }
        }
    }
}

impl What {
    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Identity(files) => [Some(&files.certificate), Some(&files.key), files.ocsp.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            Self::Authorities(path) | Self::HmacKey(path) => vec![path.clone()],
        }
    }

    fn taken_up(&self) -> String {
        match self {
            Self::Identity(files) => format!("certificate {}: the new files are taken up", files.certificate.display()),
            Self::Authorities(path) => format!("authorities {}: the new file is taken up", path.display()),
            Self::HmacKey(path) => format!("key {}: the new file is taken up", path.display()),
        }
    }

    /// The error names the file. `before` keeps its staple where the new one is bad.
    fn read(&self, before: Option<&Contents>, unix_now: u64) -> Result<Contents, String> {
        let named = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let read = |path: &Path| read(path).map_err(|why| named(path, &why));
        match self {
            Self::Authorities(path) => {
                let pem = read(path)?;
                sumun_certificates::authorities(pem.bytes()).map_err(|problem| named(path, &problem))?;
                Ok(Contents::Authorities(pem))
            }
            Self::HmacKey(path) => {
                let text = read(path)?;
                let found = sumun_config::hmac_key(&String::from_utf8_lossy(text.bytes()));
                found.map_err(|problem| named(path, &problem)).map(|_| Contents::HmacKey(text))
            }
            Self::Identity(files) => {
                let certificate = read(&files.certificate)?;
                let key = if files.key == files.certificate { certificate.clone() } else { read(&files.key)? };
                let identity = Identity::parse(certificate.bytes(), key.bytes()).map_err(|problem| {
                    named(if problem.part == Part::Key { &files.key } else { &files.certificate }, &problem)
                })?;
                let mut staple = files.ocsp.as_deref().and_then(|path| {
                    let found = read(path).and_then(|bytes| {
                        Staple::parse(bytes.bytes(), &identity.leaf).map_err(|problem| named(path, &problem))
                    });
                    found.map_err(|why| tracing::error!("{why}; no OCSP response is sent from it")).ok()
                });
                if let (None, Some(Contents::Identity { staple: Some(old), .. })) = (&staple, before) {
                    // Of the same certificate still, and fresh: better than none.
                    staple = Staple::parse(old.bytes(), &identity.leaf).ok();
                }
                if let Some(old) = staple.take_if(|staple| !staple.is_fresh(unix_now)) {
                    let until = old.next_update.map(date).unwrap_or_default();
                    let path = files.ocsp.as_deref().unwrap_or(&files.certificate);
                    tracing::warn!("{}: the OCSP response is out of date since {until}: not sent", path.display());
                }
                Ok(Contents::Identity {
                    certificate,
                    key,
                    staple_until: staple.as_ref().and_then(|staple| staple.next_update),
                    staple: staple.map(|staple| Blob::new(staple.bytes)),
                })
            }
        }
    }
}

impl Contents {
    fn is_stale(&self, unix_now: u64) -> bool {
        matches!(self, Self::Identity { staple_until: Some(until), .. } if *until <= unix_now)
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Authorities(one), Self::Authorities(other)) | (Self::HmacKey(one), Self::HmacKey(other)) => {
                one == other
            }
            (
                Self::Identity { certificate, key, staple, .. },
                Self::Identity { certificate: other_certificate, key: other_key, staple: other_staple, .. },
            ) => certificate == other_certificate && key == other_key && staple == other_staple,
            _ => false,
        }
    }
}

impl Supervisor {
    /// Looks at the files of certificates if it is time to, and tells the worker processes.
    pub(super) fn look_at_certificates(&mut self, now: Instant) {
        // A config on its way has read its own.
        if self.stopping || self.reload.is_some() || self.upgrade.is_some() {
            return;
        }
        if self.certificates.deadline().is_none_or(|at| at > now) || !self.certificates.look(now, unix_seconds()) {
            return;
        }
        self.tell_certificates();
    }

    /// When that is.
    pub(super) fn certificates_deadline(&self) -> Option<Instant> {
        let is_busy = self.stopping || self.reload.is_some() || self.upgrade.is_some();
        self.certificates.deadline().filter(|_| !is_busy)
    }
}

fn wanted(config: &Config) -> BTreeSet<What> {
    let mut all = BTreeSet::new();
    for tls in config.listeners.values().flat_map(|listener| listener.tls.values()) {
        all.extend(tls.certificates.iter().cloned().map(What::Identity));
        all.extend(tls.client_auth.iter().map(|auth| What::Authorities(auth.ca.clone())));
        all.extend(tls.acme.iter().filter_map(|acme| acme.ca.clone()).map(What::Authorities));
        let accounts = tls.acme.iter().filter_map(|acme| acme.external_account.as_ref());
        all.extend(accounts.filter_map(|account| match &account.hmac_key {
            HmacKey::File(path) => Some(What::HmacKey(path.clone())),
            HmacKey::Bytes(_) => None,
        }));
    }
    for tls in config.pools.values().filter_map(|pool| pool.tls.as_ref()) {
        all.extend(tls.identity.iter().cloned().map(What::Identity));
        all.extend(tls.ca.iter().filter(|_| tls.verify).cloned().map(What::Authorities));
    }
    all
}

fn wants_system(config: &Config) -> bool {
    let acmes = config.listeners.values().flat_map(|listener| listener.tls.values()).flat_map(|tls| &tls.acme);
    let of_directories = acmes.into_iter().any(|acme| acme.directory.is_secure && acme.ca.is_none());
    let of_pools = config.pools.values().filter_map(|pool| pool.tls.as_ref()).any(|tls| tls.verify && tls.ca.is_none());
    of_directories || of_pools
}

fn has_tickets(config: &Config) -> bool {
    let mut all = config.listeners.values().flat_map(|listener| listener.tls.values());
    all.any(|tls| tls.tickets && tls.client_auth.is_none())
}

/// The authorities that this host trusts, wherever it keeps them.
fn system_authorities(problems: &mut Vec<String>) -> Vec<Blob> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() { "none were found".to_owned() } else { why.join("; ") };
        problems.push(format!("the certificates of this host's authorities cannot be read: {why}; `ca` names a file"));
    }
    found.certs.iter().map(|certificate| Blob::new(certificate.to_vec())).collect()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

fn read(path: &Path) -> io::Result<Blob> {
    let file = files::open_regular(path)?;
    // Room for all of it at once: a key leaves no copies behind where a buffer has grown.
    let length = file.metadata()?.len().min(bounds::FILE_BYTES as u64) as usize;
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(bounds::FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let bytes = Blob::new(bytes);
    if bytes.bytes().len() > bounds::FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", bounds::FILE_BYTES / (1024 * 1024))));
    }
    Ok(bytes)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests;
