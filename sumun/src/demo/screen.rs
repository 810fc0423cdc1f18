//! Standard output: lines that stay, and below them one that is rewritten each second.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::live::Figures;

/// Back to the first column, and everything behind it gone (ECMA-48: CR, EL).
const REWRITE: &str = "\r\x1b[K";
/// Longest line of the gateway's log that is shown, bytes; the rest of it begins a new line.
const LOG_LINE_BYTES: u64 = 4096;
/// Of the log of a gateway that is only starting, bytes are kept; later ones are left out.
const HELD_BYTES: usize = 64 * 1024;
/// The rest of the log of a gateway that has ended is waited for so long.
const END_OF_LOG: Duration = Duration::from_secs(2);

/// Standard output, shared with the thread that follows the gateway's log.
#[derive(Clone)]
pub(super) struct Screen {
    /// A line can be rewritten here.
    terminal: bool,
    state: Arc<Mutex<State>>,
    /// Threads that follow a log.
    followers: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Default)]
struct State {
    /// The line that stands below all others; empty when there is none.
    live: String,
    /// Log lines are kept here and not shown, until it is known that the start went well.
    held: Option<String>,
}

impl Screen {
    /// Log lines are held back at first.
    pub(super) fn start() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let state = State { live: String::new(), held: Some(String::new()) };
        Self {
            terminal: io::stdout().is_terminal() && !dumb,
            state: Arc::new(Mutex::new(state)),
            followers: Arc::default(),
        }
    }

    /// Text that stays, above the live line.
    ///
    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn print(&self, text: &str) -> io::Result<()> {
        let state = self.lock();
        self.write(&state, text)
    }

    /// Shows the figures: on a terminal in the place of the last ones, elsewhere on a line of
    /// their own if they have changed.
    ///
    /// # Errors
    /// Nobody reads our output any more.
    pub(super) fn live(&self, figures: &Figures, before: Option<(&Figures, Duration)>) -> io::Result<()> {
        let line = figures.line(before);
        if self.terminal {
            let mut state = self.lock();
            state.live = line;
            self.write(&state, "")
        } else if before.is_none_or(|(before, _)| before != figures) {
            self.print(&format!("{line}\n"))
        } else {
            Ok(())
        }
    }

    /// Takes the live line away; what is printed later stands in its place.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        if !std::mem::take(&mut state.live).is_empty() {
            // A terminal that is gone has no line to clear.
            self.write(&state, "").unwrap_or_default();
        }
    }

    /// Shows what a log says, line by line, until it is closed.
    pub(super) fn follow(&self, log: impl Read + Send + 'static) -> io::Result<()> {
        let screen = self.clone();
        let follow = move || {
            let mut log = BufReader::new(log);
            let mut line = Vec::new();
            while let Ok(1..) = log.by_ref().take(LOG_LINE_BYTES).read_until(b'\n', &mut line) {
                screen.log(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        };
        let thread = thread::Builder::new().name("log".to_owned()).spawn(follow)?;
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn log(&self, line: &str) {
        let mut state = self.lock();
        if let Some(held) = &mut state.held {
            if held.len() + line.len() < HELD_BYTES {
                held.push_str(line);
                held.push('\n');
            }
        } else {
            // The main thread notices by itself that nobody reads.
            self.write(&state, &format!("{line}\n")).unwrap_or_default();
        }
    }

    /// What the log said since the last call, or since the start, to its end: whoever wrote it is gone.
    pub(super) fn held(&self) -> String {
        let followers = std::mem::take(&mut *self.followers.lock().unwrap_or_else(PoisonError::into_inner));
        let until = Instant::now() + END_OF_LOG;
        while followers.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        self.lock().held.replace(String::new()).unwrap_or_default()
    }

    /// From now on log lines are shown.
    pub(super) fn release(&self) {
        self.lock().held = None;
    }

    fn write(&self, state: &State, text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        if self.terminal {
            write!(output, "{REWRITE}{text}{}", state.live)?;
        } else {
            output.write_all(text.as_bytes())?;
        }
        output.flush()
    }

    /// A thread that panicked while it printed leaves at worst half a line.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
