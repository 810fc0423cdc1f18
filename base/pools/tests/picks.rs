//! Which server a request comes to.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{config, pool, pools};
use proptest::prelude::*;
use sumun_config::checked::{Balance, Outlier, Retries, ServerId, Sticky};
use sumun_pools::{AdminState, Lease, Named, OperationError, Outcome, PickKey, Picker, Pools, Refused, Tried, key_of};

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const C: &str = "10.0.0.3:80";

fn picker(pools: &Pools) -> Picker {
    Picker::new(pools.pool("app").unwrap())
}

fn pick(picker: &mut Picker, now_ms: u64) -> Result<Lease, Refused> {
    picker.pick(now_ms, PickKey::default(), &Tried::default())
}

fn name(lease: &Lease) -> &str {
    lease.server().name()
}

/// How often each server is picked of `count` picks, one after the other.
fn counts(picker: &mut Picker, now_ms: u64, count: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts.entry(name(&pick(picker, now_ms).unwrap()).to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn a_lease_counts_until_it_is_dropped() {
    let pools = pools(&pool(&[A]));
    let mut picker = picker(&pools);
    let lease = pick(&mut picker, 0).unwrap();
    let server = Arc::clone(lease.server());
    assert_eq!((server.in_flight(), server.requests()), (1, 1));
    drop(lease);
    assert_eq!((server.in_flight(), server.requests()), (0, 1));
}

#[test]
fn the_less_loaded_server_is_taken() {
    let pools = pools(&pool(&[A, B]));
    let mut picker = picker(&pools);
    let leases: Vec<Lease> = (0..100).map(|_| pick(&mut picker, 0).unwrap()).collect();
    let at_a = leases.iter().filter(|lease| name(lease) == A).count();
    assert!((49..=51).contains(&at_a), "{at_a}");
}

#[test]
fn what_was_tried_is_not_taken_again() {
    let pools = pools(&pool(&[A, B]));
    let mut picker = picker(&pools);
    let mut tried = Tried::default();
    let first = pick(&mut picker, 0).unwrap();
    tried.insert(first.server());
    for _ in 0..20 {
        let second = picker.pick(0, PickKey::default(), &tried).unwrap();
        assert_ne!(name(&second), name(&first));
    }
    let second = picker.pick(0, PickKey::default(), &tried).unwrap();
    tried.insert(second.server());
    assert_eq!(picker.pick(0, PickKey::default(), &tried).unwrap_err(), Refused::NoServer);
}

#[test]
fn full_servers_are_passed_over_then_refused() {
    let mut settings = pool(&[A, B]);
    settings.servers[0].max_connections = Some(1);
    settings.servers[1].max_connections = Some(2);
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    let mut leases: Vec<Lease> = (0..3).map(|_| pick(&mut picker, 0).unwrap()).collect();
    assert_eq!(leases.iter().filter(|lease| name(lease) == A).count(), 1);
    assert_eq!(pick(&mut picker, 0).unwrap_err(), Refused::AtCapacity);
    leases.pop();
    assert!(pick(&mut picker, 0).is_ok());
}

#[test]
fn drained_and_disabled_servers_are_not_taken() {
    let pools = pools(&pool(&[A, B]));
    let mut picker = picker(&pools);
    pools.set_state("app", A, AdminState::Draining).unwrap();
    assert_eq!(counts(&mut picker, 0, 20), BTreeMap::from([(B.to_owned(), 20)]));
    pools.set_state("app", B, AdminState::Disabled).unwrap();
    assert_eq!(pick(&mut picker, 0).unwrap_err(), Refused::NoServer);
    pools.set_state("app", A, AdminState::Enabled).unwrap();
    assert_eq!(counts(&mut picker, 0, 20), BTreeMap::from([(A.to_owned(), 20)]));
    assert!(pools.set_state("app", C, AdminState::Enabled).is_err());
    assert!(pools.set_state("api", A, AdminState::Enabled).is_err());
}

#[test]
fn own_zone_then_others_then_backups() {
    let mut settings = pool(&[A, B, C]);
    settings.zone = Some("idc".into());
    settings.servers[0].backup = true;
    settings.servers[0].zone = Some("idc".into());
    settings.servers[2].zone = Some("idc".into());
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    for server in [C, B, A] {
        assert_eq!(counts(&mut picker, 0, 10), BTreeMap::from([(server.to_owned(), 10)]));
        pools.set_state("app", server, AdminState::Disabled).unwrap();
    }
    assert_eq!(pick(&mut picker, 0).unwrap_err(), Refused::NoServer);
}

#[test]
fn a_retry_may_go_to_the_backup() {
    let mut settings = pool(&[A, B]);
    settings.servers[1].backup = true;
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    let mut tried = Tried::default();
    tried.insert(pick(&mut picker, 0).unwrap().server());
    assert_eq!(name(&picker.pick(0, PickKey::default(), &tried).unwrap()), B);
}

#[test]
fn sticky_cookie_leads_back_and_forged_ones_do_not() {
    let mut settings = pool(&[A, B, C]);
    settings.sticky = Some(Sticky { cookie: "SUMUN".to_owned(), secret: None });
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    assert!(picker.wants().sticky && !picker.wants().hash);
    let first = pick(&mut picker, 0).unwrap();
    let cookie = picker.cookie_for(first.server()).unwrap().to_owned();
    let with = |value: &str, picker: &mut Picker| {
        let key = PickKey { sticky: Some(value.as_bytes()), hash: None };
        name(&picker.pick(0, key, &Tried::default()).unwrap()).to_owned()
    };
    let home = name(&first).to_owned();
    // Load that would lead anywhere else.
    let _load: Vec<_> = (0..10)
        .map(|_| picker.pick(0, PickKey { sticky: Some(cookie.as_bytes()), hash: None }, &Tried::default()))
        .collect();
    assert!((0..20).all(|_| with(&cookie, &mut picker) == home));
    for forged in ["", "x", home.as_str(), &cookie.to_lowercase(), &format!("{cookie}="), &format!("{cookie}A")] {
        if forged != cookie {
            assert_ne!(with(forged, &mut picker), home, "{forged}");
        }
    }
    // A drained server keeps its sessions and gets no others; a disabled one has none.
    pools.set_state("app", &home, AdminState::Draining).unwrap();
    assert_eq!(with(&cookie, &mut picker), home);
    pools.set_state("app", &home, AdminState::Disabled).unwrap();
    assert_ne!(with(&cookie, &mut picker), home);
}

#[test]
fn a_named_server_is_the_one_or_none() {
    let mut settings = pool(&[A, B, C]);
    let id = |byte| ServerId::new(&[byte]).unwrap();
    settings.servers[1].quic_id = Some(id(7));
    settings.servers[1].max_connections = Some(2);
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    let by_quic_id = |picker: &mut Picker| picker.pick_named(Named::QuicId(id(7)), 0);
    let first = by_quic_id(&mut picker).unwrap();
    assert_eq!(name(&first), B);
    let by_id = |picker: &mut Picker| picker.pick_named(Named::Id(first.server().id()), 0);
    let second = by_id(&mut picker).unwrap();
    assert_eq!((name(&second), second.server().in_flight()), (B, 2));
    assert!(by_id(&mut picker).is_none() && by_quic_id(&mut picker).is_none(), "it is full");
    drop(second);
    for nobody in [Named::QuicId(id(8)), Named::Id(u64::MAX)] {
        assert!(picker.pick_named(nobody, 0).is_none());
    }
    // Who is with a server that is drained stays there; a disabled one has nobody.
    pools.set_state("app", B, AdminState::Draining).unwrap();
    assert_eq!(name(&by_id(&mut picker).unwrap()), B);
    pools.set_state("app", B, AdminState::Disabled).unwrap();
    assert!(by_id(&mut picker).is_none());
    pools.set_state("app", B, AdminState::Enabled).unwrap();
    assert_eq!(name(&by_id(&mut picker).unwrap()), B);
    pools.remove_server("app", B).unwrap();
    assert!(by_id(&mut picker).is_none() && by_quic_id(&mut picker).is_none());
    // One that is added has its own, in this process and the next one.
    let added = "10.0.0.4:80";
    assert_eq!(pools.add_server("app", added, Some("7")), Err(OperationError::BadQuicId("7".to_owned())));
    pools.add_server("app", added, Some("07")).unwrap();
    assert_eq!(name(&by_quic_id(&mut picker).unwrap()), added);
    assert_eq!(pools.add_server("app", "10.0.0.5:80", Some("07")), Err(OperationError::QuicIdTaken(added.into())));
    let next = common::pools(&settings);
    next.carry_in(&pools.carry_out()).unwrap();
    assert_eq!(name(&by_quic_id(&mut self::picker(&next)).unwrap()), added);
}

#[test]
fn a_session_whose_server_is_full_goes_elsewhere() {
    let mut settings = pool(&[A, B]);
    settings.sticky = Some(Sticky { cookie: "SUMUN".to_owned(), secret: None });
    settings.servers[0].max_connections = Some(1);
    settings.servers[1].backup = true;
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    let first = pick(&mut picker, 0).unwrap();
    let cookie = picker.cookie_for(first.server()).unwrap().to_owned();
    let key = PickKey { sticky: Some(cookie.as_bytes()), hash: None };
    assert_eq!(name(&picker.pick(0, key, &Tried::default()).unwrap()), B);
    assert_eq!(first.server().in_flight(), 1);
    drop(first);
    assert_eq!(name(&picker.pick(0, key, &Tried::default()).unwrap()), A);
}

#[test]
fn cookies_are_the_same_in_every_gateway_with_the_key() {
    let mut settings = pool(&[A]);
    settings.sticky = Some(Sticky { cookie: "SUMUN".to_owned(), secret: Some("shared".to_owned()) });
    let cookie = |settings: &sumun_config::checked::Pool| {
        let pools = pools(settings);
        let mut picker = picker(&pools);
        let lease = pick(&mut picker, 0).unwrap();
        picker.cookie_for(lease.server()).unwrap().to_owned()
    };
    let one = cookie(&settings);
    assert_eq!(one, cookie(&settings));
    settings.sticky = Some(Sticky { cookie: "SUMUN".to_owned(), secret: Some("other".to_owned()) });
    assert_ne!(one, cookie(&settings));
}

fn with_outlier(addresses: &[&str], slow_start: Duration) -> Arc<Pools> {
    let mut settings = pool(addresses);
    let eject = Duration::from_secs(10);
    settings.outlier = Outlier { failures: 3, eject, eject_max: eject * 3, max_ejected_percent: 50 };
    settings.slow_start = slow_start;
    settings.balance = Balance::RoundRobin;
    pools(&settings)
}

/// Fails `server` live until it is ejected.
fn fail(picker: &mut Picker, server: &str, outcome: Outcome, now_ms: u64) {
    for _ in 0..50 {
        let lease = pick(picker, now_ms).unwrap();
        lease.report(if name(&lease) == server { outcome } else { Outcome::Success }, now_ms);
    }
}

#[test]
fn failures_in_a_row_eject_for_a_while() {
    let pools = with_outlier(&[A, B], Duration::ZERO);
    let mut picker = picker(&pools);
    fail(&mut picker, A, Outcome::Status(500), 1000);
    assert_eq!(counts(&mut picker, 1000, 20).len(), 2);
    fail(&mut picker, A, Outcome::Status(503), 1000);
    assert_eq!(counts(&mut picker, 10_999, 20), BTreeMap::from([(B.to_owned(), 20)]));
    assert_eq!(counts(&mut picker, 11_000, 20).len(), 2);
    // The last one is not ejected, and the second time of the first lasts twice as long.
    fail(&mut picker, A, Outcome::ConnectFailed, 11_000);
    fail(&mut picker, B, Outcome::CutOff, 11_000);
    assert_eq!(counts(&mut picker, 30_999, 20), BTreeMap::from([(B.to_owned(), 20)]));
    assert_eq!(counts(&mut picker, 31_000, 20).len(), 2);
    let status = pools.status();
    let server = &status[0].servers[0];
    assert_eq!(server.reason, "ejected after 3 failures in a row, the last: no connection");
    assert_eq!((server.counts.ejections, server.counts.connect_failed, server.counts.bad_status), (2, 3, 3));
}

/// Half of the pool may be ejected. When the other half dies, its requests find the ejected one
/// instead of nobody.
#[test]
fn who_has_tried_the_others_goes_to_an_ejected_one() {
    let pools = with_outlier(&[A, B], Duration::ZERO);
    let mut picker = picker(&pools);
    fail(&mut picker, A, Outcome::ConnectFailed, 1000);
    let mut tried = Tried::default();
    let first = picker.pick(1000, PickKey::default(), &tried).unwrap();
    assert_eq!(name(&first), B);
    tried.insert(first.server());
    let second = picker.pick(1000, PickKey::default(), &tried).unwrap();
    assert_eq!(name(&second), A);
    tried.insert(second.server());
    assert_eq!(picker.pick(1000, PickKey::default(), &tried).unwrap_err(), Refused::NoServer);
}

#[test]
fn a_success_in_between_counts() {
    let pools = with_outlier(&[A, B], Duration::ZERO);
    let mut picker = picker(&pools);
    for round in 0..60 {
        let lease = pick(&mut picker, 0).unwrap();
        lease.report(if round % 6 < 4 { Outcome::Timeout } else { Outcome::Success }, 0);
    }
    assert_eq!(counts(&mut picker, 0, 20).len(), 2);
}

#[test]
fn weight_rises_slowly_after_an_ejection() {
    let pools = with_outlier(&[A, B], Duration::from_secs(100));
    let mut picker = picker(&pools);
    fail(&mut picker, A, Outcome::Timeout, 1000);
    let share = |picker: &mut Picker, now_ms| counts(picker, now_ms, 1100)[A];
    assert!(share(&mut picker, 11_000) <= 110);
    let half = share(&mut picker, 61_000);
    assert!((330..450).contains(&half), "{half}");
    assert_eq!(share(&mut picker, 111_000), 550);
}

#[test]
fn reload_keeps_servers_that_stay() {
    let mut settings = pool(&[A, B]);
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    let leases: Vec<Lease> = (0..4).map(|_| pick(&mut picker, 0).unwrap()).collect();
    pools.set_state("app", A, AdminState::Disabled).unwrap();
    pools.set_weight("app", B, 7).unwrap();
    let before = pools.pool("app").unwrap();

    settings.servers.push(common::server(C));
    settings.balance = Balance::Random;
    pools.apply(&config(&settings));
    let status = pools.status();
    let servers = &status[0].servers;
    assert_eq!(servers.iter().map(|server| &*server.name).collect::<Vec<_>>(), [A, B, C]);
    assert_eq!((servers[0].state, servers[0].in_flight), (AdminState::Disabled, 2));
    assert_eq!((servers[1].weight, servers[1].in_flight), (7, 2));
    assert!(Arc::ptr_eq(&before, &pools.pool("app").unwrap()));
    assert!(!counts(&mut picker, 0, 50).contains_key(A));

    // Another weight in the file overrides; another address is another server.
    settings.servers[1].weight = 3;
    settings.servers[0].address = common::server("10.0.0.9:80").address;
    pools.apply(&config(&settings));
    let status = pools.status();
    assert_eq!(status[0].servers[1].weight, 3);
    assert_eq!((status[0].servers[0].in_flight, status[0].servers[0].state), (0, AdminState::Enabled));
    drop(leases);
    assert_eq!(pools.status()[0].servers[1].in_flight, 0);
}

#[test]
fn servers_come_and_go_while_running() {
    let settings = pool(&[A]);
    let pools = pools(&settings);
    let mut picker = picker(&pools);
    assert_eq!(&*pools.add_server("app", B, None).unwrap(), B);
    assert_eq!(counts(&mut picker, 0, 100).len(), 2);
    assert!(pools.add_server("app", B, None).is_err());
    assert!(pools.add_server("app", "what?", None).is_err());
    pools.remove_server("app", A).unwrap();
    pools.apply(&config(&pool(&[A, C])));
    assert_eq!(counts(&mut picker, 0, 100).into_keys().collect::<Vec<_>>(), [B, C]);
    pools.add_server("app", A, None).unwrap();
    pools.remove_server("app", B).unwrap();
    assert!(pools.remove_server("app", B).is_err());
    assert_eq!(counts(&mut picker, 0, 100).into_keys().collect::<Vec<_>>(), [A, C]);
    assert!(pools.set_weight("app", A, 0).is_err());
}

#[test]
fn retries_are_a_share_and_a_floor() {
    let mut settings = pool(&[A]);
    settings.retries = Retries { tries: 2, budget_percent: 10, floor_per_second: 2, body: 0 };
    let pools = pools(&settings);
    let (mut one, mut two) = (picker(&pools), picker(&pools));
    for _ in 0..50 {
        pick(&mut one, 5000).unwrap();
    }
    let taken = (0..100).filter(|_| one.may_retry(5000)).count();
    assert_eq!(taken, 5 + 2);
    // The floor is of the pool, not of the worker.
    assert!(!two.may_retry(5000));
    assert!(two.may_retry(6000) && one.may_retry(6000) && !two.may_retry(6000));
}

/// A reload makes new pickers; what was earned does not begin anew.
#[test]
fn a_new_picker_inherits_the_budget_for_retries() {
    let mut settings = pool(&[A, B]);
    settings.retries.budget_percent = 20;
    settings.retries.floor_per_second = 0;
    let pools = pools(&settings);
    let mut before = picker(&pools);
    for _ in 0..100 {
        pick(&mut before, 1000).unwrap();
    }
    let mut after = picker(&pools);
    assert!(!after.may_retry(1000));
    after.inherit(&before);
    assert_eq!((0..100).filter(|_| after.may_retry(1000)).count(), 20);
}

#[test]
fn own_servers_are_known_by_address() {
    let pools = pools(&pool(&[A, "127.0.0.1:80", "[2001:db8::1]:80"]));
    let pool = pools.pool("app").unwrap();
    let is_own = |address: &str| pool.is_own_server(address.parse().unwrap());
    assert!(is_own("10.0.0.1") && is_own("::ffff:10.0.0.1") && is_own("2001:db8::1"));
    assert!(!is_own("127.0.0.1") && !is_own("10.0.0.2"));
}

#[test]
fn hash_stays_with_its_server() {
    for balance in [Balance::Hash, Balance::Maglev] {
        let mut settings = pool(&[A, B, C]);
        settings.balance = balance;
        let pools = pools(&settings);
        let (mut one, mut two) = (picker(&pools), picker(&pools));
        assert!(one.wants().hash);
        for user in 0..50 {
            let key = PickKey { hash: Some(key_of(format!("user-{user}").as_bytes())), sticky: None };
            let first = name(&one.pick(0, key, &Tried::default()).unwrap()).to_owned();
            assert_eq!(name(&two.pick(0, key, &Tried::default()).unwrap()), first);
        }
    }
}

proptest! {
    /// Whatever the operator does and whatever fails, a pick is eligible or refused for a reason.
    #[test]
    fn never_a_server_that_must_not_be_taken(
        balance in proptest::sample::select(&[
            Balance::P2c, Balance::RoundRobin, Balance::LeastRequest, Balance::Random, Balance::Hash, Balance::Maglev, Balance::First,
        ][..]),
        bounds in proptest::collection::vec(proptest::option::of(1_u32..4), 1..6),
        steps in proptest::collection::vec((0_u8..6, 0_usize..6, 0_u64..3000), 1..120),
    ) {
        let addresses: Vec<String> = (0..bounds.len()).map(|number| format!("10.0.0.{number}:80")).collect();
        let mut settings = pool(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        settings.balance = balance;
        settings.outlier.failures = 2;
        settings.slow_start = Duration::from_secs(2);
        for (server, bound) in settings.servers.iter_mut().zip(&bounds) {
            server.max_connections = *bound;
        }
        let pools = pools(&settings);
        let mut picker = picker(&pools);
        let mut leases: Vec<Lease> = Vec::new();
        let mut now_ms = 0;
        for (step, number, pause_ms) in steps {
            now_ms += pause_ms;
            let server = &addresses[number % addresses.len()];
            match step {
                0 => pools.set_state("app", server, AdminState::Disabled).unwrap(),
                1 => pools.set_state("app", server, AdminState::Enabled).unwrap(),
                2 if !leases.is_empty() => {
                    let lease = leases.swap_remove(number % leases.len());
                    lease.report(Outcome::Timeout, now_ms);
                }
                _ => {
                    let set = pools.pool("app").unwrap().servers();
                    let accepts = |index: usize| set.members()[index].server.accepts();
                    let ejected = |index: usize| set.members()[index].server.ejected_until_ms() > now_ms;
                    // An ejected server is taken only where nobody is left that is not.
                    let all_ejected = (0..addresses.len()).filter(|&index| accepts(index)).all(ejected);
                    let can = |index: usize| accepts(index) && (all_ejected || !ejected(index));
                    let has_place = |index: usize| bounds[index].is_none_or(|bound| set.members()[index].server.in_flight() < bound);
                    match pick(&mut picker, now_ms) {
                        Ok(lease) => {
                            let index = addresses.iter().position(|address| address == name(&lease)).unwrap();
                            prop_assert!(can(index));
                            prop_assert!(bounds[index].is_none_or(|bound| lease.server().in_flight() <= bound));
                            leases.push(lease);
                        }
                        Err(Refused::NoServer) => prop_assert!(!(0..bounds.len()).any(can)),
                        Err(Refused::AtCapacity) => {
                            prop_assert!((0..bounds.len()).any(can));
                            prop_assert!(!(0..bounds.len()).any(|index| can(index) && has_place(index)));
                        }
                    }
                }
            }
        }
    }
}
