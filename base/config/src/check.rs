//! From what was read to a config that can be relied on, or to everything that is wrong.

use crate::checked::Config;
use crate::lower;
use crate::merge::{self, Merged};
use crate::problems::Problems;
use crate::report::Report;
use crate::shape::Shape;
use crate::sources::Sources;
use crate::{table, walk};

/// How far a check may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Directories and files that the config names are looked at, too, and users of the host: also
    /// with the eyes of the user that the worker process becomes.
    Host,
    /// Directories and files alone, and with our own eyes.
    Files,
    /// Nothing outside is touched.
    Nothing,
}

/// A config without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub config: Config,
    /// What is allowed, and yet can hardly be meant.
    pub warnings: Report,
}

/// Judges what [`crate::load`] read.
///
/// # Errors
/// Every problem that was found, warnings among them, in the order of their places.
pub fn check(sources: &Sources, probe: Probe) -> Result<Checked, Report> {
    let mut problems = Problems::default();
    let Some(Merged { tree, complete }) = merge::merged(sources, &mut problems) else {
        return Err(problems.into_report(&sources.files));
    };
    walk::walk(&tree, Shape::Map(&table::FILE), &mut problems);
    if !complete {
        // What the missing part defines would be reported as unknown.
        return Err(problems.into_report(&sources.files));
    }
    let config = lower::config(&tree, sources, probe, &mut problems);
    let failed = problems.has_errors();
    let report = problems.into_report(&sources.files);
    if failed { Err(report) } else { Ok(Checked { config, warnings: report }) }
}

/// Judges one text, as a file of that name in the current directory; no file is touched.
///
/// # Errors
/// As [`check`].
pub fn check_text(name: &str, text: &str) -> Result<Checked, Report> {
    check(&Sources::of_text(name, text), Probe::Nothing)
}
