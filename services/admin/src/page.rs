//! The status page: files of the binary, in the language of the browser.

use serde_json::{Map, Value};
use sumun_http::field::list;

use crate::respond::Response;
use crate::serve::Request;

const SKELETON: &str = include_str!("../../../web/index.html");
const SCRIPT: &str = include_str!("../../../web/app.js");
const STYLE: &str = include_str!("../../../web/app.css");
const ENGLISH: &str = include_str!("../../../web/words.en.json");
const KOREAN: &str = include_str!("../../../web/words.ko.json");

/// The page in each language.
#[derive(Debug)]
pub(crate) struct Pages {
    english: String,
    korean: String,
}

impl Pages {
    pub(crate) fn new() -> Self {
        Self { english: fill("en", ENGLISH), korean: fill("ko", KOREAN) }
    }

    pub(crate) fn page(&self, request: &Request<'_>) -> Response {
        let accepted = request.head.values(request.bytes, b"accept-language");
        let page = if prefers_korean(accepted) { &self.korean } else { &self.english };
        Response::new("text/html; charset=utf-8", page.as_str()).with("Vary", "Accept-Language")
    }

    pub(crate) fn script(&self) -> Response {
        Response::new("text/javascript; charset=utf-8", SCRIPT)
    }

    pub(crate) fn style(&self) -> Response {
        Response::new("text/css; charset=utf-8", STYLE)
    }
}

/// Puts the words of a language into the skeleton: each at its `{{name}}`, and all of them, for the
/// script, at `{{words}}`.
fn fill(language: &str, words: &str) -> String {
    let parsed: Map<String, Value> = serde_json::from_str(words).unwrap_or_default();
    let mut page = SKELETON.replace("{{language}}", language).replace("{{words}}", &escape(words.trim()));
    for (name, word) in &parsed {
        page = page.replace(&format!("{{{{{name}}}}}"), &escape(word.as_str().unwrap_or_default()));
    }
    page
}

/// For text and attributes of HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 9110 section 12.5.4: Korean is there with a higher weight than English; of the same weight,
/// the first one counts.
fn prefers_korean<'a>(accepted: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut best: (u16, bool) = (0, false);
    for element in accepted.flat_map(list) {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let primary = range.split(|byte| *byte == b'-').next().unwrap_or_default();
        let is_korean = primary.eq_ignore_ascii_case(b"ko");
        if !is_korean && !primary.eq_ignore_ascii_case(b"en") {
            continue;
        }
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let weight = weight.map_or(Some(1.0), |text| std::str::from_utf8(text).ok()?.parse::<f32>().ok());
        let thousandths = (weight.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u16;
        if thousandths > best.0 {
            best = (thousandths, is_korean);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn languages() {
        let prefers = |value: &str| prefers_korean([value.as_bytes()].into_iter());
        for korean in ["ko", "ko-KR,ko;q=0.9,en-US;q=0.8", "KO", "fr, ko;q=0.1", "en;q=0.5, ko;q=0.6"] {
            assert!(prefers(korean), "{korean}");
        }
        for english in ["", "*", "en-GB,en;q=0.9,ko;q=0.8", "de", "ko;q=0", "kok", "en, ko", "ko;q=x"] {
            assert!(!prefers(english), "{english}");
        }
    }

    #[test]
    fn all_words_are_there_in_both_languages() {
        let names = |words: &str| {
            let words: Map<String, Value> = serde_json::from_str(words).unwrap();
            assert!(words.values().all(|word| word.as_str().is_some_and(|word| !word.is_empty())));
            words.keys().cloned().collect::<BTreeSet<_>>()
        };
        assert_eq!(names(ENGLISH), names(KOREAN));
        let pages = Pages::new();
        for page in [&pages.english, &pages.korean] {
            assert!(!page.contains("{{"), "{page}");
        }
        for word in SCRIPT.split("word(\"").skip(1).filter_map(|rest| rest.split_once('"')) {
            assert!(names(ENGLISH).contains(word.0), "{} has no words", word.0);
        }
    }

    #[test]
    fn the_page_needs_nothing_inline_and_nothing_from_elsewhere() {
        assert!(!SKELETON.contains("style="));
        assert!(!SKELETON.contains("<style"));
        assert!(!SKELETON.contains(" on"), "no event handlers in attributes");
        assert_eq!(SKELETON.matches("<script").count(), SKELETON.matches("<script src=\"/").count());
        // The name of a namespace is not fetched.
        let without_namespace = SCRIPT.replace("http://www.w3.org/2000/svg", "");
        for text in [SKELETON, STYLE, &without_namespace] {
            assert!(!text.contains("http://") && !text.contains("https://"));
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }
}
