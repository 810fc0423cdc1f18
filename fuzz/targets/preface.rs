//! What must hold for `core/preface` whatever is thrown at it. A broken rule is a panic.
//!
//! Included by the fuzz target and by the plain test that plays the kept corpus.

use sumun_preface::{Parsed, Tlv, parse, write_v2_with};

/// Longer inputs teach nothing and cost time, bytes.
const INPUT_MAX: usize = 2 * 1024;

/// The input as the start of a connection: the first verdict is the last, and what a header says is
/// said again by one of ours.
pub(crate) fn proxy_header(data: &[u8]) {
    let data = data.get(..INPUT_MAX).unwrap_or(data);
    let whole = parse(data);
    let decided = (0..=data.len()).find(|&length| parse(&data[..length]) != Ok(Parsed::More));
    for length in decided.unwrap_or(data.len())..=data.len() {
        assert_eq!(parse(&data[..length]), whole, "{length} bytes");
    }
    let Ok(Parsed::Header(header)) = whole else { return };
    assert!((1..=data.len()).contains(&header.length));
    let told: Vec<Tlv<'_>> = header.tlvs(data).collect();
    for tlv in &told {
        if let Tlv::Ssl(ssl) = tlv {
            assert!(ssl.parts().count() <= header.length / 3);
        }
    }
    let Some(addresses) = header.addresses else { return };
    let ends = Some((addresses.source, addresses.destination));
    let told: Vec<Tlv<'_>> = told.into_iter().filter(|tlv| !matches!(tlv, Tlv::Crc32c(_))).collect();
    for checksum in [false, true] {
        let mut written = Vec::new();
        write_v2_with(&mut written, addresses.transport, ends, &told, checksum).expect("far below the bound");
        let Ok(Parsed::Header(again)) = parse(&written) else { panic!("{written:?}") };
        assert_eq!(again.length, written.len());
        let found = again.addresses.expect("both addresses");
        assert_eq!(found.transport, addresses.transport);
        let canonical = |end: std::net::SocketAddr| (end.ip().to_canonical(), end.port());
        assert_eq!(canonical(found.source), canonical(addresses.source));
        assert_eq!(canonical(found.destination), canonical(addresses.destination));
        let mut said: Vec<Tlv<'_>> = again.tlvs(&written).collect();
        assert_eq!(matches!(said.last(), Some(Tlv::Crc32c(_))), checksum);
        said.retain(|tlv| !matches!(tlv, Tlv::Crc32c(_)));
        assert_eq!(said, told);
    }
}
