//! How near a process is to its own limits, and what it gives up for that before anything fails.
//!
//! The pressure on a resource is the share of it that is used, in thousandths. From one threshold to another the
//! time that idle connections are kept shrinks; at others it is switched whether the log is cut down and who is
//! refused, the least important first (the scaled and the plain triggers of Envoy's overload manager). A
//! switch goes off a gap below where it goes on, and only after a while: nothing flaps at a threshold.

use crate::limits::{PRESSURE_FALL_MS, PRESSURE_GAP, PRESSURE_QUEUE_RISE_MS, PRESSURE_RISE_MS};
use crate::priority::Priority;

/// All of it is used.
pub const FULL: u32 = 1000;

/// What there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Descriptors,
    Memory,
    /// Connections that the kernel has taken and no worker has yet.
    AcceptQueue,
    /// The time of the busiest worker.
    Cpu,
}

impl Resource {
    pub const ALL: [Self; 4] = [Self::Descriptors, Self::Memory, Self::AcceptQueue, Self::Cpu];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::AcceptQueue => "accept_queue",
            Self::Cpu => "cpu",
        }
    }

    /// Between these pressures, from none to all of the time is taken from idle connections. New ones in
    /// their place would cost more CPU than they do.
    const fn shortens(self) -> Option<(u32, u32)> {
        match self {
            Self::Descriptors => Some((700, 900)),
            Self::Memory => Some((750, 900)),
            Self::AcceptQueue | Self::Cpu => None,
        }
    }

    /// From this pressure on the log is cut down.
    const fn cuts_log(self) -> Option<u32> {
        match self {
            Self::Descriptors => None,
            Self::Memory => Some(800),
            Self::AcceptQueue => Some(500),
            Self::Cpu => Some(950),
        }
    }

    /// From this pressure on `priority` is refused. A worker that has no time left and keeps up harms
    /// nobody but the least important; what it cannot keep up with fills its accept queue.
    #[must_use]
    pub const fn refuses(self, priority: Priority) -> Option<u32> {
        match (self, priority) {
            (_, Priority::Critical) | (Self::Cpu, Priority::High | Priority::Normal) => None,
            (_, Priority::High) => Some(950),
            (Self::Descriptors | Self::Memory, Priority::Normal) => Some(900),
            (Self::Descriptors, Priority::Low) => Some(800),
            (Self::Memory, Priority::Low) => Some(850),
            (Self::AcceptQueue, Priority::Normal) => Some(750),
            (Self::AcceptQueue, Priority::Low) => Some(500),
            (Self::Cpu, Priority::Low) => Some(980),
        }
    }

    /// A pressure counts that has lasted for so long: a moment of work is no shortage of time.
    const fn rise_ms(self) -> u64 {
        match self {
            Self::Descriptors | Self::Memory => 0,
            Self::AcceptQueue => PRESSURE_QUEUE_RISE_MS,
            Self::Cpu => PRESSURE_RISE_MS,
        }
    }
}

/// The pressure on each resource, in the order of [`Resource::ALL`]; 0 where it is not known.
pub type Readings = [u32; Resource::ALL.len()];

/// What is given up now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measures {
    /// As much of the time of idle connections is taken away, in thousandths.
    pub shortening: u32,
    /// Not every line of the access log is written.
    pub cuts_log: bool,
    /// This priority and those below it are refused.
    pub refused: Option<Priority>,
}

impl Measures {
    #[must_use]
    pub fn refuses(&self, priority: Priority) -> bool {
        self.refused.is_some_and(|refused| priority >= refused)
    }

    /// Nothing is given up.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        *self == Self::default()
    }
}

/// See above.
#[derive(Debug, Default)]
pub struct Pressure {
    shortens: [Switch; Resource::ALL.len()],
    cuts_log: [Switch; Resource::ALL.len()],
    refuses: [[Switch; Priority::ALL.len()]; Resource::ALL.len()],
    measures: Measures,
}

impl Pressure {
    #[must_use]
    pub fn measures(&self) -> Measures {
        self.measures
    }

    /// What was read at `now_ms`, milliseconds of a clock that never steps back. Says what is given up from
    /// now on.
    pub fn update(&mut self, now_ms: u64, readings: &Readings) -> Measures {
        let mut measures = Measures::default();
        for (at, (resource, &pressure)) in Resource::ALL.into_iter().zip(readings).enumerate() {
            if let Some((from, to)) = resource.shortens()
                && self.shortens[at].turn(now_ms, pressure, from, resource.rise_ms())
            {
                let share = pressure.min(to).saturating_sub(from) * FULL / (to - from);
                // Not nothing as long as it is switched on: that is told, and does not flap either.
                measures.shortening = measures.shortening.max(share.max(1));
            }
            let turn = |switch: &mut Switch, threshold: Option<u32>| {
                threshold.is_some_and(|threshold| switch.turn(now_ms, pressure, threshold, resource.rise_ms()))
            };
            measures.cuts_log |= turn(&mut self.cuts_log[at], resource.cuts_log());
            for priority in Priority::ALL {
                if turn(&mut self.refuses[at][priority.index()], resource.refuses(priority)) {
                    measures.refused = Some(measures.refused.map_or(priority, |refused| refused.min(priority)));
                }
            }
        }
        self.measures = measures;
        measures
    }
}

