//! The file of the running program, and beginning another life in it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::signals;

/// The running program, whatever became of its file.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Variables for [`become_program`]: how many descriptors wait in the standard input of a program that
/// is to go on from where another one left this process,
pub const TAKEOVER: &str = "SUMUN_TAKEOVER";

/// and, where that program could not and this is the one before it again, why.
pub const TAKEOVER_REFUSED: &str = "SUMUN_TAKEOVER_REFUSED";

/// What the kernel writes behind the name of a file that is gone or was replaced.
const DELETED: &[u8] = b" (deleted)";

/// Where this program is to be found again: the path that it was started by, with its symbolic
/// links, because a new version is put in place by changing one of them, or the file itself. Has to
/// be asked before the working directory changes.
pub fn path_as_started() -> io::Result<PathBuf> {
    let running = fs::read_link(THIS_PROGRAM)?;
    let named = std::env::args_os().next().and_then(|name| find(&name, std::env::var_os("PATH").as_deref()));
    // Argument 0 is whatever the starter wrote there: it counts where it leads to this program.
    match named {
        Some(path) if is_same(&path, Path::new(THIS_PROGRAM)) => Ok(path),
        _ => Ok(without_mark(running)),
    }
}

/// A path as execvp(3) would find it.
fn find(name: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok();
    }
    let mut folders = std::env::split_paths(search?);
    folders.find_map(|folder| std::path::absolute(folder.join(name)).ok().filter(|path| path.is_file()))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

fn without_mark(path: PathBuf) -> PathBuf {
    let mut bytes = path.into_os_string().into_vec();
    if bytes.ends_with(DELETED) {
        bytes.truncate(bytes.len() - DELETED.len());
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// A program's file as it was looked at: another one in its place is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    identity: (u64, u64, u64, i64, i64),
}

impl Program {
    /// Looks at a file.
    ///
    /// # Errors
    /// It is not there, is no file, or may not be executed by us.
    pub fn look(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).map_err(|error| match error {
            rustix::io::Errno::ACCESS => io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"),
            error => error.into(),
        })?;
        Ok(Self { path: path.to_owned(), identity: identity(&metadata) })
    }

    /// Whether the same file is still there.
    pub fn is_unchanged(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
    }
}

fn identity(metadata: &Metadata) -> (u64, u64, u64, i64, i64) {
    (metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

/// The running program's file, held so that it can be executed even when nothing leads to it any
/// more. Close-on-exec.
pub fn hold_this_program() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(THIS_PROGRAM)?.into())
}

/// Executes `program` in this process (execve(2)): the same process id, parent and children, this
/// process's own arguments and environment, with `variables` added, and `input` as standard input.
/// Every descriptor of ours is closed on the way. Comes back only with an error; then nothing has
/// changed but standard input.
///
/// Signals that are caught get their default effect, which for most of them is death, so
/// they have to be blocked ([`crate::signals::block`]).
pub fn become_program(program: &Path, variables: &[(&str, Option<&str>)], input: OwnedFd) -> io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).stdin(Stdio::from(input));
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let error = command.exec();
    signals::disregard_broken_pipes();
    error
}

/// The same with a program that is held.
pub fn become_held_program(program: &OwnedFd, variables: &[(&str, Option<&str>)], input: OwnedFd) -> io::Error {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    become_program(Path::new(&path), variables, input)
}

/// A copy of our standard input, to be put back by [`set_standard_input`] in the next life.
pub fn standard_input() -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    io::stdin().as_fd().try_clone_to_owned()
}

/// Makes `descriptor` our standard input.
pub fn set_standard_input(descriptor: OwnedFd) -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(&descriptor)?)
}

/// A file in memory with these bytes, to be read from its start by who gets it. Close-on-exec.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let mut file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Everything in such a file, of at most `most` bytes, in one piece of memory: nothing of it is left
/// where a smaller piece was.
pub fn read_memory_file(descriptor: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut file = File::from(descriptor);
    file.rewind()?;
    let length = file.metadata()?.len().min(most);
    // One more byte: a read into what is left tells the end.
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)? + 1);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sumun-program-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn this_program_is_found() {
        let path = path_as_started().unwrap();
        assert!(path.is_absolute() && is_same(&path, Path::new(THIS_PROGRAM)), "{}", path.display());
    }

    #[test]
    fn names_are_found_as_a_shell_finds_them() {
        let folder = scratch("find");
        fs::write(folder.join("tool"), "").unwrap();
        let search = std::env::join_paths([Path::new("/nonexistent"), &folder]).unwrap();
        assert_eq!(find(OsStr::new("tool"), Some(&search)), Some(folder.join("tool")));
        assert_eq!(find(OsStr::new("other"), Some(&search)), None);
        assert_eq!(find(OsStr::new("/a/b"), None), Some(PathBuf::from("/a/b")));
    }

    #[test]
    fn the_mark_of_a_replaced_file_is_taken_off() {
        assert_eq!(without_mark("/usr/bin/sumun (deleted)".into()), Path::new("/usr/bin/sumun"));
        assert_eq!(without_mark("/usr/bin/sumun".into()), Path::new("/usr/bin/sumun"));
    }

    #[test]
    fn another_file_in_its_place_is_noticed() {
        let path = scratch("look").join("program");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let text = Program::look(&path).unwrap_err().to_string();
        assert_eq!(text, "it is not executable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program::look(&path).unwrap();
        assert!(program.is_unchanged());
        fs::write(path.with_extension("new"), "#!/bin/sh\n").unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
        assert!(!program.is_unchanged());
        assert!(Program::look(path.parent().unwrap()).is_err());
    }

    #[test]
    fn what_a_memory_file_holds() {
        let read = |most| read_memory_file(memory_file("test", b"state").unwrap(), most);
        assert_eq!(read(5).unwrap(), b"state");
        assert_eq!(read(4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
