//! What there is and how it does.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::device::lock;
use super::{Pool, State, Uuid};

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
    /// All zeros, and no extents, where the device could not be opened.
    pub uuid: Uuid,
    pub state: State,
    pub extent_bytes: u64,
    pub extents: u64,
    /// Extents that no volume has.
    pub free_extents: u64,
    pub read_errors: u64,
    pub slow_writes: u64,
    /// Of one that is not in the config any more, and is still to be let go: objects that have to move yet.
    pub leaving: Option<u64>,
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

impl Pool {
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
            leaving: device.leaving.as_ref().map(|leaving| leaving.left.load(Relaxed)),
            not_stored: device.health.not_stored.load(Relaxed),
        });
        let absent = self.absent.iter().map(|absent| PhysicalVolumeUsage {
            path: absent.path.clone(),
            uuid: Uuid([0; 16]),
            state: State::Failed(absent.reason.clone()),
            extent_bytes: 0,
            extents: 0,
            free_extents: 0,
            read_errors: 0,
            slow_writes: 0,
            leaving: None,
            not_stored: 0,
        });
        let volumes = self.names.iter().enumerate().map(|(number, (name, uuid))| {
            let stripes = devices.iter().map(|device| &device.stripes[number]);
            VolumeUsage {
                name: name.clone(),
                uuid: *uuid,
                bytes: devices.iter().map(|device| device.weight(number) * device.layout.extent_bytes).sum(),
                objects: stripes.map(|stripe| lock(&stripe.directory).len() as u64).sum(),
            }
        });
        PoolUsage {
            group: self.group,
            physical_volumes: physical_volumes.chain(absent).collect(),
            volumes: volumes.collect(),
        }
    }
}
