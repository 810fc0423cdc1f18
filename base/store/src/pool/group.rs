//! Putting a group together: which devices belong to it, what each may be trusted with, and which extents
//! every volume has.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::device::{Device, Lives, Source, Stripe};
use super::directory::{Directory, Place};
use super::disk::Disk;
use super::label::{self, Entry, Found, Label, Map, Uuid};
use super::layout::Layout;
use super::log::Log;
use super::record::{self, Note};
use super::ticket::Commits;
use super::{Error, PhysicalVolumeConfig, VolumeConfig};
use crate::limits::VOLUMES_MAX;

/// A group that is ready to be written to.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) group: Uuid,
    /// Beside each device the logs of its volumes.
    pub(super) devices: Vec<(Arc<Device>, Vec<Log>)>,
    pub(super) volumes: Vec<Uuid>,
    pub(super) maps: Maps,
    pub(super) absent: Vec<Absent>,
}

/// A device that belongs to the group and is not to be had.
#[derive(Debug, Clone)]
pub(super) struct Absent {
    pub(super) path: PathBuf,
    pub(super) reason: String,
    /// What its share of the volumes is reckoned by; 0 where nobody knows.
    bytes: u64,
}

impl Absent {
    pub(super) fn named(config: &PhysicalVolumeConfig) -> Self {
        let reason = config.missing.clone().unwrap_or_else(|| "it is not there".into());
        Self { path: config.path.clone(), reason, bytes: config.size }
    }
}

/// What the devices' maps say, to write it again when a device fails.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) sequence: u64,
    pub(super) volumes: Vec<Entry>,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) uuid: Uuid,
    pub(super) owners: Vec<u8>,
    /// Where its next map goes.
    pub(super) slot: u64,
    /// The newest map says that it does not belong to the group any more.
    pub(super) is_excluded: bool,
}

struct Part {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    lives: Option<Arc<Lives>>,
    label: Label,
    owners: Vec<u8>,
    slot: u64,
    /// It has missed something: nothing on it counts.
    is_void: bool,
    can_detach: bool,
    is_leaving: bool,
}

impl Part {
    fn kind(&self) -> (Layout, bool) {
        (self.label.layout, self.is_leaving)
    }
}

/// An extent of a volume as it is found.
struct Extent {
    number: u32,
    generation: u64,
    notes: Vec<Note>,
}

/// Puts the group together, and makes empty devices part of it. It does without a device that fails, or is none
/// of ours, as long as there is another.
pub(super) fn assemble(
    mut sources: Vec<Source>,
    mut absent: Vec<Absent>,
    extent_bytes: u64,
    config: &[VolumeConfig],
) -> Result<Assembled, Error> {
    loop {
        // What an attempt has written does not change what the next one finds.
        match put_together(sources.clone(), &absent, extent_bytes, config) {
            Err(error) => {
                let Some(path) = error.of_one_device() else { return Err(error) };
                let is_another = sources.iter().any(|source| source.path != path && !source.is_leaving);
                let at = sources.iter().position(|source| source.path == path).filter(|_| is_another);
                let Some(at) = at else { return Err(error) };
                let source = sources.remove(at);
                if !source.is_leaving {
                    let (path, reason) = (path.to_owned(), error.without_path());
                    absent.push(Absent { path, reason, bytes: source.disk.size() });
                }
            }
            other => return other.map(|assembled| Assembled { absent, ..assembled }),
        }
    }
}

fn put_together(
    sources: Vec<Source>,
    absent: &[Absent],
    extent_bytes: u64,
    config: &[VolumeConfig],
) -> Result<Assembled, Error> {
    let (group, mut parts, mut newest) = read_parts(sources, extent_bytes)?;
    let before = newest.volumes.clone();
    rename(&mut newest, config)?;
    let uuids = config
        .iter()
        .map(|volume| newest.volumes.iter().find(|entry| entry.name == volume.name).map(|entry| entry.uuid))
        .map(|found| found.ok_or(Error::Config("a volume that is not there")))
        .collect::<Result<Vec<_>, _>>()?;
    let mut stripes = Vec::new();
    for part in &parts {
        stripes.push(read_stripes(part, &newest, &uuids).map_err(|error| Error::io(&part.path, error))?);
    }
    // A device that is away has what it has: without it nobody knows how much that is.
    let keeps = |(uuid, volume): (&Uuid, &VolumeConfig)| {
        !absent.is_empty() && before.iter().any(|entry| entry.uuid == *uuid && entry.size == volume.size)
    };
    let keeps: Vec<bool> = uuids.iter().zip(config).map(keeps).collect();
    let away: u64 = absent.iter().map(|absent| bytes_of(absent, &parts, extent_bytes)).sum();
    share_out(&mut parts, &mut stripes, &mut newest, &uuids, &Sizes { config, keeps: &keeps, away })?;
    // The one in between may be on its way to a device that hangs.
    newest.sequence += 2;
    let mut maps = Maps { sequence: newest.sequence, volumes: newest.volumes, members: Vec::new() };
    maps.members.extend(parts.iter().map(|part| Member {
        uuid: part.label.volume,
        owners: part.owners.clone(),
        slot: part.slot,
        is_excluded: false,
    }));
    // Those that missed something first: once another says that they belong to the group, they are emptied.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&index| !parts[index].is_void);
    for index in order {
        let part = &mut parts[index];
        // Tried where nothing is, before the map comes there.
        let layout = part.label.layout;
        part.can_detach = part.disk.detach(layout.map_at(part.slot), layout.map_bytes()).is_ok();
        maps.write(index, &*part.disk, part.label.layout).map_err(|error| Error::io(&part.path, error))?;
    }
    let volumes: Vec<_> =
        uuids.iter().zip(config).map(|(&uuid, volume)| (uuid, Arc::default(), volume.size == 0)).collect();
    let devices = parts.into_iter().zip(stripes).map(|(part, stripes)| build(part, stripes, &volumes)).collect();
    Ok(Assembled { group, devices, volumes: uuids, maps, absent: Vec::new() })
}

