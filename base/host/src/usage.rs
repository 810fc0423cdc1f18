//! What this process uses: memory and CPU time.

use std::fs;
use std::io;
use std::time::Duration;

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now, with what lies in [`pages`](crate::pages), whether it is mapped or not.
    pub resident_bytes: u64,
    /// The most that was ever resident.
    pub peak_resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
}

/// CPU time of all threads since the start; the kernel counts in steps of 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    pub user: Duration,
    pub system: Duration,
}

/// From /proc/self/status.
pub fn memory() -> io::Result<Memory> {
    let (memory, shared) = parse_status(&fs::read_to_string("/proc/self/status")?).ok_or_else(unreadable)?;
    // No other memory of this process is shared.
    let resident_bytes = memory.resident_bytes + crate::pages::bytes_in_use().saturating_sub(shared);
    Ok(Memory { resident_bytes, peak_resident_bytes: memory.peak_resident_bytes.max(resident_bytes), ..memory })
}

/// From /proc/self/stat.
pub fn cpu_time() -> io::Result<CpuTime> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    parse_stat(&fs::read_to_string("/proc/self/stat")?, ticks_per_second).ok_or_else(unreadable)
}

/// CPU time of the calling thread; the kernel counts it exactly.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Descriptors this process has open now. Since Linux 6.2 the kernel just tells; before, they are listed,
/// which takes milliseconds where they are many thousands.
pub fn open_descriptors() -> io::Result<usize> {
    match fs::metadata("/proc/self/fd")?.len() {
        0 => listed_descriptors(),
        count => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
    }
}

fn listed_descriptors() -> io::Result<usize> {
    // The directory itself is open while it is read.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a file in /proc/self has an unknown form")
}

/// And what of it is resident is memory that could be shared.
fn parse_status(text: &str) -> Option<(Memory, u64)> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let memory = Memory {
        resident_bytes: bytes("VmRSS")?,
        peak_resident_bytes: bytes("VmHWM")?,
        virtual_bytes: bytes("VmSize")?,
    };
    Some((memory, bytes("RssShmem").unwrap_or(0)))
}

fn parse_stat(text: &str, ticks_per_second: u64) -> Option<CpuTime> {
    // The second field is a name in parentheses that may hold anything, even parentheses.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut time = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1)))
    };
    Some(CpuTime { user: time()?, system: time()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let memory = memory().unwrap();
        assert!(memory.resident_bytes > 0);
        assert!(memory.peak_resident_bytes >= memory.resident_bytes);
        assert!(memory.virtual_bytes >= memory.resident_bytes);
        cpu_time().unwrap();
        assert!(open_descriptors().unwrap() >= 3 && listed_descriptors().unwrap() >= 3);
        let before = thread_cpu_time();
        while thread_cpu_time() == before {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "7 (a) b (c)) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0";
        let time = parse_stat(text, 100).unwrap();
        assert_eq!(time.user, Duration::from_millis(2500));
        assert_eq!(time.system, Duration::from_millis(500));
        assert_eq!(parse_stat("", 100), None);
    }
}
