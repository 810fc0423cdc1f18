//! The thread that keeps the pool: one order after the other, and a look at the devices in between.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use sumun_config::checked::CacheGroup;
use sumun_store::Key;
use sumun_store::pool::{self, Disk, FileDisk, Hung, Pool};

use super::super::purges::{Note, What};
use super::{Order, Shared, State, Volumes, lock};
use crate::events::Event;
use crate::limits::{CACHE_LOOK, CACHE_LOOK_AGAIN};

/// The volume that purges are noted in. No name in a config begins so.
pub(super) const JOURNAL: &str = ".purges";

struct Keeper<'a> {
    shared: &'a Shared,
    /// What is to be kept; `None`: nothing.
    group: Option<CacheGroup>,
    devices: HashMap<PathBuf, Device>,
    /// Those that the pool has given up. Until they come back they stay locked: what was on its way to them may
    /// still be written.
    hung: Vec<Hung>,
    /// Another process may have the devices.
    has_left: bool,
    /// What was said of each device.
    told: HashMap<PathBuf, pool::State>,
}

/// What the supervisor has opened.
struct Device {
    file: File,
    /// Once it is locked.
    disk: Option<Arc<FileDisk>>,
}

/// Why there is no pool.
enum Closed {
    /// Another process has a device.
    Busy,
    Failed(String),
}

pub(super) fn run(shared: &Shared, orders: &Receiver<Order>) {
    let mut keeper = Keeper {
        shared,
        group: None,
        devices: HashMap::new(),
        hung: Vec::new(),
        has_left: false,
        told: HashMap::new(),
    };
    loop {
        let is_waiting = *shared.state.borrow() == State::Waiting;
        match orders.recv_timeout(if is_waiting { CACHE_LOOK_AGAIN } else { CACHE_LOOK }) {
            Ok(Order::Follow { group, devices }) => keeper.follow(group, devices),
            Ok(Order::Leave { done }) => {
                keeper.leave();
                done.send(()).ok();
            }
            Ok(Order::Return) => {
                keeper.has_left = false;
                keeper.open();
            }
            Err(RecvTimeoutError::Timeout) if is_waiting => keeper.open(),
            Err(RecvTimeoutError::Timeout) => keeper.look(),
            Err(RecvTimeoutError::Disconnected) => return keeper.leave(),
        }
    }
}

