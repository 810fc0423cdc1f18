//! Health checks by commands of the operator: run here, because the sandbox lets the worker process start
//! nothing.
//!
//! A worker process says which server is to be checked, and no more: which command that means stands in
//! this process's own config, and what it is told of the server is held against the form of a name and an
//! address. Nothing here waits for a command.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sumun_config::checked::{Check, Config, Sandbox, User};
use sumun_engine::lifecycle::limits::CHECKS_AT_ONCE;
use sumun_engine::lifecycle::{CheckVerdict, ToWorker};
use sumun_host::group::ProcessGroup;
use sumun_host::users::Account;
use sumun_pools::external::{first_line, in_units};

use super::Supervisor;
use crate::limits::{CHECK_NAME_BYTES, CHECK_OUTPUT_BYTES, CHECKS_PER_SECOND};
use crate::sandbox::Plan;

/// Where commands look for others if this process has no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The commands that run, and those that were killed and have not ended.
#[derive(Default)]
pub(super) struct Checks {
    running: Vec<Running>,
    /// As whom they run, and by what of the config that was found out: to look up a user may take time.
    runs_as: Option<(Option<User>, Sandbox, Option<Account>)>,
    /// How many were asked for since then, for a second.
    lately: Option<(Instant, u32)>,
}

struct Running {
    asked: Asked,
    group: ProcessGroup,
    said: Vec<u8>,
    /// Killed then.
    until: Instant,
    timeout: Duration,
    /// Killed, and nobody waits for its answer any more.
    given_up: bool,
}

/// By which worker process, and its number of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    number: u64,
    id: u64,
}

/// A command that runs, as it is handed to the next program in this process. Times are from now on.
#[derive(Serialize, Deserialize)]
pub(super) struct WrittenCheck {
    asked: Asked,
    pid: u32,
    /// The place of its output among the descriptors.
    output: Option<usize>,
    said: Vec<u8>,
    left: Duration,
    timeout: Duration,
    given_up: bool,
}

/// A command of a config.
#[derive(Debug, PartialEq, Eq)]
struct Command<'a> {
    program: &'a PathBuf,
    arguments: &'a [String],
    timeout: Duration,
    port: Option<u16>,
}

impl Supervisor {
    /// Starts the command of this pool, or says why it is not run.
    pub(super) fn check_wanted(
        &mut self,
        number: u64,
        id: u64,
        (pool, server, address): (&str, &str, &str),
        now: Instant,
    ) {
        let asked = Asked { number, id };
        if !self.checks.is_within_rate(now) {
            return self.answer_check(asked, CheckVerdict::None, "too many checks are started".to_owned());
        }
        // A config on its way is in force in the worker process before this one hears of it.
        let pending = self.reload.as_ref().map(|reload| &reload.config);
        let configs = [Some(&self.config), pending].into_iter().flatten();
        let found = configs.filter_map(|config| Some((config, command_of(config, pool)?))).next();
        let Some((config, command)) = found else {
            return self.answer_check(asked, CheckVerdict::None, "the config has no command for this pool".to_owned());
        };
        let place = Place::read(address, command.port).filter(|place| is_name(server) && place.is_within(config));
        let Some(place) = place else {
            let words = "its name or its address cannot be told to a command".to_owned();
            return self.answer_check(asked, CheckVerdict::None, words);
        };
        if self.checks.running.len() >= CHECKS_AT_ONCE {
            return self.answer_check(asked, CheckVerdict::None, "too many checks run".to_owned());
        }
        let started = self.checks.account(&self.config).and_then(|account| {
            let path = std::env::var("PATH").unwrap_or_else(|_| USUAL_PATH.to_owned());
            let variables = [
                ("PATH", path.as_str()),
                ("SUMUN_POOL", pool),
                ("SUMUN_SERVER", server),
                ("SUMUN_ADDRESS", &place.address),
                ("SUMUN_PORT", &place.port),
            ];
            ProcessGroup::start(command.program, command.arguments, &variables, account)
                .map_err(|error| format!("the command cannot be run: {error}"))
        });
        let timeout = command.timeout;
        match started {
            Ok(group) => {
                let until = now + timeout;
                let running = Running { asked, group, said: Vec::new(), until, timeout, given_up: false };
                self.checks.running.push(running);
            }
            Err(why) => self.answer_check(asked, CheckVerdict::Bad, why),
        }
    }

    /// Hears the commands that run, answers for those that have ended, and ends those that take too long.
    pub(super) fn look_at_checks(&mut self, now: Instant) {
        for (asked, verdict, words) in self.checks.look(now) {
            self.answer_check(asked, verdict, words);
        }
    }

