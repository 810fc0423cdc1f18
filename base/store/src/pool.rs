//! The storage pool on disk, organised as LVM does it: physical volumes (files or block devices) are cut into
//! extents and joined to a group, out of which come logical volumes with names and sizes.
//!
//! ```text
//! Volume::writer   --> queue of the device --> its thread --> log of the volume on the device
//! Writer::arriving --> Arriving::chunk, Arriving::range: what is written so far
//! Volume::find     --> directory in memory --> Handle::open --> Object::chunk, Object::range
//! Volume::forget   --> directory and queues at once, the log in its turn
//! Volume::keep     --> the logs of all devices, durable
//! ```
//!
//! Each volume has a part of every device, and each part is a log in a ring of extents. Writing never
//! waits: one thread for each device does it, and what its queue has no room for is not stored. Finding never
//! waits either. Reading does, and is done where waiting is allowed, as with the files of the web server;
//! what has been read once can be sent from the page cache with sendfile.
//!
//! An object is there when its head is, which is written last. Whatever is read is checked first, so that a
//! crash may cost objects and never mixes two. A device grows in place, as far as its label has room for.

mod arriving;
mod config;
mod device;
mod directory;
mod disk;
mod error;
mod evacuate;
mod group;
mod label;
mod layout;
mod log;
mod notes;
mod object;
mod record;
#[cfg(test)]
pub(crate) mod sim;
mod stopping;
mod ticket;
mod usage;
mod volume;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use arriving::Arriving;
pub use config::{Config, PhysicalVolumeConfig, VolumeConfig};
pub use device::State;
use device::{Device, Job, Source, lock};
pub use disk::{Disk, FileDisk};
pub use error::Error;
use group::{Absent, Assembled, Maps};
pub use label::Uuid;
pub use object::{Handle, Object, Range};
pub use stopping::Hung;
pub use ticket::Commit;
pub use usage::{PhysicalVolumeUsage, PoolUsage, VolumeUsage};
pub use volume::{Volume, Writer};

use crate::limits::{PHYSICAL_VOLUMES_MAX, REMOVE_MS};

#[derive(Debug)]
struct Shared {
    devices: Vec<Arc<Device>>,
    maps: Mutex<Maps>,
    /// Somebody has been asked to do that.
    is_excluding: AtomicBool,
    /// A device was not waited for: others may have the rest, and nobody notes anything there any more.
    is_given_up: AtomicBool,
}

/// An open pool. This process has its devices for itself until it is closed.
#[derive(Debug)]
pub struct Pool {
    group: Uuid,
    shared: Arc<Shared>,
    names: Vec<(String, Uuid)>,
    /// Devices of the config that are not there.
    absent: Vec<Absent>,
    threads: Vec<JoinHandle<()>>,
    /// Devices that another pool goes on with.
    passed_on: Vec<Uuid>,
    /// Those that were given up.
    hung: Vec<Hung>,
}

impl Pool {
    /// Opens a pool on these devices: makes new ones part of the group, and reads where everything is. Waits
    /// for the disk.
    ///
    /// One that the config names and that is not among them, or that cannot be read or written, has failed:
    /// the pool does without it, leaves its share of the volumes to it, and empties it when it is back.
    ///
    /// # Errors
    /// There is no device that works, one is not ours, or the volumes do not fit.
    pub fn open_on(disks: Vec<(PathBuf, Arc<dyn Disk>)>, config: &Config) -> Result<Self, Error> {
        Self::start(
            disks.into_iter().map(|(path, disk)| Source { path, disk, lives: None, is_leaving: false }).collect(),
            config,
        )
    }

