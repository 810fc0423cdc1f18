//! A crowd before a server with limiter, queue and level together, as `sumun-pools` joins them, in
//! virtual time: what `cargo xtask bench storm` measures, without the noise of a machine.

use std::collections::HashMap;

use super::*;
use crate::level::{self, RANKS};
use crate::priority::Priority;
use crate::queue::{Offer, Queue, Ticket};

/// As in `sumun-pools`.
const LEVEL_EVERY_MS: u64 = 250;
const LEVEL_SERVED_LEAST: u32 = 20;
const PUSHED_OUT: usize = 2;

const DEADLINE_US: u64 = SECOND_US;
const ATTEMPTS: u32 = 4;

#[derive(Clone, Copy)]
struct Request {
    first_us: u64,
    attempt: u32,
    priority: Priority,
    client: u64,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Queued(Ticket),
    Inside { began_us: u64, phase: u32, together: u32 },
}

struct Storm {
    workers: usize,
    service_us: u64,
    /// The mean of what is added to the time of each request, exponentially.
    noise_us: u64,
    /// A share of the requests takes another time.
    slow: (f64, u64),
    slow_until_us: u64,
    rate: u64,
    /// Who was refused or got no answer in time tries again at once.
    retries: bool,
    stall_us: std::ops::Range<u64>,
    random: fastrand::Rng,
    limiter: Limiter,
    step: Step,
    window: Window,
    queue: Queue<u64>,
    level: u32,
    arrived: [u32; RANKS],
    served: u32,
    next_level_ms: u64,
    requests: HashMap<u64, Request>,
    next_id: u64,
    /// In the line of the server, and at work: end, id.
    line: VecDeque<u64>,
    working: BinaryHeap<Reverse<(u64, u64)>>,
    /// When clients give up: time, id.
    deadlines: VecDeque<(u64, u64)>,
    /// First attempt, time of the answer since then.
    good: Vec<(u64, u64)>,
    /// First attempts.
    offered: Vec<u64>,
    /// Critical ones, and those of them that came to nothing.
    critical: (u32, u32),
    /// When requests were refused, or given up by their clients.
    refused: Vec<u64>,
    most_inside: u32,
}

impl Storm {
    fn new(rate: u64, seed: u64) -> Self {
        let limiter = Limiter::default();
        let step = limiter.step(0, false);
        Self {
            workers: 8,
            service_us: 50_000,
            noise_us: 500,
            slow: (0.0, 0),
            slow_until_us: u64::MAX,
            rate,
            retries: false,
            stall_us: 0..0,
            random: fastrand::Rng::with_seed(seed),
            limiter,
            step,
            window: Window::default(),
            queue: Queue::default(),
            level: level::EVERYBODY,
            arrived: [0; RANKS],
            served: 0,
            next_level_ms: 0,
            requests: HashMap::new(),
            next_id: 0,
            line: VecDeque::new(),
            working: BinaryHeap::new(),
            deadlines: VecDeque::new(),
            good: Vec::new(),
            offered: Vec::new(),
            critical: (0, 0),
            refused: Vec::new(),
            most_inside: 0,
        }
    }

    fn capacity(&self) -> f64 {
        let mean_us = self.service_us as f64 * (1.0 - self.slow.0) + self.slow.1 as f64 * self.slow.0;
        self.workers as f64 * SECOND_US as f64 / (mean_us + self.noise_us as f64)
    }

    fn inside(&self) -> u32 {
        (self.line.len() + self.working.len()) as u32
    }

    fn exponential_us(&mut self, mean_us: f64) -> u64 {
        (-(1.0_f64 - self.random.f64()).ln() * mean_us) as u64
    }

