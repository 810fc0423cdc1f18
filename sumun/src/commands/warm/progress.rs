//! How far `sumun cache warm` is: a bar on a terminal, else a line now and then; on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tally::Tally;
use crate::limits::WARM_LINE_EVERY;

/// How often the bar is drawn, a second.
const DRAWN: u8 = 10;

pub(super) struct Progress {
    began: Instant,
    next: Instant,
    total: usize,
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn start(total: usize, now: Instant) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(DRAWN));
            let style = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {msg}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        let every = if bar.is_some() { Duration::from_secs(1) / u32::from(DRAWN) } else { WARM_LINE_EVERY };
        Self { began: now, next: now + every, total, bar }
    }

    /// When there will be something new to show without a new answer.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    pub(super) fn show(&mut self, tally: &Tally, now: Instant) {
        if now < self.next {
            return;
        }
        let rate = tally.rate((now - self.began).as_secs_f64());
        let state = format!("{}; {rate:.1} a second", tally.brief());
        if let Some(bar) = &self.bar {
            bar.set_position(tally.asked());
            bar.set_message(state);
            self.next = now + Duration::from_secs(1) / u32::from(DRAWN);
            return;
        }
        self.next = now + WARM_LINE_EVERY;
        let left = (self.total as f64 - tally.asked() as f64) / rate;
        let left = if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
        // Whoever read that may have gone away.
        writeln!(io::stderr(), "asked {} of {}: {state}{left}", tally.asked(), self.total).unwrap_or_default();
    }

    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
