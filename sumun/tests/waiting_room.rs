//! The waiting room: who comes in, in which order, and what is worth nothing.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use support::Scratch;
use support::instance::{Instance, Place, eventually, everywhere, signal};
use support::server::{Server, ok};
use support::talk::{Answer, Client};

const LOOK: &str = "X-Waiting-Room: look\r\n";
const JSON: &str = "Accept: application/json\r\n";

/// A server that says `in`, and an instance with this waiting room in front of it.
fn start(place: Place, state: &Path, room: &str) -> (Server, Instance) {
    start_with(place, state, room, "")
}

/// `more`: further keys of its route.
fn start_with(place: Place, state: &Path, room: &str, more: &str) -> (Server, Instance) {
    let server = Server::answering(place.ip, |_| ok("in"));
    let config = config(server.address(), state, room).replace("proxy: app,", &format!("proxy: app, {more}"));
    (server, Instance::start(place, &config))
}

fn config(server: SocketAddr, state: &Path, room: &str) -> String {
    format!(
        "state: {}\npools: {{ app: {{ servers: [\"{server}\"] }} }}\nlisteners: {{ web: {{ bind: \"$BIND\", routes: [\
         {{ path: /sale/, proxy: app, waiting_room: {{ {room} }} }}, {{ path: /, respond: 204 }}] }} }}\n",
        state.display()
    )
}

/// Somebody with a browser: a cookie, and a connection for each request.
#[derive(Clone)]
struct Visitor {
    address: SocketAddr,
    cookie: Option<String>,
    /// In the answer to the first request.
    place: u64,
}

impl Visitor {
    fn new(gateway: &Instance) -> Self {
        Self { address: gateway.address, cookie: None, place: 0 }
    }

    /// Comes for the first time, and has to wait.
    fn queue(gateway: &Instance) -> Self {
        let mut visitor = Self::new(gateway);
        let answer = visitor.get(JSON).expect(503);
        visitor.place = json(&answer)["place"].as_u64().expect("a place");
        assert!(visitor.cookie.is_some(), "{:?}", answer.headers);
        visitor
    }

    fn get(&mut self, fields: &str) -> Answer {
        self.request("GET", fields, b"")
    }

    fn request(&mut self, method: &str, fields: &str, body: &[u8]) -> Answer {
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: a=b; {cookie}\r\n")).unwrap_or_default();
        let answer = Client::connect(self.address).request(method, "/sale/x?y=1", &format!("{cookie}{fields}"), body);
        if let Some(set) = answer.header("set-cookie") {
            assert!(set.contains("; Path=/sale; Max-Age=") && set.ends_with("; HttpOnly; SameSite=Lax"), "{set}");
            self.cookie = set.split(';').next().map(str::to_owned);
        }
        answer
    }

    /// Where the page's script would say that it is.
    fn state(&mut self) -> String {
        let answer = self.get(LOOK).expect(200);
        assert!(answer.header("set-cookie").is_none(), "a look changes nothing: {:?}", answer.headers);
        json(&answer)["state"].as_str().expect("a state").to_owned()
    }

    fn place_now(&mut self) -> u64 {
        let told = json(&self.get(LOOK).expect(200));
        told["place"].as_u64().unwrap_or_else(|| panic!("{told} for {:?}", self.cookie))
    }

    /// Asks as its page would, and goes in.
    fn await_turn(&mut self) {
        eventually("its turn", || self.state() == "called");
        self.get("").expect(200);
    }
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

#[test]
fn who_comes_while_there_is_room_sees_nothing_of_it() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (server, gateway) = start(place, scratch.path(), "admit: 100/s, active: 5, session: 30s");
        let mut visitors: Vec<Visitor> = (0..5).map(|_| Visitor::new(&gateway)).collect();
        for visitor in &mut visitors {
            let answer = visitor.get("").expect(200);
            assert_eq!(answer.text(), "in");
            assert!(visitor.cookie.is_some());
            // With its session it stays inside, and no other is begun.
            assert!(visitor.get("").expect(200).header("set-cookie").is_none());
            assert_eq!(visitor.request("POST", "", b"body").expect(200).text(), "in");
        }
        let served = server.count();
        assert_eq!(served, 15);
        let mut late = Visitor::queue(&gateway);
        assert_eq!((late.place, late.state().as_str()), (1, "waiting"));
        assert_eq!(server.count(), served, "nothing of it reached the server");
        assert_eq!(gateway.get("/elsewhere").status, 204);
    });
}

