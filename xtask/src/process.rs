//! What /proc says of a tree of processes: CPU time and memory.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Sub;

/// CPU time of a process and all its descendants and threads, since their start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// Time on a CPU by the scheduler's own books, exact to the nanosecond.
    pub(crate) total_ns: u64,
    /// User and system time. The kernel samples at its tick whether a thread is in user space,
    /// so that the split is less exact than the total.
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }
}

impl CpuTime {
    pub(crate) fn user_share(self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 { 0.0 } else { self.user_ticks as f64 / ticks as f64 }
    }
}

/// Memory of a tree, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Highest resident size each process ever had, summed.
    pub(crate) peak_resident_kib: u64,
    pub(crate) resident_kib: u64,
    /// Resident, a page shared by n processes counted as an n-th for each.
    pub(crate) proportional_kib: u64,
}

/// A process and all its living descendants.
pub(crate) fn tree(root: u32) -> BTreeSet<u32> {
    let parents = parents();
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        for (process, parent) in &parents {
            if tree.contains(parent) {
                tree.insert(*process);
            }
        }
        if tree.len() == before {
            return tree;
        }
    }
}

/// (process, its parent) of every process.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process: u32| Some((process, *stat_numbers(process)?.first()? as u32)))
        .collect()
}

/// The numbers of /proc/PID/stat after the state: parent first, utime and stime at 10 and 11.
fn stat_numbers(process: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    // Some fields are signed; none of those is read here.
    Some(rest.split_whitespace().skip(1).map(|number| number.parse().unwrap_or(0)).collect())
}

pub(crate) fn cpu_time(processes: &BTreeSet<u32>) -> CpuTime {
    let mut sum = CpuTime::default();
    for &process in processes {
        if let Some(numbers) = stat_numbers(process) {
            sum.user_ticks += numbers.get(10).copied().unwrap_or(0);
            sum.system_ticks += numbers.get(11).copied().unwrap_or(0);
        }
        // The file of the process itself counts its first thread only.
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let on_cpu_ns = schedstat.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
            sum.total_ns += on_cpu_ns.unwrap_or(0);
        }
    }
    sum
}

pub(crate) fn memory(processes: &BTreeSet<u32>) -> Memory {
    let mut sum = Memory::default();
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        sum.peak_resident_kib += field_kib(&status, "VmHWM:");
        sum.resident_kib += field_kib(&status, "VmRSS:");
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
        sum.proportional_kib += field_kib(&rollup, "Pss:");
    }
    sum
}

fn field_kib(text: &str, field: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Time that a CPU was not idle since boot, in clock ticks (10 ms).
pub(crate) fn busy_ticks(cpu: u32) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let label = format!("cpu{cpu} ");
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix(&label)) else {
        return 0;
    };
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    numbers.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum()
}

/// How many files this process may open at most, by its hard limit.
pub(crate) fn open_files_hard_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().nth(1))
        .map_or(1024, |number| number.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_itself() {
        let own = tree(std::process::id());
        assert!(own.contains(&std::process::id()));
        let mut work = 0_u64;
        while cpu_time(&own).total_ns == 0 {
            work = std::hint::black_box(work + 1);
        }
        let memory = memory(&own);
        assert!(memory.resident_kib > 0 && memory.peak_resident_kib >= memory.resident_kib / 2);
        assert!(open_files_hard_limit() > 0);
    }

    #[test]
    fn children_belong_to_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let found = tree(std::process::id()).contains(&child.id());
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert!(found);
    }
}
