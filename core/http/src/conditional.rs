//! Conditional requests (RFC 9110 section 13): which of them still has to be done.

use crate::date;

/// An entity tag (RFC 9110 section 8.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'a [u8],
}

/// What identifies the state of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validators<'a> {
    pub etag: Option<EntityTag<'a>>,
    /// Seconds since 1970; what `Last-Modified` says.
    pub last_modified: Option<u64>,
}

/// The conditional fields of a request, as they came. A field that came on several lines is given
/// joined by commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions<'a> {
    pub if_match: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    pub if_unmodified_since: Option<&'a [u8]>,
}

/// What the conditions say about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do what the method asks.
    Proceed,
    /// Answer 304: the client has it already.
    NotModified,
    /// Answer 412: the resource is not in the state that the client thinks.
    PreconditionFailed,
}

/// Weighs the conditions in the order of RFC 9110 section 13.2.2.
///
/// `current` is the representation that a GET of the same resource would select now, `None` where
/// there is none. `If-Range` comes after this and only where it says [`Decision::Proceed`], see
/// [`if_range_holds`]. What is malformed never makes a condition hold that guards a change: an
/// unreadable `If-Match` fails, an unreadable `If-None-Match` matches nothing, and unreadable dates
/// count as absent.
#[must_use]
pub fn evaluate(method: &str, current: Option<&Validators<'_>>, conditions: &Conditions<'_>) -> Decision {
    // Section 13.2.1: these methods neither select nor change a representation.
    if matches!(method, "CONNECT" | "OPTIONS" | "TRACE") {
        return Decision::Proceed;
    }
    let is_read = matches!(method, "GET" | "HEAD");
    let last_modified = current.and_then(|current| current.last_modified);

    // Steps 1 and 2.
    if let Some(if_match) = conditions.if_match {
        if !any_tag_matches(if_match, current, |one, other| one.strong_match(other)) {
            return Decision::PreconditionFailed;
        }
    } else if let Some(since) = conditions.if_unmodified_since.and_then(date::parse)
        && last_modified.is_some_and(|last_modified| last_modified > since)
    {
        return Decision::PreconditionFailed;
    }

    // Steps 3 and 4.
    if let Some(if_none_match) = conditions.if_none_match {
        if any_tag_matches(if_none_match, current, |one, other| one.weak_match(other)) {
            return if is_read { Decision::NotModified } else { Decision::PreconditionFailed };
        }
    } else if is_read
        && let Some(since) = conditions.if_modified_since.and_then(date::parse)
        && last_modified.is_some_and(|last_modified| last_modified <= since)
    {
        return Decision::NotModified;
    }
    Decision::Proceed
}

/// Whether `If-Range` lets the `Range` field of the same request count (RFC 9110 section 13.1.5).
///
/// A date is believed only where the representation has not changed in the second before `now`:
/// else it might have changed twice in the second that the date names (section 8.8.2.2).
#[must_use]
pub fn if_range_holds(value: &[u8], current: &Validators<'_>, now_unix_seconds: u64) -> bool {
    if let Some(tag) = EntityTag::parse(value) {
        return current.etag.is_some_and(|etag| etag.strong_match(tag));
    }
    match (date::parse(value), current.last_modified) {
        (Some(date), Some(last_modified)) => {
            date == last_modified && last_modified.saturating_add(1) < now_unix_seconds
        }
        _ => false,
    }
}

impl<'a> EntityTag<'a> {
    /// Reads one entity tag with nothing before or behind it.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        match read_tag(text)? {
            (tag, []) => Some(tag),
            _ => None,
        }
    }

    /// Equal byte for byte, and neither is weak (section 8.8.3.2).
    #[must_use]
    pub fn strong_match(self, other: EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Equal but for bytes that the origin thinks do not matter (section 8.8.3.2).
    #[must_use]
    pub fn weak_match(self, other: EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }
}

