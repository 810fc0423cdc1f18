//! Gathers problems while a config is checked; places become lines of source at the end.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::limits;
use crate::node::Place;
use crate::report::{Problem, Report, Rule, Severity};
use crate::sources::SourceFile;

#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Found>,
    /// Where errors start: file, line, column.
    refused: HashSet<(usize, u32, u32)>,
}

#[derive(Debug)]
struct Found {
    place: Place,
    message: String,
    help: Option<String>,
    severity: Severity,
    rule: Rule,
}

impl Problems {
    pub(crate) fn error(&mut self, place: Place, rule: Rule, message: impl Into<String>) {
        self.push(place, rule, Severity::Error, message.into(), None);
    }

    pub(crate) fn error_with_help(
        &mut self,
        place: Place,
        rule: Rule,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(place, rule, Severity::Error, message.into(), Some(help.into()));
    }

    pub(crate) fn warn(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(place, Rule::Meaning, Severity::Warning, message.into(), Some(help.into()));
    }

    pub(crate) fn push(&mut self, place: Place, rule: Rule, severity: Severity, message: String, help: Option<String>) {
        if severity == Severity::Error {
            self.refused.insert((place.file, place.line, place.column));
        }
        self.found.push(Found { place, message, help, severity, rule });
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Has something that starts here been refused already?
    pub(crate) fn is_refused(&self, place: Place) -> bool {
        self.refused.contains(&(place.file, place.line, place.column))
    }

    /// `FILE:LINE:COLUMN` of a place, for a message that names a second one.
    pub(crate) fn place_text(files: &[SourceFile], place: Place) -> String {
        let file = files.get(place.file).map(|file| file.name.display().to_string()).unwrap_or_default();
        format!("{file}:{}:{}", place.line, place.column)
    }

    pub(crate) fn into_report(mut self, files: &[SourceFile]) -> Report {
        self.found.sort_by_key(|found| (found.place.file, found.place.line, found.place.column));
        self.found.dedup_by(|next, kept| next.place == kept.place && next.message == kept.message);
        // Errors first in what is kept: a crowd of warnings must not hide one.
        let omitted = self.found.len().saturating_sub(limits::PROBLEMS);
        if omitted > 0 {
            self.found.sort_by_key(|found| found.severity == Severity::Warning);
            self.found.truncate(limits::PROBLEMS);
            self.found.sort_by_key(|found| (found.place.file, found.place.line, found.place.column));
        }
        let problems = self
            .found
            .into_iter()
            .map(|found| {
                let file = files.get(found.place.file);
                Problem {
                    file: file.map_or_else(PathBuf::new, |file| file.name.clone()),
                    line: found.place.line,
                    column: found.place.column,
                    length: found.place.length.max(1),
                    message: found.message,
                    help: found.help,
                    severity: found.severity,
                    rule: found.rule,
                    source: file.map(|file| file.line(found.place.line)).unwrap_or_default(),
                }
            })
            .collect();
        Report { problems, omitted }
    }
}
