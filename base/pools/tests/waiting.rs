//! Waiting for a place: order, bounds, and no lost wake-up, on real threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{pool, pools, until};
use sumun_config::checked::Concurrency;
use sumun_pools::{
    AdminState, Admission, AdmissionLimits, Asker, Caller, NotAdmitted, PickKey, Picker, Priority, Refused, Tried,
};

const CLIENT: Asker = Asker { caller: Caller::Client, priority: Priority::Normal, client: 7 };
const OWN: Asker = Asker { caller: Caller::OwnServer, ..CLIENT };
const LONG: Duration = Duration::from_secs(600);

/// Nobody is pushed out.
fn limits(concurrency: Option<u32>, queue: u32, self_calls: Option<u32>) -> AdmissionLimits {
    let concurrency = concurrency.map_or(Concurrency::Unbounded, Concurrency::Fixed);
    AdmissionLimits { concurrency, queue, patience_ms: u64::MAX, self_calls }
}

fn admission(concurrency: u32, queue: u32) -> Arc<Admission> {
    Arc::new(Admission::new(limits(Some(concurrency), queue, Some(concurrency / 2)), Instant::now()))
}

#[tokio::test]
async fn full_queue_and_time_out() {
    let admission = admission(1, 1);
    let held = admission.acquire(CLIENT, LONG, None).await.unwrap();
    assert_eq!(admission.acquire(CLIENT, Duration::ZERO, None).await.unwrap_err(), NotAdmitted::TimedOut);
    assert_eq!(admission.waiting(), 0);
    let waiter = tokio::spawn({
        let admission = Arc::clone(&admission);
        async move { admission.acquire(CLIENT, LONG, None).await }
    });
    until(|| admission.waiting() == 1).await;
    assert_eq!(admission.acquire(CLIENT, LONG, None).await.unwrap_err(), NotAdmitted::Full);
    drop(held);
    let permit = waiter.await.unwrap().unwrap();
    assert_eq!((admission.inside(), admission.waiting()), (1, 0));
    drop(permit);
    assert_eq!(admission.inside(), 0);
}

#[tokio::test]
async fn first_come_first_served_and_nobody_overtakes() {
    let admission = admission(1, 100);
    let mut held = admission.acquire(CLIENT, LONG, None).await.unwrap();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..10_u32 {
        let (admission, sender) = (Arc::clone(&admission), sender.clone());
        let before = admission.waiting();
        tokio::spawn({
            let admission = Arc::clone(&admission);
            async move {
                let permit = admission.acquire(CLIENT, LONG, None).await.unwrap();
                sender.send((number, permit)).unwrap();
            }
        });
        until(|| admission.waiting() == before + 1).await;
    }
    for number in 0..10 {
        drop(held);
        // The place is taken already, although the waiter has not run yet.
        assert!(admission.try_acquire(Caller::Client).unwrap().is_none());
        let (served, permit) = order.recv().await.unwrap();
        assert_eq!(served, number);
        held = permit;
    }
}

#[tokio::test]
async fn a_higher_limit_lets_waiters_in() {
    let admission = admission(1, 10);
    let _held = admission.acquire(CLIENT, LONG, None).await.unwrap();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move { admission.acquire(CLIENT, LONG, None).await.unwrap() })
        })
        .collect();
    until(|| admission.waiting() == 3).await;
    admission.set_limits(limits(Some(3), 10, None));
    until(|| admission.waiting() == 1 && admission.inside() == 3).await;
    admission.set_limits(limits(None, 10, None));
    for waiter in waiters {
        waiter.await.unwrap();
    }
}

#[tokio::test]
async fn own_servers_hold_at_most_half() {
    let admission = admission(4, 10);
    let one = admission.acquire(OWN, LONG, None).await.unwrap();
    let _two = admission.acquire(OWN, LONG, None).await.unwrap();
    assert_eq!(admission.acquire(OWN, LONG, None).await.unwrap_err(), NotAdmitted::SelfCall);
    let _three = admission.acquire(CLIENT, LONG, None).await.unwrap();
    drop(one);
    assert!(admission.acquire(OWN, LONG, None).await.is_ok());
}

#[test]
fn half_of_the_servers_bounds_where_the_pool_has_none() {
    let mut settings = pool(&["10.0.0.1:80", "10.0.0.2:80"]);
    for server in &mut settings.servers {
        server.max_connections = Some(2);
    }
    let pools = pools(&settings);
    let admission = Arc::clone(pools.pool("app").unwrap().admission());
    let inside: Vec<_> = (0..2).map(|_| admission.try_acquire(Caller::OwnServer).unwrap().unwrap()).collect();
    assert!(matches!(admission.try_acquire(Caller::OwnServer), Err(NotAdmitted::SelfCall)));
    drop(inside);
}

