//! Frames as bytes (RFC 9113 sections 4 and 6).

use crate::error::ErrorCode;
use crate::event::StreamId;

pub(crate) const HEADER_BYTES: usize = 9;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
    /// RFC 9218 section 7.1.
    pub(crate) const PRIORITY_UPDATE: u8 = 0x10;
}

pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(crate) const ENABLE_PUSH: u16 = 0x2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    /// RFC 8441 section 3.
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
    /// RFC 9218 section 2.1.
    pub(crate) const NO_RFC7540_PRIORITIES: u16 = 0x9;
}

/// The reserved bit in front of stream identifiers and increments.
pub(crate) const IDENTIFIER_MASK: u32 = 0x7fff_ffff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Of the payload, bytes.
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: StreamId,
}

impl FrameHeader {
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & IDENTIFIER_MASK,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let [_, l0, l1, l2] = (self.length as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }
}

/// Appends a frame header; `length` bytes of payload follow.
#[inline]
pub(crate) fn begin(output: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: StreamId) {
    output.extend_from_slice(&FrameHeader { length, kind, flags, stream }.bytes());
}

/// Writes a frame header over what stands at `at`.
#[inline]
pub(crate) fn patch(output: &mut [u8], at: usize, length: usize, kind: u8, flags: u8, stream: StreamId) {
    if let Some(place) = output.get_mut(at..at + HEADER_BYTES) {
        place.copy_from_slice(&FrameHeader { length, kind, flags, stream }.bytes());
    }
}

pub(crate) fn settings(output: &mut Vec<u8>, parameters: &[(u16, u32)]) {
    begin(output, parameters.len() * 6, kind::SETTINGS, 0, 0);
    for (identifier, value) in parameters {
        output.extend_from_slice(&identifier.to_be_bytes());
        output.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn settings_ack(output: &mut Vec<u8>) {
    begin(output, 0, kind::SETTINGS, flag::ACK, 0);
}

pub(crate) fn ping(output: &mut Vec<u8>, flags: u8, opaque: [u8; 8]) {
    begin(output, 8, kind::PING, flags, 0);
    output.extend_from_slice(&opaque);
}

pub(crate) fn reset(output: &mut Vec<u8>, stream: StreamId, code: ErrorCode) {
    begin(output, 4, kind::RST_STREAM, 0, stream);
    output.extend_from_slice(&code.0.to_be_bytes());
}

/// `stream` 0 is the connection.
pub(crate) fn window_update(output: &mut Vec<u8>, stream: StreamId, increment: u32) {
    begin(output, 4, kind::WINDOW_UPDATE, 0, stream);
    output.extend_from_slice(&increment.to_be_bytes());
}

pub(crate) fn go_away(output: &mut Vec<u8>, last_stream: StreamId, code: ErrorCode, text: &str) {
    begin(output, 8 + text.len(), kind::GOAWAY, 0, 0);
    output.extend_from_slice(&last_stream.to_be_bytes());
    output.extend_from_slice(&code.0.to_be_bytes());
    output.extend_from_slice(text.as_bytes());
}

/// The 32 bits at the start of a payload.
pub(crate) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Identifiers and values of a SETTINGS payload, whose length was checked.
pub(crate) fn parameters(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks::<6>()
        .0
        .iter()
        .map(|&[i0, i1, v0, v1, v2, v3]| (u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_there_and_back() {
        let header = FrameHeader { length: 0x01_02_03, kind: 9, flags: 0x29, stream: 0x7fff_fffe };
        assert_eq!(header.bytes(), [1, 2, 3, 9, 0x29, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(FrameHeader::parse(header.bytes()), header);
        // The reserved bit is ignored (RFC 9113 section 4.1).
        assert_eq!(FrameHeader::parse([1, 2, 3, 9, 0x29, 0xff, 0xff, 0xff, 0xfe]), header);
        assert!(header.has(flag::PRIORITY) && header.has(flag::PADDED) && !header.has(flag::END_HEADERS));
    }

    #[test]
    fn frames() {
        let mut output = Vec::new();
        settings(&mut output, &[(setting::MAX_FRAME_SIZE, 0x01_02_03_04)]);
        ping(&mut output, flag::ACK, *b"12345678");
        window_update(&mut output, 3, 5);
        reset(&mut output, 3, ErrorCode::CANCEL);
        go_away(&mut output, 7, ErrorCode::NO_ERROR, "x");
        let wanted = [
            &b"\0\0\x06\x04\0\0\0\0\0\0\x05\x01\x02\x03\x04"[..],
            b"\0\0\x08\x06\x01\0\0\0\x0012345678",
            b"\0\0\x04\x08\0\0\0\0\x03\0\0\0\x05",
            b"\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08",
            b"\0\0\x09\x07\0\0\0\0\0\0\0\0\x07\0\0\0\0x",
        ];
        assert_eq!(output, wanted.concat());
        assert_eq!(parameters(b"\0\x05\x01\x02\x03\x04").collect::<Vec<_>>(), [(5, 0x01_02_03_04)]);
    }
}
