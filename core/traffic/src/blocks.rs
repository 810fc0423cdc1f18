//! Who is blocked until when, and who has earned it: tables of fixed size that threads share without a
//! lock.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::key::mix;
use crate::keyed::Words;
use crate::limits::{BLOCK_REASONS, STRIKES_MAX};

/// Places of a client: one cache line of keys and one of blocks.
const WAYS: usize = 8;

/// Bits of a packed block: reason and action lie below the end, so that blocks compare by their ends.
const REASON_BITS: u32 = BLOCK_REASONS.trailing_zeros();
const BELOW_END: u32 = REASON_BITS + 1;

const _: () = assert!(BLOCK_REASONS.is_power_of_two());

/// What is to become of a blocked client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// On the clock of who asks, in milliseconds.
    pub until_ms: u64,
    /// Of a list that is kept elsewhere; below [`BLOCK_REASONS`].
    pub reason: u16,
    /// Its connections are closed; it is refused otherwise.
    pub closes: bool,
}

/// Blocks by client.
#[derive(Debug)]
pub struct Blocks {
    sets: Box<[Set]>,
    /// Places that are taken, by blocks that have ended too until [`Self::sweep`].
    taken: AtomicU32,
}

#[derive(Debug, Default)]
struct Set {
    /// One more than the client's key; 0 is nobody.
    clients: [AtomicU64; WAYS],
    blocks: [AtomicU64; WAYS],
}

impl Block {
    fn pack(self) -> u64 {
        let reason = u64::from(self.reason) & (BLOCK_REASONS as u64 - 1);
        self.until_ms << BELOW_END | reason << 1 | u64::from(self.closes)
    }

    fn unpack(packed: u64) -> Self {
        Self {
            until_ms: packed >> BELOW_END,
            reason: (packed >> 1) as u16 & (BLOCK_REASONS as u16 - 1),
            closes: packed & 1 == 1,
        }
    }
}