/// Whether a list of entity tags, or `*`, names the current representation. The list counts up to
/// the first byte that is no list.
fn any_tag_matches(
    list: &[u8],
    current: Option<&Validators<'_>>,
    matches: impl Fn(EntityTag<'_>, EntityTag<'_>) -> bool,
) -> bool {
    let Some(current) = current else { return false };
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(etag) = current.etag else {
        return false;
    };
    let mut rest = list;
    loop {
        // RFC 9110 section 5.6.1: empty elements are read over.
        while let [b' ' | b'\t' | b',', behind @ ..] = rest {
            rest = behind;
        }
        let Some((tag, behind)) = read_tag(rest) else {
            return false;
        };
        let behind = behind.trim_ascii_start();
        // Only the end or a comma can follow; `"a"x` is not the tag `"a"`.
        if !matches!(behind, [] | [b',', ..]) {
            return false;
        }
        if matches(etag, tag) {
            return true;
        }
        rest = behind;
    }
}

/// The entity tag at the start of the text, and what is behind it.
fn read_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    // Section 8.8.3: the `W/` is case-sensitive.
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let length = inside.iter().position(|&byte| byte == b'"')?;
    let (opaque, behind) = inside.split_at(length);
    let is_tag_byte = |&byte: &u8| byte > b' ' && byte != 0x7f;
    opaque.iter().all(is_tag_byte).then_some((EntityTag { weak, opaque }, behind.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const DAY_SECONDS: u64 = 784_111_777;
    const DAY_BEFORE: &[u8] = b"Sat, 05 Nov 1994 08:49:37 GMT";
    const DAY_AFTER: &[u8] = b"Mon, 07 Nov 1994 08:49:37 GMT";

    fn strong(opaque: &[u8]) -> EntityTag<'_> {
        EntityTag { weak: false, opaque }
    }

    fn current() -> Validators<'static> {
        Validators { etag: Some(strong(b"now")), last_modified: Some(DAY_SECONDS) }
    }

    fn with_match(value: &[u8]) -> Conditions<'_> {
        Conditions { if_match: Some(value), ..Conditions::default() }
    }

    fn with_none_match(value: &[u8]) -> Conditions<'_> {
        Conditions { if_none_match: Some(value), ..Conditions::default() }
    }

    #[test]
    fn entity_tags() {
        assert_eq!(EntityTag::parse(b"\"\""), Some(strong(b"")));
        assert_eq!(EntityTag::parse(b"\"a,b\""), Some(strong(b"a,b")));
        assert_eq!(EntityTag::parse(b"\"\xff\""), Some(strong(b"\xff")));
        assert_eq!(EntityTag::parse(b"W/\"a\""), Some(EntityTag { weak: true, opaque: b"a" }));
        for bad in [&b"a"[..], b"\"a", b"w/\"a\"", b"W/a", b"\"a\"b", b"\"a b\"", b"\"\x7f\"", b""] {
            assert_eq!(EntityTag::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_comparison_table_of_section_8_8_3_2() {
        let weak = |opaque| EntityTag { weak: true, opaque };
        for (one, other, strongly, weakly) in [
            (weak(b"1"), weak(b"1"), false, true),
            (weak(b"1"), weak(b"2"), false, false),
            (weak(b"1"), strong(b"1"), false, true),
            (strong(b"1"), strong(b"1"), true, true),
        ] {
            assert_eq!(one.strong_match(other), strongly);
            assert_eq!(one.weak_match(other), weakly);
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        for (value, decision) in [
            (&b"\"now\""[..], Decision::Proceed),
            (b"\"then\", \"now\"", Decision::Proceed),
            (b",, \"then\" ,\t\"now\" ,", Decision::Proceed),
            (b"*", Decision::Proceed),
            (b" * ", Decision::Proceed),
            (b"W/\"now\"", Decision::PreconditionFailed),
            (b"\"then\"", Decision::PreconditionFailed),
            (b"now", Decision::PreconditionFailed),
            (b"\"now\"x", Decision::PreconditionFailed),
            (b"", Decision::PreconditionFailed),
            (b"*, \"now\"", Decision::PreconditionFailed),
        ] {
            assert_eq!(evaluate("PUT", Some(&current()), &with_match(value)), decision, "{value:?}");
            assert_eq!(evaluate("GET", Some(&current()), &with_match(value)), decision, "{value:?}");
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (value, reads) in [
            (&b"\"now\""[..], Decision::NotModified),
            (b"W/\"now\"", Decision::NotModified),
            (b"\"then\",\"now\"", Decision::NotModified),
            (b"*", Decision::NotModified),
            (b"\"then\"", Decision::Proceed),
            (b"now", Decision::Proceed),
            (b"\"then\" \"now\"", Decision::Proceed),
        ] {
            let writes = match reads {
                Decision::NotModified => Decision::PreconditionFailed,
                other => other,
            };
            let conditions = with_none_match(value);
            assert_eq!(evaluate("GET", Some(&current()), &conditions), reads, "{value:?}");
            assert_eq!(evaluate("HEAD", Some(&current()), &conditions), reads, "{value:?}");
            assert_eq!(evaluate("PUT", Some(&current()), &conditions), writes, "{value:?}");
            assert_eq!(evaluate("DELETE", Some(&current()), &conditions), writes, "{value:?}");
        }
    }

    #[test]
    fn a_star_asks_whether_there_is_anything() {
        assert_eq!(evaluate("PUT", None, &with_match(b"*")), Decision::PreconditionFailed);
        assert_eq!(evaluate("PUT", None, &with_none_match(b"*")), Decision::Proceed);
        let bare = Validators::default();
        assert_eq!(evaluate("PUT", Some(&bare), &with_match(b"*")), Decision::Proceed);
        assert_eq!(evaluate("PUT", Some(&bare), &with_none_match(b"*")), Decision::PreconditionFailed);
    }

    #[test]
    fn dates() {
        let since = |value| Conditions { if_modified_since: Some(value), ..Conditions::default() };
        assert_eq!(evaluate("GET", Some(&current()), &since(DAY)), Decision::NotModified);
        assert_eq!(evaluate("HEAD", Some(&current()), &since(DAY_AFTER)), Decision::NotModified);
        assert_eq!(evaluate("GET", Some(&current()), &since(DAY_BEFORE)), Decision::Proceed);
        assert_eq!(evaluate("POST", Some(&current()), &since(DAY)), Decision::Proceed);
        assert_eq!(evaluate("GET", Some(&current()), &since(b"yesterday")), Decision::Proceed);
        assert_eq!(evaluate("GET", Some(&Validators::default()), &since(DAY)), Decision::Proceed);

        let unless = |value| Conditions { if_unmodified_since: Some(value), ..Conditions::default() };
        assert_eq!(evaluate("PUT", Some(&current()), &unless(DAY)), Decision::Proceed);
        assert_eq!(evaluate("PUT", Some(&current()), &unless(DAY_AFTER)), Decision::Proceed);
        assert_eq!(evaluate("PUT", Some(&current()), &unless(DAY_BEFORE)), Decision::PreconditionFailed);
        assert_eq!(evaluate("GET", Some(&current()), &unless(DAY_BEFORE)), Decision::PreconditionFailed);
        assert_eq!(evaluate("PUT", Some(&current()), &unless(b"0")), Decision::Proceed);
        assert_eq!(evaluate("PUT", None, &unless(DAY_BEFORE)), Decision::Proceed);
    }

    #[test]
    fn tags_come_before_dates() {
        let both =
            Conditions { if_none_match: Some(b"\"then\""), if_modified_since: Some(DAY), ..Conditions::default() };
        assert_eq!(evaluate("GET", Some(&current()), &both), Decision::Proceed);
        let both =
            Conditions { if_match: Some(b"\"now\""), if_unmodified_since: Some(DAY_BEFORE), ..Conditions::default() };
        assert_eq!(evaluate("PUT", Some(&current()), &both), Decision::Proceed);
        let both = Conditions { if_match: Some(b"\"then\""), if_none_match: Some(b"\"now\""), ..Conditions::default() };
        assert_eq!(evaluate("GET", Some(&current()), &both), Decision::PreconditionFailed);
        let both = Conditions { if_match: Some(b"\"now\""), if_none_match: Some(b"\"now\""), ..Conditions::default() };
        assert_eq!(evaluate("GET", Some(&current()), &both), Decision::NotModified);
    }

    #[test]
    fn methods_without_a_representation_ignore_conditions() {
        for method in ["OPTIONS", "TRACE", "CONNECT"] {
            assert_eq!(evaluate(method, Some(&current()), &with_match(b"\"x\"")), Decision::Proceed);
        }
    }

    #[test]
    fn if_range() {
        let long_after = DAY_SECONDS + 100;
        for (value, holds) in [
            (&b"\"now\""[..], true),
            (b"W/\"now\"", false),
            (b"\"then\"", false),
            (DAY, true),
            (DAY_BEFORE, false),
            // A later date is no match either: the date must be the one we sent.
            (DAY_AFTER, false),
            (b"\"now\", \"now\"", false),
            (b"nonsense", false),
        ] {
            assert_eq!(if_range_holds(value, &current(), long_after), holds, "{value:?}");
        }
        assert!(!if_range_holds(DAY, &current(), DAY_SECONDS + 1), "might have changed twice");
        let weak = Validators { etag: Some(EntityTag { weak: true, opaque: b"now" }), ..current() };
        assert!(!if_range_holds(b"\"now\"", &weak, long_after));
        assert!(!if_range_holds(DAY, &Validators::default(), long_after));
    }

    proptest! {
        #[test]
        fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..80), now in any::<u64>()) {
            let all = Conditions {
                if_match: Some(&value),
                if_none_match: Some(&value),
                if_modified_since: Some(&value),
                if_unmodified_since: Some(&value),
            };
            // Bytes at random are neither `*` nor our tag.
            prop_assume!(value.trim_ascii() != b"*" && !value.windows(5).any(|part| part == b"\"now\""));
            prop_assert_eq!(evaluate("GET", Some(&current()), &all), Decision::PreconditionFailed);
            prop_assert!(!if_range_holds(&value, &current(), now));
        }

        #[test]
        fn a_tag_is_found_anywhere_in_a_list(
            before in proptest::collection::vec("(W/)?\"[!#-~]{0,8}\"", 0..5),
            after in proptest::collection::vec("(W/)?\"[!#-~]{0,8}\"", 0..5),
            separator in "[ \t]{0,2},[ \t,]{0,3}",
        ) {
            let mut members = before;
            members.push("\"now\"".to_owned());
            members.extend(after);
            let list = members.join(&separator);
            prop_assert_eq!(
                evaluate("PUT", Some(&current()), &with_match(list.as_bytes())),
                Decision::Proceed
            );
            prop_assert_eq!(
                evaluate("GET", Some(&current()), &with_none_match(list.as_bytes())),
                Decision::NotModified
            );
        }

        #[test]
        fn a_list_without_the_tag_never_matches(
            members in proptest::collection::vec("(W/)?\"[A-Z]{0,8}\"", 0..8),
        ) {
            let list = members.join(", ");
            prop_assert_eq!(
                evaluate("PUT", Some(&current()), &with_match(list.as_bytes())),
                Decision::PreconditionFailed
            );
            prop_assert_eq!(
                evaluate("GET", Some(&current()), &with_none_match(list.as_bytes())),
                Decision::Proceed
            );
        }
    }
}
