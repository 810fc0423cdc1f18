//! A bounded first-in-first-out queue whose members give up at a deadline or leave by themselves.
//!
//! It holds whatever stands for a waiter (an index, an id, a handle); who sleeps and who wakes is
//! the caller's business.

use std::collections::VecDeque;

/// A member's place: smaller ones are served first. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The queue had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What can be done for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer<R> {
    Take(R),
    /// Nothing for this one, maybe for one behind it.
    NotThis,
    /// Nothing for anybody.
    Nobody,
}

#[derive(Debug)]
pub struct Queue<T> {
    /// In the order of the tickets.
    members: VecDeque<Member<T>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Member<T> {
    ticket: Ticket,
    deadline_ms: u64,
    value: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { members: VecDeque::new(), next_ticket: 0 }
    }
}

impl<T> Queue<T> {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Joins the end.
    ///
    /// # Errors
    /// `size` members wait already.
    pub fn push(&mut self, value: T, deadline_ms: u64, size: usize) -> Result<Ticket, Full> {
        if self.members.len() >= size {
            return Err(Full);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.members.push_back(Member { ticket, deadline_ms, value });
        self.check_invariants();
        Ok(ticket)
    }

    /// The first member whose deadline has not come; those before it that are late are dropped
    /// (their own timers tell them).
    pub fn pop(&mut self, now_ms: u64) -> Option<T> {
        while let Some(member) = self.members.pop_front() {
            if now_ms < member.deadline_ms {
                return Some(member.value);
            }
        }
        None
    }

    /// Offers to the members in their order until one takes; that one is taken out. Members that
    /// the offer does not suit stay where they are.
    pub fn take_first<R>(&mut self, mut offer: impl FnMut(&T) -> Offer<R>) -> Option<(T, R)> {
        let mut place = 0;
        let result = loop {
            match offer(&self.members.get(place)?.value) {
                Offer::Take(result) => break result,
                Offer::NotThis => place += 1,
                Offer::Nobody => return None,
            }
        };
        let member = self.members.remove(place)?;
        self.check_invariants();
        Some((member.value, result))
    }

    /// Leaves the queue; `None` if the member was served before.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let place = self.members.binary_search_by_key(&ticket, |member| member.ticket).ok()?;
        let member = self.members.remove(place)?;
        self.check_invariants();
        Some(member.value)
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.members.iter().zip(self.members.iter().skip(1)).all(|(left, right)| left.ticket < right.ticket)
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn late_members_are_passed_over() {
        let mut queue = Queue::default();
        queue.push('a', 10, 3).unwrap();
        queue.push('b', 20, 3).unwrap();
        assert_eq!(queue.pop(10), Some('b'));
        assert_eq!(queue.pop(10), None);
    }

    #[test]
    fn full_is_full() {
        let mut queue = Queue::default();
        let ticket = queue.push(1, 10, 1).unwrap();
        assert_eq!(queue.push(2, 10, 1), Err(Full));
        assert_eq!(queue.remove(ticket), Some(1));
        assert_eq!(queue.remove(ticket), None);
        assert!(queue.push(2, 10, 1).is_ok());
        assert!(queue.push(3, 10, 0).is_err());
    }

    #[test]
    fn the_first_that_can_be_served_is() {
        let mut queue = Queue::default();
        for number in 1..=4 {
            queue.push(number, 10, 9).unwrap();
        }
        let even = |number: &i32| {
            if number % 2 == 0 { Offer::Take(number * 10) } else { Offer::NotThis }
        };
        assert_eq!(queue.take_first(even), Some((2, 20)));
        assert_eq!(queue.take_first(|_| Offer::<()>::Nobody), None);
        assert_eq!(queue.take_first(|_| Offer::<()>::NotThis), None);
        assert_eq!(queue.len(), 3);
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn order_is_kept(operations in proptest::collection::vec((0_u8..3, 0_usize..8), 1..200)) {
            let mut queue = Queue::default();
            let mut model: Vec<(Ticket, usize)> = Vec::new();
            for (number, (operation, place)) in operations.into_iter().enumerate() {
                match operation {
                    0 => match queue.push(number, u64::MAX, 6) {
                        Ok(ticket) => model.push((ticket, number)),
                        Err(Full) => prop_assert_eq!(model.len(), 6),
                    },
                    1 => {
                        let expected = (!model.is_empty()).then(|| model.remove(0).1);
                        prop_assert_eq!(queue.pop(0), expected);
                    }
                    _ => if place < model.len() {
                        let (ticket, expected) = model.remove(place);
                        prop_assert_eq!(queue.remove(ticket), Some(expected));
                    },
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
