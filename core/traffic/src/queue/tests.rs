use proptest::prelude::*;

use super::*;
use Priority::{Critical, High, Low, Normal};

fn take<T>(queue: &mut Queue<T>, now_ms: u64) -> Option<T> {
    queue.take_first(now_ms, |_| Offer::Take(())).map(|(value, ())| value)
}

#[test]
fn full_is_full() {
    let mut queue = Queue::default();
    let (ticket, ousted) = queue.push(1, Normal, 10, 1).unwrap();
    assert_eq!(ousted, None);
    assert_eq!(queue.push(2, Normal, 10, 1).unwrap_err(), Full);
    assert_eq!(queue.remove(ticket), Some(1));
    assert_eq!(queue.remove(ticket), None);
    assert!(queue.push(2, Normal, 10, 1).is_ok());
    assert!(queue.push(3, Normal, 10, 0).is_err());
}

#[test]
fn the_first_that_can_be_served_is() {
    let mut queue = Queue::default();
    for number in 1..=4 {
        queue.push(number, Normal, 0, 9).unwrap();
    }
    let even = |number: &i32| {
        if number % 2 == 0 { Offer::Take(number * 10) } else { Offer::NotThis }
    };
    assert_eq!(queue.take_first(0, even), Some((2, 20)));
    assert_eq!(queue.take_first(0, |_| Offer::<()>::Nobody), None);
    assert_eq!(queue.take_first(0, |_| Offer::<()>::NotThis), None);
    assert_eq!(queue.len(), 3);
}

#[test]
fn the_important_go_first_and_take_places() {
    let mut queue = Queue::default();
    queue.push("low", Low, 0, 3).unwrap();
    queue.push("normal", Normal, 0, 3).unwrap();
    queue.push("critical", Critical, 0, 3).unwrap();
    let (_, ousted) = queue.push("high", High, 0, 3).unwrap();
    assert_eq!(ousted, Some("low"));
    assert_eq!(queue.push("low again", Low, 0, 3).unwrap_err(), Full);
    assert_eq!(queue.push("normal again", Normal, 0, 3).unwrap_err(), Full);
    let order: Vec<_> = std::iter::from_fn(|| take(&mut queue, 0)).collect();
    assert_eq!(order, ["critical", "high", "normal"]);
}

#[test]
fn a_queue_that_empties_is_in_order_and_one_that_does_not_serves_the_newest() {
    let mut queue = Queue::default();
    for number in 0..3 {
        queue.push(number, Normal, number * 10, 9).unwrap();
    }
    assert!(!queue.is_overloaded(Normal, CALM_MS - 1));
    assert_eq!(take(&mut queue, CALM_MS - 1), Some(0));
    assert!(queue.is_overloaded(Normal, CALM_MS));
    assert_eq!(take(&mut queue, CALM_MS), Some(2));
    assert_eq!(take(&mut queue, CALM_MS), Some(1));
    // It was empty: in order again.
    queue.push(7, Normal, CALM_MS + 1, 9).unwrap();
    queue.push(8, Normal, CALM_MS + 2, 9).unwrap();
    assert_eq!(take(&mut queue, CALM_MS + 3), Some(7));
}

#[test]
fn overload_by_the_less_important_is_none_for_the_important() {
    let mut queue = Queue::default();
    queue.push(1, Low, 0, 9).unwrap();
    let later = 10 * CALM_MS;
    assert!(queue.is_overloaded(Low, later));
    queue.push(2, Critical, later, 9).unwrap();
    assert!(!queue.is_overloaded(Critical, later) && !queue.is_overloaded(Normal, later));
    // But overload by the important is one for the others.
    assert!(!queue.is_overloaded(Critical, later + CALM_MS), "there are others who can wait");
    let much_later = later + CALM_BEFORE_OTHERS_MS;
    assert!(queue.is_overloaded(Critical, much_later) && queue.is_overloaded(Normal, much_later));
}

#[test]
fn only_an_overloaded_class_gives_up_and_the_least_one_first() {
    let mut queue = Queue::default();
    queue.push("old", Low, 0, 9).unwrap();
    queue.push("critical", Critical, 1, 9).unwrap();
    assert_eq!(queue.give_up(CALM_MS - 1, 10, false), None);
    assert_eq!(queue.give_up(CALM_MS, CALM_MS + 5, false), None, "it has patience still");
    queue.push("new", Low, CALM_MS, 9).unwrap();
    assert_eq!(queue.give_up(CALM_MS + 1, 10, false), Some("old"));
    // One that has just come waits behind the critical one, which is pushed out by nobody then.
    assert_eq!(queue.give_up(CALM_MS + 1, 10, false), None);
    assert_eq!(take(&mut queue, CALM_MS + 1), Some("critical"));
    assert_eq!(queue.give_up(CALM_MS + 10, 10, false), Some("new"));
    assert_eq!(queue.give_up(CALM_MS + 10, 10, false), None);
}

proptest! {
    /// Against a plain list, without overload.
    #[test]
    fn order_is_kept(operations in proptest::collection::vec((0_u8..3, 0_usize..8, 0_usize..4), 1..200)) {
        let mut queue = Queue::default();
        let mut model: Vec<(Ticket, usize)> = Vec::new();
        for (number, (operation, place, class)) in operations.into_iter().enumerate() {
            match operation {
                0 => {
                    let priority = Priority::ALL[class];
                    match queue.push(number, priority, 0, 6) {
                        Ok((ticket, ousted)) => {
                            if let Some(ousted) = ousted {
                                let (last, _) = *model.iter().max_by_key(|(ticket, _)| (ticket.priority, ticket.number)).unwrap();
                                prop_assert!(last.priority > priority);
                                model.retain(|(ticket, value)| *ticket != last || *value != ousted);
                            }
                            prop_assert!(model.len() < 6);
                            model.push((ticket, number));
                        }
                        Err(Full) => {
                            prop_assert_eq!(model.len(), 6);
                            prop_assert!(model.iter().all(|(ticket, _)| ticket.priority <= priority));
                        }
                    }
                }
                1 => {
                    model.sort_by_key(|(ticket, _)| (ticket.priority, ticket.number));
                    let expected = (!model.is_empty()).then(|| model.remove(0).1);
                    prop_assert_eq!(take(&mut queue, 0), expected);
                }
                _ => if place < model.len() {
                    let (ticket, expected) = model.remove(place);
                    prop_assert_eq!(queue.remove(ticket), Some(expected));
                },
            }
            prop_assert_eq!(queue.len(), model.len());
        }
    }

    /// Whatever happens, whoever joined leaves once and only once.
    #[test]
    fn nobody_is_lost(operations in proptest::collection::vec((0_u8..4, 0_usize..4, 0_u64..80), 1..300)) {
        let mut queue = Queue::default();
        let (mut now_ms, mut joined, mut left) = (0, 0, std::collections::HashSet::new());
        let mut tickets = Vec::new();
        for (operation, class, pause_ms) in operations {
            now_ms += pause_ms;
            let gone = match operation {
                0 => match queue.push(joined, Priority::ALL[class], now_ms, 5) {
                    Ok((ticket, ousted)) => {
                        joined += 1;
                        tickets.push(ticket);
                        ousted
                    }
                    Err(Full) => None,
                },
                1 => take(&mut queue, now_ms),
                2 => queue.give_up(now_ms, 50, false),
                _ => tickets.pop().and_then(|ticket| queue.remove(ticket)),
            };
            if let Some(gone) = gone {
                prop_assert!(left.insert(gone));
            }
            prop_assert_eq!(queue.len() + left.len(), joined);
        }
    }
}
