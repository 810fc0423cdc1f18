//! Goodput over offered load.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::contenders::{Contender, Purpose};
use super::figures::{Summary, count_within, good_ends_us};
use super::schedule::Class;
use super::{Report, Scenario, Stage, drive, not_measured, still_runs, svg};
use crate::process;
use crate::shell::Fallible;
use crate::table;

pub(super) const SECONDS: u32 = 10;

/// Until queues are full and whoever learns has learnt.
const WARM_UP: Duration = Duration::from_secs(4);

/// The load goes on while the last ones that count are under way.
const TAIL: Duration = Duration::from_secs(1);

/// A contender at a load.
struct Point {
    summary: Summary,
    /// Good answers per second over the capacity.
    goodput: f64,
    /// Of the proxy.
    cpu_us: f64,
    /// Requests that the server worked on, and in vain.
    finished: u64,
    in_vain: u64,
}

impl Point {
    fn cpu_us_per_request(&self) -> f64 {
        self.cpu_us / self.summary.total.all.max(1) as f64
    }

    /// What is left after each answered request took as much as it does without overload; of a few it
    /// would say nothing.
    fn cpu_us_per_refused(&self, cpu_us_per_answered: f64) -> Option<f64> {
        let rest = self.cpu_us - self.summary.total.good as f64 * cpu_us_per_answered;
        (self.summary.refused() * 5 > self.summary.total.all).then(|| rest.max(0.0) / self.summary.refused() as f64)
    }
}

/// A contender's points, or why there are none.
struct Course {
    contender: Contender,
    points: Vec<Option<Point>>,
    why_not: Option<String>,
}

impl Course {
    /// At the least load, where nobody has to be refused.
    fn cpu_us_per_answered(&self) -> f64 {
        self.points.iter().flatten().next().map_or(0.0, Point::cpu_us_per_request)
    }
}

pub(super) fn run(stage: &Stage, contenders: &[Contender], loads: &[f64], seconds: u32) -> Fallible<Report> {
    let mut courses: Vec<Course> =
        contenders.iter().map(|&contender| Course { contender, points: Vec::new(), why_not: None }).collect();
    for &load in loads {
        println!("\n{load} times the capacity, {:.0}/s", load * stage.capacity);
        for course in &mut courses {
            let point = match &course.why_not {
                Some(_) => None,
                None => match measure(stage, course.contender, load, seconds) {
                    Ok(point) => {
                        if let Some(warning) = point.summary.lag_warning() {
                            println!("{}: {warning}", course.contender.label());
                        }
                        Some(point)
                    }
                    Err(error) => {
                        course.why_not = Some(not_measured(course.contender, &error.to_string()));
                        None
                    }
                },
            };
            course.points.push(point);
        }
        print!("{}", table::plain(&HEADER, &rows_at(&courses, courses[0].points.len() - 1), true));
    }
    let verdict = verdict(&courses, loads);
    for line in &verdict {
        println!("=> {line}");
    }
    let complete = courses.iter().all(|course| course.why_not.is_none() || !course.contender.is_ours());
    Ok(Report {
        scenario: Scenario::Curve,
        markdown: markdown(&courses, loads, seconds, &verdict),
        json: all_json(&courses, loads, seconds),
        images: images(&courses, loads),
        complete,
    })
}

