//! Bytes on their way to the socket.

use crate::limits::OUTPUT_DATA_BYTES;

#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// Bytes in front that are written already.
    written: usize,
}

impl Output {
    pub(crate) fn pending(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    pub(crate) fn length(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// How much data may come; frames of control are taken without asking.
    pub(crate) fn room(&self) -> usize {
        OUTPUT_DATA_BYTES.saturating_sub(self.length())
    }

    /// To append frames to.
    #[inline]
    pub(crate) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// So much is written; `kept` bytes of memory stay for what comes next.
    pub(crate) fn consume(&mut self, bytes: usize, kept: usize) {
        self.written = self.written.saturating_add(bytes).min(self.bytes.len());
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(kept);
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            // Each byte is moved once at most for each that was written before it.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_consumed_in_order() {
        let mut output = Output::default();
        output.frames().extend_from_slice(b"0123456789");
        for (bytes, rest) in [(3, "3456789"), (4, "789"), (0, "789"), (2, "9"), (5, "")] {
            output.consume(bytes, 0);
            assert_eq!(output.pending(), rest.as_bytes());
            assert_eq!(output.room(), OUTPUT_DATA_BYTES - rest.len());
        }
        output.frames().extend_from_slice(&vec![0; 2 * OUTPUT_DATA_BYTES]);
        assert_eq!(output.room(), 0);
        output.consume(usize::MAX, 1_000);
        assert!(output.pending().is_empty() && output.frames().capacity() <= 1_000);
    }
}
