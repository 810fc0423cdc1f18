//! Before a device is let go, what it holds moves to the others: the oldest first, so that what is newest is
//! the newest there as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use super::device::{Device, lock};
use super::directory::{Place, Tag};
use super::object::{Handle, Records};
use super::{Shared, Volume};
use crate::limits::{MOVE_TRIES, MOVE_WAIT_MS, QUEUE_BYTES};

/// A device that is going to be let go.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Objects that have not been looked at.
    pub(super) left: AtomicU64,
    pub(super) is_done: AtomicBool,
}

/// Moves everything, unless the pool is stopped before.
pub(super) fn run(shared: &Arc<Shared>, from: &Arc<Device>) {
    let Some(leaving) = &from.leaving else { return };
    let generation = |place: Place| from.lives.generations[place.extent as usize].load(Ordering::Relaxed);
    for number in 0..from.stripes.len() {
        let volume = Volume { shared: Arc::clone(shared), number };
        let mut all = lock(&from.stripes[number].directory).all();
        all.sort_by_key(|&(_, place)| (generation(place), place.slot));
        for (tag, place) in all {
            for _ in 0..MOVE_TRIES {
                if from.is_stopped() {
                    return;
                }
                if from.health.has_failed() || move_one(&volume, from, tag, place).is_some() {
                    break;
                }
                wait();
            }
            let left = leaving.left.load(Ordering::Relaxed).saturating_sub(1);
            leaving.left.store(left, Ordering::Relaxed);
        }
    }
    leaving.left.store(0, Ordering::Relaxed);
    leaving.is_done.store(true, Ordering::Release);
}

/// None: it is still where it was, and may be tried again.
fn move_one(volume: &Volume, from: &Arc<Device>, tag: Tag, place: Place) -> Option<()> {
    let is_there = || lock(&from.stripes[volume.number].directory).find(tag) == Some(place);
    let key = Records::key_at(from, volume.number, place).filter(|_| is_there());
    let Some(key) = key else { return Some(()) };
    let handle = Handle { records: Records::of(from, volume.number, key), place };
    let Ok(object) = handle.open() else { return Some(()) };
    // Where it belongs has failed: there it would not be found.
    let Some(mut writer) = volume.writer(key, object.meta().to_vec()) else { return Some(()) };
    for number in 0..object.chunks() {
        // Most of the room is for what is new.
        while writer.device().queued_bytes() > QUEUE_BYTES / 4 {
            if from.is_stopped() || writer.device().health.has_failed() {
                return None;
            }
            wait();
        }
        let Ok(bytes) = object.chunk(number) else { return Some(()) };
        if !writer.push(&bytes) {
            return None;
        }
    }
    let home = Arc::clone(writer.device());
    let is_known = |device: &Device| lock(&device.stripes[volume.number].directory).find(tag).is_some();
    let mut is_older = false;
    let commit = writer.commit_if(|is_queued| {
        // What was forgotten stays so, and what is newer is not overtaken.
        is_older = is_queued || is_known(&home);
        !is_older && is_there()
    });
    match commit {
        Some(commit) if !is_found(from, &commit) => return None,
        None if !is_older && is_there() => return None,
        _ => {}
    }
    volume.commits().hold(|| {
        if is_there() {
            from.forget(volume.number, key, false, None);
        }
    });
    Some(())
}

fn is_found(from: &Device, commit: &super::Commit) -> bool {
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match commit.poll(&mut context) {
            Poll::Ready(is_found) => return is_found,
            Poll::Pending if from.is_stopped() => return false,
            Poll::Pending => wait(),
        }
    }
}

fn wait() {
    std::thread::park_timeout(Duration::from_millis(MOVE_WAIT_MS));
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
