//! Commands of the operator: each in a process group of its own, that ends as a whole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::child::ChildProcess;
use crate::users::{Account, becoming};
use crate::wait::wait_readable;

/// A command that runs, and whatever it has started. Nothing happens to it when this is dropped.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: ChildProcess,
    /// Where its standard output is read; `None` once that has ended.
    output: Option<OwnedFd>,
}

impl ProcessGroup {
    /// Starts `program` in `/`, with these variables and no others, nothing to read, its errors thrown
    /// away, and no descriptor of ours. As `account`, where there is one. It is killed with the calling
    /// thread.
    ///
    /// # Errors
    /// It cannot be run, by that account at least.
    pub fn start(
        program: &Path,
        arguments: &[String],
        variables: &[(&str, &str)],
        account: Option<&Account>,
    ) -> io::Result<Self> {
        let (output, theirs) = io::pipe()?;
        let output = OwnedFd::from(output);
        rustix::io::ioctl_fionbio(&output, true)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir("/");
        command.stdin(Stdio::null()).stdout(theirs).stderr(Stdio::null()).process_group(0);
        let becomes = account.map(becoming);
        let prepare = move || {
            if let Some(becomes) = &becomes {
                becomes()?;
            }
            // A change of the user would take it back.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            keep_no_descriptors();
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made: no memory is asked for or given
        // back, and no lock is taken. The ids of users and groups lie in memory that was filled before.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(prepare);
        }
        Ok(Self { leader: ChildProcess::adopt(command.spawn()?.id())?, output: Some(output) })
    }

    /// For another life of this process: its leader, and where its output is read.
    pub fn parts(&self) -> (u32, Option<BorrowedFd<'_>>) {
        (self.leader.pid(), self.output.as_ref().map(AsFd::as_fd))
    }

    /// Goes on with what [`Self::parts`] gave.
    pub fn from_parts(leader: u32, output: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { leader: ChildProcess::adopt(leader)?, output })
    }

    /// What to wait on: its leader's end, and its output.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.leader.as_fd()), self.output.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    /// Reads what it has written, without waiting, until there are `most` bytes: then its output is
    /// closed, and writing more is an error for it.
    pub fn read_output(&mut self, said: &mut Vec<u8>, most: usize) {
        let mut piece = [0; 4096];
        while let Some(output) = &self.output {
            let wanted = piece.len().min(most.saturating_sub(said.len()));
            let count = match rustix::io::read(output, piece.get_mut(..wanted).unwrap_or_default()) {
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => continue,
                result => result.unwrap_or(0),
            };
            said.extend(piece.iter().take(count));
            if count == 0 {
                self.output = None;
            }
        }
    }

    /// SIGKILL for all that belong to it still.
    pub fn kill(&self) {
        let leader = i32::try_from(self.leader.pid()).ok().and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // Its number is nobody else's before its leader was waited for. An error means that nobody
            // is left.
            kill_process_group(leader, Signal::KILL).unwrap_or_default();
        }
    }

    /// How its leader ended, if it has; that is told once, and whatever it left running ends with it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let has_ended = wait_readable(&[self.leader.as_fd()], Some(Duration::ZERO));
        if !has_ended.is_ok_and(|ended| ended.contains(&true)) {
            return None;
        }
        self.kill();
        self.leader.ended()
    }
}

/// Closes with the execve(2) what is open behind standard error: also what whoever started us left
/// open by mistake.
fn keep_no_descriptors() {
    // SAFETY: the call closes nothing now. What it marks is closed when another program begins, in which
    // nothing of this one's memory knows of a descriptor. A kernel before 5.11 does not know the mark:
    // there all that was opened by this program has it already.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const SHELL: &str = "/bin/sh";

    fn script(text: &str, account: Option<&Account>) -> ProcessGroup {
        let variables = [("A", "1"), ("B", "two words")];
        ProcessGroup::start(Path::new(SHELL), &["-c".to_owned(), text.to_owned()], &variables, account).unwrap()
    }

    fn finished(group: &mut ProcessGroup, most: usize) -> (ExitStatus, String) {
        let mut said = Vec::new();
        loop {
            let descriptors: Vec<BorrowedFd<'_>> = group.descriptors().collect();
            wait_readable(&descriptors, Some(Duration::from_secs(60))).unwrap();
            let status = group.ended();
            group.read_output(&mut said, most);
            if let Some(status) = status {
                return (status, String::from_utf8(said).unwrap());
            }
        }
    }

    #[test]
    fn it_gets_what_it_is_given_and_nothing_else() {
        // Left open by mistake.
        let left = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&left, rustix::io::FdFlags::empty()).unwrap();
        let mut group =
            script("/usr/bin/env | sort; pwd; read line || echo end; ls /proc/$$/fd; echo err >&2; exit 3", None);
        let (status, said) = finished(&mut group, 4096);
        assert_eq!(status.code(), Some(3));
        let lines: Vec<&str> =
            said.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("OLDPWD")).collect();
        assert_eq!(lines, ["A=1", "B=two words", "PWD=/", "/", "end", "0", "1", "2"]);
    }

    #[test]
    fn it_runs_as_somebody_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let account =
            Account { name: "4000001".to_owned(), uid: 4_000_001, gid: 4_000_002, groups: vec![4_000_002, 7] };
        let (_, said) = finished(&mut script("id -u; id -g; id -G", Some(&account)), 4096);
        assert_eq!(said, "4000001\n4000002\n4000002 7\n");
        assert!(rustix::process::geteuid().is_root());
    }

    #[test]
    fn it_ends_as_a_whole() {
        // Who holds the other end of the pipe lives.
        let mut group = script("sleep 1000 & sleep 1000 & wait", None);
        std::thread::sleep(Duration::from_millis(1));
        assert!(group.ended().is_none());
        group.kill();
        let (status, _) = finished(&mut group, 10);
        assert_eq!(status.signal(), Some(9));
        // What a leader leaves behind does not outlive it.
        let mut group = script("sleep 1000 & echo $!", None);
        let (status, said) = finished(&mut group, 100);
        assert!(status.success());
        let left: u32 = said.trim().parse().unwrap();
        let is_dead = || {
            let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ") || state.contains(") X ")
        };
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !is_dead() {
            assert!(std::time::Instant::now() < until, "{left} lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_it_says_is_bounded() {
        let (status, said) = finished(&mut script("exec yes", None), 5000);
        assert_eq!((status.signal(), said.len()), (Some(13), 5000));
        let again = |mut group: ProcessGroup| {
            let (pid, output) = group.parts();
            let output = output.map(|output| output.try_clone_to_owned().unwrap());
            let mut again = ProcessGroup::from_parts(pid, output).unwrap();
            let finished = finished(&mut again, 100);
            assert!(group.ended().is_none(), "told once");
            finished
        };
        assert_eq!(again(script("echo hello", None)).1, "hello\n");
    }

    #[test]
    fn what_cannot_be_run_is_an_error() {
        let error = ProcessGroup::start(Path::new("/nonexistent"), &[], &[], None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
