//! A format made ready: what is copied for it, and where each header value lies.

use std::sync::atomic::{AtomicU64, Ordering};

use sumun_config::checked::{LogField, LogFormat, LogPart};

use super::entry::Needs;

/// What workers copy and the writer writes. Replaced whole at a reload; lines that were written
/// under the old one are formatted by the old one.
#[derive(Debug)]
pub(super) struct Plan {
    /// Never given to another plan of this process; 0 is none.
    pub(super) id: u64,
    /// `None` is off.
    pub(super) form: Option<Form>,
    pub(super) needs: Needs,
    /// Names in lower case. Values are kept in this order, those of the request first.
    pub(super) request_headers: Vec<String>,
    pub(super) response_headers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Combined,
    Json,
    Template(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Field(LogField),
    /// A place in the values of the request's headers,
    RequestHeader(usize),
    /// in those of the response's.
    ResponseHeader(usize),
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Plan {
    pub(super) fn off() -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            form: None,
            needs: Needs::NOTHING,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }
    }

    pub(super) fn new(format: &LogFormat) -> Self {
        let mut plan = Self { needs: Needs::of_format(format), ..Self::off() };
        plan.form = Some(match format {
            LogFormat::Combined => Form::Combined,
            LogFormat::Json => Form::Json,
            LogFormat::Template(parts) => Form::Template(parts.iter().map(|part| plan.part(part)).collect()),
        });
        plan
    }

    fn part(&mut self, part: &LogPart) -> Part {
        match part {
            LogPart::Text(text) => Part::Text(text.clone()),
            LogPart::Field(LogField::RequestHeader(name)) => {
                Part::RequestHeader(place(&mut self.request_headers, name))
            }
            LogPart::Field(LogField::ResponseHeader(name)) => {
                Part::ResponseHeader(place(&mut self.response_headers, name))
            }
            LogPart::Field(field) => Part::Field(field.clone()),
        }
    }
}

/// Where the values of this header lie; a name that comes twice is kept once.
fn place(names: &mut Vec<String>, name: &str) -> usize {
    let name = name.to_ascii_lowercase();
    names.iter().position(|there| *there == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}
