//! Stored bodies on disk. The kernel moves what it has in memory and what is known to be whole; anything else is
//! read by the blocking pool first, and its checksum with it.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sumun_engine::pace::DOWN;
use sumun_store::OnDisk;

use super::super::super::Exchange;
use super::super::super::bandwidth::{self, Paced};
use super::super::super::files::{send_copied, send_moved};
use super::super::super::uptake::Uptake;
use super::{NotSent, Part, Plan, begin};
use crate::cache::{DiskBody, Head, in_turn};
use crate::events::Reason;
use crate::limits::{AHEAD_BYTES, CACHE_DISK_WAIT, CACHE_READ_WAIT, CACHE_RESIDENT_MS, COPY_BYTES};
use crate::site::Route;

/// The head, and what the plan says of a body that is on disk.
///
/// # Errors
/// Nothing has been sent: [`NotSent`].
pub(super) async fn send_whole(
    exchange: &mut Exchange<'_>,
    route: &Route,
    response: Head<'_>,
    plan: &Plan<'_>,
    body: &DiskBody,
) -> Result<Result<(), Reason>, NotSent> {
    begin(exchange, plan.status);
    let mut sending = Sending::new(exchange, body);
    plan.write_head(&mut sending.head, exchange, route, response, false);
    let sent = sending.send_parts(exchange, plan).await;
    match sent {
        Err(Reason::FileUnreadable) if !sending.has_begun => Err(NotSent::Gone),
        Err(Reason::DiskBusy) if !sending.has_begun => Err(NotSent::Late),
        sent => Ok(sent),
    }
}

pub(super) struct Sending<'a> {
    body: &'a DiskBody,
    paced: Paced,
    uptake: Uptake,
    /// What goes before the next bytes of the body.
    head: Vec<u8>,
    /// Something has been sent.
    has_begun: bool,
}

impl<'a> Sending<'a> {
    pub(super) fn new(exchange: &Exchange<'_>, body: &'a DiskBody) -> Self {
        let uptake = Uptake::new(exchange, exchange.site.config.bounds.idle);
        let (paced, head) = (Paced::new(exchange, DOWN), Vec::with_capacity(512));
        Self { body, paced, uptake, head, has_begun: false }
    }

    async fn send_parts(&mut self, exchange: &mut Exchange<'_>, plan: &Plan<'_>) -> Result<(), Reason> {
        match &plan.part {
            Part::Nothing => {}
            Part::Whole => self.send(exchange, 0..plan.length.unwrap_or_default()).await?,
            Part::One(range) => self.send(exchange, range.first..range.last + 1).await?,
            Part::Many(ranges, frames, _) => {
                for (range, frame) in ranges.iter().zip(&frames.heads) {
                    self.head.extend_from_slice(frame);
                    self.send(exchange, range.first..range.last + 1).await?;
                }
                self.head.extend_from_slice(&frames.end);
            }
        }
        self.flush(exchange).await
    }

    async fn flush(&mut self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.has_begun = true;
        let head = std::mem::take(&mut self.head);
        bandwidth::write_all(exchange, &mut self.paced, &head, head.len()).await
    }

    pub(super) async fn send(&mut self, exchange: &mut Exchange<'_>, mut range: Range<u64>) -> Result<(), Reason> {
        let chunk_bytes = self.body.disk.chunk_bytes();
        while range.start < range.end {
            let number = (range.start / chunk_bytes) as usize;
            let begin = number as u64 * chunk_bytes;
            let end = range.end.min(begin + chunk_bytes);
            if self.is_at_hand(exchange, number) {
                let moved = self.move_chunk(exchange, number, range.start - begin..end - begin).await?;
                range.start += moved;
                if moved > 0 {
                    continue;
                }
            }
            // Not there in a way that does not wait, or not any more. A server may be asked as long as nothing is sent.
            let wait = if self.has_begun { CACHE_READ_WAIT } else { CACHE_DISK_WAIT };
            let piece = read(&self.body.disk, range.start, wait).await?;
            let piece = piece.get(..piece.len().min((end - range.start) as usize)).unwrap_or_default();
            self.flush(exchange).await?;
            bandwidth::write_all(exchange, &mut self.paced, piece, 0).await?;
            range.start += piece.len() as u64;
        }
        Ok(())
    }

