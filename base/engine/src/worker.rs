//! One thread, one event loop, and what belongs to it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::limits::{LOAD_TICKS, TICK};
use crate::listening::Acceptor;
use crate::own_limits::OwnLimits;

/// What the tasks of a worker share. Reached through `Rc`: it never leaves its thread.
#[derive(Debug)]
pub struct Worker {
    pub index: usize,
    pub clock: Clock,
    pub deadlines: Rc<Deadlines>,
    pub own_limits: Arc<OwnLimits>,
    /// Where connections are accepted; those that have ended are gone at the next look.
    pub(crate) acceptors: RefCell<Vec<Weak<Acceptor>>>,
    drain: Cell<Drain>,
    farewells: Cell<usize>,
}

/// How far the end of a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Drain {
    No,
    /// Another process serves: idle connections may wait for their next request.
    WithSuccessor,
    /// Nothing is to hold the end up.
    Alone,
    /// Its time is over.
    Over,
}

impl Worker {
    /// The worker is to end: the next response on a connection is its last.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.get() > Drain::No
    }

    /// The worker is to end, and a connection that waits for its next request is not to hold it up.
    /// With a successor it may: a client that is about to send that request would find it closed.
    #[must_use]
    pub fn closes_idle(&self) -> bool {
        self.drain.get() >= Drain::Alone
    }

    /// The time of the drain is over: whoever can say goodbye in its protocol does so now.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.drain.get() == Drain::Over
    }

    /// Begins the drain and wakes every connection, so that idle ones close now if they have to.
    pub fn drain(&self, successor: bool) {
        self.advance(if successor { Drain::WithSuccessor } else { Drain::Alone });
    }

    /// Ends the drain: wakes every connection once more.
    pub fn end_drain(&self) {
        self.advance(Drain::Over);
    }

    fn advance(&self, drain: Drain) {
        self.drain.set(self.drain.get().max(drain));
        self.deadlines.wake_all();
    }

    /// Says that a connection takes its leave, for as long as the guard lives.
    #[must_use]
    pub fn take_leave(self: &Rc<Self>) -> Farewell {
        self.farewells.set(self.farewells.get() + 1);
        Farewell(Rc::clone(self))
    }

    /// Of `passed` it has worked for `worked`.
    fn tell_load(&self, passed: Duration, worked: Duration) {
        let Some(load) = self.own_limits.worker(self.index) else { return };
        let share = worked.as_micros().saturating_mul(1000) / passed.as_micros().max(1);
        load.cpu.store(share.min(1000) as u32, Relaxed);
        let mut fullest = 0;
        self.acceptors.borrow_mut().retain(|acceptor| {
            let acceptor = acceptor.upgrade();
            fullest = fullest.max(acceptor.as_ref().map_or(0, |acceptor| acceptor.fill_permille()));
            acceptor.is_some()
        });
        load.accept_queue.store(fullest, Relaxed);
    }

    /// Connections that are taking their leave.
    #[must_use]
    pub fn farewells(&self) -> usize {
        self.farewells.get()
    }
}

/// A connection that takes its leave.
#[derive(Debug)]
pub struct Farewell(Rc<Worker>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.farewells.set(self.0.farewells.get().saturating_sub(1));
    }
}

/// Starts the thread of worker `index` and runs `body` on it until it ends.
///
/// # Errors
/// The thread could not be made.
pub fn start<Body, Running>(
    index: usize,
    process_start: Instant,
    own_limits: Arc<OwnLimits>,
    body: Body,
) -> io::Result<JoinHandle<()>>
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
                own_limits,
                acceptors: RefCell::default(),
                drain: Cell::new(Drain::No),
                farewells: Cell::new(0),
            });
            tokio::task::spawn_local(tick(Rc::clone(&worker)));
            body(worker).await;
        });
    })
}

/// Moves the coarse clock and sweeps the deadlines; now and then it tells how busy the worker is.
async fn tick(worker: Rc<Worker>) {
    let mut before = (Instant::now(), sumun_host::usage::thread_cpu_time());
    for ticks in 1_u64.. {
        tokio::time::sleep(TICK).await;
        worker.clock.tick();
        worker.deadlines.sweep(worker.clock.coarse_ms(), worker.own_limits.shortening());
        if ticks.is_multiple_of(LOAD_TICKS) {
            let now = (Instant::now(), sumun_host::usage::thread_cpu_time());
            worker.tell_load(now.0.duration_since(before.0), now.1.saturating_sub(before.1));
            before = now;
        }
    }
}
