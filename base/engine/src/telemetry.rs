//! Measured values in a form that no service owns, and the text form that Prometheus reads.
//!
//! A service gives its values as families; whoever publishes them needs to know nothing else of it.

use std::fmt::Write;
use std::sync::Arc;

use crate::counters::{BUCKETS, HistogramTotal, upper_bound_us};

pub mod names;

/// `Content-Type` of what [`render`] makes.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All values of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// `sumun_…`: letters, digits and `_`; counters end in `_total`, units stand in the name.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One value with what tells it from the others of its family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: Vec<(&'static str, Arc<str>)>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Integer(u64),
    Number(f64),
    /// Written in seconds.
    Histogram(Box<HistogramTotal>),
}

impl Family {
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, samples: Vec::new() }
    }

    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: Vec::new() }
    }

    #[must_use]
    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Histogram, samples: Vec::new() }
    }

    pub fn push(&mut self, labels: &[(&'static str, &Arc<str>)], value: impl Into<Value>) {
        let labels = labels.iter().map(|(name, value)| (*name, Arc::clone(value))).collect();
        self.samples.push(Sample { labels, value: value.into() });
    }

    /// With one value and no labels.
    #[must_use]
    pub fn with(mut self, value: impl Into<Value>) -> Self {
        self.push(&[], value);
        self
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<HistogramTotal> for Value {
    fn from(total: HistogramTotal) -> Self {
        Self::Histogram(Box::new(total))
    }
}

/// What this process uses. What cannot be read is left out.
#[must_use]
pub fn process_families() -> Vec<Family> {
    let mut families = Vec::new();
    if let Ok(memory) = sumun_host::usage::memory() {
        let resident = Family::gauge("sumun_process_resident_memory_bytes", "Resident memory of the worker process.");
        families.push(resident.with(memory.resident_bytes));
    }
    if let Ok(time) = sumun_host::usage::cpu_time() {
        let mut family = Family::counter("sumun_process_cpu_seconds_total", "CPU time of the worker process by mode.");
        family.push(&[("mode", &"user".into())], time.user.as_secs_f64());
        family.push(&[("mode", &"system".into())], time.system.as_secs_f64());
        families.push(family);
    }
    if let Ok(count) = sumun_host::usage::open_descriptors() {
        let open = Family::gauge("sumun_process_open_fds", "Descriptors that the worker process has open.");
        families.push(open.with(count as u64));
    }
    families
}

/// The text format, version 0.0.4. Families of the same name (from several services) are joined,
/// since a name may have only one block; a family without samples is left out.
#[must_use]
pub fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for (index, family) in families.iter().enumerate() {
        let is_same = |other: &&Family| other.name == family.name;
        if families[..index].iter().any(|other| is_same(&other)) {
            continue;
        }
        let mut samples = families[index..].iter().filter(is_same).flat_map(|family| &family.samples).peekable();
        if samples.peek().is_none() {
            continue;
        }
        text.push_str("# HELP ");
        text.push_str(family.name);
        text.push(' ');
        push_escaped(&mut text, family.help, false);
        text.push_str("\n# TYPE ");
        text.push_str(family.name);
        text.push_str(match family.kind {
            Kind::Counter => " counter\n",
            Kind::Gauge => " gauge\n",
            Kind::Histogram => " histogram\n",
        });
        for sample in samples {
            push_sample(&mut text, family.name, sample);
        }
    }
    text
}

fn push_sample(text: &mut String, name: &str, sample: &Sample) {
    match &sample.value {
        Value::Integer(value) => push_line(text, (name, ""), &sample.labels, None, |text| push_integer(text, *value)),
        Value::Number(value) => push_line(text, (name, ""), &sample.labels, None, |text| push_number(text, *value)),
        Value::Histogram(total) => push_histogram(text, name, &sample.labels, total),
    }
}

fn push_histogram(text: &mut String, name: &str, labels: &[(&'static str, Arc<str>)], total: &HistogramTotal) {
    let mut seen = 0;
    for (index, count) in total.buckets.iter().enumerate() {
        seen += count;
        let mut bound = String::new();
        if index == BUCKETS - 1 {
            bound.push_str("+Inf");
        } else {
            push_number(&mut bound, seconds(upper_bound_us(index)));
        }
        push_line(text, (name, "_bucket"), labels, Some(&bound), |text| push_integer(text, seen));
    }
    push_line(text, (name, "_sum"), labels, None, |text| push_number(text, seconds(total.sum_us)));
    push_line(text, (name, "_count"), labels, None, |text| push_integer(text, seen));
}

fn push_line(
    text: &mut String,
    (name, suffix): (&str, &str),
    labels: &[(&'static str, Arc<str>)],
    bound: Option<&str>,
    value: impl FnOnce(&mut String),
) {
    text.push_str(name);
    text.push_str(suffix);
    let labels = labels.iter().map(|(name, value)| (*name, &**value)).chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (name, value) in labels {
        text.push(separator);
        separator = ',';
        text.push_str(name);
        text.push_str("=\"");
        push_escaped(text, value, true);
        text.push('"');
    }
    if separator == ',' {
        text.push('}');
    }
    text.push(' ');
    value(text);
    text.push('\n');
}

/// Backslash and newline are escaped in help texts, and the quote too in label values.
fn push_escaped(text: &mut String, value: &str, quoted: bool) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quoted => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

fn push_integer(text: &mut String, value: u64) {
    text.push_str(itoa::Buffer::new().format(value));
}

fn push_number(text: &mut String, value: f64) {
    if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        // Writing into a String cannot fail.
        write!(text, "{value}").unwrap_or_default();
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests;