/// Goes on at a threshold and off below it.
#[derive(Debug, Clone, Copy, Default)]
struct Switch {
    is_on: bool,
    /// Since when the readings ask for the other state.
    asked_ms: Option<u64>,
}

impl Switch {
    fn turn(&mut self, now_ms: u64, pressure: u32, threshold: u32, rise_ms: u64) -> bool {
        let (asks, after_ms) = if self.is_on {
            (pressure < threshold - PRESSURE_GAP, PRESSURE_FALL_MS)
        } else {
            (pressure >= threshold, rise_ms)
        };
        if !asks {
            self.asked_ms = None;
        } else if now_ms.saturating_sub(*self.asked_ms.get_or_insert(now_ms)) >= after_ms {
            *self = Self { is_on: !self.is_on, asked_ms: None };
        }
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(resource: Resource, pressure: u32) -> Readings {
        Resource::ALL.map(|other| if other == resource { pressure } else { 0 })
    }

    #[test]
    fn the_least_important_are_refused_first_and_the_most_important_never() {
        for resource in Resource::ALL {
            let mut before = FULL + 1;
            for priority in Priority::ALL.into_iter().rev() {
                let from = resource.refuses(priority).unwrap_or(FULL + 1);
                assert!(priority == Priority::Low || from > before || from == FULL + 1, "{resource:?} {priority:?}");
                assert!(from > PRESSURE_GAP);
                before = from;
            }
            assert_eq!(resource.refuses(Priority::Critical), None);
        }
        let mut pressure = Pressure::default();
        let mut refused = |share| pressure.update(0, &only(Resource::Descriptors, share)).refused;
        assert_eq!(refused(799), None);
        assert_eq!(refused(800), Some(Priority::Low));
        assert_eq!(refused(900), Some(Priority::Normal));
        assert_eq!(refused(1000), Some(Priority::High));
        let measures = Measures { refused: Some(Priority::Normal), ..Measures::default() };
        assert!(measures.refuses(Priority::Low) && measures.refuses(Priority::Normal));
        assert!(!measures.refuses(Priority::High) && !Measures::default().refuses(Priority::Low));
    }

    #[test]
    fn a_switch_goes_off_below_its_threshold_and_later() {
        let mut pressure = Pressure::default();
        let mut at = |now_ms, share| pressure.update(now_ms, &only(Resource::Descriptors, share)).refused.is_some();
        assert!(at(0, 800));
        // Within the gap it stays as it is, however long.
        assert!(at(60_000, 760));
        assert!(at(61_000, 700) && at(61_000 + PRESSURE_FALL_MS - 1, 700));
        assert!(at(63_000, 790), "it has come back: the time begins anew");
        assert!(at(70_000, 0));
        assert!(!at(70_000 + PRESSURE_FALL_MS, 0));
        assert!(!at(80_000, 799));
    }

    #[test]
    fn a_moment_of_work_is_no_shortage_of_time() {
        let mut pressure = Pressure::default();
        let mut at = |now_ms, share| pressure.update(now_ms, &only(Resource::Cpu, share));
        assert!(at(0, 1000).is_calm());
        assert!(at(500, 300).is_calm());
        assert!(at(1_000, 1000).is_calm());
        let busy = at(1_000 + PRESSURE_RISE_MS, 1000);
        assert_eq!((busy.cuts_log, busy.refused, busy.shortening), (true, Some(Priority::Low), 0));
    }

    #[test]
    fn idle_connections_lose_their_time_step_by_step() {
        let mut pressure = Pressure::default();
        let mut at = |share| pressure.update(0, &only(Resource::Descriptors, share)).shortening;
        assert_eq!([at(0), at(700), at(750), at(800), at(900), at(5_000)], [0, 1, 250, 500, 1000, 1000]);
        assert_eq!([at(750), at(690)], [250, 1], "and get it back");
    }

    #[test]
    fn the_worst_resource_decides() {
        let mut pressure = Pressure::default();
        let measures = pressure.update(0, &[720, 910, 0, 0]);
        assert_eq!((measures.shortening, measures.refused), (1000, Some(Priority::Normal)));
        assert!(measures.cuts_log);
    }
}
