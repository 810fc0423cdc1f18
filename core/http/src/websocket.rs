//! Where the frames of a WebSocket begin and end (RFC 6455 section 5.2): for who passes them on
//! unread, and has one frame of its own to say.
//!
//! Control frames may stand between the fragments of a message (section 5.4), so the end of any frame
//! is a place for one. What the bytes mean otherwise is nobody's business here; bytes that are no
//! frames at all have boundaries of no meaning, and nothing worse.

/// The endpoint is going away (section 7.4.1).
pub const GOING_AWAY: u16 = 1001;

/// The longest header of a frame: two bytes, a length of eight, a mask of four.
const HEADER_BYTES: usize = 14;

const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// Follows one direction from its first byte on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frames {
    /// Of the header that is not whole yet.
    header: [u8; HEADER_BYTES],
    held: usize,
    /// What is left of the payload.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// The next bytes of this direction went by.
    pub fn advance(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest);
        }
    }

    /// A frame has ended, and none has begun behind it.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.held == 0 && self.payload == 0
    }

    /// A Close frame has begun: nothing may follow it (section 5.5.1).
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many of the next bytes belong to the frame that has begun; none where none has.
    #[must_use]
    pub fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut rest = bytes;
        while !ahead.is_between() && !rest.is_empty() {
            rest = ahead.step(rest);
        }
        bytes.len() - rest.len()
    }

    /// Takes some of `bytes`, of one frame at most, and gives those that are left.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.payload > 0 {
            let taken = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= taken as u64;
            return bytes.get(taken..).unwrap_or_default();
        }
        let Some((byte, rest)) = bytes.split_first() else { return bytes };
        if let Some(place) = self.header.get_mut(self.held) {
            *place = *byte;
        }
        self.held += 1;
        if self.held >= 2 && self.held == self.header_length() {
            self.closed |= self.header[0] & OPCODE == CLOSE;
            self.payload = self.payload_length();
            self.held = 0;
        }
        rest
    }

    /// Of the header whose first two bytes are here.
    const fn header_length(&self) -> usize {
        let [_, second, ..] = self.header;
        let length = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    /// Of a header that is whole.
    const fn payload_length(&self) -> u64 {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.header;
        match second & LENGTH {
            126 => u16::from_be_bytes([a, b]) as u64,
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            length => length as u64,
        }
    }
}

/// A Close frame with this status code; what goes to a server is masked (section 5.3).
#[must_use]
pub fn close_frame(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    match mask {
        None => vec![FINAL | CLOSE, 2, high, low],
        Some([a, b, c, d]) => vec![FINAL | CLOSE, MASKED | 2, a, b, c, d, high ^ a, low ^ b],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, mask: bool) -> Vec<u8> {
        let bit = if mask { MASKED } else { 0 };
        let mut bytes = vec![FINAL | opcode];
        match length {
            0..=125 => bytes.push(bit | length as u8),
            126..=65535 => {
                bytes.push(bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if mask {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.resize(bytes.len() + length, 0x88);
        bytes
    }

    proptest! {
        #[test]
        fn boundaries_are_where_the_frames_end_however_they_are_cut(
            frames in proptest::collection::vec((0..3_u8, prop_oneof![0..200_usize, 65_000..66_000_usize], any::<bool>()), 1..5),
            cut in 1..300_usize,
        ) {
            let mut ends = std::collections::BTreeSet::from([0]);
            let mut bytes = Vec::new();
            for (opcode, length, mask) in frames {
                bytes.extend(frame(opcode, length, mask));
                ends.insert(bytes.len());
            }
            let mut scan = Frames::default();
            let mut seen = 0;
            for piece in bytes.chunks(cut) {
                let next = ends.range(seen..).next().copied().unwrap_or(seen);
                prop_assert_eq!(scan.rest_of_frame(piece), (next - seen).min(piece.len()));
                scan.advance(piece);
                seen += piece.len();
                prop_assert_eq!(scan.is_between(), ends.contains(&seen));
            }
            prop_assert!(scan.is_between() && !scan.is_closed());
        }

        #[test]
        fn no_bytes_hurt(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut scan = Frames::default();
            for piece in pieces {
                prop_assert!(scan.rest_of_frame(&piece) <= piece.len());
                scan.advance(&piece);
            }
        }
    }

    #[test]
    fn a_close_frame_is_one_and_is_seen() {
        assert_eq!(close_frame(GOING_AWAY, None), [0x88, 2, 0x03, 0xe9]);
        let masked = close_frame(GOING_AWAY, Some([0x10, 0x20, 0x30, 0x40]));
        assert_eq!(masked, [0x88, 0x82, 0x10, 0x20, 0x30, 0x40, 0x13, 0xc9]);
        for frame in [close_frame(GOING_AWAY, None), masked] {
            let mut scan = Frames::default();
            scan.advance(&frame);
            assert!(scan.is_closed() && scan.is_between());
        }
    }

    #[test]
    fn the_longest_length_is_waited_for_and_not_counted_out() {
        let mut scan = Frames::default();
        scan.advance(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 7, 7, 7]);
        assert!(!scan.is_between());
        assert_eq!(scan.payload, u64::MAX - 3);
    }
}
