//! The writer's side: one thread that formats and writes.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use jiff::tz::TimeZone;

use super::batch::{Batch, Place};
use super::format;
use super::limits::{BUSY_PAUSE, BUSY_TRIES, COMPLAINT_EVERY, ROUND, ROUND_OFF, WRITE_BYTES};
use super::plan::Plan;
use super::time::Times;
use super::{Shared, lock};

/// Round after round, until the log is dropped.
pub(super) fn run(shared: &Shared, zone: TimeZone) {
    let mut writer = Writer {
        shared,
        output: None,
        inside_line: false,
        spare: Batch::default(),
        buffer: Vec::new(),
        times: Times::new(zone),
        complained: None,
    };
    while writer.round() {
        let is_on = lock(&shared.plan).form.is_some();
        thread::park_timeout(if is_on { ROUND } else { ROUND_OFF });
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    output: Option<File>,
    /// A write broke off inside a line: the next one must not continue it.
    inside_line: bool,
    /// Empty; takes the place of the batch that is being written.
    spare: Batch,
    buffer: Vec<u8>,
    times: Times,
    complained: Option<Instant>,
}

impl Writer<'_> {
    /// Writes what waits, then does what was ordered before. False: it was the last round.
    fn round(&mut self) -> bool {
        let mut orders = lock(&self.shared.orders);
        let (mut descriptor, flush, stop) = (orders.descriptor.take(), orders.flush_asked, orders.stop);
        let is_awaited = stop || flush != orders.flush_done;
        drop(orders);
        if self.output.is_none() {
            // The first one: what waits has nowhere else to go.
            self.output = descriptor.take().map(File::from);
        }
        if self.output.is_some() || is_awaited {
            self.drain();
        }
        if let Some(descriptor) = descriptor {
            self.output = Some(File::from(descriptor));
            self.inside_line = false;
        }
        lock(&self.shared.orders).flush_done = flush;
        self.shared.done.notify_all();
        !stop
    }

    /// Writes what all workers have sent.
    fn drain(&mut self) {
        for lane in &self.shared.lanes {
            for mut place in lane.places() {
                let earlier = mem::take(&mut place.earlier);
                let (plan, batch) = self.take(&mut place);
                // The worker has its place back while its lines are written.
                drop(place);
                for (plan, batch) in &earlier {
                    self.format(plan, batch);
                }
                self.format(&plan, &batch);
                self.spare = batch;
                self.spare.clear();
            }
        }
        self.write();
    }

    fn take(&mut self, place: &mut Place) -> (Arc<Plan>, Batch) {
        (Arc::clone(&place.plan), mem::replace(&mut place.batch, mem::take(&mut self.spare)))
    }

    fn format(&mut self, plan: &Plan, batch: &Batch) {
        format::push_batch(&mut self.buffer, plan, batch, &mut self.times);
        if self.buffer.len() >= WRITE_BYTES {
            self.write();
        }
    }

    /// Writes the buffer and empties it, whatever happens.
    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.inside_line {
            self.buffer.insert(0, b'\n');
        }
        let (written, result) = match &self.output {
            Some(output) => write_all(output, &self.buffer),
            None => (0, Err(io::Error::other("there is no file to write to"))),
        };
        if written > 0 {
            self.inside_line = self.buffer[written - 1] != b'\n';
        }
        if let Err(error) = result {
            // The line that broke off counts: its newline is among the rest.
            let lines = self.buffer[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
            let lost = self.shared.unwritten.fetch_add(lines, Ordering::Relaxed) + lines;
            self.shared.write_errors.fetch_add(1, Ordering::Relaxed);
            self.complain(&error, lost);
        }
        self.buffer.clear();
        self.buffer.shrink_to(2 * WRITE_BYTES);
    }

    fn complain(&mut self, error: &io::Error, lost: u64) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(
                "access log: cannot write: {error}; {lost} lines lost so far, requests are served as before"
            );
        }
    }
}

/// As many bytes as could be written, and why no more.
fn write_all(mut output: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    let mut tries = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => (written, tries) = (written + count, 0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else's terminal or pipe may be set not to block.
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < BUSY_TRIES => {
                tries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
