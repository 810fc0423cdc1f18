//! Who asks for what, most of all and lately: attack or crowd?
//!
//! ```text
//!   each worker: finish ──► Watcher (its own sketches, nothing shared)
//!                              ▲ asked now and then, answers with a copy
//!   control thread: Gateway::traffic ──► Traffic (all of them added up)
//! ```

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sumun_engine::Worker;
use sumun_engine::accept::client_key;
use sumun_traffic::asn::AsnTable;
use sumun_traffic::space_saving::Hit;
use sumun_traffic::top::{self, Generations, Top, TopRow, Turn, text_key};
use tokio::sync::{mpsc, oneshot};

use crate::asn::AsnTables;
use crate::limits::{SAMPLED_ABOVE, SAMPLED_ONE_IN, TRAFFIC_ASKED, TRAFFIC_PLACES, TRAFFIC_ROWS};

/// What all workers have seen in the last one to two minutes.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// How long that is, in milliseconds.
    pub window_ms: u64,
    pub totals: Totals,
    /// IPv4 addresses, and the /64 of IPv6 ones.
    pub clients: Vec<Row>,
    /// Of /24 and /48.
    pub networks: Vec<Row>,
    /// Autonomous systems, where there is a table of them.
    pub systems: Vec<Row>,
    pub paths: Vec<Row>,
    pub agents: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub requests: u64,
    /// Answered with 400 and above, or not at all.
    pub errors: u64,
    /// Bytes of bodies that were sent.
    pub bytes: u64,
}

/// One of the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Without characters that a terminal would obey.
    pub name: String,
    /// Requests, no less than there were.
    pub count: u64,
    /// There were no less than `count - over`.
    pub over: u64,
    /// Of `count - over`.
    pub errors: u64,
    pub bytes: u64,
}

/// One worker's counts.
pub(crate) struct Watcher {
    state: RefCell<State>,
    seed: u64,
    asn: Arc<AsnTables>,
}

#[derive(Clone)]
struct State {
    generations: Generations,
    totals: [Totals; 2],
    clients: Top,
    networks: Top,
    systems: Top,
    paths: Top,
    agents: Top,
    sampling: Sampling,
}

/// Beyond so many requests a second only some are looked at, each for as many as it stands for.
#[derive(Debug, Clone, Copy, Default)]
struct Sampling {
    second: u64,
    seen: u32,
    skip: u32,
}

impl Sampling {
    /// For how many the request stands; 0: it is not looked at.
    fn weigh(&mut self, now_ms: u64) -> u32 {
        let second = now_ms / 1000;
        if second != self.second {
            *self = Self { second, ..Self::default() };
        }
        if self.seen < SAMPLED_ABOVE {
            self.seen += 1;
            return 1;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return 0;
        }
        // By chance, so that no pattern of requests is missed or met each time.
        self.skip = fastrand::u32(..SAMPLED_ONE_IN * 2 - 1);
        SAMPLED_ONE_IN
    }
}

impl State {
    fn new(now_ms: u64, seed: u64) -> Self {
        Self {
            generations: Generations::new(now_ms),
            totals: [Totals::default(); 2],
            clients: Top::of_numbers(TRAFFIC_PLACES, seed),
            networks: Top::of_numbers(TRAFFIC_PLACES, seed),
            systems: Top::of_numbers(TRAFFIC_PLACES, seed),
            paths: Top::of_texts(TRAFFIC_PLACES, seed),
            agents: Top::of_texts(TRAFFIC_PLACES, seed),
            sampling: Sampling::default(),
        }
    }

    fn turn(&mut self, now_ms: u64) {
        let turn = self.generations.turn(now_ms);
        match turn {
            Turn::Goes => return,
            Turn::Next => self.totals = [Totals::default(), self.totals[0]],
            Turn::Over => self.totals = Default::default(),
        }
        let tops = [&mut self.clients, &mut self.networks, &mut self.systems, &mut self.paths, &mut self.agents];
        for top in tops {
            top.turn(turn);
        }
    }
}

/// A request that has ended and is looked at.
pub(crate) struct Seen<'a> {
    pub(crate) client: Option<IpAddr>,
    /// `None`: it was not understood.
    pub(crate) texts: Option<(&'a [u8], &'a [u8])>,
}

impl Watcher {
    pub(crate) fn new(now_ms: u64, seed: u64, asn: &Arc<AsnTables>) -> Self {
        Self { state: RefCell::new(State::new(now_ms, seed)), seed, asn: Arc::clone(asn) }
    }

