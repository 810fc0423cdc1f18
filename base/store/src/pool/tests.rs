mod evacuate;
mod forget;
mod grow;
mod pages;
mod power;
mod reading;
mod start;
mod stopping;

use std::fs::File;
use std::path::Path;

use super::sim::{EIO, ENOSPC, SimDisk};
use super::*;
use crate::Key;

const MIB: u64 = 1 << 20;

fn volume(name: &str, size: u64) -> VolumeConfig {
    VolumeConfig { name: name.into(), size, formerly: None }
}

fn config(volumes: Vec<VolumeConfig>) -> Config {
    Config { physical_volumes: Vec::new(), extent_bytes: MIB, volumes }
}

/// The physical volumes that [`open`] gives, by their place in the list.
fn named(number: usize) -> PhysicalVolumeConfig {
    PhysicalVolumeConfig { path: PathBuf::from(format!("disk {number}")), size: 0, missing: None }
}

/// Waits until it is so.
fn eventually(is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "it has not come to be so");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn disk(size: u64) -> Arc<SimDisk> {
    Arc::new(SimDisk::new(vec![0; size as usize]))
}

fn open(disks: &[Arc<SimDisk>], config: &Config) -> Result<Pool, Error> {
    let name = |number: usize| PathBuf::from(format!("disk {number}"));
    let disks = disks.iter().enumerate().map(|(number, disk)| (name(number), Arc::clone(disk) as Arc<dyn Disk>));
    Pool::open_on(disks.collect(), config)
}

/// The file of this path, which is made if it is not there.
fn file_disk(path: &Path, size: u64) -> Arc<FileDisk> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Arc::new(FileDisk::new(file, size).unwrap())
}

