//! Devices that become larger where they are.

use super::*;

fn found(pool: &Pool) -> Vec<u64> {
    let a = pool.volume("a").unwrap();
    (0..100).filter(|&number| read(&a, number) == Some(1)).collect()
}

#[test]
fn it_keeps_what_it_has() {
    let disks = [disk(16 * MIB), disk(16 * MIB)];
    let mut config = config(vec![volume("a", 16 * MIB)]);
    let pool = open(&disks, &config).unwrap();
    (0..100).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 50_000)));
    assert!(pool.flush());
    assert_eq!(found(&pool).len(), 100);
    // What nobody has written yet may be anything.
    disks[1].grow(40 * MIB);
    config.volumes[0].size = 30 * MIB;
    let named = disks.iter().zip(["disk 0", "disk 1"]).map(|(disk, path)| (path.into(), Arc::clone(disk) as _));
    let pool = pool.apply(&config, named.collect()).unwrap();
    let usage = pool.usage();
    let extents: Vec<u64> = usage.physical_volumes.iter().map(|device| device.extents).collect();
    assert_eq!((extents, found(&pool).len()), (vec![15, 39], 100));
    assert!(usage.volumes[0].bytes >= 29 * MIB);
    (200..800).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 50_000)));
    pool.close();
    let pool = open(&disks, &config).unwrap();
    assert!((200..800).filter(|&number| read(&pool.volume("a").unwrap(), number) == Some(1)).count() > 400);
}

#[test]
fn a_loss_of_power_while_it_grows_costs_nothing() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = config(vec![volume("a", 12 * MIB)]);
        let small = disk(16 * MIB);
        let pool = open(std::slice::from_ref(&small), &config).unwrap();
        (0..100).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 20_000)));
        pool.close();
        small.grow(32 * MIB);
        small.fail_after(random.u64(..9), EIO);
        drop(open(std::slice::from_ref(&small), &config));
        let again = Arc::new(small.lose_power(&mut random));
        let pool = open(&[again], &config).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(pool.usage().physical_volumes[0].extents, 31, "seed {seed}");
        assert_eq!(found(&pool).len(), 100, "seed {seed}");
    }
}

#[test]
fn one_that_was_made_without_room_stays_as_it_is() {
    let layout = layout::Layout { extent_bytes: MIB, extents: 15, room: 15 };
    let label = label::Label { volume: Uuid([1; 16]), group: Uuid([2; 16]), layout };
    let old = disk(16 * MIB);
    label.write(&*old).unwrap();
    let mut sector = vec![0; 60];
    old.read_at(&mut sector, 0).unwrap();
    // As it was written before there was room to grow.
    sector[8] = 1;
    let sum = layout::checksum(0, &sector);
    sector.extend(sum.to_le_bytes());
    layout::LABELS.into_iter().for_each(|at| old.write_at(&sector, at).unwrap());
    let config = config(vec![volume("a", 8 * MIB)]);
    let pool = open(std::slice::from_ref(&old), &config).unwrap();
    (0..100).for_each(|number| assert!(put(&pool.volume("a").unwrap(), number, 1, 20_000)));
    pool.close();
    old.grow(32 * MIB);
    let pool = open(&[old], &config).unwrap();
    assert_eq!((pool.usage().physical_volumes[0].extents, found(&pool).len()), (15, 100));
}
