//! The cache's place: memory, and volumes on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Lower, Section};
use crate::check::Probe;
use crate::checked::{CacheGroup, CacheStore, CacheVolume, Name, PhysicalVolume};
use crate::limits;
use crate::node::{Entry, Node, Place};
use crate::report::{nearest, quoted};
use crate::table;
use crate::values;

/// Extents of each physical volume that no volume gets, and those of it that every volume has at least: one
/// is written to while the other is read.
const KEPT_EXTENTS: u64 = 2;
const LEAST_EXTENTS: u64 = 2;
/// What labels and maps take of a physical volume, at most.
const MAPS_PERCENT: u64 = 1;

/// Where devices are: one that is not there today may be back tomorrow.
const DEVICES: &str = "/dev";

impl Lower<'_> {
    pub(super) fn cache(&mut self, top: Section<'_>) -> CacheStore {
        let cache = top.section("cache");
        CacheStore { memory: cache.size("memory"), group: self.group(cache) }
    }

    fn group(&mut self, cache: Section<'_>) -> Option<CacheGroup> {
        let (group, volumes) = match (cache.given("group"), cache.given("volumes")) {
            (None, None) => return None,
            (Some(group), Some(volumes)) => (group, volumes),
            (Some(group), None) => {
                let help = "`volumes: { pages: { size: 1GiB } }` beside it makes one, for routes with `cache: pages`";
                self.error(group.place, "`group` without `volumes`: nothing would be kept there", help);
                return None;
            }
            (None, Some(volumes)) => {
                let help =
                    "`group: { physical_volumes: [{ path: /var/cache/sumun/a, size: 10GiB }] }` beside it is one";
                self.error(volumes.place, "`volumes` without a `group` that they lie on", help);
                return None;
            }
        };
        let section = cache.section("group");
        let extent = self.extent(section);
        let physical_volumes = self.physical_volumes(section);
        let logical = self.volumes(volumes);
        if !self.problems.is_refused(group.place) && !logical.is_empty() {
            self.room(section, volumes.place, extent, &physical_volumes, &logical);
        }
        let physical_volumes = physical_volumes.into_iter().map(|(_, volume)| volume).collect();
        Some(CacheGroup { physical_volumes, extent, volumes: logical })
    }

    fn extent(&mut self, group: Section<'_>) -> u64 {
        let extent = group.size("extent");
        let fits = extent.is_power_of_two() && limits::EXTENT_BYTES.contains(&extent);
        if let Some(node) = group.given("extent").filter(|_| !fits) {
            self.error(
                node.place,
                "an extent is a power of two from 1MiB to 64MiB",
                "4MiB suits most; large objects on large disks may take 16MiB",
            );
        }
        if fits { extent } else { *limits::EXTENT_BYTES.start() }
    }

    /// Each with the place of its size, or of its path.
    fn physical_volumes(&mut self, group: Section<'_>) -> Vec<(Place, PhysicalVolume)> {
        let mut found: Vec<(Place, PhysicalVolume)> = Vec::new();
        let mut seen: HashMap<PathBuf, Place> = HashMap::new();
        for node in group.given("physical_volumes").and_then(Node::list).unwrap_or_default() {
            let section = Section::of(node, &table::PHYSICAL_VOLUME);
            let Some((written, text)) = section.given("path").zip(section.text("path")) else { continue };
            if values::path(text).is_err() {
                continue;
            }
            let path = self.path(written, text);
            if let Some(first) = seen.insert(path.clone(), written.place) {
                let message = format!("{} is a physical volume already, on line {}", path.display(), first.line);
                self.error(written.place, message, "name it once");
                continue;
            }
            if found.len() == limits::PHYSICAL_VOLUMES {
                let message = format!("a group has at most {} physical volumes", limits::PHYSICAL_VOLUMES);
                self.error(written.place, message, "one file on each disk is enough");
                break;
            }
            let size = section.text("size").and_then(|text| values::size(text).ok());
            if section.given("size").is_none() {
                self.probe_device(written.place, &path);
            } else {
                self.probe_no_directory(written.place, &path);
            }
            found.push((section.given("size").unwrap_or(written).place, PhysicalVolume { path, size }));
        }
        found
    }

    fn volumes(&mut self, node: &Node) -> Vec<CacheVolume> {
        let entries = node.entries();
        if entries.is_empty() && node.scalar().is_none() && node.list().is_none() {
            self.error(node.place, "`volumes` names none", "`pages: { size: 1GiB }` below it is one");
        }
        if let Some(entry) = entries.get(limits::CACHE_VOLUMES) {
            let message = format!("a group has at most {} volumes", limits::CACHE_VOLUMES);
            self.error(entry.place, message, "routes may share one");
        }
        let mut heirs: HashMap<&str, &str> = HashMap::new();
        let kept = entries.iter().take(limits::CACHE_VOLUMES);
        kept.filter_map(|entry| {
            let volume = Section::of(&entry.value, &table::CACHE_VOLUME);
            let size = volume.text("size").and_then(|text| values::size(text).ok())?;
            if let Some(node) = volume.given("size").filter(|_| size == 0) {
                self.error(node.place, "a volume without room", "leave it out, or give it a size such as 1GiB");
            }
            let formerly = volume.given("formerly").zip(volume.text("formerly"));
            if let Some((node, name)) = formerly {
                self.former_name(node, name, entry, &mut heirs);
            }
            let formerly = formerly.map(|(_, name)| Name::from(name));
            Some(CacheVolume { name: Name::from(entry.key.as_str()), size, formerly })
        })
        .collect()
    }

    fn former_name<'a>(&mut self, node: &Node, name: &'a str, entry: &'a Entry, heirs: &mut HashMap<&'a str, &'a str>) {
        if name == entry.key {
            self.error(node.place, "this is its name today", "`formerly` is the name that it had before");
        } else if self.volumes.iter().any(|other| other.key == name) {
            let message = format!("the volume {} is still there", quoted(name));
            self.error(node.place, message, format!("take `{name}` out where its content goes to `{}`", entry.key));
        } else if let Some(other) = heirs.insert(name, &entry.key) {
            let message = format!("the content of {} goes to the volume {} already", quoted(name), quoted(other));
            self.error(node.place, message, "only one volume can have had that name");
        }
    }

    /// Whether the volumes go into the group, where all sizes are written.
    fn room(
        &mut self,
        group: Section<'_>,
        place: Place,
        extent: u64,
        physical: &[(Place, PhysicalVolume)],
        volumes: &[CacheVolume],
    ) {
        let written = group.given("physical_volumes").and_then(Node::list).unwrap_or_default().len();
        let count = volumes.len() as u64;
        let mut all_known = written == physical.len();
        let mut usable: Vec<u64> = Vec::new();
        for (place, volume) in physical {
            let Some(size) = volume.size else {
                all_known = false;
                continue;
            };
            let extents =
                (size / 100 * (100 - MAPS_PERCENT) / extent).min(limits::EXTENTS).saturating_sub(KEPT_EXTENTS);
            if extents < LEAST_EXTENTS * count {
                let least = (LEAST_EXTENTS * count + KEPT_EXTENTS) * extent / (100 - MAPS_PERCENT) * 100;
                let message = format!("{} is too small for a physical volume here", size_text(size));
                let help = format!(
                    "{count} {} and extents of {} take {} of each at least",
                    if count == 1 { "volume" } else { "volumes" },
                    size_text(extent),
                    size_text(least.next_multiple_of(1 << 20) + (1 << 20)),
                );
                self.error(*place, message, help);
                all_known = false;
            }
            usable.push(extents);
        }
        let total: u64 = usable.iter().sum();
        if !all_known || total == 0 {
            return;
        }
        let share = |size: u64, extents: u64| {
            let share = (u128::from(size) * u128::from(extents)).div_ceil(u128::from(total) * u128::from(extent));
            share.max(u128::from(LEAST_EXTENTS))
        };
        let fits = |extents: &u64| {
            volumes.iter().map(|volume| share(volume.size, *extents)).sum::<u128>() <= u128::from(*extents)
        };
        if !usable.iter().all(fits) {
            let asked: u128 = volumes.iter().map(|volume| u128::from(volume.size)).sum();
            // Sizes up to this fit, however they are rounded to extents.
            let room: u64 = usable.iter().map(|extents| extents.saturating_sub(LEAST_EXTENTS * count) * extent).sum();
            let message = format!(
                "the volumes take {}, and there is room for {}",
                size_text(u64::try_from(asked).unwrap_or(u64::MAX)),
                size_text(room),
            );
            self.error(place, message, "make them smaller, or the physical volumes larger, or add one");
        }
    }

    /// The volume of a route with `cache`.
    pub(super) fn volume_of_route(&mut self, cache: &Node) -> Option<Name> {
        let node = if cache.scalar().is_some() { Some(cache) } else { cache.find("volume") };
        let volumes = self.volumes;
        let Some(node) = node else {
            return match volumes {
                [] => None,
                [only] => Some(Name::from(only.key.as_str())),
                [first, ..] => {
                    let message = "there are several volumes, and the route says none";
                    self.error(cache.place, message, format!("name one: `cache: {}`", first.key));
                    None
                }
            };
        };
        let text = node.scalar().filter(|scalar| !scalar.broken)?.text.as_str();
        if values::name(text).is_err() {
            return None;
        }
        if volumes.iter().any(|volume| volume.key == text) {
            return Some(Name::from(text));
        }
        let known = || volumes.iter().map(|volume| volume.key.as_str());
        let help = match nearest(text, known()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if volumes.is_empty() => {
                "there are none: `cache: {}` keeps answers in memory; `cache: { group: …, volumes: … }` at the top level makes some".to_owned()
            }
            None => {
                let shown: Vec<&str> = known().take(10).collect();
                format!("the volumes are {}{}", shown.join(", "), if volumes.len() > shown.len() { ", …" } else { "" })
            }
        };
        self.error(node.place, format!("there is no volume {}", quoted(text)), help);
        None
    }

    /// What has no size has to be a device. Where one is missing, everything else goes on without it.
    fn probe_device(&mut self, place: Place, path: &Path) {
        if self.probe == Probe::Nothing {
            return;
        }
        let size = "a file needs a `size` such as 10GiB";
        match std::fs::metadata(path) {
            Ok(found) if found.is_file() => self.error(place, format!("{} is a file", path.display()), size),
            Ok(_) => self.probe_no_directory(place, path),
            Err(_) if path.starts_with(DEVICES) => {
                let message = format!("there is no device {}", path.display());
                self.problems.warn(place, message, "the cache goes on without it");
            }
            Err(_) => self.error(place, format!("there is no {} yet", path.display()), size),
        }
    }

    fn probe_no_directory(&mut self, place: Place, path: &Path) {
        if self.probe != Probe::Nothing && path.is_dir() {
            let help = format!("name a file in it: {}", path.join("a").display());
            self.error(place, format!("{} is a directory", path.display()), help);
        }
    }
}

/// Bytes as a config would write them, with two digits of a fraction at most and never more than they are.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = units.into_iter().find(|(shift, _)| bytes >> shift > 0).unwrap_or((0, "B"));
    let hundredths = (u128::from(bytes) * 100) >> shift;
    let (whole, fraction) = (hundredths / 100, hundredths % 100);
    let digits = format!("{whole}.{fraction:02}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}
