//! What a visitor sees who waits: a page of ours in two languages, or the operator's own.
//!
//! A page is text with names in double braces. Those that mean the same for all are filled in once;
//! what is left are the few that differ from visitor to visitor.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HTML: &str = include_str!("page.html");
pub(crate) const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Asked for with each page view; a larger one would cost more than what it announces.
const _: () = assert!(HTML.len() + STYLE.len() + SCRIPT.len() < 9 * 1024);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Korean,
    English,
}

/// What our page says, by name.
type Words = [(&'static str, &'static str); 10];

const KOREAN: Words = [
    ("title", "잠시만 기다려 주세요"),
    ("lead", "지금 찾는 분이 많아 순서대로 들어가고 있습니다."),
    ("place_label", "내 순서"),
    ("place_unit", "번째"),
    ("wait_label", "예상 대기 시간"),
    ("progress_label", "대기 진행률"),
    ("turn", "차례가 되었습니다. 들어갑니다…"),
    ("offline", "연결이 끊겨 다시 시도하고 있습니다."),
    (
        "hint",
        "화면은 저절로 바뀝니다. 차례가 되면 바로 들어갈 수 있도록 이 화면을 열어 두세요. 새로 고쳐도 순서는 그대로입니다.",
    ),
    ("lang", "ko"),
];

const ENGLISH: Words = [
    ("title", "You are in line"),
    ("lead", "Many people are here right now, so everyone is let in one after the other."),
    ("place_label", "Your place"),
    ("place_unit", ""),
    ("wait_label", "Expected wait"),
    ("progress_label", "Progress in the line"),
    ("turn", "It is your turn. Taking you in…"),
    ("offline", "The connection was lost. Trying again."),
    (
        "hint",
        "This page renews by itself. Keep it open, so that you get in when it is your turn. Reloading does not change your place.",
    ),
    ("lang", "en"),
];

impl Language {
    /// By `Accept-Language` (RFC 9110 section 12.5.4); English where neither is preferred.
    pub(crate) fn preferred(accept_language: Option<&[u8]>) -> Self {
        let (mut korean, mut english) = (0_u16, 0_u16);
        for member in accept_language.unwrap_or_default().split(|&byte| byte == b',') {
            let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let tag = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix(b"q=")).map_or(1000, weight);
            match tag.split(|&byte| byte == b'-').next().unwrap_or_default() {
                primary if primary.eq_ignore_ascii_case(b"ko") => korean = korean.max(weight),
                primary if primary.eq_ignore_ascii_case(b"en") => english = english.max(weight),
                _ => {}
            }
        }
        if korean > english { Self::Korean } else { Self::English }
    }

    /// For people, and rounded up.
    pub(crate) fn wait(self, wait_ms: u64) -> String {
        let minutes = wait_ms.div_ceil(60_000);
        let (hours, rest) = (minutes / 60, minutes % 60);
        match (self, hours, minutes) {
            (Self::Korean, _, 0 | 1) => "1분 이내".to_owned(),
            (Self::Korean, 24.., _) => "하루 이상".to_owned(),
            (Self::English, 24.., _) => "more than a day".to_owned(),
            (Self::Korean, 0, _) => format!("약 {minutes}분"),
            (Self::Korean, _, _) if rest == 0 => format!("약 {hours}시간"),
            (Self::Korean, ..) => format!("약 {hours}시간 {rest}분"),
            (Self::English, _, 0 | 1) => "less than a minute".to_owned(),
            (Self::English, 0, _) => format!("about {minutes} minutes"),
            (Self::English, _, _) if rest == 0 => format!("about {hours} h"),
            (Self::English, ..) => format!("about {hours} h {rest} min"),
        }
    }
}

/// A weight in thousandths (RFC 9110 section 12.4.2); 0 for what is none.
fn weight(text: &[u8]) -> u16 {
    let digits = text.iter().filter(|byte| **byte != b'.').take(4);
    let is_number = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let number = digits.clone().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit.saturating_sub(b'0')));
    let missing = 4_u32.saturating_sub(digits.count() as u32);
    if is_number { (number * 10_u16.pow(missing)).min(1000) } else { 0 }
}

/// What differs from visitor to visitor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filling {
    /// 0: the visitor has none.
    pub(crate) place: u64,
    pub(crate) wait_ms: u64,
    pub(crate) ask_again_ms: u64,
}

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    korean: Text,
    /// `None`: there is one text for all.
    english: Option<Text>,
    /// Value of `Content-Security-Policy`; the operator's own page has its own rules.
    pub(crate) policy: Option<String>,
}

/// A text, and what stands behind it.
#[derive(Debug)]
struct Text(Vec<(String, Option<Hole>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    Place,
    Wait,
    Seconds,
    Script,
}

static BUILT_IN: LazyLock<Arc<Page>> = LazyLock::new(|| {
    let text = |words: &Words| {
        let style = HTML.replace("{{style}}", STYLE);
        Text::of(&words.iter().fold(style, |text, (name, word)| text.replace(&format!("{{{{{name}}}}}"), word)))
    };
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'self'",
        hash(STYLE),
        hash(SCRIPT)
    );
    Arc::new(Page { korean: text(&KOREAN), english: Some(text(&ENGLISH)), policy: Some(policy) })
});

impl Page {
    pub(crate) fn built_in() -> Arc<Self> {
        Arc::clone(&BUILT_IN)
    }

    pub(crate) fn own(bytes: &[u8]) -> Self {
        Self { korean: Text::of(&String::from_utf8_lossy(bytes)), english: None, policy: None }
    }

