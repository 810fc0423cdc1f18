//! How much memory this process and those that share its bound may have.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::limits::CGROUP_LEVELS;

/// Where systemd and containers have cgroup v2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A file of a cgroup is read up to here; `memory.stat` has about 2 KiB.
const FILE_BYTES: usize = 8192;

/// What of its memory is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    pub used: u64,
    pub limit: u64,
}

impl Fill {
    /// In thousandths.
    #[must_use]
    pub fn permille(self) -> u32 {
        u32::try_from(u128::from(self.used) * 1000 / u128::from(self.limit.max(1))).unwrap_or(u32::MAX)
    }
}

/// The bounds that hold for this process: those of its cgroup (v2) and of the cgroups around it, and the
/// memory of the machine. Their files are kept open: they can be read from inside the sandbox.
#[derive(Debug, Default)]
pub struct Bounds(Vec<Cgroup>);

#[derive(Debug)]
struct Cgroup {
    limit: File,
    current: File,
    stat: File,
}

impl Bounds {
    /// Looks for them; before the sandbox is entered. A cgroup that has no bound now is passed over.
    #[must_use]
    pub fn find() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // Version 2 has one line, which begins like this.
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
        path.map_or_else(Self::default, |path| Self::find_in(Path::new(CGROUPS), Path::new(path)))
    }

    fn find_in(root: &Path, own: &Path) -> Self {
        let bounded = |path: &Path| {
            let open = |name: &str| File::open(root.join(path).join(name)).ok();
            let group =
                Cgroup { limit: open("memory.max")?, current: open("memory.current")?, stat: open("memory.stat")? };
            group.fill().is_ok().then_some(group)
        };
        Self(own.ancestors().take(CGROUP_LEVELS).filter_map(bounded).collect())
    }

    /// The fullest of them.
    ///
    /// # Errors
    /// What this process uses cannot be read.
    pub fn fill(&self) -> io::Result<Fill> {
        let system = rustix::system::sysinfo();
        #[allow(clippy::useless_conversion, reason = "the widths are those of the architecture")]
        let limit = u64::from(system.totalram).saturating_mul(u64::from(system.mem_unit));
        let machine = Fill { used: crate::usage::memory()?.resident_bytes, limit };
        let fills = self.0.iter().filter_map(|group| group.fill().ok());
        Ok(fills.fold(machine, |most, fill| if fill.permille() > most.permille() { fill } else { most }))
    }
}

impl Cgroup {
    /// An error: there is no bound (`max`).
    fn fill(&self) -> io::Result<Fill> {
        let number = |file: &File| {
            read(file)?.trim().parse::<u64>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let (limit, current, stat) = (number(&self.limit)?, number(&self.current)?, read(&self.stat)?);
        let of = |name: &str| {
            let mut lines = stat.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            lines.next().and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0)
        };
        // Pages of files and what is known of folders are let go of where memory is short; pages of shared
        // memory are counted among those of files.
        let dispensable = of("file").saturating_sub(of("shmem")) + of("slab_reclaimable");
        Ok(Fill { used: current.saturating_sub(dispensable), limit })
    }
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = [0; FILE_BYTES];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &Path, max: &str, current: u64, stat: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("memory.max"), max).unwrap();
        fs::write(path.join("memory.current"), format!("{current}\n")).unwrap();
        fs::write(path.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_tightest_bound_around_the_process_counts() {
        let root = std::env::temp_dir().join(format!("sumun-memory-{}", std::process::id()));
        let huge = 1 << 50;
        group(&root.join("a/b"), "max\n", huge, "");
        group(
            &root.join("a"),
            "1000\n",
            1000,
            "anon 300\nfile 500\nshmem 100\nfile_mapped 400\nslab_reclaimable 100\n",
        );
        let bounds = Bounds::find_in(&root, Path::new("a/b"));
        let fill = bounds.fill().unwrap();
        assert_eq!(fill, Fill { used: 500, limit: 1000 });
        assert_eq!(fill.permille(), 500);
        fs::write(root.join("a/memory.max"), "2000\n").unwrap();
        assert_eq!(bounds.fill().unwrap().permille(), 250, "it is read anew each time");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn without_a_bound_of_its_own_the_machine_is_the_bound() {
        let fill = Bounds::default().fill().unwrap();
        assert!(fill.used > 0 && fill.limit > fill.used);
        assert!(Bounds::find().fill().is_ok());
    }
}
