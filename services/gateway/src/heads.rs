//! Parsed heads that are used again, so that a request allocates none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use sumun_http::{RequestHead, ResponseHead};

use crate::limits::SPARE_HEADS;

// Boxed, so that taking one moves a pointer and not the whole head.
#[allow(clippy::vec_box)]
mod spares {
    use super::{RefCell, RequestHead, ResponseHead};

    thread_local! {
        pub(super) static REQUESTS: RefCell<Vec<Box<RequestHead>>> = const { RefCell::new(Vec::new()) };
        pub(super) static RESPONSES: RefCell<Vec<Box<ResponseHead>>> = const { RefCell::new(Vec::new()) };
    }
}

use spares::{REQUESTS, RESPONSES};

/// A request head on loan from the worker.
pub(crate) struct HeadLease(Option<Box<RequestHead>>);

/// A response head on loan from the worker.
pub(crate) struct ResponseLease(Option<Box<ResponseHead>>);

macro_rules! lease {
    ($lease:ident, $head:ident, $spares:ident) => {
        impl $lease {
            pub(crate) fn take() -> Self {
                Self(Some($spares.with_borrow_mut(Vec::pop).unwrap_or_default()))
            }
        }

        impl Deref for $lease {
            type Target = $head;

            fn deref(&self) -> &$head {
                self.0.as_deref().expect("a lease holds its head until it is dropped")
            }
        }

        impl DerefMut for $lease {
            fn deref_mut(&mut self) -> &mut $head {
                self.0.as_deref_mut().expect("a lease holds its head until it is dropped")
            }
        }

        impl Drop for $lease {
            fn drop(&mut self) {
                if let Some(head) = self.0.take() {
                    // The thread may be ending, its spares gone already.
                    $spares
                        .try_with(|spares| {
                            if let Ok(mut spares) = spares.try_borrow_mut()
                                && spares.len() < SPARE_HEADS
                            {
                                spares.push(head);
                            }
                        })
                        .ok();
                }
            }
        }
    };
}

lease!(HeadLease, RequestHead, REQUESTS);
lease!(ResponseLease, ResponseHead, RESPONSES);
