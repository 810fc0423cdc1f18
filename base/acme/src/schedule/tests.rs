use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const MIDDLE: u32 = 1 << 31;

fn ninety_days(from: u64) -> Validity {
    Validity { not_before: from, not_after: from + 90 * DAY }
}

#[test]
fn the_first_order_is_due_at_once() {
    assert_eq!(next(&Timing::default(), None, NOW), Next { at: 0, what: What::Order });
}

#[test]
fn renewal_comes_after_two_thirds_and_a_little_more() {
    let validity = ninety_days(NOW);
    let at = |draw| renewal(&Timing { draw, ..Timing::default() }, validity) - NOW;
    assert_eq!(at(0), 60 * DAY);
    assert_eq!(at(MIDDLE), 60 * DAY + 36 * HOUR);
    assert!(at(u32::MAX) < 63 * DAY && at(u32::MAX) > 62 * DAY);
    // One that lives for a minute.
    let short = Validity { not_before: NOW, not_after: NOW + 60 };
    assert_eq!(renewal(&Timing { draw: MIDDLE, ..Timing::default() }, short), NOW + 41);
}

#[test]
fn pauses_grow_to_their_longest() {
    let mut timing = Timing::default();
    let mut pauses = |how, retry_after| {
        let mut all = Vec::new();
        let mut now = NOW;
        for _ in 0..9 {
            timing.begin(now, 0);
            timing.failed(how, retry_after, now, 0);
            let then = next(&timing, None, now).at;
            all.push(then - now);
            now = then;
        }
        timing = Timing::default();
        all
    };
    assert_eq!(pauses(Failed::Unreached, None), [10, 20, 40, 80, 160, 320, 640, 1280, 2560]);
    assert_eq!(pauses(Failed::Refused, None), [120, 360, 1080, 3240, 9720, 29160, 43200, 43200, 43200]);
    // What the authority asks for counts where it is longer, and within bounds.
    assert_eq!(pauses(Failed::Refused, Some(1000))[..4], [1000, 1000, 1080, 3240]);
    assert_eq!(pauses(Failed::Refused, Some(30 * DAY))[0], DAY);
}

#[test]
fn no_more_than_five_refused_orders_in_an_hour() {
    let mut timing = Timing::default();
    let (mut now, mut orders) = (NOW, 0);
    while now <= NOW + HOUR {
        timing.begin(now, 0);
        timing.failed(Failed::Refused, None, now, 0);
        orders += 1;
        now = next(&timing, None, now).at;
    }
    assert!(orders < 5, "{orders}");
}

/// The process dies in the middle of each try.
#[test]
fn who_dies_in_the_middle_does_not_begin_at_once_again() {
    let mut timing = Timing::default();
    let mut now = NOW;
    let mut tries = 0;
    while now < NOW + DAY {
        timing.begin(now, 0);
        tries += 1;
        now = next(&timing, None, now).at;
    }
    assert!(tries < 40, "{tries}");
}

#[test]
fn an_order_in_flight_is_gone_on_with_and_given_up() {
    let mut timing = Timing::default();
    timing.begin(NOW, 0);
    timing.placed(NOW);
    let mut now = NOW;
    let mut resumes = 0;
    while let Next { at, what: What::Resume } = next(&timing, None, now) {
        now = at;
        if timing.resume(now, 0) {
            resumes += 1;
        }
    }
    assert_eq!(resumes, RESUMES);
    assert_eq!(next(&timing, None, now), Next { at: now + REFUSED_FIRST, what: What::Order });
    // One of yesterday is over for the authority, too.
    timing.placed(now);
    assert!(!timing.resume(now + ORDER_AGE + 1, 0) && timing.in_flight.is_none());
}

#[test]
fn a_clock_that_was_wrong_is_forgotten() {
    let mut timing = Timing::default();
    timing.begin(NOW + 1000 * DAY, 0);
    timing.failed(Failed::Refused, None, NOW + 1000 * DAY, 0);
    assert_eq!(next(&timing, None, NOW).at, 0);
    timing.placed(NOW + 1000 * DAY);
    assert_eq!(next(&timing, None, NOW).at, NOW);
}

