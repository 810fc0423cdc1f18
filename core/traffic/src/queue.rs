//! A bounded queue for those who find no place: by priority; in order while it empties now and then,
//! newest first while it does not.
//!
//! A queue that is never empty serves nobody sooner by being fair: whoever comes waits as long as the
//! queue is, and by then has often given up. So a class that has had no calm moment within
//! [`CALM_MS`] is served from its new end, and each newcomer may push out those who have waited for
//! longer than they should, since they would be served last (adaptive LIFO and controlled delay:
//! Maurer, "Fail at Scale", ACM Queue 13.8, 2015). Without newcomers nobody is pushed out: a single
//! burst is worked off to its end.
//!
//! It holds whatever stands for a waiter (an index, an id, a handle); who sleeps and who wakes is
//! the caller's business.

use std::collections::VecDeque;

use crate::limits::{CALM_BEFORE_OTHERS_MS, CALM_MS};
use crate::priority::Priority;

const CLASSES: usize = Priority::ALL.len();

/// A member's place in its class. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    number: u64,
    priority: Priority,
}

/// The queue had no room for one of this priority.
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
    /// By priority; each in the order of the tickets.
    classes: [VecDeque<Member<T>>; CLASSES],
    /// When nobody of this class or of one before it waited for the last time.
    calm_ms: [u64; CLASSES],
    next_number: u64,
}

#[derive(Debug)]
struct Member<T> {
    number: u64,
    joined_ms: u64,
    value: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { classes: [const { VecDeque::new() }; CLASSES], calm_ms: [0; CLASSES], next_number: 0 }
    }
}

impl<T> Queue<T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(VecDeque::is_empty)
    }

    /// Whoever of this priority joined now would wait behind a queue that does not empty any more.
    #[must_use]
    pub fn is_overloaded(&self, priority: Priority, now_ms: u64) -> bool {
        let class = priority.index();
        // While others wait behind it, they are the ones that there is no place for.
        let is_last = self.classes.iter().skip(class + 1).all(VecDeque::is_empty);
        let calm_ms = if is_last { CALM_MS } else { CALM_BEFORE_OTHERS_MS };
        self.waits_up_to(class) && now_ms.saturating_sub(self.calm_ms[class]) >= calm_ms
    }

    /// Joins its class. Where `size` wait already, it takes the place of one of the least class, if
    /// that is behind its own; that one is given back.
    ///
    /// # Errors
    /// Nobody waits who is less important.
    pub fn push(
        &mut self,
        value: T,
        priority: Priority,
        now_ms: u64,
        size: usize,
    ) -> Result<(Ticket, Option<T>), Full> {
        let ousted = if self.len() >= size { Some(self.oust(priority, now_ms).ok_or(Full)?) } else { None };
        for class in priority.index()..CLASSES {
            if !self.waits_up_to(class) {
                self.calm_ms[class] = now_ms;
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        self.classes[priority.index()].push_back(Member { number, joined_ms: now_ms, value });
        self.check_invariants();
        Ok((Ticket { number, priority }, ousted))
    }

    /// The member of the least class behind `priority` that is served last in it.
    fn oust(&mut self, priority: Priority, now_ms: u64) -> Option<T> {
        let least = Priority::ALL.into_iter().rev().find(|class| !self.classes[class.index()].is_empty())?;
        if least <= priority {
            return None;
        }
        let newest_first = self.is_overloaded(least, now_ms);
        let class = &mut self.classes[least.index()];
        let member = if newest_first { class.pop_front() } else { class.pop_back() };
        member.map(|member| member.value)
    }

    /// Takes out one that has waited for `patience_ms` in the least class that is overloaded: served
    /// newest first, it would be served last of all. While `is_shedding`, others are refused before they
    /// come here: then all classes but the critical one count as overloaded, though the queue may be empty
    /// now and then. To be asked at most twice for each that joins, see above.
    pub fn give_up(&mut self, now_ms: u64, patience_ms: u64, is_shedding: bool) -> Option<T> {
        let is_hopeless = |priority: &Priority| {
            let oldest = self.classes[priority.index()].front();
            oldest.is_some_and(|oldest| now_ms.saturating_sub(oldest.joined_ms) >= patience_ms)
                && (is_shedding && *priority != Priority::Critical || self.is_overloaded(*priority, now_ms))
        };
        let class = Priority::ALL.into_iter().rev().find(is_hopeless)?;
        let member = self.classes[class.index()].pop_front();
        self.check_invariants();
        member.map(|member| member.value)
    }

    /// Offers to the members, the most important first, until one takes; that one is taken out.
    /// Members that the offer does not suit stay where they are.
    pub fn take_first<R>(&mut self, now_ms: u64, mut offer: impl FnMut(&T) -> Offer<R>) -> Option<(T, R)> {
        for priority in Priority::ALL {
            let newest_first = self.is_overloaded(priority, now_ms);
            let class = &mut self.classes[priority.index()];
            for step in 0..class.len() {
                let place = if newest_first { class.len() - 1 - step } else { step };
                match offer(&class[place].value) {
                    Offer::Take(result) => {
                        let member = class.remove(place)?;
                        self.check_invariants();
                        return Some((member.value, result));
                    }
                    Offer::NotThis => {}
                    Offer::Nobody => return None,
                }
            }
        }
        None
    }

    /// Leaves the queue; `None` if the member was taken out before.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let class = &mut self.classes[ticket.priority.index()];
        let place = class.binary_search_by_key(&ticket.number, |member| member.number).ok()?;
        let member = class.remove(place)?;
        self.check_invariants();
        Some(member.value)
    }

    /// Somebody of this class or of one before it waits.
    fn waits_up_to(&self, class: usize) -> bool {
        self.classes.iter().take(class + 1).any(|class| !class.is_empty())
    }

    fn check_invariants(&self) {
        debug_assert!(self.classes.iter().all(|class| class.iter().is_sorted_by(|one, next| one.number < next.number)));
    }
}

#[cfg(test)]
mod tests;
