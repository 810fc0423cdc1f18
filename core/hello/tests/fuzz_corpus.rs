//! The fuzz targets of this crate as plain tests: over the inputs that the fuzzer found worth
//! keeping, and over random ones.

#[path = "../../../fuzz/targets/hello.rs"]
mod targets;

use std::fs;

use proptest::prelude::*;

/// Plays every kept input of a target; there is at least one.
fn play(name: &str, target: fn(&[u8])) {
    let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        // The harness shows it where the target panics.
        println!("{}", path.display());
        target(&fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn kept_inputs() {
    play("client_hello", targets::client_hello);
    play("quic_header", targets::quic_header);
}

#[test]
fn captured_hellos() {
    let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    for entry in fs::read_dir(folder.join("tests/captured")).expect("a folder") {
        targets::client_hello(&fs::read(entry.expect("an entry").path()).expect("a file"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..200)) {
        targets::client_hello(&data);
        targets::client_hello(&[&[22, 3, 1, 0, 150, 1, 0, 0], &data[..]].concat());
    }

    #[test]
    fn any_datagram(data in prop::collection::vec(any::<u8>(), 0..60), version in prop::sample::select(&[0u32, 1, 0x6b33_43cf, 7][..])) {
        targets::quic_header(&data);
        targets::quic_header(&[&[0xc0][..], &version.to_be_bytes(), &[18], &data].concat());
    }
}
