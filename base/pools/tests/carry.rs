//! What the next process knows of servers.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{pool, pools, until};
use sumun_config::checked::{self as config, Check, Outlier};
use sumun_engine::tls::Tls;
use sumun_pools::external::ExternalChecks;
use sumun_pools::resolve::{self, NameServers};
use sumun_pools::{AdminState, Health, Outcome, PickKey, Picker, Pools, ServerStatus, Tried, health};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";
const D: &str = "10.0.0.4:80";

/// The next process, with a file that may be another one by now.
fn next(before: &Pools, settings: &config::Pool) -> Arc<Pools> {
    next_with(&before.carry_out(), settings)
}

fn next_with(text: &str, settings: &config::Pool) -> Arc<Pools> {
    let next = pools(settings);
    next.carry_in(text).unwrap();
    next
}

fn server(pools: &Pools, name: &str) -> ServerStatus {
    let all = pools.status().remove(0).servers;
    let names: Vec<String> = all.iter().map(|server| server.name.to_string()).collect();
    all.into_iter().find(|server| &*server.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
}

/// The same text, written so many milliseconds earlier.
fn aged(text: &str, by_ms: u64) -> String {
    let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
    value["at_ms"] = (value["at_ms"].as_u64().unwrap().checked_sub(by_ms).expect("this host runs that long")).into();
    value.to_string()
}

#[test]
fn what_operators_changed_holds() {
    let settings = pool(&[A, B, D]);
    let before = pools(&settings);
    before.set_state("app", A, AdminState::Draining).unwrap();
    before.set_weight("app", B, 5).unwrap();
    before.add_server("app", C, None).unwrap();
    before.set_weight("app", C, 2).unwrap();
    before.set_state("app", C, AdminState::Disabled).unwrap();
    before.remove_server("app", D).unwrap();
    let mut after = next(&before, &settings);
    // And again: the process after that has it from this one.
    for _ in 0..2 {
        let found: Vec<(String, AdminState, u32)> = after.status()[0]
            .servers
            .iter()
            .map(|server| (server.name.to_string(), server.state, server.weight))
            .collect();
        let expected = [(A, AdminState::Draining, 1), (B, AdminState::Enabled, 5), (C, AdminState::Disabled, 2)];
        assert_eq!(found, expected.map(|(name, state, weight)| (name.to_owned(), state, weight)));
        after = next(&after, &settings);
    }
    // A removed one can be brought back, an added one removed.
    after.add_server("app", D, None).unwrap();
    after.remove_server("app", C).unwrap();
    assert_eq!(after.status()[0].servers.len(), 3);
}

#[test]
fn the_file_has_the_last_word_where_it_changed() {
    let before = pools(&pool(&[A, B]));
    before.set_weight("app", A, 5).unwrap();
    before.set_state("app", B, AdminState::Disabled).unwrap();
    before.add_server("app", C, None).unwrap();
    let mut settings = pool(&[A, C]);
    settings.servers[0].weight = 3;
    let after = next(&before, &settings);
    assert_eq!(server(&after, A).weight, 3);
    let names: Vec<_> = after.status()[0].servers.iter().map(|server| server.name.to_string()).collect();
    assert_eq!(names, [A, C], "C once, B not at all");
    // The same name somewhere else is another server.
    let mut moved = pool(&[A, B]);
    moved.servers[1].address = pool(&[D]).servers[0].address.clone();
    assert_eq!(server(&next(&before, &moved), B).state, AdminState::Enabled);
}

#[test]
fn an_ejection_goes_on_and_counts() {
    let mut settings = pool(&[A, B, C]);
    let eject = Duration::from_secs(100);
    settings.outlier = Outlier { failures: 3, eject, eject_max: eject * 3, max_ejected_percent: 50 };
    let before = pools(&settings);
    let mut picker = Picker::new(before.pool("app").unwrap());
    let mut failures = 0;
    while failures < 3 {
        let lease = picker.pick(before.now_ms(), PickKey::default(), &Tried::default()).unwrap();
        let is_a = &**lease.server().name() == A;
        lease.report(if is_a { Outcome::ConnectFailed } else { Outcome::Success }, before.now_ms());
        failures += u32::from(is_a);
    }
    let told = before.carry_out();
    let after = next_with(&aged(&told, 30_000), &settings);
    let ejected = server(&after, A);
    assert!((60_000..=70_000).contains(&ejected.ejected_ms), "{}", ejected.ejected_ms);
    assert!(!ejected.usable && ejected.reason.contains("ejected after 3 failures"), "{}", ejected.reason);
    assert!(server(&after, B).usable);
    // Long ago: it is over, and nothing is said of it.
    let later = next_with(&aged(&told, 200_000), &settings);
    assert_eq!((server(&later, A).ejected_ms, server(&later, A).usable), (0, true));
    // Who asks for no ejections any more has none.
    settings.outlier.failures = 0;
    assert!(server(&next_with(&told, &settings), A).usable);
}

#[tokio::test]
async fn what_checks_found_is_known_unless_it_is_old() {
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut settings = pool(&[&nobody]);
    let every = Duration::from_millis(10);
    settings.health =
        Some(config::Health { check: Check::CONNECT, every, timeout: every * 100, rise: 1, fall: 1, port: None });
    let before = pools(&settings);
    let checks = tokio::spawn(health::run(Arc::clone(&before), Tls::new(1), ExternalChecks::of_nobody()));
    until(|| server(&before, &nobody).health == Health::Down).await;
    checks.abort();
    let told = before.carry_out();
    let after = next_with(&told, &settings);
    let found = server(&after, &nobody);
    assert_eq!((found.health, found.usable), (Health::Down, false));
    assert_eq!(
        (found.reason, found.last_check),
        (server(&before, &nobody).reason, server(&before, &nobody).last_check)
    );
    assert_eq!(server(&next_with(&aged(&told, 61_000), &settings), &nobody).health, Health::Unknown);
    // Without checks nobody would ever find out that it is up again.
    settings.health = None;
    assert_eq!(server(&next_with(&told, &settings), &nobody).health, Health::Unknown);
}

#[tokio::test]
async fn names_keep_their_last_good_answer() {
    let settings = pool(&["localhost:8080"]);
    let before = pools(&settings);
    let resolving = tokio::spawn(resolve::run(Arc::clone(&before), NameServers::System));
    until(|| before.unresolved().is_empty()).await;
    resolving.abort();
    let targets = |pools: &Pools| -> Vec<String> {
        pools.status()[0].servers.iter().map(|server| server.address.clone()).collect()
    };
    let after = next(&before, &settings);
    assert!(after.unresolved().is_empty() && !targets(&after).is_empty());
    assert_eq!(targets(&after), targets(&before));
}

#[test]
fn a_slow_start_begins_again_and_nobody_elses_begins() {
    let mut settings = pool(&[A, B]);
    settings.slow_start = Duration::from_secs(3600);
    let before = pools(&settings);
    before.add_server("app", C, None).unwrap();
    let percent = |pools: &Pools| [A, B, C].map(|name| server(pools, name).weight_percent);
    assert!(percent(&before)[2] < 100);
    let after = percent(&next(&before, &settings));
    assert_eq!(after[..2], [100, 100]);
    assert!(after[2] < 100, "{after:?}");
    // What was added long ago is as warm as those of the file.
    settings.slow_start = Duration::ZERO;
    let warm = pools(&settings);
    warm.add_server("app", C, None).unwrap();
    settings.slow_start = Duration::from_secs(3600);
    assert_eq!(percent(&next(&warm, &settings)), [100, 100, 100]);
}

#[test]
fn what_is_no_such_text_changes_nothing() {
    let settings = pool(&[A]);
    for text in ["", "[]", "{}", "null", r#"{"at_ms":"soon","pools":{}}"#, r#"{"at_ms":0,"pools":{"app":{"added":7}}}"#]
    {
        let after = pools(&settings);
        assert!(after.carry_in(text).is_err(), "{text}");
        assert_eq!(after.status(), pools(&settings).status());
    }
    // What an operator could not have done is left out.
    let text = r#"{"at_ms":0,"pools":{"other":{},"app":{"added":["nonsense","10.0.0.3:80","10.0.0.3:80"],
        "removed":["gone"],"servers":{"10.0.0.1:80":{"target":"10.0.0.1:80","weight":[5000,1]}}}}}"#;
    let after = next_with(text, &settings);
    assert_eq!((server(&after, A).weight, after.status()[0].servers.len()), (1, 2));
}

#[tokio::test]
async fn every_operation_is_told() {
    let pools = pools(&pool(&[A, B]));
    let mut operations = pools.operations();
    let mut is_told = move || {
        let told = operations.has_changed().unwrap();
        operations.mark_unchanged();
        told
    };
    assert!(!is_told());
    pools.set_state("app", A, AdminState::Draining).unwrap();
    assert!(is_told());
    pools.set_weight("app", A, 2).unwrap();
    assert!(is_told());
    pools.add_server("app", C, None).unwrap();
    assert!(is_told());
    pools.remove_server("app", B).unwrap();
    assert!(is_told());
    assert!(pools.set_weight("app", "nobody", 2).is_err() && !is_told());
}
