//! What comes back after a loss of power at any moment.

use std::collections::HashMap;

use super::*;

/// What is known to a client of the pool: nothing else may come out of it.
#[derive(Default)]
struct Model {
    /// The last version that was committed, by object.
    latest: HashMap<u64, u64>,
    /// Versions up to this one are gone for good.
    removed: HashMap<u64, u64>,
    /// Versions up to this one are gone as long as the pool lives.
    forgotten: HashMap<u64, u64>,
    /// Of notes the version that has to be there, and the last that may.
    notes: HashMap<Key, (u64, u64)>,
    version: u64,
}

impl Model {
    fn check_notes(&self, volume: &Volume, why: &str) {
        let found: HashMap<Key, u64> = volume
            .kept()
            .into_iter()
            .map(|(key, meta)| (key, u64::from_le_bytes(meta.unwrap().try_into().unwrap())))
            .collect();
        for (key, &(least, most)) in &self.notes {
            let version = found.get(key).copied().unwrap_or(0);
            assert!((least..=most).contains(&version), "{why}: note {key} of {version}, not {least} to {most}");
        }
    }

    fn check(&self, volume: &Volume, number: u64, why: &str) {
        if let Some(version) = read(volume, number) {
            assert!(version <= self.latest.get(&number).copied().unwrap_or(0), "{why}: never stored");
            assert!(version > self.removed.get(&number).copied().unwrap_or(0), "{why}: removed {number} is back");
            assert!(version > self.forgotten.get(&number).copied().unwrap_or(0), "{why}: forgotten {number} is back");
        }
    }
}

/// Random steps on two disks that lose power, fail and come back.
fn torture(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut config = config(vec![volume("a", 4 * MIB), volume("b", 3 * MIB), volume("notes", 0)]);
    let mut disks: Vec<_> = (0..1 + seed % 2).map(|_| disk(12 * MIB + random.u64(..4) * MIB)).collect();
    let mut model = Model::default();
    for round in 0..5 {
        let why = format!("seed {seed} round {round}");
        let pool = open(&disks, &config).unwrap_or_else(|error| panic!("{why}: {error}"));
        let a = pool.volume("a").unwrap();
        let notes = pool.volume("notes").unwrap();
        (0..40).for_each(|number| model.check(&a, number, &why));
        model.check_notes(&notes, &why);
        if random.bool() {
            let disk = random.usize(..disks.len());
            disks[disk].fail_after(random.u64(..150), if random.bool() { EIO } else { ENOSPC });
        }
        let mut must = None;
        for _ in 0..random.usize(10..120) {
            let number = random.u64(..40);
            match random.u32(..22) {
                0..12 => {
                    model.version += 1;
                    let size = match random.u32(..12) {
                        0 => random.usize(..1_200_000),
                        1..4 => random.usize(..200_000),
                        _ => random.usize(..6000),
                    };
                    // Even if it is said that it is not stored it may have come through.
                    model.latest.insert(number, model.version);
                    put(&a, number, model.version, size);
                    must = None;
                }
                12 => {
                    let is_done = a.forget(key(number));
                    must = must.filter(|(kept, _)| *kept != number);
                    model.forgotten.insert(number, model.version);
                    assert!(a.find(key(number)).is_none() && (is_done || !pool.flush()), "{why}");
                }
                13..15 => {
                    if a.remove(key(number)).is_ok() {
                        model.removed.insert(number, model.version);
                        assert_eq!(read(&a, number), None, "{why}");
                    }
                }
                15 => {
                    model.version += 1;
                    model.latest.insert(number, model.version);
                    if put(&a, number, model.version, 3000) && pool.flush() {
                        must = Some((number, model.version));
                    }
                }
                16..19 => model.check(&a, number, &why),
                19..21 => {
                    model.version += 1;
                    let key = Key::from(random.u32(..30));
                    let note = model.notes.entry(key).or_default();
                    note.1 = model.version;
                    if notes.keep(key, &model.version.to_le_bytes()).is_ok() {
                        note.0 = model.version;
                        model.check_notes(&notes, &why);
                    }
                }
                _ => drop(pool.flush()),
            }
        }
        if random.u32(..4) > 0 {
            // All at once, in the middle of whatever it is.
            disks.iter().for_each(|disk| disk.fail_after(random.u64(..3), EIO));
            drop(pool);
            disks.iter_mut().for_each(|disk| *disk = Arc::new(disk.lose_power(&mut random)));
            model.forgotten.clear();
        } else {
            let is_whole = pool.flush();
            pool.close();
            // What was forgotten is removed by then.
            let forgotten = std::mem::take(&mut model.forgotten);
            model.removed.extend(forgotten.into_iter().filter(|_| is_whole));
            disks.iter().for_each(|disk| disk.fail_after(u64::MAX, EIO));
        }
        if let Some((number, version)) = must.filter(|(number, _)| model.removed.get(number) < model.latest.get(number))
        {
            let pool = open(&disks, &config).unwrap_or_else(|error| panic!("{why}: {error}"));
            let found = read(&pool.volume("a").unwrap(), number);
            let was_whole = disks.len() == 1;
            assert!(!was_whole || found == Some(version), "{why}: {found:?}, and {version} was durable");
        }
        if random.u32(..3) == 0 {
            config.volumes.reverse();
            config
                .volumes
                .iter_mut()
                .filter(|volume| volume.size > 0)
                .for_each(|volume| volume.size = random.u64(4..9) * MIB / 2);
        }
    }
}

#[test]
fn power_is_lost_at_any_moment() {
    // SUMUN_SEED runs one again.
    let one = std::env::var("SUMUN_SEED").ok().and_then(|seed| seed.parse().ok());
    one.map_or(0..120, |seed: u64| seed..seed + 1).for_each(torture);
}
