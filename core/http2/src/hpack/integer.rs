//! Integers with a prefix (RFC 7541 section 5.1).

use super::CompressionError;

/// Continuation bytes that are taken: four reach 2^28, and nothing here may be longer than that.
const CONTINUATION_BYTES_MAX: u32 = 4;

/// Reads the integer at `*at`, whose first byte has `prefix` bits of it, and moves `*at` behind it.
///
/// # Errors
/// The block ends inside it, or it is larger than anything it could mean.
#[inline]
pub(super) fn read(block: &[u8], at: &mut usize, prefix: u32) -> Result<usize, CompressionError> {
    let mask = (1_usize << prefix) - 1;
    let first = usize::from(*block.get(*at).ok_or(CompressionError)?) & mask;
    *at += 1;
    if first < mask { Ok(first) } else { read_rest(block, at, first) }
}

fn read_rest(block: &[u8], at: &mut usize, first: usize) -> Result<usize, CompressionError> {
    let mut value = first;
    for count in 0..CONTINUATION_BYTES_MAX {
        let byte = *block.get(*at).ok_or(CompressionError)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << (7 * count);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CompressionError)
}

/// Appends `value`; `first` holds the bits in front of the prefix.
#[inline]
pub(super) fn write(output: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        output.push(first | value as u8);
    } else {
        write_rest(output, first | mask as u8, value - mask);
    }
}

fn write_rest(output: &mut Vec<u8>, first: u8, mut value: usize) {
    output.push(first);
    while value >= 0x80 {
        output.push(value as u8 | 0x80);
        value >>= 7;
    }
    output.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples_of_appendix_c1() {
        for (value, prefix, bytes) in
            [(10, 5, &b"\x0a"[..]), (1337, 5, b"\x1f\x9a\x0a"), (42, 8, b"\x2a"), (31, 5, b"\x1f\x00")]
        {
            let mut output = Vec::new();
            write(&mut output, 0, prefix, value);
            assert_eq!(output, bytes);
            assert_eq!(read(bytes, &mut 0, prefix), Ok(value));
        }
    }

    #[test]
    fn what_is_cut_or_endless_is_refused() {
        for bytes in
            [&b""[..], b"\x1f", b"\x1f\x80", b"\x1f\x80\x80\x80\x80\x00", b"\x1f\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(read(bytes, &mut 0, 5), Err(CompressionError), "{bytes:x?}");
        }
        // Zeros that lead nowhere are within the bound.
        assert_eq!(read(b"\x1f\x80\x80\x80\x00", &mut 0, 5), Ok(31));
    }

    proptest! {
        #[test]
        fn round_trip(value in 0_usize..1 << 28, prefix in 1_u32..=8) {
            let mut output = Vec::new();
            write(&mut output, 0, prefix, value);
            let mut at = 0;
            prop_assert_eq!(read(&output, &mut at, prefix), Ok(value));
            prop_assert_eq!(at, output.len());
        }
    }
}
