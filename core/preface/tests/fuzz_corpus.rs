//! The fuzz targets of this crate as plain tests: over the inputs that the fuzzer found worth
//! keeping, and over random ones.

#[path = "../../../fuzz/targets/preface.rs"]
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
    play("proxy_header", targets::proxy_header);
}

/// A type, the length of its value, and the value.
fn some_tlv() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(&[1u8, 2, 3, 4, 5, 0x20, 0x30, 0xea][..]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        Just(b"\x01\0\0\0\0\x21\0\x02ab".to_vec()),
        Just(vec![0; 129])
    ];
    (kind, value).prop_map(|(kind, value)| [&[kind, 0, value.len() as u8][..], &value].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn any_tlvs(
        command in 0x20u8..0x22, family in prop::sample::select(&[0u8, 0x11, 0x12, 0x21, 0x22, 0x31][..]), ends: [u8; 36],
        tlvs in prop::collection::vec(some_tlv(), 0..5), behind in prop::collection::vec(any::<u8>(), 0..5)
    ) {
        let address_bytes = match family >> 4 { 0 => 0, 1 => 12, 2 => 36, _ => 216 };
        let rest = [&ends.repeat(6)[..address_bytes], &tlvs.concat()].concat();
        let length = (rest.len() as u16).to_be_bytes();
        targets::proxy_header(&[&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, &rest, &behind].concat());
    }
}
