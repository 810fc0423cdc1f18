//! Waiting rooms, shared by all workers: who is where, and what visitors show for it.
//!
//! ```text
//!   worker: has to wait still   ─── reads four numbers (`Front`), no lock
//!   worker: new, called, inside ─── a lock for some hundred nanoseconds (`SharedRoom`)
//!   control thread              ─── every 50 ms: `advance`; every second: what is new is kept
//! ```
//!
//! A room that several gateways share lies elsewhere ([`far`]): a step of it is waited for, for a moment.
//!
//! A process that hands over to another freezes its rooms first: nobody is given a number, called or let
//! in by it any more, and who asks is told to ask again, which reaches the other one.

mod far;
mod page;
mod ticket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use far::FarRoom;
use sumun_config::checked::{self as config, Config, Name, SharedThrough, WaitingRoom};
use sumun_engine::accept::client_key;
use sumun_engine::kept::{self, Table};
use sumun_engine::rooms::{self as kept_rooms, KeptRooms, RoomName};
use sumun_pools::redis::Redis;
use sumun_traffic::rates::Rates;
use sumun_traffic::token_bucket::{Empty, Rate};
use sumun_traffic::waiting_room::{Arrival, Claim, Counts, Id, Outlook, Room, Settings, Snapshot};

pub(crate) use page::{Filling, Language, Page, STYLE};
pub(crate) use ticket::{Pass, Signer};

use crate::challenge::Challenge;
use crate::events::Event;
use crate::limits::{ERROR_PAGE_BYTES, ROOM_CLIENTS, ROOM_KEEP, ROOM_TICK, SHARED_ROUND};

/// Takes a room's newest state to where it survives this process.
pub type Keep = Box<dyn Fn(RoomName, String)>;

/// Listener, route, and what makes a shared room another one: where it lies, and what signs for it.
type RoomKey = (Name, Name, Option<(String, Vec<u8>)>);

/// All rooms of a process.
#[derive(Debug)]
pub struct Rooms {
    /// The host's own.
    key: [u8; 32],
    start: Instant,
    /// What the rooms' clock shows at `start`: rooms outlive processes and hosts.
    start_ms: u64,
    /// Of the process before; each is taken once.
    kept: Mutex<KeptRooms>,
    table: Table<RoomKey, SharedRoom>,
    /// The operator's own, read for the newest config.
    pages: Mutex<BTreeMap<PathBuf, Arc<Page>>>,
    frozen: Arc<AtomicBool>,
}