    fn answer_check(&mut self, asked: Asked, verdict: CheckVerdict, words: String) {
        if let Some(process) = self.process(asked.number) {
            process.send(ToWorker::CheckEnded { id: asked.id, verdict, words });
        }
    }
}

impl Checks {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.iter().flat_map(|running| running.group.descriptors())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.iter().filter(|running| !running.given_up).map(|running| running.until).min()
    }

    /// Ends what a worker process has asked for that is gone.
    pub(super) fn give_up(&mut self, number: u64) {
        self.running.iter_mut().filter(|running| running.asked.number == number).for_each(Running::give_up);
    }

    pub(super) fn give_up_all(&mut self) {
        self.running.iter_mut().for_each(Running::give_up);
    }

    fn is_within_rate(&mut self, now: Instant) -> bool {
        let count = match self.lately {
            Some((since, count)) if now.saturating_duration_since(since) < Duration::from_secs(1) => count,
            _ => 0,
        };
        let since = self.lately.filter(|_| count > 0).map_or(now, |(since, _)| since);
        self.lately = Some((since, count.saturating_add(1)));
        count < CHECKS_PER_SECOND
    }

    fn look(&mut self, now: Instant) -> Vec<(Asked, CheckVerdict, String)> {
        let mut answers = Vec::new();
        self.running.retain_mut(|running| {
            let ended = running.group.ended();
            // After its end, so that nothing it said is missed.
            running.group.read_output(&mut running.said, CHECK_OUTPUT_BYTES);
            let answer = match ended {
                Some(status) => judge(status, &running.said),
                None if running.until <= now => overdue(running.timeout, &running.said),
                None => return true,
            };
            if !running.given_up {
                answers.push((running.asked, answer.0, answer.1));
            }
            // The number of a group that has ended may be somebody else's by now.
            if ended.is_none() {
                running.give_up();
            }
            ended.is_none()
        });
        answers
    }

    /// `None`: it stays who we are, as the worker process does.
    ///
    /// # Errors
    /// There is no such user: nothing is run as root in its place.
    fn account(&mut self, config: &Config) -> Result<Option<&Account>, String> {
        let known =
            self.runs_as.as_ref().is_some_and(|(user, sandbox, _)| (user, sandbox) == (&config.user, &config.sandbox));
        if !known {
            self.runs_as = Some((config.user.clone(), config.sandbox, sumun_config::account(config)?));
        }
        Ok(self.runs_as.as_ref().and_then(|(_, _, account)| account.as_ref()))
    }

    /// For the next program. `place` gives a descriptor its place among those that go along.
    pub(super) fn to_written<'a>(
        &'a self,
        now: Instant,
        mut place: impl FnMut(BorrowedFd<'a>) -> usize,
    ) -> Vec<WrittenCheck> {
        let written = self.running.iter().map(|running| {
            let (pid, output) = running.group.parts();
            WrittenCheck {
                asked: running.asked,
                pid,
                output: output.map(&mut place),
                said: running.said.clone(),
                left: running.until.saturating_duration_since(now),
                timeout: running.timeout,
                given_up: running.given_up,
            }
        });
        written.collect()
    }

    /// Takes over what the program before this one wrote: its children are ours.
    pub(super) fn from_written(
        written: Vec<WrittenCheck>,
        now: Instant,
        take: &mut impl FnMut(usize) -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let running = written.into_iter().map(|written| {
            Ok(Running {
                asked: written.asked,
                group: ProcessGroup::from_parts(written.pid, written.output.map(&mut *take).transpose()?)?,
                said: written.said,
                until: now + written.left,
                timeout: written.timeout,
                given_up: written.given_up,
            })
        });
        Ok(Self { running: running.collect::<io::Result<Vec<Running>>>()?, runs_as: None, lately: None })
    }
}

impl Running {
    fn give_up(&mut self) {
        if !self.given_up {
            self.given_up = true;
            self.group.kill();
        }
    }
}

fn command_of<'a>(config: &'a Config, pool: &str) -> Option<Command<'a>> {
    let health = config.pools.get(pool)?.health.as_ref()?;
    match &health.check {
        Check::Exec { program, arguments } => {
            Some(Command { program, arguments, timeout: health.timeout, port: health.port })
        }
        _ => None,
    }
}

/// Where a server is, for a command.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// An IP address, or the path of a Unix socket.
    address: String,
    /// Empty for the latter.
    port: String,
}

impl Place {
    /// The worker process could go there itself: a command is no way around its sandbox.
    fn is_within(&self, config: &Config) -> bool {
        if config.sandbox == Sandbox::Off {
            return true;
        }
        let plan = Plan::of(config);
        match self.port.parse() {
            Ok(port) => plan.connect.contains(&port),
            Err(_) => plan.unix.contains(Path::new(&self.address)),
        }
    }

