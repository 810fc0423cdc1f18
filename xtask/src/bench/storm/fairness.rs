//! One client far above its limit, and a hundred far below theirs.

use std::time::Duration;

use serde_json::{Value, json};

use super::contenders::{CLIENT_PER_SECOND, Contender, Purpose};
use super::figures::{DEADLINE, Summary};
use super::generator::Plan;
use super::schedule::{API_MIX, Clients};
use super::{Report, Scenario, Stage, drive, not_measured, still_runs};
use crate::shell::Fallible;
use crate::table;

pub(super) const SECONDS: u32 = 10;

/// Also until the heavy client has used up what it may send at once.
const WARM_UP: Duration = Duration::from_secs(4);

const LIGHT: Clients = Clients { network: 21, count: 100 };
const LIGHT_PER_SECOND: f64 = 5.0;
const HEAVY: Clients = Clients { network: 22, count: 1 };
const HEAVY_PER_SECOND: f64 = 10.0 * CLIENT_PER_SECOND as f64;

/// With these the server can do 800/s: enough for all who keep to their limits, not for all who come.
const SERVER_WORKERS: usize = 40;

struct Run {
    light: Summary,
    heavy: Option<Summary>,
}

pub(super) fn run(stage: &Stage, contenders: &[Contender], seconds: u32) -> Fallible<Report> {
    let header = [
        "",
        "workers",
        "light alone",
        "light with heavy",
        "p99 ms alone",
        "p99 ms with heavy",
        "heavy admitted/s",
        "light failures",
        "heavy failures",
    ];
    let (mut rows, mut results, mut complete) = (Vec::new(), Vec::new(), true);
    let able = [Contender::Adaptive, Contender::Off, Contender::Haproxy, Contender::Nginx];
    let able = contenders.iter().copied().filter(|contender| able.contains(contender));
    // What a client may send holds for all workers together.
    let runs = able.flat_map(|contender| [1, 2].map(|workers| (contender, workers)));
    for (contender, workers) in runs {
        let runs = measure(stage, contender, workers, seconds, false)
            .and_then(|alone| Ok((alone, measure(stage, contender, workers, seconds, true)?)));
        let (alone, both) = match runs {
            Ok(runs) => runs,
            Err(error) => {
                not_measured(contender, &error.to_string());
                complete &= !contender.is_ours();
                continue;
            }
        };
        for warning in [&alone.light, &both.light].into_iter().filter_map(|summary| summary.lag_warning()) {
            println!("{}: {warning}", contender.label());
        }
        let heavy = both.heavy.unwrap_or_default();
        let admitted = heavy.total.good as f64 / f64::from(seconds);
        let milliseconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        rows.push(vec![
            contender.label().to_owned(),
            workers.to_string(),
            format!("{:.4}", alone.light.total.ratio()),
            format!("{:.4}", both.light.total.ratio()),
            milliseconds(alone.light.p99_ms),
            milliseconds(both.light.p99_ms),
            format!("{admitted:.1}"),
            both.light.failures_text(),
            heavy.failures_text(),
        ]);
        results.push(json!({
            "contender": contender.label(), "workers": workers,
            "light_alone": alone.light.total.ratio(), "light_with_heavy": both.light.total.ratio(),
            "p99_ms_alone": alone.light.p99_ms, "p99_ms_with_heavy": both.light.p99_ms,
            "heavy_admitted_per_second": admitted, "heavy_offered": heavy.total.all,
            "light_failures": both.light.failures_text(), "heavy_failures": heavy.failures_text(),
        }));
    }
    print!("\n{}", table::plain(&header, &rows, true));
    let markdown = format!(
        "{} clients with {LIGHT_PER_SECOND}/s each and one with {HEAVY_PER_SECOND}/s, all with a limit of {CLIENT_PER_SECOND}/s, in front of a server of {SERVER_WORKERS} workers x 50 ms; {seconds} s after {} s of warm-up, without and with the heavy one. HAProxy denies by a stick table of rates, nginx by limit_req with the address as the key.\n\n{}",
        LIGHT.count,
        WARM_UP.as_secs(),
        table::markdown(&header, &rows)
    );
    Ok(Report { scenario: Scenario::Fairness, markdown, json: Value::Array(results), images: Vec::new(), complete })
}

fn measure(stage: &Stage, contender: Contender, workers: u32, seconds: u32, with_heavy: bool) -> Fallible<Run> {
    let mut entrant = stage.enter_with(contender, Purpose::Fairness, workers)?;
    stage.server.set_workers(SERVER_WORKERS);
    let end = WARM_UP + Duration::from_secs(u64::from(seconds));
    let common = Plan { mix: API_MIX, ..stage.plan(&entrant, 1.0, end + DEADLINE) };
    let light = Plan { clients: LIGHT, per_second: LIGHT_PER_SECOND * f64::from(LIGHT.count), ..common };
    let heavy = Plan { clients: HEAVY, per_second: HEAVY_PER_SECOND, seed: common.seed.wrapping_add(1), ..common };
    let plans = if with_heavy { vec![light, heavy] } else { vec![light] };
    let records = drive(&plans, &mut [])?;
    still_runs(&mut entrant, contender)?;
    let span = WARM_UP.as_micros() as u64..end.as_micros() as u64;
    let mut summaries = records.iter().map(|records| Summary::of(records, &span));
    Ok(Run { light: summaries.next().unwrap_or_default(), heavy: summaries.next() })
}
