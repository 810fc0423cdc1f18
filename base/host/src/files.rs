//! Files with the permissions they need from their first moment, and sendfile(2).

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Opens a log for appending; a new one gets mode 0640. A pipe that nobody reads is an error and not a
/// wait without end.
pub fn open_log(path: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let log: OwnedFd = options.open(path)?.into();
    // Whoever writes into it waits for its reader.
    rustix::fs::fcntl_setfl(&log, rustix::fs::fcntl_getfl(&log)? - rustix::fs::OFlags::NONBLOCK)?;
    Ok(log)
}

/// Opens a file or a block device for reading and writing, as a thing of its own: locks of it are not those
/// of anybody else who has it open. `makes_file`: where nothing is, an empty file of mode 0600 is made, and
/// no directory. What is there stays as it is.
pub fn open_device(path: &Path, makes_file: bool) -> io::Result<File> {
    // Looked at first, because to open some devices does something to them; and again, because another one
    // may have come in its place.
    let refuse = |kind: std::fs::FileType| {
        let is_one = kind.is_file() || kind.is_block_device();
        let what = if kind.is_dir() { "it is a directory" } else { "it is neither a file nor a block device" };
        if is_one { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, what)) }
    };
    match std::fs::metadata(path) {
        Ok(found) => refuse(found.file_type())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && makes_file => {}
        Err(error) => return Err(error),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(makes_file).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let device = options.open(path)?;
    refuse(device.metadata()?.file_type())?;
    // Whoever reads it waits for it.
    rustix::fs::fcntl_setfl(&device, rustix::fs::fcntl_getfl(&device)? - rustix::fs::OFlags::NONBLOCK)?;
    Ok(device)
}

/// Makes `path` and what is missing above it, for the owner alone (0700). A directory that is
/// there already stays as it is.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Fails where somebody else could put files of theirs in the place of ours in the directory
/// `path`: it has to belong to us or to root, and to be writable by nobody else unless it is
/// sticky, as /tmp is.
pub fn require_trusted_directory(path: &Path) -> io::Result<()> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let metadata = std::fs::metadata(path)?;
    let owned = metadata.uid() == 0 || metadata.uid() == crate::process::effective_uid();
    let open = metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0;
    if owned && !open {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write there; it has to be ours alone"))
}

/// Makes a directory of ours one that nobody else can look into (0700), and fails where it is not
/// ours.
pub fn require_private_directory(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.uid() != crate::process::effective_uid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Puts a file (0600) in the place of `path`: whole, and on the disk, or not at all.
pub fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = partial_path(path);
    // Of a life that ended in the middle.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let replaced = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&partial, path));
    if let Err(error) = replaced {
        // What cannot be removed is removed by the next one.
        std::fs::remove_file(&partial).ok();
        return Err(error);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

/// Reads a whole regular file of at most `most` bytes; `None` where there is none.
pub fn read_private(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(_) => read_bounded(path, most).map(Some),
    }
}

/// The `N` bytes kept in the file `path` (mode 0600); made with `fresh` where there is none.
/// Of several processes that do this at once, all get the bytes of the first.
pub fn secret_file<const N: usize>(path: &Path, fresh: [u8; N]) -> io::Result<[u8; N]> {
    if let Some(secret) = read_secret(path)? {
        return Ok(secret);
    }
    // Written whole beside it and then linked: nobody ever reads half a secret.
    let partial = partial_path(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let linked =
        file.write_all(&fresh).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&partial, path));
    std::fs::remove_file(&partial)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read_secret(path)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
    }
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

fn read_secret<const N: usize>(path: &Path) -> io::Result<Option<[u8; N]>> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(N as u64 + 1).read_to_end(&mut bytes)?;
    let wrong = |bytes: Vec<u8>| {
        let text = format!("{} holds {} bytes where {N} are expected", path.display(), bytes.len());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    bytes.try_into().map(Some).map_err(wrong)
}

/// Sends up to `count` bytes of `file` from `*offset` on into `socket` without copying them
/// through this process, and moves `*offset`. Returns how many were taken; 0 is the end of the
/// file. `WouldBlock` when the socket is full. Reading a cold file waits for the disk.
pub fn send_file(socket: impl AsFd, file: impl AsFd, offset: &mut u64, count: usize) -> io::Result<usize> {
    loop {
        match rustix::fs::sendfile(&socket, &file, Some(offset), count) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a regular file for reading. Everything else is an error: the opening of a named pipe would
/// wait for who writes into it, and a device may have no end.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let refuse = |kind: std::fs::FileType| {
        let what = if kind.is_fifo() { "it is a pipe and no regular file" } else { "it is no regular file" };
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    };
    // Looked at first, because to open a device may do something to it; and again, because another file
    // may have come in its place, for which the opening does not wait.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return refuse(kind);
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { refuse(kind) }
}

