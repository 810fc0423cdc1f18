//! One thread, one event loop, and what belongs to it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::limits::TICK;

/// What the tasks of a worker share. Reached through `Rc`: it never leaves its thread.
#[derive(Debug)]
pub struct Worker {
    pub index: usize,
    pub clock: Clock,
    pub deadlines: Rc<Deadlines>,
    draining: Cell<bool>,
}

impl Worker {
    /// The worker is to end: connections are closed as soon as they have nothing in flight.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Begins the drain and wakes every connection, so that idle ones close now.
    pub fn drain(&self) {
        self.draining.set(true);
        self.deadlines.wake_all();
    }
}

/// Starts the thread of worker `index` and runs `body` on it until it ends.
///
/// # Errors
/// The thread could not be made.
pub fn start<Body, Running>(index: usize, process_start: Instant, body: Body) -> io::Result<JoinHandle<()>>
where
    Body: FnOnce(Rc<Worker>) -> Running + Send + 'static,
    Running: Future<Output = ()> + 'static,
{
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!("worker {index} has no event loop: {error}");
                return;
            }
        };
        runtime.block_on(async move {
            let worker = Rc::new(Worker {
                index,
                clock: Clock::new(process_start),
                deadlines: Rc::new(Deadlines::default()),
                draining: Cell::new(false),
            });
            tokio::task::spawn_local(tick(Rc::clone(&worker)));
            body(worker).await;
        });
    })
}

/// Moves the coarse clock and sweeps the deadlines.
async fn tick(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TICK).await;
        worker.clock.tick();
        worker.deadlines.sweep(worker.clock.coarse_ms());
    }
}
