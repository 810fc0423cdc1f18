//! Finding the end of a head, byte counts first, meaning later.

use crate::reject::Reject;

/// Where the search for the empty line stands, so that a head that arrives byte by byte is
/// looked at once and not once per byte.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    next: usize,
    line_start: usize,
    first_line_seen: bool,
}

impl HeadScan {
    /// No line has been completed yet.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        !self.first_line_seen
    }

    /// Looks at what came since the last call. `Ok(Some(n))`: the head is `bytes[..n]`, empty line
    /// included. `Ok(None)`: more bytes are needed.
    ///
    /// # Errors
    /// A line that ends in a bare LF (RFC 9112 section 2.2 allows to refuse it), a first line or a
    /// head over its bound.
    pub fn advance(&mut self, bytes: &[u8], line_max: usize, head_max: usize) -> Result<Option<usize>, Reject> {
        while let Some(found) = bytes.get(self.next..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let newline = self.next + found;
            if newline == 0 || bytes[newline - 1] != b'\r' {
                return Err(Reject::ControlCharacter);
            }
            if !self.first_line_seen {
                self.first_line_seen = true;
                // Neither CR nor LF counts.
                if newline > line_max + 1 {
                    return Err(Reject::RequestLineTooLong);
                }
            }
            if newline == self.line_start + 1 {
                return if newline < head_max { Ok(Some(newline + 1)) } else { Err(Reject::HeadTooLarge) };
            }
            self.line_start = newline + 1;
            self.next = newline + 1;
        }
        self.next = bytes.len();
        if !self.first_line_seen && bytes.len() > line_max + 1 {
            return Err(Reject::RequestLineTooLong);
        }
        if bytes.len() >= head_max {
            return Err(Reject::HeadTooLarge);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_in_any_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for split in 0..head.len() {
            let mut scan = HeadScan::default();
            let first = scan.advance(&head[..split], 100, 1000).unwrap();
            let end = first.or_else(|| scan.advance(head, 100, 1000).unwrap());
            assert_eq!(end, Some(head.len() - 4), "split at {split}");
        }
    }

    #[test]
    fn refuses_bare_lf_and_oversize() {
        let mut scan = HeadScan::default();
        assert_eq!(scan.advance(b"GET / HTTP/1.1\nHost: a\r\n\r\n", 100, 1000), Err(Reject::ControlCharacter));
        let mut scan = HeadScan::default();
        assert_eq!(scan.advance(&[b'a'; 102], 100, 1000), Err(Reject::RequestLineTooLong));
        let line_and_cr = [&[b'a'; 100][..], b"\r"].concat();
        assert_eq!(HeadScan::default().advance(&line_and_cr, 100, 1000), Ok(None));
        let line = [&[b'a'; 100][..], b"\r\n"].concat();
        assert_eq!(HeadScan::default().advance(&line, 100, 1000), Ok(None));
        assert_eq!(HeadScan::default().advance(&line, 99, 1000), Err(Reject::RequestLineTooLong));
        let mut scan = HeadScan::default();
        let mut long = b"GET / HTTP/1.1\r\n".to_vec();
        long.resize(1000, b'a');
        assert_eq!(scan.advance(&long, 100, 1000), Err(Reject::HeadTooLarge));
    }
}