impl Maps {
    pub(super) fn write(&mut self, index: usize, disk: &dyn Disk, layout: Layout) -> io::Result<()> {
        let members = self.members.iter().filter(|member| !member.is_excluded).map(|member| member.uuid).collect();
        let member = &mut self.members[index];
        let owners = member.owners.clone();
        let map = Map { sequence: self.sequence, members, volumes: self.volumes.clone(), owners };
        map.write(disk, layout, member.slot)?;
        member.slot = 1 - member.slot;
        Ok(())
    }
}

fn read_parts(sources: Vec<Source>, extent_bytes: u64) -> Result<(Uuid, Vec<Part>, Map), Error> {
    let mut found = Vec::new();
    for source in sources {
        let what = label::find(&*source.disk).map_err(|error| Error::io(&source.path, error))?;
        if what == Found::Foreign {
            return Err(Error::Foreign { path: source.path });
        }
        found.push((source, what));
    }
    let known = found.iter().find_map(|(_, what)| match what {
        Found::Ours(label) => Some(label.group),
        _ => None,
    });
    let group = known.map_or_else(Uuid::new, Ok).map_err(|error| Error::io("the kernel's randomness", error))?;
    // Nothing is written before all have been looked at.
    for (Source { path, disk, .. }, what) in &found {
        match what {
            Found::Ours(label) if label.group != group => return Err(Error::OtherGroup { path: path.clone() }),
            Found::Ours(label) if label.layout.extent_at(label.layout.extents as u32) > disk.size() => {
                return Err(Error::TooSmall { path: path.clone() });
            }
            Found::Empty if Layout::fit(disk.size(), extent_bytes).is_none() => {
                return Err(Error::TooSmall { path: path.clone() });
            }
            _ => {}
        }
    }
    let mut parts: Vec<(Part, Option<Map>)> = Vec::new();
    for (Source { path, disk, lives, is_leaving }, what) in found {
        let read = || -> io::Result<(Label, Option<(Map, u64)>)> {
            if let Found::Ours(mut label) = what {
                let grown = label.layout.grown(disk.size());
                if grown != label.layout && !is_leaving {
                    label.layout = grown;
                    label.write(&*disk)?;
                }
                return Ok((label, Map::find(&*disk, label.layout)?));
            }
            let layout = Layout::fit(disk.size(), extent_bytes).ok_or(io::ErrorKind::InvalidInput)?;
            let label = Label { volume: Uuid::new()?, group, layout };
            label.write(&*disk)?;
            Ok((label, None))
        };
        let (label, map) = read().map_err(|error| Error::io(&path, error))?;
        if parts.iter().any(|(other, _)| other.label.volume == label.volume) {
            return Err(Error::Twice { path });
        }
        let (map, slot) = map.map_or((None, 0), |(map, slot)| (Some(map), 1 - slot));
        parts.push((
            Part { path, disk, lives, label, owners: Vec::new(), slot, is_void: false, can_detach: false, is_leaving },
            map,
        ));
    }
    let newest = parts.iter().filter_map(|(_, map)| map.as_ref()).max_by_key(|map| map.sequence).cloned();
    let newest = newest.unwrap_or(Map { sequence: 0, members: Vec::new(), volumes: Vec::new(), owners: Vec::new() });
    let parts = parts
        .into_iter()
        .map(|(mut part, map)| {
            let map = map.filter(|_| newest.members.contains(&part.label.volume));
            part.is_void = map.is_none();
            part.owners =
                map.map_or_else(|| vec![0; part.label.layout.extents as usize], |map| in_terms_of(&map, &newest));
            part
        })
        .collect();
    Ok((group, parts, newest))
}