/// Reads a whole regular file of at most `most` bytes.
pub fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let text = format!("it is larger than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// How far apart the places are at which [`is_resident`] looks, in bytes.
const PROBE_STRIDE: u64 = 128 * 1024;

/// Whether these bytes of a file seem to be in memory, so that sending them waits for no disk.
/// Looks at one byte in every 128 KiB; where the file system cannot tell, the answer is no.
pub fn is_resident(file: impl AsFd, offset: u64, length: u64) -> bool {
    let mut at = offset;
    let last = (offset + length).saturating_sub(1).max(offset);
    loop {
        let mut byte = [0];
        let mut parts = [io::IoSliceMut::new(&mut byte)];
        if rustix::io::preadv2(&file, &mut parts, at, rustix::io::ReadWriteFlags::NOWAIT).is_err() {
            return false;
        }
        if at == last {
            return true;
        }
        at = (at + PROBE_STRIDE).min(last);
    }
}

/// Reads these bytes of a file, so that they are in memory. Waits for the disk.
pub fn load(file: &File, offset: u64, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut block = vec![0; PROBE_STRIDE as usize];
    let mut at = offset;
    let end = offset + length;
    while at < end {
        let wanted = block.len().min((end - at) as usize);
        match file.read_at(&mut block[..wanted], at)? {
            0 => break,
            count => at += count as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sumun-host-files-{}-{name}", crate::clock::monotonic_ns()))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let directory = scratch("secret").join("below");
        private_directory(&directory).unwrap();
        private_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        let path = directory.join("secret");
        assert_eq!(secret_file(&path, [7; 32]).unwrap(), [7; 32]);
        assert_eq!(secret_file(&path, [8; 32]).unwrap(), [7; 32]);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(secret_file(&path, [8; 32]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_pipe_without_a_reader_is_no_log() {
        let directory = scratch("pipe");
        private_directory(&directory).unwrap();
        let pipe = directory.join("log");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(open_log(&pipe).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        let log = open_log(&pipe).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&log).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        drop(reader);
        let file = open_log(&directory.join("file")).unwrap();
        assert_eq!(rustix::io::write(&file, b"line").unwrap(), 4);
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = scratch("regular");
        private_directory(&directory).unwrap();
        let pipe = directory.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let text = |path: &Path| read_bounded(path, 10).unwrap_err().to_string();
        assert_eq!(text(&pipe), "it is a pipe and no regular file");
        assert_eq!(text(Path::new("/dev/zero")), "it is no regular file");
        assert_eq!(read_bounded(&directory, 10).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert!(read_private(&pipe, 10).is_err() && read_secret::<1>(&pipe).is_err());
        std::fs::write(directory.join("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", directory.join("link")).unwrap();
        assert_eq!(read_bounded(&directory.join("link"), 10).unwrap(), b"text");
    }

    #[test]
    fn a_device_is_opened_as_it_is() {
        let directory = scratch("device");
        private_directory(&directory).unwrap();
        let path = directory.join("a");
        assert_eq!(open_device(&path, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        open_device(&path, true).unwrap().write_all(b"kept").unwrap();
        assert_eq!(mode(&path), 0o600);
        std::os::unix::fs::symlink("a", directory.join("link")).unwrap();
        let (one, other) = (open_device(&path, true).unwrap(), open_device(&directory.join("link"), false).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        // Each has a lock of its own.
        one.try_lock().unwrap();
        assert!(other.try_lock().is_err());
        drop(one);
        other.try_lock().unwrap();
        let text = |path: &Path| open_device(path, true).unwrap_err().to_string();
        assert_eq!(text(&directory), "it is a directory");
        assert_eq!(text(Path::new("/dev/null")), "it is neither a file nor a block device");
        assert_eq!(open_device(&directory.join("not/there"), true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!directory.join("not").exists());
    }

    #[test]
    fn a_private_file_is_replaced_as_a_whole() {
        let directory = scratch("private");
        private_directory(&directory).unwrap();
        std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        require_private_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        let path = directory.join("file");
        assert_eq!(read_private(&path, 10).unwrap(), None);
        // Half of one is left from a life that ended in the middle, for everybody to read.
        std::fs::write(partial_path(&path), "half").unwrap();
        for text in ["one", "another"] {
            replace_private(&path, text.as_bytes()).unwrap();
            assert_eq!(read_private(&path, 10).unwrap().as_deref(), Some(text.as_bytes()));
            assert_eq!(mode(&path), 0o600);
            assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
        }
        assert_eq!(read_private(&path, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_private(&directory, 10).is_err());
        assert!(replace_private(&directory.join("no/such"), b"").is_err());
        std::fs::create_dir(directory.join("taken")).unwrap();
        assert!(replace_private(&directory.join("taken"), b"").is_err());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn a_directory_for_everybody_is_not_trusted() {
        let directory = scratch("trust");
        private_directory(&directory).unwrap();
        let set = |mode| {
            std::fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        };
        for (mode, trusted) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false), (0o1777, true)] {
            set(mode);
            assert_eq!(require_trusted_directory(&directory).is_ok(), trusted, "{mode:o}");
        }
    }

    #[test]
    fn a_log_is_appended_to() {
        let path = scratch("log");
        for line in ["one\n", "two\n"] {
            File::from(open_log(&path).unwrap()).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(mode(&path) & !0o640, 0);
    }

    #[test]
    fn a_part_of_a_file_is_sent() {
        let path = scratch("sendfile");
        std::fs::write(&path, "0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let (left, mut right) = UnixStream::pair().unwrap();
        let mut offset = 3;
        assert_eq!(send_file(&left, &file, &mut offset, 4).unwrap(), 4);
        assert_eq!(offset, 7);
        let mut text = [0; 4];
        right.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"3456");
        offset = 10;
        assert_eq!(send_file(&left, &file, &mut offset, 4).unwrap(), 0);
    }
}
