//! Who is refused at the door while a pool is overloaded, and the same ones for a while.
//!
//! A queue alone refuses at random: with one request in ten served, a page of ten never comes. So each
//! request has a rank, its priority first and behind it a draw by its client that stays the same for
//! minutes, and only ranks up to a level come to the queue. The level is where those that came lately,
//! in the order of their ranks, make up what was served lately and a little more (after Zhou et al.,
//! "Overload Control for Scaling WeChat Microservices", 2018, which searches for it step by step).

use crate::key::mix;
use crate::limits::{LEVEL_ROOM, LEVELS_PER_PRIORITY};
use crate::priority::Priority;

/// All ranks; the first are the most important.
pub const RANKS: usize = Priority::ALL.len() * LEVELS_PER_PRIORITY;

/// No rank is refused.
pub const EVERYBODY: u32 = RANKS as u32 - 1;

/// The rank of a request. `client` is a hash of who sent it; `era` changes when the draw is to be made
/// again.
#[must_use]
pub fn rank(priority: Priority, client: u64, era: u64) -> u32 {
    let draw = mix(client ^ mix(era)) % LEVELS_PER_PRIORITY as u64;
    // Both are small.
    (priority.index() * LEVELS_PER_PRIORITY) as u32 + draw as u32
}

/// The level for the next span of time, where `arrived` came of each rank in the last one, and `served`
/// of all found a place. `is_overloaded`: the queue did not empty in it.
#[must_use]
pub fn next(level: u32, arrived: &[u32; RANKS], served: u32, is_overloaded: bool) -> u32 {
    if !is_overloaded {
        return (level + LEVELS_PER_PRIORITY as u32 / 4).min(EVERYBODY);
    }
    let room = f64::from(served) * LEVEL_ROOM;
    let mut sum = 0.0;
    let first_without_room = arrived.iter().position(|&count| {
        sum += f64::from(count);
        sum > room
    });
    // The rank that goes over it is let in still: rather a few too many than an idle server.
    let found = first_without_room.map_or(EVERYBODY, |rank| rank as u32);
    // Half of the way: the counts of a short time are in part chance, and who is in should stay in.
    u32::midpoint(level, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_important_have_the_first_ranks() {
        for client in 0..1000 {
            let rank_of = |priority| rank(priority, client, 3);
            assert!(rank_of(Priority::Critical) < LEVELS_PER_PRIORITY as u32);
            assert!(rank_of(Priority::Critical) < rank_of(Priority::High));
            assert!(rank_of(Priority::Normal) < rank_of(Priority::Low));
            assert!(rank_of(Priority::Low) <= EVERYBODY);
            assert_eq!(rank_of(Priority::Low), rank(Priority::Low, client, 3));
        }
    }

    #[test]
    fn a_client_has_another_rank_in_another_era() {
        let changed =
            (0..1000).filter(|&client| rank(Priority::Low, client, 1) != rank(Priority::Low, client, 2)).count();
        assert!(changed > 950, "{changed}");
    }

    #[test]
    fn as_many_come_in_as_are_served() {
        // 10 of each of 100 ranks of low priority; 150 were served.
        let mut arrived = [0; RANKS];
        arrived[RANKS - 100..].fill(10);
        let mut level = EVERYBODY;
        for _ in 0..10 {
            level = next(level, &arrived, 150, true);
        }
        let admitted: u32 = arrived[..=level as usize].iter().sum();
        assert!((150..=200).contains(&admitted), "{admitted}");
    }

    #[test]
    fn it_opens_step_by_step_when_the_queue_empties() {
        let (mut level, mut steps) = (0, 0);
        while level < EVERYBODY {
            level = next(level, &[0; RANKS], 0, false);
            steps += 1;
        }
        assert!((10..200).contains(&steps), "{steps}");
        assert_eq!(next(EVERYBODY, &[0; RANKS], 0, true), EVERYBODY, "nobody came who could be refused");
    }
}