/// A clock that is years ahead: all that the authority gives is over already.
#[test]
fn certificates_that_are_over_at_once_are_not_obtained_at_full_speed() {
    let mut timing = Timing::default();
    let mut now = NOW + 1000 * DAY;
    let mut orders = 0;
    while now < NOW + 1001 * DAY {
        timing.begin(now, 0);
        timing.obtained(ninety_days(NOW), now, 0);
        timing.looked(None, WINDOW_LOOK_UNKNOWN, now);
        orders += 1;
        now = next(&timing, Some(ninety_days(NOW)), now).at;
    }
    assert!(orders < 10, "{orders}");
}

#[test]
fn the_authority_may_suggest_another_time() {
    let validity = ninety_days(NOW);
    let mut timing = Timing { draw: MIDDLE, last_try: Some(NOW), ..Timing::default() };
    timing.looked(Some(Window { start: NOW + 10 * DAY, end: NOW + 12 * DAY }), HOUR, NOW);
    assert_eq!(next(&timing, Some(validity), NOW), Next { at: NOW + HOUR, what: What::Look });
    assert_eq!(renewal(&timing, validity), NOW + 11 * DAY);
    // At once: not sooner after the last order than the bound.
    timing.looked(Some(Window { start: NOW - 9 * DAY, end: NOW - 8 * DAY }), DAY, NOW);
    assert_eq!(next(&timing, Some(validity), NOW), Next { at: NOW + ORDERS_APART_MOST, what: What::Order });
    // Never: the last tenth of its life is for tries that fail.
    timing.looked(Some(Window { start: NOW + 900 * DAY, end: NOW + 901 * DAY }), DAY, NOW);
    assert_eq!(renewal(&timing, validity), NOW + 81 * DAY);
    timing.looked(Some(Window { start: 5, end: 5 }), DAY, NOW);
    assert_eq!(renewal(&timing, validity), NOW + 60 * DAY + 36 * HOUR);
    // Of those that live for a day nobody asks.
    let short = Validity { not_before: NOW, not_after: NOW + DAY };
    assert_eq!(next(&Timing::default(), Some(short), NOW).what, What::Order);
}

proptest! {
    /// Whatever was written down, and whatever time it is: nothing overflows, orders keep their
    /// distance, and a certificate is renewed before its end where its clock is ours.
    #[test]
    fn no_state_hurts(
        last_try in proptest::option::of(0..4_000_000_000_u64),
        failures in any::<u32>(),
        draw in any::<u32>(),
        window in proptest::option::of((any::<u64>(), any::<u64>())),
        look in any::<u64>(),
        now in 1_000_000_000..4_000_000_000_u64,
        life in 0..400_u64 * DAY,
        dice in any::<u32>(),
        retry_after in proptest::option::of(any::<u64>()),
    ) {
        let window = window.map(|(start, end)| Window { start, end });
        let mut timing =
            Timing { last_try, failures, draw, window, window_look: look, ..Timing::default() };
        let validity = Validity { not_before: now, not_after: now + life };
        prop_assert!(renewal(&timing, validity) <= now + life);
        prop_assert_ne!(next(&timing, Some(validity), now).what, What::Resume);
        timing.begin(now, dice);
        let begun = next(&timing, None, now).at;
        prop_assert!(begun >= now + UNREACHED_FIRST && begun <= now + UNREACHED_LONGEST * 5 / 4);
        timing.placed(now);
        prop_assert_eq!(next(&timing, Some(validity), now).what, What::Resume);
        timing.resume(now, dice);
        timing.failed(Failed::Refused, retry_after, now, dice);
        let failed = next(&timing, None, now).at;
        prop_assert!(failed >= now + REFUSED_FIRST && failed <= now + RETRY_AFTER_LONGEST);
        timing.obtained(validity, now, dice);
        let text = serde_json::to_string(&timing).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Timing>(&text).unwrap(), &timing);
    }
}