/// Runs `work` on four threads, each with its own event loop and twenty-five tasks.
fn on_threads<Work, Done>(work: Work)
where
    Work: Fn(u64) -> Done + Send + Sync + Copy + 'static,
    Done: Future<Output = ()> + 'static,
{
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    let tasks: Vec<_> =
                        (0..25).map(|task| tokio::task::spawn_local(work(thread * 25 + task))).collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Lets other tasks run between none and three times.
async fn dither(random: &mut fastrand::Rng) {
    for _ in 0..random.u32(..4) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn never_more_inside_than_allowed_and_everybody_gets_in() {
    static INSIDE: AtomicU32 = AtomicU32::new(0);
    static SERVED: AtomicU32 = AtomicU32::new(0);
    static SHARED: std::sync::OnceLock<Arc<Admission>> = std::sync::OnceLock::new();
    let shared = SHARED.get_or_init(|| admission(3, 1000));
    on_threads(|seed| async move {
        let admission = SHARED.get().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            if random.u8(..) < 64 {
                // Gives up after a while, waiting or served.
                tokio::select! {
                    biased;
                    permit = admission.acquire(CLIENT, LONG, None) => { drop(permit); }
                    () = dither(&mut random) => {}
                }
                continue;
            }
            let permit = admission.acquire(CLIENT, LONG, None).await.unwrap();
            assert!(INSIDE.fetch_add(1, Ordering::SeqCst) < 3);
            dither(&mut random).await;
            INSIDE.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
            SERVED.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert!(SERVED.load(Ordering::SeqCst) > 10_000);
    assert_eq!((shared.inside(), shared.waiting()), (0, 0));
}

type Shared = std::sync::OnceLock<Arc<sumun_pools::Pools>>;

#[test]
fn places_at_servers_are_handed_over() {
    static SHARED: Shared = Shared::new();
    hand_over(&SHARED, false);
}

/// Two bounds at once: who gets one of them and not the other gives it back, also while it serves the queue.
#[test]
fn places_at_servers_with_two_bounds_are_handed_over() {
    static SHARED: Shared = Shared::new();
    hand_over(&SHARED, true);
}

fn hand_over(shared: &'static Shared, is_adaptive: bool) {
    let mut settings = pool(&["10.0.0.1:80", "10.0.0.2:80"]);
    settings.adaptive_servers = is_adaptive;
    // Nobody is pushed out before that.
    settings.queue.timeout = LONG;
    for server in &mut settings.servers {
        server.max_connections = Some(2);
    }
    let pools = shared.get_or_init(|| pools(&settings));
    on_threads(move |seed| async move {
        let pool = shared.get().unwrap().pool("app").unwrap();
        let mut picker = Picker::new(Arc::clone(&pool));
        let mut random = fastrand::Rng::with_seed(seed);
        let tried = Tried::default();
        for _ in 0..200 {
            let lease = match picker.pick(pool.now_ms(), PickKey::default(), &tried) {
                Ok(lease) => lease,
                Err(Refused::AtCapacity) if random.u8(..) < 64 => {
                    tokio::select! {
                        biased;
                        lease = pool.wait_for_place(&tried, Priority::Normal, LONG) => drop(lease),
                        () = dither(&mut random) => {}
                    }
                    continue;
                }
                Err(Refused::AtCapacity) => pool.wait_for_place(&tried, Priority::Normal, LONG).await.unwrap(),
                Err(Refused::NoServer) => panic!("both servers are there"),
            };
            assert!(lease.server().in_flight() <= 2);
            dither(&mut random).await;
        }
    });
    let status = &pools.status()[0];
    assert_eq!(status.waiting_for_place, 0);
    assert!(status.servers.iter().all(|server| server.in_flight == 0 && server.counts.requests > 100));
}

#[tokio::test]
async fn a_place_that_came_free_before_the_wait_is_seen() {
    let mut settings = pool(&["10.0.0.1:80"]);
    settings.servers[0].max_connections = Some(1);
    let pools = pools(&settings);
    let pool = pools.pool("app").unwrap();
    let mut picker = Picker::new(Arc::clone(&pool));
    let held = picker.pick(0, PickKey::default(), &Tried::default()).unwrap();
    assert_eq!(picker.pick(0, PickKey::default(), &Tried::default()).unwrap_err(), Refused::AtCapacity);
    drop(held);
    assert!(pool.wait_for_place(&Tried::default(), Priority::Normal, LONG).await.is_ok());
}

#[tokio::test]
async fn a_server_that_comes_back_serves_who_waits() {
    let mut settings = pool(&["10.0.0.1:80", "10.0.0.2:80"]);
    for server in &mut settings.servers {
        server.max_connections = Some(1);
    }
    let pools = pools(&settings);
    pools.set_state("app", "10.0.0.2:80", AdminState::Disabled).unwrap();
    let pool = pools.pool("app").unwrap();
    let mut picker = Picker::new(Arc::clone(&pool));
    let held = picker.pick(0, PickKey::default(), &Tried::default()).unwrap();
    assert_eq!(picker.pick(0, PickKey::default(), &Tried::default()).unwrap_err(), Refused::AtCapacity);
    let mut tried = Tried::default();
    tried.insert(held.server());
    // One that wants another server than the one that is there, and one behind it that takes any.
    let wait = |tried: Tried| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.wait_for_place(&tried, Priority::Normal, LONG).await.unwrap() })
    };
    let picky = wait(tried);
    until(|| pool.waiting_for_place() == 1).await;
    let any = wait(Tried::default());
    until(|| pool.waiting_for_place() == 2).await;
    drop(held);
    let any = any.await.unwrap();
    assert_eq!(&**any.server().name(), "10.0.0.1:80");
    pools.set_state("app", "10.0.0.2:80", AdminState::Enabled).unwrap();
    assert_eq!(&**picky.await.unwrap().server().name(), "10.0.0.2:80");
}
