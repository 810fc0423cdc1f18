//! Health checks by commands of the operator. This process may start none: it asks its supervisor.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sumun_engine::lifecycle::CheckVerdict;
use sumun_engine::lifecycle::limits::CHECKS_AT_ONCE;
use tokio::sync::{Semaphore, oneshot};

use crate::check::{self, words};
use crate::limits::EXTERNAL_GRACE;
use crate::pool::Pool;
use crate::server::Server;

/// What a check came to, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Good(String),
    Bad(String),
    /// Nobody looked, and the server is what it was.
    Nothing(String),
}

impl From<check::Finding> for Found {
    fn from(finding: check::Finding) -> Self {
        match finding {
            Ok(words) => Self::Good(words),
            Err(problem) => Self::Bad(problem),
        }
    }
}

/// What the supervisor is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Comes back in the answer.
    pub id: u64,
    pub pool: String,
    pub server: String,
    /// `10.0.0.1:80` or `unix:/run/x.sock`.
    pub address: String,
}

type Answer = (CheckVerdict, String);

/// The checks that the supervisor is asked for.
pub struct ExternalChecks {
    ask: Box<dyn Fn(Wanted) -> io::Result<()> + Send + Sync>,
    /// As many as the supervisor runs at once: the others wait here, where it costs no server its state.
    room: Semaphore,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Counts up; never used again.
    last_id: u64,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
}

impl fmt::Debug for ExternalChecks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ExternalChecks").field("waiting", &self.lock().answers.len()).finish_non_exhaustive()
    }
}

impl ExternalChecks {
    /// `ask` sends to the supervisor; its answers are given to [`Self::answered`].
    pub fn new(ask: impl Fn(Wanted) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { ask: Box::new(ask), room: Semaphore::new(CHECKS_AT_ONCE), waiting: Mutex::default() }
    }

    /// Where there is no supervisor: no command is run.
    #[must_use]
    pub fn of_nobody() -> Arc<Self> {
        Arc::new(Self::new(|_| Err(io::ErrorKind::Unsupported.into())))
    }

    /// An answer of the supervisor. One that nobody waits for any more is none.
    pub fn answered(&self, id: u64, verdict: CheckVerdict, words: String) {
        if let Some(answer) = self.lock().answers.remove(&id) {
            // Whoever waited may be gone since.
            answer.send((verdict, words)).unwrap_or_default();
        }
    }

    /// Has the supervisor run the command of this pool, which it ends after `timeout`.
    pub(crate) async fn run(&self, pool: &Pool, server: &Server, timeout: Duration) -> Found {
        let Ok(_place) = self.room.acquire().await else {
            return Found::Nothing("no more checks are run".to_owned());
        };
        let begin = Instant::now();
        let (sender, answer) = oneshot::channel();
        let asked = Asked { checks: self, id: self.remember(sender) };
        let wanted = Wanted {
            id: asked.id,
            pool: pool.name().to_string(),
            server: server.name().to_string(),
            address: server.target().to_string(),
        };
        if let Err(error) = (self.ask)(wanted) {
            return Found::Nothing(format!("the supervisor cannot be asked: {error}"));
        }
        match tokio::time::timeout(timeout + EXTERNAL_GRACE, answer).await {
            Ok(Ok((CheckVerdict::Good, words))) => {
                Found::Good(format!("{words} in {} ms", begin.elapsed().as_millis()))
            }
            Ok(Ok((CheckVerdict::Bad, words))) => Found::Bad(words),
            Ok(Ok((CheckVerdict::None, words))) => Found::Nothing(words),
            Ok(Err(_)) | Err(_) => Found::Nothing("the supervisor did not answer".to_owned()),
        }
    }

    fn remember(&self, answer: oneshot::Sender<Answer>) -> u64 {
        let mut waiting = self.lock();
        waiting.last_id += 1;
        let id = waiting.last_id;
        waiting.answers.insert(id, answer);
        id
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check that is waited for.
struct Asked<'a> {
    checks: &'a ExternalChecks,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.checks.lock().answers.remove(&self.id);
    }
}

/// What the supervisor shows of what a command said, and how it ended.
#[must_use]
pub fn first_line(said: &[u8]) -> String {
    let line = said.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    words::of(line.unwrap_or_default())
}

/// `1 s`, `250 ms`.
#[must_use]
pub fn in_units(duration: Duration) -> String {
    check::in_units(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_says_something() {
        assert_eq!(first_line(b"\n \r\nOK - load 0.3\r\nmore\n"), "OK - load 0.3");
        assert_eq!(first_line(b"a\x07b"), "a b");
        assert_eq!(first_line(b"\n\n"), "");
        assert_eq!(first_line(b""), "");
    }
}
