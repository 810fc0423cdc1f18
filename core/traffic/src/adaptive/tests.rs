//! The limiter before a server that is simulated in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

mod storm;

const SECOND_US: u64 = 1_000_000;

/// A server of so many workers, each of which takes so long for a request; and a crowd before it that is
/// never short of requests.
struct Simulation {
    workers: usize,
    service_us: u64,
    /// How much the time of a request varies: 0 not at all, 1 exponentially.
    is_exponential: bool,
    /// Requests that come in a second; `None`: as many as may.
    rate: Option<u64>,
    random: fastrand::Rng,
    now_us: u64,
    limiter: Limiter,
    step: Step,
    window: Window,
    /// End, beginning, phase.
    working: BinaryHeap<Reverse<(u64, u64, u32, usize)>>,
    queued: VecDeque<(u64, u32, usize)>,
    waiting: u64,
    next_arrival_us: u64,
    /// Time of each answer's end, and how long it took inside.
    done: Vec<(u64, u64)>,
    stalled_until_us: u64,
    /// A request inside that has not been answered after this is given up by the client.
    patience_us: u64,
}

impl Simulation {
    fn new(workers: usize, service_us: u64) -> Self {
        let limiter = Limiter::default();
        let step = limiter.step(0, false);
        Self {
            workers,
            service_us,
            is_exponential: false,
            rate: None,
            random: fastrand::Rng::with_seed(7),
            now_us: 0,
            limiter,
            step,
            window: Window::default(),
            working: BinaryHeap::new(),
            queued: VecDeque::new(),
            waiting: 0,
            next_arrival_us: 0,
            done: Vec::new(),
            stalled_until_us: 0,
            patience_us: u64::MAX,
        }
    }

    fn inside(&self) -> usize {
        self.working.len() + self.queued.len()
    }

    fn exponential(&mut self) -> f64 {
        -(1.0_f64 - self.random.f64()).ln()
    }

    fn run_until(&mut self, end_us: u64) {
        while self.now_us < end_us {
            let next_end = self.working.peek().map_or(u64::MAX, |Reverse((end_us, ..))| *end_us);
            let next_arrival = if self.rate.is_some() { self.next_arrival_us } else { u64::MAX };
            let next_look = self.step.next_us.max(self.now_us + 1);
            self.now_us = next_end.min(next_arrival).min(next_look).min(end_us);
            if self.now_us == next_arrival {
                self.waiting += 1;
                let mean_us = SECOND_US as f64 / self.rate.unwrap_or(1) as f64;
                self.next_arrival_us += 1 + (self.exponential() * mean_us) as u64;
            }
            if self.now_us == next_end
                && let Some(Reverse((_, began_us, phase, together))) = self.working.pop()
            {
                let took_us = self.now_us - began_us;
                if took_us > self.patience_us {
                    self.window.faults += 1;
                } else {
                    self.done.push((self.now_us, took_us));
                    if phase == self.step.phase {
                        let is_slow = took_us >= self.step.slow_us;
                        let times = if is_slow { &mut self.window.slow } else { &mut self.window.usual };
                        times.add(took_us, together as u32);
                    }
                }
            }
            while self.inside() < self.step.limit as usize && (self.rate.is_none() || self.waiting > 0) {
                self.waiting = self.waiting.saturating_sub(1);
                self.queued.push_back((self.now_us, self.step.phase, self.inside() + 1));
            }
            // Given up while they wait inside.
            while self.queued.front().is_some_and(|(began_us, ..)| self.now_us - began_us > self.patience_us) {
                self.queued.pop_front();
                self.window.faults += 1;
            }
            while self.working.len() < self.workers
                && self.now_us >= self.stalled_until_us
                && let Some((began_us, phase, together)) = self.queued.pop_front()
            {
                let factor = if self.is_exponential { self.exponential() } else { 1.0 };
                let took_us = 1 + (self.service_us as f64 * factor) as u64;
                self.working.push(Reverse((self.now_us + took_us, began_us, phase, together)));
            }
            self.window.most_inside = self.window.most_inside.max(self.inside() as u32);
            self.window.inside = self.inside() as u32;
            if self.now_us >= self.step.next_us {
                self.step = self.limiter.look(self.now_us, &self.window);
                if !self.step.keeps_window {
                    self.window = Window::default();
                }
            }
        }
    }

