//! The head of a response while its bytes arrive.

use crate::limits::INTERIM_RESPONSES_MAX;
use crate::reject::Reject;
use crate::request::Method;
use crate::response::ResponseHead;
use crate::scan::HeadScan;

/// Takes in what a server answers to one request, up to the head of the final response. Nearly
/// every head is here in full at the first look, which costs one parse; one that comes in pieces
/// is scanned for its end as it grows, and parsed once that has come.
#[derive(Debug, Default)]
pub struct ResponseReceiver {
    /// Where the search for the end stands, once a first look has not found it.
    scan: Option<HeadScan>,
    interim: u32,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The end of the head is still to come.
    Partial,
    /// A 1xx in so many bytes; the head of another response follows them (RFC 9110 section 15.2).
    Interim(usize),
    /// The final response, or a 101, behind which there is no HTTP any more; its head is in so many bytes.
    Final(usize),
}

impl ResponseReceiver {
    /// Looks at `bytes`, which begin with a head. Behind `Partial` they have to be the same ones
    /// and more; behind `Interim`, those that follow it. `head` holds the response of an `Interim`
    /// or `Final`. `method` is the request's, `head_max` the bound on each head in bytes.
    ///
    /// # Errors
    /// What a server must not send, a head over its bound, and more than `INTERIM_RESPONSES_MAX`
    /// interim responses.
    pub fn receive(
        &mut self,
        head: &mut ResponseHead,
        bytes: &[u8],
        method: Method,
        head_max: usize,
    ) -> Result<Received, Reject> {
        if bytes.is_empty() {
            return Ok(Received::Partial);
        }
        if let Some(scan) = &mut self.scan
            && scan.advance(bytes, head_max, head_max)?.is_none()
        {
            return Ok(Received::Partial);
        }
        let Some(length) = head.parse(bytes, method)? else {
            // It may break the bound already.
            self.scan.insert(HeadScan::default()).advance(bytes, head_max, head_max)?;
            return Ok(Received::Partial);
        };
        if length > head_max {
            return Err(Reject::HeadTooLarge);
        }
        self.scan = None;
        if head.status >= 200 || head.status == 101 {
            return Ok(Received::Final(length));
        }
        self.interim += 1;
        if self.interim > INTERIM_RESPONSES_MAX { Err(Reject::InterimResponses) } else { Ok(Received::Interim(length)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_MAX: usize = 60;

    /// Status and length of each head, and what became of the last, when `stream` arrives in two pieces.
    fn received(stream: &[u8], split: usize) -> (Vec<(u16, usize)>, Result<Received, Reject>) {
        let (mut receiver, mut head) = (ResponseReceiver::default(), ResponseHead::default());
        let (mut heads, mut at) = (Vec::new(), 0);
        for here in [split, stream.len()] {
            loop {
                match receiver.receive(&mut head, &stream[at..here], Method::Get, HEAD_MAX) {
                    Ok(Received::Partial) if here < stream.len() => break,
                    Ok(Received::Interim(length)) => {
                        heads.push((head.status, length));
                        at += length;
                    }
                    Ok(Received::Final(length)) => {
                        heads.push((head.status, length));
                        return (heads, Ok(Received::Final(length)));
                    }
                    end => return (heads, end),
                }
            }
        }
        unreachable!("the whole stream was looked at")
    }

    fn in_any_split(stream: &[u8]) -> (Vec<(u16, usize)>, Result<Received, Reject>) {
        let whole = received(stream, stream.len());
        for split in 0..stream.len() {
            assert_eq!(received(stream, split), whole, "split at {split}: {:?}", String::from_utf8_lossy(stream));
        }
        whole
    }

    #[test]
    fn heads_in_any_split() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let (heads, _) =
            in_any_split(format!("{hints}HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nbody").as_bytes());
        assert_eq!(heads, [(103, hints.len()), (100, 17), (200, 25)]);
        // Behind a 101 there is no other head.
        let (heads, _) = in_any_split(b"HTTP/1.1 101 X\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(heads, [(101, 18)]);
        assert_eq!(in_any_split(b"HTTP/1.1 200 OK\r\nA: b\r\n"), (vec![], Ok(Received::Partial)));
    }

    #[test]
    fn bounds_in_any_split() {
        let of_length = |length: usize| {
            let empty = "HTTP/1.1 200 OK\r\nA: \r\n\r\n";
            empty.replace("A: ", &format!("A: {}", "x".repeat(length - empty.len())))
        };
        assert_eq!(in_any_split(of_length(HEAD_MAX).as_bytes()).0, [(200, HEAD_MAX)]);
        for length in [HEAD_MAX + 1, 2 * HEAD_MAX] {
            assert_eq!(in_any_split(of_length(length).as_bytes()), (vec![], Err(Reject::HeadTooLarge)));
        }
        let hints = "HTTP/1.1 103 X\r\n\r\n";
        let most = hints.repeat(INTERIM_RESPONSES_MAX as usize);
        let answer = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(in_any_split(format!("{most}{answer}").as_bytes()).1, Ok(Received::Final(answer.len())));
        assert_eq!(in_any_split(format!("{most}{hints}{answer}").as_bytes()).1, Err(Reject::InterimResponses));
        assert_eq!(in_any_split(b"SSH-2.0-x\r\n\r\n").1, Err(Reject::StatusLine));
    }
}
