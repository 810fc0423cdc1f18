//! Parts of a representation that are fetched one by one, and put together again (RFC 9111 section 3.4, RFC 9110
//! section 15.3.7.3): whether an answer is the part that was asked for, and of the same version as the others.
//!
//! Servers are not believed: what does not fit in any way is of no use, and the whole is asked for instead.

use super::Fields;
use crate::conditional::{EntityTag, Validators};
use crate::date;
use crate::range::{ByteRange, parse_content_range};

/// A `Last-Modified` counts as strong where the answer is so much younger, in seconds: else it may have changed
/// twice in one second, or the clocks differ (RFC 9110 section 8.8.2.2).
const STRONG_DATE_S: u64 = 60;

/// The part that slice `number` is of a representation of `length` bytes; `None`: it lies behind its end.
#[must_use]
pub fn range_of(number: u64, slice_bytes: u64, length: u64) -> Option<ByteRange> {
    let first = number.checked_mul(slice_bytes).filter(|first| *first < length)?;
    Some(ByteRange { first, last: first.saturating_add(slice_bytes - 1).min(length - 1) })
}

/// The length of the whole, where a 206 is exactly the part that was asked for: from `asked.first` up to
/// `asked.last` or the end. `body_bytes`: of its body, as far as that is framed by its length.
#[must_use]
pub fn whole_length(asked: ByteRange, response: Fields<'_>, body_bytes: Option<u64>) -> Option<u64> {
    // Several parts have their ranges inside the body, whatever stands in the head (section 15.3.7.2).
    let is_multipart = response
        .values("content-type")
        .any(|value| value.get(..20).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/byteranges")));
    let (range, length) = parse_content_range(response.only("content-range")?).filter(|_| !is_multipart)?;
    let fits = range.first == asked.first && range.last == asked.last.min(length - 1);
    (fits && body_bytes.is_none_or(|bytes| bytes == range.length())).then_some(length)
}

/// The field of a 206 says nothing of the whole: it is about the bytes that came (RFC 9110 section 14.4, RFC 9530
/// section 2).
#[must_use]
pub fn is_of_part(name: &[u8]) -> bool {
    const OF_PART: [&str; 3] = ["content-range", "content-digest", "content-md5"];
    OF_PART.iter().any(|of| name.eq_ignore_ascii_case(of.as_bytes()))
}

/// What `If-Range` is to say, so that no part of another version comes: a strong entity tag, or a date that
/// counts as strong. `None`: parts of such a response cannot be put together.
#[must_use]
pub fn validator(response: Fields<'_>) -> Option<&[u8]> {
    if response.has("etag") {
        return response.only("etag").filter(|value| EntityTag::parse(value).is_some_and(|tag| !tag.weak));
    }
    let modified = response.only("last-modified")?;
    let (modified_s, date_s) = (date::parse(modified)?, response.only("date").and_then(date::parse)?);
    (date_s >= modified_s.saturating_add(STRONG_DATE_S)).then_some(modified)
}

/// A part has the strong validator of the others. What it leaves out speaks against it: a server that answers
/// 206 has to say what its 200 would have said (RFC 9110 section 15.3.7).
#[must_use]
pub fn is_same_version(others: &Validators<'_>, part: Fields<'_>) -> bool {
    if let Some(tag) = others.etag {
        return part.only("etag").and_then(EntityTag::parse).is_some_and(|other| other.strong_match(tag));
    }
    let modified_s = part.only("last-modified").and_then(date::parse);
    !part.has("etag") && modified_s.is_some() && modified_s == others.last_modified
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Method, ResponseHead};

    /// Calls with the fields of a head.
    fn with<T>(lines: &str, then: impl FnOnce(Fields<'_>) -> T) -> T {
        let text = format!("HTTP/1.1 206 Partial Content\r\n{lines}\r\n");
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), Method::Head).expect("a head").expect("all of it");
        then(Fields { bytes: text.as_bytes(), fields: &head.fields })
    }

    fn length(first: u64, last: u64, lines: &str, body_bytes: Option<u64>) -> Option<u64> {
        with(lines, |fields| whole_length(ByteRange { first, last }, fields, body_bytes))
    }

    #[test]
    fn a_part_is_the_one_that_was_asked_for() {
        assert_eq!(length(0, 99, "Content-Range: bytes 0-99/1000\r\n", Some(100)), Some(1000));
        assert_eq!(
            length(900, 999, "Content-Range: bytes 900-949/950\r\n", None),
            Some(950),
            "the last one is shorter"
        );
        for (lines, body_bytes) in [
            ("", Some(100)),
            ("Content-Range: bytes 0-99/*\r\n", Some(100)),
            ("Content-Range: bytes */1000\r\n", Some(100)),
            ("Content-Range: bytes 0-98/1000\r\n", Some(99)),
            ("Content-Range: bytes 1-99/1000\r\n", Some(99)),
            ("Content-Range: bytes 0-100/1000\r\n", Some(101)),
            ("Content-Range: bytes 0-99/99\r\n", Some(100)),
            ("Content-Range: bytes 0-99/1000\r\n", Some(99)),
            ("Content-Range: bytes 0-99/1000\r\n", Some(1000)),
            ("Content-Range: bytes 0-99/1000\r\nContent-Range: bytes 0-99/1000\r\n", Some(100)),
            ("Content-Range: bytes 0-99/1000\r\nContent-Type: Multipart/Byteranges; boundary=a\r\n", Some(100)),
        ] {
            assert_eq!(length(0, 99, lines, body_bytes), None, "{lines}");
        }
    }

    #[test]
    fn what_can_be_put_together() {
        let found = |lines: &str| with(lines, |fields| validator(fields).map(<[u8]>::to_vec));
        assert_eq!(found("ETag: \"a\"\r\n").as_deref(), Some(&b"\"a\""[..]));
        let old = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let later = "Date: Sun, 06 Nov 1994 08:50:37 GMT\r\n";
        let soon = "Date: Sun, 06 Nov 1994 08:50:36 GMT\r\n";
        assert!(found(&[old, later].concat()).is_some());
        for lines in [
            String::new(),
            "ETag: W/\"a\"\r\n".to_owned(),
            "ETag: a\r\n".to_owned(),
            "ETag: \"a\"\r\nETag: \"b\"\r\n".to_owned(),
            [old, later, "ETag: W/\"a\"\r\n"].concat(),
            [old, soon].concat(),
            old.to_owned(),
            later.to_owned(),
        ] {
            assert_eq!(found(&lines), None, "{lines}");
        }
    }

    #[test]
    fn parts_are_of_one_version() {
        let tag = Validators { etag: EntityTag::parse(b"\"a\""), last_modified: Some(784_111_777) };
        let dated = Validators { etag: None, last_modified: Some(784_111_777) };
        let date = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let is_same = |others: &Validators<'_>, lines: &str| with(lines, |fields| is_same_version(others, fields));
        assert!(is_same(&tag, "ETag: \"a\"\r\n") && is_same(&dated, date));
        for lines in ["", date, "ETag: \"b\"\r\n", "ETag: W/\"a\"\r\n", "ETag: \"a\"\r\nETag: \"a\"\r\n"] {
            assert!(!is_same(&tag, lines), "{lines}");
        }
        for lines in [
            "",
            "ETag: \"a\"\r\n",
            "Last-Modified: Sun, 06 Nov 1994 08:49:38 GMT\r\n",
            &[date, "ETag: \"a\"\r\n"].concat(),
        ] {
            assert!(!is_same(&dated, lines), "{lines}");
        }
        let nothing = Validators::default();
        assert!(!is_same(&nothing, "") && !is_same(&nothing, date) && !is_same(&nothing, "ETag: \"a\"\r\n"));
    }

    proptest! {
        #[test]
        fn slices_cover_the_whole_once(length in 1_u64..5_000, slice_bytes in 1_u64..700) {
            let mut at = 0;
            for number in 0.. {
                let Some(range) = range_of(number, slice_bytes, length) else { break };
                prop_assert_eq!(range.first, at);
                prop_assert!(range.length() <= slice_bytes);
                at = range.last + 1;
            }
            prop_assert_eq!(at, length);
        }

        #[test]
        fn no_number_overflows(number in any::<u64>(), slice_bytes in 1_u64.., length in any::<u64>()) {
            if let Some(range) = range_of(number, slice_bytes, length) {
                prop_assert!(range.first <= range.last && range.last < length);
            }
        }
    }
}
