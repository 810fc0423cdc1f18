//! Notes stay in their log: it goes on in the extent it stopped in, and what is in the oldest one moves to the
//! newest before that is full.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::{Current, Thread, answer};
use crate::Key;
use crate::pool::device::lock;
use crate::pool::directory::Place;
use crate::pool::layout::SECTOR;
use crate::pool::record::{self, HEADER, Header, Kind};
use crate::pool::ticket::Ticket;

impl Thread {
    pub(super) fn keep(
        &mut self,
        volume: usize,
        key: Key,
        ticket: &Arc<Ticket>,
        meta: Vec<u8>,
        done: Option<SyncSender<bool>>,
    ) {
        self.logs[volume].has_notes = true;
        // A read that fails is a failure as well: what is there might be lost.
        let is_written = self.resume(volume).is_some() && self.store(volume, key, ticket, meta, Vec::new());
        if is_written {
            self.carry_over(volume);
        } else {
            self.give_up(ticket);
            self.device.stripes[volume].commits.settle(key, ticket, || {});
        }
        match done {
            Some(done) if is_written => self.waiting.push(done),
            Some(done) => answer(&done, false),
            None => {}
        }
    }

    /// Goes on in the newest extent, where nothing is written to: a new one at each start would soon have
    /// gone round. None: the device has failed.
    pub(super) fn resume(&mut self, volume: usize) -> Option<()> {
        let device = Arc::clone(&self.device);
        let (layout, seed) = (device.layout, device.stripes[volume].seed);
        let log = &self.logs[volume];
        let Some(&extent) = log.order.back().filter(|_| log.has_notes && log.current.is_none()) else {
            return Some(());
        };
        let generation = device.lives.generations[extent as usize].load(std::sync::atomic::Ordering::SeqCst);
        if generation == 0 {
            return Some(());
        }
        let mut bytes = vec![0; layout.extent_bytes as usize];
        let at = layout.extent_at(extent);
        device.health.watch("reading", || device.disk.read_at(&mut bytes, at))?;
        let (notes, end) = record::walk(&bytes, generation, seed, layout);
        if notes.len() < log.notes.get(&extent).map_or(0, Vec::len) {
            // A place went bad, and what is behind it may be whole.
            return Some(());
        }
        // Behind the end may be what was written before a loss of power without what was before it. And the
        // contents are not all any more.
        let rest = &mut bytes[end as usize..];
        rest.fill(0);
        self.is_dirty = true;
        device.health.watch("writing", || {
            device.disk.write_at(&[0; SECTOR], layout.page_at(extent) + SECTOR as u64)?;
            device.disk.write_at(rest, at + end)?;
            device.disk.sync()
        })?;
        self.logs[volume].current = Some(Current { extent, generation, at: end });
        Some(())
    }

    /// Once the newest extent is half full, what is still true of the oldest is written into it again: as
    /// much as there is room for.
    pub(super) fn carry_over(&mut self, volume: usize) {
        let device = Arc::clone(&self.device);
        let (layout, stripe) = (device.layout, &device.stripes[volume]);
        let log = &self.logs[volume];
        let (Some(&oldest), Some(current)) = (log.order.front(), log.current) else { return };
        if !log.has_notes
            || current.at < layout.extent_bytes / 2
            || oldest == current.extent
            || log.carried == Some(oldest)
        {
            return;
        }
        let notes = log.notes.get(&oldest).cloned().unwrap_or_default();
        for note in notes {
            let Some(slot) = note.slot() else { continue };
            let place = Place { extent: oldest, slot };
            if lock(&stripe.directory).find(note.tag()) != Some(place) {
                continue;
            }
            let mut bytes = vec![0; HEADER];
            let at = layout.record_at(place);
            let read = device.health.read(|| device.disk.read_at(&mut bytes, at));
            let read = read.and_then(|()| Header::read(&bytes, stripe.seed));
            let Some(header) = read.filter(|header| u64::from(header.length) < layout.extent_bytes / 2) else {
                continue;
            };
            bytes.resize(header.length as usize, 0);
            let is_read = device.health.read(|| device.disk.read_at(&mut bytes, at + HEADER as u64)).is_some();
            if !is_read || crate::pool::layout::checksum(stripe.seed, &bytes) != header.payload_sum {
                continue;
            }
            let room = layout.extent_bytes - layout.unit();
            if self.logs[volume].current.is_none_or(|current| current.at + header.span(layout) > room) {
                break;
            }
            let Some((new, _)) = self.append(volume, Kind::Head, header.key, &bytes) else { return };
            let mut directory = lock(&stripe.directory);
            // It may have been forgotten meanwhile; the removal of that comes behind.
            if directory.find(note.tag()) == Some(place) {
                directory.insert(note.tag(), new);
            }
        }
        self.logs[volume].carried = Some(oldest);
    }
}