/// What keeps a place goes with every answer, also where no server gives one.
#[test]
fn a_place_is_kept_whatever_is_answered() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let files = scratch.path().display();
        let files = format!("degrade: {{ files: {{ root: {files}, fallback: sorry.html }} }},");
        let (mut server, gateway) = start_with(place, scratch.path(), "admit: 100/s, active: 2, session: 1m", &files);
        std::fs::write(scratch.path().join("sorry.html"), "back soon").expect("there is room");
        server.stop();
        let mut visitors = [Visitor::new(&gateway), Visitor::new(&gateway)];
        // An error page, and a file that stands in.
        for ((method, status), visitor) in [("POST", 502), ("GET", 200)].into_iter().zip(&mut visitors) {
            assert!(visitor.request(method, "", b"").expect(status).header("set-cookie").is_some(), "{method}");
            assert!(visitor.request(method, "", b"").expect(status).header("set-cookie").is_none(), "{method}");
        }
        Visitor::queue(&gateway);
    });
}

#[test]
fn what_those_see_who_wait() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (server, gateway) = start(place, scratch.path(), "admit: 1/h, active: 5");
        Visitor::new(&gateway).get("").expect(200);
        let mut visitor = Visitor::queue(&gateway);
        let page = visitor.get("Accept: text/html\r\nAccept-Language: ko-KR,ko;q=0.9\r\n").expect(503);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("retry-after"), Some("30"));
        assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
        assert!(page.header("set-cookie").is_none(), "the place is the same");
        assert!(page.text().contains("<html lang=\"ko\">") && page.text().contains(">1</b>번째"), "{}", page.text());
        let page = visitor.get("").expect(503);
        assert!(page.text().contains("<html lang=\"en\">") && page.text().contains("about 1 h"), "{}", page.text());

        let told = visitor.get(JSON).expect(503);
        assert_eq!((told.header("retry-after"), told.header("content-type")), (Some("30"), Some("application/json")));
        let told = json(&told);
        assert_eq!(
            (&told["reason"], &told["place"], &told["state"]),
            (&"waiting_room".into(), &1.into(), &"waiting".into())
        );
        assert!((3500..=3620).contains(&told["wait_s"].as_u64().unwrap()), "{told}");

        assert!(visitor.request("HEAD", "", b"").expect(503).body.is_empty());
        // What cannot be repeated is not asked for and not read.
        let mut client = gateway.connect();
        client.send("POST /sale/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n");
        let answer = client.answer().expect(503);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.interim.is_empty());
        assert_eq!(server.count(), 1);
        // A browser's question whether it may ask carries no cookie.
        let mut browser = Visitor::new(&gateway);
        browser.request("OPTIONS", "Origin: http://a\r\nAccess-Control-Request-Method: GET\r\n", b"").expect(200);
        browser.request("OPTIONS", "", b"").expect(503);
    });
}

#[test]
fn strictly_in_order_with_two_workers() {
    let place = Place { ip: [127, 0, 0, 1].into(), workers: 2 };
    let scratch = Scratch::new();
    let (_server, gateway) = start(place, scratch.path(), "admit: 20/s, active: 1000, tickets: 1000/s");
    eventually("a queue", || Visitor::new(&gateway).get("").status == 503);
    let mut visitors: Vec<Visitor> = (0..60).map(|_| Visitor::queue(&gateway)).collect();
    let places: Vec<u64> = visitors.iter().map(|visitor| visitor.place).collect();
    assert!(places.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{places:?}");
    let mut inside = vec![false; visitors.len()];
    eventually("all of them inside", || {
        // The last ones ask first: whoever gets in, all before have been called.
        let mut somebody_later = false;
        for index in (0..visitors.len()).rev() {
            let came = inside[index] || visitors[index].get("").status == 200;
            assert!(came || !somebody_later, "number {index} waits, and a later one is in");
            somebody_later |= came;
            inside[index] = came;
        }
        inside.iter().all(|came| *came)
    });
}

#[test]
fn a_ticket_is_exchanged_once() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (server, gateway) = start(place, scratch.path(), "admit: 1/s, active: 100");
        Visitor::new(&gateway).get("").expect(200);
        let mut visitor = Visitor::queue(&gateway);
        let ticket = visitor.clone();
        // Reloading gains nothing.
        for _ in 0..5 {
            visitor.get(LOOK).expect(200);
        }
        visitor.await_turn();
        assert_ne!(visitor.cookie, ticket.cookie);
        let served = server.count();
        let replayed = ticket.clone().get("").expect(503);
        assert!(replayed.header("set-cookie").is_none(), "the session that it was exchanged for is not overwritten");
        assert_eq!(server.count(), served);
        visitor.get("").expect(200);
    });
}

