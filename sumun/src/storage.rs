//! The cache's pool on disk in the life of a worker process: which devices it gets, and when it lets them go.
//!
//! One process has the devices at a time. Whoever hands over lets them go before it says what it knows, so
//! that the next one begins with a warm cache.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sumun_config::checked::Config;
use sumun_engine::lifecycle::{Label, Passed};
use sumun_gateway::Gateway;
use tokio::task::JoinHandle;

use crate::limits::{DRAIN_GRACE, RUNTIME_STATE_TIMEOUT, STOP_GRACE};

/// The pool has this long to be open before the first connection is accepted: without it, everybody would
/// be sent to the servers.
const FIRST_OPENED: Duration = Duration::from_secs(5);

/// What waits to be written has this long to become durable. What does not is lost, and nothing else is.
pub(crate) const LEAVE_PATIENCE: Duration = Duration::from_secs(4);

/// The same where the process is told to end at once.
pub(crate) const LEAVE_AT_ONCE: Duration = Duration::from_millis(300);

const _: () = assert!(LEAVE_PATIENCE.as_millis() < RUNTIME_STATE_TIMEOUT.as_millis());
const _: () = assert!(LEAVE_PATIENCE.as_millis() < DRAIN_GRACE.as_millis());
const _: () = assert!(LEAVE_AT_ONCE.as_millis() < STOP_GRACE.as_millis());

/// Takes the devices out of what was passed, with the paths that the config has for them.
pub(crate) fn devices(passed: &mut Vec<Passed>) -> Vec<(PathBuf, File)> {
    let is_device = |one: &mut Passed| matches!(one.label, Label::PhysicalVolume { .. });
    let named = |Passed { label, descriptor }| match label {
        Label::PhysicalVolume { path } => Some((path, File::from(descriptor))),
        _ => None,
    };
    passed.extract_if(.., is_device).filter_map(named).collect()
}

/// Opens the pool, and waits for it a while.
pub(crate) async fn open(gateway: &Gateway, config: &Config, devices: Vec<(PathBuf, File)>) {
    gateway.store_on(config, devices);
    if tokio::time::timeout(FIRST_OPENED, gateway.storage_settled()).await.is_err() {
        tracing::warn!("the cache on disk is not open yet: serving begins without it");
    }
}

/// The devices on their way to another process.
#[derive(Default)]
pub(crate) struct Leaving(Option<JoinHandle<()>>);

impl Leaving {
    /// Begins to let them go, which goes on whoever waits for it; asking again changes nothing.
    pub(crate) fn begin(&mut self, gateway: &Arc<Gateway>) {
        let gateway = Arc::clone(gateway);
        self.0.get_or_insert_with(|| tokio::task::spawn_local(async move { gateway.leave_storage().await }));
    }

    /// Begins, and waits until they are let go, or for so long.
    pub(crate) async fn wait(&mut self, gateway: &Arc<Gateway>, patience: Duration) {
        self.begin(gateway);
        let Some(task) = self.0.as_mut().filter(|task| !task.is_finished()) else { return };
        if tokio::time::timeout(patience, task).await.is_err() {
            tracing::warn!("the cache's disks are slow: what waits to be written to them may be lost");
        }
    }

    /// The other process does not come: whatever was let go is taken back.
    pub(crate) fn take_back(&mut self, gateway: &Gateway) {
        if self.0.take().is_some() {
            gateway.return_to_storage();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn devices_are_told_from_the_rest() {
        let descriptor = || OwnedFd::from(File::open("/dev/null").expect("it is there"));
        let labels = [
            Label::Admin,
            Label::PhysicalVolume { path: PathBuf::from("/a") },
            Label::AccessLog,
            Label::PhysicalVolume { path: PathBuf::from("/b") },
        ];
        let mut passed = labels.map(|label| Passed { label, descriptor: descriptor() }).into();
        let paths: Vec<PathBuf> = devices(&mut passed).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
        let left: Vec<Label> = passed.into_iter().map(|one| one.label).collect();
        assert_eq!(left, [Label::Admin, Label::AccessLog]);
    }
}
