//! From the raw path of a request to the name of a file below the root.
//!
//! The kernel keeps the path inside the root (see `root.rs`); this is about names that are refused
//! whatever they lead to.

use super::limits::PATH_BYTES_MAX;

/// Why a path names no file. All of them are answered 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    BadEscape,
    DotName,
    Separator,
    Control,
    EmptySegment,
    TooLong,
}

impl Refusal {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::BadEscape => "malformed percent-encoding",
            Self::DotName => "a name that begins with a dot",
            Self::Separator => "an encoded slash or a backslash",
            Self::Control => "a control character",
            Self::EmptySegment => "an empty path segment",
            Self::TooLong => "path too long",
        }
    }
}

/// Decodes a path below the root. The result has no slash at either end and is empty for the root
/// itself. A slash at the end of `path` is allowed and says nothing here.
///
/// Each segment is decoded for itself, so that nothing decoded can become a separator.
pub(super) fn decode(path: &str) -> Result<Vec<u8>, Refusal> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut name = Vec::with_capacity(path.len());
    if path.is_empty() {
        return Ok(name);
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    for (index, segment) in path.split('/').enumerate() {
        if segment.is_empty() {
            return Err(Refusal::EmptySegment);
        }
        if index > 0 {
            name.push(b'/');
        }
        let start = name.len();
        decode_segment(segment.as_bytes(), &mut name)?;
        // Covers `.` and `..` as well.
        if name.get(start) == Some(&b'.') {
            return Err(Refusal::DotName);
        }
        if name.len() > PATH_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
    }
    Ok(name)
}

fn decode_segment(segment: &[u8], name: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut rest = segment;
    while let [first, behind @ ..] = rest {
        let byte = if *first == b'%' {
            let [high, low, behind @ ..] = behind else {
                return Err(Refusal::BadEscape);
            };
            rest = behind;
            (hex_digit(*high).ok_or(Refusal::BadEscape)? << 4) | hex_digit(*low).ok_or(Refusal::BadEscape)?
        } else {
            rest = behind;
            *first
        };
        match byte {
            b'/' | b'\\' => return Err(Refusal::Separator),
            0..=0x1f | 0x7f => return Err(Refusal::Control),
            byte => name.push(byte),
        }
    }
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// The last segment of a decoded path.
pub(super) fn last_segment(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// Whether a name matches a pattern with `*` (any run of bytes) and `?` (one byte).
pub(super) fn glob_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    // Where to go on when the run that the last star stands for has to be longer.
    let mut retry = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                retry = Some((at_pattern + 1, at_name));
                at_pattern += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => match retry {
                Some((behind_star, from)) => {
                    retry = Some((behind_star, from + 1));
                    at_pattern = behind_star;
                    at_name = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names() {
        for (path, name) in [
            ("", ""),
            ("/", ""),
            ("a.txt", "a.txt"),
            ("/a.txt", "a.txt"),
            ("/a/b/c.txt", "a/b/c.txt"),
            ("/a/b/", "a/b"),
            ("/%61%2e%74xt", "a.txt"),
            ("/a%20b", "a b"),
            ("/%ED%95%9C.html", "한.html"),
            ("/a..b", "a..b"),
            ("/a%25", "a%"),
            ("/a%252fb", "a%2fb"),
        ] {
            assert_eq!(decode(path).unwrap(), name.as_bytes(), "{path}");
        }
    }

    #[test]
    fn tricks() {
        for (path, refusal) in [
            ("/../etc/passwd", Refusal::DotName),
            ("/a/../b", Refusal::DotName),
            ("/a/..", Refusal::DotName),
            ("/%2e%2e/etc/passwd", Refusal::DotName),
            ("/.%2e/etc/passwd", Refusal::DotName),
            ("/./a", Refusal::DotName),
            ("/.env", Refusal::DotName),
            ("/%2eenv", Refusal::DotName),
            ("/a/.git/config", Refusal::DotName),
            ("/...", Refusal::DotName),
            ("/..%2fetc%2fpasswd", Refusal::Separator),
            ("/a%2fb", Refusal::Separator),
            ("/a%2Fb", Refusal::Separator),
            ("/a%5cb", Refusal::Separator),
            ("/a\\b", Refusal::Separator),
            ("/..\\..\\a", Refusal::Separator),
            ("/..%5c", Refusal::Separator),
            ("/a%00.txt", Refusal::Control),
            ("/a.txt%00", Refusal::Control),
            ("/a%0d%0aSet-Cookie:x", Refusal::Control),
            ("/a%7f", Refusal::Control),
            ("/a\tb", Refusal::Control),
            ("//etc/passwd", Refusal::EmptySegment),
            ("/a//b", Refusal::EmptySegment),
            ("/a//", Refusal::EmptySegment),
            ("//", Refusal::EmptySegment),
            ("/a%", Refusal::BadEscape),
            ("/a%2", Refusal::BadEscape),
            ("/a%zz", Refusal::BadEscape),
            ("/a%u002e", Refusal::BadEscape),
        ] {
            assert_eq!(decode(path), Err(refusal), "{path}");
        }
        assert_eq!(decode(&"a".repeat(5_000)), Err(Refusal::TooLong));
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.css", "a.css", true),
            ("*.css", "a.css.map", false),
            ("app.*.js", "app.3f2a.js", true),
            ("app.*.js", "app.js", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_harmless(path in "[/.%a-f0-9\\\\]{0,24}") {
            if let Ok(name) = decode(&path) {
                prop_assert!(!name.contains(&0) && !name.contains(&b'\\'));
                prop_assert!(!name.starts_with(b"/") && !name.ends_with(b"/"));
                for segment in name.split(|&byte| byte == b'/') {
                    prop_assert!(!segment.starts_with(b"."));
                }
            }
        }

        #[test]
        fn any_plain_name_can_be_asked_for(name in "[^./\\\\\\x00-\\x1f\\x7f][^/\\\\\\x00-\\x1f\\x7f]{0,20}") {
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded).unwrap(), name.as_bytes());
        }

        #[test]
        fn a_glob_of_stars_matches_what_it_was_made_of(
            parts in proptest::collection::vec("[ab]{0,3}", 1..5),
            fill in "[abc]{0,3}",
        ) {
            let pattern = parts.join("*");
            let name = parts.join(&fill);
            prop_assert!(glob_matches(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
