//! The real program, started with a config of its own and stopped when dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Scratch;

/// How long the program may take until its listeners take connections.
const START_BOUND: Duration = Duration::from_secs(20);
/// How long it may take to end after SIGTERM before it is killed.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// Between two looks at a process or a listener that is not ready.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) struct Gateway {
    child: Child,
    log: PathBuf,
    // Dropped last: the program still writes into it while it ends.
    _scratch: Scratch,
}

/// A program that reads nothing and writes to the log.
pub(crate) fn command(program: impl AsRef<OsStr>, log: &File) -> Command {
    let handle = || log.try_clone().expect("another handle of the log");
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(handle()).stderr(handle());
    command
}

impl Gateway {
    /// Starts `sumun run` and waits until every address takes connections.
    ///
    /// `config` gets the directory of the test and returns the text of the config file.
    pub(crate) fn start(config: impl FnOnce(&Scratch) -> String, listening: &[SocketAddr]) -> Self {
        Self::start_as(|_, log| command(env!("CARGO_BIN_EXE_sumun"), log), config, listening)
    }

    /// The same with another command in place of the program's name; it is made for the directory of
    /// the test, and gets a log to write to.
    pub(crate) fn start_as(
        command: impl FnOnce(&Path, &File) -> Command,
        config: impl FnOnce(&Scratch) -> String,
        listening: &[SocketAddr],
    ) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path().join("sumun.yaml");
        fs::write(&file, config(&scratch)).expect("the config can be written");
        let log = scratch.path().join("log");
        let output = File::options().create(true).append(true).open(&log).expect("the log can be created");
        let child = command(scratch.path(), &output)
            .arg("run")
            .arg("-c")
            .arg(&file)
            .current_dir(scratch.path())
            .spawn()
            .expect("the program starts");
        let mut gateway = Self { child, log, _scratch: scratch };
        for address in listening {
            gateway.wait_for(*address);
        }
        gateway
    }

    /// What the program wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The process that was started: the supervisor.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    fn wait_for(&mut self, address: SocketAddr) {
        let until = Instant::now() + START_BOUND;
        loop {
            match TcpStream::connect_timeout(&address, START_BOUND) {
                Ok(_) => return,
                Err(error) => {
                    if let Some(status) = self.ended() {
                        panic!("the gateway ended ({status}) before {address}:\n{}", self.log());
                    }
                    assert!(Instant::now() < until, "nothing at {address}: {error}\n{}", self.log());
                }
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The standard library sends no SIGTERM; the shell's own `kill` does.
        let polite =
            Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).stderr(Stdio::null()).status();
        if polite.is_ok() {
            let until = Instant::now() + STOP_BOUND;
            while self.ended().is_none() && Instant::now() < until {
                thread::sleep(LOOK_EVERY);
            }
        }
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
