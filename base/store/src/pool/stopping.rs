//! The end of a pool: what waits to be written is, and a device that does not come back is not waited for.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use super::Pool;
use super::device::Device;
use crate::limits::HANG_MS;

/// A device that did not come back from what was asked of it when its pool was stopped. Nobody may use it before
/// that [is over](Self::is_over): what is on its way may still be written.
#[derive(Debug, Clone)]
pub struct Hung(Arc<Device>);

impl Hung {
    pub const REASON: &str = "it does not come back from what was asked of it";

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// It has come back, and nothing more is written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.0.is_at_work.load(Ordering::SeqCst) && !self.0.health.is_writing() && !self.0.health.hangs()
    }
}

impl Pool {
    /// Writes what is in the queues, and then nothing more. Gives the devices that were not waited for, since
    /// something took longer than [`HANG_MS`]; the same ones again where it was called before, for what waited to
    /// be removed there may still be there.
    pub fn stop(&mut self) -> Vec<Hung> {
        if self.threads.is_empty() {
            return self.hung.clone();
        }
        for device in &self.shared.devices {
            device.stop();
        }
        let began = Instant::now();
        while !self.has_ended() {
            if self.is_in_vain(began.elapsed()) {
                self.shared.devices.iter().for_each(|device| device.health.give_up());
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in self.threads.drain(..).filter(|thread| thread.is_finished()) {
            // One that has panicked has nothing more to write.
            drop(thread.join());
        }
        let all = self.shared.devices.iter().map(|device| Hung(Arc::clone(device)));
        self.hung = all.filter(|hung| !hung.is_over()).collect();
        self.hung.clone()
    }

    /// Nobody writes, nor will: also not who is excluding a device meanwhile.
    fn has_ended(&self) -> bool {
        let is_excluding = || matches!(self.shared.maps.try_lock(), Err(TryLockError::WouldBlock));
        self.threads.iter().all(|thread| thread.is_finished()) && !is_excluding()
    }

    /// Who is still at work waits for what hangs, or has had as long again.
    fn is_in_vain(&self, waited: Duration) -> bool {
        let mut at_work = self.shared.devices.iter().filter(|device| device.is_at_work.load(Ordering::SeqCst));
        let any_hangs = self.shared.devices.iter().any(|device| device.health.hangs());
        any_hangs && (at_work.all(|device| device.health.hangs()) || waited > Duration::from_millis(2 * HANG_MS))
    }
}
