//! The way to the disk: a bounded number of operations at once, none of them on a worker's thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::limits::{DISK_OPERATIONS_MAX, DISK_WAITERS_MAX};

/// Shared by all workers of the process.
#[derive(Debug)]
pub(crate) struct DiskGate {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Why an operation was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateError {
    /// Too many are waiting already.
    Busy,
    /// The operation panicked, or the runtime is going down.
    Lost,
}

impl DiskGate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(DISK_OPERATIONS_MAX)), waiting: AtomicUsize::new(0) })
    }

    /// Does work that may block, unless [`DISK_WAITERS_MAX`] requests are waiting for their turn.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GateError> {
        let _waiter = Waiter::enter(&self.waiting).ok_or(GateError::Busy)?;
        self.run_in_turn(work).await
    }

    /// The same for what has begun already and must not fail for being late; each connection has
    /// one such operation at most.
    pub(crate) async fn run_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GateError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_closed| GateError::Lost)?;
        // The permit moves with the work: who gives up waiting frees no place while the disk is
        // still busy for him.
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        })
        .await
        .map_err(|_lost| GateError::Lost)
    }
}

impl From<GateError> for io::Error {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Busy => Self::new(io::ErrorKind::ResourceBusy, "too many wait for the disk"),
            GateError::Lost => Self::other("a disk operation was lost"),
        }
    }
}

/// One who waits; counts itself out when it is dropped.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Option<Self> {
        if waiting.fetch_add(1, Ordering::Relaxed) >= DISK_WAITERS_MAX {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(waiting))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let gate = DiskGate::new();
        let hold = Arc::clone(&gate.permits).acquire_many_owned(DISK_OPERATIONS_MAX as u32).await;
        let mut waiting = Vec::new();
        for _ in 0..DISK_WAITERS_MAX {
            let gate = Arc::clone(&gate);
            waiting.push(tokio::spawn(async move { gate.run(|| 1).await }));
        }
        while gate.waiting.load(Ordering::Relaxed) < DISK_WAITERS_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.run(|| 1).await, Err(GateError::Busy));
        drop(hold);
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap(), Ok(1));
        }
        assert_eq!(gate.run(|| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let gate = DiskGate::new();
        assert_eq!(gate.run(|| -> () { panic!("on purpose") }).await, Err(GateError::Lost));
        assert_eq!(gate.run(|| 3).await, Ok(3));
        assert_eq!(gate.permits.available_permits(), DISK_OPERATIONS_MAX);
    }
}
