//! What is forgotten, and what is noted.

use super::*;

#[test]
fn what_is_forgotten_is_gone_at_once() {
    let disks = [disk(16 * MIB), disk(16 * MIB)];
    let config = config(vec![volume("a", 16 * MIB), volume("b", 4 * MIB)]);
    let pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    (0..20).for_each(|number| assert!(put(&a, number, 1, 70_000)));
    assert!(pool.flush());
    let stalled = [disks[0].stall(), disks[1].stall()];
    // Some are on disk, some are on their way, some both.
    (10..30).for_each(|number| assert!(put(&a, number, 2, 70_000)));
    let (before, wakes) = (Instant::now(), std::task::Waker::noop());
    let mut context = std::task::Context::from_waker(wakes);
    let late = a.writer(key(30), Vec::new()).unwrap().commit().unwrap();
    assert!(late.poll(&mut context).is_pending());
    assert!((0..31).all(|number| a.forget(key(number))));
    assert!((0..31).all(|number| a.find(key(number)).is_none()));
    // What comes after it is found.
    (25..30).for_each(|number| assert!(put(&a, number, 3, 1000)));
    assert!(before.elapsed().as_secs() < 5, "nobody waits for the disk");
    drop(stalled);
    assert!(pool.flush());
    assert_eq!(late.poll(&mut context), std::task::Poll::Ready(false));
    let check = |pool: &Pool| {
        let a = pool.volume("a").unwrap();
        (0..31).for_each(|number| assert_eq!(read(&a, number), (25..30).contains(&number).then_some(3), "{number}"));
    };
    check(&pool);
    let handle = a.find(key(25)).unwrap();
    assert!(a.forget(key(25)) && a.find(key(25)).is_none() && handle.open().is_ok());
    assert!(put(&a, 25, 3, 1000));
    pool.close();
    let pool = open(&disks, &config).unwrap();
    check(&pool);
    // There is a bound, and what is beyond it stays on disk until somebody waits for that.
    let a = pool.volume("a").unwrap();
    let stalled = [disks[0].stall(), disks[1].stall()];
    for device in &pool.shared.devices {
        while device.forget(1, key(7), true, None) {}
    }
    assert!(!a.forget(key(26)) && a.find(key(26)).is_none());
    drop(stalled);
    assert!(pool.flush());
    assert_eq!(read(&a, 26), None);
    a.remove(key(26)).unwrap();
    pool.close();
    assert!(!a.forget(key(27)), "a pool that is closed removes nothing");
    let pool = open(&disks, &config).unwrap();
    assert_eq!([26, 27].map(|number| read(&pool.volume("a").unwrap(), number)), [None, Some(3)]);
}

#[test]
fn what_is_forgotten_does_not_come_back_with_a_device_that_failed() {
    let disks = [disk(16 * MIB), disk(16 * MIB)];
    let config = config(vec![volume("a", 16 * MIB)]);
    let pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    (0..40).for_each(|number| assert!(put(&a, number, 1, 1000)));
    assert!(pool.flush());
    disks[1].fail_after(0, EIO);
    for number in 40..60 {
        put(&a, number, 1, 1000);
    }
    pool.flush();
    assert!((0..40).all(|number| a.forget(key(number))));
    pool.close();
    disks[1].fail_after(u64::MAX, EIO);
    let pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    assert!((0..40).all(|number| read(&a, number).is_none()));
    assert!((40..60).any(|number| read(&a, number).is_some()));
    disks.iter().for_each(|disk| disk.fail_after(0, EIO));
    put(&a, 1, 1, 10);
    put(&a, 2, 1, 10);
    while pool.shared.devices.iter().any(|device| !device.health.has_failed()) {
        for number in 0..9 {
            put(&a, number, 1, 10);
        }
        pool.flush();
    }
    assert!(!a.forget(key(50)));
}

#[test]
fn notes_stay() {
    let disks = [disk(16 * MIB), disk(16 * MIB)];
    let mut config = config(vec![volume("a", 8 * MIB), volume("notes", 0)]);
    let mut random = fastrand::Rng::with_seed(7);
    let note = |number: u64, round: u64| [number, round].map(u64::to_le_bytes).concat();
    let check = |notes: &Volume, round: u64| {
        let wanted: Vec<_> = (0..2000).map(|number| (Key::from(number), Some(note(number, round)))).collect();
        assert!(notes.kept() == wanted, "round {round}");
    };
    let pool = open(&disks, &config).unwrap();
    let notes = pool.volume("notes").unwrap();
    assert_eq!(pool.usage().volumes[1].bytes, 4 * MIB);
    assert!(notes.kept().is_empty());
    assert!(matches!(notes.keep(1 << 48, b""), Err(Error::Config(_))));
    (0..2000).for_each(|number| notes.keep(number.into(), &note(number, 0)).unwrap());
    check(&notes, 0);
    drop((notes, pool));
    // However often the log goes round, and is opened again.
    for round in 1..9 {
        let pool = open(&disks, &config).unwrap();
        let notes = pool.volume("notes").unwrap();
        check(&notes, 0);
        if round == 5 {
            // Removals alone go round as well.
            (0..3000).for_each(|number| notes.keep(5000 + number, b"").unwrap());
            (0..3000).for_each(|number| notes.remove(5000 + number).unwrap());
            for number in (0..3000).chain(0..3000) {
                pool.shared.devices.iter().for_each(|device| {
                    device.forget(1, 5000 + number, true, None);
                });
            }
            assert!(pool.flush());
        }
        (0..3000).for_each(|number| notes.keep((3000 + number % 7).into(), &note(number, round)).unwrap());
        (0..7_u64).for_each(|number| notes.remove((3000 + number).into()).unwrap());
        check(&notes, 0);
        if round % 3 == 0 {
            pool.close();
        }
    }
    // One fails, and has missed what comes then; it is given that when it is back.
    let pool = open(&disks, &config).unwrap();
    let notes = pool.volume("notes").unwrap();
    disks[1].fail_after(5, EIO);
    (0..2000).for_each(|number| notes.keep(number.into(), &note(number, 1)).unwrap());
    check(&notes, 1);
    drop((notes, pool));
    disks[1].fail_after(u64::MAX, EIO);
    let pool = open(&disks, &config).unwrap();
    check(&pool.volume("notes").unwrap(), 1);
    assert!(pool.flush());
    disks[0].fail_reads();
    check(&pool.volume("notes").unwrap(), 1);
    drop(pool);
    let lost = Arc::new(disks[1].lose_power(&mut random));
    config.volumes.remove(0);
    let pool = open(&[lost], &config).unwrap();
    check(&pool.volume("notes").unwrap(), 1);
    assert!(pool.volume("notes").unwrap().forget(5));
    assert!(pool.volume("notes").unwrap().kept().iter().all(|(key, _)| *key != 5));
}