    fn run_until(mut self, end_us: u64) -> Self {
        let mut next_arrival_us = 0;
        let mut now_us = 0;
        while now_us < end_us {
            let next_end_us = self.working.peek().map_or(u64::MAX, |Reverse((end_us, _))| *end_us);
            let next_deadline_us = self.deadlines.front().map_or(u64::MAX, |(at_us, _)| *at_us);
            now_us = next_end_us.min(next_deadline_us).min(next_arrival_us).min(self.stall_end(now_us));
            if now_us == next_end_us
                && let Some(Reverse((_, id))) = self.working.pop()
            {
                self.answer(now_us, id);
            } else if now_us == next_deadline_us
                && let Some((_, id)) = self.deadlines.pop_front()
            {
                self.give_up(now_us, id);
            } else if now_us == next_arrival_us {
                self.come(now_us);
                next_arrival_us += 1 + self.exponential_us(SECOND_US as f64 / self.rate as f64);
            }
            self.enter(now_us);
            self.work(now_us);
        }
        self
    }

    fn stall_end(&self, now_us: u64) -> u64 {
        if self.stall_us.contains(&now_us) { self.stall_us.end } else { u64::MAX }
    }

    fn come(&mut self, now_us: u64) {
        let priority = match self.random.f64() {
            ..0.05 => Priority::Critical,
            ..0.5 => Priority::Normal,
            _ => Priority::Low,
        };
        self.offered.push(now_us);
        self.critical.0 += u32::from(priority == Priority::Critical);
        let client = self.random.u64(0..200);
        self.ask(now_us, now_us, 1, priority, client);
    }

    fn ask(&mut self, now_us: u64, first_us: u64, attempt: u32, priority: Priority, client: u64) {
        let id = self.next_id;
        self.next_id += 1;
        let request = |place| Request { first_us, attempt, priority, client, place };
        if self.queue.is_empty() && self.inside() < self.step.limit {
            let place = self.begin(now_us, id);
            self.requests.insert(id, request(place));
            self.deadlines.push_back((now_us + DEADLINE_US, id));
            return;
        }
        self.look(now_us);
        let now_ms = now_us / 1000;
        if !self.lets_in(priority, client, now_ms) {
            return self.refuse(now_us, first_us, attempt, priority, client);
        }
        match self.queue.push(id, priority, now_ms, 1000) {
            Ok((ticket, displaced)) => {
                self.requests.insert(id, request(Place::Queued(ticket)));
                self.deadlines.push_back((now_us + DEADLINE_US, id));
                let mut gone: Vec<u64> = displaced.into_iter().collect();
                while gone.len() < PUSHED_OUT
                    && let Some(id) = self.queue.give_up(now_ms, self.patience_ms(), self.is_shedding())
                {
                    gone.push(id);
                }
                for id in gone {
                    self.lose(now_us, id);
                }
            }
            Err(_) => self.refuse(now_us, first_us, attempt, priority, client),
        }
    }

    fn patience_ms(&self) -> u64 {
        if !self.limiter.is_settled() {
            return u64::MAX;
        }
        (self.limiter.base_us() / if self.is_shedding() { 2000 } else { 1000 }).clamp(10, 100)
    }

    fn is_shedding(&self) -> bool {
        self.level < level::EVERYBODY
    }

    fn lets_in(&mut self, priority: Priority, client: u64, now_ms: u64) -> bool {
        let rank = level::rank(priority, client, 0);
        self.arrived[rank as usize] += 1;
        if now_ms >= self.next_level_ms {
            self.next_level_ms = now_ms + LEVEL_EVERY_MS;
            let is_overloaded = self.queue.is_overloaded(Priority::Low, now_ms);
            if !is_overloaded || self.served >= LEVEL_SERVED_LEAST {
                self.level = level::next(self.level, &self.arrived, self.served, is_overloaded);
                self.arrived = [0; RANKS];
                self.served = 0;
            }
        }
        rank <= self.level
    }

    fn lose(&mut self, now_us: u64, id: u64) {
        if let Some(Request { first_us, attempt, priority, client, .. }) = self.requests.remove(&id) {
            self.refuse(now_us, first_us, attempt, priority, client);
        }
    }

