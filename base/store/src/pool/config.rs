//! What a pool is to be.

use std::path::PathBuf;

use super::Error;
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
    /// Bytes of a file that is not there yet. As long as the device is missing, what it is taken to have; 0
    /// is as much as the others have on average.
    pub size: u64,
    /// Why it is missing, in the words of who tried to open it. Not looked at where there is a device.
    pub missing: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    pub name: String,
    /// Bytes, over all devices. 0 is a volume for notes alone ([`Volume::keep`](super::Volume::keep)): it has
    /// two extents of each device.
    pub size: u64,
    /// The name it had: what is in it stays.
    pub formerly: Option<String>,
}

/// `devices` are those that are there.
pub(super) fn check(config: &Config, devices: usize) -> Result<(), Error> {
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
