//! What the client would rather have (RFC 9110 section 12.5): a content coding, a form of error page.

/// A content coding (RFC 9110 section 8.4.1; `br` is RFC 7932, `zstd` RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    Br,
    Zstd,
    Gzip,
    Identity,
}

/// The codings that a client accepts, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodingOrder {
    codings: [Coding; Coding::ALL.len()],
    count: usize,
}

/// The form of a page that the gateway makes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageForm {
    Html,
    Json,
}

/// A weight of 1 (section 12.4.2); weights are whole thousandths.
const FULL_WEIGHT: u16 = 1_000;

impl Coding {
    /// Our own order where the client has none: the smallest result first.
    pub const ALL: [Self; 4] = [Self::Br, Self::Zstd, Self::Gzip, Self::Identity];

    /// Its name in `Content-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Identity => "identity",
        }
    }

    /// Its place in [`Coding::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl CodingOrder {
    const IDENTITY: Self = Self { codings: [Coding::Identity; 4], count: 1 };

    /// Best first. May be empty: the client wants none of those we know, and not even identity.
    pub fn iter(&self) -> impl Iterator<Item = Coding> + '_ {
        self.codings.iter().take(self.count).copied()
    }
}

/// Reads `Accept-Encoding` (section 12.5.3): the client's weight decides, then [`Coding::ALL`].
///
/// Without the field the client accepts anything, and is sent identity all the same: only very old
/// clients leave it out. Members that break the grammar are ignored.
#[must_use]
pub fn codings(accept_encoding: Option<&[u8]>) -> CodingOrder {
    let Some(accept_encoding) = accept_encoding else {
        return CodingOrder::IDENTITY;
    };
    let mut weights: [Option<u16>; 4] = [None; 4];
    let mut others = None;
    for member in accept_encoding.split(|&byte| byte == b',') {
        let Some((name, weight)) = weighted(member) else {
            continue;
        };
        let slot = match name.len() {
            1 if name == b"*" => &mut others,
            2 if name.eq_ignore_ascii_case(b"br") => &mut weights[Coding::Br.index()],
            4 if name.eq_ignore_ascii_case(b"gzip") => &mut weights[Coding::Gzip.index()],
            4 if name.eq_ignore_ascii_case(b"zstd") => &mut weights[Coding::Zstd.index()],
            // Section 8.4.1.3: an old name of the same coding.
            6 if name.eq_ignore_ascii_case(b"x-gzip") => &mut weights[Coding::Gzip.index()],
            8 if name.eq_ignore_ascii_case(b"identity") => &mut weights[Coding::Identity.index()],
            _ => continue,
        };
        *slot = Some(slot.unwrap_or(0).max(weight));
    }
    let mut ranked = [(0_u16, Coding::Identity); 4];
    let mut count = 0;
    for coding in Coding::ALL {
        let weight = match weights[coding.index()].or(others) {
            Some(0) => continue,
            Some(weight) => weight,
            // Not excluded, so acceptable, and behind all that was named.
            None if coding == Coding::Identity => 0,
            None => continue,
        };
        ranked[count] = (weight, coding);
        count += 1;
    }
    // A stable sort keeps our order among equal weights.
    ranked[..count].sort_by_key(|&(weight, _)| std::cmp::Reverse(weight));
    CodingOrder { codings: ranked.map(|(_, coding)| coding), count }
}

/// Reads `Accept` for an error page (section 12.5.1): HTML unless JSON has the greater weight.
#[must_use]
pub fn page_form(accept: Option<&[u8]>) -> PageForm {
    let Some(accept) = accept else {
        return PageForm::Html;
    };
    let mut html = Preference::default();
    let mut json = Preference::default();
    for member in accept.split(|&byte| byte == b',') {
        let Some((range, weight)) = weighted(member) else {
            continue;
        };
        let is = |name: &[u8]| range.eq_ignore_ascii_case(name);
        if is(b"text/html") || is(b"application/xhtml+xml") {
            html.meet(3, weight);
        } else if is(b"text/*") {
            html.meet(2, weight);
        } else if is(b"application/json") || is(b"application/problem+json") {
            json.meet(3, weight);
        } else if is(b"application/*") {
            json.meet(2, weight);
        } else if is(b"*/*") {
            html.meet(1, weight);
            json.meet(1, weight);
        }
    }
    if json.weight > html.weight { PageForm::Json } else { PageForm::Html }
}

/// The weight of a media type; the most specific range that names it decides.
#[derive(Default)]
struct Preference {
    specificity: u8,
    weight: u16,
}

impl Preference {
    fn meet(&mut self, specificity: u8, weight: u16) {
        if specificity > self.specificity {
            *self = Self { specificity, weight };
        } else if specificity == self.specificity {
            self.weight = self.weight.max(weight);
        }
    }
}

