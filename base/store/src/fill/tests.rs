use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

use super::*;

type Test = Fill<&'static str, u8>;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn piece(bytes: &[u8]) -> Arc<[u8]> {
    Arc::from(bytes)
}

/// A piece, or the end.
fn got(polled: Poll<Next<u8>>) -> Poll<Result<Arc<[u8]>, Ended<u8>>> {
    polled.map(|next| match next {
        Next::Piece(piece) => Ok(piece),
        Next::Ended(ended) => Err(ended),
        Next::OnDisk(..) => panic!("nothing is on disk"),
    })
}

fn idle() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn readers_see_the_same_whenever_they_come() {
    let (fill, writer) = Test::begin(1000, false);
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let early = fill.join(true).unwrap();
    writer.interim(piece(b"soon"));
    assert_eq!(early.poll_head(&mut context), Poll::Ready(Ok(First::Interim(piece(b"soon")))));
    assert!(early.poll_head(&mut context).is_pending());
    assert!(early.poll_head(&mut context).is_pending(), "waits once");
    writer.begin(Arc::new("head"), true, true);
    assert_eq!(woken.0.load(Relaxed), 1);
    assert_eq!(early.poll_head(&mut context), Poll::Ready(Ok(First::Head(Arc::new("head")))));
    assert!(early.poll_piece(&mut context).is_pending());
    writer.push(b"one");
    assert_eq!(woken.0.load(Relaxed), 2);
    writer.push(b"");
    let late = fill.join(false).unwrap();
    writer.push(b"two");
    for reader in [&early, &late] {
        assert_eq!(got(reader.poll_piece(&mut context)), Poll::Ready(Ok(piece(b"one"))));
        assert_eq!(got(reader.poll_piece(&mut context)), Poll::Ready(Ok(piece(b"two"))));
    }
    assert_eq!(writer.end(Ended::Complete), Some(vec![piece(b"one"), piece(b"two")]));
    assert_eq!(writer.end(Ended::Failed(1)), None, "the first end counts");
    writer.push(b"late");
    assert_eq!(got(late.poll_piece(&mut context)), Poll::Ready(Err(Ended::Complete)));
}

#[test]
fn what_is_not_shared_is_seen_by_the_asker_alone() {
    let (fill, writer) = Test::begin(1000, false);
    let (asker, other) = (fill.join(true).unwrap(), fill.join(false).unwrap());
    writer.begin(Arc::new("head"), false, false);
    assert_eq!(other.poll_head(&mut idle()), Poll::Ready(Err(NoHead::Alone)));
    assert_eq!(asker.poll_head(&mut idle()), Poll::Ready(Ok(First::Head(Arc::new("head")))));
    assert!(fill.join(false).is_none());
    drop(other);
    writer.push(b"x");
    assert_eq!(got(asker.poll_piece(&mut idle())), Poll::Ready(Ok(piece(b"x"))));
    assert_eq!(writer.end(Ended::Complete), None);
}

#[test]
fn a_writer_that_goes_away_leaves_a_failure() {
    let (fill, writer) = Test::begin(1000, false);
    let reader = fill.join(true).unwrap();
    drop(writer);
    assert_eq!(reader.poll_head(&mut idle()), Poll::Ready(Err(NoHead::Failed(0))));
}

#[test]
fn what_is_beyond_the_bound_waits_for_the_slowest_reader() {
    let (fill, writer) = Test::begin(10, false);
    let (one, other) = (fill.join(true).unwrap(), fill.join(false).unwrap());
    writer.begin(Arc::new("head"), true, true);
    let large = Arc::<[u8]>::from(vec![7; FILL_AHEAD_BYTES as usize]);
    assert_eq!(writer.poll_room(&mut idle()), Poll::Ready(Ok(())));
    writer.push(&large);
    assert!(fill.join(false).is_none(), "it is not to be had as a whole any more");
    assert!(writer.poll_room(&mut idle()).is_pending(), "nobody has read it");
    assert_eq!(got(one.poll_piece(&mut idle())), Poll::Ready(Ok(Arc::clone(&large))));
    assert_eq!(writer.poll_room(&mut idle()), Poll::Ready(Ok(())), "who has read all does not wait for the other");
    assert_eq!(got(other.poll_piece(&mut idle())), Poll::Ready(Err(Ended::Failed(0))), "which is left behind");
    writer.push(&large);
    assert_eq!(got(one.poll_piece(&mut idle())), Poll::Ready(Ok(large)));
    assert_eq!(writer.poll_room(&mut idle()), Poll::Ready(Ok(())));
    assert!(writer.poll_unwanted(&mut idle()).is_pending());
    drop((one, other));
    assert_eq!(writer.poll_room(&mut idle()), Poll::Ready(Err(Unwanted)));
    assert_eq!(writer.poll_unwanted(&mut idle()), Poll::Ready(()));
    assert_eq!(writer.end(Ended::Complete), None);
}

#[test]
fn nobody_joins_what_is_given_up() {
    let (fill, writer) = Test::begin(10, false);
    drop(fill.join(true));
    assert_eq!(writer.poll_unwanted(&mut idle()), Poll::Ready(()));
    assert!(fill.join(false).is_none());
}

#[test]
fn a_thousand_readers_in_other_threads() {
    let (fill, writer) = Test::begin(1 << 20, false);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let readers: Vec<_> = (0..125).map(|_| fill.join(false).unwrap()).collect();
            std::thread::spawn(move || readers.iter().map(|reader| block_on(read(reader))).collect::<Vec<_>>())
        })
        .collect();
    writer.begin(Arc::new("head"), true, true);
    for number in 0..100_u8 {
        writer.push(&[number; 10]);
        std::thread::yield_now();
    }
    writer.end(Ended::Complete);
    for thread in threads {
        assert!(thread.join().unwrap().into_iter().all(|read| read == ("head", 1000)));
    }
}

async fn read(reader: &Reader<&'static str, u8>) -> (&'static str, usize) {
    let Ok(First::Head(head)) = poll_fn(|context| reader.poll_head(context)).await else { panic!("no head") };
    let (mut seen, mut bytes) = (0, 0);
    while let Next::Piece(piece) = poll_fn(|context| reader.poll_piece(context)).await {
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
