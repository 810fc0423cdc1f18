//! What can go wrong.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a pool cannot be opened, or something in it not be had.
#[derive(Debug)]
pub enum Error {
    /// The host refuses.
    Io { path: PathBuf, error: io::Error },
    /// There is something on the device, and it is not a physical volume. It stays as it is.
    Foreign { path: PathBuf },
    /// The device belongs to another group than those before it.
    OtherGroup { path: PathBuf },
    /// The same device by two paths, or a copy of one.
    Twice { path: PathBuf },
    /// The device has no room for two extents, or is smaller than its label says.
    TooSmall { path: PathBuf },
    /// The config contradicts itself or the devices.
    Config(&'static str),
    /// The object was overtaken by newer ones, or cannot be read.
    Gone,
    /// It could not be made durable.
    NotDurable,
}

impl Error {
    pub(super) fn io(path: impl AsRef<Path>, error: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), error }
    }

    /// The device that is to blame, where the others could do without it.
    pub(super) fn of_one_device(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Foreign { path } | Self::TooSmall { path } => Some(path),
            _ => None,
        }
    }

    /// For who has said which device it is.
    pub(super) fn without_path(&self) -> String {
        let text = self.to_string();
        let path = self.of_one_device().map(|path| format!("{}: ", path.display()));
        path.and_then(|path| text.strip_prefix(&path).map(str::to_owned)).unwrap_or(text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => write!(out, "{}: {error}", path.display()),
            Self::Foreign { path } => write!(
                out,
                "{}: neither empty nor a physical volume, so it is left as it is; `wipefs -a` or zeros at its \
                 beginning and end make it empty",
                path.display()
            ),
            Self::OtherGroup { path } => {
                write!(out, "{}: belongs to another group than the first physical volume", path.display())
            }
            Self::Twice { path } => write!(out, "{}: the same physical volume as another one", path.display()),
            Self::TooSmall { path } => write!(out, "{}: too small", path.display()),
            Self::Config(what) => out.write_str(what),
            Self::Gone => out.write_str("not there any more"),
            Self::NotDurable => out.write_str("could not be written to disk for good"),
        }
    }
}

impl std::error::Error for Error {}
