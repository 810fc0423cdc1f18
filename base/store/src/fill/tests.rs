use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

use super::*;
use crate::limits::QUEUE_BYTES;
use crate::pool::sim::SimDisk;
use crate::pool::{self, Config, Pool, Volume, VolumeConfig};

type Test = Fill<&'static str, u8>;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn piece(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A piece, or the end.
fn got(polled: Poll<Next<u8>>) -> Poll<Result<Bytes, Ended<u8>>> {
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
    let large = piece(&vec![7; FILL_AHEAD_BYTES as usize]);
    assert_eq!(writer.poll_room(&mut idle()), Poll::Ready(Ok(())));
    writer.push(&large);
    assert!(fill.join(false).is_none(), "it is not to be had as a whole any more");
    assert!(writer.poll_room(&mut idle()).is_pending(), "nobody has read it");
    assert_eq!(got(one.poll_piece(&mut idle())), Poll::Ready(Ok(large.clone())));
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

const MIB: usize = 1 << 20;

/// A pool with one volume, on a disk of its own.
fn pool() -> (Pool, Volume, Arc<SimDisk>) {
    let disk = Arc::new(SimDisk::new(vec![0; 16 * MIB]));
    let volumes = vec![VolumeConfig { name: "a".into(), size: 12 << 20, formerly: None }];
    let config = Config { physical_volumes: Vec::new(), extent_bytes: 1 << 20, volumes };
    let pool = Pool::open_on(vec![("disk".into(), Arc::clone(&disk) as _)], &config).unwrap();
    let volume = pool.volume("a").unwrap();
    (pool, volume, disk)
}

fn fill_with(volume: &Volume) -> (Arc<Test>, Writer<&'static str, u8>, pool::Writer) {
    let (fill, writer) = Test::begin(u64::MAX, false);
    writer.begin(Arc::new("head"), true, true);
    writer.push(b"before");
    let mut on_disk = volume.writer(7, Vec::new()).unwrap();
    let pieces = writer.move_to_disk(OnDisk::Arriving(on_disk.arriving())).unwrap();
    pieces.iter().for_each(|piece| assert!(on_disk.push(piece)));
    (fill, writer, on_disk)
}

fn push(writer: &Writer<&'static str, u8>, on_disk: &mut pool::Writer, piece: &[u8]) {
    assert_eq!(block_on(poll_fn(|context| writer.poll_room(context))), Ok(()));
    assert!(on_disk.push(piece));
    writer.push(piece);
}

/// All that a reader gets, from memory or from disk, and how it ended.
fn read_all(reader: &Reader<&'static str, u8>) -> (Vec<u8>, Ended<u8>) {
    let mut bytes = Vec::new();
    loop {
        match block_on(poll_fn(|context| reader.poll_piece(context))) {
            Next::Piece(piece) => bytes.extend_from_slice(&piece),
            Next::OnDisk(disk, at) => {
                let chunk = disk.chunk((at / disk.chunk_bytes()) as usize).unwrap();
                let rest = &chunk[(at % disk.chunk_bytes()) as usize..];
                assert!(at + rest.len() as u64 <= disk.written());
                bytes.extend_from_slice(rest);
                reader.skip_to(bytes.len() as u64);
            }
            Next::Ended(ended) => return (bytes, ended),
        }
    }
}

#[test]
fn who_is_behind_reads_on_disk_and_who_keeps_up_in_memory() {
    let (pool, volume, _) = pool();
    let (fill, writer, mut on_disk) = fill_with(&volume);
    let (asker, other) = (fill.join(true).unwrap(), fill.join(false).unwrap());
    let mut whole = b"before".to_vec();
    let (mut ahead, mut is_ahead_of_disk) = (Vec::new(), false);
    for number in 0..60_u8 {
        let piece = [number; 70_001];
        push(&writer, &mut on_disk, &piece);
        whole.extend_from_slice(&piece);
        while ahead.len() < whole.len() {
            match asker.poll_piece(&mut idle()) {
                Poll::Ready(Next::Piece(piece)) => ahead.extend_from_slice(&piece),
                other => panic!("who keeps up has {other:?}"),
            }
        }
        is_ahead_of_disk |= ahead.len() as u64 > fill.lock().disk.as_ref().unwrap().written();
        assert!(fill.lock().held_bytes < FILL_DISK_BYTES + 70_001);
    }
    assert!(ahead == whole && is_ahead_of_disk);
    pool.flush();
    fill.change(State::let_go);
    assert!(fill.lock().first_byte() > MIB as u64, "what is on disk has gone");
    let late = fill.join(false).unwrap();
    assert_eq!(writer.end(Ended::Complete), None, "it is not here any more");
    for reader in [other, late] {
        let (bytes, ended) = read_all(&reader);
        assert!(bytes == whole && ended == Ended::Complete);
    }
    assert!(on_disk.commit().is_some());
}

#[test]
fn what_is_cut_short_is_read_as_far_as_it_is_there() {
    let (pool, volume, _) = pool();
    let (fill, writer, mut on_disk) = fill_with(&volume);
    let (first, behind) = (fill.join(true).unwrap(), fill.join(false).unwrap());
    let mut whole = b"before".to_vec();
    for _ in 0..30 {
        push(&writer, &mut on_disk, &[1; 70_000]);
        whole.extend_from_slice(&[1; 70_000]);
    }
    pool.flush();
    drop(on_disk);
    writer.give_up_keeping();
    assert!(fill.join(false).is_none(), "it is not to be had from the beginning any more");
    // Those who read go on, the ones behind on disk, and hold each other up from there.
    let reading = std::thread::spawn(move || read_all(&behind));
    let both = std::thread::spawn(move || read_all(&first));
    for _ in 0..30 {
        assert_eq!(block_on(poll_fn(|context| writer.poll_room(context))), Ok(()));
        writer.push(&[2; 70_000]);
        whole.extend_from_slice(&[2; 70_000]);
        assert!(fill.lock().held_bytes < FILL_DISK_BYTES);
    }
    writer.end(Ended::Complete);
    let ends = [reading, both].map(|reader| reader.join().unwrap());
    // Nobody slows down many: one of two may have been left behind, with what it had.
    assert!(ends.iter().any(|(bytes, ended)| *ended == Ended::Complete && *bytes == whole));
    assert!(
        ends.iter()
            .all(|(bytes, ended)| whole.starts_with(bytes)
                && (*ended == Ended::Complete) == (bytes.len() == whole.len()))
    );
}

#[test]
fn it_waits_while_the_disk_has_too_much_to_write() {
    let (pool, volume, disk) = pool();
    let stalled = disk.stall();
    let (_fill, writer, mut on_disk) = fill_with(&volume);
    let (woken, mut others) = (Arc::new(Count(AtomicUsize::new(0))), Vec::new());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    assert_eq!(writer.poll_room(&mut context), Poll::Ready(Ok(())));
    for number in 0..(QUEUE_BYTES / MIB) as u128 {
        let mut other = volume.writer(100 + number, Vec::new()).unwrap();
        other.push(&[3; MIB]);
        others.push(other);
    }
    assert!(writer.poll_room(&mut context).is_pending(), "the others have filled the queue");
    assert!(writer.poll_room(&mut context).is_pending());
    assert_eq!(woken.0.load(Relaxed), 0);
    drop(stalled);
    push(&writer, &mut on_disk, &[4; MIB]);
    assert!(on_disk.commit().is_some() && pool.flush());
    assert_eq!(woken.0.load(Relaxed), 1, "once");
    let object = volume.find(7).unwrap().open().unwrap();
    assert_eq!(object.size(), MIB as u64 + 6);
}
