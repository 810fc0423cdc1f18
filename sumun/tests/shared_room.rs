//! A waiting room that two gateways share through Redis.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::Scratch;
use support::instance::{Instance, Place, eventually};
use support::redis::{Redis, stranger};
use support::server::{Server, ok};
use support::talk::{Answer, Client};

const PLACES: [Place; 2] = [
    Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 1 },
    Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 2 },
];
const LOOK: &str = "X-Waiting-Room: look\r\n";
const JSON: &str = "Accept: application/json\r\n";
const UP: &str = "what is shared: connected";
const AWAY: &str = "what is shared: the server is away";

struct Stage {
    gateways: Vec<Instance>,
    server: Server,
    _scratch: Scratch,
}

impl Stage {
    /// Two gateways with this room, which know how it stands.
    fn start(redis: SocketAddr, room: &str) -> Self {
        let scratch = Scratch::new();
        let server = Server::answering(PLACES[0].ip, |_| ok("in"));
        let gateways: Vec<Instance> = PLACES
            .iter()
            .zip(["a", "b"])
            .map(|(place, name)| {
                Instance::start(*place, &config(redis, server.address(), &scratch.path().join(name), room))
            })
            .collect();
        gateways.iter().for_each(|gateway| gateway.await_log(UP));
        let stage = Self { gateways, server, _scratch: scratch };
        for gateway in 0..2 {
            eventually("the room is known", || Visitor::default().state(&stage, gateway) == "none");
        }
        stage
    }

    fn queue(&self, gateway: usize) -> Visitor {
        let mut visitor = Visitor::default();
        let answer = visitor.get(self, gateway, JSON).expect(503);
        assert!(visitor.cookie.is_some(), "{}", answer.text());
        visitor
    }
}

fn config(redis: SocketAddr, server: SocketAddr, state: &Path, room: &str) -> String {
    format!(
        "state: {}\nshared: {{ pool: redis, secret: 0123456789abcdef }}\n\
         pools: {{ app: {{ servers: [\"{server}\"] }}, redis: {{ servers: [\"{redis}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [\
         {{ path: /sale/, proxy: app, waiting_room: {{ shared: on, {room} }} }}] }} }}\n",
        state.display()
    )
}

/// Somebody with a browser, whom each request may bring to another gateway.
#[derive(Clone, Default)]
struct Visitor {
    cookie: Option<String>,
}

impl Visitor {
    fn get(&mut self, stage: &Stage, gateway: usize, fields: &str) -> Answer {
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let answer = Client::connect(stage.gateways[gateway].address).get_with("/sale/", &format!("{cookie}{fields}"));
        if let Some(set) = answer.header("set-cookie") {
            self.cookie = set.split(';').next().map(str::to_owned);
        }
        answer
    }

    fn told(&mut self, stage: &Stage, gateway: usize) -> serde_json::Value {
        let answer = self.get(stage, gateway, LOOK).expect(200);
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
    }

    fn state(&mut self, stage: &Stage, gateway: usize) -> String {
        self.told(stage, gateway)["state"].as_str().expect("a state").to_owned()
    }

    fn is_in(&mut self, stage: &Stage, gateway: usize) -> bool {
        self.get(stage, gateway, "").status == 200
    }
}

#[test]
fn one_queue_one_order_one_rate() {
    let Some(redis) = Redis::start(&[]) else { return };
    let stage = Stage::start(redis.address, "admit: 20/s, active: 1000, tickets: 1000/s");
    eventually("a queue", || Visitor::default().get(&stage, 0, "").status == 503);
    let mut visitors: Vec<Visitor> = (0..60).map(|number| stage.queue(number % 2)).collect();
    let (began, before) = (Instant::now(), stage.server.count());
    let mut inside = vec![false; visitors.len()];
    eventually("all of them inside", || {
        // The last ones ask first: whoever gets in, all before have been called, as that gateway knows.
        let mut later_at = None;
        for index in (0..visitors.len()).rev().filter(|index| !inside[*index]).collect::<Vec<_>>() {
            let gateway = later_at.unwrap_or(index % 2);
            inside[index] = visitors[index].is_in(&stage, gateway);
            assert!(inside[index] || later_at.is_none(), "number {index} waits, and a later one is in");
            later_at = later_at.or_else(|| inside[index].then_some(gateway));
        }
        inside.iter().all(|came| *came)
    });
    let allowed = 20 + 20 * usize::try_from(began.elapsed().as_millis()).expect("short") / 1000;
    let came = stage.server.count() - before;
    eprintln!("{came} came in within {:?}, {allowed} were allowed", began.elapsed());
    assert!(came == 60 && came <= allowed + 5, "{came} came in, {allowed} were allowed");
}

#[test]
fn a_ticket_is_exchanged_at_one_gateway_and_a_session_is_good_at_both() {
    let Some(redis) = Redis::start(&[]) else { return };
    let stage = Stage::start(redis.address, "admit: 1/s, active: 100, session: 3s, tickets: 1000/s");
    eventually("a queue", || Visitor::default().get(&stage, 0, "").status == 503);
    let mut visitor = stage.queue(0);
    eventually("its turn", || visitor.state(&stage, 1) == "called");
    let served = stage.server.count();
    let ticket = visitor.clone();
    // Everywhere at the same time.
    let came: usize = thread::scope(|scope| {
        let running: Vec<_> = (0..8)
            .map(|number| {
                let (stage, mut ticket) = (&stage, ticket.clone());
                scope.spawn(move || (ticket.is_in(stage, number % 2), ticket))
            })
            .collect();
        let mut came = 0;
        for run in running {
            let (is_in, holder) = run.join().expect("no panic");
            if is_in {
                came += 1;
                visitor = holder;
            }
        }
        came
    });
    assert_eq!((came, stage.server.count()), (1, served + 1));
    assert_ne!(visitor.cookie, ticket.cookie);
    for number in 0..20 {
        assert!(visitor.is_in(&stage, number % 2), "request {number}");
        // Not to be awaited: what happens in between is that time passes, and the session is renewed.
        thread::sleep(Duration::from_millis(250));
    }
}