impl Blocks {
    /// For about `clients` clients, 16 bytes each.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        let sets = (clients / WAYS).max(1).next_power_of_two();
        Self { sets: (0..sets).map(|_| Set::default()).collect(), taken: AtomicU32::new(0) }
    }

    /// Whether a client is blocked. One load while nobody is.
    #[inline]
    #[must_use]
    pub fn of(&self, client: u64, now_ms: u64) -> Option<Block> {
        if self.is_empty() {
            return None;
        }
        let (set, client) = self.set(client)?;
        let place = set.clients.iter().position(|other| other.load(Relaxed) == client)?;
        Some(Block::unpack(set.blocks[place].load(Relaxed))).filter(|block| block.until_ms > now_ms)
    }

    /// Nobody is blocked. One load.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.load(Relaxed) == 0
    }

    /// Blocks a client. False: it is blocked already, and stays so until the later of the two ends.
    pub fn place(&self, client: u64, block: Block, now_ms: u64) -> bool {
        let Some((set, client)) = self.set(client) else { return false };
        if let Some(place) = set.clients.iter().position(|other| other.load(Relaxed) == client) {
            let before = set.blocks[place].fetch_max(block.pack(), Relaxed);
            return Block::unpack(before).until_ms <= now_ms;
        }
        let ends = set.blocks.iter().map(|block| block.load(Relaxed));
        let place = ends.enumerate().min_by_key(|(_, block)| *block).map_or(0, |(place, _)| place);
        // Nobody sees the client with the block of another.
        set.blocks[place].store(0, Relaxed);
        if set.clients[place].swap(client, Relaxed) == 0 {
            self.taken.fetch_add(1, Relaxed);
        }
        set.blocks[place].store(block.pack(), Relaxed);
        true
    }

    /// Ends a client's block now. False: it was not blocked.
    pub fn lift(&self, client: u64, now_ms: u64) -> bool {
        let Some((set, client)) = self.set(client) else { return false };
        let mut was_blocked = false;
        for place in 0..WAYS {
            if set.clients[place].load(Relaxed) == client {
                was_blocked |= Block::unpack(set.blocks[place].load(Relaxed)).until_ms > now_ms;
                self.free(set, place, client);
            }
        }
        was_blocked
    }

    /// Frees the places of blocks that have ended, or of all.
    pub fn sweep(&self, now_ms: u64) {
        if self.is_empty() {
            return;
        }
        for set in &self.sets {
            for place in 0..WAYS {
                let client = set.clients[place].load(Relaxed);
                if client != 0 && Block::unpack(set.blocks[place].load(Relaxed)).until_ms <= now_ms {
                    self.free(set, place, client);
                }
            }
        }
    }

    /// Who is blocked now, each once, in no order.
    pub fn list(&self, now_ms: u64) -> Vec<(u64, Block)> {
        let mut listed: Vec<(u64, Block)> = Vec::new();
        for set in &self.sets {
            let of_set = listed.len();
            for (client, block) in set.clients.iter().zip(&set.blocks) {
                let (client, block) = (client.load(Relaxed).checked_sub(1), Block::unpack(block.load(Relaxed)));
                let Some(client) = client else { continue };
                // Two threads may have entered one client in the same moment.
                let is_known = listed[of_set..].iter().any(|(other, _)| *other == client);
                if block.until_ms > now_ms && !is_known {
                    listed.push((client, block));
                }
            }
        }
        listed
    }

    /// `client` as it stands there.
    fn free(&self, set: &Set, place: usize, client: u64) {
        // Another thread may just have given the place to another client.
        if set.clients[place].compare_exchange(client, 0, Relaxed, Relaxed).is_ok() {
            set.blocks[place].store(0, Relaxed);
            self.taken.fetch_sub(1, Relaxed);
        }
    }

    /// The places of a client, and what stands there for it. The last of all numbers has none: as a network
    /// it is one of multicast, which nothing comes from.
    fn set(&self, client: u64) -> Option<(&Set, u64)> {
        // Within bounds: the number of sets is a power of two.
        let set = &self.sets[(mix(client) >> 32) as usize & (self.sets.len() - 1)];
        Some((set, client.checked_add(1)?))
    }
}

/// Strikes of each client against one rule: so many within so long are too many.
#[derive(Debug)]
pub struct Strikes {
    most: u32,
    within_ms: u64,
    /// When the window of a client ends, and its strikes within it.
    windows: Words,
}

/// Bits of the strikes, below the end of their window.
const STRIKE_BITS: u32 = STRIKES_MAX.trailing_zeros() + 1;

impl Strikes {
    /// The `most`-th strike within `within_ms` of the first is one too many. For `clients` clients, 21 bytes
    /// each as they come.
    #[must_use]
    pub fn new(most: u32, within_ms: u64, clients: usize) -> Self {
        Self { most: most.clamp(1, STRIKES_MAX), within_ms, windows: Words::new(clients) }
    }