    /// Answers between two times as a share of what the server can give, and their mean time.
    fn goodput(&self, from_us: u64, to_us: u64) -> (f64, f64) {
        let done: Vec<u64> =
            self.done.iter().filter(|(end, _)| (from_us..to_us).contains(end)).map(|(_, took)| *took).collect();
        let can = self.workers as f64 * (to_us - from_us) as f64 / self.service_us as f64;
        (done.len() as f64 / can, done.iter().sum::<u64>() as f64 / done.len().max(1) as f64)
    }
}

#[test]
fn eight_workers_are_found_and_kept_for_ten_minutes() {
    let mut server = Simulation::new(8, 50_000);
    server.run_until(600 * SECOND_US);
    for begin in [2, 10, 60, 300, 590] {
        let (share, time_us) = server.goodput(begin * SECOND_US, (begin + 10) * SECOND_US);
        assert!(share > 0.98, "{share} after {begin} s");
        assert!(time_us < 80_000.0, "{time_us} after {begin} s");
    }
}

#[test]
fn the_beginning_is_quick() {
    for (workers, service_us) in [(8, 50_000), (200, 20_000), (1000, 50_000), (2, 200_000)] {
        let mut server = Simulation::new(workers, service_us);
        server.run_until(20 * SECOND_US);
        let (share, _) = server.goodput(SECOND_US, 2 * SECOND_US);
        // Of two workers these are ten answers.
        assert!(
            share > if workers == 2 { 0.85 } else { 0.93 },
            "{workers} x {service_us}: {share} in the second second"
        );
        let (share, time_us) = server.goodput(2 * SECOND_US, 20 * SECOND_US);
        assert!(share > 0.95, "{workers} x {service_us}: {share}");
        assert!(time_us < 3.0 * service_us as f64, "{workers} x {service_us}: {time_us}");
    }
}

#[test]
fn times_that_vary_leave_the_server_busy() {
    for (workers, service_us) in [(8, 50_000), (100, 20_000)] {
        let mut server = Simulation::new(workers, service_us);
        server.is_exponential = true;
        server.run_until(120 * SECOND_US);
        let (share, time_us) = server.goodput(20 * SECOND_US, 120 * SECOND_US);
        assert!(share > 0.9, "{workers} x {service_us}: {share}");
        assert!(time_us < 3.0 * service_us as f64, "{workers} x {service_us}: {time_us}");
    }
}

#[test]
fn a_server_that_halves_or_doubles_its_speed_is_followed_within_two_seconds() {
    let mut server = Simulation::new(8, 50_000);
    server.run_until(10 * SECOND_US);
    for (at_s, service_us, workers) in
        [(10, 100_000, 8), (20, 50_000, 8), (30, 50_000, 4), (40, 50_000, 8), (50, 25_000, 8)]
    {
        server.service_us = service_us;
        server.workers = workers;
        server.run_until((at_s + 10) * SECOND_US);
        let (share, time_us) = server.goodput((at_s + 2) * SECOND_US, (at_s + 10) * SECOND_US);
        assert!(share > 0.97, "{workers} x {service_us}: {share}");
        assert!(time_us < 2.2 * service_us as f64, "{workers} x {service_us}: {time_us}");
    }
}

#[test]
fn a_stall_leaves_nothing_behind() {
    let mut server = Simulation::new(8, 50_000);
    server.rate = Some(130);
    server.patience_us = SECOND_US;
    server.run_until(10 * SECOND_US);
    server.stalled_until_us = 20 * SECOND_US;
    server.run_until(40 * SECOND_US);
    // 130 of 160 come.
    let (first, _) = server.goodput(21 * SECOND_US, 22 * SECOND_US);
    let (then, _) = server.goodput(22 * SECOND_US, 26 * SECOND_US);
    assert!(first > 0.6 && then > 0.77, "{first}, {then}");
}

#[test]
fn who_is_never_busy_keeps_room() {
    let mut server = Simulation::new(50, 20_000);
    server.rate = Some(500);
    server.run_until(60 * SECOND_US);
    let (limit, _) = (server.limiter.limit(), server.limiter.base_us());
    assert!(limit >= 15, "{limit}");
    let done = server.done.iter().filter(|(end, _)| *end >= 50 * SECOND_US).count();
    assert!((4700..5300).contains(&done), "{done}");
}

#[test]
fn what_another_process_knew_is_a_beginning() {
    let limiter = Limiter::from_known(40, 50_000);
    assert_eq!(limiter.limit(), 40);
    assert!(limiter.is_settled());
    assert_eq!(limiter.base_us(), 50_000);
    assert_eq!(Limiter::from_known(0, 0).limit(), 1);
}