#[test]
fn places_inside_are_those_of_all() {
    let Some(redis) = Redis::start(&[]) else { return };
    let stage = Stage::start(redis.address, "admit: 1000/s, active: 3, session: 1s, claim: 1s, tickets: 1000/s");
    // A turn is earned within a moment.
    let mut inside: Vec<Visitor> = Vec::new();
    eventually("three inside", || {
        let mut visitor = Visitor::default();
        if visitor.is_in(&stage, inside.len() % 2) {
            inside.push(visitor);
        }
        inside.len() == 3
    });
    let mut absent = stage.queue(0);
    let mut next = stage.queue(1);
    assert!(absent.told(&stage, 1)["place"].as_u64() >= Some(1));
    eventually("places become free, also of who does not come", || next.is_in(&stage, 0));
    eventually("who did not come has a new place", || absent.is_in(&stage, 1));
}

#[test]
fn while_it_is_away_the_queue_stands_still_and_who_is_inside_stays() {
    let Some(mut redis) = Redis::start(&["--appendonly", "no"]) else { return };
    let stage = Stage::start(redis.address, "admit: 2/s, active: 100, session: 2s, tickets: 1000/s");
    let mut inside = Visitor::default();
    eventually("somebody inside", || inside.is_in(&stage, 0));
    let waiting: Vec<Visitor> = (0..30).map(|number| stage.queue(number % 2)).collect();
    redis.kill();
    stage.gateways.iter().for_each(|gateway| gateway.await_log(AWAY));
    let mut last = waiting[29].clone();
    let place = last.told(&stage, 0)["place"].as_u64().expect("a place");
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(inside.is_in(&stage, 1), "who is inside stays");
        assert_eq!(last.told(&stage, 0)["place"].as_u64(), Some(place));
        assert_eq!(Visitor::default().get(&stage, 1, JSON).status, 503);
        thread::sleep(Duration::from_millis(200));
    }
    // It comes back empty: a room of its own, in which old tickets are worth a new place.
    redis.restart();
    stage.gateways.iter().for_each(|gateway| {
        eventually("it is back", || gateway.log().matches(UP).count() == 2);
    });
    eventually("the room goes on", || last.is_in(&stage, 1));
    assert!(inside.is_in(&stage, 0));
}

#[test]
fn where_nobody_waits_each_goes_on_with_its_share() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let stage = Stage::start(redis.address, "admit: 20/s, active: 1000, tickets: 1000/s");
    let keys = redis.ask("KEYS *:gateways");
    let key = keys.lines().find(|line| line.starts_with("sumun:room:sale-")).unwrap_or_else(|| panic!("{keys}"));
    eventually("two gateways", || redis.ask(&format!("ZCARD {key}")).starts_with(":2"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    eventually("both know of each other", || redis.ask(&format!("ZCOUNT {key} {now} +inf")).starts_with(":2"));
    redis.kill();
    stage.gateways.iter().for_each(|gateway| gateway.await_log(AWAY));
    let (began, mut came) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        came += (0..2).filter(|gateway| Visitor::default().is_in(&stage, *gateway)).count();
        thread::sleep(Duration::from_millis(10));
    }
    let allowed = 20 * usize::try_from(began.elapsed().as_millis()).expect("short") / 1000;
    eprintln!("{came} came in, {allowed} were allowed");
    assert!(came >= 10 && came <= allowed + 4, "{came} of {allowed}");
}

/// Nothing hangs, and nobody is let in who should not be.
#[test]
fn a_room_at_a_server_that_is_no_redis() {
    let most = i64::MAX;
    for text in [
        "*9\r\n:1\r\n:-1\r\n:7\r\n:9\r\n:99\r\n:0\r\n:0\r\n:0\r\n:0\r\n".to_owned(),
        format!("*9\r\n:2\r\n:{most}\r\n:7\r\n:{most}\r\n:5\r\n:{most}\r\n:{most}\r\n:{most}\r\n:{most}\r\n"),
        "*1\r\n:1\r\n".to_owned(),
        "+OK\r\n".to_owned(),
        String::new(),
    ] {
        let stranger = stranger(move |stream| std::io::Write::write_all(stream, text.as_bytes()).is_ok());
        let scratch = Scratch::new();
        let server = Server::answering(PLACES[0].ip, |_| ok("in"));
        let text = config(stranger.address, server.address(), scratch.path(), "admit: 1/h, active: 5");
        let gateway = Instance::start(PLACES[0], &text);
        gateway.await_log(UP);
        for _ in 0..20 {
            let asked = Instant::now();
            let answer = gateway.get("/sale/");
            assert!([200, 503].contains(&answer.status), "{}", answer.text());
            assert_eq!(gateway.connect().get_with("/sale/", LOOK).status, 200);
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        }
    }
}
