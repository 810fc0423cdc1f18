//! Files and TCP ports: Landlock.
//!
//! Handled are the access rights up to version 6 of its interface (Linux 6.12), the newest that
//! bring more than logging and that could be tried. Landlock knows neither UDP nor addresses.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};

use super::{Allowances, LANDLOCK_WITH_PORTS};

const NEWEST: ABI = ABI::V6;

/// What each version of the interface brought after the first, and the kernel that has it.
const BROUGHT: [(u32, &str); 4] = [
    (3, "truncation of files (Linux 6.2)"),
    (LANDLOCK_WITH_PORTS, "TCP ports to connect to and to bind (Linux 6.7)"),
    (5, "ioctl on devices (Linux 6.10)"),
    (6, "signals to other processes and abstract Unix sockets (Linux 6.12)"),
];

/// A ruleset with the descriptors of its paths, before it is in force.
pub(super) struct Rules {
    ruleset: Result<RulesetCreated, RulesetError>,
    paths: Vec<OwnedFd>,
}

/// Opens the paths of the rules, which needs the rights that are about to be given up.
pub(super) fn prepare(allowances: &Allowances) -> Rules {
    let mut paths = Vec::new();
    let ruleset = ruleset(allowances, &mut paths);
    Rules { ruleset, paths }
}

impl Rules {
    /// What has to stay open for the rules to hold: see [`super::Entered`].
    pub(super) fn held(&self) -> io::Result<Vec<OwnedFd>> {
        let in_proc = |descriptor: &&OwnedFd| {
            rustix::fs::fstatfs(descriptor).is_ok_and(|system| system.f_type == rustix::fs::PROC_SUPER_MAGIC)
        };
        self.paths.iter().filter(in_proc).map(OwnedFd::try_clone).collect()
    }

    /// Puts them in force for the calling thread and those that it starts; the version of the
    /// interface, and what is not restricted.
    pub(super) fn restrict(self) -> (u32, Vec<String>) {
        let restricted = self.ruleset.and_then(RulesetCreated::restrict_self);
        let version = match restricted {
            Err(error) => return (0, vec![format!("files and TCP ports: {error}")]),
            Ok(status) => match status.landlock {
                LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
                LandlockStatus::Available { effective_abi, kernel_abi } => {
                    kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(effective_abi as u32)
                }
            },
        };
        (version, missing(version))
    }
}

fn missing(version: u32) -> Vec<String> {
    if version == 0 {
        return vec!["files, TCP ports and signals (this needs Landlock: Linux 6.12, with it turned on)".to_owned()];
    }
    BROUGHT.iter().filter(|(since, _)| *since > version).map(|(_, what)| (*what).to_owned()).collect()
}

fn ruleset(allowances: &Allowances, paths: &mut Vec<OwnedFd>) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in &allowances.read {
        ruleset = add_path(ruleset, path, AccessFs::ReadFile | AccessFs::ReadDir, paths)?;
    }
    let write = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    for path in &allowances.write {
        ruleset = add_path(ruleset, path, write, paths)?;
    }
    for port in &allowances.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    for port in &allowances.bind {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    Ok(ruleset)
}

fn add_path(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
    paths: &mut Vec<OwnedFd>,
) -> Result<RulesetCreated, RulesetError> {
    // What we cannot reach now we cannot reach later either, with fewer rights.
    let Ok(descriptor) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(ruleset);
    };
    let ruleset = ruleset.add_rule(PathBeneath::new(descriptor.as_fd(), fitting(descriptor.as_fd(), access)))?;
    paths.push(descriptor);
    Ok(ruleset)
}

/// Rights that only folders can have are refused by the kernel for files.
fn fitting(descriptor: BorrowedFd<'_>, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    let is_directory =
        rustix::fs::fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if is_directory { access } else { access & AccessFs::from_file(NEWEST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_older_kernels_lack_is_named() {
        assert!(missing(6).is_empty() && missing(7).is_empty());
        assert_eq!(missing(4).len(), 2);
        assert!(missing(3)[0].contains("TCP ports"));
        assert_eq!(missing(1).len(), BROUGHT.len());
        assert_eq!(missing(0).len(), 1);
    }
}
