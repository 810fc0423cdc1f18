//! Parts of a representation (RFC 9110 section 14): which bytes a `Range` field asks for, and how
//! several of them are framed.

/// Ranges in one request. A field with more of them is ignored and the whole is sent: nobody but
/// an attacker needs so many (RFC 9110 section 17.15).
pub const MAX_RANGES: usize = 16;

/// Two ranges that are not further apart than this are sent as one, in bytes: the frame around a
/// part costs about as much (RFC 9110 section 15.3.7.2).
pub const COALESCE_GAP: u64 = 80;

/// A run of bytes; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub first: u64,
    pub last: u64,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything with 200, as if there were no `Range` field.
    Whole,
    /// 206 with one `Content-Range`.
    One(ByteRange),
    /// 206 with `multipart/byteranges`: two or more ranges that do not overlap.
    Many(Vec<ByteRange>),
    /// 416.
    Unsatisfiable,
}

/// The frames of a `multipart/byteranges` body (RFC 9110 section 14.6): each head, then the bytes
/// of its range, and `end` behind the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// One for each range, in the order of the ranges.
    pub heads: Vec<Vec<u8>>,
    pub end: Vec<u8>,
    /// Of the whole body, frames and ranges, in bytes.
    pub length: u64,
}

impl ByteRange {
    /// In bytes; never zero.
    #[must_use]
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Reads a `Range` field against a representation of `length` bytes.
///
/// Another unit than bytes, and what breaks the grammar, is ignored (section 14.2). Ranges that
/// overlap or nearly touch are merged, and then put in order; else the client's order stays.
#[must_use]
pub fn select(value: &[u8], length: u64) -> Selection {
    let Some(equals) = value.iter().position(|&byte| byte == b'=') else {
        return Selection::Whole;
    };
    let (unit, specs) = value.split_at(equals);
    // Section 14.1: the names of units are case-insensitive.
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Selection::Whole;
    }
    let mut satisfiable = Vec::new();
    let mut count = 0;
    for spec in specs.get(1..).unwrap_or_default().split(|&byte| byte == b',') {
        let spec = spec.trim_ascii();
        // Section 5.6.1: empty elements are read over.
        if spec.is_empty() {
            continue;
        }
        count += 1;
        if count > MAX_RANGES {
            return Selection::Whole;
        }
        match resolve(spec, length) {
            Spec::Bytes(range) => satisfiable.push(range),
            Spec::Nothing => {}
            Spec::Everything | Spec::Malformed => return Selection::Whole,
        }
    }
    if count == 0 {
        return Selection::Whole;
    }
    coalesce(&mut satisfiable);
    match satisfiable.as_slice() {
        [] => Selection::Unsatisfiable,
        [one] => Selection::One(*one),
        _ => Selection::Many(satisfiable),
    }
}

/// Writes the value of `Content-Range` for a 206, `bytes 0-99/1234` (section 14.4).
pub fn write_content_range(range: ByteRange, length: u64, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"bytes ");
    out.extend_from_slice(digits.format(range.first).as_bytes());
    out.push(b'-');
    out.extend_from_slice(digits.format(range.last).as_bytes());
    out.push(b'/');
    out.extend_from_slice(digits.format(length).as_bytes());
}

/// Writes the value of `Content-Range` for a 416, `bytes */1234` (section 14.4).
pub fn write_unsatisfied_range(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"bytes */");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
}

/// Reads the `Content-Range` of a 206: the bytes that the answer has, and how many the whole has (section 14.4).
///
/// `None`: it breaks the grammar, has another unit than bytes, or names a length that is not known, or that its
/// range does not fit into.
#[must_use]
pub fn parse_content_range(value: &[u8]) -> Option<(ByteRange, u64)> {
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (unit, rest) = value.split_at(space);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let rest = rest.get(1..)?;
    let (dash, slash) = (rest.iter().position(|&byte| byte == b'-')?, rest.iter().position(|&byte| byte == b'/')?);
    let first = exact(rest.get(..dash)?)?;
    let last = exact(rest.get(dash + 1..slash)?)?;
    let length = exact(rest.get(slash + 1..)?)?;
    // No file is larger, and what is made of it by adding has room.
    (first <= last && last < length && i64::try_from(length).is_ok()).then_some((ByteRange { first, last }, length))
}

