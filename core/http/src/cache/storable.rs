//! What may be kept (RFC 9111 section 3).

use super::directives::{Qualified, RequestControl, ResponseControl};
use super::freshness::{Rules, Validity, is_negative};
use super::{Fields, vary};
use crate::Method;

/// What counts of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub method: Method,
    pub control: RequestControl,
    pub has_authorization: bool,
}

/// Why a response is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstorable {
    /// Only answers to GET are kept.
    Method,
    /// A part, or an answer that is none of its own (1xx, 206, 304).
    Status,
    /// The server says `no-store`.
    NoStore,
    /// The client says `no-store`.
    RequestNoStore,
    Private,
    /// The request had credentials, and the server does not say that others may see the answer.
    Authorization,
    SetCookie,
    /// `Vary: *`.
    VaryAny,
    /// The server says nothing of how long it is good for, nor anything to ask by whether it still is.
    NoLifetime,
    /// It is longer than what is kept. The store says so, not the law.
    Size,
}

impl Unstorable {
    /// A word for logs, metrics and `Cache-Status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::VaryAny => "vary-any",
            Self::NoLifetime => "no-lifetime",
            Self::Size => "size",
        }
    }
}

/// Whether a response may be kept.
///
/// # Errors
/// Why not.
pub fn storable(
    request: &Request,
    status: u16,
    response: Fields<'_>,
    control: &ResponseControl,
    rules: &Rules,
    validity: &Validity,
) -> Result<(), Unstorable> {
    if request.method != Method::Get {
        return Err(Unstorable::Method);
    }
    // RFC 6585: answers 428, 429, 431 and 511 are for one client.
    if status < 200
        || matches!(status, 206 | 304 | 428 | 429 | 431 | 511)
        || (control.must_understand && !is_understood(status))
    {
        return Err(Unstorable::Status);
    }
    // Section 5.2.2.3: who understands the status need not heed a no-store beside must-understand.
    if control.no_store && !control.must_understand {
        return Err(Unstorable::NoStore);
    }
    if request.control.no_store {
        return Err(Unstorable::RequestNoStore);
    }
    if control.private == Qualified::All {
        return Err(Unstorable::Private);
    }
    let is_for_all = control.public || control.must_revalidate || control.s_maxage.is_some();
    if request.has_authorization && !is_for_all {
        return Err(Unstorable::Authorization);
    }
    if response.has("set-cookie") && !rules.stores_set_cookie {
        return Err(Unstorable::SetCookie);
    }
    if vary::is_any(response) {
        return Err(Unstorable::VaryAny);
    }
    let can_be_asked = !is_negative(status) && (response.has("etag") || response.has("last-modified"));
    let is_good_for_a_while = validity.lifetime_s > 0 && !validity.no_cache;
    if !is_good_for_a_while && !can_be_asked {
        return Err(Unstorable::NoLifetime);
    }
    Ok(())
}

/// Status codes that are registered (RFC 9110 section 15 and its extensions), whose meaning for caches is
/// known.
fn is_understood(status: u16) -> bool {
    matches!(status, 200..=205 | 207 | 208 | 226 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 511)
}