#[test]
fn what_was_not_signed_here_is_worth_nothing() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (server, gateway) = start(place, scratch.path(), "admit: 1/h, active: 100");
        let mut inside = Visitor::new(&gateway);
        inside.get("").expect(200);
        let first = Visitor::queue(&gateway);
        let session = inside.cookie.clone().expect("a session");
        let (name, value) = session.split_once('=').expect("a cookie");
        let flipped = if value.ends_with('A') { 'Q' } else { 'A' };
        let mut forged = vec![
            format!("{name}="),
            format!("{name}=%00"),
            format!("{name}={}{flipped}", value.get(..49).expect("50 characters")),
        ];
        // A ticket that says that it is a session, another number.
        for (at, character) in [(0, 'B'), (12, 'Z'), (30, 'z')] {
            let mut characters: Vec<char> = first.cookie.clone().unwrap().chars().collect();
            let at = name.len() + 1 + at;
            if characters[at] != character {
                characters[at] = character;
                forged.push(characters.into_iter().collect());
            }
        }
        for (index, cookie) in forged.iter().enumerate() {
            let mut visitor = Visitor { cookie: Some(cookie.clone()), ..Visitor::new(&gateway) };
            let answer = visitor.get(JSON).expect(503);
            assert_eq!(json(&answer)["place"], index as u64 + 2, "{cookie}: a place at the end");
        }
        assert_eq!(server.count(), 1);
        // Beside a good one, a bad one does no harm.
        inside.cookie = Some(format!("{name}=x; {session}"));
        inside.get("").expect(200);
    });
}

#[test]
fn who_does_not_come_loses_the_place() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (_server, gateway) = start(place, scratch.path(), "admit: 10/s, active: 1, session: 1s, claim: 1s");
        let mut first = Visitor::new(&gateway);
        first.get("").expect(200);
        let mut absent = Visitor::queue(&gateway);
        let mut next = Visitor::queue(&gateway);
        assert_eq!((absent.place, next.place), (1, 2));
        next.await_turn();
        let late = absent.get(JSON);
        let again = json(&late.expect(503));
        assert_eq!((again["state"].as_str(), again["place"].as_u64()), (Some("waiting"), Some(1)), "a new place");
        absent.await_turn();
        // The session of the first is over as well.
        assert_eq!(first.get("").status, 503);
    });
}

#[test]
fn a_session_lasts_as_long_as_it_is_used() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (_server, gateway) = start(place, scratch.path(), "admit: 100/s, active: 1, session: 2s");
        let mut visitor = Visitor::new(&gateway);
        for _ in 0..12 {
            visitor.get("").expect(200);
            // Not to be awaited: what happens in between is that time passes.
            thread::sleep(Duration::from_millis(300));
        }
        let mut next = Visitor::queue(&gateway);
        next.await_turn();
        // A worker's clock is a tick behind.
        eventually("the end of its session", || visitor.get("").status == 503);
    });
}

#[test]
fn who_keeps_no_cookie_is_not_inside_for_long() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (_server, gateway) = start(place, scratch.path(), "admit: 100/s, active: 1, session: 10m, claim: 1s");
        Visitor::new(&gateway).get("").expect(200);
        let mut next = Visitor::queue(&gateway);
        next.await_turn();
        // That one shows what it was given.
        let mut last = Visitor::queue(&gateway);
        next.get("").expect(200);
        assert_eq!(last.place_now(), 1);
    });
}

#[test]
fn the_bounds() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (_server, gateway) = start(place, scratch.path(), "admit: 1/h, active: 1, waiting: 3, tickets: 7/h");
        Visitor::new(&gateway).get("").expect(200);
        let mut waiting: Vec<Visitor> = (0..3).map(|_| Visitor::queue(&gateway)).collect();
        for _ in 0..2 {
            let full = Visitor::new(&gateway).get(JSON).expect(503);
            assert_eq!(json(&full)["reason"], "waiting_room_full");
            assert!(full.header("set-cookie").is_none() && full.header("retry-after").is_some());
        }
        // Workers' clocks are not the same to the millisecond: the next one or the one behind it.
        eventually("too many", || Visitor::new(&gateway).get("").status == 429);
        let refused = Visitor::new(&gateway).get(JSON).expect(429);
        assert_eq!(json(&refused)["reason"], "waiting_room_tickets");
        assert!(refused.header("retry-after").and_then(|text| text.parse::<u64>().ok()).is_some_and(|s| s > 60));
        assert!(Visitor::new(&gateway).get("").expect(429).text().contains("<html"));
        assert_eq!(waiting.iter_mut().map(Visitor::place_now).collect::<Vec<_>>(), [1, 2, 3], "nobody else suffers");
    });
}

