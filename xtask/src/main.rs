//! The project's own commands: `cargo xtask test|tidy|bench|interop|deb|fuzz`.
//!
//! Nothing here is part of the product. The dependencies are few on purpose: this program is
//! built before every one of its commands, on a fresh clone first of all.

mod bench;
mod children;
mod deb;
mod fuzz;
mod interop;
mod packages;
mod process;
mod shell;
mod table;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All that CI checks: format, clippy, tests, tidy, the fast interop
    Test(test::Options),
    /// The laws of the house: arrows, unsafe, sizes, documents
    Tidy,
    /// Us and the rivals, interleaved, in one run
    Bench(bench::Options),
    /// Real peers in front of and behind the real binary
    Interop(interop::Options),
    /// A Debian package, into the target folder
    Deb(deb::Options),
    /// Each fuzz target for a while, on the nightly toolchain
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Interop(options) => interop::run(&options),
        Command::Deb(options) => deb::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
