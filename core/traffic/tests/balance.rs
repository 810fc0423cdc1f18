//! What the balancing methods promise, over random pools.

use proptest::prelude::*;
use sumun_traffic::key::{key_of, mix};
use sumun_traffic::limits::HASH_LOAD_FLOOR;
use sumun_traffic::{Balancer, Candidate, Method};

const METHODS: [Method; 7] = [
    Method::P2c,
    Method::RoundRobin,
    Method::LeastRequest,
    Method::Random,
    Method::Hash,
    Method::Maglev,
    Method::First,
];

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let named = |(number, weight): (usize, &u32)| Candidate {
        weight_hundredths: weight * 100,
        identity: key_of(format!("server-{number}").as_bytes()),
    };
    weights.iter().enumerate().map(named).collect()
}

/// A reproducible source of `u64`s.
fn random_from(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state)
    }
}

fn shares(method: Method, weights: &[u32], picks: u32) -> Vec<u32> {
    let mut balancer = Balancer::new(method, &candidates(weights), weights.len(), 0);
    let mut random = random_from(7);
    let mut counts = vec![0; weights.len()];
    for number in 0..picks {
        let index = balancer.pick(Some(mix(u64::from(number))), &mut random, |_| Some(0)).unwrap();
        counts[index] += 1;
    }
    counts
}

#[test]
fn idle_servers_are_taken_by_weight() {
    for method in [Method::P2c, Method::RoundRobin, Method::LeastRequest, Method::Random, Method::Hash, Method::Maglev]
    {
        let counts = shares(method, &[1, 2, 5], 80_000);
        for (count, weight) in counts.iter().zip([1, 2, 5]) {
            let fair = 10_000 * weight;
            assert!(count.abs_diff(fair) < fair / 20 + 200, "{method:?}: {counts:?}");
        }
    }
}

#[test]
fn first_takes_the_first() {
    assert_eq!(shares(Method::First, &[1, 5], 100), [100, 0]);
}

/// Requests arrive, stay for a while and leave; the load follows the weights.
#[test]
fn busy_servers_are_loaded_by_weight() {
    for method in [Method::P2c, Method::LeastRequest] {
        let weights = [1, 2, 5];
        let mut balancer = Balancer::new(method, &candidates(&weights), 3, 0);
        let mut random = random_from(11);
        let mut load = [0_u32; 3];
        let mut taken = std::collections::VecDeque::new();
        let mut counts = [0_u32; 3];
        for _ in 0..80_000 {
            if taken.len() == 40 {
                let index: usize = taken.pop_front().unwrap();
                load[index] -= 1;
            }
            let index = balancer.pick(None, &mut random, |index| Some(load[index])).unwrap();
            load[index] += 1;
            counts[index] += 1;
            taken.push_back(index);
        }
        for (count, weight) in counts.iter().zip(weights) {
            let fair = 10_000 * weight;
            assert!(count.abs_diff(fair) < fair / 5, "{method:?}: {counts:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_candidate_that_must_not_be_taken_never_is(
        method in proptest::sample::select(&METHODS[..]),
        servers in proptest::collection::vec((1_u32..=1000, proptest::option::of(0_u32..50)), 0..20),
        seed: u64,
        keys in proptest::collection::vec(proptest::option::of(any::<u64>()), 1..20),
    ) {
        let weights: Vec<u32> = servers.iter().map(|(weight, _)| *weight).collect();
        let mut balancer = Balancer::new(method, &candidates(&weights), weights.len(), seed as u32);
        let mut random = random_from(seed);
        let usable = servers.iter().any(|(_, load)| load.is_some());
        for key in keys {
            match balancer.pick(key, &mut random, |index| servers[index].1) {
                Some(index) => prop_assert!(servers[index].1.is_some()),
                None => prop_assert!(!usable),
            }
        }
    }

    /// Of two drawn servers the heavier loaded one is never taken; so with two servers, p2c is exact.
    #[test]
    fn p2c_of_two_takes_the_lighter(loads in (1_u32..1000, 1_u32..1000), seed: u64) {
        let mut balancer = Balancer::new(Method::P2c, &candidates(&[1, 1]), 2, 0);
        let index = balancer.pick(None, &mut random_from(seed), |index| Some([loads.0, loads.1][index])).unwrap();
        let taken = [loads.0, loads.1][index];
        prop_assert_eq!(taken, loads.0.min(loads.1));
    }

    #[test]
    fn the_same_key_comes_to_the_same_server(
        method in proptest::sample::select(&[Method::Hash, Method::Maglev][..]),
        weights in proptest::collection::vec(1_u32..=10, 1..20),
        key: u64,
    ) {
        let mut one = Balancer::new(method, &candidates(&weights), weights.len(), 0);
        let mut two = Balancer::new(method, &candidates(&weights), weights.len(), 3);
        let picked = one.pick(Some(key), &mut random_from(1), |_| Some(0));
        prop_assert_eq!(picked, two.pick(Some(key), &mut random_from(2), |_| Some(0)));
    }

    /// A server that leaves moves only its own keys.
    #[test]
    fn hash_moves_nothing_else(number in 2_usize..20, gone in 0_usize..20, key: u64) {
        let gone = gone % number;
        let all = candidates(&vec![1; number]);
        let mut full = Balancer::new(Method::Hash, &all, number, 0);
        let before = full.pick(Some(key), &mut random_from(1), |_| Some(0)).unwrap();
        let after = full.pick(Some(key), &mut random_from(1), |index| (index != gone).then_some(0)).unwrap();
        prop_assert!(before == gone || before == after);
    }

    /// One hot key does not put everything on one server, once it is more than the floor of load.
    #[test]
    fn hash_keeps_the_bound_of_load(number in 2_usize..10, requests in 1_u32..300, key: u64) {
        let mut balancer = Balancer::new(Method::Hash, &candidates(&vec![1; number]), number, 0);
        let mut load = vec![0_u32; number];
        for _ in 0..requests {
            let index = balancer.pick(Some(key), &mut random_from(1), |index| Some(load[index])).unwrap();
            load[index] += 1;
        }
        let share = (f64::from(requests) * 1.25 / number as f64).ceil() as u32;
        let bound = share.max(HASH_LOAD_FLOOR as u32);
        prop_assert!(load.iter().all(|own| *own <= bound), "{load:?} over {bound}");
    }
}
