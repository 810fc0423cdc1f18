use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::limits::ENTRY_BYTES;

/// Spreads small numbers over the shards and the tables.
fn key(number: u64) -> Key {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Key::from(mixed ^ mixed >> 31) << 64 | Key::from(mixed.rotate_left(17))
}

#[test]
fn what_was_put_in_last_comes_out() {
    let memory = Memory::new(1 << 20);
    assert!(memory.get(key(1)).is_none());
    assert!(memory.insert(key(1), Arc::new("one"), 100).0);
    assert!(memory.insert(key(1), Arc::new("another"), 50).0);
    assert_eq!(memory.get(key(1)).as_deref(), Some(&"another"));
    assert_eq!(memory.usage(), Usage { entries: 1, bytes: 50 + ENTRY_BYTES, evicted: 0 });
    let value = memory.peek(key(1)).unwrap();
    assert!(!memory.remove_this(key(1), &Arc::new("another")), "it looks alike and is not it");
    assert!(memory.remove_this(key(1), &value));
    assert_eq!(memory.usage(), Usage::default());
    assert!(memory.insert_new(key(2), Arc::new("two"), 1).is_none());
    assert_eq!(memory.insert_new(key(2), Arc::new("three"), 1).as_deref(), Some(&"two"));
}

#[test]
fn what_is_too_big_is_not_kept_and_moves_nobody() {
    let shard = 1 << 14;
    let memory = Memory::new(shard * SHARDS as u64);
    assert!(memory.insert(key(1), Arc::new(1), 1000).0);
    assert!(!memory.insert(key(2), Arc::new(2), shard).0);
    assert!(memory.get(key(1)).is_some() && memory.get(key(2)).is_none());
    // It is newer all the same.
    assert!(!memory.insert(key(1), Arc::new(3), shard).0);
    assert!(memory.get(key(1)).is_none());
}

#[test]
fn a_crawler_moves_nothing_that_is_asked_for() {
    let memory = Memory::new(4 << 20);
    let hot: Vec<u64> = (0..1000).collect();
    for _ in 0..3 {
        for &number in &hot {
            if memory.get(key(number)).is_none() {
                memory.insert(key(number), Arc::new(number), 1000);
            }
        }
    }
    for number in 10_000..100_000 {
        memory.insert(key(number), Arc::new(number), 1000);
        // The others are asked for a hundredth as often.
        if number % 100 == 0 {
            let _kept = memory.get(key(hot[number as usize / 100 % hot.len()]));
        }
    }
    let left = hot.iter().filter(|&&number| memory.peek(key(number)).is_some()).count();
    assert!(left > 950, "{left} of 1000");
    assert!(memory.usage().evicted > 80_000);
}

#[test]
fn who_comes_back_soon_stays() {
    let memory = Memory::new(1 << 20);
    for number in 0..4000 {
        memory.insert(key(number), Arc::new(number), 1000);
    }
    let back: Vec<u64> = (2500..2600).filter(|&number| memory.peek(key(number)).is_none()).collect();
    assert!(back.len() > 50);
    for &number in &back {
        memory.insert(key(number), Arc::new(number), 1000);
    }
    for number in 10_000..12_000 {
        memory.insert(key(number), Arc::new(number), 1000);
    }
    let left = back.iter().filter(|&&number| memory.peek(key(number)).is_some()).count();
    assert!(left * 10 > back.len() * 9, "{left} of {}", back.len());
}

#[test]
fn a_smaller_room_is_kept_at_once() {
    let memory = Memory::new(1 << 20);
    for number in 0..2000 {
        memory.insert(key(number), Arc::new(number), 300);
    }
    memory.resize(1 << 18);
    assert!(memory.usage().bytes <= 1 << 18);
    assert!(memory.usage().entries > 100);
    memory.resize(0);
    assert_eq!(memory.usage().entries, 0);
    assert!(!memory.insert(key(1), Arc::new(1), 1).0);
}

proptest! {
    /// Whatever is done, a value that comes out is the last one that was put in, and the room is kept.
    #[test]
    fn no_value_is_wrong(operations in proptest::collection::vec((0_u8..4, 0_u64..40, 1_u64..400), 1..400)) {
        let room = SHARDS as u64 * 2048;
        let memory = Memory::new(room);
        let mut last = HashMap::new();
        for (serial, (operation, number, bytes)) in operations.into_iter().enumerate() {
            // All in one shard.
            let key = Key::from(number);
            match operation {
                0 | 1 => {
                    memory.insert(key, Arc::new(serial), bytes);
                    last.insert(key, serial);
                }
                2 => {
                    memory.remove(key);
                    last.remove(&key);
                }
                _ => if let Some(value) = memory.get(key) {
                    prop_assert_eq!(last.get(&key), Some(&*value));
                },
            }
            prop_assert!(memory.usage().bytes <= room);
        }
    }
}
