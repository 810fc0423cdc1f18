//! Child processes that are looked after from a poll loop, and adopted where this process began
//! another life with execve(2): its children stayed its children.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::process::{ProcessHandle, Send};

/// What the service manager, or the program before this one, told this process alone: a child that
/// believed it would speak for us.
const OURS_ALONE: [&str; 8] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    crate::program::TAKEOVER,
    crate::program::TAKEOVER_REFUSED,
];

/// A child. Nothing happens to it when this is dropped; one that has ended stays a zombie until
/// [`Self::ended`] has said so.
#[derive(Debug)]
pub struct ChildProcess {
    pid: u32,
    handle: ProcessHandle,
}

impl ChildProcess {
    /// Starts `program` with `name` as its argument 0. Its standard input is one end of the
    /// returned socket; output and errors go where ours go.
    pub fn start(program: &Path, name: &str, arguments: &[&str]) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = command(program, name, arguments);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        Ok((Self::adopt(command.spawn()?.id())?, ours))
    }

    /// Starts `program` to ask it something: `input` is its standard input, and both its output and
    /// its errors can be read from the returned socket, which never makes us wait.
    pub fn ask(program: &Path, name: &str, arguments: &[&str], input: OwnedFd) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = command(program, name, arguments);
        command.stdin(input).stdout(theirs.try_clone()?).stderr(theirs);
        Ok((Self::adopt(command.spawn()?.id())?, ours))
    }

    /// Takes hold of a child by its id, which cannot mean another process before it was waited for.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, handle: ProcessHandle::open(pid)? })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL. No error where it has ended already.
    pub fn kill(&self) -> io::Result<()> {
        match self.handle.send(Send::Kill) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// How it ended, if it has; that is told once.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.wait(WaitOptions::NOHANG)
    }

    /// Waits for its end.
    pub fn wait_for_end(&self) -> Option<ExitStatus> {
        self.wait(WaitOptions::empty())
    }

    fn wait(&self, options: WaitOptions) -> Option<ExitStatus> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        loop {
            match waitpid(Some(pid), options) {
                Ok(found) => return found.map(|(_, status)| ExitStatus::from_raw(status.as_raw())),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Readable once the child has ended.
impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn command(program: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg0(name).args(arguments);
    for variable in OURS_ALONE {
        command.env_remove(variable);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    fn nothing() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn its_end_is_told_once() {
        let (child, _output) = ChildProcess::ask(Path::new("/bin/sh"), "sh", &["-c", "exit 3"], nothing()).unwrap();
        assert_eq!(child.wait_for_end().unwrap().code(), Some(3));
        assert_eq!(child.ended(), None);
        child.kill().unwrap();
    }

    #[test]
    fn what_it_says_can_be_read_and_it_can_be_killed() {
        let script = "echo out; echo err >&2; exec sleep 1000";
        let (child, mut output) = ChildProcess::ask(Path::new("/bin/sh"), "sh", &["-c", script], nothing()).unwrap();
        let mut text = String::new();
        while text != "out\nerr\n" {
            crate::wait::wait_readable(&[output.as_fd()], Some(Duration::from_secs(60))).unwrap();
            let mut bytes = [0; 64];
            let count = output.read(&mut bytes).unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        assert_eq!(child.ended(), None);
        child.kill().unwrap();
        assert_eq!(child.wait_for_end().unwrap().signal(), Some(9));
    }

    #[test]
    fn the_socket_is_its_standard_input_and_an_adopted_one_is_waited_for() {
        let (child, channel) = ChildProcess::start(Path::new("/bin/sh"), "sh", &["-c", "read line; exit 0"]).unwrap();
        let again = ChildProcess::adopt(child.pid()).unwrap();
        assert_eq!(again.ended(), None);
        drop(channel);
        assert!(again.wait_for_end().is_some());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = ChildProcess::ask(Path::new("/nonexistent"), "x", &[], nothing()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
