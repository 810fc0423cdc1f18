//! Cache-Control, and the fields that stand in for it (RFC 9111 section 5.2, RFC 9213).

use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::Fields;
use crate::field::list;

/// More seconds than this are this many: it is 68 years (RFC 9111 section 1.2.2).
const SECONDS_MOST: u32 = 1 << 31;

/// A directive that stands alone, or with the names of the fields that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Qualified {
    #[default]
    No,
    /// Only the fields that it names, see [`ResponseControl::named_fields`].
    Fields,
    All,
}

/// What a response says of its caching. Seconds where they are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseControl {
    pub no_store: bool,
    pub no_cache: Qualified,
    pub private: Qualified,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    pub max_age: Option<u32>,
    pub s_maxage: Option<u32>,
    pub stale_while_revalidate: Option<u32>,
    pub stale_if_error: Option<u32>,
    /// It comes from a field that is for gateways, `CDN-Cache-Control` or `Surrogate-Control`;
    /// `Cache-Control` and `Expires` say nothing then.
    pub is_targeted: bool,
}

/// What a request says that counts for a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestControl {
    pub no_store: bool,
    pub only_if_cached: bool,
}

impl ResponseControl {
    #[must_use]
    pub fn of(response: Fields<'_>) -> Self {
        if let Some(control) = cdn_control(response).or_else(|| surrogate_control(response)) {
            return control;
        }
        let mut control = Self::default();
        for (name, value) in response.list("cache-control").filter_map(directive) {
            control.add(name, value);
        }
        control
    }

    /// The names, in any case, of fields that must not be given out again without asking the server: those
    /// that `no-cache` and `private` are about.
    pub fn named_fields<'a>(response: Fields<'a>) -> impl Iterator<Item = &'a [u8]> {
        let named = response
            .list("cache-control")
            .filter_map(directive)
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"no-cache") || name.eq_ignore_ascii_case(b"private"));
        named.filter_map(|(_, value)| value).flat_map(|value| list(unquoted(value)))
    }

    /// A directive, and what stands behind its sign. False: it says nothing about caching.
    fn add(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        if let Some(seconds) = self.seconds_of(name) {
            // What is no number is none: such a response counts as stale (section 4.2.1).
            let parsed = value.and_then(|value| parse_seconds(unquoted(value))).unwrap_or(0);
            least(seconds, parsed);
        } else if name.eq_ignore_ascii_case(b"no-cache") {
            self.no_cache = self.no_cache.or(value);
        } else if name.eq_ignore_ascii_case(b"private") {
            self.private = self.private.or(value);
        } else {
            return self.set_flag(name);
        }
        true
    }

    fn seconds_of(&mut self, name: &[u8]) -> Option<&mut Option<u32>> {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        if is("max-age") {
            Some(&mut self.max_age)
        } else if is("s-maxage") {
            Some(&mut self.s_maxage)
        } else if is("stale-while-revalidate") {
            Some(&mut self.stale_while_revalidate)
        } else if is("stale-if-error") {
            Some(&mut self.stale_if_error)
        } else {
            None
        }
    }

    fn set_flag(&mut self, name: &[u8]) -> bool {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = Qualified::All;
        } else if is("private") {
            self.private = Qualified::All;
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("no-transform") {
            self.no_transform = true;
        } else if is("immutable") {
            self.immutable = true;
        } else {
            return false;
        }
        true
    }
}

impl RequestControl {
    #[must_use]
    pub fn of(request: Fields<'_>) -> Self {
        let mut control = Self::default();
        for (name, _) in request.list("cache-control").filter_map(directive) {
            control.no_store |= name.eq_ignore_ascii_case(b"no-store");
            control.only_if_cached |= name.eq_ignore_ascii_case(b"only-if-cached");
        }
        control
    }
}

impl Qualified {
    /// Twice in one response, the wider one counts.
    fn or(self, value: Option<&[u8]>) -> Self {
        match (self, value) {
            (Self::No | Self::Fields, Some(value)) if list(unquoted(value)).next().is_some() => Self::Fields,
            _ => Self::All,
        }
    }
}

/// Of several the least counts.
fn least(seconds: &mut Option<u32>, more: u32) {
    *seconds = Some(seconds.map_or(more, |before| before.min(more)));
}

/// `delta-seconds` (section 1.2.2).
pub(super) fn parse_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u32, digit: &u8| (sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'))).min(SECONDS_MOST);
    Some(digits.iter().fold(0, add))
}

/// Name and value of one; there is no white space around the sign. `None`: it has no name.
fn directive(element: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (name, value) = match element.iter().position(|&byte| byte == b'=') {
        Some(at) => (&element[..at], Some(&element[at + 1..])),
        None => (element, None),
    };
    crate::field::is_token(name).then_some((name, value))
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// `CDN-Cache-Control`, where it is there and a dictionary of structured fields; what is none is as if it
/// were not there, and so is a member of another type than it should be (RFC 9213 section 2.1).
fn cdn_control(response: Fields<'_>) -> Option<ResponseControl> {
    let dictionary: Dictionary = Parser::new(&response.joined("cdn-cache-control")?).parse().ok()?;
    let mut control = ResponseControl { is_targeted: true, ..ResponseControl::default() };
    for (key, entry) in &dictionary {
        let ListEntry::Item(item) = entry else { continue };
        let name = key.as_str().as_bytes();
        match (&item.bare_item, control.seconds_of(name)) {
            (BareItem::Integer(seconds), Some(slot)) => {
                let seconds = i64::from(*seconds).clamp(0, i64::from(SECONDS_MOST));
                *slot = u32::try_from(seconds).ok();
            }
            (BareItem::Boolean(true), None) => {
                control.set_flag(name);
            }
            _ => {}
        }
    }
    (!dictionary.is_empty()).then_some(control)
}

/// `Surrogate-Control` (Edge Architecture Specification, W3C note of 2001), where it has directives that
/// are for everybody or for us: whom one is for stands behind a semicolon.
fn surrogate_control(response: Fields<'_>) -> Option<ResponseControl> {
    let mut control = ResponseControl { is_targeted: true, ..ResponseControl::default() };
    let mut is_ours = false;
    for element in response.list("surrogate-control") {
        let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let parsed = parts.next().and_then(directive);
        if let Some((name, value)) = parsed
            && parts.all(|target| target.eq_ignore_ascii_case(b"sumun"))
        {
            // `max-age=600+30` is fresh for 600 and may be served stale for 30.
            let seconds = value.map(|value| value.split(|&byte| byte == b'+').next().unwrap_or_default());
            is_ours |= control.add(name, seconds);
        }
    }
    is_ours.then_some(control)
}
