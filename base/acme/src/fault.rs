//! Why an order did not come to its end, and whose doing that was.

use std::fmt;

use instant_acme::{Error, Problem};

use crate::fetch::{Line, Unreached};
use crate::limits::REASON_BYTES;
use crate::schedule::Failed;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The authority is not to be reached, or not as the one that it should be.
    Unreached,
    /// The authority is not able to, or says what makes no sense.
    Authority,
    /// The authority has had enough of us for a while.
    Limited,
    /// The authority came, and did not find what it looked for.
    Validation,
    /// The authority does not want to, with this config.
    Config,
    /// Our own.
    Host,
}

impl Side {
    pub(crate) const ALL: [Self; 6] =
        [Self::Unreached, Self::Authority, Self::Limited, Self::Validation, Self::Config, Self::Host];

    /// For metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unreached => "unreached",
            Self::Authority => "authority",
            Self::Limited => "rate_limited",
            Self::Validation => "validation",
            Self::Config => "config",
            Self::Host => "host",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) side: Side,
    pub(crate) text: String,
    /// Seconds, where the authority asked for it.
    pub(crate) retry_after: Option<u64>,
}

impl Fault {
    pub(crate) fn new(side: Side, text: impl fmt::Display) -> Self {
        Self { side, text: cleaned(&text.to_string()), retry_after: None }
    }

    /// Of what the library says; `line` is what it was said over.
    pub(crate) fn of(error: &Error, line: &Line) -> Self {
        let fault = match error {
            Error::Api(problem) => Self::new(side_of(problem), format_args!("the authority says: {}", words(problem))),
            Error::Other(inner) if inner.is::<Unreached>() => {
                Self::new(Side::Unreached, format_args!("the authority cannot be asked: {inner}"))
            }
            Error::Crypto | Error::KeyRejected => {
                Self::new(Side::Host, format_args!("the account's key cannot be used: {error}"))
            }
            Error::Json(error) => {
                Self::new(Side::Authority, format_args!("the authority's answer makes no sense: {error}"))
            }
            other => Self::new(Side::Authority, format_args!("the authority's answer makes no sense: {other}")),
        };
        Self { retry_after: line.retry_after(), ..fault }
    }

    /// The same, in other words.
    pub(crate) fn worded(self, text: String) -> Self {
        Self { text: cleaned(&text), ..self }
    }

    /// What the pause before the next try depends on.
    pub(crate) fn how(&self) -> Failed {
        match self.side {
            Side::Unreached => Failed::Unreached,
            _ => Failed::Refused,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// What stands behind the last colon of a problem's type (RFC 8555 section 6.7).
pub(crate) fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind)
}

/// The authority knows no such account, or lets it do nothing any more.
pub(crate) fn is_lost_account(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if matches!(kind(problem), "accountDoesNotExist" | "unauthorized"))
}

fn side_of(problem: &Problem) -> Side {
    match kind(problem) {
        "rateLimited" => Side::Limited,
        "connection" | "dns" | "tls" | "caa" | "incorrectResponse" | "unauthorized" => Side::Validation,
        "accountDoesNotExist"
        | "externalAccountRequired"
        | "invalidContact"
        | "unsupportedContact"
        | "userActionRequired"
        | "rejectedIdentifier"
        | "unsupportedIdentifier"
        | "badCSR"
        | "malformed" => Side::Config,
        _ => Side::Authority,
    }
}

/// The details, then the kind in brackets; of several names each with its own.
pub(crate) fn words(problem: &Problem) -> String {
    let detail = problem.detail.as_deref().unwrap_or("no reason");
    let mut text = format!("{detail} ({})", kind(problem));
    for sub in &problem.subproblems {
        let name = sub.identifier.as_ref().map(|name| name.authorized(false).to_string()).unwrap_or_default();
        text.push_str(&format!("; {name}: {}", sub.detail.as_deref().unwrap_or("no reason")));
    }
    text
}

/// Others wrote it: no control characters, and an end.
fn cleaned(text: &str) -> String {
    let plain: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    plain.get(..plain.floor_char_boundary(REASON_BYTES)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str) -> Problem {
        let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"because"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn problems_have_a_side() {
        for (kind, side) in [
            ("rateLimited", Side::Limited),
            ("connection", Side::Validation),
            ("rejectedIdentifier", Side::Config),
            ("serverInternal", Side::Authority),
            ("neverHeardOf", Side::Authority),
        ] {
            assert_eq!(side_of(&problem(kind)), side, "{kind}");
        }
        assert!(is_lost_account(&Error::Api(problem("accountDoesNotExist"))));
        assert!(!is_lost_account(&Error::Api(problem("rateLimited"))));
        assert_eq!(words(&problem("dns")), "because (dns)");
        assert_eq!(words(&serde_json::from_str("{}").unwrap()), "no reason ()");
    }

    #[test]
    fn what_others_wrote_has_an_end_and_no_lines() {
        let fault = Fault::new(Side::Authority, format!("a\r\nb\u{1b}[31m{}", "é".repeat(REASON_BYTES)));
        assert!(fault.text.starts_with("a  b [31mé") && fault.text.len() <= REASON_BYTES);
    }
}
