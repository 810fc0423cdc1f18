//! Answers, and their form on the wire.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sumun_http::Reject;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// Further fields.
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
}

const JSON: &str = "application/json";

/// The page loads nothing from elsewhere, runs nothing inline, and is framed by nobody.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Response {
    pub(crate) fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, content_type, fields: Vec::new(), body: body.into() }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::new(JSON, format!("{value}\n"))
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::new("text/plain; charset=utf-8", text)
    }

    pub(crate) fn error(status: u16, why: &str) -> Self {
        Self::json(&json!({ "error": why })).with_status(status)
    }

    pub(crate) fn rejected(reject: Reject) -> Self {
        Self::error(reject.status(), &format!("the request was not understood: {}", reject.reason()))
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Head and body; a HEAD gets the head alone (RFC 9110 section 9.3.2).
    pub(crate) fn to_bytes(&self, keep_alive: bool, is_head: bool) -> Vec<u8> {
        let mut date = [b' '; 29];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        sumun_http::date::format(now, &mut date);
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\n",
            self.status,
            reason_phrase(self.status),
            String::from_utf8_lossy(&date)
        );
        let length = self.body.len().to_string();
        let fixed = [
            ("Content-Type", self.content_type),
            ("Content-Length", &length),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", if keep_alive { "keep-alive" } else { "close" }),
        ];
        for (name, value) in fixed.iter().chain(&self.fields) {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Of the statuses that are answered here.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