    /// Counts a request that has ended. `seen` gives path and agent, where they are wanted.
    #[inline]
    pub(crate) fn count<'a>(&self, now_ms: u64, is_error: bool, bytes: u64, seen: impl FnOnce() -> Seen<'a>) {
        let mut state = self.state.borrow_mut();
        state.turn(now_ms);
        let now = &mut state.totals[0];
        now.requests += 1;
        now.errors += u64::from(is_error);
        now.bytes = now.bytes.saturating_add(bytes);
        let weight = state.sampling.weigh(now_ms);
        if weight > 0 {
            self.look(&mut state, Hit { weight, is_error, bytes }, &seen());
        }
    }

    fn look(&self, state: &mut State, hit: Hit, seen: &Seen<'_>) {
        if let Some(client) = seen.client {
            let key = client_key(client);
            state.clients.add(key, hit);
            state.networks.add(network_key(key), hit);
            if let Some(table) = &*self.asn.now() {
                state.systems.add(table.number_of(key).into(), hit);
            }
        }
        if let Some((path, agent)) = seen.texts {
            state.paths.add_text(text_key(path, self.seed), path, hit);
            state.agents.add_text(text_key(agent, self.seed), agent, hit);
        }
    }
}

/// Workers that can be asked for what they have seen, each by its own channel.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Vec<mpsc::Sender<oneshot::Sender<Copied>>>>);

/// What one worker answers.
struct Copied(Box<State>, u64);

impl fmt::Debug for Copied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Copied").finish_non_exhaustive()
    }
}

impl Watchers {
    /// Has a worker's counts be asked for, on its own thread.
    pub(crate) fn enter(&self, watcher: Rc<Watcher>, worker: Rc<Worker>) {
        let (sender, mut asked) = mpsc::channel::<oneshot::Sender<Copied>>(TRAFFIC_ASKED);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        tokio::task::spawn_local(async move {
            while let Some(answer) = asked.recv().await {
                let now_ms = worker.clock.coarse_ms();
                let mut state = watcher.state.borrow_mut();
                state.turn(now_ms);
                // Who asked may have given up.
                answer.send(Copied(Box::new(state.clone()), now_ms)).unwrap_or_default();
            }
        });
    }

    /// What all workers have seen; one that has ended or does not answer any more is left out.
    pub(crate) async fn ask(&self, asn: &AsnTables) -> Traffic {
        let asked: Vec<oneshot::Receiver<Copied>> = {
            let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let ask = |sender: &mpsc::Sender<oneshot::Sender<Copied>>| {
                let (answer, copied) = oneshot::channel();
                sender.try_send(answer).ok().map(|()| copied)
            };
            senders.iter().filter_map(ask).collect()
        };
        let mut states = Vec::with_capacity(asked.len());
        for copied in asked {
            states.extend(copied.await.ok());
        }
        add_up(&states, asn.now().as_deref())
    }
}

fn add_up(states: &[Copied], asn: Option<&AsnTable>) -> Traffic {
    let mut totals = Totals::default();
    for of_one in states.iter().flat_map(|Copied(state, _)| state.totals) {
        totals.requests += of_one.requests;
        totals.errors += of_one.errors;
        totals.bytes = totals.bytes.saturating_add(of_one.bytes);
    }
    let rows = |pick: fn(&State) -> &Top, name: &dyn Fn(&TopRow) -> String| {
        let rows = top::merge(states.iter().map(|Copied(state, _)| pick(state)), TRAFFIC_ROWS);
        let row = |row: TopRow| Row {
            name: name(&row),
            count: row.count,
            over: row.over,
            errors: row.errors,
            bytes: row.bytes,
        };
        rows.into_iter().map(row).collect()
    };
    let text = |row: &TopRow| shown(row.text.as_deref().unwrap_or_default());
    Traffic {
        // Workers turn at their own times, and those that see nothing not at all.
        window_ms: states.iter().map(|Copied(state, now_ms)| state.generations.window_ms(*now_ms)).max().unwrap_or(0),
        totals,
        clients: rows(|state| &state.clients, &|row| client_text(row.key)),
        networks: rows(|state| &state.networks, &|row| network_text(row.key)),
        systems: asn.map_or_else(Vec::new, |table| rows(|state| &state.systems, &|row| system_text(table, row.key))),
        paths: rows(|state| &state.paths, &text),
        agents: rows(|state| &state.agents, &text),
    }
}

/// Keys of clients below this are IPv4 addresses, see [`client_key`].
const V4_KEYS: u64 = 1 << 32;

/// The /24 or the /48 of a client.
fn network_key(client: u64) -> u64 {
    if client < V4_KEYS { client & !0xff } else { client & !0xffff }
}

/// `203.0.113.7` or `2001:db8:0:1::/64`.
pub(crate) fn client_text(client: u64) -> String {
    match u32::try_from(client) {
        // No client is 0.0.0.0; the loopback of IPv6 is in this network.
        Ok(0) => "::/64".to_owned(),
        Ok(v4) => Ipv4Addr::from_bits(v4).to_string(),
        Err(_) => format!("{}/64", Ipv6Addr::from_bits(u128::from(client) << 64)),
    }
}

