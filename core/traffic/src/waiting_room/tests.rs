//! The room against a list of all visitors.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const START_MS: u64 = 1_700_000_000_000;

fn settings(admit: u32, active: u32) -> Settings {
    Settings { admit, period_ms: 1000, active, session_ms: 10_000, claim_ms: 5_000, waiting: 1000 }
}

fn waits(arrival: Arrival) -> Id {
    match arrival {
        Arrival::Waits(id) => id,
        other => panic!("{other:?}"),
    }
}

fn admitted(arrival: Arrival) -> Id {
    match arrival {
        Arrival::Admitted(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_comes_while_there_is_room_never_waits() {
    let mut room = Room::new(Settings { claim_ms: 10_000, ..settings(10, 100) }, 7, START_MS);
    for second in 0..8 {
        for _ in 0..10 {
            admitted(room.arrive(START_MS + second * 1000));
        }
    }
    // The eleventh of this second.
    let id = waits(room.arrive(START_MS + 7000));
    assert_eq!((id, room.counts().waiting, room.counts().active), (Id { epoch: 7, number: 81 }, 1, 80));
    assert_eq!(room.claim(id, START_MS + 7050), Claim::NotYet);
    assert_eq!(room.claim(id, START_MS + 7100), Claim::Admitted);
}

#[test]
fn places_are_held_until_a_session_ends() {
    let mut room = Room::new(Settings { claim_ms: 10_000, ..settings(1000, 3) }, 1, START_MS);
    let inside: Vec<Id> = (0..3).map(|_| admitted(room.arrive(START_MS))).collect();
    let id = waits(room.arrive(START_MS));
    room.renew(inside[0], START_MS + 10_000, START_MS + 9_000).unwrap();
    // However often it is asked for, and with whichever of its cookies.
    room.renew(inside[0], START_MS + 10_000, START_MS + 9_000).unwrap();
    assert_eq!(room.counts().active, 3);
    assert_eq!(room.claim(id, START_MS + 9_999), Claim::NotYet);
    let outlook = room.outlook();
    assert_eq!(outlook.wait_ms(outlook.place(id.number), START_MS + 9_999), 1);
    assert_eq!(room.claim(id, START_MS + 10_000), Claim::Admitted);
    assert_eq!(room.counts().active, 2, "two of three have ended, one came");
    assert_eq!(room.renew(inside[1], START_MS + 10_000, START_MS + 10_000), None);
}

#[test]
fn who_never_shows_its_session_does_not_hold_a_place_for_long() {
    let mut room = Room::new(settings(1000, 3), 1, START_MS);
    let inside: Vec<Id> = (0..3).map(|_| admitted(room.arrive(START_MS))).collect();
    let ids: Vec<Id> = (0..2).map(|_| waits(room.arrive(START_MS))).collect();
    assert_eq!(room.renew(inside[0], START_MS + 5_000, START_MS + 1_000), Some(START_MS + 11_000));
    assert_eq!(room.claim(ids[0], START_MS + 4_999), Claim::NotYet);
    // The other two have kept nothing. Who comes with a ticket keeps what it is given.
    for id in ids {
        assert_eq!(room.claim(id, START_MS + 5_000), Claim::Admitted);
    }
    for (at_ms, active) in [(10_999, 3), (11_000, 2), (14_999, 2), (15_000, 0)] {
        room.advance(START_MS + at_ms);
        assert_eq!(room.counts().active, active, "after {at_ms} ms");
    }
}

#[test]
fn a_number_is_exchanged_once() {
    let mut room = Room::new(settings(1, 100), 1, START_MS);
    admitted(room.arrive(START_MS));
    let id = waits(room.arrive(START_MS));
    assert_eq!(room.claim(id, START_MS + 1000), Claim::Admitted);
    assert_eq!(room.claim(id, START_MS + 1001), Claim::Used { just_now: true });
    room.renew(id, START_MS + 11_000, START_MS + 10_000).unwrap();
    assert_eq!(room.claim(id, START_MS + 12_000), Claim::Used { just_now: false });
    assert_eq!(room.claim(id, START_MS + 60_000), Claim::Passed);
    for (epoch, number) in [(1, 0), (1, 3), (1, u64::MAX), (2, 2), (0, 2)] {
        assert_eq!(room.claim(Id { epoch, number }, START_MS + 60_000), Claim::Unknown);
    }
    assert_eq!(room.counts().admitted, 2);
}

#[test]
fn who_does_not_come_leaves_place_and_turn_to_others() {
    let mut room = Room::new(settings(10, 1000), 1, START_MS);
    for _ in 0..10 {
        admitted(room.arrive(START_MS));
    }
    let ids: Vec<Id> = (0..200).map(|_| waits(room.arrive(START_MS))).collect();
    // The first fifty are called within five seconds and do not come.
    room.advance(START_MS + 5_000);
    assert_eq!(room.outlook().called, 20, "a turn that nobody could take is not kept for longer than a second");
    for tenth in 50..150 {
        room.advance(START_MS + tenth * 100);
    }
    assert!(room.counts().passed >= 10, "{:?}", room.counts());
    assert_eq!(room.claim(ids[0], START_MS + 15_000), Claim::Passed);
    let called = room.outlook().called;
    assert!(called > 120, "{called}: those behind have got the turns of those who did not come");
    assert!(called <= 10 + 150 + room.counts().passed);
}

#[test]
fn the_bound_on_those_who_wait() {
    let mut room = Room::new(Settings { waiting: 2, ..settings(1, 1) }, 1, START_MS);
    admitted(room.arrive(START_MS));
    waits(room.arrive(START_MS));
    waits(room.arrive(START_MS));
    assert_eq!(room.arrive(START_MS), Arrival::Full);
    room.change(Settings { waiting: 3, ..settings(1, 1) }, START_MS);
    waits(room.arrive(START_MS));
}

#[test]
fn settings_change_in_place() {
    let mut room = Room::new(settings(1, 1), 1, START_MS);
    admitted(room.arrive(START_MS));
    let ids: Vec<Id> = (0..20).map(|_| waits(room.arrive(START_MS))).collect();
    room.advance(START_MS + 4_000);
    assert_eq!(room.counts().waiting, 20);
    room.change(settings(10, 100), START_MS + 5_000);
    room.advance(START_MS + 6_500);
    assert_eq!(room.claim(ids[0], START_MS + 6_500), Claim::Admitted);
    // Another time to come in: from now on.
    room.change(Settings { claim_ms: 60_000, ..settings(10, 100) }, START_MS + 7_000);
    room.advance(START_MS + 60_000);
    assert_eq!(room.claim(ids[1], START_MS + 60_000), Claim::Admitted);
    room.change(Settings { admit: 0, period_ms: 0, active: 0, session_ms: 0, claim_ms: 0, waiting: 0 }, START_MS);
    room.advance(START_MS + 61_000);
}

#[test]
fn another_life_goes_on_where_the_snapshot_was_taken() {
    let mut room = Room::new(settings(10, 1000), 1, START_MS);
    let inside: Vec<Id> = (0..10).map(|_| admitted(room.arrive(START_MS))).collect();
    let ids: Vec<Id> = (0..100).map(|_| waits(room.arrive(START_MS))).collect();
    room.advance(START_MS + 1000);
    room.advance(START_MS + 2000);
    assert_eq!(room.claim(ids[3], START_MS + 2000), Claim::Admitted);
    let snapshot = room.snapshot();
    // What happens behind the snapshot is lost.
    let lost = waits(room.arrive(START_MS + 2000));
    drop(room);

    let mut room = Room::restore(settings(10, 1000), &snapshot, 2, START_MS + 4000);
    assert_eq!((room.counts().waiting, room.counts().active), (80, 11 + 19));
    assert_eq!(room.claim(ids[3], START_MS + 4000), Claim::Used { just_now: false });
    assert_eq!(room.claim(ids[4], START_MS + 4000), Claim::Admitted);
    assert_eq!(room.claim(ids[99], START_MS + 4000), Claim::NotYet);
    let next = waits(room.arrive(START_MS + 4000));
    assert_eq!((next.number, next.epoch), (lost.number, 2), "the same number");
    assert_eq!(room.claim(lost, START_MS + 4000), Claim::Unknown, "and not the same ticket");
    // A session of the life before is counted once, whether it shows itself or not.
    let before = room.counts().active;
    for _ in 0..3 {
        room.renew(inside[0], START_MS + 5_000, START_MS + 4000).unwrap();
    }
    assert_eq!(room.counts().active, before);
    // Life after life.
    for epoch in 3..200 {
        room = Room::restore(settings(10, 1000), &room.snapshot(), epoch, START_MS + 4000);
    }
    assert_eq!(room.claim(ids[5], START_MS + 4000), Claim::Admitted, "lives without numbers are not remembered");
}

#[test]
fn a_snapshot_that_no_room_has_given_begins_an_empty_room() {
    let good = Room::new(settings(1, 1), 1, START_MS).snapshot();
    for broken in [
        Snapshot { called: 5, ..good.clone() },
        Snapshot { issued: u64::MAX, ..good.clone() },
        Snapshot { passed: 1, ..good.clone() },
        Snapshot { words: vec![0; 9000], ..good.clone() },
        Snapshot { words: vec![], ..good.clone() },
        Snapshot { first_word: 3, ..good.clone() },
        Snapshot { epochs: vec![(9, 1)], ..good.clone() },
        Snapshot::default(),
    ] {
        let mut room = Room::restore(settings(1, 1), &broken, 9, START_MS);
        assert_eq!(admitted(room.arrive(START_MS)), Id { epoch: 9, number: 1 }, "{broken:?}");
    }
}

#[test]
fn a_million_who_wait_are_a_bit_each() {
    let mut room = Room::new(Settings { waiting: 1_000_000, ..settings(1, 1) }, 1, START_MS);
    for _ in 0..1_000_001 {
        room.arrive(START_MS);
    }
    assert_eq!((room.counts().waiting, room.arrive(START_MS)), (1_000_000, Arrival::Full));
    assert!(room.claims.bytes() <= 2 * 125_000 + 1024, "{} bytes", room.claims.bytes());
}

#[test]
fn who_waits_asks_more_often_as_the_turn_comes_near() {
    let outlook = Outlook { issued: 100_000, called: 0, calls_per_million_s: 200_000_000, next_place_ms: 0 };
    assert_eq!(outlook.wait_ms(0, 0), 0);
    assert_eq!((outlook.wait_ms(200, 0), outlook.ask_again_ms(4000)), (1000, 2000));
    assert_eq!(outlook.ask_again_ms(80_000), 20_000);
    assert_eq!((outlook.ask_again_ms(1_200), outlook.ask_again_ms(100)), (1_200, 500), "when it is time");
    assert_eq!(outlook.ask_again_ms(500_000), 30_000);
    let crowd = Outlook { issued: 1_000_000, ..outlook };
    assert_eq!(crowd.wait_ms(1_000_000, 0), 5_000_000);
    assert_eq!(crowd.ask_again_ms(5_000_000), 200_000, "5,000 questions a second");
    assert_eq!(crowd.ask_again_ms(80_000), 20_000, "and in time for the turn");
    let full = Outlook { next_place_ms: 90_000, ..outlook };
    assert_eq!(full.wait_ms(1, 30_000), 60_000);
}

/// A visitor as the test knows it.
#[derive(Debug, Clone, Copy)]
enum Visitor {
    Waits,
    Called { at_ms: u64 },
    Inside { ends_ms: u64 },
    Over,
}

/// What has become of them since the last look.
fn look(room: &Room, visitors: &mut BTreeMap<Id, Visitor>, now_ms: u64, called_total: &mut u64) {
    let called = room.outlook().called;
    for (id, visitor) in visitors {
        // In order: nobody with a higher number before all with a lower one.
        if id.number <= called && matches!(visitor, Visitor::Waits) {
            *visitor = Visitor::Called { at_ms: now_ms };
            *called_total += 1;
        }
        match visitor {
            // A step of time behind it, and the longest pause between two looks.
            Visitor::Called { at_ms } if *at_ms + 2000 + 16 + 400 <= now_ms => *visitor = Visitor::Over,
            Visitor::Inside { ends_ms } if *ends_ms <= now_ms => *visitor = Visitor::Over,
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn as_a_list_of_all_visitors(
        admit in 1_u32..30, active in 1_u32..60, waiting in 1_u32..200,
        steps in proptest::collection::vec((0_u8..10, 0_u64..400, any::<prop::sample::Index>()), 1..400),
    ) {
        let settings = Settings { admit, period_ms: 1000, active, session_ms: 3000, claim_ms: 2000, waiting };
        let mut room = Room::new(settings, 1, START_MS);
        let mut now_ms = START_MS;
        let mut visitors: BTreeMap<Id, Visitor> = BTreeMap::new();
        let (mut inside, mut called_total) = (0_u64, 0_u64);
        for (what, pause_ms, index) in steps {
            now_ms += pause_ms;
            room.advance(now_ms);
            look(&room, &mut visitors, now_ms, &mut called_total);
            let somebody = (!visitors.is_empty()).then(|| *visitors.keys().nth(index.index(visitors.len())).unwrap());
            match (what, somebody) {
                (0..=4, _) | (_, None) => match room.arrive(now_ms) {
                    Arrival::Admitted(id) => {
                        inside += 1;
                        called_total += 1;
                        prop_assert!(visitors.values().all(|visitor| !matches!(visitor, Visitor::Waits)));
                        visitors.insert(id, Visitor::Inside { ends_ms: now_ms + 2000 });
                    }
                    Arrival::Waits(id) => drop(visitors.insert(id, Visitor::Waits)),
                    Arrival::Full => prop_assert_eq!(room.counts().waiting, u64::from(waiting)),
                },
                (5, Some(id)) => {
                    if let Some(Visitor::Inside { ends_ms }) = visitors.get_mut(&id) {
                        let renewed = room.renew(id, *ends_ms, now_ms);
                        prop_assert_eq!(renewed.is_some(), *ends_ms > now_ms);
                        *ends_ms = renewed.unwrap_or(*ends_ms);
                    }
                }
                (_, Some(id)) => {
                    let claim = room.claim(id, now_ms);
                    match visitors[&id] {
                        Visitor::Waits if claim == Claim::NotYet => {}
                        Visitor::Waits | Visitor::Called { .. } if claim == Claim::Admitted => {
                            inside += 1;
                            visitors.insert(id, Visitor::Inside { ends_ms: now_ms + 3000 });
                        }
                        Visitor::Called { at_ms } => {
                            prop_assert_eq!(claim, Claim::Passed);
                            prop_assert!(now_ms >= at_ms + 2000, "passed over too soon");
                        }
                        _ => prop_assert!(matches!(claim, Claim::Used { .. } | Claim::Passed), "{claim:?}"),
                    }
                }
            }
            look(&room, &mut visitors, now_ms, &mut called_total);
            let counts = room.counts();
            let is_inside = |visitor: &&Visitor| matches!(visitor, Visitor::Inside { .. });
            let really_inside = visitors.values().filter(is_inside).count() as u64;
            prop_assert!(counts.active >= really_inside && counts.active <= u64::from(active));
            prop_assert_eq!(counts.admitted, inside);
            let turns = u64::from(admit) * (1000 + now_ms - START_MS) / 1000 + counts.passed;
            prop_assert!(called_total <= turns.max(1), "{called_total} called, {turns} turns");
        }
    }

    #[test]
    fn a_snapshot_is_what_it_is_restored_from(
        arrivals in 0_u64..300, seconds in 0_u64..12, claimed in proptest::collection::vec(1_u64..300, 0..40),
    ) {
        let mut room = Room::new(settings(20, 60), 1, START_MS);
        for _ in 0..arrivals {
            room.arrive(START_MS);
        }
        let mut now_ms = START_MS;
        for number in claimed {
            now_ms += seconds * 25;
            room.claim(Id { epoch: 1, number }, now_ms);
        }
        let snapshot = room.snapshot();
        let mut again = Room::restore(settings(20, 60), &snapshot, 2, now_ms);
        prop_assert!(again.outlook().called >= snapshot.called);
        prop_assert_eq!(again.counts().active.min(60), again.counts().active);
        for number in 1..=arrivals {
            let id = Id { epoch: 1, number };
            if number <= snapshot.called {
                prop_assert_eq!(
                    matches!(room.claim(id, now_ms), Claim::Admitted),
                    matches!(again.claim(id, now_ms), Claim::Admitted),
                    "{}", number
                );
            }
        }
    }
}