impl Rooms {
    /// `key` signs, `start` is that of the workers' clocks, `kept` what other processes have left.
    #[must_use]
    pub fn new(key: [u8; 32], start: Instant, kept: KeptRooms) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            key,
            start,
            start_ms: milliseconds(unix.saturating_sub(start.elapsed())),
            kept: Mutex::new(kept),
            table: Table::default(),
            pages: Mutex::default(),
            frozen: Arc::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.start_ms + milliseconds(self.start.elapsed())
    }

    /// Makes the rooms of a config, changes those that are there, forgets the others, and reads pages.
    pub(crate) fn prepare(&self, config: &Config, redis: &Arc<Redis>) {
        let now_ms = self.now_ms();
        // What the config before this one has removed, and nobody uses any more.
        kept::lock(&self.table).let_go(|_| {});
        let mut pages = BTreeMap::new();
        let mut named = Vec::new();
        for (listener, route) in kept_rooms::with_rooms(config) {
            let Some(settings) = &route.waiting_room else { continue };
            let far = config.shared.as_ref().filter(|_| settings.shared);
            let key = key_of(&listener.name, &route.name, far);
            let name = RoomName::of(&listener.name, &route.name);
            let make = || self.make(name.clone(), settings, far.map(|far| (far, redis)), now_ms);
            let shared = kept::lock(&self.table).value(key.clone(), 0, make);
            shared.change(settings, now_ms);
            named.push(key);
            if let Some(path) = &settings.page {
                match sumun_host::files::read_bounded(path, ERROR_PAGE_BYTES) {
                    Ok(bytes) => drop(pages.insert(path.clone(), Arc::new(Page::own(&bytes)))),
                    Err(error) => Event::PageUnreadable { page: path, error: &error }.write(),
                }
            }
        }
        let mut table = kept::lock(&self.table);
        table.name(|key| named.contains(key));
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    fn make(
        &self,
        name: RoomName,
        settings: &WaitingRoom,
        far: Option<(&SharedThrough, &Arc<Redis>)>,
        now_ms: u64,
    ) -> SharedRoom {
        let key = far.map_or(self.key, |(shared, _)| key_from(shared));
        let signer = Signer::new(&key, name.as_str());
        // Without randomness there would be no key either; 0 is as good as any for a first life.
        let epoch = sumun_host::random::random_bytes().map_or(0, u32::from_be_bytes);
        let far = far.map(|(shared, redis)| FarRoom::new(redis, shared, &name, settings_of(settings), epoch));
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        let room = match kept.map(|text| kept_rooms::from_text(&text)) {
            Some(Ok(snapshot)) => Room::restore(settings_of(settings), &snapshot, epoch, now_ms),
            Some(Err(why)) => {
                Event::RoomLost { room: name.as_str(), why: &why }.write();
                Room::new(settings_of(settings), epoch, now_ms)
            }
            None => Room::new(settings_of(settings), epoch, now_ms),
        };
        SharedRoom {
            far,
            front: Front::of(&room),
            lives: room.lives().into(),
            tickets: ArcSwap::from_pointee(Rates::new(rate_of(settings), ROOM_CLIENTS)),
            room: Mutex::new(room),
            name,
            signer,
            frozen: Arc::clone(&self.frozen),
            start_ms: self.start_ms,
            refused: Refused::default(),
            kept: Mutex::default(),
        }
    }

    /// The room of a route, and its page.
    pub(crate) fn room(
        &self,
        (listener, route): (&Name, &Name),
        settings: &WaitingRoom,
        (config, redis): (&Config, &Arc<Redis>),
    ) -> RoomDoor {
        let far = config.shared.as_ref().filter(|_| settings.shared);
        let key = key_of(listener, route, far);
        let now_ms = self.now_ms();
        let make = || self.make(RoomName::of(listener, route), settings, far.map(|far| (far, redis)), now_ms);
        let shared = kept::lock(&self.table).value(key, 0, make);
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = settings.page.as_ref().and_then(|path| pages.get(path).map(Arc::clone));
        RoomDoor {
            page: page.unwrap_or_else(Page::built_in),
            cookie: format!("sumun_room_{}", shared.name.hash()),
            session_ms: milliseconds(settings.session),
            shared,
        }
    }

    /// The challenge of a route. Gateways that share something take each other's.
    pub(crate) fn challenge(&self, settings: &config::Challenge, config: &Config) -> Challenge {
        let key = config.shared.as_ref().map_or(self.key, key_from);
        Challenge::new(&key, settings.bits, milliseconds(settings.pass), self.start_ms)
    }

    fn all(&self) -> Vec<(RoomKey, Arc<SharedRoom>)> {
        let table = kept::lock(&self.table);
        table.iter().flat_map(|(key, rooms)| rooms.iter().map(|room| (key.clone(), Arc::clone(room)))).collect()
    }

    #[must_use]
    pub fn totals(&self) -> Vec<RoomTotal> {
        let row = |((listener, route, _), room): (RoomKey, Arc<SharedRoom>)| RoomTotal {
            listener,
            route,
            counts: room.far.as_ref().map_or_else(|| room.lock().counts(), FarRoom::counts),
            refused: room.refused.read(),
        };
        self.all().into_iter().map(row).collect()
    }

    /// Brings all rooms up to date.
    fn advance(&self) {
        let now_ms = self.now_ms();
        for (_, room) in self.all().into_iter().filter(|(_, room)| room.far.is_none()) {
            room.with(|open| open.advance(now_ms));
        }
    }

    /// Hears how the rooms stand that gateways share, for as long as it is polled.
    pub(crate) async fn look(&self) {
        loop {
            tokio::time::sleep(SHARED_ROUND).await;
            for (_, room) in self.all() {
                if let Some(far) = &room.far {
                    far.look().await;
                    far.note_pace(self.now_ms());
                }
            }
        }
    }

    /// The state of each room that is another than the last time; with `all`, of each.
    fn news(&self, all: bool) -> Vec<(RoomName, String)> {
        let news = |(_, room): (RoomKey, Arc<SharedRoom>)| {
            if room.far.is_some() {
                return None;
            }
            let snapshot = room.lock().snapshot();
            let mut kept = room.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if *kept == snapshot && !all {
                return None;
            }
            let text = kept_rooms::to_text(&snapshot);
            *kept = snapshot;
            Some((room.name.clone(), text))
        };
        self.all().into_iter().filter_map(news).collect()
    }

    /// Another process is about to take over: nothing changes here any more, and this is how things stand.
    pub fn hand_over(&self) -> Vec<(RoomName, String)> {
        if self.frozen.swap(true, Ordering::AcqRel) { Vec::new() } else { self.news(true) }
    }

    /// Nobody takes over after all.
    pub fn go_on(&self) {
        self.frozen.store(false, Ordering::Release);
    }

    /// How things stand at the end; nothing where another process has taken over.
    pub fn last_words(&self) -> Vec<(RoomName, String)> {
        self.hand_over()
    }
}

