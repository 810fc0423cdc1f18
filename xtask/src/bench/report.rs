//! From rounds to figures: medians, ratios, tables, JSON, Markdown.

use serde_json::{Value, json};

use super::rows::{Kind, Row};
use crate::process::Memory;
use crate::table;

/// One contender in one round of requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) total_us: f64,
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    pub(crate) latency_p50_us: f64,
    pub(crate) latency_p99_us: f64,
    /// Of a herd: how many asked the server, and when all had their answer.
    pub(crate) reached: f64,
    pub(crate) all_ms: f64,
    /// How much of its CPUs it used, and how much others took, in percent of one CPU.
    pub(crate) own_percent: f64,
    pub(crate) others_percent: f64,
}

/// One contender in one row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) label: String,
    pub(crate) ours: bool,
    pub(crate) rounds: Vec<Round>,
    /// After the load, or with all connections idle; one for each fresh start.
    pub(crate) memory: Vec<Memory>,
    /// Why there are no figures, or what is special about them.
    pub(crate) note: Option<String>,
    /// System calls per request, where they were counted.
    pub(crate) calls: Option<String>,
    /// It could not do what was asked; its figures are left out of the comparison.
    pub(crate) failed: bool,
}

/// Median, least and most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (&least, &most) = (values.first()?, values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
    Some(Spread { median, least, most })
}

impl Spread {
    fn text(self, decimals: usize) -> String {
        format!("{:.decimals$} [{:.decimals$} {:.decimals$}]", self.median, self.least, self.most)
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }
}

impl Outcome {
    fn of_rounds(&self, value: fn(&Round) -> f64) -> Option<Spread> {
        spread(self.rounds.iter().map(value))
    }

    fn of_memory(&self, value: fn(&Memory) -> u64) -> Option<Spread> {
        spread(self.memory.iter().map(|memory| value(memory) as f64))
    }

    fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }

    /// Whether its figures may be compared with others'.
    fn counts(&self) -> bool {
        !self.failed && self.errors() == 0
    }
}

/// The figures by which a row is judged: the first decides who the best rival is.
type Figure = (&'static str, fn(&Outcome) -> Option<f64>);

fn figures(row: &Row) -> &'static [Figure] {
    if row.is_about_memory() {
        &[
            ("proportional", |outcome| outcome.of_memory(|memory| memory.proportional_kib).map(|spread| spread.median)),
            ("resident", |outcome| outcome.of_memory(|memory| memory.resident_kib).map(|spread| spread.median)),
        ]
    } else {
        &[
            ("total", |outcome| outcome.of_rounds(|round| round.total_us).map(|spread| spread.median)),
            ("user", |outcome| outcome.of_rounds(|round| round.user_us).map(|spread| spread.median)),
        ]
    }
}