/// The owners of a map as places in the list of volumes of another.
fn in_terms_of(map: &Map, newest: &Map) -> Vec<u8> {
    let place = |uuid| newest.volumes.iter().position(|entry| entry.uuid == uuid).map_or(0, |place| place as u8 + 1);
    let places: Vec<u8> = map.volumes.iter().map(|entry| place(entry.uuid)).collect();
    map.owners.iter().map(|&owner| if owner == 0 { 0 } else { places[usize::from(owner) - 1] }).collect()
}

/// Gives volumes the names and sizes of the config, and makes those that are not there yet.
fn rename(newest: &mut Map, config: &[VolumeConfig]) -> Result<(), Error> {
    for volume in config {
        let is_there = newest.volumes.iter().any(|entry| entry.name == volume.name);
        if let Some(formerly) = volume.formerly.as_ref().filter(|_| !is_there)
            && let Some(entry) = newest.volumes.iter_mut().find(|entry| entry.name == *formerly)
        {
            entry.name.clone_from(&volume.name);
        }
        if let Some(entry) = newest.volumes.iter_mut().find(|entry| entry.name == volume.name) {
            entry.size = volume.size;
            continue;
        }
        if newest.volumes.len() >= VOLUMES_MAX {
            return Err(Error::Config("more volumes than a group may have"));
        }
        let uuid = Uuid::new().map_err(|error| Error::io("the kernel's randomness", error))?;
        newest.volumes.push(Entry { uuid, name: volume.name.clone(), size: volume.size });
    }
    Ok(())
}

/// What each volume of the config has on the device, the oldest extent first.
fn read_stripes(part: &Part, newest: &Map, uuids: &[Uuid]) -> io::Result<Vec<VecDeque<Extent>>> {
    let layout = part.label.layout;
    let mut stripes: Vec<Vec<Extent>> = uuids.iter().map(|_| Vec::new()).collect();
    let page = layout.page_bytes() as usize;
    let at_once = (1 << 20) / page;
    let mut pages = vec![0; at_once * page];
    let mut whole = vec![0; layout.extent_bytes as usize];
    for first in (0..layout.extents as usize).step_by(at_once) {
        let count = at_once.min(layout.extents as usize - first);
        if part.owners[first..first + count].iter().all(|&owner| owner == 0) {
            continue;
        }
        part.disk.read_at(&mut pages[..count * page], layout.page_at(first as u32))?;
        for (number, bytes) in (first..).zip(pages[..count * page].chunks(page)) {
            let owner = part.owners[number].checked_sub(1).map(|owner| newest.volumes[usize::from(owner)].uuid);
            let Some(volume) = uuids.iter().position(|&uuid| Some(uuid) == owner) else { continue };
            let (seed, number) = (uuids[volume].seed(), number as u32);
            let generation = record::read_life(bytes, seed).unwrap_or(0);
            let notes = match record::read_contents(bytes, generation, seed) {
                _ if generation == 0 => Vec::new(),
                Some(notes) => notes,
                None => {
                    part.disk.read_at(&mut whole, layout.extent_at(number))?;
                    record::walk(&whole, generation, seed, layout).0
                }
            };
            stripes[volume].push(Extent { number, generation, notes });
        }
    }
    for stripe in &mut stripes {
        stripe.sort_by_key(|extent| extent.generation);
    }
    Ok(stripes.into_iter().map(VecDeque::from).collect())
}

/// What the volumes are to have.
struct Sizes<'a> {
    config: &'a [VolumeConfig],
    /// By volume: a device that has some of it keeps just that.
    keeps: &'a [bool],
    /// Bytes of the devices that are away, which have their share of all.
    away: u64,
}

fn bytes_of(absent: &Absent, parts: &[Part], extent_bytes: u64) -> u64 {
    match Layout::fit(absent.bytes, extent_bytes) {
        Some(layout) => layout.bytes(),
        None => stay(parts).map(Layout::bytes).sum::<u64>() / stay(parts).count().max(1) as u64,
    }
}

/// Those that are not going to be let go.
fn stay(parts: &[Part]) -> impl Iterator<Item = &Layout> {
    parts.iter().filter(|part| !part.is_leaving).map(|part| &part.label.layout)
}

