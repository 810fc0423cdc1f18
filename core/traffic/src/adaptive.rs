//! How many requests at once a pool serves best, found out from how long its answers take.
//!
//! A server with free hands answers in the same time however many ask. Once they outnumber its hands
//! they wait inside it, where nobody sees them, cannot give up and cannot be overtaken by who is more
//! important. So the limit follows the ratio of the time without such waiting (*base*) to the time now,
//! with some tolerance, and a headroom of half its square root, without which nothing would ever queue and
//! growth would never show (the gradient of Envoy's and Netflix's limiters).
//!
//! What is different here:
//!
//! - The time of a window is the mean of the logarithms, so that a few slow requests among many quick
//!   ones do not hide what happens to all.
//! - The base is found without refusing anybody: while the limit binds, it is put down now and then to
//!   a little less than what the base says is enough, and what was asked after that is measured
//!   (*dip*). Where the answers got slower for good, a dip comes at once, and the base follows.
//! - Answers that take many times as long as the others are of another kind (reports, long polls) and
//!   tell nothing of waiting, unless most answers have become so slow.
//! - A pool of which nothing is known begins with few requests and doubles them in each answer's time.
//! - Timeouts and refusals take off a tenth in each window; when they are over it doubles until it is
//!   where it was. While no answer comes at all, nothing follows from how long those inside have waited.

use crate::limits::{
    BLIND_MOST, DIP_EVERY_US, DIP_PAUSE, DIP_SHARE, ERROR_MOST, FAULT_SHARE, LIMIT_FIRST, LIMIT_LEAST, LIMIT_MOST,
    SAMPLES_LEAST, TOLERANCE, WINDOW_LEAST_US, WINDOW_MOST_US,
};

/// Binary logarithm of a change by a twentieth.
const NOTICEABLE: f64 = 0.07;

/// Binary logarithm of a change by a fifth.
const MUCH: f64 = 0.26;

/// Binary logarithm of a change that does not come by and by.
const JUMP: f64 = 0.4;

/// Binary logarithm of how many times as long as without waiting an answer takes that is counted apart.
const SLOW: f64 = 2.0;

/// Binary logarithm of how many times fewer are inside, from which on something follows from it.
const FEWER: f64 = 0.3;

/// A dip to this share of those inside tells something in any case.
const INFORMATIVE: f64 = 0.7;

/// The times of some answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    pub samples: u32,
    /// Sum of the binary logarithms of their times in microseconds, and of the squares of these.
    pub log_sum: f64,
    pub log_square_sum: f64,
    /// Sum of how many were inside when they began, themselves counted.
    pub inside_sum: f64,
}

/// What happened between two looks. Times of answers count only where the request began in the
/// present [`Step::phase`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Window {
    pub usual: Times,
    /// Answers that took at least [`Step::slow_us`].
    pub slow: Times,
    /// Requests that timed out, were refused, or were given up by the client long after their time.
    pub faults: u32,
    /// The most that were inside at once.
    pub most_inside: u32,
    /// Inside now.
    pub inside: u32,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Requests at once.
    pub limit: u32,
    /// Requests that begin from now on belong to this phase.
    pub phase: u32,
    /// Answers that take so long are counted apart.
    pub slow_us: u64,
    /// Not to be looked at before.
    pub next_us: u64,
    /// The window goes on: what was counted in it stays.
    pub keeps_window: bool,
}

/// The limit of one pool. Not shared: whoever looks has it alone.
#[derive(Debug, Clone)]
pub struct Limiter {
    limit: f64,
    /// Logarithm of the time of an answer when nobody waits inside the servers; `None`: not known.
    base: Option<f64>,
    /// The same as it is now.
    now: Option<f64>,
    stage: Stage,
    phase: u32,
    /// Windows of the steady stage that have passed since something else was done.
    windows: u32,
    /// Of the window.
    began_us: u64,
    /// Since the last dip.
    bound: bool,
    /// The next one is not before, unless something has changed.
    next_dip_us: u64,
    /// How much more than the base it has been lately, as a logarithm.
    delay: f64,
    /// The two steady windows before.
    seen: [Option<Seen>; 2],
    /// The base is not what it was: a dip is to find it.
    changed: bool,
    /// Of what should be enough, that a dip leaves.
    dip_share: f64,
    /// Dips one after the other that found something else than the one before.
    far_dips: u32,
    /// A window that later ones with fewer inside are held against.
    anchor: Option<Seen>,
    /// Before faults took from it, to go back to when they are over.
    before_faults: f64,
}