/// A figure's name, our median over the best rival's, and who that rival is.
type Ratio = (&'static str, f64, String);

/// For each of ours: the ratio to the best rival's figure, separately for each figure.
fn ratios(row: &Row, outcomes: &[Outcome]) -> Vec<(String, Vec<Ratio>)> {
    let ours = outcomes.iter().filter(|outcome| outcome.ours && outcome.counts());
    ours.map(|our| {
        let ratios = figures(row).iter().filter_map(|(name, figure)| {
            let own = figure(our)?;
            let rivals = outcomes.iter().filter(|outcome| !outcome.ours && outcome.counts());
            let best = rivals
                .filter_map(|rival| Some((figure(rival)?, &rival.label)))
                .min_by(|one, other| one.0.total_cmp(&other.0))?;
            Some((*name, own / best.0, best.1.clone()))
        });
        (our.label.clone(), ratios.collect())
    })
    .collect()
}

/// The header and the lines of a row's table.
fn lines(row: &Row, outcomes: &[Outcome]) -> (Vec<String>, Vec<Vec<String>>) {
    let idle = row.is_about_memory();
    let is_herd = row.kind == Kind::Herd;
    // Who makes the load for streams asks one after the other, so that it has no latencies to tell.
    let latencies = !matches!(row.kind, Kind::Stream(_));
    let (cpu, rate) = (format!("CPU us/{}", row.unit()), row.rate());
    let header: Vec<&str> = if idle {
        vec!["", "PSS KiB", "RSS KiB", "bytes each"]
    } else if is_herd {
        vec!["", &cpu, "user us", "system us", "reached the server", "all had it, ms", "errors"]
    } else {
        let latencies: &[&str] = if latencies { &["p50 us", "p99 us"] } else { &[] };
        let first = ["", &cpu, "user us", "system us", &rate];
        [&first, latencies, &["CPU %", "others %", "peak RSS KiB", "PSS KiB", "errors"]].concat()
    };
    let header = header.into_iter().map(str::to_owned).collect();
    let lines = outcomes.iter().map(|outcome| {
        let round = |value: fn(&Round) -> f64, decimals| {
            outcome.of_rounds(value).map_or_else(|| "-".to_owned(), |spread| spread.text(decimals))
        };
        let median = |value: fn(&Round) -> f64| {
            outcome.of_rounds(value).map_or_else(|| "-".to_owned(), |spread| format!("{:.0}", spread.median))
        };
        let memory = |value: fn(&Memory) -> u64| {
            outcome.of_memory(value).map_or_else(|| "-".to_owned(), |spread| format!("{:.0}", spread.median))
        };
        if idle {
            let each = outcome.of_memory(|memory| memory.proportional_kib).map_or_else(
                || "-".to_owned(),
                |spread| format!("{:.0}", spread.median * 1024.0 / f64::from(row.connections)),
            );
            return vec![
                outcome.label.clone(),
                memory(|memory| memory.proportional_kib),
                memory(|memory| memory.resident_kib),
                each,
            ];
        }
        let mut line = vec![
            outcome.label.clone(),
            round(|round| round.total_us, 2),
            round(|round| round.user_us, 2),
            round(|round| round.system_us, 2),
        ];
        if is_herd {
            line.extend([
                round(|round| round.reached, 0),
                round(|round| round.all_ms, 0),
                outcome.errors().to_string(),
            ]);
            return line;
        }
        line.push(round(|round| round.requests_per_second, 0));
        if latencies {
            line.extend([median(|round| round.latency_p50_us), median(|round| round.latency_p99_us)]);
        }
        line.extend([
            median(|round| round.own_percent),
            median(|round| round.others_percent),
            memory(|memory| memory.peak_resident_kib),
            memory(|memory| memory.proportional_kib),
            outcome.errors().to_string(),
        ]);
        line
    });
    (header, lines.collect())
}

/// What is special about a contender's figures, or why there are none.
fn note_lines(outcomes: &[Outcome]) -> Vec<String> {
    let line = |outcome: &Outcome| {
        let left_out = if outcome.counts() { "" } else { " (left out of the comparison)" };
        match (&outcome.note, outcome.errors()) {
            (Some(note), _) => Some(format!("{}: {note}{left_out}", outcome.label)),
            (None, 0) => None,
            (None, errors) => Some(format!("{}: {errors} errors{left_out}", outcome.label)),
        }
    };
    let calls = outcomes.iter().filter_map(|outcome| Some(format!("{}: {}", outcome.label, outcome.calls.as_ref()?)));
    outcomes.iter().filter_map(line).chain(calls).collect()
}

fn ratio_lines(row: &Row, outcomes: &[Outcome]) -> Vec<String> {
    let line = |(label, ratios): (String, Vec<Ratio>)| {
        let parts: Vec<String> =
            ratios.iter().map(|(name, ratio, rival)| format!("{name} {ratio:.2} of {rival}'s")).collect();
        format!("{label}: {}", parts.join(", "))
    };
    ratios(row, outcomes).into_iter().filter(|(_, ratios)| !ratios.is_empty()).map(line).collect()
}

/// A row for the terminal.
pub(crate) fn text(row: &Row, outcomes: &[Outcome]) -> String {
    let (header, lines) = lines(row, outcomes);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut text = table::plain(&header, &lines, true);
    for line in note_lines(outcomes).into_iter().chain(ratio_lines(row, outcomes)) {
        text.push_str(&format!("=> {line}\n"));
    }
    text
}

/// A row for docs/benchmarks.md.
pub(crate) fn markdown(row: &Row, outcomes: &[Outcome]) -> String {
    let (header, lines) = lines(row, outcomes);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut text = format!("**{}**: {}\n\n{}", row.name, row.what, table::markdown(&header, &lines));
    for line in note_lines(outcomes).into_iter().chain(ratio_lines(row, outcomes)) {
        text.push_str(&format!("\n{line}\n"));
    }
    text
}

pub(crate) fn json(row: &Row, outcomes: &[Outcome]) -> Value {
    let results: serde_json::Map<String, Value> = outcomes
        .iter()
        .map(|outcome| {
            let rounds: Vec<Value> = outcome
                .rounds
                .iter()
                .map(|round| {
                    json!({
                        "requests": round.requests, "errors": round.errors,
                        "requests_per_second": round.requests_per_second, "total_us": round.total_us,
                        "user_us": round.user_us, "system_us": round.system_us,
                        "latency_p50_us": round.latency_p50_us, "latency_p99_us": round.latency_p99_us,
                        "reached_server": round.reached, "all_ms": round.all_ms,
                        "own_cpu_percent": round.own_percent, "others_cpu_percent": round.others_percent,
                    })
                })
                .collect();
            let value = json!({
                "total_us": outcome.of_rounds(|round| round.total_us).map(Spread::json),
                "user_us": outcome.of_rounds(|round| round.user_us).map(Spread::json),
                "system_us": outcome.of_rounds(|round| round.system_us).map(Spread::json),
                "requests_per_second": outcome.of_rounds(|round| round.requests_per_second).map(Spread::json),
                "peak_resident_kib": outcome.of_memory(|memory| memory.peak_resident_kib).map(Spread::json),
                "resident_kib": outcome.of_memory(|memory| memory.resident_kib).map(Spread::json),
                "proportional_kib": outcome.of_memory(|memory| memory.proportional_kib).map(Spread::json),
                "errors": outcome.errors(), "comparable": outcome.counts(), "note": outcome.note, "calls": outcome.calls, "rounds": rounds,
            });
            (outcome.label.clone(), value)
        })
        .collect();
    let ratios: serde_json::Map<String, Value> = ratios(row, outcomes)
        .into_iter()
        .map(|(label, ratios)| {
            let ratios: serde_json::Map<String, Value> = ratios
                .into_iter()
                .map(|(name, ratio, rival)| (name.to_owned(), json!({ "ratio": ratio, "of": rival })))
                .collect();
            (label, Value::Object(ratios))
        })
        .collect();
    json!({
        "row": row.name, "what": row.what, "connections": row.connections, "workers": row.workers,
        "body_bytes": row.body_bytes(), "unit": row.unit(), "results": results, "ratios": ratios,
    })
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::*;

    fn outcome(label: &str, ours: bool, totals: &[f64]) -> Outcome {
        let rounds = totals.iter().map(|&total_us| Round { total_us, user_us: total_us / 4.0, ..Round::default() });
        Outcome { label: label.to_owned(), ours, rounds: rounds.collect(), ..Outcome::default() }
    }

    #[test]
    fn median_of_odd_and_even() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(spread([4.0, 1.0].into_iter()).map(|spread| spread.median), Some(2.5));
        assert_eq!(spread(std::iter::empty()), None);
    }

    #[test]
    fn the_best_rival_without_errors_is_the_measure() {
        let mut cheater = outcome("cheater", false, &[1.0]);
        cheater.rounds[0].errors = 1;
        let outcomes = [
            outcome("sumun", true, &[8.0, 9.0, 7.0]),
            outcome("slow", false, &[20.0]),
            outcome("fast", false, &[10.0]),
            cheater,
        ];
        assert_eq!(ratio_lines(&ROWS[0], &outcomes), ["sumun: total 0.80 of fast's, user 0.80 of fast's"]);
    }
}