    /// It is known to be whole, and in the kernel's memory: to send it does not wait for the disk.
    fn is_at_hand(&self, exchange: &Exchange<'_>, number: usize) -> bool {
        let now_ms = exchange.deadline.now_ms();
        let Some(found) = self.body.disk.range(number) else { return false };
        if self.body.was_seen(now_ms) {
            return true;
        }
        let is_resident = found.file().is_some_and(|file| sumun_host::files::is_resident(file, found.at, found.length));
        if is_resident {
            self.body.see(now_ms);
        }
        is_resident
    }

    /// These bytes of a chunk, in as many sends as the client takes; how many they were. What it waits for
    /// holds no part of the disk: in between, the chunk may be overtaken, or leave the kernel's memory.
    async fn move_chunk(
        &mut self,
        exchange: &mut Exchange<'_>,
        number: usize,
        part: Range<u64>,
    ) -> Result<u64, Reason> {
        let body = &self.body.disk;
        let looked_ms = exchange.deadline.now_ms();
        let mut at = part.start;
        while at < part.end && exchange.deadline.now_ms().saturating_sub(looked_ms) <= CACHE_RESIDENT_MS {
            if exchange.stream.is_socket() || self.head.len() > COPY_BYTES {
                self.flush(exchange).await?;
            }
            let most = if self.paced.is_on() { bandwidth::share(exchange, &mut self.paced).await? } else { usize::MAX };
            let left = ((part.end - at) as usize).min(most);
            self.has_begun = true;
            let count = if exchange.stream.is_socket() {
                let send = |socket: BorrowedFd<'_>| send_range(body, number, at, left, socket);
                send_moved(exchange, &mut self.uptake, send).await?
            } else {
                let read = |piece: &mut [u8]| read_range(body, number, at, piece);
                send_copied(exchange, &mut self.uptake, &mut self.head, left, read).await?
            };
            if count == 0 {
                break;
            }
            self.uptake.pauses(exchange.deadline.now_ms());
            self.paced.note(count);
            exchange.record.bytes_out += count as u64;
            at += count as u64;
        }
        Ok(at - part.start)
    }
}

/// 0: it is not to be had in this way.
fn send_range(body: &OnDisk, number: usize, from: u64, most: usize, socket: BorrowedFd<'_>) -> std::io::Result<usize> {
    let Some(found) = body.range(number) else { return Ok(0) };
    let Some(file) = found.file() else { return Ok(0) };
    let most = most.min(found.length.saturating_sub(from) as usize);
    sumun_host::files::send_file(socket, file, &mut (found.at + from), most)
}

/// 0: it is not to be had in this way.
fn read_range(body: &OnDisk, number: usize, from: u64, piece: &mut [u8]) -> std::io::Result<usize> {
    let Some(found) = body.range(number) else { return Ok(0) };
    let Some(file) = found.file() else { return Ok(0) };
    let most = piece.len().min(found.length.saturating_sub(from) as usize);
    file.read_at(piece.get_mut(..most).unwrap_or_default(), found.at + from)
}

/// What is on disk from byte `at` on: a piece of its chunk. Waits for the disk so long, and not on this thread.
pub(super) async fn read(body: &OnDisk, at: u64, wait: Duration) -> Result<Bytes, Reason> {
    let body = body.clone();
    let turns = Arc::clone(body.turns());
    match tokio::time::timeout(wait, in_turn(&turns, move || read_piece(&body, at))).await {
        Ok(Some(Some(piece))) => Ok(piece),
        Ok(_) => Err(Reason::FileUnreadable),
        Err(_) => Err(Reason::DiskBusy),
    }
}

/// No more than a slow client may hold of memory.
fn read_piece(body: &OnDisk, at: u64) -> Option<Bytes> {
    let (number, from) = ((at / body.chunk_bytes()) as usize, at % body.chunk_bytes());
    let length = body.range(number).map(|found| found.length.saturating_sub(from).min(AHEAD_BYTES as u64));
    if let Some(length) = length {
        let mut piece = vec![0; length as usize];
        if read_range(body, number, from, &mut piece).ok()? == piece.len() && !piece.is_empty() {
            return Some(piece.into());
        }
    }
    // It has not been checked yet.
    let bytes = body.chunk(number).ok()?;
    let rest = bytes.get(from as usize..).filter(|rest| !rest.is_empty())?;
    rest.get(..rest.len().min(AHEAD_BYTES)).map(Bytes::copy_from_slice)
}
