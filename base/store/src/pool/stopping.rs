//! The end of a pool: what waits to be written is, and a device that does not come back is not waited for.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use super::Pool;
use super::device::Device;
use crate::limits::STOP_MS;

/// A device that did not come back from what was asked of it when its pool was stopped. Nobody may use it before
/// that [is over](Self::is_over): its thread still writes what was in its queue.
#[derive(Debug, Clone)]
pub struct Hung(Arc<Device>);

impl Hung {
    pub const REASON: &str = "it does not come back from what was asked of it";

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// It has come back, and nobody writes or reads there any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.is_at_work() && self.0.lives.pins.iter().all(|pins| pins.load(Ordering::SeqCst) == 0)
    }

    /// It has come back with an error: what was to be removed there may still be there.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.health.has_failed()
    }

    fn is_at_work(&self) -> bool {
        self.0.is_at_work.load(Ordering::SeqCst) || self.0.health.is_noting() || self.0.health.hangs()
    }
}

impl Pool {
    /// Writes what is in the queues, and then nothing more. Gives the devices that were not waited for, since
    /// something takes longer than [`HANG_MS`](crate::limits::HANG_MS), or all of it longer than [`STOP_MS`]; the
    /// same ones again where it was called before.
    pub fn stop(&mut self) -> Vec<Hung> {
        if self.threads.is_empty() {
            return self.hung.clone();
        }
        for device in &self.shared.devices {
            device.stop();
        }
        let until = Instant::now() + Duration::from_millis(STOP_MS);
        while !self.has_ended() && !self.is_in_vain() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.is_given_up.store(!self.has_ended(), Ordering::SeqCst);
        let all = self.shared.devices.iter().map(|device| Hung(Arc::clone(device)));
        self.hung = all.filter(Hung::is_at_work).collect();
        for thread in self.threads.drain(..).filter(|thread| thread.is_finished()) {
            // One that has panicked has nothing more to write.
            drop(thread.join());
        }
        self.hung.clone()
    }

    /// Nobody writes, nor will: also not who is excluding a device meanwhile.
    fn has_ended(&self) -> bool {
        let is_excluding = || matches!(self.shared.maps.try_lock(), Err(TryLockError::WouldBlock));
        self.threads.iter().all(|thread| thread.is_finished()) && !is_excluding()
    }

    /// Who is still at work waits for what hangs.
    fn is_in_vain(&self) -> bool {
        let is_at_work = |device: &&Arc<Device>| device.is_at_work.load(Ordering::SeqCst) || device.health.is_noting();
        let mut at_work = self.shared.devices.iter().filter(is_at_work);
        let any_hangs = self.shared.devices.iter().any(|device| device.health.hangs());
        any_hangs && at_work.all(|device| device.health.hangs())
    }
}
