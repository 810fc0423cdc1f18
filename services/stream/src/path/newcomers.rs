//! Flows that nobody has answered. Their senders may be made up, as many as anybody likes: where there is
//! no place for another flow, the one of them that came first gives its place up. A flow that has had an
//! answer is never among them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::flow::Flow;

/// Those of one listener, on one worker.
#[derive(Default)]
pub(crate) struct Newcomers {
    /// By the order in which they came.
    flows: RefCell<BTreeMap<u64, Weak<Flow>>>,
    last: Cell<u64>,
}

impl Newcomers {
    /// The number that a flow which begins has here.
    pub(crate) fn number(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    pub(crate) fn enter(&self, number: u64, flow: &Rc<Flow>) {
        self.flows.borrow_mut().insert(number, Rc::downgrade(flow));
    }

    /// It is known, or over.
    pub(crate) fn leave(&self, number: u64) {
        self.flows.borrow_mut().remove(&number);
    }

    /// Ends the oldest, if there is one.
    pub(crate) fn displace_oldest(&self) {
        let oldest = self.flows.borrow_mut().pop_first();
        if let Some(flow) = oldest.and_then(|(_, flow)| flow.upgrade()) {
            flow.make_way();
        }
    }
}