fn network_text(network: u64) -> String {
    match u32::try_from(network) {
        Ok(0) => "::/48".to_owned(),
        Ok(v4) => format!("{}/24", Ipv4Addr::from_bits(v4)),
        Err(_) => format!("{}/48", Ipv6Addr::from_bits(u128::from(network) << 64)),
    }
}

/// `AS64500 NAME`; of what the table does not know, `unknown`.
fn system_text(table: &AsnTable, number: u64) -> String {
    match u32::try_from(number) {
        Ok(0) | Err(_) => "unknown".to_owned(),
        Ok(number) => shown(format!("AS{number} {}", table.name_of(number)).trim_end().as_bytes()),
    }
}

/// What clients sent, for people to read: it moves no cursor, and turns no line around.
fn shown(bytes: &[u8]) -> String {
    let is_plain = |character: &char| !character.is_control() && !is_format(*character);
    let text = String::from_utf8_lossy(bytes);
    if text.chars().all(|character| is_plain(&character)) {
        return Cow::into_owned(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_plain(&character) {
            out.push(character);
        } else {
            out.extend(character.escape_unicode());
        }
    }
    out
}

/// Characters that change how others are shown, and the ends of lines that are no control characters.
fn is_format(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(client: &str, path: &'static str) -> Seen<'static> {
        Seen { client: client.parse().ok(), texts: Some((path.as_bytes(), b"agent")) }
    }

    fn names(rows: &[Row]) -> Vec<(&str, u64)> {
        rows.iter().map(|row| (row.name.as_str(), row.count)).collect()
    }

    #[test]
    fn workers_are_added_up() {
        let watchers = [Watcher::new(0, 5, &Arc::default()), Watcher::new(0, 5, &Arc::default())];
        for number in 0..30 {
            let is_error = number % 3 == 0;
            watchers[number % 2].count(1000, is_error, 10, || seen("203.0.113.7", "/login"));
        }
        watchers[0].count(1000, false, 10, || seen("203.0.113.9", "/a\u{1b}[2J\u{202e}"));
        watchers[0].count(1000, false, 10, || seen("2001:db8:1:2::3", "/login"));
        assert_eq!(
            (client_text(client_key("::1".parse().unwrap())), network_text(0)),
            ("::/64".into(), "::/48".into())
        );
        watchers[0].count(1000, true, 10, || Seen { client: None, texts: None });
        let copies = watchers.map(|watcher| Copied(Box::new(watcher.state.into_inner()), 1500));
        let traffic = add_up(&copies, None);
        assert_eq!(traffic.window_ms, 1500);
        assert_eq!(traffic.totals, Totals { requests: 33, errors: 11, bytes: 330 });
        assert_eq!(names(&traffic.clients), [("203.0.113.7", 30), ("203.0.113.9", 1), ("2001:db8:1:2::/64", 1)]);
        assert_eq!((traffic.clients[0].errors, traffic.clients[0].bytes, traffic.clients[0].over), (10, 300, 0));
        assert_eq!(names(&traffic.networks), [("203.0.113.0/24", 31), ("2001:db8:1::/48", 1)]);
        assert_eq!(names(&traffic.paths), [("/login", 31), ("/a\\u{1b}[2J\\u{202e}", 1)]);
        assert_eq!(names(&traffic.agents), [("agent", 32)]);
    }

    #[test]
    fn the_busy_are_counted_by_a_part() {
        let watcher = Watcher::new(0, 5, &Arc::default());
        const MANY: u64 = 200_000;
        for number in 0..MANY {
            // All within a second.
            watcher.count(100, false, 1, || seen(if number % 4 == 0 { "203.0.113.7" } else { "203.0.113.8" }, "/"));
        }
        let traffic = add_up(&[Copied(Box::new(watcher.state.into_inner()), 100)], None);
        assert_eq!(traffic.totals.requests, MANY);
        let row = &traffic.clients[1];
        // One in sixteen of 50,000 is 3,125, with a deviation of less than 2 in 100.
        assert!(row.name == "203.0.113.7" && (45_000..55_000).contains(&row.count), "{row:?}");
    }

    #[test]
    fn what_is_old_is_gone() {
        let watcher = Watcher::new(0, 5, &Arc::default());
        watcher.count(0, true, 1, || seen("203.0.113.7", "/"));
        let mut state = watcher.state.into_inner();
        state.turn(61_000);
        assert_eq!(state.totals[1].requests, 1);
        state.turn(125_000);
        assert_eq!(add_up(&[Copied(Box::new(state), 125_000)], None).totals, Totals::default());
    }
}
