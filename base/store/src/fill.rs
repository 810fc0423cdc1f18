//! A response that is on its way from a server, and is read while it comes by as many as want it.
//!
//! Who fetches it writes: the head once, then pieces, then the end. Readers wait for what they have not
//! seen yet, in whatever worker they are. A writer that goes away without an end leaves a broken
//! response, and no reader takes it for a whole one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::limits::READERS_MAX;

/// `H` is what is known of the response before its body.
#[derive(Debug)]
pub struct Fill<H> {
    state: Mutex<State<H>>,
}

#[derive(Debug)]
struct State<H> {
    head: Option<Arc<H>>,
    pieces: Vec<Arc<[u8]>>,
    bytes: u64,
    ended: Option<Ended>,
    waiting: Vec<Waker>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// The server broke off, or whoever fetched it has gone.
    Broken,
    /// Nobody but who fetched it may have it: each has to ask for itself.
    NotShared,
}

/// What a reader gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Piece(Arc<[u8]>),
    Ended(Ended),
}

impl<H> Default for Fill<H> {
    fn default() -> Self {
        let state = State { head: None, pieces: Vec::new(), bytes: 0, ended: None, waiting: Vec::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<H> Fill<H> {
    /// The head is here. Only the first counts.
    pub fn begin(&self, head: Arc<H>) {
        self.change(|state| {
            if state.ended.is_none() {
                state.head.get_or_insert(head);
            }
        });
    }

    /// A piece of the body is here.
    pub fn push(&self, piece: Arc<[u8]>) {
        self.change(|state| {
            if state.ended.is_none() && !piece.is_empty() {
                state.bytes += piece.len() as u64;
                state.pieces.push(piece);
            }
        });
    }

    /// It is over. Only the first end counts, so that who holds it may say `Broken` whenever it goes.
    pub fn end(&self, how: Ended) {
        self.change(|state| {
            state.ended.get_or_insert(how);
        });
    }

    /// Bytes of the body so far, and the end if there is one.
    #[must_use]
    pub fn progress(&self) -> (u64, Option<Ended>) {
        let state = self.lock();
        (state.bytes, state.ended)
    }

    /// The head, once it is here; or how it ended without one.
    pub fn poll_head(&self, context: &mut Context<'_>) -> Poll<Result<Arc<H>, Ended>> {
        let mut state = self.lock();
        // What is not shared has a head that is nobody else's business.
        match (&state.head, state.ended) {
            (_, Some(Ended::NotShared)) => Poll::Ready(Err(Ended::NotShared)),
            (Some(head), _) => Poll::Ready(Ok(Arc::clone(head))),
            (None, Some(ended)) => Poll::Ready(Err(ended)),
            (None, None) if state.waiting.len() >= READERS_MAX => Poll::Ready(Err(Ended::NotShared)),
            (None, None) => {
                state.wait(context);
                Poll::Pending
            }
        }
    }

    /// The piece behind the first `seen` ones, once it is here.
    pub fn poll_piece(&self, context: &mut Context<'_>, seen: usize) -> Poll<Next> {
        let mut state = self.lock();
        match (state.pieces.get(seen), state.ended) {
            (Some(piece), _) => Poll::Ready(Next::Piece(Arc::clone(piece))),
            (None, Some(ended)) => Poll::Ready(Next::Ended(ended)),
            (None, None) => {
                state.wait(context);
                Poll::Pending
            }
        }
    }

    /// All pieces of a response that is complete.
    #[must_use]
    pub fn pieces(&self) -> Option<Vec<Arc<[u8]>>> {
        let state = self.lock();
        (state.ended == Some(Ended::Complete)).then(|| state.pieces.clone())
    }

    fn change(&self, change: impl FnOnce(&mut State<H>)) {
        let mut state = self.lock();
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> State<H> {
    fn wait(&mut self, context: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn piece(bytes: &[u8]) -> Arc<[u8]> {
        Arc::from(bytes)
    }

    #[test]
    fn readers_see_the_same_whenever_they_come() {
        let fill = Fill::default();
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(fill.poll_head(&mut context).is_pending());
        assert!(fill.poll_head(&mut context).is_pending(), "waits once");
        fill.begin(Arc::new("head"));
        assert_eq!(woken.0.load(Relaxed), 1);
        assert_eq!(fill.poll_head(&mut context), Poll::Ready(Ok(Arc::new("head"))));
        assert!(fill.poll_piece(&mut context, 0).is_pending());
        fill.push(piece(b"one"));
        assert_eq!(woken.0.load(Relaxed), 2);
        fill.push(piece(b""));
        fill.push(piece(b"two"));
        assert_eq!(fill.poll_piece(&mut context, 0), Poll::Ready(Next::Piece(piece(b"one"))));
        assert_eq!(fill.poll_piece(&mut context, 1), Poll::Ready(Next::Piece(piece(b"two"))));
        assert_eq!(fill.pieces(), None);
        fill.end(Ended::Complete);
        fill.end(Ended::Broken);
        fill.push(piece(b"late"));
        assert_eq!(fill.poll_piece(&mut context, 2), Poll::Ready(Next::Ended(Ended::Complete)));
        assert_eq!(fill.progress(), (6, Some(Ended::Complete)));
        assert_eq!(fill.pieces(), Some(vec![piece(b"one"), piece(b"two")]));
    }

    #[test]
    fn what_is_not_shared_is_seen_by_nobody() {
        let fill = Fill::default();
        let mut context = Context::from_waker(Waker::noop());
        fill.begin(Arc::new(()));
        fill.end(Ended::NotShared);
        assert_eq!(fill.poll_head(&mut context), Poll::Ready(Err(Ended::NotShared)));
        let broken: Fill<()> = Fill::default();
        broken.end(Ended::Broken);
        assert_eq!(broken.poll_head(&mut context), Poll::Ready(Err(Ended::Broken)));
    }

    #[test]
    fn a_thousand_readers_in_other_threads() {
        let fill = Arc::new(Fill::default());
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let fill = Arc::clone(&fill);
                std::thread::spawn(move || (0..125).map(|_| block_on(read(&fill))).collect::<Vec<_>>())
            })
            .collect();
        fill.begin(Arc::new(7_u8));
        for number in 0..100_u8 {
            fill.push(piece(&[number; 10]));
            std::thread::yield_now();
        }
        fill.end(Ended::Complete);
        for reader in readers {
            assert!(reader.join().unwrap().into_iter().all(|read| read == (7, 1000)));
        }
    }

    async fn read(fill: &Fill<u8>) -> (u8, usize) {
        let head = poll_fn(|context| fill.poll_head(context)).await.unwrap();
        let (mut seen, mut bytes) = (0, 0);
        while let Next::Piece(piece) = poll_fn(|context| fill.poll_piece(context, seen)).await {
            assert!(piece.iter().all(|&byte| usize::from(byte) == seen));
            seen += 1;
            bytes += piece.len();
        }
        (*head, bytes)
    }

    struct Unpark(std::thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            std::thread::park();
        }
    }
}
