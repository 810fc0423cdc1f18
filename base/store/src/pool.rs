//! The storage pool on disk, organised as LVM does it: physical volumes (files or block devices) are cut into
//! extents and joined to a group, out of which come logical volumes with names and sizes.
//!
//! ```text
//! Volume::writer --> queue of the device --> its thread --> log of the volume on the device
//! Volume::find   --> directory in memory --> Handle::open --> Object::chunk, Object::range
//! ```
//!
//! Each volume has a part of every device, and each part is a log in a ring of extents. Writing never
//! waits: one thread for each device does it, and what its queue has no room for is not stored. Finding never
//! waits either. Reading does, and is done where waiting is allowed, as with the files of the web server;
//! what has been read once can be sent from the page cache with sendfile.
//!
//! An object is there when its head is, which is written last. Whatever is read is checked first, so that a
//! crash may cost objects and never mixes two. Not here: moving what a device holds to others before it is
//! taken out, and making a physical volume larger.

mod device;
mod directory;
mod disk;
mod group;
mod label;
mod layout;
mod log;
mod object;
mod record;
#[cfg(test)]
mod sim;
mod volume;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub use device::State;
use device::{Device, Job, Source, lock};
pub use disk::{Disk, FileDisk};
use group::{Assembled, Maps};
pub use label::Uuid;
pub use object::{Handle, Object, Range};
pub use volume::{Volume, Writer};

use crate::limits::{NAME_BYTES, PHYSICAL_VOLUMES_MAX};

/// What a pool is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub physical_volumes: Vec<PhysicalVolumeConfig>,
    /// Bytes of an extent of a physical volume that is new; the others keep theirs. A power of two from
    /// 1 MiB to 64 MiB.
    pub extent_bytes: u64,
    pub volumes: Vec<VolumeConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolumeConfig {
    pub path: PathBuf,
    /// Bytes of a file that is not there yet.
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    pub name: String,
    /// Bytes, over all devices.
    pub size: u64,
    /// The name it had: what is in it stays.
    pub formerly: Option<String>,
}

/// Why a pool cannot be opened, or something in it not be had.
#[derive(Debug)]
pub enum Error {
    /// The host refuses.
    Io { path: PathBuf, error: io::Error },
    /// Another process has the device open as a physical volume.
    Locked { path: PathBuf },
    /// There is something on the device, and it is not a physical volume. It stays as it is.
    Foreign { path: PathBuf },
    /// The device belongs to another group than those before it.
    OtherGroup { path: PathBuf },
    /// The same device by two paths, or a copy of one.
    Twice { path: PathBuf },
    /// The device has no room for two extents, or is smaller than its label says.
    TooSmall { path: PathBuf },
    /// The config contradicts itself or the devices.
    Config(&'static str),
    /// The object was overtaken by newer ones, or cannot be read.
    Gone,
    /// It could not be made durable.
    NotDurable,
}

impl Error {
    fn io(path: impl AsRef<Path>, error: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => write!(out, "{}: {error}", path.display()),
            Self::Locked { path } => write!(out, "{}: another process uses it", path.display()),
            Self::Foreign { path } => write!(
                out,
                "{}: neither empty nor a physical volume, so it is left as it is; `wipefs -a` or zeros at its \
                 beginning and end make it empty",
                path.display()
            ),
            Self::OtherGroup { path } => {
                write!(out, "{}: belongs to another group than the first physical volume", path.display())
            }
            Self::Twice { path } => write!(out, "{}: the same physical volume as another one", path.display()),
            Self::TooSmall { path } => write!(out, "{}: too small", path.display()),
            Self::Config(what) => out.write_str(what),
            Self::Gone => out.write_str("not there any more"),
            Self::NotDurable => out.write_str("could not be written to disk for good"),
        }
    }
}

impl std::error::Error for Error {}

/// What there is, for listings and alarms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    pub group: Uuid,
    pub physical_volumes: Vec<PhysicalVolumeUsage>,
    pub volumes: Vec<VolumeUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolumeUsage {
    pub path: PathBuf,
    pub uuid: Uuid,
    pub state: State,
    pub extent_bytes: u64,
    pub extents: u64,
    /// Extents that no volume has.
    pub free_extents: u64,
    pub read_errors: u64,
    pub slow_writes: u64,
    /// Objects that were not stored, since this one did not keep up or has failed.
    pub not_stored: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    pub name: String,
    pub uuid: Uuid,
    pub bytes: u64,
    pub objects: u64,
}

#[derive(Debug)]
struct Shared {
    devices: Vec<Arc<Device>>,
    maps: Mutex<Maps>,
}

/// An open pool. This process has its devices for itself until it is closed.
#[derive(Debug)]
pub struct Pool {
    group: Uuid,
    shared: Arc<Shared>,
    names: Vec<(String, Uuid)>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Opens the devices, makes new ones part of the group, and reads where everything is.
    ///
    /// # Errors
    /// A device is not to be had, or not ours, or the volumes do not fit.
    pub fn open(config: &Config) -> Result<Self, Error> {
        Self::open_with(config, Vec::new())
    }

    /// The same pool by another config: devices that come or go, volumes that grow, shrink or are renamed.
    /// The others keep what they hold. Handles from before go on to read; writers from before store nothing
    /// more.
    ///
    /// # Errors
    /// As [`open`](Self::open); the pool is closed then, and can be opened again by the config before.
    pub fn apply(mut self, config: &Config) -> Result<Self, Error> {
        self.stop();
        let source = |device: &Arc<Device>| {
            let (path, disk, lives) = (device.path.clone(), Arc::clone(&device.disk), Arc::clone(&device.lives));
            Source { path, disk, lives: Some(lives) }
        };
        Self::open_with(config, self.shared.devices.iter().map(source).collect())
    }