/// A key as the gateway has them.
fn key(number: u64) -> Key {
    (Key::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// A body that is nobody else's, and nowhere like itself a chunk further on.
fn body(number: u64, version: u64, size: usize) -> Vec<u8> {
    let mut block = [0; 4093];
    fastrand::Rng::with_seed(number << 32 | version).fill(&mut block);
    let mut bytes = block.repeat(size / block.len() + 1);
    bytes.truncate(size);
    bytes
}

fn put(volume: &Volume, number: u64, version: u64, size: usize) -> bool {
    let meta = [number, version, size as u64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let Some(mut writer) = volume.writer(key(number), meta) else { return false };
    let body = body(number, version, size);
    let is_pushed = body.chunks(70_000).all(|piece| writer.push(piece));
    let arriving = writer.arriving();
    check_arriving(&arriving, &body);
    let is_committed = is_pushed && writer.commit().is_some();
    check_arriving(&arriving, &body);
    is_committed
}

/// What is there of it is right, or gone.
fn check_arriving(arriving: &Arriving, body: &[u8]) {
    let size = arriving.chunk_bytes() as usize;
    for (number, piece) in body[..arriving.written() as usize].chunks(size).enumerate() {
        if let Ok(bytes) = arriving.chunk(number) {
            assert!(bytes == piece, "chunk {number} of what arrives");
        }
    }
}

/// The version that is found, all of it checked.
fn read(volume: &Volume, number: u64) -> Option<u64> {
    let object = volume.find(key(number))?.open().ok()?;
    let mut values = object.meta().chunks(8).map(|value| u64::from_le_bytes(value.try_into().unwrap()));
    let [found, version, size] = [(); 3].map(|()| values.next().unwrap());
    assert_eq!((found, size), (number, object.size()));
    let mut bytes = Vec::new();
    for chunk in 0..object.chunks() {
        bytes.extend(object.chunk(chunk).ok()?);
    }
    assert!(bytes == body(number, version, size as usize), "object {number} version {version} is not itself");
    Some(version)
}

#[test]
fn stores_and_finds_and_starts_again() {
    let disks = [disk(16 * MIB), disk(24 * MIB)];
    let config = config(vec![volume("pages", 12 * MIB), volume("media", 20 * MIB)]);
    let pool = open(&disks, &config).unwrap();
    let (pages, media) = (pool.volume("pages").unwrap(), pool.volume("media").unwrap());
    assert!(pool.volume("other").is_none());
    for (number, size) in [0, 1, 5000, 65_536, 65_537, 262_144, 1_000_000, 2_000_000].into_iter().enumerate() {
        assert!(put(&media, number as u64, 7, size));
    }
    assert!(put(&pages, 1, 8, 100));
    let mut given_up = pages.writer(key(2), Vec::new()).unwrap();
    assert!(given_up.push(&[1; 400_000]));
    drop(given_up);
    assert!(pool.flush());
    let usage = pool.usage();
    assert_eq!(usage.volumes.iter().map(|volume| volume.objects).collect::<Vec<_>>(), [1, 8]);
    assert!(usage.physical_volumes.iter().all(|device| device.state == State::Working && device.not_stored == 0));
    pages.remove(key(0)).unwrap();
    media.remove(key(3)).unwrap();
    let group = usage.group;
    for start in 0..3 {
        let pool = open(&disks, &config).map_err(|error| error.to_string());
        // The first round looks at the pool as it is.
        let pool = pool.unwrap();
        let (pages, media) = (pool.volume("pages").unwrap(), pool.volume("media").unwrap());
        for number in 0..8 {
            assert_eq!(read(&media, number), (number != 3).then_some(7), "start {start} object {number}");
        }
        assert_eq!((read(&pages, 0), read(&pages, 1), read(&pages, 2)), (None, Some(8), None));
        assert_eq!(pool.usage().group, group);
        pool.close();
    }
}

#[test]
fn the_oldest_goes_when_it_is_full() {
    let disks = [disk(10 * MIB)];
    let config = config(vec![volume("a", 5 * MIB)]);
    let pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    for number in 0..200 {
        assert!(put(&a, number, 1, 50_000));
        assert!(pool.flush());
        assert_eq!(read(&a, number), Some(1));
    }
    // More than half of it is not for one object.
    assert!(!put(&a, 999, 1, 3 * MIB as usize));
    assert!(pool.flush());
    let found: Vec<u64> = (0..200).filter(|&number| read(&a, number).is_some()).collect();
    assert_eq!(found.len() as u64, pool.usage().volumes[0].objects);
    assert!(found.len() >= 40 && found == (200 - found.len() as u64..200).collect::<Vec<_>>(), "{found:?}");
    pool.close();
    let pool = open(&disks, &config).unwrap();
    let again: Vec<u64> = (0..200).filter(|&number| read(&pool.volume("a").unwrap(), number).is_some()).collect();
    assert_eq!(again, found);
}

#[test]
fn a_config_change_never_empties_it() {
    let mut disks = vec![disk(16 * MIB), disk(16 * MIB)];
    let mut config = config(vec![volume("a", 8 * MIB), volume("b", 8 * MIB)]);
    let count = |pool: &Pool, name: &str| {
        let volume = pool.volume(name).unwrap();
        (0..60).filter(|&number| read(&volume, number).is_some()).count()
    };
    let pool = open(&disks, &config).unwrap();
    for number in 0..60 {
        assert!(put(&pool.volume("a").unwrap(), number, 1, 60_000));
        assert!(put(&pool.volume("b").unwrap(), number, 1, 60_000));
    }
    pool.close();
    // One grows, the other has a new name, and a third comes.
    config.volumes = vec![volume("c", 4 * MIB), volume("a", 10 * MIB), volume("x", 8 * MIB)];
    config.volumes[2].formerly = Some("b".into());
    let pool = open(&disks, &config).unwrap();
    assert_eq!((count(&pool, "a"), count(&pool, "x"), count(&pool, "c")), (60, 60, 0));
    pool.close();
    // Another device takes over a third of each.
    disks.push(disk(16 * MIB));
    let pool = open(&disks, &config).unwrap();
    assert!(count(&pool, "a") > 50, "{}", count(&pool, "a"));
    assert!(count(&pool, "x") > 40, "{}", count(&pool, "x"));
    pool.close();
    // A device goes, and what is on the others stays.
    disks.remove(0);
    config.volumes.truncate(2);
    let pool = open(&disks, &config).unwrap();
    assert!(count(&pool, "a") > 15, "{}", count(&pool, "a"));
    pool.volume("a").unwrap().remove(key(5)).unwrap();
    pool.close();
    // One that was not in the config still has what it had.
    config.volumes = vec![volume("a", 8 * MIB), volume("x", 8 * MIB)];
    let pool = open(&disks, &config).unwrap();
    assert!(count(&pool, "x") > 15, "{}", count(&pool, "x"));
    assert_eq!(read(&pool.volume("a").unwrap(), 5), None);
    config.volumes[0].size = 100 * MIB;
    drop(pool);
    assert!(matches!(open(&disks, &config), Err(Error::Config(_))));
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let config = config(vec![volume("a", 4 * MIB)]);
    for at in [0, 70_000, 16 * MIB as usize - 1] {
        let mut bytes = vec![0; 16 * MIB as usize];
        bytes[at] = 1;
        let foreign = Arc::new(SimDisk::new(bytes));
        foreign.fail_after(0, EIO);
        assert!(matches!(open(std::slice::from_ref(&foreign), &config), Err(Error::Foreign { .. })));
        let usage = open(&[disk(16 * MIB), foreign], &config).unwrap().usage();
        let states: Vec<_> = usage.physical_volumes.into_iter().map(|device| device.state).collect();
        let [State::Working, State::Failed(why)] = &states[..] else { panic!("{states:?}") };
        assert!(why.starts_with("neither empty"), "{why}");
    }
    let [one, other] = [disk(16 * MIB), disk(16 * MIB)];
    open(std::slice::from_ref(&one), &config).unwrap().close();
    open(std::slice::from_ref(&other), &config).unwrap().close();
    assert!(matches!(open(&[one, other], &config), Err(Error::OtherGroup { .. })));
    assert!(matches!(open(&[disk(2 * MIB)], &config), Err(Error::TooSmall { .. })));
}

#[test]
fn a_device_that_fails_is_marked_and_the_others_go_on() {
    for error in [EIO, ENOSPC] {
        let disks = [disk(16 * MIB), disk(16 * MIB)];
        let config = config(vec![volume("a", 16 * MIB)]);
        let pool = open(&disks, &config).unwrap();
        let a = pool.volume("a").unwrap();
        (0..50).for_each(|number| assert!(put(&a, number, 1, 10_000)));
        assert!(pool.flush());
        disks[1].fail_after(3, error);
        for number in 50..100 {
            put(&a, number, 1, 10_000);
        }
        pool.flush();
        let found: Vec<u64> = (0..100).filter(|&number| read(&a, number).is_some()).collect();
        assert!((20..80).contains(&found.len()), "{found:?}");
        let usage = pool.usage();
        assert_eq!(usage.physical_volumes[0].state, State::Working);
        assert!(matches!(&usage.physical_volumes[1].state, State::Failed(reason) if reason.contains("writing")));
        assert!(usage.physical_volumes[1].not_stored > 0);
        // Nobody knows which of these the device that failed still has; none of them comes back with it.
        for number in 0..50 {
            a.remove(key(number)).unwrap();
        }
        pool.close();
        disks[1].fail_after(u64::MAX, error);
        let pool = open(&disks, &config).unwrap();
        let a = pool.volume("a").unwrap();
        assert!((0..50).all(|number| read(&a, number).is_none()));
        assert!((50..100).any(|number| read(&a, number).is_some()));
        // Alone it cannot promise anything.
        disks.iter().for_each(|disk| disk.fail_after(0, error));
        put(&a, 1, 1, 10);
        assert!(matches!(a.remove(key(77)), Err(Error::NotDurable)));
    }
}

#[test]
fn a_device_that_cannot_be_read_costs_what_is_on_it() {
    let disks = [disk(16 * MIB)];
    let pool = open(&disks, &config(vec![volume("a", 8 * MIB)])).unwrap();
    let a = pool.volume("a").unwrap();
    (0..50).for_each(|number| assert!(put(&a, number, 1, 10_000)));
    assert!(pool.flush());
    disks[0].fail_reads();
    assert!((0..50).all(|number| read(&a, number).is_none()));
    assert!(matches!(pool.usage().physical_volumes[0].state, State::Failed(_)));
}

#[test]
fn a_device_that_is_away_costs_what_is_on_it() {
    let mut config = config(vec![volume("a", 16 * MIB)]);
    let named = |number: u64| {
        let path = PathBuf::from(format!("disk {number}"));
        PhysicalVolumeConfig { path, size: (16 + 8 * number) * MIB, missing: Some("no such device".into()) }
    };
    config.physical_volumes = (0..2).map(named).collect();
    let disks = [disk(16 * MIB), disk(24 * MIB)];
    let count = |pool: &Pool| {
        let volume = pool.volume("a").unwrap();
        (0..100).filter(|&number| read(&volume, number).is_some()).count()
    };
    let pool = open(&disks, &config).unwrap();
    (0..100).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 10_000)));
    let whole = pool.usage();
    pool.close();
    let pool = open(&disks[..1], &config).unwrap();
    let usage = pool.usage();
    assert_eq!(usage.physical_volumes[0], whole.physical_volumes[0]);
    assert_eq!(usage.physical_volumes[1].path, config.physical_volumes[1].path);
    assert_eq!(usage.physical_volumes[1].state, State::Failed("no such device".into()));
    let first = count(&pool);
    assert!((10..80).contains(&first), "{first}");
    // It comes back empty, as it has missed what happened, while the pool goes on.
    let added = vec![(config.physical_volumes[1].path.clone(), Arc::clone(&disks[1]) as Arc<dyn Disk>)];
    let pool = pool.apply(&config, added).unwrap();
    let states = |pool: &Pool| pool.usage().physical_volumes.into_iter().map(|device| device.state).collect::<Vec<_>>();
    assert_eq!((count(&pool), states(&pool)), (first, vec![State::Working, State::Working]));
    let by_size: Vec<u64> =
        pool.usage().physical_volumes.iter().map(|device| device.extents - device.free_extents).collect();
    assert_eq!(by_size.iter().sum::<u64>(), whole.volumes[0].bytes / MIB);
    (100..200).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 10_000)));
    pool.close();
    // As with one that cannot be read when the pool is opened.
    disks[1].fail_reads();
    let pool = open(&disks, &config).unwrap();
    assert!(matches!(&states(&pool)[1], State::Failed(reason) if reason.contains("os error 5")));
    assert_eq!((count(&pool), pool.usage().physical_volumes.len()), (first, 2));
    // A new size is shared with who is away.
    config.volumes[0].size = 20 * MIB;
    let pool = pool.apply(&config, Vec::new()).unwrap();
    let bytes = pool.usage().volumes[0].bytes;
    assert!((6 * MIB..=8 * MIB).contains(&bytes), "{bytes}");
    drop(pool);
    assert!(matches!(open(&[], &config), Err(Error::Config(_))));
    assert!(matches!(open(&disks[1..], &config), Err(Error::Io { .. })));
}