    /// `port` comes before the one in the address.
    fn read(text: &str, port: Option<u16>) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.starts_with('/') && path.len() <= sumun_config::limits::SOCKET_PATH_BYTES && is_name(path);
            return fits.then(|| Self { address: path.to_owned(), port: String::new() });
        }
        let address: SocketAddr = text.parse().ok()?;
        Some(Self { address: address.ip().to_string(), port: port.unwrap_or_else(|| address.port()).to_string() })
    }
}

/// Nothing that a shell would take for more than a word.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/[]-".contains(&byte);
    !text.is_empty() && text.len() <= CHECK_NAME_BYTES && text.bytes().all(fits) && !text.starts_with('-')
}

fn judge(status: ExitStatus, said: &[u8]) -> (CheckVerdict, String) {
    let line = first_line(said);
    match (status.success(), line.is_empty()) {
        (true, true) => (CheckVerdict::Good, status.to_string()),
        (true, false) => (CheckVerdict::Good, line),
        (false, true) => (CheckVerdict::Bad, status.to_string()),
        (false, false) => (CheckVerdict::Bad, format!("{line} ({status})")),
    }
}

fn overdue(timeout: Duration, said: &[u8]) -> (CheckVerdict, String) {
    let line = first_line(said);
    let said = if line.is_empty() { String::new() } else { format!(", it said {line}") };
    (CheckVerdict::Bad, format!("killed after {}{said}", in_units(timeout)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_worker_process_gone_mad_has_few_started() {
        let (mut checks, begin) = (Checks::default(), Instant::now());
        for second in 0..3 {
            let times = (0..10_000).map(|part| begin + Duration::from_secs(second) + Duration::from_micros(99 * part));
            let started = times.filter(|now| checks.is_within_rate(*now)).count();
            assert_eq!(started, CHECKS_PER_SECOND as usize);
        }
    }

    #[test]
    fn commands_come_from_the_config_alone() {
        let text = "pools:\n  app: { servers: '127.0.0.1:1', health: { exec: [/check, --deep], port: 7, timeout: 2s } }\n  \
                    other: { servers: '127.0.0.1:1', health: { tcp: {} } }\n\
                    listeners: { web: { bind: ':80', routes: [ { path: /a, proxy: app }, { proxy: other } ] } }";
        let config = sumun_config::check_text("sumun.yaml", text).unwrap_or_else(|report| panic!("{report}")).config;
        let command = Command {
            program: &PathBuf::from("/check"),
            arguments: &["--deep".to_owned()],
            timeout: Duration::from_secs(2),
            port: Some(7),
        };
        assert_eq!(command_of(&config, "app"), Some(command));
        assert_eq!(command_of(&config, "other"), None);
        assert_eq!(command_of(&config, "/check"), None);
    }

    #[test]
    fn what_is_no_address_is_not_passed_on() {
        let place = |text: &str, port| Place::read(text, port).map(|place| (place.address, place.port));
        let found = |address: &str, port: &str| Some((address.to_owned(), port.to_owned()));
        assert_eq!(place("10.0.0.1:80", None), found("10.0.0.1", "80"));
        assert_eq!(place("[::1]:80", Some(81)), found("::1", "81"));
        assert_eq!(place("unix:/run/x.sock", Some(81)), found("/run/x.sock", ""));
        let long = format!("unix:/{}", "a".repeat(107));
        for text in ["", "10.0.0.1", "a.example:80", "10.0.0.1:80 ; rm", "$(id):80", "unix:x", "unix:/a\nb", &long] {
            assert_eq!(place(text, None), None, "{text}");
        }
        assert!(is_name("a.example:80@10.0.0.1") && !is_name("") && !is_name("a\0") && !is_name(&long.repeat(9)));
    }

    #[test]
    fn how_it_ended_and_what_it_said() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let words = |verdict, words: &str| (verdict, words.to_owned());
        assert_eq!(judge(exit(0), b"OK\nmore"), words(CheckVerdict::Good, "OK"));
        assert_eq!(judge(exit(0), b""), words(CheckVerdict::Good, "exit status: 0"));
        assert_eq!(judge(exit(2), b"CRITICAL\x1b\n"), words(CheckVerdict::Bad, "CRITICAL (exit status: 2)"));
        assert_eq!(judge(ExitStatus::from_raw(9), b""), words(CheckVerdict::Bad, "signal: 9 (SIGKILL)"));
        assert_eq!(
            overdue(Duration::from_millis(250), b"so far"),
            words(CheckVerdict::Bad, "killed after 250 ms, it said so far")
        );
        assert_eq!(overdue(Duration::from_secs(1), b""), words(CheckVerdict::Bad, "killed after 1 s"));
    }
}