/// The first byte that a `Range` field asks for, where it asks for one range and says where that begins: it can
/// be told before the length of the representation is known.
#[must_use]
pub fn first_byte(value: &[u8]) -> Option<u64> {
    let begins_with_digit = value.get(6..)?.trim_ascii_start().first()?.is_ascii_digit();
    match select(value, u64::MAX) {
        Selection::One(range) if begins_with_digit && !value.contains(&b',') => Some(range.first),
        _ => None,
    }
}

/// Computes the frames for several ranges of a representation of `length` bytes.
///
/// `boundary` must not occur in the content; the caller takes it from a source of randomness. The
/// answer's own type is then `multipart/byteranges; boundary=…`.
#[must_use]
pub fn multipart(ranges: &[ByteRange], length: u64, content_type: &[u8], boundary: &[u8]) -> Multipart {
    let mut heads = Vec::with_capacity(ranges.len());
    let mut total = 0;
    for (index, &range) in ranges.iter().enumerate() {
        let mut head = Vec::with_capacity(128 + content_type.len());
        if index > 0 {
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"--");
        head.extend_from_slice(boundary);
        head.extend_from_slice(b"\r\nContent-Type: ");
        head.extend_from_slice(content_type);
        head.extend_from_slice(b"\r\nContent-Range: ");
        write_content_range(range, length, &mut head);
        head.extend_from_slice(b"\r\n\r\n");
        total += head.len() as u64 + range.length();
        heads.push(head);
    }
    let mut end = Vec::with_capacity(8 + boundary.len());
    end.extend_from_slice(b"\r\n--");
    end.extend_from_slice(boundary);
    end.extend_from_slice(b"--\r\n");
    total += end.len() as u64;
    Multipart { heads, end, length: total }
}

enum Spec {
    Bytes(ByteRange),
    /// Well-formed, and outside the representation.
    Nothing,
    /// The end of an empty representation: satisfiable, but no `Content-Range` can say it.
    Everything,
    Malformed,
}

/// One `int-range` or `suffix-range` (section 14.1.1).
fn resolve(spec: &[u8], length: u64) -> Spec {
    let Some(dash) = spec.iter().position(|&byte| byte == b'-') else {
        return Spec::Malformed;
    };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        return match (number(last), length) {
            (None, _) => Spec::Malformed,
            (Some(0), _) => Spec::Nothing,
            (Some(_), 0) => Spec::Everything,
            (Some(suffix), _) => Spec::Bytes(ByteRange { first: length.saturating_sub(suffix), last: length - 1 }),
        };
    }
    let Some(first) = number(first) else {
        return Spec::Malformed;
    };
    let last = if last.is_empty() {
        u64::MAX
    } else {
        match number(last) {
            Some(last) if last >= first => last,
            _ => return Spec::Malformed,
        }
    };
    if first >= length {
        return Spec::Nothing;
    }
    Spec::Bytes(ByteRange { first, last: last.min(length - 1) })
}