#[test]
fn a_reload_changes_it_in_place_and_forgets_what_is_removed() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let (server, gateway) = start(place, scratch.path(), "admit: 1/h, active: 1");
        let mut inside = Visitor::new(&gateway);
        inside.get("").expect(200);
        let mut waiting: Vec<Visitor> = (0..5).map(|_| Visitor::queue(&gateway)).collect();
        gateway.reload(&config(server.address(), scratch.path(), "admit: 1000/s, active: 4"));
        waiting.iter_mut().take(3).for_each(Visitor::await_turn);
        assert_eq!(waiting[3].place_now(), 1);
        inside.get("").expect(200);
        let rooms = || std::fs::read_dir(scratch.path().join("rooms")).map_or(0, Iterator::count);
        eventually("it is kept", || rooms() == 1);
        let without = format!(
            "state: {}\nlisteners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, respond: 204 }}] }} }}\n",
            scratch.path().display()
        );
        gateway.reload(&without);
        assert_eq!(rooms(), 0);
        gateway.reload(&config(server.address(), scratch.path(), "admit: 1000/s, active: 4"));
        // Another room with the name of the first: nobody waits in it, and old tickets are none of its.
        waiting[3].get("").expect(200);
    });
}

#[test]
fn places_and_sessions_survive_whatever_ends() {
    everywhere(|place| {
        let scratch = Scratch::new();
        let room = "admit: 1/h, active: 2, tickets: 1000/s";
        let (server, gateway) = start(place, scratch.path(), room);
        let mut inside = Visitor::new(&gateway);
        inside.get("").expect(200);
        let mut waiting: Vec<Visitor> = (0..4).map(|_| Visitor::queue(&gateway)).collect();
        let places = |waiting: &mut [Visitor]| waiting.iter_mut().map(Visitor::place_now).collect::<Vec<u64>>();
        // What the supervisor was told last.
        let file = || {
            let files = std::fs::read_dir(scratch.path().join("rooms")).into_iter().flatten().flatten();
            // Not the one that is being written.
            let whole = files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
            whole.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect::<String>()
        };
        eventually("it is kept", || file().contains("\"issued\":5"));

        // The worker process dies.
        let before = gateway.worker_process();
        signal(before, "KILL");
        eventually("another one", || gateway.worker_process() != before);
        assert_eq!(places(&mut waiting), [1, 2, 3, 4]);
        inside.get("").expect(200);

        // The next program: another worker process, which the old one hands over to.
        waiting.push(Visitor::queue(&gateway));
        let text = config(server.address(), scratch.path(), room);
        gateway.command_ok(&["upgrade"]);
        assert_eq!(places(&mut waiting), [1, 2, 3, 4, 5]);

        // Everything dies.
        waiting.push(Visitor::queue(&gateway));
        eventually("it is kept", || file().contains("\"issued\":7"));
        for process in [gateway.gateway.process_id(), gateway.worker_process()] {
            signal(process, "KILL");
        }
        let again = Instance::start(place, &text);
        for visitor in waiting.iter_mut().chain([&mut inside]) {
            visitor.address = again.address;
        }
        assert_eq!(places(&mut waiting), [1, 2, 3, 4, 5, 6]);
        inside.get("").expect(200);
        waiting.push(Visitor::queue(&again));
        assert_eq!(waiting.last().map(|visitor| visitor.place), Some(7));

        // It ends in good order.
        again.signal("TERM");
        let mut again = again;
        again.await_end();
        let last = Instance::start(place, &text);
        for visitor in &mut waiting {
            visitor.address = last.address;
        }
        assert_eq!(places(&mut waiting), [1, 2, 3, 4, 5, 6, 7]);
        // The turn comes for the first of them, in the third life since.
        last.reload(&config(server.address(), scratch.path(), "admit: 1/s, active: 2, tickets: 1000/s"));
        waiting[0].await_turn();
        assert_eq!(waiting[6].place_now(), 6, "one session of before is inside, and one place was free");
    });
}

#[test]
fn a_page_of_ones_own() {
    everywhere(|place| {
        let scratch = Scratch::new();
        std::fs::write(scratch.path().join("wait.html"), "<p>{{place}} of ours</p>{{script}}").unwrap();
        let page = scratch.path().join("wait.html");
        let room = format!("admit: 1/h, active: 1, page: \"{}\"", page.display());
        let (_server, gateway) = start(place, scratch.path(), &room);
        Visitor::new(&gateway).get("").expect(200);
        let answer = Visitor::new(&gateway).get("").expect(503);
        assert!(answer.text().starts_with("<p>1 of ours</p><script id=\"sumun-room\""), "{}", answer.text());
        assert!(answer.header("content-security-policy").is_none());
    });
}
