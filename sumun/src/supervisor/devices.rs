//! The devices of the cache: opened anew for each worker process, which lets them go with its end.
//!
//! No copy is kept here: a device is locked by whoever has it open, and the lock of a worker process that
//! has died has to be gone.

use std::io;

use sumun_config::checked::{Config, PhysicalVolume};
use sumun_engine::lifecycle::{Label, Passed};
use sumun_host::files;

/// The physical volumes of `config`. A worker process that has one already, which works, does without. What
/// cannot be opened is missing, and the log says why: the cache goes on without, and so does everything else.
pub(super) fn open(config: &Config) -> Vec<Passed> {
    config.cache.group.iter().flat_map(|group| &group.physical_volumes).filter_map(open_one).collect()
}

fn open_one(volume: &PhysicalVolume) -> Option<Passed> {
    let path = &volume.path;
    // What has no size is a device: where that is gone, a file in its place would fill the wrong disk.
    let opened = files::open_device(path, volume.size.is_some());
    match opened {
        Ok(device) => Some(Passed { label: Label::PhysicalVolume { path: path.clone() }, descriptor: device.into() }),
        Err(error) => {
            let why = match path.parent().filter(|parent| !parent.exists()) {
                Some(parent) if error.kind() == io::ErrorKind::NotFound => {
                    format!("there is no directory {}", parent.display())
                }
                _ => error.to_string(),
            };
            tracing::warn!(
                "the physical volume {} cannot be opened: {why}; the cache goes on without it",
                path.display()
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A config with these files of a folder as physical volumes.
    fn config(folder: &Path, files: &[&str]) -> Config {
        let volumes: Vec<String> =
            files.iter().map(|file| format!("{{ path: {}/{file}, size: 1GiB }}", folder.display())).collect();
        let text = format!(
            "cache: {{ group: {{ physical_volumes: [ {} ] }}, volumes: {{ pages: {{ size: 1MiB }} }} }}\n\
             listeners: {{ web: {{ bind: ':80', routes: [ respond: 204 ] }} }}",
            volumes.join(", ")
        );
        sumun_config::check_text("sumun.yaml", &text).unwrap_or_else(|report| panic!("{}", report.render(false))).config
    }

    fn paths(passed: &[Passed]) -> Vec<PathBuf> {
        let path = |one: &Passed| match &one.label {
            Label::PhysicalVolume { path } => path.clone(),
            other => panic!("{other:?}"),
        };
        passed.iter().map(path).collect()
    }

    #[test]
    fn files_are_made_and_what_is_there_is_kept() {
        let folder = std::env::temp_dir().join(format!("sumun-devices-{}", std::process::id()));
        fs::create_dir_all(folder.join("folder")).unwrap();
        let old = config(&folder, &["a", "folder", "not/there"]);
        let opened = open(&old);
        assert_eq!(paths(&opened), [folder.join("a")], "what cannot be opened is left out");
        assert_eq!(fs::metadata(folder.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!folder.join("not").exists());
        let mut first: File = opened.into_iter().next().unwrap().descriptor.into();
        first.write_all(b"kept").unwrap();

        // For another worker process: the same file, and a lock of its own.
        first.lock().unwrap();
        let second: File = open(&old).into_iter().next().unwrap().descriptor.into();
        assert!(second.try_lock().is_err());
        drop(first);
        second.try_lock().unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"kept");
        let new = config(&folder, &["b", "a", "folder"]);
        assert_eq!(paths(&open(&new)), [folder.join("b"), folder.join("a")]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
