//! This process, its children and others.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, pidfd_send_signal, setrlimit};

use crate::wait::wait_readable;

/// The signals this project sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// A process, held so that its id cannot come to mean another one (pidfd).
#[derive(Debug)]
pub struct ProcessHandle {
    descriptor: OwnedFd,
}

impl ProcessHandle {
    /// Takes hold of a running process.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { descriptor: pidfd_open(pid, PidfdFlags::empty())? })
    }

    pub fn send(&self, signal: Send) -> io::Result<()> {
        let signal = match signal {
            Send::Terminate => rustix::process::Signal::TERM,
            Send::Kill => rustix::process::Signal::KILL,
        };
        Ok(pidfd_send_signal(&self.descriptor, signal)?)
    }

    /// Waits for its end; `false` when it still runs after `timeout`.
    pub fn wait_gone(&self, timeout: Duration) -> io::Result<bool> {
        Ok(wait_readable(&[self.descriptor.as_fd()], Some(timeout))?.contains(&true))
    }
}

/// Readable once the process has ended.
impl AsFd for ProcessHandle {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Lets SIGTERM come to this process when the thread that started it ends, however that happens.
pub fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?)
}

/// The socket that [`crate::child::ChildProcess::start`] made our standard input.
pub fn inherited_channel() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Tells a socket from a terminal or a file before anything is read.
    stream
        .peer_addr()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "standard input is not the supervisor's socket"))?;
    Ok(stream)
}

/// Raises the soft limit of open files to the hard one; the limit that holds now.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Descriptors this process may have open (soft limit).
pub fn open_files_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// CPUs this process may use: affinity and cgroup quota taken into account; at least 1.
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Effective user id.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sets the name of the calling thread as `ps` and `top` show it; 15 bytes are kept.
pub fn name_thread(name: &str) -> io::Result<()> {
    let name: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// The name of a running process, as `ps` shows it.
pub fn name_of(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// `process 4711 (nginx)`.
pub fn describe(pid: u32) -> String {
    match name_of(pid) {
        Some(name) => format!("process {pid} ({name})"),
        None => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_seen_to_end() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap();
        assert!(!handle.wait_gone(Duration::ZERO).unwrap());
        handle.send(Send::Terminate).unwrap();
        assert!(handle.wait_gone(Duration::from_secs(60)).unwrap());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn the_limit_of_open_files_is_raised() {
        let limit = raise_open_files_limit().unwrap();
        assert_eq!(open_files_limit(), limit);
    }

    #[test]
    fn names() {
        name_thread("a-name-that-is-too-long\0").unwrap();
        assert!(describe(std::process::id()).starts_with("process "));
        assert_eq!(name_of(u32::MAX), None);
        assert!(cpu_count() >= 1);
    }
}
