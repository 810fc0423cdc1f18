//! Files of the host that worker processes want to know and may not open: /etc/resolv.conf and
//! /etc/hosts. The rules of their sandbox are about files and not about names, and editors and DHCP
//! clients put new files in the place of these.

use std::fs;
use std::os::unix::fs::MetadataExt;

use sumun_engine::lifecycle::ToWorker;

use super::Supervisor;
use crate::sandbox::{HOSTS, RESOLV_CONF, read_host_files};

/// What tells one state of the two files from another: device, inode, length and time of change of
/// each; `None` for what is not there.
pub(super) type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

fn stamp() -> Stamp {
    [RESOLV_CONF, HOSTS].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
    })
}

impl Supervisor {
    /// A worker process is about to look a name up: it gets the files if they are not what it has.
    pub(super) fn host_files_wanted(&mut self, number: u64) {
        let now = stamp();
        if let Some(process) = self.process(number)
            && process.host_files != Some(now)
        {
            process.host_files = Some(now);
            process.send(ToWorker::HostFiles(read_host_files()));
        }
    }
}