    fn refuse(&mut self, now_us: u64, first_us: u64, attempt: u32, priority: Priority, client: u64) {
        if self.retries && attempt < ATTEMPTS {
            self.ask(now_us, first_us, attempt + 1, priority, client);
        } else {
            self.critical.1 += u32::from(priority == Priority::Critical);
            self.refused.push(now_us);
        }
    }

    /// The client closes. What is in the queue leaves it; the server works on for the others.
    fn give_up(&mut self, now_us: u64, id: u64) {
        if let Some(request) = self.requests.get(&id) {
            if let Place::Queued(ticket) = request.place {
                self.queue.remove(ticket);
                self.lose(now_us, id);
            } else {
                let Request { first_us, attempt, priority, client, .. } = *request;
                self.refuse(now_us, first_us, attempt, priority, client);
            }
        }
    }

    fn begin(&mut self, now_us: u64, id: u64) -> Place {
        self.line.push_back(id);
        Place::Inside { began_us: now_us, phase: self.step.phase, together: self.inside() }
    }

    fn enter(&mut self, now_us: u64) {
        while self.inside() < self.step.limit
            && let Some((id, ())) = self.queue.take_first(now_us / 1000, |_| Offer::Take(()))
        {
            self.served += 1;
            let place = self.begin(now_us, id);
            if let Some(request) = self.requests.get_mut(&id) {
                request.place = place;
            }
        }
        self.window.most_inside = self.window.most_inside.max(self.inside());
        self.most_inside = self.most_inside.max(self.inside());
    }

    fn work(&mut self, now_us: u64) {
        while self.working.len() < self.workers
            && !self.stall_us.contains(&now_us)
            && let Some(id) = self.line.pop_front()
        {
            let is_slow = now_us < self.slow_until_us && self.random.f64() < self.slow.0;
            let usual_us = if is_slow { self.slow.1 } else { self.service_us };
            let took_us = usual_us + self.exponential_us(self.noise_us as f64);
            self.working.push(Reverse((now_us + took_us, id)));
        }
    }

    fn answer(&mut self, now_us: u64, id: u64) {
        let Some(request) = self.requests.remove(&id) else { return };
        if let Place::Inside { began_us, phase, together } = request.place
            && phase == self.step.phase
        {
            let took_us = now_us - began_us;
            let times = if took_us >= self.step.slow_us { &mut self.window.slow } else { &mut self.window.usual };
            times.add(took_us, together);
        }
        let took_us = now_us - request.first_us;
        if took_us <= DEADLINE_US {
            self.good.push((request.first_us, took_us));
        }
        self.look(now_us);
    }

    fn look(&mut self, now_us: u64) {
        if now_us < self.step.next_us {
            return;
        }
        self.window.inside = self.inside();
        self.step = self.limiter.look(now_us, &self.window);
        if !self.step.keeps_window {
            self.window = Window { most_inside: self.inside(), ..Window::default() };
        }
    }

    /// Of the time between, in seconds: answers in time of requests that began in it, as a share of what
    /// came or of the capacity, whichever is less, and the 99th percentile of their time in milliseconds.
    fn goodput(&self, from_s: u64, to_s: u64) -> (f64, f64) {
        let span_us = from_s * SECOND_US..to_s * SECOND_US;
        let mut times: Vec<u64> =
            self.good.iter().filter(|(first_us, _)| span_us.contains(first_us)).map(|(_, took_us)| *took_us).collect();
        times.sort_unstable();
        let p99_us = times.get(times.len() * 99 / 100).copied().unwrap_or(0);
        let came = self.offered.iter().filter(|first_us| span_us.contains(first_us)).count() as f64;
        let can = came.min((to_s - from_s) as f64 * self.capacity());
        (times.len() as f64 / can, p99_us as f64 / 1000.0)
    }

