//! What others say, made fit to be shown: in the log, on a terminal, on the status page.

use crate::limits::CHECK_WORDS;

/// The beginning of a text, without characters that control what shows it.
pub(crate) fn of(bytes: &[u8]) -> String {
    // A character has four bytes at most, and what is no text becomes one for each byte at most.
    let beginning = bytes.get(..CHECK_WORDS * 4).unwrap_or(bytes);
    let text = String::from_utf8_lossy(beginning);
    let text = text.trim_matches(|one: char| one.is_whitespace() || !shows_itself(one));
    let mut characters = text.chars().map(|one| if shows_itself(one) { one } else { ' ' });
    let mut words: String = characters.by_ref().take(CHECK_WORDS).collect();
    if characters.next().is_some() || beginning.len() < bytes.len() {
        words.push('…');
    }
    words
}

/// No control character, and none of those that change the direction of what follows (UAX 9).
fn shows_itself(character: char) -> bool {
    !(character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short_and_harmless() {
        assert_eq!(of(b" 550 no\r\n"), "550 no");
        assert_eq!(of(b"\x1b\0 \n"), "");
        assert_eq!(of(b"a\x1b[31m\0b\xff"), "a [31m b\u{fffd}");
        assert_eq!(of("닫힘\u{202e}x".as_bytes()), "닫힘 x");
        assert_eq!(of(&[b'a'; CHECK_WORDS]), "a".repeat(CHECK_WORDS));
        let long = "수".repeat(CHECK_WORDS * 10);
        assert_eq!(of(long.as_bytes()), format!("{}…", "수".repeat(CHECK_WORDS)));
        assert_eq!(of(&[0xff; 100_000]).chars().count(), CHECK_WORDS + 1);
        assert_eq!(of(b""), "");
    }
}