/// A list member's name without its parameters, and its weight. `None` where the weight is malformed.
fn weighted(member: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = member.split(|&byte| byte == b';');
    let name = parts.next()?.trim_ascii();
    let mut weight = FULL_WEIGHT;
    for parameter in parts {
        if let [b'q' | b'Q', b'=', value @ ..] = parameter.trim_ascii() {
            weight = parse_weight(value)?;
        }
    }
    Some((name, weight))
}

/// `qvalue` of section 12.4.2, in thousandths.
fn parse_weight(value: &[u8]) -> Option<u16> {
    let (whole, decimals) = match value {
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        [whole] => (whole, &[][..]),
        _ => return None,
    };
    let mut weight = 0;
    for place in 0..3 {
        let digit = match decimals.get(place) {
            Some(digit) if digit.is_ascii_digit() => u16::from(digit - b'0'),
            Some(_) => return None,
            None => 0,
        };
        weight = weight * 10 + digit;
    }
    match (whole, weight) {
        (b'0', weight) => Some(weight),
        (b'1', 0) => Some(FULL_WEIGHT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Coding::{Br, Gzip, Identity, Zstd};
    use super::*;
    use proptest::prelude::*;

    fn order(accept_encoding: &str) -> Vec<Coding> {
        codings(Some(accept_encoding.as_bytes())).iter().collect()
    }

    #[test]
    fn codings_by_weight_then_by_our_order() {
        assert_eq!(codings(None).iter().collect::<Vec<_>>(), [Identity]);
        for (value, expected) in [
            ("", &[Identity][..]),
            ("gzip, deflate, br, zstd", &[Br, Zstd, Gzip, Identity]),
            ("gzip;q=1.0, br;q=0.8, *;q=0.1", &[Gzip, Br, Zstd, Identity]),
            ("x-gzip", &[Gzip, Identity]),
            ("GZIP;Q=0.5", &[Gzip, Identity]),
            ("*", &[Br, Zstd, Gzip, Identity]),
            ("*;q=0", &[]),
            ("identity;q=0", &[]),
            ("gzip, *;q=0", &[Gzip]),
            ("gzip, identity;q=0", &[Gzip]),
            ("br;q=0, *", &[Zstd, Gzip, Identity]),
            ("identity;q=0.5, gzip;q=0.1, br;q=0.7", &[Br, Identity, Gzip]),
            ("identity, br;q=0.999", &[Identity, Br]),
            ("compress, deflate", &[Identity]),
            ("gzip;q=nine, br;q=1.001, zstd;q=0.0001", &[Identity]),
            ("gzip ; q=0.2 ,\tbr ; q=0.1,,", &[Gzip, Br, Identity]),
            ("gzip;q=0, gzip;q=0.3", &[Gzip, Identity]),
            ("br;q=0.", &[Identity]),
            ("br;q=1.", &[Br, Identity]),
        ] {
            assert_eq!(order(value), expected, "{value}");
        }
    }

    #[test]
    fn pages() {
        for (value, expected) in [
            ("*/*", PageForm::Html),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", PageForm::Html),
            ("application/json", PageForm::Json),
            ("application/problem+json", PageForm::Json),
            ("application/json, text/plain, */*", PageForm::Html),
            ("application/json, */*;q=0.5", PageForm::Json),
            ("application/json;q=0.5, text/html", PageForm::Html),
            ("text/html;q=0.4, application/*;q=0.5", PageForm::Json),
            ("text/*, application/json;q=0.9", PageForm::Html),
            ("application/json;q=0, */*", PageForm::Html),
            ("text/html;q=0, */*", PageForm::Json),
            ("image/png", PageForm::Html),
            ("", PageForm::Html),
            ("application/json;charset=utf-8", PageForm::Json),
        ] {
            assert_eq!(page_form(Some(value.as_bytes())), expected, "{value}");
        }
        assert_eq!(page_form(None), PageForm::Html);
    }

    proptest! {
        #[test]
        fn no_input_panics_and_no_coding_comes_twice(
            value in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let names_json = value.windows(4).any(|part| part.eq_ignore_ascii_case(b"json"))
                || value.windows(2).any(|part| part == b"/*");
            prop_assert!(names_json || page_form(Some(&value)) == PageForm::Html);
            let order: Vec<Coding> = codings(Some(&value)).iter().collect();
            for (index, coding) in order.iter().enumerate() {
                prop_assert!(!order[..index].contains(coding));
            }
        }

        #[test]
        fn a_weight_of_zero_is_never_taken(
            weights in proptest::collection::vec(0_u16..=1_000, 4),
        ) {
            let members: Vec<String> = Coding::ALL.iter().zip(&weights)
                .map(|(coding, weight)| {
                    format!("{};q={}.{:03}", coding.name(), weight / 1_000, weight % 1_000)
                })
                .collect();
            let order = order(&members.join(", "));
            prop_assert_eq!(order.len(), weights.iter().filter(|&&weight| weight > 0).count());
            for pair in order.windows(2) {
                prop_assert!(weights[pair[0].index()] >= weights[pair[1].index()]);
            }
        }
    }
}
