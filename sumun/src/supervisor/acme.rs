//! What is kept of certificates that are obtained: written here, where the right to is, and read again
//! at the next start. It comes from the worker process, in which all that is said by an authority is
//! understood; here it is bytes under a name that the config allows.
//!
//! Each file takes the place of the one before as a whole, once it is on the disk. Where the disk
//! does not take it, it is kept in memory and tried again with the next one: a certificate that is
//! there is served.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sumun_config::checked::Config;
use sumun_engine::acme::{ENTRY_BYTES, Entry, Kept, entries};
use sumun_engine::lifecycle::ToWorker;
use sumun_engine::tls::Blob;
use sumun_host::files;

use super::Supervisor;
use super::process::Phase;

/// Of the state directory.
const FOLDER: &str = "acme";

/// Files of it that are looked at for those that nobody names, and of those the ones that are told of.
const LISTED_ENTRIES: usize = 10_000;
const NAMED_FILES: usize = 8;

/// What is kept of all that this config wants; what `before` has is newer than the disk.
///
/// # Errors
/// There is no place to keep it; a text for the operator.
pub(super) fn read(config: &Config, before: Option<&Kept>) -> Result<Kept, String> {
    let mut kept = Kept::default();
    let wanted = entries(config);
    if wanted.is_empty() {
        return Ok(kept);
    }
    let folder = folder(config)?;
    let left = unnamed(&folder, &wanted);
    if !left.is_empty() {
        tracing::info!(
            "{} keeps certificates that this config does not name: {}; they stay until somebody removes them",
            folder.display(),
            left.join(", ")
        );
    }
    for entry in wanted {
        if let Some(content) = before.and_then(|before| before.get(&entry)) {
            kept.put(entry, content.clone());
            continue;
        }
        match files::read_private(&folder.join(entry.file_name()), ENTRY_BYTES as u64) {
            Ok(Some(content)) => kept.put(entry, Blob::new(content)),
            Ok(None) => {}
            Err(error) => return Err(format!("{}: {error}", folder.join(entry.file_name()).display())),
        }
    }
    Ok(kept)
}

/// Certificates that are kept and that this config does not name: it may again, or another instance
/// with the same state does.
fn unnamed(folder: &Path, wanted: &BTreeSet<Entry>) -> Vec<String> {
    // What cannot be listed is not told of; what is needed is read by its name.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(LISTED_ENTRIES);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_left = |name: &String| name.ends_with(".pem") && !wanted.iter().any(|entry| entry.file_name() == name);
    let mut left: Vec<String> = names.filter(is_left).collect();
    left.sort();
    let more = left.len().saturating_sub(NAMED_FILES);
    left.truncate(NAMED_FILES);
    if more > 0 {
        left.push(format!("{more} more"));
    }
    left
}

/// Makes it, if need be.
fn folder(config: &Config) -> Result<PathBuf, String> {
    let no_place = |path: &Path, error: &std::io::Error| {
        format!(
            "certificates that are obtained cannot be kept in {}: {error}; `state` names another place",
            path.display()
        )
    };
    let state = crate::state::directory(config.state.as_deref())
        .map_err(|error| format!("certificates that are obtained cannot be kept: {error}; `state` names a place"))?;
    let folder = state.join(FOLDER);
    files::private_directory(&folder)
        .and_then(|()| files::require_private_directory(&folder))
        .map_err(|error| no_place(&folder, &error))?;
    Ok(folder)
}

impl Supervisor {
    /// This worker process is the one that obtains certificates.
    pub(super) fn let_care(&mut self, number: u64) {
        self.cares = Some(number);
        if let Some(process) = self.process(number) {
            process.send(ToWorker::CareForCertificates);
        }
    }

