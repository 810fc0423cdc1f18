//! A server that changes in the middle: it slows down and recovers, or stands still while clients try
//! again and again.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use super::contenders::{Contender, Purpose};
use super::figures::{
    DEADLINE, RESTORED, Summary, good_ends_us, restored_after, share_of_rate, share_of_requests, windows,
};
use super::generator::{Plan, Record};
use super::schedule::Class;
use super::server::{SERVICE, WORKERS};
use super::{Act, Report, Scenario, Stage, drive, not_measured, still_runs};
use crate::shell::Fallible;
use crate::table;

const fn seconds(from: u64, until: u64) -> Range<u64> {
    from * 1_000_000..until * 1_000_000
}

fn begin(span: &Range<u64>) -> Duration {
    Duration::from_micros(span.start)
}

/// Times the capacity.
const STEP_LOAD: f64 = 3.0;

/// As before, at half the speed, and as before again; before the first is the warm-up.
const BEFORE: Range<u64> = seconds(5, 15);
const SLOW: Range<u64> = seconds(15, 25);
const AFTER: Range<u64> = seconds(25, 35);

/// Of the windows that are printed.
const WINDOW_US: u64 = 500_000;

/// How the speed is halved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slowdown {
    Service,
    Workers,
}

impl Slowdown {
    fn label(self) -> &'static str {
        match self {
            Self::Service => "50 to 100 ms",
            Self::Workers => "8 to 4 workers",
        }
    }
}

fn restored_text(restored: Option<Duration>) -> String {
    restored.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

pub(super) fn step(stage: &Stage, contenders: &[Contender]) -> Fallible<Report> {
    let header = [
        "",
        "speed",
        "before",
        "slow",
        "after",
        "critical, slow",
        "p99 ms, slow",
        "until 0.97, slow",
        "until 0.97, after",
    ];
    let (mut rows, mut results, mut notes, mut complete) = (Vec::new(), Vec::new(), String::new(), true);
    for slowdown in [Slowdown::Service, Slowdown::Workers] {
        for &contender in contenders {
            let records = match run_step(stage, contender, slowdown) {
                Ok(records) => records,
                Err(error) => {
                    not_measured(contender, &error.to_string());
                    complete &= !contender.is_ours();
                    continue;
                }
            };
            let ends = good_ends_us(&records);
            let share = |span: &Range<u64>, of: f64| share_of_rate(&ends, stage.capacity * of)(span);
            let restored = |span: &Range<u64>, of: f64| restored_after(span, share_of_rate(&ends, stage.capacity * of));
            let phases = [(BEFORE, 1.0), (SLOW, 0.5), (AFTER, 1.0)];
            let shares = phases.clone().map(|(span, of)| share(&span, of));
            let slow = Summary::of(&records, &SLOW);
            let (in_slow, in_after) = (restored(&SLOW, 0.5), restored(&AFTER, 1.0));
            let in_windows: Vec<Vec<f64>> = phases
                .iter()
                .map(|(span, of)| windows(span, WINDOW_US).iter().map(|window| share(window, *of)).collect())
                .collect();
            println!("\n{}, {}:", contender.label(), slowdown.label());
            for (name, values) in ["before", "slow", "after"].iter().zip(&in_windows) {
                println!("  {name:<7}{}", text_of(values));
            }
            println!("  back at {RESTORED}: slow {}, after {}", restored_text(in_slow), restored_text(in_after));
            if let Some(warning) = slow.lag_warning() {
                println!("  {warning}");
                notes.push_str(&format!("\n{}, {}: {warning}.\n", contender.label(), slowdown.label()));
            }
            let mut row = vec![contender.label().to_owned(), slowdown.label().to_owned()];
            row.extend(shares.map(|share| format!("{share:.2}")));
            row.extend([
                format!("{:.3}", slow.class(Class::Critical).ratio()),
                slow.p99_ms.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}")),
                restored_text(in_slow),
                restored_text(in_after),
            ]);
            rows.push(row);
            results.push(json!({
                "contender": contender.label(), "speed": slowdown.label(), "windows": in_windows, "shares": shares,
                "restored_slow_s": in_slow.map(|time| time.as_secs_f64()),
                "restored_after_s": in_after.map(|time| time.as_secs_f64()),
            }));
        }
    }
    print!("\n{}", table::plain(&header, &rows, true));
    let markdown = format!(
        "{STEP_LOAD} times the capacity for 30 s after 5 s of warm-up; after 10 s the server's speed halves, after 20 s it is as before. Goodput in shares of what the server can do at the time.\n\n{}{notes}",
        table::markdown(&header, &rows)
    );
    Ok(Report { scenario: Scenario::Step, markdown, json: Value::Array(results), images: Vec::new(), complete })
}

fn text_of(values: &[f64]) -> String {
    values.iter().map(|value| format!(" {value:.2}")).collect()
}