    fn open_with(config: &Config, open: Vec<Source>) -> Result<Self, Error> {
        let source = |PhysicalVolumeConfig { path, size }: &PhysicalVolumeConfig| {
            if let Some(source) = open.iter().find(|source| source.path == *path) {
                return Ok(source.clone());
            }
            let disk = FileDisk::open(path, *size).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Error::Locked { path: path.clone() },
                _ => Error::io(path, error),
            })?;
            Ok(Source { path: path.clone(), disk: Arc::new(disk), lives: None })
        };
        Self::start(config.physical_volumes.iter().map(source).collect::<Result<_, _>>()?, config)
    }

    /// Opens a pool on these devices, whatever they are, in place of those in the config.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disks: Vec<(PathBuf, Arc<dyn Disk>)>, config: &Config) -> Result<Self, Error> {
        let source = |(path, disk)| Source { path, disk, lives: None };
        Self::start(disks.into_iter().map(source).collect(), config)
    }

    fn start(sources: Vec<Source>, config: &Config) -> Result<Self, Error> {
        check(config, sources.len())?;
        let Assembled { group, devices, volumes, maps } =
            group::assemble(sources, config.extent_bytes, &config.volumes)?;
        let names = config.volumes.iter().map(|volume| volume.name.clone()).zip(volumes).collect();
        let start = maps.sequence;
        let (devices, logs): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let shared = Arc::new(Shared { devices, maps: Mutex::new(maps) });
        let mut pool = Self { group, shared, names, threads: Vec::new() };
        for (device, logs) in pool.shared.devices.iter().zip(logs) {
            let thread = log::Thread::new(Arc::clone(device), logs, start);
            let spawned = std::thread::Builder::new().name("store".into()).spawn(move || thread.run());
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

    /// What was committed before is durable. Waits for the disk. False: a device has failed.
    pub fn flush(&self) -> bool {
        let mut waiting = Vec::new();
        for device in &self.shared.devices {
            let (done, told) = sync_channel(1);
            if !device.ask(Job::Flush { done }) {
                return false;
            }
            waiting.push(told);
        }
        waiting.into_iter().all(|told| told.recv().unwrap_or(false))
    }

    /// What there is and how it does.
    #[must_use]
    pub fn usage(&self) -> PoolUsage {
        let devices = &self.shared.devices;
        let physical_volumes = devices.iter().map(|device| PhysicalVolumeUsage {
            path: device.path.clone(),
            uuid: device.uuid,
            state: device.health.state(),
            extent_bytes: device.layout.extent_bytes,
            extents: device.layout.extents,
            free_extents: device.layout.extents - device.stripes.iter().map(|stripe| stripe.extents).sum::<u64>(),
            read_errors: device.health.read_errors.load(Relaxed),
            slow_writes: device.health.slow_writes.load(Relaxed),
            not_stored: device.health.not_stored.load(Relaxed),
        });
        let volumes = self.names.iter().enumerate().map(|(number, (name, uuid))| {
            let stripes = || devices.iter().map(|device| (&device.stripes[number], device.layout.extent_bytes));
            VolumeUsage {
                name: name.clone(),
                uuid: *uuid,
                bytes: stripes().map(|(stripe, extent)| stripe.extents * extent).sum(),
                objects: stripes().map(|(stripe, _)| lock(&stripe.directory).len() as u64).sum(),
            }
        });
        PoolUsage { group: self.group, physical_volumes: physical_volumes.collect(), volumes: volumes.collect() }
    }

    /// Writes what is in the queues, makes it durable, and lets go of the devices once nobody reads any more.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        for device in &self.shared.devices {
            device.stop();
        }
        for thread in self.threads.drain(..) {
            // One that has panicked has nothing more to write.
            drop(thread.join());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Notes on the other devices that those which have failed do not belong to the group any more, so that
    /// nothing comes back with them that was removed meanwhile. False: there is no other.
    fn exclude_failed(&self) -> bool {
        let mut maps = lock(&self.maps);
        loop {
            let is_new =
                |(index, device): (usize, &Arc<Device>)| device.health.has_failed() && !maps.members[index].is_excluded;
            let failed: Vec<usize> = (0..).zip(&self.devices).filter(|&pair| is_new(pair)).map(|pair| pair.0).collect();
            if failed.is_empty() {
                return maps.members.iter().any(|member| !member.is_excluded);
            }
            for index in failed {
                maps.members[index].is_excluded = true;
            }
            maps.sequence += 1;
            for (index, device) in self.devices.iter().enumerate() {
                if !maps.members[index].is_excluded {
                    // One that fails here is excluded in the next round.
                    device.health.watch("writing", || maps.write(index, &*device.disk, device.layout));
                }
            }
        }
    }
}

fn check(config: &Config, devices: usize) -> Result<(), Error> {
    if devices == 0 || devices > PHYSICAL_VOLUMES_MAX {
        return Err(Error::Config("a group has between 1 and 64 physical volumes"));
    }
    for (index, volume) in config.volumes.iter().enumerate() {
        if volume.name.is_empty() || volume.name.len() > NAME_BYTES {
            return Err(Error::Config("a volume's name has between 1 and 64 bytes"));
        }
        if config.volumes[..index].iter().any(|other| other.name == volume.name) {
            return Err(Error::Config("two volumes have the same name"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
