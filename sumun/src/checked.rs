//! From a file, or from what a process was sent, to the checked config.

use std::path::Path;

use sumun_config::{Checked, Probe, Report, Sources};

/// Reads and checks a file as `sumun run` does before it starts or reloads.
pub(crate) fn load(path: &Path) -> Result<(Sources, Checked), Report> {
    let sources = sumun_config::load(path)?;
    let checked = sumun_config::check(&sources, Probe::Host)?;
    Ok((sources, checked))
}

/// The config in a message from the supervisor, which has checked it already: files are not
/// looked at again, since a worker process may not be allowed to.
pub(crate) fn received(sources: &str) -> Result<Checked, String> {
    let sources = serde_json::from_str(sources).map_err(|error| error.to_string())?;
    of(&Sources::from_json(&sources)?)
}

/// The config of sources that were checked once, by another process or program.
pub(crate) fn of(sources: &Sources) -> Result<Checked, String> {
    sumun_config::check(sources, Probe::Nothing).map_err(|report| report.render(false))
}