/// A window: the logarithm of its time, and of how many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    time: f64,
    together: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Nothing is known: it doubles.
    Start,
    Steady,
    /// It waits until no more than `level` are inside.
    Draining {
        level: f64,
        since_us: u64,
    },
    /// Those who begin now find free hands.
    Dip {
        level: f64,
    },
}

impl Window {
    /// The times that tell of waiting. Where most answers are quick, the few that take many times as long
    /// are requests of another kind; where most are slow, the servers have become so.
    fn times(&self) -> Times {
        let (usual, slow) = (self.usual, self.slow);
        if usual.samples > slow.samples {
            return usual;
        }
        Times {
            samples: usual.samples + slow.samples,
            log_sum: usual.log_sum + slow.log_sum,
            log_square_sum: usual.log_square_sum + slow.log_square_sum,
            inside_sum: usual.inside_sum + slow.inside_sum,
        }
    }
}

impl Times {
    /// An answer that took so many microseconds, to a request that began as one of `together`.
    pub fn add(&mut self, took_us: u64, together: u32) {
        let logarithm = logarithm(took_us);
        self.samples += 1;
        self.log_sum += logarithm;
        self.log_square_sum += logarithm * logarithm;
        self.inside_sum += f64::from(together);
    }

    fn mean(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.log_sum / f64::from(self.samples))
    }

    fn together(&self) -> f64 {
        self.inside_sum / f64::from(self.samples.max(1))
    }

    /// The standard error of the mean: with it added, the lowest of several windows is not so by chance.
    fn error(&self) -> f64 {
        let samples = f64::from(self.samples.max(1));
        let mean = self.log_sum / samples;
        ((self.log_square_sum / samples - mean * mean).max(0.0) / samples).sqrt()
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            limit: LIMIT_FIRST,
            base: None,
            now: None,
            stage: Stage::Start,
            phase: 0,
            windows: 0,
            began_us: 0,
            bound: false,
            next_dip_us: 0,
            delay: 0.0,
            seen: [None; 2],
            changed: false,
            dip_share: DIP_SHARE,
            far_dips: 0,
            anchor: None,
            before_faults: 0.0,
        }
    }
}

impl Limiter {
    /// Goes on from what another process found out: requests at once, and microseconds of an answer.
    #[must_use]
    pub fn from_known(limit: u32, base_us: u64) -> Self {
        let limit = f64::from(limit).clamp(LIMIT_LEAST, LIMIT_MOST);
        Self { limit, base: Some(logarithm(base_us)), stage: Stage::Steady, ..Self::default() }
    }

