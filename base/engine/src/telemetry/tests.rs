use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::counters::Histogram;

/// A sample as a reader of the format sees it.
#[derive(Debug, Clone, PartialEq)]
struct Read {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text format strictly: each family announced once, before its samples, names of the
/// allowed characters, labels quoted and escaped, one newline at the end of each line.
fn read(text: &str) -> Vec<Read> {
    let mut samples = Vec::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    assert!(text.is_empty() || text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, _) = rest.split_once(' ').expect("a help text");
            assert!(!types.contains_key(name), "{name} is announced twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            types.insert(name.to_owned(), kind.to_owned());
        } else {
            let sample = read_sample(line);
            let suffixes: &[&str] = if types[&current] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| sample.name == format!("{current}{suffix}")), "{line}");
            samples.push(sample);
        }
    }
    samples
}

fn read_sample(line: &str) -> Read {
    let end = line.find(['{', ' ']).expect("an end of the name");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{name}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect("a label");
            assert!(is_name(label), "{label}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().expect("an end of the label") {
                    (place, '"') => break place,
                    (_, '\\') => value.push(match characters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, other @ ('"' | '\\'))) => other,
                        other => panic!("an escape that the format does not know: {other:?}"),
                    }),
                    (_, other) => value.push(other),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} stands twice");
            rest = after.split_at(end + 1).1;
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    Read { name: name.to_owned(), labels, value: value.replace("Inf", "inf").parse().expect("a number") }
}

fn is_name(name: &str) -> bool {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[test]
fn values_of_several_services_come_under_one_head() {
    let web: Arc<str> = "web".into();
    let mut of_http = Family::counter("sumun_requests_total", "Requests.");
    of_http.push(&[("listener", &web), ("status", &"2xx".into())], 7);
    let mut of_streams = Family::counter("sumun_requests_total", "Requests.");
    of_streams.push(&[("listener", &"database".into())], 1);
    let families =
        [of_http, Family::gauge("sumun_nothing", "No sample."), Family::gauge("sumun_up", "Up.").with(0.5), of_streams];
    assert_eq!(
        render(&families),
        "# HELP sumun_requests_total Requests.\n\
         # TYPE sumun_requests_total counter\n\
         sumun_requests_total{listener=\"web\",status=\"2xx\"} 7\n\
         sumun_requests_total{listener=\"database\"} 1\n\
         # HELP sumun_up Up.\n\
         # TYPE sumun_up gauge\n\
         sumun_up 0.5\n"
    );
}

#[test]
fn a_histogram_is_cumulative_and_in_seconds() {
    let histogram = Histogram::default();
    for microseconds in [0, 10, 100, 5_000, 5_000, 200_000_000] {
        histogram.record(microseconds);
    }
    let mut total = HistogramTotal::default();
    histogram.add_to(&mut total);
    let mut family = Family::histogram("sumun_seconds", "Time.");
    family.push(&[("route", &"/".into())], total);
    let samples = read(&render(&[family]));
    let buckets: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.name == "sumun_seconds_bucket")
        .map(|sample| (sample.labels["le"].replace("Inf", "inf").parse().unwrap(), sample.value))
        .collect();
    assert_eq!(buckets.len(), BUCKETS);
    assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    assert_eq!(buckets[0], (0.000_064, 2.0));
    assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, 6.0));
    let value = |name: &str| samples.iter().find(|sample| sample.name == name).unwrap().value;
    assert_eq!(value("sumun_seconds_count"), 6.0);
    assert!((value("sumun_seconds_sum") - 200.010_11).abs() < 1e-9);
}

#[test]
fn this_process_is_measured() {
    let samples = read(&render(&process_families()));
    let names: BTreeSet<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "sumun_process_cpu_seconds_total",
            "sumun_process_open_fds",
            "sumun_process_resident_memory_bytes"
        ])
    );
}

proptest! {
    #[test]
    fn any_label_comes_back(label in any::<String>(), value in any::<u64>()) {
        let mut family = Family::counter("sumun_things_total", "Things with a \\ and a\nnewline.");
        family.push(&[("route", &label.as_str().into()), ("other", &"x".into())], value);
        let samples = read(&render(&[family]));
        prop_assert_eq!(samples.len(), 1);
        prop_assert_eq!(&samples[0].labels["route"], &label);
        prop_assert_eq!(samples[0].value, value as f64);
    }
}
