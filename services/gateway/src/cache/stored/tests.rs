use std::process::Command;

use sumun_store::Memory;

use super::*;

const LINES: &[u8] = b"Content-Type: text/html; charset=utf-8\r\nDate: Fri, 27 Nov 2026 00:00:00 GMT\r\n\
ETag: \"0123456789abcdef\"\r\nLast-Modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n";

const VALIDITY: Validity = Validity {
    born_s: 100,
    lifetime_s: 60,
    while_revalidate_s: 0,
    if_error_s: 0,
    no_cache: false,
    must_revalidate: false,
};

fn stored(url: &[u8], body: &[u8], held: &Arc<AtomicU64>) -> Stored {
    let of_body = Arc::new(Held::new(held, body.len() as u64));
    let halves = body.split_at(body.len() / 2);
    let pieces = Pieces::new(Box::new([Bytes::copy_from_slice(halves.0), Bytes::copy_from_slice(halves.1)]), of_body);
    let parts = Parts {
        url,
        status: 200,
        lines: LINES,
        vary: b"accept",
        selection: b"text/html",
        tags: &[7, u64::MAX],
        validity: VALIDITY,
        passed: 3,
    };
    Stored::new(&parts, Body::Memory(Arc::new(pieces)), held)
}

fn all(content: Content<'_>) -> Vec<u8> {
    match content {
        Content::Small(body) => body.to_vec(),
        Content::Pieces(pieces) => pieces.concat(),
        Content::Pages(run) => run.to_vec(),
        Content::Disk(_) | Content::Slices(_) => unreachable!(),
    }
}

#[test]
fn what_went_in_comes_out() {
    for length in [0, 1, CACHE_SMALL_BYTES as usize, CACHE_SMALL_BYTES as usize + 1] {
        let held = Arc::new(AtomicU64::new(0));
        let body: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let one = stored(b"http://a/b", &body, &held);
        let is_small = length as u64 <= CACHE_SMALL_BYTES;
        assert_eq!(matches!(one.content(), Content::Small(_)), is_small);
        assert_eq!(held.load(Relaxed), length as u64, "what it was made of is gone");
        let stale = one.expired(130, 9);
        assert_eq!((stale.passed.load(Relaxed), stale.validity.ttl_s(130)), (9, -10));
        for one in [&one, &stale] {
            assert_eq!(
                (one.url(), one.vary(), one.selection()),
                (&b"http://a/b"[..], &b"accept"[..], &b"text/html"[..])
            );
            assert_eq!(one.tags().collect::<Vec<_>>(), [7, u64::MAX]);
            assert_eq!((one.head().status, one.head().lines, one.head().has_hsts), (200, LINES, false));
            assert_eq!((one.length(), all(one.content())), (length as u64, body.clone()));
        }
        assert_eq!(held.load(Relaxed), length as u64 * if is_small { 2 } else { 1 });
        let again = one.body();
        drop((one, stale));
        assert_eq!((held.load(Relaxed), again.length()), (length as u64, length as u64));
        drop(again);
        assert_eq!(held.load(Relaxed), 0);
    }
}

/// Set in a process that does nothing but to be measured.
const MEASURED: &str = "SUMUN_TEST_MEASURED";

/// What the bound of the cache's memory goes by is what it takes of the host's.
#[test]
fn its_bytes_are_what_it_takes() {
    if std::env::var_os(MEASURED).is_none() {
        let name = "cache::stored::tests::its_bytes_are_what_it_takes";
        let test = Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(MEASURED, "1").output();
        let test = test.unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
        return;
    }
    let mut all = Vec::new();
    for (count, length) in [(60_000_u64, 1000), (100_000, 0), (4000, 20_000)] {
        let held = Arc::new(AtomicU64::new(0));
        let memory = Memory::new(u64::MAX);
        let before = resident_bytes();
        for number in 0..count {
            let one = stored(format!("http://a.example/some/where/{number}").as_bytes(), &vec![1; length], &held);
            let bytes = one.bytes();
            memory.insert(
                u128::from(fastrand::u64(..)) << 64 | u128::from(number),
                Arc::new(Entry::Stored(one)),
                bytes,
            );
        }
        let (taken, counted) = (resident_bytes() - before, memory.usage().bytes);
        all.push(memory);
        println!("{length}: {} bytes each, {} counted", taken / count, counted / count);
        // It counts ghosts, too, of which there are none here.
        assert!(taken < counted + counted / 20 && counted < taken + taken / 4, "{taken} and {counted}");
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
