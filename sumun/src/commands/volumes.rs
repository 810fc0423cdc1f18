//! Changes of the cache's volumes: in the file, and then in the running instance.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sumun_config::VolumeEdit;

use super::{Failure, Outcome, WRONG, ask, failed, try_reload};
use crate::arguments::Instance;
use crate::log::coloured;

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| failed(error.to_string()))
}

/// Adds a physical volume. A device that is away is no reason to refuse a config, and one to refuse this.
pub(super) fn add(instance: &Instance, path: &Path, size: Option<&str>) -> Outcome {
    let path = absolute(path)?;
    if size.is_none() && !path.exists() {
        let text = format!("sumun: there is no device {}; for a file say how large it is to be\n", path.display());
        return Err(Failure { text, status: WRONG });
    }
    change(instance, VolumeEdit::Add { path: &path, size })
}

/// Takes one out.
pub(super) fn remove(instance: &Instance, path: &Path) -> Outcome {
    change(instance, VolumeEdit::Remove { path: &absolute(path)? })
}

/// Changes the file and has it reloaded; where that is refused, the file is what it was.
pub(super) fn change(instance: &Instance, edit: VolumeEdit<'_>) -> Outcome {
    let wrong = |why: &str| Failure { text: format!("{}\nnothing was changed\n", why.trim_end()), status: WRONG };
    let path = instance.file.path();
    let sources = sumun_config::load(&path).map_err(|report| wrong(&report.render(coloured(&io::stderr()))))?;
    let edited = sumun_config::edit_volumes(&sources, edit).map_err(|why| match why.starts_with("error: ") {
        true => wrong(&why),
        false => wrong(&format!("sumun: {why}")),
    })?;
    // Somebody has to be there who reloads it.
    ask(instance, "GET", "/api/v1/volumes", None)?;
    let file = edited.file.display();
    replace(&edited.file, &edited.before, &edited.after)
        .map_err(|error| failed(format!("{file} cannot be changed: {error}")))?;
    try_reload(instance).map_err(|failure| {
        let back = match replace(&edited.file, &edited.after, &edited.before) {
            Ok(()) => format!("{file} is as it was"),
            Err(error) => format!("{file} cannot be put back as it was: {error}"),
        };
        Failure { text: format!("{}sumun: {back}\n", failure.text), ..failure }
    })
}

/// Puts a text in the place of another one, whole or not at all; the file keeps its owner and its mode.
fn replace(path: &Path, before: &str, after: &str) -> io::Result<()> {
    // The file itself, and not a link to it.
    let path = fs::canonicalize(path)?;
    if fs::read_to_string(&path)? != before {
        return Err(io::Error::other("somebody else has changed it meanwhile"));
    }
    let old = fs::metadata(&path)?;
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = file
        .write_all(after.as_bytes())
        .and_then(|()| {
            let new = file.metadata()?;
            let is_other = (new.uid(), new.gid()) != (old.uid(), old.gid());
            if is_other { chown(&partial, Some(old.uid()), Some(old.gid())) } else { Ok(()) }
        })
        .and_then(|()| file.set_permissions(Permissions::from_mode(old.mode() & 0o7777)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&partial, &path));
    if written.is_err() {
        fs::remove_file(&partial).unwrap_or_default();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_where_it_is_what_it_was() {
        let folder = std::env::temp_dir().join(format!("sumun-volumes-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, link) = (folder.join("sumun.yaml"), folder.join("link.yaml"));
        fs::write(&path, "one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("sumun.yaml", &link).unwrap();
        replace(&link, "one", "two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(replace(&path, "one", "three").unwrap_err().to_string().contains("somebody else"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