impl Keeper<'_> {
    fn follow(&mut self, group: Option<CacheGroup>, devices: Vec<(PathBuf, File)>) {
        // Also while it waits for one more device: what it writes to stays locked.
        let is_open = lock(&self.shared.pool).is_some();
        let mut has_new = false;
        for (path, file) in devices {
            // One that works, or is still being emptied, goes on as it is.
            if !self.hangs(&path) && (!is_open || !self.works(&path)) {
                self.unlock(&path);
                self.devices.insert(path, Device { file, disk: None });
                has_new = true;
            }
        }
        if group == self.group && is_open && !has_new && !self.has_grown() {
            return;
        }
        let before = std::mem::replace(&mut self.group, group);
        if self.group.is_none() {
            self.close();
            self.let_go();
            self.shared.publish(Volumes::default());
            self.shared.is_now(State::Off);
        } else if !self.has_left {
            self.open();
            // On its own: what is borrowed would be so until the end of the block, and the state is written there.
            let state = self.shared.state.borrow().clone();
            if let (State::Failed(why), Some(before)) = (state, before) {
                self.go_on_with(before, &why);
            }
        }
    }

    /// A config that cannot be followed costs nobody what is stored.
    fn go_on_with(&mut self, before: CacheGroup, why: &str) {
        let wanted = self.group.replace(before);
        self.open();
        let is_open = matches!(*self.shared.state.borrow(), State::Open(_));
        if is_open {
            self.shared.is_now(unchanged(why));
        } else {
            self.group = wanted;
        }
    }

    fn open(&mut self) {
        let Some(group) = self.group.clone() else { return };
        let state = match self.try_open(&group) {
            Ok(too_small) => {
                self.tell_open();
                too_small.map_or(State::Open(None), |why| unchanged(&why))
            }
            Err(Closed::Busy) => State::Waiting,
            Err(Closed::Failed(why)) => State::Failed(why),
        };
        match &state {
            State::Failed(why) => Event::StorageClosed { why }.write(),
            State::Open(_) => self.let_go(),
            _ => {}
        }
        self.shared.is_now(state);
    }

    fn tell_open(&self) {
        if let Some(usage) = lock(&self.shared.pool).as_ref().map(Pool::usage) {
            let answers =
                usage.volumes.iter().filter(|volume| volume.name != JOURNAL).map(|volume| volume.objects).sum();
            Event::StorageOpen { devices: usage.physical_volumes.len(), answers }.write();
        }
    }

    /// Gives why a device has not become as large as it is to be.
    fn try_open(&mut self, group: &CacheGroup) -> Result<Option<String>, Closed> {
        let mut config = config_of(group);
        let mut disks = Vec::new();
        let mut too_small = None;
        // To look into one that hangs would be to wait for it.
        let usage = lock(&self.shared.pool).as_ref().map(Pool::usage);
        let devices = usage.iter().flat_map(|usage| &usage.physical_volumes);
        let slow: Vec<&PathBuf> =
            devices.filter(|device| device.state == pool::State::Slow).map(|device| &device.path).collect();
        for (wanted, physical) in config.physical_volumes.iter_mut().zip(&group.physical_volumes) {
            match self.disk(&physical.path, physical.size.unwrap_or(0)) {
                Ok(disk) => {
                    if !slow.contains(&&physical.path)
                        && let Err(error) = disk.grow(physical.size.unwrap_or(0))
                    {
                        let why = format!("{} cannot grow as far: {error}", physical.path.display());
                        too_small.get_or_insert(why);
                    }
                    disks.push((physical.path.clone(), disk as Arc<dyn Disk>));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Closed::Busy),
                Err(error) => wanted.missing = Some(error.to_string()),
            }
        }
        // From here to its end what is forgotten is forgotten in the pool before, which has been read already.
        self.shared.is_now(State::Opening);
        let mut before = lock(&self.shared.pool).take();
        self.hung.extend(before.iter_mut().flat_map(Pool::stop));
        let opened = match before {
            Some(pool) => pool.apply(&config, disks),
            None => Pool::open_on(disks, &config),
        };
        let pool = opened.map_err(|error| Closed::Failed(error.to_string()))?;
        let journal = pool.volume(JOURNAL);
        if let Some(journal) = &journal {
            let notes = journal.kept();
            let note = |(key, bytes): &(Key, Option<Vec<u8>>)| Note::from_bytes(*key, bytes.as_deref());
            self.shared.purges.load(notes.iter().map(note));
        }
        let volume =
            |volume: &sumun_config::checked::CacheVolume| Some((volume.name.clone(), pool.volume(&volume.name)?));
        let by_name = group.volumes.iter().filter_map(volume).collect();
        self.shared.publish(Volumes { by_name, journal });
        *lock(&self.shared.pool) = Some(pool);
        if let Err(why) = self.shared.write_notes() {
            Event::PurgesNotKept { why: &why }.write();
        }
        Ok(too_small)
    }

    /// The device, locked.
    fn disk(&mut self, path: &Path, size: u64) -> io::Result<Arc<FileDisk>> {
        if self.hangs(path) {
            return Err(io::Error::other(Hung::REASON));
        }
        let device = self.devices.get_mut(path).ok_or_else(|| io::Error::other("it could not be opened"))?;
        if let Some(disk) = &device.disk {
            disk.lock()?;
            return Ok(Arc::clone(disk));
        }
        let disk = Arc::new(FileDisk::new(device.file.try_clone()?, size)?);
        device.disk = Some(Arc::clone(&disk));
        Ok(disk)
    }

    /// A block device is larger than it was.
    fn has_grown(&self) -> bool {
        self.devices.values().filter_map(|device| device.disk.as_ref()).any(|disk| disk.has_grown())
    }

    fn close(&mut self) {
        let pool = lock(&self.shared.pool).take();
        if let Some(mut pool) = pool {
            self.hung.extend(pool.stop());
            pool.close();
        }
        for path in self.devices.keys() {
            self.unlock(path);
        }
        self.told.clear();
    }

    fn unlock(&self, path: &Path) {
        if self.hangs(path) {
            return;
        }
        if let Some(disk) = self.devices.get(path).and_then(|device| device.disk.as_ref()) {
            disk.unlock();
        }
    }

    fn hangs(&self, path: &Path) -> bool {
        self.hung.iter().any(|hung| hung.path() == path && !hung.is_over())
    }

    /// The pool has it, and it has not failed.
    fn works(&self, path: &Path) -> bool {
        let usage = lock(&self.shared.pool).as_ref().map(Pool::usage);
        let mut devices = usage.iter().flat_map(|usage| &usage.physical_volumes);
        devices.any(|device| device.path == path && !matches!(device.state, pool::State::Failed(_)))
    }

    fn leave(&mut self) {
        self.has_left = true;
        self.close();
        if self.group.is_some() {
            self.shared.is_now(State::Left);
        }
    }

    /// Says what has become of devices, and lets go of one that is not in the config any more, once nothing on it is
    /// left to be moved, or it has come back.
    fn look(&mut self) {
        let back: Vec<Hung> = self.hung.extract_if(.., |hung| hung.is_over()).collect();
        let found = lock(&self.shared.pool).as_ref().map(|pool| (pool.usage(), pool.evacuated()));
        let Some((usage, is_evacuated)) = found else {
            if !back.is_empty() && self.has_left {
                self.close();
            } else if !back.is_empty() {
                if back.iter().any(Hung::has_failed) {
                    self.shared.is_to_note(self.shared.purges.add_for_all(false, What::All));
                }
                self.open();
                self.let_go();
            }
            return;
        };
        let is_leaving = usage.physical_volumes.iter().any(|device| device.leaving.is_some());
        for device in usage.physical_volumes {
            let before = self.told.insert(device.path.clone(), device.state.clone());
            if before.unwrap_or(pool::State::Working) != device.state {
                Event::DeviceState { path: &device.path, state: &device.state }.write();
            }
        }
        if is_leaving && is_evacuated {
            self.open();
        } else if !back.is_empty() {
            self.let_go();
        }
    }

    /// Of devices that are not in the config any more, and that the pool does not empty either.
    fn let_go(&mut self) {
        let usage = lock(&self.shared.pool).as_ref().map(Pool::usage);
        let leaving = usage.iter().flat_map(|usage| &usage.physical_volumes).filter(|device| device.leaving.is_some());
        let named = self.group.iter().flat_map(|group| &group.physical_volumes).map(|one| &one.path);
        let needed: Vec<_> = named.chain(leaving.map(|device| &device.path)).collect();
        let is_gone = |path: &&PathBuf| !needed.contains(path) && !self.hangs(path);
        let gone: Vec<PathBuf> = self.devices.keys().filter(is_gone).cloned().collect();
        for path in gone {
            // Whoever still reads there does not keep others away.
            self.unlock(&path);
            self.devices.remove(&path);
        }
    }
}

/// Open, and not what the config says.
fn unchanged(why: &str) -> State {
    Event::StorageUnchanged { why }.write();
    State::Open(Some(format!("it is not what the config says: {why}")))
}

fn config_of(group: &CacheGroup) -> pool::Config {
    let physical = group.physical_volumes.iter().map(|one| pool::PhysicalVolumeConfig {
        path: one.path.clone(),
        size: one.size.unwrap_or(0),
        missing: None,
    });
    let volumes = group.volumes.iter().map(|one| pool::VolumeConfig {
        name: one.name.to_string(),
        size: one.size,
        formerly: one.formerly.as_ref().map(|name| name.to_string()),
    });
    let journal = pool::VolumeConfig { name: JOURNAL.to_owned(), size: 0, formerly: None };
    pool::Config {
        physical_volumes: physical.collect(),
        extent_bytes: group.extent,
        volumes: volumes.chain([journal]).collect(),
    }
}