fn measure(stage: &Stage, contender: Contender, load: f64, seconds: u32) -> Fallible<Point> {
    let mut entrant = stage.enter(contender, Purpose::Overload)?;
    let length = Duration::from_secs(u64::from(seconds));
    let plan = stage.plan(&entrant, load, WARM_UP + length + TAIL);
    let tree = process::tree(entrant.running.id());
    let marks = RefCell::new(Vec::new());
    let mark = || marks.borrow_mut().push((process::cpu_time(&tree).total_ns, stage.server.finished()));
    let mut acts: [super::Act<'_>; 2] = [(WARM_UP, Box::new(mark)), (WARM_UP + length, Box::new(mark))];
    let records = drive(&[plan], &mut acts)?.pop().unwrap_or_default();
    drop(acts);
    still_runs(&mut entrant, contender)?;
    let [(cpu_before, before), (cpu_after, after)] = marks.into_inner()[..] else {
        return Err("the CPU time was not read".into());
    };
    let span_us = WARM_UP.as_micros() as u64..(WARM_UP + length).as_micros() as u64;
    let summary = Summary::of(&records, &span_us);
    // By when answers came: while a line grows, more requests start than can be answered in the same time.
    let good = count_within(&good_ends_us(&records), &span_us);
    let goodput = good as f64 / length.as_secs_f64() / stage.capacity;
    Ok(Point {
        summary,
        goodput,
        cpu_us: cpu_after.saturating_sub(cpu_before) as f64 / 1e3,
        finished: after.0 - before.0,
        in_vain: after.1 - before.1,
    })
}

const HEADER: [&str; 11] = [
    "",
    "goodput",
    "critical",
    "normal",
    "low",
    "p50 ms",
    "p99 ms",
    "CPU us/request",
    "CPU us/refused",
    "server in vain",
    "failures",
];

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

/// One line for each contender at the load of this number.
fn rows_at(courses: &[Course], number: usize) -> Vec<Vec<String>> {
    let row = |course: &Course| {
        let mut row = vec![course.contender.label().to_owned()];
        let Some(point) = course.points.get(number).and_then(Option::as_ref) else {
            row.push("not measured".to_owned());
            row.resize(HEADER.len(), "-".to_owned());
            return row;
        };
        row.push(format!("{:.3}", point.goodput));
        row.extend(Class::ALL.map(|class| format!("{:.3}", point.summary.class(class).ratio())));
        row.extend([
            milliseconds(point.summary.p50_ms),
            milliseconds(point.summary.p99_ms),
            format!("{:.0}", point.cpu_us_per_request()),
            milliseconds(point.cpu_us_per_refused(course.cpu_us_per_answered())),
            format!("{} of {}", point.in_vain, point.finished),
            point.summary.failures_text(),
        ]);
        row
    };
    courses.iter().map(row).collect()
}

/// How ours stands to its aims, at the highest load.
fn verdict(courses: &[Course], loads: &[f64]) -> Vec<String> {
    let ours = courses.iter().find(|course| course.contender == Contender::Adaptive);
    let Some(point) = ours.and_then(|course| course.points.last()?.as_ref()) else {
        return vec!["sumun adaptive was not measured".to_owned()];
    };
    let met = |is_met| if is_met { "met" } else { "MISSED" };
    let critical = point.summary.class(Class::Critical).ratio();
    let p99_ms = point.summary.p99_ms.unwrap_or(f64::INFINITY);
    vec![format!(
        "sumun adaptive at {} times: goodput {:.3} (aim 0.97, {}), critical {critical:.3} (aim 0.99, {}), p99 {p99_ms:.0} ms (aim 150, {})",
        loads.last().copied().unwrap_or(0.0),
        point.goodput,
        met(point.goodput >= 0.97),
        met(critical >= 0.99),
        met(p99_ms <= 150.0)
    )]
}

fn markdown(courses: &[Course], loads: &[f64], seconds: u32, verdict: &[String]) -> String {
    let loads_text: Vec<String> = loads.iter().map(|load| format!("{load}x")).collect();
    let header: Vec<&str> = std::iter::once("").chain(loads_text.iter().map(String::as_str)).collect();
    let grid = |cell: fn(&Point) -> String| {
        let row = |course: &Course| {
            let cells = course.points.iter().map(|point| point.as_ref().map_or_else(|| "-".to_owned(), cell));
            std::iter::once(course.contender.label().to_owned()).chain(cells).collect()
        };
        table::markdown(&header, &courses.iter().map(row).collect::<Vec<_>>())
    };
    let last = loads.len() - 1;
    let mut text = format!(
        "{seconds} s each after {} s of warm-up.\n\nGoodput, in shares of the capacity:\n\n{}\nSuccess of critical requests:\n\n{}\np99 of what was served in time, ms:\n\n{}\nAt {} times the capacity:\n\n{}",
        WARM_UP.as_secs(),
        grid(|point| format!("{:.2}", point.goodput)),
        grid(|point| format!("{:.3}", point.summary.class(Class::Critical).ratio())),
        grid(|point| milliseconds(point.summary.p99_ms)),
        loads[last],
        table::markdown(&HEADER, &rows_at(courses, last)),
    );
    let missing = courses
        .iter()
        .filter_map(|course| Some(format!("{}: not measured: {}", course.contender.label(), course.why_not.as_ref()?)));
    for line in verdict.iter().cloned().chain(missing) {
        text.push_str(&format!("\n{line}\n"));
    }
    text
}

fn images(courses: &[Course], loads: &[f64]) -> Vec<(&'static str, String)> {
    let lines = |value: fn(&Point) -> f64| {
        let line = |course: &Course| {
            let values = course.points.iter().map(|point| point.as_ref().map(value)).collect();
            (course.contender.label().to_owned(), values)
        };
        courses.iter().map(line).collect::<Vec<svg::Line>>()
    };
    vec![
        ("storm-goodput.svg", svg::chart("Goodput, in shares of the capacity", loads, &lines(|point| point.goodput))),
        (
            "storm-critical.svg",
            svg::chart(
                "Critical requests answered in time",
                loads,
                &lines(|point| point.summary.class(Class::Critical).ratio()),
            ),
        ),
    ]
}

fn all_json(courses: &[Course], loads: &[f64], seconds: u32) -> Value {
    let results: Map<String, Value> = courses
        .iter()
        .map(|course| {
            let points: Vec<Value> = loads
                .iter()
                .zip(&course.points)
                .map(|(load, point)| match point {
                    None => json!({ "load": load, "measured": false }),
                    Some(point) => json!({
                        "load": load, "measured": true, "goodput": point.goodput,
                        "offered": point.summary.total.all, "good": point.summary.total.good,
                        "success": Class::ALL.map(|class| (class.name().to_owned(), json!(point.summary.class(class).ratio())))
                            .into_iter().collect::<Map<String, Value>>(),
                        "p50_ms": point.summary.p50_ms, "p99_ms": point.summary.p99_ms,
                        "lag_p99_ms": point.summary.lag_p99_ms,
                        "failures": point.summary.failures_text(), "cpu_us_per_request": point.cpu_us_per_request(),
                        "cpu_us_per_refused": point.cpu_us_per_refused(course.cpu_us_per_answered()),
                        "server_finished": point.finished, "server_in_vain": point.in_vain,
                    }),
                })
                .collect();
            (course.contender.label().to_owned(), json!({ "points": points, "why_not": course.why_not }))
        })
        .collect();
    json!({ "seconds": seconds, "loads": loads, "results": results })
}

#[cfg(test)]
mod tests {
    use super::super::figures::Share;
    use super::super::generator::End;
    use super::*;

    fn point(good: u64, refused: u64, cpu_us: f64) -> Point {
        let summary = Summary {
            total: Share { good, all: good + refused },
            failures: [(End::Answered(503), refused)].into_iter().filter(|(_, count)| *count > 0).collect(),
            ..Summary::default()
        };
        Point { summary, goodput: 0.5, cpu_us, finished: 0, in_vain: 0 }
    }

    #[test]
    fn the_cost_of_refusing_is_what_answers_did_not_take() {
        let points = vec![Some(point(100, 0, 10_000.0)), Some(point(100, 400, 14_000.0))];
        let course = Course { contender: Contender::Adaptive, points, why_not: None };
        let each = course.cpu_us_per_answered();
        assert!((each - 100.0).abs() < 1e-9);
        let cost = |index: usize| course.points[index].as_ref().and_then(|point| point.cpu_us_per_refused(each));
        assert_eq!((cost(0), cost(1)), (None, Some(10.0)));
        assert!(verdict(&[course], &[0.5, 10.0])[0].contains("MISSED"));
    }
}
