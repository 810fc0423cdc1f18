//! The Huffman code of RFC 7541 appendix B. It is canonical, so that the lengths say all of it.
//!
//! Decoding looks up eight bits at a time: all letters, digits and usual marks have codes no longer
//! than that. Longer codes are found by comparing with the first code of each length.

use super::CompressionError;

/// Bits of the code of each byte, and of the end-of-string symbol.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
const SYMBOLS: usize = 257;
const END_OF_STRING: u16 = 256;
const LENGTH_MAX: usize = 30;
const SHORT_BITS: usize = 8;
/// Of the shortest code: a string decodes to at most 8/5 of its bytes.
const LENGTH_MIN: usize = 5;

/// The code of each byte, and its bits.
static CODES: [(u32, u8); 256] = codes();

/// For the next eight bits the symbol and the length of its code; length 0 where the code is longer.
static SHORT: [(u8, u8); 1 << SHORT_BITS] = short();

/// For each length above eight: the first code that is longer, aligned to the left of 32 bits, and
/// what has to be added to a code of that length for its place in `ORDER`.
static LONG: [(u32, u32); LENGTH_MAX + 1] = long();

/// Symbols by code.
static ORDER: [u16; SYMBOLS] = order();

const fn order() -> [u16; SYMBOLS] {
    let mut symbols = [0; SYMBOLS];
    let (mut place, mut length) = (0, 1);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                symbols[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

const fn codes() -> [(u32, u8); 256] {
    let order = order();
    let mut codes = [(0, 0); 256];
    let (mut place, mut code, mut before) = (0, 0, 0);
    while place < SYMBOLS {
        let symbol = order[place];
        let length = LENGTHS[symbol as usize];
        code <<= length - before;
        before = length;
        if symbol != END_OF_STRING {
            codes[symbol as usize] = (code, length);
        }
        code += 1;
        place += 1;
    }
    codes
}

const fn short() -> [(u8, u8); 1 << SHORT_BITS] {
    let codes = codes();
    let mut table = [(0, 0); 1 << SHORT_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let (code, length) = codes[symbol];
        if length as usize <= SHORT_BITS {
            let spare = SHORT_BITS - length as usize;
            let mut index = 0;
            while index < 1 << spare {
                table[(code as usize) << spare | index] = (symbol as u8, length);
                index += 1;
            }
        }
        symbol += 1;
    }
    table
}

const fn long() -> [(u32, u32); LENGTH_MAX + 1] {
    let mut table = [(0, 0); LENGTH_MAX + 1];
    let (mut length, mut code, mut place) = (1, 0_u32, 0_u32);
    while length <= LENGTH_MAX {
        code <<= 1;
        let first = code;
        let first_place = place;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code += 1;
                place += 1;
            }
            symbol += 1;
        }
        // All codes of thirty bits are in use: the end would not fit into 32 bits.
        let end = if length == LENGTH_MAX { u32::MAX } else { code << (32 - length) };
        table[length] = (end, first_place.wrapping_sub(first));
        length += 1;
    }
    table
}

/// Appends what `coded` stands for.
///
/// # Errors
/// The end-of-string symbol inside, or padding that is longer than seven bits or has a zero bit
/// (RFC 7541 section 5.2). What was appended by then stays.
pub(super) fn decode(coded: &[u8], output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let begin = output.len();
    output.resize(begin + coded.len() * 8 / LENGTH_MIN + 1, 0);
    let mut written = 0;
    let result = match output.get_mut(begin..) {
        Some(room) => decode_into(coded, room, &mut written),
        None => Err(CompressionError),
    };
    output.truncate(begin + written);
    result
}

fn decode_into(coded: &[u8], room: &mut [u8], written: &mut usize) -> Result<(), CompressionError> {
    let mut rest = coded;
    // The next bits, aligned to the left, and how many of them there are.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        if let Some(chunk) = rest.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*chunk) >> count;
            let taken = (63 - count) / 8;
            count += taken * 8;
            rest = rest.get(taken as usize..).unwrap_or_default();
        } else {
            while count <= 56
                && let [byte, after @ ..] = rest
            {
                bits |= u64::from(*byte) << (56 - count);
                count += 8;
                rest = after;
            }
        }
        // With 32 bits at hand any code is complete; at the end there are fewer.
        let least = if rest.is_empty() { 1 } else { 32 };
        while count >= least {
            let (mut symbol, mut length) = SHORT[(bits >> 56) as usize];
            if length == 0 {
                (symbol, length) = decode_long((bits >> 32) as u32)?;
            }
            let length = u32::from(length);
            if length > count {
                return end(bits, count);
            }
            bits <<= length;
            count -= length;
            *room.get_mut(*written).ok_or(CompressionError)? = symbol;
            *written += 1;
        }
        if rest.is_empty() && count == 0 {
            return Ok(());
        }
    }
}

