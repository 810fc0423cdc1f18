//! The challenge of a route: who passes, for how long, and what is worth nothing.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sha2::{Digest as _, Sha256};
use support::instance::{Instance, Place, eventually, everywhere};
use support::server::{Server, ok};
use support::talk::{Answer, Client};

const JSON: &str = "Accept: application/json\r\n";
const BROWSER: &str = "Accept: text/html,*/*;q=0.8\r\n";

fn start(place: Place, challenge: &str) -> (Server, Instance) {
    let server = Server::answering(place.ip, |_| ok("in"));
    let config = format!(
        "state: $DIR/state\npools: {{ app: {{ servers: \"{}\" }} }}\n\
         blocks: [{{ when: {{ status: [403], count: 3, within: 1m }}, for: 1m }}]\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [\
           {{ path: /hard/, proxy: app, challenge: {{ {challenge} }} }}, {{ path: /, respond: 204 }} ] }} }}\n",
        server.address()
    );
    (server, Instance::start(place, &config))
}

fn get(gateway: &Instance, fields: &str) -> Answer {
    gateway.connect().get_with("/hard/", fields)
}

/// What a client is given that asks for JSON, solved.
fn solve(gateway: &Instance) -> String {
    let told: serde_json::Value = serde_json::from_str(&get(gateway, JSON).expect(403).text()).expect("it is JSON");
    assert_eq!(told["reason"], "challenge");
    let (text, bits) = (told["challenge"].as_str().expect("a text"), told["bits"].as_u64().expect("a number"));
    let mut tries = (0_u32..).map(|number| format!("{text}.{number}"));
    let is_solved = |answer: &String| {
        let hash = Sha256::digest(answer.as_bytes());
        u64::from(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).leading_zeros()) >= bits
    };
    tries.find(is_solved).expect("it does not end")
}

/// The cookie that an answer sets.
fn pass(answer: &Answer) -> String {
    let set = answer.header("set-cookie").expect("a cookie");
    assert!(set.starts_with("sumun_pass=") && set.ends_with("; HttpOnly; SameSite=Lax"), "{set}");
    set.split(';').next().unwrap_or_default().to_owned()
}

#[test]
fn who_has_solved_it_passes() {
    everywhere(|place| {
        let (server, gateway) = start(place, "bits: 8");
        let page = get(&gateway, BROWSER).expect(403);
        assert!(page.text().contains("data-bits=\"8\"") && page.header("content-security-policy").is_some());
        assert_eq!(page.header("cache-control"), Some("no-store"));
        let page = get(&gateway, &format!("{BROWSER}Accept-Language: ko\r\n")).expect(403);
        assert!(page.text().contains("자바스크립트"));
        let answer = get(&gateway, &format!("Cookie: sumun_answer={}\r\n", solve(&gateway))).expect(200);
        assert_eq!(answer.text(), "in");
        let pass = pass(&answer);
        let answer = get(&gateway, &format!("Cookie: a=b; {pass}\r\n")).expect(200);
        assert!(answer.header("set-cookie").is_none(), "it has one");
        // None of these was a strike against the client.
        for _ in 0..5 {
            get(&gateway, JSON).expect(403);
        }
        gateway.get("/").expect(204);
        assert_eq!(server.count(), 2);
    });
}

#[test]
fn what_is_made_up_or_of_another_host_is_worth_nothing() {
    everywhere(|place| {
        let (server, gateway) = start(place, "bits: 8");
        let (_behind, other) = start(place, "bits: 8");
        let foreign = solve(&other);
        let foreign_pass = pass(&get(&other, &format!("Cookie: sumun_answer={foreign}\r\n")).expect(200));
        let solved = solve(&gateway);
        let unsolved = format!("{}.x", solved.split('.').next().unwrap_or_default());
        for cookie in [
            format!("sumun_answer={foreign}"),
            foreign_pass,
            format!("sumun_answer={unsolved}"),
            format!("sumun_pass={solved}"),
            "sumun_pass=; sumun_answer=.".to_owned(),
            // Of each kind two are looked at.
            format!("sumun_answer=a; sumun_answer=b; sumun_answer={solved}"),
        ] {
            get(&gateway, &format!("Cookie: {cookie}\r\n")).expect(403);
        }
        assert_eq!(server.count(), 0);
    });
}

#[test]
fn another_address_solves_its_own() {
    everywhere(|place| {
        if !place.ip.is_ipv4() {
            return;
        }
        let (_server, gateway) = start(place, "bits: 8");
        let answer = format!("Cookie: sumun_answer={}\r\n", solve(&gateway));
        let pass = format!("Cookie: {}\r\n", pass(&get(&gateway, &answer).expect(200)));
        for cookie in [answer, pass] {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5)), 0);
            socket.bind(&source.into()).expect("all of 127.0.0.0/8 is ours");
            socket.connect(&gateway.address.into()).expect("the gateway listens");
            Client::of(socket.into()).get_with("/hard/", &cookie).expect(403);
            get(&gateway, &cookie).expect(200);
        }
    });
}

#[test]
fn a_pass_ends() {
    everywhere(|place| {
        let (_server, gateway) = start(place, "bits: 4, pass: 1s");
        let answer = get(&gateway, &format!("Cookie: sumun_answer={}\r\n", solve(&gateway))).expect(200);
        let pass = format!("Cookie: {}\r\n", pass(&answer));
        eventually("it has ended", || get(&gateway, &pass).status == 403);
    });
}
