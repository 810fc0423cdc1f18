//! Reading, and what is read while it is written.

use super::*;

#[test]
fn it_is_read_while_it_is_written() {
    let disks = [disk(16 * MIB)];
    let pool = open(&disks, &config(vec![volume("a", 8 * MIB)])).unwrap();
    let a = pool.volume("a").unwrap();
    let whole = body(1, 1, 700_000);
    let mut writer = a.writer(key(1), Vec::new()).unwrap();
    let arriving = writer.arriving();
    let size = arriving.chunk_bytes() as usize;
    assert_eq!((arriving.written(), size), (0, MIB as usize / 4));
    assert!(matches!(arriving.chunk(0), Err(Error::Gone)));
    let woken = Arc::new(Woken::default());
    let waker = std::task::Waker::from(Arc::clone(&woken));
    let reader = {
        let (arriving, whole) = (arriving.clone(), whole.clone());
        std::thread::spawn(move || {
            let waker = std::task::Waker::from(Arc::new(Woken(std::thread::current())));
            for number in 0..2 {
                loop {
                    arriving.wake(&waker);
                    if arriving.written() >= ((number + 1) * size) as u64 {
                        break;
                    }
                    std::thread::park();
                }
                assert!(arriving.chunk(number).unwrap() == whole[number * size..(number + 1) * size]);
            }
        })
    };
    for piece in whole.chunks(10_000) {
        assert!(writer.push(piece));
    }
    reader.join().unwrap();
    assert!(a.find(key(1)).is_none());
    let commit = writer.commit().unwrap();
    let mut context = std::task::Context::from_waker(&waker);
    while commit.poll(&mut context).is_pending() {
        std::thread::park();
    }
    assert_eq!(commit.poll(&mut context), std::task::Poll::Ready(true));
    // The last piece is more than goes with a head.
    assert_eq!((arriving.written(), arriving.has_failed()), (700_000, false));
    assert!(arriving.chunk(2).unwrap() == whole[2 * size..]);
    let object = a.find(key(1)).unwrap().open().unwrap();
    assert_eq!((object.chunk_bytes(), object.chunks()), (size as u64, 3));
    // One that is given up says so; one that is overtaken is gone.
    let mut writer = a.writer(key(2), Vec::new()).unwrap();
    assert!(writer.push(&whole) && pool.flush());
    let other = writer.arriving();
    assert!(other.chunk(1).is_ok() && !other.has_failed());
    drop(writer);
    assert!(other.has_failed() && other.chunk(1).is_ok());
    for number in 3..20 {
        assert!(put(&a, number, 1, 700_000) && pool.flush());
    }
    assert!([arriving, other].iter().all(|arriving| matches!(arriving.chunk(1), Err(Error::Gone))));
    // As with a device that fails.
    let mut writer = a.writer(key(2), Vec::new()).unwrap();
    let arriving = writer.arriving();
    disks[0].fail_after(0, EIO);
    writer.push(&whole);
    while !arriving.has_failed() {
        arriving.wake(&waker);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(writer.commit().is_none());
}

#[test]
fn nobody_waits_for_a_thread_that_has_panicked() {
    let disks = [disk(16 * MIB)];
    let pool = open(&disks, &config(vec![volume("a", 8 * MIB)])).unwrap();
    let a = pool.volume("a").unwrap();
    let stalled = disks[0].stall();
    let commits: Vec<_> = (0..3).map(|number| a.writer(key(number), Vec::new()).unwrap().commit().unwrap()).collect();
    disks[0].fail_after(0, sim::PANIC);
    drop(stalled);
    let waker = std::task::Waker::from(Arc::new(Woken::default()));
    let mut context = std::task::Context::from_waker(&waker);
    for commit in commits {
        while commit.poll(&mut context).is_pending() {
            std::thread::park();
        }
        assert_eq!(commit.poll(&mut context), std::task::Poll::Ready(false));
    }
    assert!(!pool.flush() && a.writer(key(1), Vec::new()).is_none());
    assert!(matches!(a.remove(key(1)), Err(Error::NotDurable)));
}

#[test]
fn nothing_is_looked_up_where_a_read_hangs() {
    let disks = [disk(16 * MIB), disk(16 * MIB)];
    let pool = open(&disks, &config(vec![volume("a", 16 * MIB)])).unwrap();
    let a = pool.volume("a").unwrap();
    (0..40).for_each(|number| assert!(put(&a, number, 1, 10_000)));
    assert!(pool.flush());
    let hung = disks[0].stall_reads();
    let is_hung =
        |number: &u64| std::ptr::addr_eq(Arc::as_ptr(&a.find(key(*number)).unwrap().records.device.disk), &*disks[0]);
    let (on_it, others): (Vec<u64>, Vec<u64>) = (0..40).partition(is_hung);
    let (first, waits) = (a.clone(), on_it[0]);
    let reader = std::thread::spawn(move || read(&first, waits));
    let is = |state| pool.usage().physical_volumes[0].state == state;
    while !is(State::Slow) {
        std::thread::sleep(Duration::from_millis(10));
    }
    for &number in &on_it {
        assert!(a.find(key(number)).is_none() && a.writer(key(number), Vec::new()).is_none());
    }
    assert!(others.iter().all(|&number| read(&a, number) == Some(1)), "the other device goes on");
    drop(hung);
    assert_eq!(reader.join().unwrap(), Some(1), "late, and right");
    assert!(is(State::Working));
    assert!(on_it.iter().all(|&number| read(&a, number) == Some(1)));
}

struct Woken(std::thread::Thread);

impl Default for Woken {
    fn default() -> Self {
        Self(std::thread::current())
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