    /// Requests at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let level = match self.stage {
            Stage::Draining { level, .. } | Stage::Dip { level } => level,
            Stage::Start | Stage::Steady => self.limit,
        };
        // Within LIMIT_LEAST..=LIMIT_MOST.
        level.round() as u32
    }

    /// Microseconds of an answer when nobody waits inside the servers; 0: not known.
    #[must_use]
    pub fn base_us(&self) -> u64 {
        self.base.map_or(0, |base| base.exp2() as u64)
    }

    /// Answers that take so many microseconds are counted apart: they are of another kind, unless most are
    /// so slow.
    #[must_use]
    pub fn slow_us(&self) -> u64 {
        self.base.map_or(u64::MAX, |base| (base + SLOW).exp2() as u64)
    }

    /// It has found out what it began for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.stage != Stage::Start
    }

    /// Looks at what happened since the last look.
    pub fn look(&mut self, now_us: u64, window: &Window) -> Step {
        let age_us = now_us.saturating_sub(self.began_us);
        let window_us = self.window_us();
        let times = &window.times();
        let is_telling = times.samples >= SAMPLES_LEAST && times.error() <= ERROR_MOST;
        let is_faulty = window.faults > 0 && age_us >= window_us;
        let is_done = match self.stage {
            Stage::Draining { level, since_us } => {
                f64::from(window.inside) <= level.round() || now_us.saturating_sub(since_us) > 2 * window_us
            }
            // At first only quick answers have come: a time that all of them take has to pass.
            Stage::Dip { level } => {
                let is_fair = f64::from(times.samples) >= 2.0 * level && age_us >= 3 * window_us;
                (is_fair && times.error() <= ERROR_MOST) || age_us > 6 * window_us
            }
            Stage::Start => f64::from(times.samples) >= self.limit / 2.0 || age_us >= WINDOW_MOST_US || is_faulty,
            Stage::Steady => (is_telling && age_us >= window_us) || is_faulty || age_us >= 10 * window_us,
        };
        if !is_done {
            return self.step(now_us, true);
        }
        match self.stage {
            Stage::Start => self.look_at_start(window, times),
            Stage::Steady => self.look_when_steady(now_us, window, times),
            Stage::Draining { level, .. } => self.enter(Stage::Dip { level }),
            Stage::Dip { .. } => self.look_at_dip(now_us, times),
        }
        self.began_us = now_us;
        self.check_invariants();
        self.step(now_us, false)
    }

    fn look_at_start(&mut self, window: &Window, times: &Times) {
        let Some(time) = times.mean() else {
            self.look_without_answers(window);
            return;
        };
        self.now = Some(time);
        // Of a few answers whose times vary nothing follows.
        let doubt = times.error();
        let base = self.base.map_or(time + doubt, |base| base.min(time + doubt));
        self.base = Some(base);
        if window.faults > 0 || time - doubt > base + MUCH {
            self.follow(time, base, window, times);
            self.enter(Stage::Steady);
        } else if is_bound(window, self.limit) {
            self.limit = (self.limit * 2.0).min(LIMIT_MOST);
            self.enter(Stage::Start);
        }
    }

    fn look_when_steady(&mut self, now_us: u64, window: &Window, times: &Times) {
        let Some(time) = times.mean() else {
            self.look_without_answers(window);
            if window.inside > 0 {
                // How long those inside will have waited says nothing about how many they were.
                self.enter(Stage::Steady);
            }
            return;
        };
        let limit_now = self.limit;
        let together = times.together();
        if self.windows > 0 {
            self.now = Some(time);
            self.changed |= self.is_jump(Seen { time, together }, times.error());
            self.learn(window, times, time);
            self.learn_from_fewer(Seen { time, together }, times.error());
        }
        let base = self.base.unwrap_or(time);
        if window.faults > 0 && f64::from(window.faults) >= f64::from(times.samples) * FAULT_SHARE {
            self.cut();
        } else if self.windows > 0 {
            self.follow(time, base, window, times);
        }
        self.bound |= is_bound(window, limit_now);
        self.delay += (time - base - self.delay) / 2.0;
        // Where nobody waits inside there is nothing to find out: a base that is too high lets the limit
        // grow until somebody does.
        let is_due = now_us >= self.next_dip_us && self.delay > NOTICEABLE;
        if self.bound && (is_due || (self.changed && self.windows > 0)) {
            // As many as were busy, by Little's law, had each taken the time without waiting; and where
            // that is nearly all of them, few enough that the difference shows.
            let busy = together * (-self.delay).exp2() * self.dip_share;
            // A guess far off is mended by several dips rather than by one that stops the traffic.
            let least = (together / 2.0).clamp(LIMIT_LEAST, self.limit);
            let level = busy.min(together * INFORMATIVE).clamp(least, self.limit).floor().max(LIMIT_LEAST);
            self.bound = false;
            self.enter(Stage::Draining { level, since_us: now_us });
        }
        self.windows += 1;
    }

    /// Nobody was answered: the servers stand still, or they are few who are inside and ask for what takes
    /// long. So that a handful of these keep nobody out, a small limit grows nevertheless.
    fn look_without_answers(&mut self, window: &Window) {
        if window.faults > 0 {
            self.cut();
        } else if is_bound(window, self.limit) && self.limit < BLIND_MOST {
            self.limit = (self.limit * 2.0).min(BLIND_MOST);
        }
    }

    /// What a window says of the base.
    fn learn(&mut self, window: &Window, times: &Times, time: f64) {
        let Some(base) = self.base else {
            self.base = Some(time);
            return;
        };
        let doubt = times.error();
        if f64::from(window.most_inside) <= self.limit / 2.0 {
            // With so much room nobody waits inside: this is what an answer takes now.
            self.base = Some(base + (time - base) / 4.0);
        } else if time + 2.0 * doubt < base - NOTICEABLE {
            // Quicker than what was thought to be without waiting: the next dip will tell.
            self.changed = true;
        }
    }

    /// Who waits inside waits for less time when fewer do. Where the time stays though a fifth fewer are
    /// inside, nobody waits: it is the base.
    fn learn_from_fewer(&mut self, seen: Seen, doubt: f64) {
        let Some(anchor) = self.anchor else {
            self.anchor = Some(seen);
            return;
        };
        let fewer = (anchor.together / seen.together).log2();
        if fewer < 0.0 {
            self.anchor = Some(seen);
        } else if fewer > FEWER && doubt < fewer / 3.0 {
            self.anchor = Some(seen);
            if anchor.time - seen.time < fewer / 3.0 {
                self.base = self.base.map(|base| base.max(seen.time));
            }
        }
    }

    /// Answers take another time than two windows ago, though as many were inside: it is not the limit
    /// that has changed but the server.
    fn is_jump(&mut self, seen: Seen, doubt: f64) -> bool {
        let before = self.seen[0];
        self.seen = [self.seen[1], Some(seen)];
        before.is_some_and(|before| {
            let as_many = (seen.together / before.together).log2().abs();
            (seen.time - before.time).abs() > JUMP + 2.0 * doubt + as_many
        })
    }

    fn look_at_dip(&mut self, now_us: u64, times: &Times) {
        self.changed = false;
        let mut is_far = false;
        if let Some(time) = times.mean() {
            let (base, doubt) = (self.base.unwrap_or(time), times.error());
            self.changed = time + 2.0 * doubt < base - NOTICEABLE;
            // The lower it proves to be, the further down the next one looks.
            self.dip_share = if self.changed { (self.dip_share * 0.75).max(0.4) } else { DIP_SHARE };
            // A little more or less may be chance, much more is not.
            let is_other = self.changed || time - 2.0 * doubt > base + MUCH;
            let is_sure = doubt < NOTICEABLE;
            is_far = (time - base).abs() > 2.0 * doubt + NOTICEABLE;
            self.base = Some(match (is_other, is_sure) {
                (true, _) => time + doubt,
                (false, true) => time,
                (false, false) => f64::midpoint(base, time + doubt / 2.0),
            });
        }
        let took_us = now_us.saturating_sub(self.began_us);
        // Where it was far off, another one is to tell soon, the next of these later.
        let pause_us =
            if is_far { took_us * (4 << self.far_dips.min(4)) } else { DIP_EVERY_US.max(DIP_PAUSE * took_us) };
        self.far_dips = if is_far { self.far_dips + 1 } else { 0 };
        self.next_dip_us = now_us + pause_us;
        self.anchor = None;
        self.enter(Stage::Steady);
    }

    /// The gradient: less where answers take longer than they should, more where that is not so and
    /// more would come.
    fn follow(&mut self, time: f64, base: f64, window: &Window, times: &Times) {
        let gradient = (TOLERANCE * (base - time).exp2()).clamp(0.5, 1.0);
        // Of as many at once these times tell.
        let together = times.together();
        // Where nothing tells of waiting it grows by all of the headroom, and rests with half of it.
        let headroom = if time < base + NOTICEABLE { together.sqrt() } else { together.sqrt() / 2.0 };
        let target = gradient * together + headroom;
        let is_bound = is_bound(window, self.limit);
        if self.limit >= self.before_faults || time > base + MUCH {
            self.before_faults = 0.0;
        }
        if target < together && target < self.limit {
            // Half of the way: a window's time is in part chance.
            self.limit = f64::midpoint(self.limit, target).max(LIMIT_LEAST);
        } else if is_bound && target > self.limit {
            // What it was before faults took from it was found out: there it may go back quickly.
            let back = (self.limit * 2.0).min(self.before_faults);
            self.limit = target.max(back).min(LIMIT_MOST);
        } else if !is_bound {
            // What nobody needs is given back slowly: what it was good for may be long ago.
            let needed = LIMIT_FIRST.max(2.0 * f64::from(window.most_inside));
            self.limit -= (self.limit - needed).max(0.0) / 100.0;
        }
    }

    fn cut(&mut self) {
        self.before_faults = self.before_faults.max(self.limit);
        self.limit = (self.limit * 0.9).max(LIMIT_LEAST);
        if self.stage == Stage::Start && self.base.is_some() {
            self.enter(Stage::Steady);
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        // Whoever began before says nothing about what comes now.
        self.phase = self.phase.wrapping_add(1);
        self.windows = 0;
    }

    fn step(&self, now_us: u64, keeps_window: bool) -> Step {
        let pause_us = match self.stage {
            Stage::Steady if !keeps_window => self.window_us(),
            _ => self.window_us() / 8,
        };
        Step {
            limit: self.limit(),
            phase: self.phase,
            slow_us: self.slow_us(),
            next_us: now_us + pause_us,
            keeps_window,
        }
    }

    /// A window is as long as an answer takes, within bounds.
    fn window_us(&self) -> u64 {
        let now = self.now.unwrap_or(0.0);
        // Answers that were held up for once do not make it longer.
        let time = self.base.map_or(now, |base| now.min(base + SLOW));
        (time.exp2() as u64).clamp(WINDOW_LEAST_US, WINDOW_MOST_US)
    }

    fn check_invariants(&self) {
        debug_assert!((LIMIT_LEAST..=LIMIT_MOST).contains(&self.limit), "{}", self.limit);
    }
}

/// The binary logarithm of microseconds; 0 counts as 1.
#[must_use]
pub fn logarithm(time_us: u64) -> f64 {
    (time_us.max(1) as f64).log2()
}

fn is_bound(window: &Window, limit: f64) -> bool {
    f64::from(window.most_inside) >= limit.round()
}

#[cfg(test)]
mod tests;