    /// The same pool by another config: devices that come or go, volumes that grow, shrink or are renamed.
    /// The others keep what they hold. Handles from before go on to read; writers from before store nothing
    /// more. The devices of the config are those that were open before, or among `added`, which come first.
    ///
    /// One that was open and is not in the config any more is let go only by a later `apply`, once it is
    /// [`evacuated`](Self::evacuated): until then what it has is found, and moves to the others. One that is
    /// [`Hung`] is done without.
    ///
    /// # Errors
    /// As [`open_on`](Self::open_on); the pool is closed then, and can be opened again by the config before.
    pub fn apply(mut self, config: &Config, added: Vec<(PathBuf, Arc<dyn Disk>)>) -> Result<Self, Error> {
        self.stop();
        let out = self.left_out();
        let why_out = |path: &PathBuf| out.iter().find(|(known, _)| known == path).map(|(_, why)| why.clone());
        let mut config = config.clone();
        for named in &mut config.physical_volumes {
            named.missing = why_out(&named.path).or_else(|| named.missing.take());
        }
        let mut sources: Vec<_> = added
            .into_iter()
            .filter(|(path, _)| why_out(path).is_none())
            .map(|(path, disk)| {
                // Who has said all devices has said those that are open, too.
                let is_it = |device: &&Arc<Device>| std::ptr::addr_eq(Arc::as_ptr(&device.disk), Arc::as_ptr(&disk));
                let lives = self.shared.devices.iter().find(is_it).map(|device| Arc::clone(&device.lives));
                Source { path, disk, lives, is_leaving: false }
            })
            .collect();
        for device in &self.shared.devices {
            let is_leaving = config.physical_volumes.iter().all(|named| named.path != device.path);
            let is_over = is_leaving && device.is_evacuated();
            if !is_over && why_out(&device.path).is_none() && sources.iter().all(|source| source.path != device.path) {
                let (path, disk) = (device.path.clone(), Arc::clone(&device.disk));
                sources.push(Source { path, disk, lives: Some(Arc::clone(&device.lives)), is_leaving });
            }
        }
        if let Some((path, why)) = out.first().filter(|_| sources.is_empty()) {
            return Err(Error::io(path, std::io::Error::other(why.clone())));
        }
        let pool = Self::start(sources, &config)?;
        let goes_on =
            |device: &&Arc<Device>| pool.shared.devices.iter().any(|new| Arc::ptr_eq(&new.lives, &device.lives));
        self.passed_on = self.shared.devices.iter().filter(goes_on).map(|device| device.uuid).collect();
        Ok(pool)
    }

    /// Devices that the next pool does without, and why. Where one hangs, nobody may have come to note on the others
    /// that another has failed.
    fn left_out(&self) -> Vec<(PathBuf, String)> {
        let hung = self.hung.iter().map(|hung| (hung.path().to_owned(), Hung::REASON.to_owned()));
        let failed = self.shared.devices.iter().filter_map(|device| match device.health.state() {
            State::Failed(why) if !self.hung.is_empty() => Some((device.path.clone(), why)),
            _ => None,
        });
        hung.chain(failed).collect()
    }

    fn start(mut sources: Vec<Source>, config: &Config) -> Result<Self, Error> {
        config::check(config, sources.iter().filter(|source| !source.is_leaving).count())?;
        // In the order of the config, and then those that leave. The maps have places for so many.
        let place = |source: &Source| config.physical_volumes.iter().position(|named| named.path == source.path);
        sources.sort_by_key(|source| place(source).unwrap_or(usize::MAX));
        sources.truncate(PHYSICAL_VOLUMES_MAX);
        let is_missing = |named: &&PhysicalVolumeConfig| sources.iter().all(|source| source.path != named.path);
        let absent = config.physical_volumes.iter().filter(is_missing).map(Absent::named).collect();
        let Assembled { group, devices, volumes, maps, absent } =
            group::assemble(sources, absent, config.extent_bytes, &config.volumes)?;
        let names = config.volumes.iter().map(|volume| volume.name.clone()).zip(volumes).collect();
        let start = maps.sequence;
        let (devices, logs): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let (is_excluding, is_given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { devices, maps: Mutex::new(maps), is_excluding, is_given_up });
        let mut pool =
            Self { group, shared, names, absent, threads: Vec::new(), passed_on: Vec::new(), hung: Vec::new() };
        let spawn = |work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name("store".into()).spawn(work);
        for (device, logs) in pool.shared.devices.iter().zip(logs) {
            let thread = log::Thread::new(Arc::clone(device), logs, start);
            let spawned = spawn(Box::new(move || thread.run()));
            pool.threads.push(spawned.map_err(|error| Error::io(&device.path, error))?);
        }
        // Before anything moves that they may be about.
        let has_notes = |volume: &&VolumeConfig| volume.size == 0;
        let notes = config.volumes.iter().filter(has_notes).filter_map(|volume| pool.volume(&volume.name));
        if notes.fold(false, |is_any, volume| volume.give_notes() | is_any) {
            pool.flush();
        }
        for device in pool.shared.devices.iter().filter(|device| device.leaving.is_some()) {
            let (shared, from) = (Arc::clone(&pool.shared), Arc::clone(device));
            let spawned = spawn(Box::new(move || evacuate::run(&shared, &from)));
            pool.threads.push(spawned.map_err(|error| Error::io(&device.path, error))?);
        }
        Ok(pool)
    }

