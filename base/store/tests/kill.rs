//! kill -9 in the middle of writing: what comes back is whole, and what was removed stays removed.
//!
//! The process that writes is this test again, which takes a turn as a child when it is told so by its
//! environment. It says on its standard output what has been removed for good.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sumun_store::Key;
use sumun_store::pool::{Config, Disk, FileDisk, PhysicalVolumeConfig, Pool, Volume, VolumeConfig};

const MIB: u64 = 1 << 20;
const OBJECTS: u64 = 300;
const FOLDER: &str = "SUMUN_STORE_KILL_FOLDER";
const ROUND: &str = "SUMUN_STORE_KILL_ROUND";

fn config(folder: &Path) -> Config {
    let file = |name| PhysicalVolumeConfig { path: folder.join(name), size: 24 * MIB, missing: None };
    let volume = |name: &str, size| VolumeConfig { name: name.into(), size, formerly: None };
    Config {
        physical_volumes: vec![file("one"), file("two")],
        extent_bytes: MIB,
        volumes: vec![volume("pages", 18 * MIB), volume("media", 18 * MIB), volume("notes", 0)],
    }
}

fn file(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn open(config: &Config) -> std::io::Result<Pool> {
    let disk = |PhysicalVolumeConfig { path, size, .. }: &PhysicalVolumeConfig| {
        Ok((path.clone(), Arc::new(FileDisk::new(file(path), *size)?) as Arc<dyn Disk>))
    };
    let disks = config.physical_volumes.iter().map(disk).collect::<std::io::Result<_>>()?;
    Pool::open_on(disks, config).map_err(std::io::Error::other)
}

fn key(number: u64) -> Key {
    (Key::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn body(number: u64, version: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number << 32 | version);
    let size = if random.u32(..8) == 0 { random.usize(..900_000) } else { random.usize(..9000) };
    let mut block = [0; 4093];
    random.fill(&mut block);
    let mut bytes = block.repeat(size / block.len() + 1);
    bytes.truncate(size);
    bytes
}

fn put(volume: &Volume, number: u64, version: u64) {
    let meta = [number, version].iter().flat_map(|value| value.to_le_bytes()).collect();
    let body = body(number, version);
    if let Some(mut writer) = volume.writer(key(number), meta)
        && body.chunks(50_000).all(|piece| writer.push(piece))
    {
        let arriving = writer.arriving();
        writer.commit();
        // Whoever reads it meanwhile gets what is right, or learns that it is gone.
        for (chunk, piece) in body[..arriving.written() as usize].chunks(arriving.chunk_bytes() as usize).enumerate() {
            let is_right = arriving.chunk(chunk).map_or(true, |bytes| bytes == piece);
            assert!(is_right, "chunk {chunk} of {number}, {version}");
        }
    }
}

/// The version that is found. Panics if it is not all of it and nothing else.
fn read(volume: &Volume, number: u64) -> Option<u64> {
    let object = volume.find(key(number))?.open().ok()?;
    let (found, version) = object.meta().split_at(8);
    let [found, version] = [found, version].map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let mut bytes = Vec::new();
    for chunk in 0..object.chunks() {
        bytes.extend(object.chunk(chunk).ok()?);
    }
    assert_eq!(found, number);
    assert!(bytes == body(number, version), "object {number} version {version} is not itself");
    Some(version)
}

/// Versions are larger in each round than in all before.
fn first_version(round: u64) -> u64 {
    (round + 1) << 20
}

/// Writes, reads and removes until it is killed.
fn write_until_killed(folder: &Path, round: u64) {
    let pool = open(&config(folder)).unwrap();
    let volumes = ["pages", "media"].map(|name| pool.volume(name).unwrap());
    let notes = pool.volume("notes").unwrap();
    let mut random = fastrand::Rng::new();
    let mut out = std::io::stdout().lock();
    writeln!(out, "open").unwrap();
    out.flush().unwrap();
    for version in first_version(round)..first_version(round + 1) {
        let number = random.u64(..OBJECTS);
        let volume = &volumes[number as usize % 2];
        put(volume, number, version);
        read(volume, random.u64(..OBJECTS) / 2 * 2 + number % 2);
        if random.u32(..10) == 0 {
            let number = random.u64(..OBJECTS);
            volumes[number as usize % 2].remove(key(number)).unwrap();
            writeln!(out, "removed {number} {version}").unwrap();
            out.flush().unwrap();
        }
        if random.u32(..10) == 0 {
            notes.keep(number.into(), &version.to_le_bytes()).unwrap();
            writeln!(out, "kept {number} {version}").unwrap();
            out.flush().unwrap();
        }
        if random.u32(..10) == 0 {
            let number = random.u64(..OBJECTS);
            let volume = &volumes[number as usize % 2];
            put(volume, number, version);
            assert!(volume.forget(key(number)) && volume.find(key(number)).is_none());
            read(volume, random.u64(..OBJECTS) / 2 * 2 + number % 2);
            assert!(volume.find(key(number)).is_none(), "{number} is back");
        }
    }
}

fn rounds(count: u64) {
    let folder = std::env::temp_dir().join(format!("sumun-store-kill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let gone = Folder(folder.clone());
    let mut random = fastrand::Rng::new();
    let mut removed: HashMap<u64, u64> = HashMap::new();
    let mut kept: HashMap<u64, u64> = HashMap::new();
    let mut served = 0;
    for round in 0..count {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writes_as_a_child", "--exact", "--nocapture"])
            .env(FOLDER, &folder)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("open")), "round {round}: the child did not open the pool");
        std::thread::sleep(Duration::from_micros(random.u64(..150_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "round {round}: the child ended by itself");
        for line in lines {
            // The last line may have been cut off.
            let mut words = line.split(' ');
            if let (Some(what), Some(Ok(number)), Some(Ok(version))) =
                (words.next(), words.next().map(str::parse), words.next().map(str::parse))
                && version >= first_version(round)
            {
                if what == "kept" { &mut kept } else { &mut removed }.insert(number, version);
            }
        }
        let pool = open(&config(&folder)).unwrap();
        let volumes = ["pages", "media"].map(|name| pool.volume(name).unwrap());
        let notes: HashMap<Key, Vec<u8>> = pool
            .volume("notes")
            .unwrap()
            .kept()
            .into_iter()
            .map(|(key, note)| (key, note.expect("a note that can be read")))
            .collect();
        for (number, version) in &kept {
            let found = notes.get(&Key::from(*number)).map(|note| u64::from_le_bytes(note[..].try_into().unwrap()));
            assert!(found >= Some(*version), "round {round}: note {number} of {version} is {found:?}");
        }
        for number in 0..OBJECTS {
            if let Some(version) = read(&volumes[number as usize % 2], number) {
                served += 1;
                let floor = removed.get(&number).copied().unwrap_or(0);
                assert!(version > floor, "round {round}: object {number} version {version} was removed at {floor}");
            }
        }
    }
    drop(gone);
    println!("{count} rounds, {served} objects served, {} removed for good, {} notes", removed.len(), kept.len());
    assert!(served > count * 20, "only {served} objects came back in {count} rounds");
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn writes_as_a_child() {
    if let (Some(folder), Ok(round)) = (std::env::var_os(FOLDER), std::env::var(ROUND)) {
        write_until_killed(&PathBuf::from(folder), round.parse().unwrap());
    }
}

#[test]
fn killed_at_any_moment() {
    rounds(20);
}

#[test]
#[ignore = "some minutes: cargo test -p sumun-store --test kill -- --ignored"]
fn killed_at_any_moment_500_times() {
    rounds(500);
}

#[test]
fn one_process_has_it_and_ranges_are_whole() {
    let folder = std::env::temp_dir().join(format!("sumun-store-lock-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let _gone = Folder(folder.clone());
    let mut config = config(&folder);
    let pool = open(&config).unwrap();
    assert_eq!(open(&config).unwrap_err().kind(), ErrorKind::WouldBlock);
    let volume = pool.volume("media").unwrap();
    let whole: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
    let mut writer = volume.writer(key(1), b"meta".to_vec()).unwrap();
    assert!(writer.push(&whole) && writer.commit().is_some() && pool.flush());
    let object = volume.find(key(1)).unwrap().open().unwrap();
    assert!(object.range(0).is_some(), "this process has just written it");
    pool.close();
    drop((object, volume));
    let pool = open(&config).unwrap();
    let volume = pool.volume("media").unwrap();
    let object = volume.find(key(1)).unwrap().open().unwrap();
    assert!(object.range(0).is_none(), "nobody has checked it yet");
    let first = object.chunk(0).unwrap();
    let range = object.range(0).unwrap();
    assert_eq!(range.length, first.len() as u64);
    let mut bytes = vec![0; first.len()];
    std::os::unix::fs::FileExt::read_exact_at(range.file().unwrap(), &mut bytes, range.at).unwrap();
    assert!(bytes == whole[..first.len()]);
    drop(range);
    // Another config, while somebody reads.
    config.volumes[0].size = 4 * MIB;
    let pool = pool.apply(&config, Vec::new()).unwrap();
    assert!((0..object.chunks()).flat_map(|number| object.chunk(number).unwrap()).eq(whole.iter().copied()));
    assert!(pool.volume("media").unwrap().find(key(1)).is_some());
    assert!(volume.remove(key(1)).is_err(), "a volume of the pool before promises nothing");
    pool.close();
    drop((object, volume));
    open(&config).unwrap().close();
    // The lock is the open file's, and can be passed on.
    let path = folder.join("one");
    let [one, other] = [(), ()].map(|()| file(&path));
    let one = FileDisk::new(one, 0).unwrap();
    assert_eq!(one.size(), 24 * MIB);
    assert_eq!(FileDisk::new(other.try_clone().unwrap(), 0).unwrap_err().kind(), ErrorKind::WouldBlock);
    one.unlock();
    let other = FileDisk::new(other, 30 * MIB).unwrap();
    assert_eq!(other.size(), 24 * MIB, "what is in use stays as large as it is");
    assert_eq!(one.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(other);
    one.lock().unwrap();
}

#[test]
fn a_file_grows_in_place() {
    let folder = std::env::temp_dir().join(format!("sumun-store-grow-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let _gone = Folder(folder.clone());
    let mut config = config(&folder);
    config.physical_volumes.truncate(1);
    config.volumes = vec![VolumeConfig { name: "pages".into(), size: 16 * MIB, formerly: None }];
    let path = config.physical_volumes[0].path.clone();
    let disk = Arc::new(FileDisk::new(file(&path), 24 * MIB).unwrap());
    let pool = Pool::open_on(vec![(path.clone(), Arc::clone(&disk) as Arc<dyn Disk>)], &config).unwrap();
    (0..50).for_each(|number| put(&pool.volume("pages").unwrap(), number, 1));
    assert!(pool.flush());
    let object = pool.volume("pages").unwrap().find(key(3)).unwrap().open().unwrap();
    let found = |pool: &Pool| (0..50).filter(|&number| read(&pool.volume("pages").unwrap(), number) == Some(1)).count();
    let before = found(&pool);
    // While it is in use, and for good.
    disk.grow(48 * MIB).unwrap();
    disk.grow(30 * MIB).unwrap();
    assert_eq!((disk.size(), std::fs::metadata(&path).unwrap().len()), (48 * MIB, 48 * MIB), "and never back");
    config.volumes[0].size = 40 * MIB;
    let pool = pool.apply(&config, Vec::new()).unwrap();
    let usage = pool.usage();
    assert_eq!((usage.physical_volumes[0].extents, usage.volumes[0].bytes, found(&pool)), (47, 40 * MIB, before));
    assert!((0..object.chunks()).all(|number| object.chunk(number).is_ok()), "who reads goes on");
    pool.close();
    drop((disk, object));
    let pool = open(&config).unwrap();
    assert_eq!((pool.usage().physical_volumes[0].extents, found(&pool)), (47, before));
    pool.close();
    // No farther than it was made for.
    let disk = FileDisk::new(file(&path), 0).unwrap();
    let error = disk.grow(1 << 40).unwrap_err().to_string();
    assert!(error.starts_with("it was made with room for 122 MiB"), "{error}");
    assert_eq!(disk.size(), 122 * MIB);
}
