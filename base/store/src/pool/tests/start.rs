//! How long it takes to start.

use super::*;

/// How long it takes to start with 100 GiB of objects of 64 KiB: what is read then is laid out on a file with
/// holes, and nothing else is there.
#[test]
#[ignore = "a measurement: cargo test --release -p sumun-store a_hundred -- --ignored --nocapture"]
fn a_hundred_gibibytes_start() {
    let path = std::env::temp_dir().join(format!("sumun-store-large-{}", std::process::id()));
    File::create(&path).unwrap().set_len(101 << 30).unwrap();
    let physical_volumes = vec![PhysicalVolumeConfig { path: path.clone(), size: 1, missing: None }];
    let config = Config { physical_volumes, extent_bytes: 4 * MIB, volumes: vec![volume("a", 100 << 30)] };
    let open = || Pool::open_on(vec![(path.clone(), file_disk(&path, 1))], &config).unwrap();
    let pool = open();
    let device = Arc::clone(&pool.shared.devices[0]);
    pool.close();
    let (layout, seed) = (device.layout, device.stripes[0].seed);
    let mut random = fastrand::Rng::with_seed(1);
    for extent in 0..device.stripes[0].extents as u32 {
        let notes: Vec<_> =
            (0..64).map(|slot| record::Note::new(directory::Tag::of(random.u128(..)), Some(slot * 1000))).collect();
        let generation = u64::from(extent) + 1;
        let contents = record::write_contents(generation, seed, &notes, layout).unwrap();
        device.disk.write_at(&record::write_life(generation, seed), layout.page_at(extent)).unwrap();
        device.disk.write_at(&contents, layout.page_at(extent) + layout::SECTOR as u64).unwrap();
    }
    drop(device);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let (began, before) = (Instant::now(), resident());
    let pool = open();
    let (took, grown) = (began.elapsed(), resident() - before);
    let objects = pool.usage().volumes[0].objects;
    println!("{objects} objects in {took:?}, {grown} bytes resident, {} an object", grown / objects);
    pool.close();
    std::fs::remove_file(path).unwrap();
    assert!(objects > 1_630_000, "{objects}");
}

#[test]
fn what_cannot_be_made_is_not_kept_from_others() {
    let path = std::env::temp_dir().join(format!("sumun-store-locked-{}", std::process::id()));
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    // As the supervisor's: open as long as the process lives.
    let file = open();
    assert!(FileDisk::new(file.try_clone().unwrap(), 1 << 62).is_err(), "no disk is as large");
    let other = FileDisk::new(open(), 16 * MIB).unwrap();
    assert_eq!(FileDisk::new(file, 0).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(other);
    std::fs::remove_file(path).unwrap();
}