    /// Counts a strike. True: it is the one that is too many, and the client begins anew.
    pub fn strike(&self, client: u64, now_ms: u64) -> bool {
        let next = |window: u64| {
            let (ends_ms, strikes) = (window >> STRIKE_BITS, window & ((1 << STRIKE_BITS) - 1));
            let is_open = ends_ms > now_ms;
            let strikes = if is_open { strikes + 1 } else { 1 };
            let ends_ms = if is_open { ends_ms } else { now_ms.saturating_add(self.within_ms) };
            (ends_ms, strikes, strikes >= u64::from(self.most))
        };
        let update = |window| {
            let (ends_ms, strikes, is_too_many) = next(window);
            Some(if is_too_many { 0 } else { ends_ms << STRIKE_BITS | strikes })
        };
        // One whose window has ended is as good as none.
        let window = self.windows.of(client, |word| if word >> STRIKE_BITS > now_ms { word } else { 0 });
        let before = window.fetch_update(Relaxed, Relaxed, update).unwrap_or_default();
        next(before).2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCKED_CLIENTS;

    fn until(until_ms: u64) -> Block {
        Block { until_ms, reason: 7, closes: false }
    }

    #[test]
    fn a_block_ends_by_itself_and_can_be_lifted() {
        let blocks = Blocks::new(64);
        assert_eq!(blocks.of(5, 0), None);
        let block = Block { until_ms: 1000, reason: BLOCK_REASONS as u16 - 1, closes: true };
        assert!(blocks.place(5, block, 0));
        assert_eq!((blocks.of(5, 999), blocks.of(6, 0)), (Some(block), None));
        assert_eq!(blocks.list(0), [(5, block)]);
        assert_eq!(blocks.of(5, 1000), None);
        assert!(blocks.list(1000).is_empty());
        assert!(!blocks.place(5, until(900), 0), "it is blocked for longer already");
        assert_eq!(blocks.of(5, 0), Some(block));
        assert!(blocks.place(5, until(2000), 1500), "the one before has ended");
        assert!(blocks.lift(5, 1500) && !blocks.lift(5, 1500));
        assert_eq!((blocks.of(5, 1500), blocks.taken.load(Relaxed)), (None, 0));
        // The loopback of IPv6 is in the network of zeros.
        assert!(blocks.place(0, block, 0) && blocks.of(0, 0) == Some(block) && blocks.lift(0, 0));
        assert!(!blocks.place(u64::MAX, block, 0) && blocks.of(u64::MAX, 0).is_none());
    }

    #[test]
    fn what_has_ended_gives_its_places_back() {
        let blocks = Blocks::new(64);
        for client in 1..=40 {
            blocks.place(client, until(client * 10), 0);
        }
        blocks.sweep(200);
        assert_eq!(blocks.taken.load(Relaxed) as usize, blocks.list(200).len());
        assert!(blocks.list(200).iter().all(|(client, _)| *client > 20));
        blocks.sweep(u64::MAX);
        assert_eq!(blocks.taken.load(Relaxed), 0);
    }

    #[test]
    fn a_flood_takes_no_more_memory_and_the_one_that_ends_first_makes_way() {
        let blocks = Blocks::new(BLOCKED_CLIENTS);
        for client in 1..=1_000_000 {
            blocks.place(client, until(1000 + client), 0);
        }
        assert!(blocks.list(0).len() <= BLOCKED_CLIENTS && blocks.taken.load(Relaxed) as usize <= BLOCKED_CLIENTS);
        assert!(blocks.of(1_000_000, 0).is_some());
        let small = Blocks::new(1);
        for client in 1..=9 {
            small.place(client, until(100 - client), 0);
        }
        assert!(small.of(8, 0).is_none() && small.of(1, 0).is_some() && small.of(9, 0).is_some());
    }

    #[test]
    fn so_many_strikes_within_so_long() {
        let strikes = Strikes::new(3, 1000, 64);
        assert!(!strikes.strike(1, 0) && !strikes.strike(1, 500) && strikes.strike(1, 999));
        assert!(!strikes.strike(1, 999), "it begins anew");
        assert!(!strikes.strike(2, 0) && !strikes.strike(2, 900));
        assert!(!strikes.strike(2, 1000), "the window has ended");
        assert!(!strikes.strike(2, 1500) && strikes.strike(2, 1600));
        assert!(Strikes::new(1, 1000, 64).strike(1, 0));
    }

    #[test]
    fn threads_count_each_strike_once() {
        let strikes = Strikes::new(1000, 1000, 64);
        let too_many: usize = std::thread::scope(|scope| {
            let count = || (0..1000).filter(|_| strikes.strike(9, 5)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // They may enter the client twice at the beginning.
        assert!((3..=4).contains(&too_many), "{too_many}");
    }
}
