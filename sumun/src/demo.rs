//! `sumun demo`: the whole thing working with nothing else installed.

use std::process::ExitCode;

pub(crate) fn run() -> ExitCode {
    eprintln!("sumun: the demonstration is not built into this version yet");
    ExitCode::FAILURE
}