    /// For one visitor.
    pub(crate) fn fill(&self, language: Language, filling: Filling) -> String {
        let text = match (&self.english, language) {
            (Some(english), Language::English) => english,
            _ => &self.korean,
        };
        text.fill(language, filling)
    }
}

impl Text {
    fn of(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut before = String::new();
        let mut rest = text;
        while let Some((literal, behind)) = rest.split_once("{{") {
            before.push_str(literal);
            let hole = behind.split_once("}}").and_then(|(name, behind)| Some((Hole::named(name.trim())?, behind)));
            match hole {
                Some((hole, behind)) => {
                    parts.push((std::mem::take(&mut before), Some(hole)));
                    rest = behind;
                }
                None => {
                    before.push_str("{{");
                    rest = behind;
                }
            }
        }
        parts.push((before + rest, None));
        Self(parts)
    }

    fn fill(&self, language: Language, filling: Filling) -> String {
        let Filling { place, wait_ms, ask_again_ms } = filling;
        let mut filled =
            String::with_capacity(self.0.iter().map(|(text, _)| text.len()).sum::<usize>() + SCRIPT.len() + 256);
        for (text, hole) in &self.0 {
            filled.push_str(text);
            match hole {
                Some(Hole::Place) if place == 0 => filled.push('…'),
                Some(Hole::Place) => filled.push_str(&grouped(place)),
                Some(Hole::Wait) if place == 0 => filled.push('…'),
                Some(Hole::Wait) => filled.push_str(&language.wait(wait_ms)),
                Some(Hole::Seconds) => filled.push_str(&ask_again_ms.div_ceil(1000).to_string()),
                Some(Hole::Script) => {
                    let data = format!("data-place=\"{place}\" data-pause=\"{ask_again_ms}\"");
                    filled.extend(["<script id=\"sumun-room\" ", &data, ">", SCRIPT, "</script>"]);
                }
                None => {}
            }
        }
        filled
    }
}

impl Hole {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "place" => Self::Place,
            "wait" => Self::Wait,
            "seconds" => Self::Seconds,
            "script" => Self::Script,
            _ => return None,
        })
    }
}

/// With a comma at each thousand, as both languages write it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILLING: Filling = Filling { place: 12_345, wait_ms: 61_000, ask_again_ms: 15_400 };

    #[test]
    fn languages() {
        for (field, expected) in [
            ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", Language::Korean),
            ("en-US,en;q=0.9,ko;q=0.8", Language::English),
            ("KO", Language::Korean),
            ("fr, ko;q=0.1", Language::Korean),
            ("en;q=0.3, ko;q=0.31", Language::Korean),
            ("ko;q=0, en;q=0.1", Language::English),
            ("ko;q=x", Language::English),
            ("ja", Language::English),
            ("kok", Language::English),
            ("", Language::English),
        ] {
            assert_eq!(Language::preferred(Some(field.as_bytes())), expected, "{field}");
        }
        assert_eq!(Language::preferred(None), Language::English);
        assert_eq!(
            [0, 60_000, 60_001, 3_600_000, 5_400_000].map(|ms| Language::English.wait(ms)),
            ["less than a minute", "less than a minute", "about 2 minutes", "about 1 h", "about 1 h 30 min"]
        );
        assert_eq!(
            [1, 120_000, 7_200_000, 5_400_000].map(|ms| Language::Korean.wait(ms)),
            ["1분 이내", "약 2분", "약 2시간", "약 1시간 30분"]
        );
    }

    #[test]
    fn a_wait_of_days_is_not_told_to_the_minute() {
        let days_ms = 5 * 24 * 3_600_000 + 61_000;
        assert_eq!(Language::English.wait(days_ms), "more than a day");
        assert_eq!(Language::Korean.wait(days_ms), "하루 이상");
    }

    #[test]
    fn our_page_is_whole_and_small() {
        for (language, words) in [(Language::Korean, KOREAN), (Language::English, ENGLISH)] {
            let text = Page::built_in().fill(language, FILLING);
            assert!(text.len() < 10 * 1024, "{} bytes", text.len());
            assert!(!text.contains("{{"), "{text}");
            assert!(words.iter().all(|(_, word)| text.contains(word)));
            assert!(
                text.contains("12,345") && text.contains("content=\"16\"") && text.contains("data-pause=\"15400\"")
            );
            assert!(text.contains(&language.wait(61_000)));
            assert!(!text.contains("http://") && !text.contains("https://"), "nothing from elsewhere");
            // The path of `//elsewhere/` alone would be a URL of another host.
            assert!(text.contains("url = location.origin + location.pathname + location.search,"));
            let style = text.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
            let policy = Page::built_in().policy.clone().unwrap();
            assert!(policy.contains(&STANDARD.encode(digest(&SHA256, style.as_bytes()))));
        }
    }

    #[test]
    fn a_page_of_ones_own() {
        let own = Page::own("<b>{{place}}</b> {{ wait }} {{other}} {{ {{seconds}} {{script".as_bytes());
        let text = own.fill(Language::Korean, FILLING);
        assert_eq!(text, "<b>12,345</b> 약 2분 {{other}} {{ 16 {{script");
        assert!(own.policy.is_none());
        let text = Page::own(b"{{script}}").fill(Language::English, Filling { place: 0, ..FILLING });
        assert!(text.starts_with("<script id=\"sumun-room\" data-place=\"0\"") && text.ends_with("</script>"));
        assert_eq!(Page::own(b"\xff").fill(Language::English, FILLING), "\u{fffd}");
    }
}
