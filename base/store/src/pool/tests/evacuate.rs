//! Devices that leave and come while the pool is in use.

use std::collections::HashMap;

use super::*;

#[test]
fn what_a_device_holds_moves_before_it_is_let_go() {
    let disks = [disk(24 * MIB), disk(24 * MIB), disk(24 * MIB)];
    let mut config = config(vec![volume("a", 30 * MIB), volume("notes", 0)]);
    config.physical_volumes = (0..3).map(named).collect();
    let pool = open(&disks, &config).unwrap();
    let (a, notes) = (pool.volume("a").unwrap(), pool.volume("notes").unwrap());
    let size = |number: u64| [10, 5000, 100_000, 300_000][number as usize % 4];
    (0..80).for_each(|number| assert!(put(&a, number, 1, size(number))));
    (0..80).for_each(|number| notes.keep(number, &[1]).unwrap());
    assert!(pool.flush() && pool.evacuated());
    config.physical_volumes.pop();
    // Nothing can move yet, and meanwhile some is forgotten and some is new.
    let pool = pool.apply(&config, Vec::new()).unwrap();
    let stalled = [disks[0].stall(), disks[1].stall()];
    let a = pool.volume("a").unwrap();
    assert!((0..20).all(|number| a.forget(key(number)) && a.find(key(number)).is_none()));
    assert!((20..30).all(|number| put(&a, number, 2, 3000)));
    let usage = pool.usage();
    assert!(usage.physical_volumes.iter().all(|device| device.leaving.is_some() == device.path.ends_with("disk 2")));
    drop(stalled);
    eventually(|| pool.evacuated());
    assert!(pool.flush());
    let check = |pool: &Pool| {
        let a = pool.volume("a").unwrap();
        for number in 0..80 {
            let wanted = [None, Some(2), Some(1)][usize::from(number >= 20) + usize::from(number >= 30)];
            assert_eq!(read(&a, number), wanted, "{number}");
        }
        assert_eq!(pool.volume("notes").unwrap().kept().len(), 80);
    };
    check(&pool);
    assert_eq!(pool.usage().physical_volumes[2].leaving, Some(0));
    assert_eq!(disks[2].size(), 24 * MIB);
    // Now it is let go.
    let pool = pool.apply(&config, Vec::new()).unwrap();
    assert_eq!((pool.usage().physical_volumes.len(), pool.evacuated()), (2, true));
    check(&pool);
    drop(a);
    pool.close();
    let pool = open(&disks[..2], &config).unwrap();
    check(&pool);
    // When it comes back nothing of what it had does.
    config.physical_volumes.push(named(2));
    let pool = pool.apply(&config, vec![(named(2).path, Arc::clone(&disks[2]) as Arc<dyn Disk>)]).unwrap();
    check(&pool);
    // One that has failed has nothing that could move; without the others there is no pool.
    disks[0].fail_reads();
    let a = pool.volume("a").unwrap();
    while pool.usage().physical_volumes[0].state == State::Working {
        (0..80).for_each(|number| drop(a.find(key(number)).map(|handle| handle.open())));
    }
    config.physical_volumes.remove(0);
    let pool = pool.apply(&config, Vec::new()).unwrap();
    assert_eq!(pool.usage().physical_volumes.len(), 2);
    config.physical_volumes = vec![named(7)];
    assert!(matches!(pool.apply(&config, Vec::new()), Err(Error::Config(_))));
}

/// Devices come and go, and lose power, whatever is stored, forgotten and removed meanwhile.
fn come_and_go(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut disks: Vec<_> = (0..4).map(|_| disk(14 * MIB)).collect();
    let mut config = config(vec![volume("a", 10 * MIB), volume("notes", 0)]);
    config.physical_volumes = (0..4).map(named).collect();
    let mut pool = open(&disks, &config).unwrap();
    let (mut latest, mut gone, mut removed, mut version) = (HashMap::new(), HashMap::new(), HashMap::new(), 0);
    let mut noted: HashMap<Key, u64> = HashMap::new();
    for round in 0..12 {
        let why = format!("seed {seed} round {round}");
        let (a, notes) = (pool.volume("a").unwrap(), pool.volume("notes").unwrap());
        let kept: HashMap<Key, Vec<u8>> =
            notes.kept().into_iter().filter_map(|(key, note)| Some((key, note?))).collect();
        let is_right =
            |(note, version): (&Key, &u64)| kept.get(note).is_some_and(|kept| kept[..] == version.to_le_bytes());
        assert!(kept.len() == noted.len() && noted.iter().all(is_right), "{why}: {noted:?} {kept:?}");
        let check = |number: u64, latest: &HashMap<u64, u64>, gone: &HashMap<u64, u64>| {
            if let Some(found) = read(&a, number) {
                assert!(Some(&found) <= latest.get(&number), "{why}: never stored");
                assert!(Some(&found) > gone.get(&number), "{why}: {number} of {found} is back: {gone:?}");
            }
        };
        for _ in 0..random.usize(10..120) {
            let number = random.u64(..40);
            match random.u32(..11) {
                0..4 => {
                    version += 1;
                    latest.insert(number, version);
                    let size = if random.u32(..6) == 0 { random.usize(..400_000) } else { random.usize(..9000) };
                    put(&a, number, version, size);
                }
                4..6 => {
                    assert!(a.forget(key(number)) && a.find(key(number)).is_none());
                    gone.insert(number, version);
                }
                10 => {
                    let note = random.u32(..50).into();
                    notes.keep(note, &version.to_le_bytes()).unwrap();
                    noted.insert(note, version);
                }
                6 => {
                    a.remove(key(number)).unwrap();
                    gone.insert(number, version);
                    removed.insert(number, version);
                }
                _ => check(number, &latest, &gone),
            }
        }
        if random.bool() {
            eventually(|| pool.evacuated());
        }
        (0..40).for_each(|number| check(number, &latest, &gone));
        drop(a);
        if random.u32(..3) == 0 {
            // Who is on the way out is not there any more after that.
            disks.iter().for_each(|disk| disk.fail_after(random.u64(..9), EIO));
            drop(pool);
            disks.iter_mut().for_each(|disk| *disk = Arc::new(disk.lose_power(&mut random)));
            gone.clone_from(&removed);
            let there = (0..4).filter(|&number| config.physical_volumes.contains(&named(number)));
            let there = there.map(|number| (named(number).path, Arc::clone(&disks[number]) as Arc<dyn Disk>)).collect();
            pool = Pool::open_on(there, &config).unwrap_or_else(|error| panic!("{why}: {error}"));
            continue;
        }
        let stays = random.usize(..4);
        config.physical_volumes = (0..4).filter(|&number| number == stays || random.bool()).map(named).collect();
        let open: Vec<PathBuf> = pool.usage().physical_volumes.into_iter().map(|device| device.path).collect();
        let named_now = |number: usize| config.physical_volumes.contains(&named(number));
        let added = (0..4).filter(|&number| named_now(number) && !open.contains(&named(number).path));
        let added: Vec<_> =
            added.map(|number| (named(number).path, Arc::clone(&disks[number]) as Arc<dyn Disk>)).collect();
        pool = pool.apply(&config, added).unwrap_or_else(|error| panic!("{why}: {error}"));
    }
}

#[test]
fn devices_come_and_go() {
    let one = std::env::var("SUMUN_SEED").ok().and_then(|seed| seed.parse().ok());
    one.map_or(0..12, |seed: u64| seed..seed + 1).for_each(come_and_go);
}
