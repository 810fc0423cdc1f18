//! What lies in pages, seen from outside. One test: it is about the whole process.

use sumun_host::pages::{self, Pages};

#[test]
fn it_counts_among_what_is_resident_whether_mapped_or_not() {
    let pages = Pages::new(1 << 30).unwrap();
    let resident = || sumun_host::usage::memory().unwrap().resident_bytes;
    let content = vec![7; 64 << 20];
    let (before, most) = (resident(), 80 << 20);
    let run = pages.keep(&[&content]).unwrap();
    assert_eq!(pages::bytes_in_use(), 64 << 20);
    assert!((64 << 20..most).contains(&(resident() - before)));
    assert_eq!(run.iter().filter(|byte| **byte == 7).count(), content.len());
    assert!((64 << 20..most).contains(&(resident() - before)), "once, now that it is mapped");
    drop(run);
    assert!(resident() - before < 16 << 20);
    assert_eq!(pages::bytes_in_use(), 0);
}
