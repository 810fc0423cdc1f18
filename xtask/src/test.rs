//! `cargo xtask test`: the one command that checks all that CI checks.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;

use crate::interop;
use crate::packages::{self, Missing};
use crate::shell::{Fallible, cargo, find_program, passes};
use crate::table;
use crate::tidy;

#[derive(Args)]
pub(crate) struct Options {
    /// Leave the interop out; it is then counted as skipped
    #[arg(long)]
    no_interop: bool,
}

enum Verdict {
    Passed(String),
    Failed(String),
    Skipped(String),
}

/// What the steps leave for the end.
#[derive(Default)]
struct Ledger {
    lines: Vec<Vec<String>>,
    failed: u32,
    skipped: u32,
    /// How the test runner summed up.
    closing: Vec<String>,
}

impl Ledger {
    fn step(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Fallible<Verdict>) {
        println!("\n== {name}");
        let started = Instant::now();
        let verdict = run(self).unwrap_or_else(|error| {
            println!("{error}");
            Verdict::Failed(error.to_string().lines().next().unwrap_or_default().to_owned())
        });
        let (result, details) = match verdict {
            Verdict::Passed(details) => ("passed", details),
            Verdict::Failed(details) => {
                self.failed += 1;
                ("FAILED", details)
            }
            Verdict::Skipped(details) => {
                self.skipped += 1;
                ("skipped", details)
            }
        };
        let seconds = format!("{:.0}", started.elapsed().as_secs_f64());
        self.lines.push(vec![name.to_owned(), result.to_owned(), seconds, details]);
    }
}

/// Every step runs even when an earlier one failed: one run shows all there is to mend.
pub(crate) fn run(options: &Options) -> Fallible<bool> {
    let mut ledger = Ledger::default();
    ledger.step("packages", |_| install());
    ledger.step("format", |_| command(&mut cargo(&["fmt", "--all", "--check"])));
    ledger.step("clippy", |_| {
        command(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    ledger.step("tests", tests);
    ledger.step("doc tests", |_| command(&mut cargo(&["test", "--quiet", "--workspace", "--doc"])));
    ledger.step("tidy", |_| {
        Ok(if tidy::run()? { Verdict::Passed(String::new()) } else { Verdict::Failed("see above".to_owned()) })
    });
    ledger.step("cargo-deny", |_| deny());
    ledger.step("interop", |ledger| interop_step(options, ledger));

    println!();
    print!("{}", table::plain(&["step", "result", "s", ""], &ledger.lines, false));
    println!();
    for line in &ledger.closing {
        println!("{line}");
    }
    let verdict = if ledger.failed == 0 { "all passed" } else { "FAILED" };
    println!("xtask test: {verdict}: {} steps failed, {} skipped", ledger.failed, ledger.skipped);
    Ok(ledger.failed == 0)
}

fn command(command: &mut Command) -> Fallible<Verdict> {
    Ok(if passes(command)? { Verdict::Passed(String::new()) } else { Verdict::Failed("see above".to_owned()) })
}

fn install() -> Fallible<Verdict> {
    // The tests have a Redis of their own where they find one.
    let wanted = [interop::fast_packages(), vec![packages::REDIS]].concat();
    match packages::ensure(&wanted)? {
        Ok(()) => Ok(Verdict::Passed(String::new())),
        // The interop says for each of its parts what is missing.
        Err(Missing::CannotInstall(why)) => Ok(Verdict::Skipped(why)),
    }
}

/// cargo-nextest where it is installed, else cargo's own runner.
fn tests(ledger: &mut Ledger) -> Fallible<Verdict> {
    let arguments: &[&str] = if find_program("cargo-nextest").is_some() {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        // The documentation's tests are a step of their own.
        &["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    // Both write to standard error, cargo's runner to both: joined, so that the order stays.
    let (reader, writer) = std::io::pipe()?;
    let mut command = cargo(arguments);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the writing ends; the reader would wait for them for ever.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if is_closing(&line) {
            ledger.closing.push(line.trim().to_owned());
        }
    }
    let passed = child.wait()?.success();
    let summary = sum_up(&ledger.closing);
    Ok(if passed { Verdict::Passed(summary) } else { Verdict::Failed(summary) })
}

/// nextest: `Summary [ 1.2s] 10 tests run: 10 passed, 0 skipped`; cargo: `test result: ok. …`,
/// one for each binary, of which those without a test say nothing.
fn is_closing(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Summary [") || (line.starts_with("test result:") && !line.contains(" 0 passed; 0 failed"))
}

fn sum_up(closing: &[String]) -> String {
    if let Some(summary) = closing.iter().rev().find_map(|line| line.strip_prefix("Summary [")) {
        return summary.split_once(']').map_or(summary, |(_, rest)| rest).trim().to_owned();
    }
    let count = |word: &str| -> u64 {
        let parts = closing.iter().flat_map(|line| line.split(['.', ';']));
        parts.filter_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok()).sum()
    };
    format!("{} passed, {} failed, {} ignored", count("passed"), count("failed"), count("ignored"))
}

fn deny() -> Fallible<Verdict> {
    if find_program("cargo-deny").is_none() {
        return Ok(Verdict::Skipped("cargo-deny is not installed".to_owned()));
    }
    command(&mut cargo(&["deny", "check", "--hide-inclusion-graph"]))
}

fn interop_step(options: &Options, ledger: &mut Ledger) -> Fallible<Verdict> {
    if options.no_interop {
        return Ok(Verdict::Skipped("--no-interop".to_owned()));
    }
    let count = interop::run_fast()?;
    ledger.skipped += count.skipped;
    let text = format!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(if count.failed == 0 { Verdict::Passed(text) } else { Verdict::Failed(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_are_summed_up() {
        let nextest = ["     Summary [   1.234s] 10 tests run: 9 passed, 1 failed, 0 skipped"];
        assert!(is_closing(nextest[0]));
        assert_eq!(sum_up(&[nextest[0].trim().to_owned()]), "10 tests run: 9 passed, 1 failed, 0 skipped");
        let cargo = [
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 4 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ];
        assert!(cargo.iter().all(|line| is_closing(line)));
        assert_eq!(sum_up(&cargo.map(str::to_owned)), "7 passed, 2 failed, 1 ignored");
        assert!(!is_closing("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured"));
    }
}
