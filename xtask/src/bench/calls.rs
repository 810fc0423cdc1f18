//! System calls per request, counted by strace under the same load.
//!
//! Tracing slows a process down several times, so it is a run of its own and tells nothing about
//! time; and a slow proxy finds more in its queues at once, so that calls which serve several
//! requests (epoll_wait above all) are rather undercounted.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::load::Load;
use super::rows::Row;
use crate::children::{Running, TemporaryFolder};
use crate::shell::Fallible;

const SECONDS: u32 = 3;
const ATTACH_LIMIT: Duration = Duration::from_secs(10);

/// One line: each call that is made at least once in a hundred requests, most frequent first. `load` makes
/// the row's load for so many seconds.
pub(crate) fn per_request(
    row: &Row,
    processes: &BTreeSet<u32>,
    load: impl FnOnce(u32) -> Fallible<Load>,
) -> Fallible<String> {
    let folder = TemporaryFolder::create()?;
    let summary = folder.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-o"]).arg(&summary);
    for process in processes {
        command.args(["-p", &process.to_string()]);
    }
    let mut strace = Running::start("strace", &mut command, &folder)?;
    let deadline = Instant::now() + ATTACH_LIMIT;
    while processes.iter().any(|process| !strace.printed().contains(&format!("Process {process} attached"))) {
        if strace.ended()?.is_some() || Instant::now() >= deadline {
            return Err(format!("strace does not attach: {}", strace.printed()).into());
        }
        sleep(Duration::from_millis(20));
    }
    let load = load(SECONDS)?;
    strace.signal("INT")?;
    strace.wait(ATTACH_LIMIT)?;
    let calls = parse(&std::fs::read_to_string(summary)?);
    let requests = load.requests.max(1) as f64;
    let total: u64 = calls.iter().map(|(_, count)| count).sum();
    let each = calls.iter().filter(|(_, count)| *count as f64 / requests >= 0.01);
    let each: Vec<String> = each.map(|(name, count)| format!("{name} {:.2}", *count as f64 / requests)).collect();
    Ok(format!("{:.2} calls/{}: {}", total as f64 / requests, row.unit(), each.join(", ")))
}

/// (name, count) of `strace -c`, most frequent first.
fn parse(summary: &str) -> Vec<(String, u64)> {
    let mut calls: Vec<(String, u64)> = summary
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (share, count, name) = (words.first()?, words.get(3)?, words.last()?);
            share.parse::<f64>().ok()?;
            (*name != "total").then_some(((*name).to_owned(), count.parse().ok()?))
        })
        .collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 80.00    0.000900          10        10           sendto
 20.00    0.000200           1        20         3 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.001100                    30         3 total
";
        assert_eq!(parse(summary), [("recvfrom".to_owned(), 20), ("sendto".to_owned(), 10)]);
    }
}