/// Digits alone; a number too large for 64 bits is beyond any file all the same.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |value: u64, &digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Digits alone, of a number that 64 bits hold: what a server says of its own bytes is taken at its word.
fn exact(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

fn coalesce(ranges: &mut Vec<ByteRange>) {
    let mut sorted = ranges.clone();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut merged: Vec<ByteRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1 + COALESCE_GAP) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    if merged.len() < ranges.len() {
        *ranges = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u64, last: u64) -> ByteRange {
        ByteRange { first, last }
    }

    #[test]
    fn the_examples_of_section_14_1_2() {
        for (value, expected) in [
            ("bytes=0-499", range(0, 499)),
            ("bytes=500-999", range(500, 999)),
            ("bytes=-500", range(9_500, 9_999)),
            ("bytes=9500-", range(9_500, 9_999)),
            ("BYTES=0-0", range(0, 0)),
            ("bytes=-20000", range(0, 9_999)),
            ("bytes=9999-99999999999999999999999999", range(9_999, 9_999)),
            ("bytes= ,0-1 , ", range(0, 1)),
            ("bytes=0-1,20000-", range(0, 1)),
        ] {
            assert_eq!(select(value.as_bytes(), 10_000), Selection::One(expected), "{value}");
        }
        assert_eq!(select(b"bytes=0-0,-1", 10_000), Selection::Many(vec![range(0, 0), range(9_999, 9_999)]));
        assert_eq!(
            select(b"bytes= 0-999, 4500-5499, -1000", 10_000),
            Selection::Many(vec![range(0, 999), range(4_500, 5_499), range(9_000, 9_999)])
        );
    }

    #[test]
    fn what_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "lines=0-1",
            "bytes 0-1",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=-",
            "bytes=--1",
            "bytes=1",
            "bytes=0-1;2-3",
            "bytes=0x0-1",
            "bytes=+1-2",
            "bytes=0 - 1",
            "bytes=0-1,bytes=2-3",
            "bytes=0-1,x",
            " bytes=0-1",
        ] {
            assert_eq!(select(value.as_bytes(), 10_000), Selection::Whole, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_satisfied() {
        for value in ["bytes=10000-", "bytes=-0", "bytes=10000-10001,99999-", "bytes=99999999999999999999-"] {
            assert_eq!(select(value.as_bytes(), 10_000), Selection::Unsatisfiable, "{value}");
        }
        assert_eq!(select(b"bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(select(b"bytes=-1", 0), Selection::Whole);
    }

    #[test]
    fn the_content_range_of_an_answer() {
        assert_eq!(parse_content_range(b"bytes 0-499/1234"), Some((range(0, 499), 1234)));
        assert_eq!(parse_content_range(b"BYTES 7-7/8"), Some((range(7, 7), 8)));
        let most = i64::MAX as u64;
        let of = |length: u64| parse_content_range(format!("bytes 0-{}/{length}", length - 1).as_bytes());
        assert_eq!(of(most), Some((range(0, most - 1), most)));
        assert_eq!((of(most + 1), of(u64::MAX)), (None, None), "sums of it would have no room");
        for wrong in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-499",
            "bytes 0-499/*",
            "bytes */1234",
            "bytes 0-499/499",
            "bytes 5-4/10",
            "bytes 0-0/0",
            "bytes  0-1/2",
            "bytes 0 -1/2",
            "bytes 0-1 /2",
            "bytes 0-1/2 ",
            "bytes 0-1/2,bytes 0-1/2",
            "bytes +0-1/2",
            "bytes -1/2",
            "bytes 0-/2",
            "bytes 0/2-1",
            "items 0-1/2",
            "bytes=0-1/2",
            "bytes\t0-1/2",
            "bytes 0-1/18446744073709551616",
            "bytes 18446744073709551616-18446744073709551617/18446744073709551618",
        ] {
            assert_eq!(parse_content_range(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_first_byte_that_is_asked_for() {
        for (value, first) in [
            ("bytes=0-499", Some(0)),
            ("bytes=500-", Some(500)),
            ("bytes= 7-7", Some(7)),
            ("bytes=-500", None),
            ("bytes=5-6,0-1", None),
            ("bytes=5-4", None),
            ("lines=0-1", None),
            ("bytes=", None),
            ("", None),
        ] {
            assert_eq!(first_byte(value.as_bytes()), first, "{value}");
        }
    }

    #[test]
    fn near_ranges_become_one() {
        assert_eq!(select(b"bytes=0-9,5-20", 10_000), Selection::One(range(0, 20)));
        assert_eq!(select(b"bytes=0-9,10-20", 10_000), Selection::One(range(0, 20)));
        assert_eq!(select(b"bytes=50-60,0-9", 10_000), Selection::One(range(0, 60)));
        assert_eq!(
            select(b"bytes=5000-5001,0-9,4-20", 10_000),
            Selection::Many(vec![range(0, 20), range(5_000, 5_001)])
        );
        assert_eq!(
            select(b"bytes=5000-5001,0-9", 10_000),
            Selection::Many(vec![range(5_000, 5_001), range(0, 9)]),
            "the client's order stays where nothing is merged"
        );
    }

    #[test]
    fn many_ranges_get_the_whole() {
        let list = |count: u64| {
            let specs: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * 1_000)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(select(list(16).as_bytes(), 100_000), Selection::Many(ranges) if ranges.len() == 16));
        assert_eq!(select(list(17).as_bytes(), 100_000), Selection::Whole);
    }

    #[test]
    fn the_frames_are_those_of_the_rfc() {
        let frames = multipart(&[range(0, 1), range(7_000, 7_999)], 8_000, b"text/plain", b"SEP");
        assert_eq!(frames.heads[0], b"--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/8000\r\n\r\n");
        assert_eq!(
            frames.heads[1],
            b"\r\n--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 7000-7999/8000\r\n\r\n"
        );
        assert_eq!(frames.end, b"\r\n--SEP--\r\n");
        let mut unsatisfied = Vec::new();
        write_unsatisfied_range(8_000, &mut unsatisfied);
        assert_eq!(unsatisfied, b"bytes */8000");
    }

    proptest! {
        #[test]
        fn what_is_selected_lies_inside_and_apart(
            specs in proptest::collection::vec((0_u64..2_000, 0_u64..2_000, 0..3), 0..20),
            length in 0_u64..1_500,
        ) {
            let specs: Vec<String> = specs.iter().map(|(a, b, form)| match form {
                0 => format!("{a}-{}", a + b),
                1 => format!("{a}-"),
                _ => format!("-{b}"),
            }).collect();
            let ranges = match select(format!("bytes={}", specs.join(", ")).as_bytes(), length) {
                Selection::Whole | Selection::Unsatisfiable => Vec::new(),
                Selection::One(range) => vec![range],
                Selection::Many(ranges) => {
                    prop_assert!(ranges.len() > 1);
                    ranges
                }
            };
            prop_assert!(ranges.len() <= MAX_RANGES);
            for (index, range) in ranges.iter().enumerate() {
                prop_assert!(range.first <= range.last && range.last < length);
                for other in &ranges[..index] {
                    prop_assert!(other.last < range.first || range.last < other.first);
                }
            }
            let frames = multipart(&ranges, length, b"a/b", b"boundary");
            let framed: u64 = frames.heads.iter().map(|head| head.len() as u64).sum();
            let content: u64 = ranges.iter().map(|range| range.length()).sum();
            prop_assert!(content <= length);
            prop_assert_eq!(frames.length, framed + content + frames.end.len() as u64);
        }

        #[test]
        fn each_byte_that_was_asked_for_is_sent(
            asked in proptest::collection::vec((0_u64..1_000, 0_u64..300), 1..16),
        ) {
            const LENGTH: u64 = 1_000;
            let specs: Vec<String> = asked.iter().map(|(a, b)| format!("{a}-{}", a + b)).collect();
            let sent = match select(format!("bytes={}", specs.join(",")).as_bytes(), LENGTH) {
                Selection::One(range) => vec![range],
                Selection::Many(ranges) => ranges,
                other => panic!("{other:?}"),
            };
            for (first, count) in asked {
                let last = (first + count).min(LENGTH - 1);
                prop_assert!(sent.iter().any(|range| range.first <= first && last <= range.last));
            }
        }

        #[test]
        fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..80), length in any::<u64>()) {
            let is_bytes = value.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
            prop_assert!(is_bytes || select(&value, length) == Selection::Whole);
            prop_assert!(first_byte(&value).is_none_or(|first| first < u64::MAX));
            let answered = [&b"bytes "[..], &value].concat();
            if let Some((range, length)) = parse_content_range(&answered) {
                let mut written = Vec::new();
                write_content_range(range, length, &mut written);
                prop_assert!(range.last < length && written.len() <= answered.len());
            }
        }
    }
}
