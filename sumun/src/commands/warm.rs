//! `sumun cache warm`: asks for many URLs, so that their answers are stored before the crowd comes.
//!
//! As many threads as there are connections take one URL after the other; this one counts what
//! became of them.

mod client;
mod input;
mod progress;
mod sitemap;
mod tally;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{DONE, FAILED, Failure, Outcome, WRONG, print};
use crate::arguments::Warm;
use client::Client;
use progress::Progress;
use tally::{Became, Tally};

pub(super) fn warm(options: &Warm) -> Outcome {
    let wrong = |why: String| Failure { text: format!("sumun: {}\n", why.trim_end()), status: WRONG };
    let client = Client::new(options).map_err(wrong)?;
    let urls = input::read(&options.from, &|url| client.fetch(url)).map_err(wrong)?;
    let began = Instant::now();
    let (next, pace) = (AtomicUsize::new(0), Pace::new(options.rate, began));
    let tally = thread::scope(|scope| {
        // Where the screen is slower than the answers, they wait.
        let (tell, told) = mpsc::sync_channel(usize::from(options.connections));
        for _ in 0..options.connections {
            let (tell, urls, next, pace, client) = (tell.clone(), &urls, &next, &pace, &client);
            scope.spawn(move || {
                while let Some(url) = urls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    thread::sleep(pace.wait(Instant::now()));
                    let (became, bytes) = client.ask(url);
                    if tell.send((url.as_str(), became, bytes)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        count(&told, Progress::start(urls.len(), began))
    });
    let seconds = began.elapsed().as_secs_f64();
    print(&if options.json { format!("{:#}\n", tally.to_json(seconds)) } else { tally.to_text(seconds) })?;
    Ok(if tally.failed == 0 { DONE } else { FAILED })
}

fn count(told: &Receiver<(&str, Became, u64)>, mut progress: Progress) -> Tally {
    let mut tally = Tally::default();
    loop {
        match told.recv_timeout(progress.until_next(Instant::now())) {
            Ok((url, became, bytes)) => tally.add(url, became, bytes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.show(&tally, Instant::now());
    }
    progress.end();
    tally
}

/// So many requests a second at most, over all connections, and never two at once to make up for a pause.
struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / rate, next: Mutex::new(now) }
    }

    /// How long whoever asks at `now` has to wait.
    fn wait(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*next);
        *next = turn + self.interval;
        turn - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_their_distance() {
        let now = Instant::now();
        let pace = Pace::new(10, now);
        let ms = Duration::from_millis;
        assert_eq!([0, 0, 30].map(|at| pace.wait(now + ms(at))), [ms(0), ms(100), ms(170)]);
        // A pause is not made up for.
        assert_eq!([5000, 5000].map(|at| pace.wait(now + ms(at))), [ms(0), ms(100)]);
    }
}