/// What is left is the beginning of the end-of-string symbol, less than a byte of it.
fn end(bits: u64, count: u32) -> Result<(), CompressionError> {
    if count < 8 && bits >> (64 - count) == (1 << count) - 1 { Ok(()) } else { Err(CompressionError) }
}

/// The code at the left of `bits`, longer than eight bits. Ones that are not all there look like
/// the end-of-string symbol's neighbours: their length tells the caller.
#[cold]
fn decode_long(bits: u32) -> Result<(u8, u8), CompressionError> {
    for (length, &(end, offset)) in LONG.iter().enumerate().skip(SHORT_BITS + 1) {
        if bits < end {
            let place = (bits >> (32 - length)).wrapping_add(offset);
            return match ORDER.get(place as usize) {
                Some(&symbol) if symbol != END_OF_STRING => Ok((symbol as u8, length as u8)),
                _ => Err(CompressionError),
            };
        }
    }
    Err(CompressionError)
}

/// Bytes that `plain` takes when coded.
#[inline]
pub(super) fn coded_length(plain: &[u8]) -> usize {
    plain.iter().map(|&byte| CODES[usize::from(byte)].1 as usize).sum::<usize>().div_ceil(8)
}

/// Appends the coded form of `plain`.
pub(super) fn encode(plain: &[u8], output: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for &byte in plain {
        let (code, length) = CODES[usize::from(byte)];
        bits = bits << length | u64::from(code);
        count += u32::from(length);
        if count >= 32 {
            count -= 32;
            output.extend_from_slice(&((bits >> count) as u32).to_be_bytes());
        }
    }
    while count >= 8 {
        count -= 8;
        output.push((bits >> count) as u8);
    }
    if count > 0 {
        // Padded with the beginning of the end-of-string symbol: ones.
        output.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut output = b"before".to_vec();
        decode(coded, &mut output)?;
        Ok(output.split_off(6))
    }

    #[test]
    fn codes_of_appendix_b() {
        for (symbol, code, length) in [
            (b'0', 0x0, 5),
            (b'a', 0x3, 5),
            (b'%', 0x15, 6),
            (b'X', 0xfc, 8),
            (b'!', 0x3f8, 10),
            (b'\'', 0x7fa, 11),
            (b'\\', 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (b'\n', 0x3ffffffc, 30),
            (22, 0x3ffffffe, 30),
            (249, 0xffffffe, 28),
            (255, 0x3ffffee, 26),
        ] {
            assert_eq!(CODES[symbol as usize], (code, length), "{symbol}");
        }
    }

    #[test]
    fn every_byte_alone_and_with_neighbours() {
        for byte in 0..=255 {
            for text in [vec![byte], vec![b'0', byte], vec![byte, byte, b'X'], vec![b'a', byte, b'b', byte, b'c']] {
                let mut coded = Vec::new();
                encode(&text, &mut coded);
                assert_eq!(coded.len(), coded_length(&text));
                assert_eq!(decoded(&coded), Ok(text));
            }
        }
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        assert_eq!(decoded(b"\x1f"), Ok(b"a".to_vec()));
        // Padding with a zero, of eight bits, of nothing else.
        for bad in [&b"\x1e"[..], b"\x18", b"\x1f\xff", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc"] {
            assert_eq!(decoded(bad), Err(CompressionError), "{bad:x?}");
        }
        assert_eq!(decoded(b""), Ok(Vec::new()));
    }

    #[test]
    fn the_end_of_string_symbol_is_refused() {
        // "a", end of string, padding; and the symbol among other codes.
        for bad in [&b"\x1f\xff\xff\xff\xff"[..], b"\xff\xff\xff\xfc\x3f", b"\x1f\xff\xff\xff\xe0\x7f\xff\xff\xff"] {
            assert_eq!(decoded(bad), Err(CompressionError), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut coded = Vec::new();
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), coded_length(&text));
            prop_assert_eq!(decoded(&coded).unwrap(), text);
        }

        /// What is taken is what the encoder would have written: no text has two codes.
        #[test]
        fn one_code_a_text(coded in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decoded(&coded) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}