/// Gives each volume the extents that its size asks for, spread over the devices by their sizes. Who has too
/// many gives up the oldest; a volume that is not in the config gives up all it has, if somebody needs it.
fn share_out(
    parts: &mut [Part],
    stripes: &mut [Vec<VecDeque<Extent>>],
    newest: &mut Map,
    uuids: &[Uuid],
    sizes: &Sizes<'_>,
) -> Result<(), Error> {
    let total: u64 = stay(parts).map(Layout::bytes).sum::<u64>() + sizes.away;
    let wanted = |volume: usize, stripe: &VecDeque<Extent>, (layout, is_leaving): (Layout, bool)| {
        if is_leaving || sizes.keeps[volume] && !stripe.is_empty() {
            return stripe.len();
        }
        let share = u128::from(sizes.config[volume].size) * u128::from(layout.extents) / u128::from(total.max(1));
        // One is written to while the other is read.
        (share as usize).max(2)
    };
    let owner_of =
        |newest: &Map, uuid| newest.volumes.iter().position(|entry| entry.uuid == uuid).map_or(0, |at| at as u8 + 1);
    for (part, stripes) in parts.iter_mut().zip(&mut *stripes) {
        for (volume, stripe) in stripes.iter_mut().enumerate() {
            while stripe.len() > wanted(volume, stripe, part.kind()) {
                let Some(extent) = stripe.pop_front() else { break };
                part.owners[extent.number as usize] = 0;
            }
        }
    }
    let is_short = |parts: &[Part], stripes: &[Vec<VecDeque<Extent>>]| {
        parts.iter().zip(stripes).any(|(part, stripes)| {
            let missing: usize = stripes
                .iter()
                .enumerate()
                .map(|(volume, stripe)| wanted(volume, stripe, part.kind()).saturating_sub(stripe.len()))
                .sum();
            part.owners.iter().filter(|&&owner| owner == 0).count() < missing
        })
    };
    while is_short(parts, stripes)
        && let Some(place) = newest.volumes.iter().position(|entry| !uuids.contains(&entry.uuid))
    {
        newest.volumes.remove(place);
        let gone = place as u8 + 1;
        for owner in parts.iter_mut().flat_map(|part| &mut part.owners) {
            *owner = match *owner {
                owner if owner == gone => 0,
                owner if owner > gone => owner - 1,
                owner => owner,
            };
        }
    }
    // While a device is away what is missing may be its own share, badly reckoned.
    if is_short(parts, stripes) && sizes.away == 0 {
        return Err(Error::Config("the volumes are larger than the group"));
    }
    for (part, stripes) in parts.iter_mut().zip(stripes) {
        let layout = part.label.layout;
        let mut free = (0..layout.extents as usize).filter(|&at| part.owners[at] == 0).collect::<VecDeque<_>>();
        for ((volume, stripe), &uuid) in stripes.iter_mut().enumerate().zip(uuids) {
            let wanted = wanted(volume, stripe, part.kind());
            while stripe.len() < wanted
                && let Some(at) = free.pop_front()
            {
                part.owners[at] = owner_of(newest, uuid);
                // An earlier life in the same volume must not come back.
                let number = at as u32;
                part.disk
                    .write_at(&[0; super::layout::SECTOR], layout.page_at(number))
                    .map_err(|error| Error::io(&part.path, error))?;
                stripe.push_front(Extent { number, generation: 0, notes: Vec::new() });
            }
        }
        part.disk.sync().map_err(|error| Error::io(&part.path, error))?;
    }
    Ok(())
}

/// The device and its logs, with the directory of each volume.
fn build(
    part: Part,
    extents: Vec<VecDeque<Extent>>,
    volumes: &[(Uuid, Arc<Commits>, bool)],
) -> (Arc<Device>, Vec<Log>) {
    let layout = part.label.layout;
    let lives = part.lives.unwrap_or_else(|| Arc::new(Lives::new(layout.room)));
    let mut generations = vec![0; layout.extents as usize];
    let (mut stripes, mut logs) = (Vec::new(), Vec::new());
    for (extents, (uuid, commits, has_notes)) in extents.into_iter().zip(volumes) {
        let mut directory = Directory::default();
        let mut log = Log::default();
        log.has_notes = *has_notes;
        let count = extents.len() as u64;
        log.notes = HashMap::with_capacity(extents.len());
        for Extent { number, generation, notes } in extents {
            generations[number as usize] = generation;
            log.order.push_back(number);
            for note in &notes {
                match note.slot() {
                    Some(slot) => directory.insert(note.tag(), Place { extent: number, slot }),
                    None => {
                        directory.remove(note.tag());
                    }
                }
            }
            if !notes.is_empty() {
                log.notes.insert(number, notes);
            }
        }
        stripes.push(Stripe {
            seed: uuid.seed(),
            extents: count,
            directory: Mutex::new(directory),
            commits: Arc::clone(commits),
        });
        logs.push(log);
    }
    for (life, generation) in lives.generations.iter().zip(generations) {
        life.store(generation, Ordering::SeqCst);
    }
    let id = (part.label.volume, part.path);
    let can_send = part.can_detach && part.disk.file().is_some();
    (Arc::new(Device::new(id, part.disk, layout, stripes.into_boxed_slice(), lives, can_send, part.is_leaving)), logs)
}