/// Keeps the time of all rooms, and has their state kept. For the control thread of the process that
/// serves; ends with its task.
pub async fn run(rooms: &Rooms, keep: Keep) {
    let mut kept_at = None::<Instant>;
    loop {
        tokio::time::sleep(ROOM_TICK).await;
        if rooms.frozen.load(Ordering::Acquire) {
            continue;
        }
        rooms.advance();
        if kept_at.is_none_or(|at| at.elapsed() >= ROOM_KEEP) {
            // What another process has kept may be of before it handed over.
            rooms.news(kept_at.is_none()).into_iter().for_each(|(name, text)| keep(name, text));
            kept_at = Some(Instant::now());
        }
    }
}

fn key_of(listener: &Name, route: &Name, far: Option<&SharedThrough>) -> RoomKey {
    let far = far.map(|shared| (shared.prefix.clone(), shared.secret.0.clone()));
    (Arc::clone(listener), Arc::clone(route), far)
}

/// What all gateways sign with. It is made of their own secret, and not kept where the room lies: who reads
/// or writes there can forge no ticket.
fn key_from(shared: &SharedThrough) -> [u8; 32] {
    let made = sign(&Key::new(HMAC_SHA256, &shared.secret.0), b"waiting rooms");
    let mut key = [0; 32];
    key.iter_mut().zip(made.as_ref()).for_each(|(into, from)| *into = *from);
    key
}

fn settings_of(room: &WaitingRoom) -> Settings {
    Settings {
        admit: room.admit.count,
        period_ms: milliseconds(room.admit.period),
        active: room.active,
        session_ms: milliseconds(room.session),
        claim_ms: milliseconds(room.claim),
        waiting: room.waiting,
    }
}

