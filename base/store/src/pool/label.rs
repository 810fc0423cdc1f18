//! What a physical volume says of itself: its label, which changes only as it grows, and the map of its extents, which
//! is written again at every change, in turn to one of two places.

use std::fmt;
use std::io;

use super::disk::Disk;
use super::layout::{LABELS, Layout, SECTOR, VOLUME_ENTRY, checksum};
use crate::limits::{NAME_BYTES, PHYSICAL_VOLUMES_MAX, VOLUMES_MAX};

const LABEL_MAGIC: &[u8; 8] = b"SUMUN-PV";
const MAP_MAGIC: &[u8; 8] = b"SUMUNMAP";
/// The first has no room to grow in.
const VERSIONS: [u32; 2] = [1, 2];

/// A name that stays: of a physical volume, of a group, of a logical volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// A new one (RFC 9562, version 4).
    ///
    /// # Errors
    /// The kernel has no randomness.
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = sumun_host::random::random_bytes::<16>()?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// What checksums of this one's records begin with.
    pub(super) fn seed(self) -> u64 {
        checksum(0, &self.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(out, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Whose a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) volume: Uuid,
    pub(super) group: Uuid,
    pub(super) layout: Layout,
}

/// What a device is found to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Ours(Label),
    /// Nothing but zeros where anything would lie.
    Empty,
    /// Something, and not ours. It stays as it is.
    Foreign,
}

/// Looks for a label.
pub(super) fn find(disk: &dyn Disk) -> io::Result<Found> {
    let mut sector = [0_u8; SECTOR];
    for at in LABELS {
        if disk.size() >= at + SECTOR as u64 {
            disk.read_at(&mut sector, at)?;
            if let Some(label) = Label::read(&sector) {
                return Ok(Found::Ours(label));
            }
        }
    }
    // File systems and partition tables have something in the first or the last part.
    let part = disk.size().min(1 << 20);
    let mut bytes = vec![0; part as usize];
    for at in [0, disk.size() - part] {
        disk.read_at(&mut bytes, at)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(Found::Foreign);
        }
    }
    Ok(Found::Empty)
}

impl Label {
    /// Makes the device ours; only for one that is empty, or is so already.
    pub(super) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut sector = [0_u8; SECTOR];
        let mut bytes = LABEL_MAGIC.to_vec();
        bytes.extend(VERSIONS[1].to_le_bytes());
        bytes.extend(self.volume.0);
        bytes.extend(self.group.0);
        bytes.extend(self.layout.extent_bytes.to_le_bytes());
        bytes.extend(self.layout.extents.to_le_bytes());
        bytes.extend(self.layout.room.to_le_bytes());
        let sum = checksum(0, &bytes);
        bytes.extend(sum.to_le_bytes());
        sector[..bytes.len()].copy_from_slice(&bytes);
        for at in LABELS {
            disk.write_at(&sector, at)?;
            disk.sync()?;
        }
        Ok(())
    }

    fn read(sector: &[u8]) -> Option<Self> {
        let mut from = Reader(sector);
        if from.take::<8>()? != *LABEL_MAGIC {
            return None;
        }
        let version = from.u32().filter(|version| VERSIONS.contains(version))?;
        let (volume, group) = (Uuid(from.take()?), Uuid(from.take()?));
        let (extent_bytes, extents) = (from.u64()?, from.u64()?);
        let room = if version == VERSIONS[0] { extents } else { from.u64()? };
        let layout = Layout { extent_bytes, extents, room };
        let checked = sector.get(..sector.len() - from.0.len())?;
        // The checksum makes the numbers ours; that they make sense is asked all the same.
        let is_sound =
            Layout::fit(u64::MAX >> 1, extent_bytes).is_some_and(|most| most.room >= room && room >= extents);
        (from.u64()? == checksum(0, checked) && is_sound).then_some(Self { volume, group, layout })
    }
}

/// A logical volume, as all physical volumes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) size: u64,
}

/// Whose the extents of a physical volume are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// Counts the changes in the whole group: the newest map tells what is true.
    pub(super) sequence: u64,
    /// The physical volumes that took part in this change. One that did not has missed something since, such
    /// as a purge, and what it holds is not to be trusted.
    pub(super) members: Vec<Uuid>,
    pub(super) volumes: Vec<Entry>,
    /// For each extent of this physical volume, or the first of them: none, or one more than the place in `volumes`.
    pub(super) owners: Vec<u8>,
}

impl Map {
    /// Writes it to one of its two places and waits until it is durable.
    pub(super) fn write(&self, disk: &dyn Disk, layout: Layout, slot: u64) -> io::Result<()> {
        let mut bytes = MAP_MAGIC.to_vec();
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend((self.members.len() as u32).to_le_bytes());
        bytes.extend((self.volumes.len() as u32).to_le_bytes());
        bytes.extend(self.members.iter().flat_map(|member| member.0));
        for volume in &self.volumes {
            bytes.extend(volume.uuid.0);
            bytes.extend(volume.size.to_le_bytes());
            bytes.push(volume.name.len() as u8);
            let mut name = [0; NAME_BYTES];
            name[..volume.name.len()].copy_from_slice(volume.name.as_bytes());
            bytes.extend(name);
        }
        bytes.extend(&self.owners);
        bytes.resize(bytes.len() + layout.room as usize - self.owners.len(), 0);
        let sum = checksum(0, &bytes);
        bytes.extend(sum.to_le_bytes());
        debug_assert!(bytes.len() as u64 <= layout.map_bytes());
        disk.write_at(&bytes, layout.map_at(slot))?;
        disk.sync()
    }

    /// The newer of the two that is whole, and where it lies.
    pub(super) fn find(disk: &dyn Disk, layout: Layout) -> io::Result<Option<(Self, u64)>> {
        let mut bytes = vec![0; layout.map_bytes() as usize];
        let mut newest: Option<(Self, u64)> = None;
        for slot in 0..2 {
            disk.read_at(&mut bytes, layout.map_at(slot))?;
            if let Some(map) = Self::read(&bytes, layout)
                && newest.as_ref().is_none_or(|(newest, _)| newest.sequence < map.sequence)
            {
                newest = Some((map, slot));
            }
        }
        Ok(newest)
    }

    fn read(bytes: &[u8], layout: Layout) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.take::<8>()? != *MAP_MAGIC {
            return None;
        }
        let (sequence, members, volumes) = (from.u64()?, from.u32()? as usize, from.u32()? as usize);
        if members > PHYSICAL_VOLUMES_MAX || volumes > VOLUMES_MAX {
            return None;
        }
        let length = 24 + members * 16 + volumes * VOLUME_ENTRY + layout.room as usize;
        let sum = checksum(0, bytes.get(..length)?);
        let members = (0..members).map(|_| from.take().map(Uuid)).collect::<Option<_>>()?;
        let volumes = (0..volumes).map(|_| Entry::read(&mut from)).collect::<Option<Vec<_>>>()?;
        let mut owners = from.bytes(layout.room as usize)?.to_vec();
        let is_sound = owners.iter().all(|&owner| usize::from(owner) <= volumes.len());
        owners.truncate(layout.extents as usize);
        (from.u64()? == sum && is_sound).then_some(Self { sequence, members, volumes, owners })
    }
}

impl Entry {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (uuid, size) = (Uuid(from.take()?), from.u64()?);
        let [length] = from.take::<1>()?;
        let name = from.bytes(NAME_BYTES)?.get(..usize::from(length))?;
        Some(Self { uuid, name: String::from_utf8(name.to_vec()).ok()?, size })
    }
}

/// Takes numbers off the front of bytes from disk; none where there are no more.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