    /// A worker process has something to be kept.
    pub(super) fn keep(&mut self, number: u64, entry: Entry, content: Blob) {
        if self.cares != Some(number) || content.bytes().len() > ENTRY_BYTES {
            return;
        }
        if !entries(&self.config).contains(&entry) {
            tracing::warn!("{} is not kept: the config names no such certificate", entry.file_name());
            return;
        }
        let written = folder(&self.config).and_then(|folder| {
            let path = folder.join(entry.file_name());
            files::replace_private(&path, content.bytes()).map_err(|error| format!("{}: {error}", path.display()))
        });
        if let Err(why) = written {
            tracing::error!("{why}: it is lost with this instance");
        }
        let is_certificate = entry.is_certificate();
        self.certificates.keep(entry.clone(), content.clone());
        if let Some(reload) = &mut self.reload {
            reload.certificates.keep(entry, content);
        }
        if is_certificate {
            // A config on its way is told of it once it is known which one is in force.
            self.untold = self.reload.is_some();
            if !self.untold {
                self.tell_certificates();
            }
        }
    }

    /// No config is on its way any more.
    pub(super) fn tell_what_waited(&mut self) {
        if std::mem::take(&mut self.untold) {
            self.tell_certificates();
        }
    }

    pub(super) fn tell_certificates(&mut self) {
        for process in &mut self.processes {
            if !matches!(process.phase, Phase::Ending { .. }) {
                process.send(ToWorker::Certificates(self.certificates.material()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(state: &Path, domains: &str) -> Config {
        let text = format!(
            "state: {}\nlisteners: {{ web: {{ bind: [':80', {{ address: ':443', tls: {{ acme: {{ directory: \
             'https://acme.example/dir', domains: {domains} }} }} }}], routes: [ {{ respond: 204 }} ] }} }}",
            state.display()
        );
        sumun_config::check_text("sumun.yaml", &text).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn state(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sumun-acme-state-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_the_config_wants_is_found_again() {
        let state = state("found");
        let one = config(&state, "a.example");
        assert_eq!(read(&one, None), Ok(Kept::default()));
        let folder = state.join(FOLDER);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in entries(&one) {
            files::replace_private(&folder.join(entry.file_name()), entry.file_name().as_bytes()).unwrap();
        }
        let kept = read(&one, None).unwrap();
        assert!(
            entries(&one).iter().all(|entry| {
                kept.get(entry).is_some_and(|content| content.bytes() == entry.file_name().as_bytes())
            })
        );
        // What a worker process has said meanwhile is newer, and what nobody wants is left where it is.
        let mut newer = kept.clone();
        let certificate = entries(&one).into_iter().find(Entry::is_certificate).unwrap();
        newer.put(certificate.clone(), Blob::new(b"newer".to_vec()));
        assert_eq!(read(&one, Some(&newer)).unwrap().get(&certificate).map(Blob::bytes), Some(&b"newer"[..]));
        let other = config(&state, "b.example");
        let of_other = read(&other, Some(&newer)).unwrap();
        assert!(of_other.get(&certificate).is_none());
        assert!(folder.join(certificate.file_name()).exists());
        assert_eq!(unnamed(&folder, &entries(&other)), [certificate.file_name()]);
        assert!(unnamed(&folder, &entries(&one)).is_empty());
        for number in 0..10 {
            fs::write(folder.join(format!("old-{number}.pem")), "").unwrap();
        }
        let left = unnamed(&folder, &entries(&one));
        assert_eq!((left.len(), left.last().map(String::as_str)), (9, Some("2 more")));
        // The account is the same.
        assert!(of_other.bytes() > 0);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_place_that_is_no_good_is_named() {
        let state = state("bad");
        let one = config(&state, "a.example");
        read(&one, None).unwrap();
        let entry = entries(&one).into_iter().next().unwrap();
        let path = state.join(FOLDER).join(entry.file_name());
        fs::write(&path, vec![b'a'; ENTRY_BYTES + 1]).unwrap();
        assert!(read(&one, None).is_err_and(|why| why.contains(entry.file_name()) && why.contains("larger")));
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "").unwrap();
        assert!(read(&one, None).is_err_and(|why| why.contains("cannot be kept in")));
        fs::remove_file(state).unwrap();
        // Who obtains nothing needs no place.
        let text = "state: /proc/no/such\nlisteners: { web: { bind: ':80', routes: [ { respond: 204 } ] } }";
        assert_eq!(read(&sumun_config::check_text("sumun.yaml", text).unwrap().config, None), Ok(Kept::default()));
    }
}
