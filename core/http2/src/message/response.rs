//! Responses (RFC 9113 section 8.3.2).

use sumun_http::{Reject, ResponseBody, ResponseHead, Version};

use super::{Body, FieldSet, Section};
use crate::error::Malformed;

/// What was asked, as far as the answer's body hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Head,
    Connect,
    Other,
}

/// Statuses of interim responses end below this.
pub(crate) const FINAL_STATUS: u16 = 200;

impl Section {
    /// Holds the response that was read against the rules, and says its status. `end`: it has no
    /// body.
    ///
    /// # Errors
    /// The stream is reset; nothing of it is handed out.
    pub(crate) fn check_response(&self, end: bool, asked: Asked) -> Result<(u16, Body), Malformed> {
        let status = match self.value(self.pseudos.status) {
            // What did not fit came before the status, which then is a final one for all we know.
            None if self.reject.is_some() => return Ok((FINAL_STATUS, Body { length: None, tunnel: false })),
            None => return Err(Malformed::PseudoMissing),
            Some(&[hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9']) => {
                u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0')
            }
            Some(_) => return Err(Malformed::Status),
        };
        // RFC 9113 section 8.6: there is no upgrade here.
        if status == 101 {
            return Err(Malformed::Status);
        }
        if status < FINAL_STATUS {
            return if end { Err(Malformed::Interim) } else { Ok((status, Body { length: None, tunnel: false })) };
        }
        let tunnel = asked == Asked::Connect && status < 300;
        let length = if tunnel {
            None
        } else if has_no_body(status, asked) {
            Some(0)
        } else {
            self.content_length
        };
        if end && length.is_some_and(|length| length > 0) {
            return Err(Malformed::BodyLength);
        }
        Ok((status, Body { length, tunnel }))
    }

    /// Gives the response to `head` and `bytes`, whose memory is used for the next section.
    ///
    /// # Errors
    /// A head that is too large. It is there as far as it goes.
    pub(crate) fn take_response(
        &mut self,
        head: &mut ResponseHead,
        bytes: &mut Vec<u8>,
        status: u16,
        end: bool,
        asked: Asked,
    ) -> Result<FieldSet, Reject> {
        std::mem::swap(&mut self.text, bytes);
        std::mem::swap(&mut self.fields, &mut head.fields);
        let (fields, mut nominated) = (std::mem::take(&mut head.fields), std::mem::take(&mut head.nominated));
        nominated.clear();
        *head = ResponseHead {
            status,
            version: Version::Http2,
            fields,
            body: match self.content_length {
                _ if end || status < FINAL_STATUS || has_no_body(status, asked) => ResponseBody::None,
                Some(length) if asked != Asked::Connect || status >= 300 => ResponseBody::Length(length),
                _ => ResponseBody::Chunked,
            },
            content_length: self.content_length,
            keep_alive: true,
            nominated,
            present: self.present,
            ..ResponseHead::default()
        };
        match self.reject {
            Some(reject) => Err(reject),
            None => Ok(self.never_indexed),
        }
    }
}

/// RFC 9110 section 6.4.1.
fn has_no_body(status: u16, asked: Asked) -> bool {
    asked == Asked::Head || status == 204 || status == 304
}