fn rate_of(room: &WaitingRoom) -> Rate {
    let period_ns = u64::try_from(room.tickets.period.as_nanos()).unwrap_or(u64::MAX);
    Rate::new(room.tickets.count.into(), period_ns, room.tickets.count.into())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What has happened in a room.
pub struct RoomTotal {
    pub listener: Name,
    pub route: Name,
    pub counts: Counts,
    /// By cause.
    pub refused: [(&'static str, u64); 5],
}

/// A room as one worker's route has it.
#[derive(Debug)]
pub(crate) struct RoomDoor {
    pub(crate) shared: Arc<SharedRoom>,
    pub(crate) page: Arc<Page>,
    /// The name of its cookie.
    pub(crate) cookie: String,
    /// As the config has it.
    pub(crate) session_ms: u64,
}

/// One room, for all workers.
#[derive(Debug)]
pub(crate) struct SharedRoom {
    name: RoomName,
    pub(crate) signer: Signer,
    /// All of it, where gateways share it; what follows is then empty.
    far: Option<FarRoom>,
    /// Held for moments only, and never while anything is waited for.
    room: Mutex<Room>,
    front: Front,
    /// Which numbers which life of the room has given: the same as long as this process lives.
    lives: Box<[(u32, u64)]>,
    /// New places for each client.
    tickets: ArcSwap<Rates>,
    frozen: Arc<AtomicBool>,
    start_ms: u64,
    pub(crate) refused: Refused,
    /// What was told last.
    kept: Mutex<Snapshot>,
}

/// Who came with what was worth nothing.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// What no room has signed.
    pub(crate) forged: AtomicU64,
    /// What was exchanged before.
    pub(crate) used: AtomicU64,
    /// Who was called and did not come in time.
    pub(crate) passed: AtomicU64,
    /// Clients that want too many places.
    pub(crate) rate: AtomicU64,
    pub(crate) full: AtomicU64,
}

impl Refused {
    fn read(&self) -> [(&'static str, u64); 5] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("forged", read(&self.forged)),
            ("used", read(&self.used)),
            ("late", read(&self.passed)),
            ("client", read(&self.rate)),
            ("full", read(&self.full)),
        ]
    }
}

/// What can be read without the lock.
#[derive(Debug)]
struct Front {
    issued: AtomicU64,
    called: AtomicU64,
    calls_per_million_s: AtomicU64,
    next_place_ms: AtomicU64,
}

impl Front {
    fn of(room: &Room) -> Self {
        let front = Self {
            issued: AtomicU64::default(),
            called: AtomicU64::default(),
            calls_per_million_s: AtomicU64::default(),
            next_place_ms: AtomicU64::default(),
        };
        front.show(room.outlook());
        front
    }

    fn show(&self, outlook: Outlook) {
        self.issued.store(outlook.issued, Ordering::Relaxed);
        self.called.store(outlook.called, Ordering::Relaxed);
        self.calls_per_million_s.store(outlook.calls_per_million_s, Ordering::Relaxed);
        self.next_place_ms.store(outlook.next_place_ms, Ordering::Relaxed);
    }
}

impl SharedRoom {
    fn change(&self, settings: &WaitingRoom, now_ms: u64) {
        match &self.far {
            Some(far) => far.change(settings_of(settings)),
            None => drop(self.with(|room| room.change(settings_of(settings), now_ms))),
        }
        if self.tickets.load().rate() != rate_of(settings) {
            self.tickets.store(Arc::new(Rates::new(rate_of(settings), ROOM_CLIENTS)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: another process is taking over.
    fn with<T>(&self, act: impl FnOnce(&mut Room) -> T) -> Option<T> {
        let mut room = self.lock();
        // Under the lock, which `hand_over` takes once it has said so.
        if self.frozen.load(Ordering::Acquire) {
            return None;
        }
        let result = act(&mut room);
        self.front.show(room.outlook());
        Some(result)
    }

    /// Another process is taking over, or nothing is known yet of a room that gateways share.
    pub(crate) fn is_frozen(&self) -> bool {
        self.far.as_ref().map_or_else(|| self.frozen.load(Ordering::Acquire), FarRoom::is_unseen)
    }

    /// The rooms' time, by a worker's coarse clock.
    pub(crate) fn now_ms(&self, coarse_ms: u64) -> u64 {
        self.start_ms + coarse_ms
    }

    pub(crate) fn outlook(&self) -> Outlook {
        if let Some(far) = &self.far {
            return far.outlook();
        }
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let front = &self.front;
        Outlook {
            issued: read(&front.issued),
            called: read(&front.called),
            calls_per_million_s: read(&front.calls_per_million_s),
            next_place_ms: read(&front.next_place_ms),
        }
    }

    /// This number was given and is not forgotten.
    pub(crate) fn gave(&self, id: Id) -> bool {
        if let Some(far) = &self.far {
            return far.gave(id);
        }
        sumun_traffic::waiting_room::gave(&self.lives, self.front.issued.load(Ordering::Relaxed), id)
    }

    /// A new place for this client.
    ///
    /// # Errors
    /// It has had too many.
    pub(crate) fn take_ticket(&self, client: Option<IpAddr>, now_us: u64) -> Result<(), Empty> {
        let Some(client) = client else { return Ok(()) };
        self.tickets.load().take(client_key(client), now_us.saturating_mul(1000))
    }

    /// With the end of the session, if one begins.
    pub(crate) async fn arrive(&self, now_ms: u64) -> Option<(Arrival, u64)> {
        match &self.far {
            Some(far) => Some((far.arrive(now_ms).await?, now_ms + far.first_session_ms())),
            None => self.with(|room| (room.arrive(now_ms), now_ms + room.first_session_ms())),
        }
    }

    /// The same.
    pub(crate) async fn claim(&self, id: Id, now_ms: u64) -> Option<(Claim, u64)> {
        match &self.far {
            Some(far) => Some((far.claim(id).await?, now_ms + far.session_ms())),
            None => self.with(|room| (room.claim(id, now_ms), now_ms + room.session_ms())),
        }
    }

    /// The new end of a session.
    pub(crate) async fn renew(&self, id: Id, ends_ms: u64, now_ms: u64) -> Option<u64> {
        match &self.far {
            Some(far) => {
                far.renew(id).await;
                Some(now_ms + far.session_ms())
            }
            None => self.with(|room| room.renew(id, ends_ms, now_ms)).flatten(),
        }
    }
}
