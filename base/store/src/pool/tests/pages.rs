//! What is sent from the pages of a file.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// As much of the first chunk as the socket takes.
fn send(object: &Object, socket: &TcpStream) -> usize {
    socket.set_nonblocking(true).unwrap();
    let range = object.range(0).unwrap();
    let mut at = range.at;
    rustix::fs::sendfile(socket, range.file().unwrap(), Some(&mut at), range.length as usize).unwrap()
}

#[test]
fn what_a_socket_holds_does_not_change() {
    let path = std::env::temp_dir().join(format!("sumun-store-pages-{}", std::process::id()));
    let disk = || vec![(path.clone(), file_disk(&path, 16 * MIB) as Arc<dyn Disk>)];
    let config = config(vec![volume("a", 4 * MIB)]);
    let mut pool = Pool::open_on(disk(), &config).unwrap();
    // In one life of the pool; then by an object from before, and overtaken by a pool that knows nothing of it.
    for is_opened_again in [false, true] {
        let a = pool.volume("a").unwrap();
        let old = body(1, 1, 250_000);
        assert!(put(&a, 1, 1, 250_000) && pool.flush());
        let object = a.find(key(1)).unwrap().open().unwrap();
        assert!(object.chunk(0).unwrap() == old);
        let (sender, mut receiver) = pair();
        let sent = send(&object, &sender);
        assert!(sent > 60_000, "{sent} bytes");
        if is_opened_again {
            pool.close();
            assert!(object.range(0).is_none() && object.chunk(0).unwrap() == old);
            drop((a, object));
            pool = Pool::open_on(disk(), &config).unwrap();
        }
        let a = pool.volume("a").unwrap();
        let mut number = 2;
        while a.find(key(1)).is_some() {
            assert!(put(&a, number, 1, 250_000) && pool.flush());
            number += 1;
        }
        // Then the whole log once more.
        (0..20).for_each(|more| assert!(put(&a, number + more, 1, 250_000) && pool.flush()));
        drop(sender);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        let differs = received.iter().zip(&old).filter(|(one, other)| one != other).count();
        assert_eq!(differs, 0, "of {sent} bytes, opened again: {is_opened_again}");
    }
    pool.close();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn who_closes_waits_for_who_sends() {
    let path = std::env::temp_dir().join(format!("sumun-store-pins-{}", std::process::id()));
    let disk = file_disk(&path, 16 * MIB);
    let disks = || vec![(path.clone(), Arc::clone(&disk) as Arc<dyn Disk>)];
    let config = config(vec![volume("a", 4 * MIB)]);
    let pool = Pool::open_on(disks(), &config).unwrap();
    let a = pool.volume("a").unwrap();
    assert!(put(&a, 1, 1, 250_000) && pool.flush());
    let object = a.find(key(1)).unwrap().open().unwrap();
    let range = object.range(0).unwrap();
    let closing = std::thread::spawn(|| pool.close());
    while object.range(0).is_some() {
        std::thread::yield_now();
    }
    assert!(!closing.is_finished());
    drop(range);
    closing.join().unwrap();
    // Another may have it, write over it, and give it back.
    disk.unlock();
    let other = file_disk(&path, 0);
    let pool = Pool::open_on(vec![(path.clone(), Arc::clone(&other) as Arc<dyn Disk>)], &config).unwrap();
    assert!(object.chunk(0).unwrap() == body(1, 1, 250_000));
    let b = pool.volume("a").unwrap();
    (2..30).for_each(|number| assert!(put(&b, number, 1, 250_000) && pool.flush()));
    assert!(matches!(object.chunk(0), Err(Error::Gone)));
    assert!(matches!(a.find(key(1)).unwrap().open(), Err(Error::Gone)));
    assert_eq!(disk.lock().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    pool.close();
    other.unlock();
    disk.lock().unwrap();
    let pool = Pool::open_on(disks(), &config).unwrap();
    assert_eq!(read(&pool.volume("a").unwrap(), 29), Some(1));
    assert!(object.range(0).is_none());
    pool.close();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_sent_begins_a_page_and_is_found_again_without_an_end() {
    let path = std::env::temp_dir().join(format!("sumun-store-aligned-{}", std::process::id()));
    for extent in [1, 4, 8] {
        let open = || {
            let mut config = config(vec![volume("a", 16 * MIB)]);
            config.extent_bytes = extent * MIB;
            Pool::open_on(vec![(path.clone(), file_disk(&path, 48 * MIB) as Arc<dyn Disk>)], &config).unwrap()
        };
        let pool = open();
        let a = pool.volume("a").unwrap();
        for number in 1..6 {
            assert!(put(&a, number, 1, 300_000 + 77 * number as usize) && pool.flush());
        }
        let copy = path.with_extension("copy");
        std::fs::copy(&path, &copy).unwrap();
        let object = a.find(key(5)).unwrap().open().unwrap();
        object.chunk(0).unwrap();
        let is_aligned = object.range(0).unwrap().at.is_multiple_of(4096);
        assert_eq!(is_aligned, extent <= 4, "extents of {extent} MiB");
        pool.close();
        // As if the process had been killed: the extent has no contents, and is walked through.
        std::fs::rename(&copy, &path).unwrap();
        let pool = open();
        let a = pool.volume("a").unwrap();
        assert!((1..6).all(|number| read(&a, number) == Some(1)));
        assert!(put(&a, 6, 1, 300_000) && pool.flush() && read(&a, 6) == Some(1));
        pool.close();
        std::fs::remove_file(&path).unwrap();
    }
}
