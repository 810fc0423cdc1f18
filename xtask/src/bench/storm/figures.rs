//! From what became of the requests to figures.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::generator::{End, Record};
use super::schedule::Class;

/// A client waits no longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// Beyond it, figures are to be taken with care.
const LAG_MAX_MS: f64 = 15.0;

/// The share of capacity, or of the requests, at which service counts as restored.
pub(crate) const RESTORED: f64 = 0.97;

/// The least value that so large a share is not above (nearest rank); `None` of nothing.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Good ones of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) good: u64,
    pub(crate) all: u64,
}

impl Share {
    pub(crate) fn add(&mut self, good: bool) {
        self.good += u64::from(good);
        self.all += 1;
    }

    /// 1 of nothing: nobody was turned away.
    pub(crate) fn ratio(self) -> f64 {
        if self.all == 0 { 1.0 } else { self.good as f64 / self.all as f64 }
    }
}

/// The requests that were to start within a span of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    pub(crate) total: Share,
    pub(crate) classes: BTreeMap<Class, Share>,
    /// Of the good ones.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// How late the requests started, ours and everybody's.
    pub(crate) lag_p99_ms: Option<f64>,
    /// How the others ended, and how often.
    pub(crate) failures: BTreeMap<End, u64>,
}

impl Summary {
    pub(crate) fn of(records: &[Record], span_us: &Range<u64>) -> Self {
        let mut summary = Self::default();
        let (mut took_ms, mut lags_ms) = (Vec::new(), Vec::new());
        for record in records.iter().filter(|record| span_us.contains(&record.at_us)) {
            let good = record.is_good(DEADLINE);
            lags_ms.push(record.lag_us as f64 / 1e3);
            summary.total.add(good);
            summary.classes.entry(record.class).or_default().add(good);
            if good {
                took_ms.push(record.took_us as f64 / 1e3);
            } else {
                // An answer that is good but for its time is late, like none.
                let end = if record.end == End::Answered(200) { End::Late } else { record.end };
                *summary.failures.entry(end).or_default() += 1;
            }
        }
        summary.p50_ms = percentile(&mut took_ms, 0.5);
        summary.p99_ms = percentile(&mut took_ms, 0.99);
        summary.lag_p99_ms = percentile(&mut lags_ms, 0.99);
        summary
    }

    pub(crate) fn class(&self, class: Class) -> Share {
        self.classes.get(&class).copied().unwrap_or_default()
    }

    /// What is to be said where the load itself came late: the machine was too busy for these figures.
    pub(crate) fn lag_warning(&self) -> Option<String> {
        let lag_ms = self.lag_p99_ms.filter(|&lag_ms| lag_ms > LAG_MAX_MS)?;
        Some(format!("others kept the machine busy: requests started late by {lag_ms:.0} ms (p99)"))
    }

    /// Answers that say no; other errors are none.
    pub(crate) fn refused(&self) -> u64 {
        let answers = self.failures.iter().filter(|(end, _)| matches!(end, End::Answered(429 | 503)));
        answers.map(|(_, count)| count).sum()
    }

    pub(crate) fn failures_text(&self) -> String {
        let text = |(end, count): (&End, &u64)| match end {
            End::Answered(status) => format!("{status}: {count}"),
            End::Late => format!("late: {count}"),
            End::Broken => format!("broken: {count}"),
            End::NoRoom => format!("not sent: {count}"),
        };
        let parts: Vec<String> = self.failures.iter().map(text).collect();
        if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
    }
}

/// When good answers came.
pub(crate) fn good_ends_us(records: &[Record]) -> Vec<u64> {
    let good = records.iter().filter(|record| record.is_good(DEADLINE));
    let mut ends: Vec<u64> = good.map(|record| record.at_us + record.took_us).collect();
    ends.sort_unstable();
    ends
}

/// How many of these times lie within; they are in order.
pub(crate) fn count_within(times_us: &[u64], span_us: &Range<u64>) -> u64 {
    let before = |limit: u64| times_us.partition_point(|&time| time < limit);
    before(span_us.end).saturating_sub(before(span_us.start)) as u64
}

/// The spans of this width that follow each other; a rest is left out.
pub(crate) fn windows(span_us: &Range<u64>, width_us: u64) -> Vec<Range<u64>> {
    let starts = (0..).map(|index| span_us.start + index * width_us);
    starts.map(|start| start..start + width_us).take_while(|window| window.end <= span_us.end).collect()
}

/// How finely recovery is looked for.
const STEP_US: u64 = 100_000;
const SMOOTH_US: u64 = 1_000_000;
/// A single good second may be chance: those after it have to be as good on the average.
const HOLDS_US: u64 = 3_000_000;

