//! `cargo xtask fuzz [TARGET…]`: each target of `fuzz/` for a while, on the nightly toolchain.
//!
//! What the fuzzer learns stays in the cache folder and is where the next run begins; `--keep`
//! takes what reaches new code into `fuzz/corpus`, whose files also run as plain tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;

use crate::children::TemporaryFolder;
use crate::shell::{Fallible, cache_folder, cargo, find_program, output, target_folder, workspace};
use crate::table;

/// Longer inputs find nothing that shorter ones do not, bytes.
const INPUT_BYTES_MAX: u32 = 2048;
/// Of those that are kept: the corpus is read by people and played in every `cargo test`, bytes.
const KEPT_BYTES_MAX: u32 = 512;
/// An input that takes longer is a finding, seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// So much of what a failed target wrote is shown, lines.
const SHOWN_LINES: usize = 40;

#[derive(Args)]
pub(crate) struct Options {
    /// Which ones; by default all
    targets: Vec<String>,
    /// For each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// List them and end
    #[arg(long)]
    list: bool,
    /// Take the inputs that reach new code into fuzz/corpus
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Fallible<bool> {
    let all = targets()?;
    if options.list {
        all.iter().for_each(|target| println!("{target}"));
        return Ok(true);
    }
    if let Some(unknown) = options.targets.iter().find(|name| !all.contains(name)) {
        return Err(format!("no fuzz target {unknown:?}; there are {}", all.join(", ")).into());
    }
    let chosen: Vec<&String> =
        all.iter().filter(|target| options.targets.is_empty() || options.targets.contains(target)).collect();
    if let Some(why) = missing() {
        println!("fuzz: 0 passed, 0 failed, {} skipped: {why}", chosen.len());
        return Ok(true);
    }
    let seeds = TemporaryFolder::create()?;
    prepare(seeds.path())?;

    let mut lines = Vec::new();
    let mut failed = 0;
    for target in &chosen {
        println!("fuzz {target}: {} s", options.seconds);
        let started = Instant::now();
        let folders = Folders::of(target, seeds.path())?;
        let outcome = fuzz(target, &folders, options.seconds);
        if let Err(why) = &outcome {
            failed += 1;
            println!("  FAILED: {}", why.to_string().replace('\n', "\n  "));
        } else if options.keep {
            keep(target, &folders)?;
        }
        let (result, details) = match outcome {
            Ok(seen) => ("passed", seen),
            Err(_) => ("FAILED", format!("see fuzz/artifacts/{target}")),
        };
        lines.push(vec![
            (*target).clone(),
            result.to_owned(),
            format!("{:.0}", started.elapsed().as_secs_f64()),
            details,
        ]);
    }
    println!();
    print!("{}", table::plain(&["target", "result", "s", ""], &lines, false));
    println!("fuzz: {} passed, {failed} failed, 0 skipped", chosen.len() - failed);
    Ok(failed == 0)
}

fn folder() -> PathBuf {
    workspace().join("fuzz")
}

/// The names of the programs in fuzz/fuzz_targets.
fn targets() -> Fallible<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder().join("fuzz_targets"))? {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(".rs")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What this machine lacks, if anything.
fn missing() -> Option<&'static str> {
    if find_program("cargo-fuzz").is_none() {
        return Some("cargo-fuzz is not installed (cargo install cargo-fuzz)");
    }
    if find_program("c++").is_none() {
        return Some("no C++ compiler, which the fuzzer's runtime needs");
    }
    if output(nightly().arg("--version")).is_err() {
        return Some("no nightly toolchain (rustup toolchain install nightly)");
    }
    None
}

/// `cargo +nightly`; the plus needs rustup's cargo and not the one that runs us.
fn nightly() -> Command {
    let mut command = Command::new("cargo");
    command
        .arg("+nightly")
        .current_dir(folder())
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_TARGET_DIR", target_folder().join("fuzz"));
    command
}

/// Safe Rust has nothing to sanitize, and runs several times faster so.
const NO_SANITIZER: [&str; 2] = ["--sanitizer", "none"];

/// Builds all targets, and writes what is known already as the first inputs.
fn prepare(seeds: &Path) -> Fallible<()> {
    println!("building the fuzz targets");
    output(nightly().args(["fuzz", "build"]).args(NO_SANITIZER))?;
    let mut command = cargo(&["run", "--quiet", "--example", "seeds", "--"]);
    output(command.arg(seeds).current_dir(folder()).env("CARGO_TARGET_DIR", target_folder().join("fuzz"))).map(drop)
}

/// Where the inputs of a target lie.
struct Folders {
    /// The fuzzer writes here.
    learnt: PathBuf,
    kept: PathBuf,
    seeds: PathBuf,
}

impl Folders {
    fn of(target: &str, seeds: &Path) -> Fallible<Self> {
        let folders = Self {
            learnt: cache_folder().join("sumun-fuzz").join(target),
            kept: folder().join("corpus").join(target),
            seeds: seeds.join(target),
        };
        for folder in [&folders.learnt, &folders.kept, &folders.seeds] {
            std::fs::create_dir_all(folder)?;
        }
        Ok(folders)
    }
}

fn fuzz(target: &str, folders: &Folders, seconds: u32) -> Fallible<String> {
    let mut command = nightly();
    command.args(["fuzz", "run"]).args(NO_SANITIZER).arg(target);
    command.args([&folders.learnt, &folders.kept, &folders.seeds]).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg("-print_final_stats=1");
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(sum_up(&said));
    }
    let lines: Vec<&str> = said.lines().collect();
    Err(lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n").into())
}

/// `1234 inputs, 56 MiB at most`, from libFuzzer's final statistics.
fn sum_up(said: &str) -> String {
    let figure = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |rest| rest.trim_start_matches(':').trim())
    };
    format!("{} inputs, {} MiB at most", figure("number_of_executed_units"), figure("peak_rss_mb"))
}

/// Adds to the kept corpus what reaches code that nothing in it does.
fn keep(target: &str, folders: &Folders) -> Fallible<()> {
    let mut command = nightly();
    command.args(["fuzz", "run"]).args(NO_SANITIZER).arg(target);
    command.args([&folders.kept, &folders.learnt, &folders.seeds]).args([
        "--",
        "-set_cover_merge=1",
        "-use_counters=0",
    ]);
    output(command.arg(format!("-max_len={KEPT_BYTES_MAX}"))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_in_the_manifest_and_has_kept_inputs() {
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).expect("the manifest");
        let targets = targets().expect("the folder");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
            let kept = std::fs::read_dir(folder().join("corpus").join(&target));
            assert!(kept.is_ok_and(|mut kept| kept.next().is_some()), "fuzz/corpus/{target} is empty");
        }
    }

    #[test]
    fn statistics_are_summed_up() {
        let said =
            "Done 7 runs in 1 second(s)\nstat::number_of_executed_units: 7\nstat::peak_rss_mb:              42\n";
        assert_eq!(sum_up(said), "7 inputs, 42 MiB at most");
        assert_eq!(sum_up(""), "? inputs, ? MiB at most");
    }
}
