//! A sale: a million visitors within a minute, in virtual time.
//!
//! Each of them asks as often as it is told to. Some never come back, some come too late, some try with
//! numbers that are not theirs, some again with one that they have used. `SUMUN_VISITORS` is another
//! number of visitors, `SUMUN_SEED` another seed.

use sumun_traffic::key::mix;
use sumun_traffic::waiting_room::{Arrival, Claim, Id, Room, Settings};

const START_MS: u64 = 1_700_000_000_000;
const STEP_MS: u64 = 50;

/// Asked-for rate, and how long visitors are inside.
const ADMIT: u32 = 5_000;
const SESSION_MS: u64 = 30_000;
const CLAIM_MS: u64 = 15_000;

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

/// Who comes back when, a list for each step of time.
struct Agenda(Vec<Vec<u64>>);

impl Agenda {
    fn put(&mut self, at_ms: u64, number: u64) {
        let step = ((at_ms - START_MS) / STEP_MS) as usize;
        if self.0.len() <= step {
            self.0.resize_with(step + 1, Vec::new);
        }
        self.0[step].push(number);
    }

    fn take(&mut self, now_ms: u64) -> Vec<u64> {
        let step = ((now_ms - START_MS) / STEP_MS) as usize;
        self.0.get_mut(step).map(std::mem::take).unwrap_or_default()
    }
}

/// As the page does: up to an eighth sooner, so that those who came together do not ask together for ever.
fn sooner(now_ms: u64, pause_ms: u64, chance: &mut Chance) -> u64 {
    let sooner_ms = if pause_ms > 2000 { chance.next() % (pause_ms / 8) } else { 0 };
    now_ms + (pause_ms - sooner_ms).next_multiple_of(STEP_MS)
}

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

struct Sale {
    admitted_each_second: Vec<u32>,
    asked: u64,
    polls_most_a_second: u64,
    refused: u64,
    late: u64,
}

/// `gone`: one in so many never comes back.
fn sale(visitors: u64, gone: u64, seed: u64) -> Sale {
    let settings = Settings {
        admit: ADMIT,
        period_ms: 1000,
        active: 1_000_000,
        session_ms: SESSION_MS,
        claim_ms: CLAIM_MS,
        waiting: 1_000_000,
    };
    let mut chance = Chance(seed);
    let mut room = Room::new(settings, 1, START_MS);
    let mut agenda = Agenda(Vec::new());
    let mut sale = Sale { admitted_each_second: vec![0], asked: 0, polls_most_a_second: 0, refused: 0, late: 0 };
    let (mut came, mut over, mut last_called, mut polls) = (0, 0, 0, 0);
    let mut now_ms = START_MS;
    while over < visitors {
        if (now_ms - START_MS).is_multiple_of(1000) {
            sale.admitted_each_second.push(0);
            sale.polls_most_a_second = sale.polls_most_a_second.max(std::mem::take(&mut polls));
        }
        let second = sale.admitted_each_second.len() - 1;
        // All of them within a minute, half of those within its first seconds.
        let share = visitors.div_ceil(60_000 / STEP_MS);
        let come = if now_ms < START_MS + 6_000 { 5 * share } else { share }.min(visitors - came);
        for _ in 0..come {
            came += 1;
            match room.arrive(now_ms) {
                Arrival::Admitted(id) => {
                    assert_eq!(room.outlook().called, id.number, "nobody overtakes");
                    sale.admitted_each_second[second] += 1;
                    over += 1;
                }
                Arrival::Waits(_) if gone > 0 && chance.one_in(gone) => over += 1,
                Arrival::Waits(id) => {
                    let outlook = room.outlook();
                    let pause_ms = outlook.ask_again_ms(outlook.wait_ms(outlook.place(id.number), now_ms));
                    agenda.put(sooner(now_ms, pause_ms, &mut chance), id.number);
                }
                Arrival::Full => panic!("more wait than came"),
            }
        }
        room.advance(now_ms);
        let outlook = room.outlook();
        assert!(outlook.called >= last_called);
        last_called = outlook.called;
        for number in agenda.take(now_ms) {
            sale.asked += 1;
            polls += 1;
            let id = Id { epoch: 1, number };
            if outlook.place(number) > 0 {
                if chance.one_in(64) {
                    // Reloading, asking too soon, with another's number or one that was never given.
                    assert_eq!(room.claim(id, now_ms), Claim::NotYet);
                    let forged = Id { epoch: 1, number: outlook.issued + 1 + chance.next() % 1000 };
                    assert_eq!(room.claim(forged, now_ms), Claim::Unknown);
                    assert_eq!(room.claim(Id { epoch: 2, number }, now_ms), Claim::Unknown);
                    sale.refused += 3;
                }
                let pause_ms = outlook.ask_again_ms(outlook.wait_ms(outlook.place(number), now_ms));
                agenda.put(sooner(now_ms, pause_ms, &mut chance), number);
                continue;
            }
            over += 1;
            if room.claim(id, now_ms) != Claim::Admitted {
                sale.late += 1;
                continue;
            }
            sale.admitted_each_second[second] += 1;
            if chance.one_in(16) {
                assert!(matches!(room.claim(id, now_ms), Claim::Used { .. }), "a replay");
                sale.refused += 1;
            }
        }
        now_ms += STEP_MS;
    }
    sale
}

fn check_rate(sale: &Sale, seconds: std::ops::Range<usize>) {
    let within = &sale.admitted_each_second[seconds.clone()];
    let mean = within.iter().map(|count| u64::from(*count)).sum::<u64>() as f64 / within.len() as f64;
    let off = (mean / f64::from(ADMIT) - 1.0) * 100.0;
    println!("seconds {seconds:?}: {mean:.1} admitted a second of {ADMIT} asked for, {off:+.2} %");
    assert!(off.abs() <= 1.0, "{mean} a second, {:?}", sale.admitted_each_second);
}

fn tell(name: &str, visitors: u64, sale: &Sale) {
    let Sale { admitted_each_second, asked, polls_most_a_second, refused, late } = sale;
    println!(
        "{name}: {visitors} visitors, {} s, {asked} questions, at most {polls_most_a_second} a second; {refused} \
         tries with numbers of others, of nobody or used ones refused; {late} came too late",
        admitted_each_second.len()
    );
}

#[test]
fn a_million_arrivals_come_in_in_order_and_at_the_rate() {
    let visitors = number_of("SUMUN_VISITORS", 1_000_000);
    let sale = sale(visitors, 0, number_of("SUMUN_SEED", 1));
    tell("everybody comes back", visitors, &sale);
    assert_eq!((sale.late, u64::from(sale.admitted_each_second.iter().sum::<u32>())), (0, visitors));
    let full = (visitors / u64::from(ADMIT)) as usize;
    check_rate(&sale, 10..full.saturating_sub(10).max(11));
}

#[test]
fn turns_of_those_who_do_not_come_are_made_up_for() {
    let visitors = number_of("SUMUN_VISITORS", 1_000_000) * 9 / 10;
    let sale = sale(visitors, 4, number_of("SUMUN_SEED", 2));
    tell("a quarter does not come back", visitors, &sale);
    assert_eq!(sale.late, 0);
    // For the time to come in nobody knows that somebody does not come, and a quarter of those who are
    // called in their stead does not come either, and so on.
    let seconds = sale.admitted_each_second.len();
    let from = 5 * (CLAIM_MS / 1000) as usize;
    if seconds > from + 20 {
        check_rate(&sale, from..seconds - 20);
    }
}