fn run_step(stage: &Stage, contender: Contender, slowdown: Slowdown) -> Fallible<Vec<Record>> {
    let mut entrant = stage.enter(contender, Purpose::Overload)?;
    let plan = stage.plan(&entrant, STEP_LOAD, Duration::from_micros(AFTER.end) + DEADLINE);
    let server = &stage.server;
    let mut acts: [Act<'_>; 2] = [
        (
            begin(&SLOW),
            Box::new(|| match slowdown {
                Slowdown::Service => server.set_service(2 * SERVICE),
                Slowdown::Workers => server.set_workers(WORKERS / 2),
            }),
        ),
        (
            begin(&AFTER),
            Box::new(|| match slowdown {
                Slowdown::Service => server.set_service(SERVICE),
                Slowdown::Workers => server.set_workers(WORKERS),
            }),
        ),
    ];
    let records = drive(&[plan], &mut acts)?.pop().unwrap_or_default();
    drop(acts);
    still_runs(&mut entrant, contender)?;
    Ok(records)
}

/// Times the capacity.
const STALL_LOAD: f64 = 0.8;

/// A client that got nothing tries so often again, at once.
const RETRIES: u8 = 3;

const STALLED: Range<u64> = seconds(5, 15);
const AFTERWARDS: Range<u64> = seconds(15, 55);
const AT_THE_END: Range<u64> = seconds(45, 55);

pub(super) fn stall(stage: &Stage, contenders: &[Contender]) -> Fallible<Report> {
    let header = [
        "",
        "good in the stall",
        "good after it",
        "good in the last 10 s",
        "critical after it",
        "attempts/request",
        "until 0.97",
    ];
    let (mut rows, mut results, mut notes, mut complete) = (Vec::new(), Vec::new(), String::new(), true);
    for &contender in contenders {
        let records = match run_stall(stage, contender) {
            Ok(records) => records,
            Err(error) => {
                not_measured(contender, &error.to_string());
                complete &= !contender.is_ours();
                continue;
            }
        };
        let share = share_of_requests(&records);
        let restored = restored_after(&AFTERWARDS, &share);
        let in_windows: Vec<f64> = windows(&AFTERWARDS, 2 * WINDOW_US).iter().map(&share).collect();
        let after = Summary::of(&records, &AFTERWARDS);
        let attempts = records.iter().filter(|record| AFTERWARDS.contains(&record.at_us));
        let attempts = attempts.map(|record| u64::from(record.attempts)).sum::<u64>() as f64;
        println!("\n{}, good of each second's requests after the stall:\n {}", contender.label(), text_of(&in_windows));
        println!("  back at {RESTORED}: {}", restored_text(restored));
        if let Some(warning) = after.lag_warning() {
            println!("  {warning}");
            notes.push_str(&format!("\n{}: {warning}.\n", contender.label()));
        }
        let shares = [STALLED, AFTERWARDS, AT_THE_END].map(|span| share(&span));
        let critical = after.class(Class::Critical).ratio();
        let attempts_per_request = attempts / after.total.all.max(1) as f64;
        let mut row = vec![contender.label().to_owned()];
        row.extend(shares.map(|share| format!("{share:.2}")));
        row.extend([format!("{critical:.3}"), format!("{attempts_per_request:.2}"), restored_text(restored)]);
        rows.push(row);
        results.push(json!({
            "contender": contender.label(), "windows": in_windows, "shares": shares, "critical": critical,
            "attempts_per_request": attempts_per_request, "restored_s": restored.map(|time| time.as_secs_f64()),
        }));
    }
    print!("\n{}", table::plain(&header, &rows, true));
    let markdown = format!(
        "{STALL_LOAD} times the capacity; after 5 s the server stands still for 10 s, then 40 s are watched. A client whose request failed or was late tries again up to {RETRIES} times at once. Good is a request that was answered within a second of its first attempt.\n\n{}{notes}",
        table::markdown(&header, &rows)
    );
    Ok(Report { scenario: Scenario::Stall, markdown, json: Value::Array(results), images: Vec::new(), complete })
}

fn run_stall(stage: &Stage, contender: Contender) -> Fallible<Vec<Record>> {
    let mut entrant = stage.enter(contender, Purpose::Overload)?;
    let length = Duration::from_micros(AFTERWARDS.end) + DEADLINE;
    let plan = Plan { retries: RETRIES, ..stage.plan(&entrant, STALL_LOAD, length) };
    let stall = || stage.server.stall(Duration::from_micros(STALLED.end - STALLED.start));
    let mut acts: [Act<'_>; 1] = [(begin(&STALLED), Box::new(stall))];
    let records = drive(&[plan], &mut acts)?.pop().unwrap_or_default();
    drop(acts);
    still_runs(&mut entrant, contender)?;
    Ok(records)
}
