//! Devices that do not come back from what was asked of them while the pool is changed or closed.

use super::*;
use crate::limits::HANG_MS;

#[test]
fn the_others_go_on_without_one_that_hangs() {
    let disks = [disk(24 * MIB), disk(24 * MIB), disk(24 * MIB)];
    let mut config = config(vec![volume("a", 30 * MIB), volume("notes", 0)]);
    config.physical_volumes = (0..3).map(named).collect();
    let mut pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    (0..60).for_each(|number| assert!(put(&a, number, 1, 20_000)));
    assert!(pool.flush() && pool.stop().is_empty());
    let mut pool = pool.apply(&config, Vec::new()).unwrap();
    let a = pool.volume("a").unwrap();
    let lies_there =
        |number: &u64| std::ptr::addr_eq(Arc::as_ptr(&a.find(key(*number)).unwrap().records.device.disk), &*disks[1]);
    let (on_it, others): (Vec<u64>, Vec<u64>) = (0..60).partition(lies_there);
    let stalled = disks[1].stall();
    // Some waits to be written, and some to be removed.
    assert!((60..90).all(|number| put(&a, number, 1, 20_000)));
    assert!((0..10).all(|number| a.forget(key(number))));
    let hung = pool.stop();
    assert_eq!(hung.iter().map(Hung::path).collect::<Vec<_>>(), [Path::new("disk 1")]);
    assert!(!hung[0].is_over());
    let pool = pool.apply(&config, Vec::new()).unwrap();
    let states: Vec<State> = pool.usage().physical_volumes.into_iter().map(|device| device.state).collect();
    assert_eq!(states, [State::Working, State::Working, State::Failed(Hung::REASON.into())]);
    let a = pool.volume("a").unwrap();
    let check = |a: &Volume, version: &[u64]| {
        (0..10).for_each(|number| assert_eq!(read(a, number), None));
        others.iter().filter(|number| **number >= 10).for_each(|&number| assert_eq!(read(a, number), Some(1)));
        let lost: Vec<_> = on_it.iter().filter(|number| **number >= 10).map(|&number| read(a, number)).collect();
        assert!(lost.iter().all(|found| found.is_none_or(|found| version.contains(&found))), "{lost:?}");
    };
    check(&a, &[]);
    for &number in on_it.iter().filter(|number| **number >= 10) {
        assert!(put(&a, number, 2, 9000));
    }
    drop(stalled);
    eventually(|| hung.iter().all(Hung::is_over));
    // It is back, and begins anew, whatever was on its way to it.
    let back = Arc::clone(&disks[1]) as Arc<dyn Disk>;
    let pool = pool.apply(&config, vec![("disk 1".into(), back)]).unwrap();
    assert!(pool.usage().physical_volumes.iter().all(|device| device.state == State::Working));
    let a = pool.volume("a").unwrap();
    check(&a, &[2]);
    for version in 3..6 {
        on_it.iter().for_each(|&number| assert!(put(&a, number, version, 30_000)));
        assert!(pool.flush());
        on_it.iter().for_each(|&number| assert_eq!(read(&a, number), Some(version)));
    }
    pool.close();
    let pool = open(&disks, &config).unwrap();
    on_it.iter().for_each(|&number| assert_eq!(read(&pool.volume("a").unwrap(), number), Some(5)));
}

#[test]
fn one_that_is_only_slow_is_waited_for() {
    let disks = [disk(24 * MIB)];
    let mut config = config(vec![volume("a", 20 * MIB)]);
    config.physical_volumes = vec![named(0)];
    let mut pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    let stalled = disks[0].stall();
    (0..30).for_each(|number| assert!(put(&a, number, 1, 20_000)));
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| pool.stop());
        std::thread::sleep(Duration::from_millis(HANG_MS / 10));
        assert!(!hung.is_finished());
        drop(stalled);
        assert!(hung.join().unwrap().is_empty());
    });
    let pool = pool.apply(&config, Vec::new()).unwrap();
    (0..30).for_each(|number| assert_eq!(read(&pool.volume("a").unwrap(), number), Some(1)));
}

#[test]
fn what_was_forgotten_while_it_hung_is_forgotten() {
    let disks = [disk(24 * MIB)];
    let mut config = config(vec![volume("a", 20 * MIB)]);
    config.physical_volumes = vec![named(0)];
    let mut pool = open(&disks, &config).unwrap();
    let a = pool.volume("a").unwrap();
    (0..30).for_each(|number| assert!(put(&a, number, 1, 20_000)));
    assert!(pool.flush());
    let stalled = disks[0].stall();
    assert!(put(&a, 99, 1, 20_000));
    assert!((0..10).all(|number| a.forget(key(number))));
    let hung = pool.stop();
    assert_eq!(hung.len(), 1);
    let error = pool.apply(&config, Vec::new()).unwrap_err();
    assert!(error.to_string().contains(Hung::REASON), "{error}");
    assert!(!hung[0].is_over());
    drop(stalled);
    eventually(|| hung.iter().all(Hung::is_over));
    let pool = open(&disks, &config).unwrap();
    let found: Vec<u64> = (0..30).filter(|&number| read(&pool.volume("a").unwrap(), number).is_some()).collect();
    assert_eq!(found, (10..30).collect::<Vec<_>>());
}
