//! What is kept of certificates that are obtained: written here, where the right to is, and read again
//! at the next start. It comes from the worker process, in which all that is said by an authority is
//! understood; here it is bytes under a name that the config allows.
//!
//! Each file takes the place of the one before as a whole, once it is on the disk. Where the disk
//! does not take it, it is kept in memory and tried again with the next one: a certificate that is
//! there is served.

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
