//! The control plane's log: plain lines on standard error.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::Level;
use tracing_subscriber::fmt;

/// Installs it; once, at the start of a process that runs for long.
///
/// Times are RFC 3339 in UTC, and left out under systemd, whose journal has its own. Colours only
/// on a terminal, and never with NO_COLOR. `SUMUN_LOG` sets the level.
pub(crate) fn start() {
    let builder = fmt::Subscriber::builder()
        .with_max_level(level())
        .with_target(false)
        .with_ansi(coloured(&io::stderr()))
        .with_writer(io::stderr);
    if goes_to_journal() {
        tracing::subscriber::set_global_default(builder.without_time().finish())
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    }
    .unwrap_or_else(|error| eprintln!("sumun: the log could not be set up: {error}"));
}

/// Whether to colour what is written to `stream`.
pub(crate) fn coloured(stream: &impl IsTerminal) -> bool {
    // https://no-color.org: set to anything that is not empty.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    stream.is_terminal() && !refused && !dumb
}

fn level() -> Level {
    std::env::var("SUMUN_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(Level::INFO)
}

/// JOURNAL_STREAM holds device and inode of the journal's socket; after a redirection it still
/// does, so it is held against where standard error really goes.
fn goes_to_journal() -> bool {
    let Ok(expected) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let identity = || -> io::Result<String> {
        let metadata = File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata()?;
        Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    identity().is_ok_and(|identity| identity == expected)
}
