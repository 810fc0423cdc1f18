//! Looks at what the config names on this host; with [`Probe::Nothing`] it looks at nothing.

use std::path::Path;

use sumun_host::program::Program;

use super::Lower;
use super::process::Use;
use crate::check::Probe;
use crate::host_error;
use crate::node::Place;

impl Lower<'_> {
    pub(super) fn probe_directory(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        if let Err(error) = std::fs::read_dir(path) {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such directory".to_owned(),
                std::io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
                _ => host_error(&error),
            };
            self.error(place, format!("the root {} cannot be read: {reason}", path.display()), RELATIVE);
        }
    }

    pub(super) fn probe_file(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        if let Err(error) = sumun_host::files::open_regular(path) {
            let reason = host_error(&error);
            self.error(place, format!("the file {} cannot be read: {reason}", path.display()), RELATIVE);
        }
    }

    /// `text`: as it is written.
    pub(super) fn probe_command(&mut self, place: Place, path: &Path, text: &str) {
        if self.probe == Probe::Nothing {
            return;
        }
        if let Err(error) = Program::look(path) {
            // The reasons that are none of the kernel's are in words already.
            let reason = if error.get_ref().is_some() { error.to_string() } else { host_error(&error) };
            let help = match (error.kind(), text.split_once(' ')) {
                (std::io::ErrorKind::PermissionDenied, _) => "`chmod +x FILE` makes a script a command".to_owned(),
                (_, Some((first, rest))) => format!("arguments stand in a list: `exec: [{first}, {rest}]`"),
                (_, None) if !text.contains('/') => format!("{RELATIVE}, and PATH is not searched"),
                (_, None) => RELATIVE.to_owned(),
            };
            return self.error(place, format!("the command {} cannot be run: {reason}", path.display()), help);
        }
        self.probe_as_user(place, path, Use::Run);
    }

    /// Who checks may be another user than who runs, so what it lacks is worth a warning only.
    pub(super) fn probe_transparency(&mut self, place: Place) {
        if self.probe == Probe::Nothing {
            return;
        }
        if let Err(error) = sumun_host::connect::can_be_transparent() {
            let reason = host_error(&error);
            self.problems.warn(
                place,
                format!("servers cannot be connected to from the addresses of clients: {reason}"),
                "that needs CAP_NET_RAW, which root has unless a container or unit takes it away; without it Sumun does not start",
            );
        }
    }

    /// A fallback may be built later, so its absence is worth a warning only.
    pub(super) fn probe_fallback(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing || self.problems.is_refused(place) || path.is_file() {
            return;
        }
        self.problems.warn(
            place,
            format!("there is no file {} yet", path.display()),
            "requests that need it get 404 until it is there",
        );
    }

    pub(super) fn probe_log(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        let reason = match std::fs::metadata(path) {
            Ok(kind) if kind.is_dir() => Some("it is a directory".to_owned()),
            // Opening to append changes nothing; pipes and devices are left alone.
            Ok(kind) if kind.is_file() => {
                std::fs::OpenOptions::new().append(true).open(path).err().map(|error| host_error(&error))
            }
            Ok(_) => None,
            Err(_) => match path.parent().map(std::fs::metadata) {
                Some(Ok(parent)) if parent.is_dir() => None,
                Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Some(host_error(&error)),
                _ => Some("its directory is not there".to_owned()),
            },
        };
        if let Some(reason) = reason {
            self.error(place, format!("the access log {} cannot be written: {reason}", path.display()), RELATIVE);
        }
    }
}

pub(super) const RELATIVE: &str = "a relative path starts from the directory of the config file";
