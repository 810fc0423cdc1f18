//! CRC-32C (Castagnoli; RFC 3720 appendix B.4), bit by bit: a header is read once a connection and
//! hardly any has a checksum, so a table would only take room in the cache.

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The checksum of all parts, one behind the other.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut state = u32::MAX;
    for &byte in parts.iter().copied().flatten() {
        state ^= u32::from(byte);
        for _ in 0..8 {
            state = if state & 1 == 1 { state >> 1 ^ POLYNOMIAL } else { state >> 1 };
        }
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn known_answers() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
        // RFC 3720 appendix B.4: 32 bytes of zeros, 32 bytes of ones.
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
    }
}