/// How long after the start of the span a share is back at [`RESTORED`] over a second, and stays there.
pub(crate) fn restored_after(span_us: &Range<u64>, share: impl Fn(&Range<u64>) -> f64) -> Option<Duration> {
    let starts = (0..).map(|index| span_us.start + index * STEP_US);
    let mut starts = starts.take_while(|start| start + SMOOTH_US <= span_us.end);
    let restored = starts.find(|&start| {
        let holds = start..(start + HOLDS_US).min(span_us.end);
        share(&(start..start + SMOOTH_US)) >= RESTORED && share(&holds) >= RESTORED
    });
    restored.map(|start| Duration::from_micros(start - span_us.start))
}

/// The rate of good answers over what could be had, as a share.
pub(crate) fn share_of_rate<'a>(ends_us: &'a [u64], per_second: f64) -> impl Fn(&Range<u64>) -> f64 + 'a {
    move |span_us| {
        let seconds = (span_us.end - span_us.start) as f64 / 1e6;
        count_within(ends_us, span_us) as f64 / seconds / per_second
    }
}

/// Good ones of the requests that were to start then.
pub(crate) fn share_of_requests(records: &[Record]) -> impl Fn(&Range<u64>) -> f64 + '_ {
    |span_us| {
        let mut share = Share::default();
        for record in records.iter().filter(|record| span_us.contains(&record.at_us)) {
            share.add(record.is_good(DEADLINE));
        }
        share.ratio()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at_us: u64, took_us: u64, end: End, class: Class) -> Record {
        Record { at_us, lag_us: 0, took_us, class, attempts: 1, end }
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), Some(50.0));
        assert_eq!(percentile(&mut values, 0.99), Some(99.0));
        assert_eq!(percentile(&mut values, 1.0), Some(100.0));
        assert_eq!(percentile(&mut [3.0], 0.01), Some(3.0));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn a_summary_counts_what_started_within() {
        let records = [
            record(0, 1, End::Answered(200), Class::Low),
            record(10, 20_000, End::Answered(200), Class::Critical),
            record(11, 2_000_000, End::Answered(200), Class::Critical),
            record(12, 5, End::Answered(503), Class::Low),
            record(13, 5, End::Answered(429), Class::Normal),
            record(14, 1_000_000, End::Late, Class::Low),
            record(20, 1, End::Answered(200), Class::Low),
        ];
        let summary = Summary::of(&records, &(10..20));
        assert_eq!(summary.total, Share { good: 1, all: 5 });
        assert_eq!(summary.class(Class::Critical), Share { good: 1, all: 2 });
        assert_eq!((summary.p50_ms, summary.refused()), (Some(20.0), 2));
        assert_eq!(summary.failures_text(), "429: 1, 503: 1, late: 2");
        assert_eq!(summary.lag_warning(), None);
        let lagging = Record { lag_us: 40_000, ..records[0] };
        let warning = Summary::of(&[lagging], &(0..1)).lag_warning().expect("it was late");
        assert!(warning.contains("40 ms"), "{warning}");
    }

    #[test]
    fn windows_cover_the_span() {
        assert_eq!(windows(&(5..27), 10), [5..15, 15..25]);
        assert_eq!(count_within(&[1, 5, 5, 9, 10], &(5..10)), 3);
    }

    #[test]
    fn recovery_is_found_where_it_holds() {
        // 100/s for 2 s, nothing for 2 s with one good second by chance, 100/s from 6 s on.
        let steady = |from: u64, until: u64| (from * 100..until * 100).map(|number| number * 10_000);
        let ends: Vec<u64> = steady(0, 2).chain(steady(3, 4)).chain(steady(6, 12)).collect();
        let share = share_of_rate(&ends, 100.0);
        assert_eq!(restored_after(&(2_000_000..12_000_000), &share), Some(Duration::from_secs(4)));
        assert_eq!(restored_after(&(2_000_000..5_000_000), &share), None);
        assert_eq!(restored_after(&(6_000_000..12_000_000), &share), Some(Duration::ZERO));
        assert_eq!(restored_after(&(0..500_000), &share), None);
    }

    #[test]
    fn shares_of_requests() {
        let records: Vec<Record> = (0..10)
            .map(|index| record(index * 10, 1, if index < 5 { End::Answered(200) } else { End::Late }, Class::Low))
            .collect();
        let share = share_of_requests(&records);
        assert!((share(&(0..100)) - 0.5).abs() < 1e-9 && (share(&(0..50)) - 1.0).abs() < 1e-9);
        // Without a request nobody is turned away.
        assert!((share(&(200..300)) - 1.0).abs() < 1e-9);
    }
}