    /// A volume of the config.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Volume> {
        let number = self.names.iter().position(|(known, _)| known == name)?;
        Some(Volume { shared: Arc::clone(&self.shared), number })
    }

    /// Nothing has to move any more off a device that is not in the config: the next
    /// [`apply`](Self::apply) lets it go. True where there is none.
    #[must_use]
    pub fn evacuated(&self) -> bool {
        self.shared.devices.iter().all(|device| device.leaving.is_none() || device.is_evacuated())
    }

    /// What was committed before is durable. Waits for the disk, for
    /// [`REMOVE_MS`](crate::limits::REMOVE_MS) at most. False: a device has failed, or does not keep up.
    pub fn flush(&self) -> bool {
        let ask = |device: &Arc<Device>| {
            let (done, told) = sync_channel(1);
            device.ask(Job::Flush { done }).then_some(told)
        };
        // All of them, whatever becomes of one.
        let waiting: Vec<_> = self.shared.devices.iter().map(ask).collect();
        let until = Instant::now() + Duration::from_millis(REMOVE_MS);
        let is_told = |told: Receiver<bool>| {
            let left = until.saturating_duration_since(Instant::now());
            told.recv_timeout(left) == Ok(true)
        };
        waiting.into_iter().fold(true, |is_all, told| told.is_some_and(is_told) & is_all)
    }

    /// Writes what is in the queues, makes it durable, and waits until no range of a device is held, within
    /// [`PINNED_MS`](crate::limits::PINNED_MS). Handles go on to read, whoever has the devices then, as long
    /// as what they read is still there; of ranges there are no more.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
        for device in self.shared.devices.iter().filter(|device| !self.passed_on.contains(&device.uuid)) {
            device.lives.close();
        }
    }
}

impl Shared {
    /// Notes on the other devices that those which have failed do not belong to the group any more, so that
    /// nothing comes back with them that was removed meanwhile. False: there is no other.
    fn exclude_failed(&self, maps: &mut Maps) -> bool {
        loop {
            let is_new =
                |(index, device): (usize, &Arc<Device>)| device.health.has_failed() && !maps.members[index].is_excluded;
            let failed: Vec<usize> = (0..).zip(&self.devices).filter(|&pair| is_new(pair)).map(|pair| pair.0).collect();
            if failed.is_empty() {
                for (device, member) in self.devices.iter().zip(&maps.members) {
                    device.is_excluded.store(member.is_excluded, Ordering::SeqCst);
                }
                return maps.members.iter().any(|member| !member.is_excluded);
            }
            for index in failed {
                maps.members[index].is_excluded = true;
            }
            maps.sequence += 1;
            for (index, device) in self.devices.iter().enumerate() {
                if !maps.members[index].is_excluded {
                    // One that fails here is excluded in the next round. Whether it may is asked once it can be seen
                    // that it writes.
                    let write = || match self.is_given_up.load(Ordering::SeqCst) {
                        true => Ok(()),
                        false => maps.write(index, &*device.disk, device.layout),
                    };
                    device.health.note(write);
                }
            }
            if self.is_given_up.load(Ordering::SeqCst) {
                return false;
            }
        }
    }

    /// The same, done by whoever asks. False as well once the pool is closed: others may have the devices then.
    fn exclude_failed_now(&self) -> bool {
        let mut maps = lock(&self.maps);
        !self.devices.iter().all(|device| device.is_stopped()) && self.exclude_failed(&mut maps)
    }

    /// The same, done by who writes a device that works. Does not wait. False: there is none.
    fn exclude_failed_soon(self: &Arc<Self>) -> bool {
        let is_new = |device: &Arc<Device>| device.health.has_failed() && !device.is_excluded.load(Ordering::SeqCst);
        if !self.devices.iter().any(is_new) || self.is_excluding.swap(true, Ordering::SeqCst) {
            return true;
        }
        let is_asked = self.devices.iter().any(|device| device.ask(Job::Exclude { shared: Arc::clone(self) }));
        if !is_asked {
            self.is_excluding.store(false, Ordering::SeqCst);
        }
        is_asked
    }
}

#[cfg(test)]
mod tests;