    /// Of the requests that began in a second, those that were answered in time.
    fn good_share(&self, second: u64) -> f64 {
        let span_us = second * SECOND_US..(second + 1) * SECOND_US;
        let good = self.good.iter().filter(|(first_us, _)| span_us.contains(first_us)).count();
        good as f64 / self.offered.iter().filter(|first_us| span_us.contains(first_us)).count() as f64
    }
}

/// Goodput and 99th percentile, the mean of some storms.
fn measure(load: f64) -> (f64, f64, u32) {
    const SEEDS: u64 = 3;
    let (mut goodput, mut p99_ms, mut critical_lost) = (0.0, 0.0, 0);
    for seed in 1..=SEEDS {
        let mut storm = Storm::new(0, seed);
        storm.rate = (storm.capacity() * load) as u64;
        let storm = storm.run_until(24 * SECOND_US);
        let of_one = storm.goodput(4, 23);
        goodput += of_one.0 / SEEDS as f64;
        p99_ms += of_one.1 / SEEDS as f64;
        critical_lost += storm.critical.1 * 1000 / storm.critical.0;
    }
    (goodput, p99_ms, critical_lost)
}

#[test]
fn the_served_are_as_many_as_can_be_and_served_soon_at_any_load() {
    for (load, least) in [(0.5, 0.999), (0.8, 0.98), (1.0, 0.94), (1.2, 0.98), (2.0, 0.99), (5.0, 0.99), (10.0, 0.99)] {
        let (goodput, p99_ms, critical_lost) = measure(load);
        assert!(goodput > least && p99_ms < 145.0, "{load}: {goodput}, {p99_ms} ms");
        assert!(critical_lost <= 4, "{load}: {critical_lost} of 3000");
    }
}

#[test]
fn clients_that_try_again_do_not_prolong_a_stall() {
    for seed in 1..=4 {
        let mut storm = Storm::new(126, seed);
        storm.retries = true;
        storm.stall_us = 5 * SECOND_US..15 * SECOND_US;
        let storm = storm.run_until(40 * SECOND_US);
        assert!(storm.good_share(15) > 0.7, "{}", storm.good_share(15));
        assert!(storm.good_share(17) > 0.9, "{}", storm.good_share(17));
        let rest = (17..39).map(|second| storm.good_share(second)).sum::<f64>() / 22.0;
        assert!(rest > 0.98, "{rest}");
    }
}

#[test]
fn a_few_slow_answers_among_quick_ones_are_no_overload() {
    for (share, slow_us) in [(0.02, 900_000), (0.1, 900_000), (0.3, 800_000), (0.1, 250_000)] {
        let mut storm = Storm::new(250, 3);
        storm.workers = 10_000;
        storm.slow = (share, slow_us);
        let storm = storm.run_until(40 * SECOND_US);
        let (refused, offered) = (storm.refused.len(), storm.offered.len());
        assert!(refused * 100 < offered, "{share} of {slow_us} us: {refused} of {offered}");
    }
}

#[test]
fn a_handful_of_long_polls_keep_nobody_out() {
    let mut storm = Storm::new(1, 5);
    storm.workers = 10_000;
    // All that come first take longer than anybody waits.
    storm.slow = (1.0, 30 * SECOND_US);
    storm.rate = 6;
    storm.slow_until_us = SECOND_US;
    let storm = storm.run_until(20 * SECOND_US);
    let late = storm.refused.iter().filter(|&&at_us| at_us > 4 * SECOND_US).count();
    assert_eq!(late, 0);
}

/// Times that vary as much as that say little in the first windows.
#[test]
fn the_beginning_is_no_matter_of_luck() {
    let mut most = 0;
    for seed in 1..=6 {
        let mut storm = Storm::new(9_600, seed);
        (storm.workers, storm.service_us, storm.noise_us) = (32, 1_000, 9_000);
        let storm = storm.run_until(5 * SECOND_US);
        let (goodput, _) = storm.goodput(2, 4);
        assert!(goodput > 0.8, "{seed}: {goodput}");
        most = most.max(storm.most_inside);
    }
    assert!(most < 128, "{most} were let in");
}
