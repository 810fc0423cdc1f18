//! The fuzz targets of this crate as plain tests: over the inputs that the fuzzer found worth
//! keeping, and over random ones.

#[path = "../../../fuzz/targets/http2.rs"]
mod targets;

mod common;

use std::fs;

use common::*;
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
    play("http2_receive", targets::http2_receive);
    play("hpack_decode", targets::hpack_decode);
}

/// Frames that mean something, often enough, on few streams.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let stream = prop::sample::select(vec![1_u32, 3, 5, 7, 9, 11, 0, 2]);
    let flags = prop::sample::select(vec![0_u8, 1, 4, 5, 8, 9, 12, 13, 32, 37, 45]);
    let header_block = prop::collection::vec(
        prop_oneof![
            4 => (1_u8..62).prop_map(|index| vec![0x80 | index]),
            1 => (62_u8..70).prop_map(|index| vec![0x80 | index]),
            2 => ("[a-c]", "[a-c ]{0,3}").prop_map(|(name, value)| {
                [&[0x40, 1][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
            }),
            1 => "[0-3]".prop_map(|digit| [&b"\x0f\x0d\x01"[..], digit.as_bytes()].concat()),
        ],
        0..6,
    );
    let request = prop_oneof![
        3 => Just(b"\x82\x86\x84\x01\x01a".to_vec()),
        1 => Just(b"\x83\x87\x84\x41\x01a".to_vec()),
        2 => Just(b"\x88".to_vec()),
        1 => Just(Vec::new()),
    ];
    prop_oneof![
        6 => (stream.clone(), flags.clone(), request, header_block).prop_map(|(stream, flags, request, rest)| {
            let kind = if flags & 2 != 0 { CONTINUATION } else { HEADERS };
            frame(kind, flags, stream, &[request, rest.concat()].concat())
        }),
        4 => (stream.clone(), flags.clone(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(stream, flags, bytes)| frame(DATA, flags & 9, stream, &bytes)),
        1 => (stream.clone(), flags.clone(), prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(stream, flags, bytes)| frame(CONTINUATION, flags & 4, stream, &bytes)),
        2 => (stream.clone(), any::<u32>()).prop_map(|(stream, value)| word(WINDOW_UPDATE, stream, value)),
        1 => (stream.clone(), 0_u32..14).prop_map(|(stream, code)| word(RST_STREAM, stream, code)),
        1 => (1_u16..10, prop_oneof![0_u32..3, any::<u32>()]).prop_map(|(name, value)| setting(name, value)),
        1 => (stream.clone(), any::<[u8; 5]>()).prop_map(|(stream, bytes)| frame(PRIORITY, 0, stream, &bytes)),
        1 => (0_u8..2).prop_map(|flags| frame(PING, flags, 0, b"draining")),
        1 => (0_u32..9, 0_u32..14).prop_map(|(last, code)| go_away(last, code)),
        1 => (any::<u8>(), flags, stream, prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(kind, flags, stream, bytes)| frame(kind, flags, stream, &bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Any split of the input yields the same events and the same output.
    #[test]
    fn any_split_means_the_same(frames in prop::collection::vec(some_frame(), 0..30)) {
        targets::http2_receive(&frames.concat());
    }

    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..200)) {
        targets::http2_receive(&data);
        targets::hpack_decode(&data);
    }
}
