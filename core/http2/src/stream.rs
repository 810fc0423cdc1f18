//! Streams that are open, or half closed (RFC 9113 section 5.1).

use crate::event::StreamId;
use crate::message::Asked;

/// Why a stream has more to send than it was let.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Waiting {
    #[default]
    No,
    /// For its turn, once there is room in the output and in the connection's window.
    Turn,
    /// For its own window.
    Window,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// The peer has ended its side.
    pub(crate) remote_ended: bool,
    /// We have ended ours.
    pub(crate) local_ended: bool,
    /// The request, or a final response, has come.
    pub(crate) head_received: bool,
    /// The request, or a final response, is sent.
    pub(crate) head_sent: bool,
    /// CONNECT: nothing but data from here on.
    pub(crate) tunnel: bool,
    pub(crate) asked: Asked,
    /// Interim responses that came.
    pub(crate) interim: u32,
    /// Data that has to come still, where it is known, bytes.
    pub(crate) expected: Option<u64>,
    /// Data that the peer lets us send; a change of its settings may make it negative.
    pub(crate) send_window: i64,
    /// Data that we let the peer send.
    pub(crate) receive_window: i64,
    /// Data that came and was not released.
    pub(crate) unreleased: u32,
    /// Released, and not told the peer yet.
    pub(crate) released: u32,
    pub(crate) waiting: Waiting,
    /// Since when no window lets waiting data through, and how much went since.
    pub(crate) stalled_since_ms: Option<u64>,
    pub(crate) sent_since: u32,
}

/// Streams by identifier. A hint says where one was put; the identifier there is the proof.
#[derive(Debug)]
pub(crate) struct Streams {
    slots: Vec<Stream>,
    hints: [u16; HINTS],
}

/// A power of two above the usual number of streams. Identifiers that meet cost a search.
const HINTS: usize = 256;

impl Default for Streams {
    fn default() -> Self {
        Self { slots: Vec::new(), hints: [0; HINTS] }
    }
}

#[inline]
fn hint_of(id: StreamId) -> usize {
    // All identifiers of one end have the same parity.
    (id >> 1) as usize % HINTS
}

impl Streams {
    pub(crate) fn length(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn place(&self, id: StreamId) -> Option<usize> {
        let hint = usize::from(self.hints[hint_of(id)]);
        if self.slots.get(hint).is_some_and(|stream| stream.id == id) {
            return Some(hint);
        }
        self.slots.iter().position(|stream| stream.id == id)
    }

    #[inline]
    pub(crate) fn find(&mut self, id: StreamId) -> Option<&mut Stream> {
        let place = self.place(id)?;
        self.slots.get_mut(place)
    }

    pub(crate) fn has(&self, id: StreamId) -> bool {
        self.place(id).is_some()
    }

    /// The identifier is new.
    pub(crate) fn insert(&mut self, stream: Stream) {
        self.hints[hint_of(stream.id)] = self.slots.len() as u16;
        self.slots.push(stream);
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let place = self.place(id)?;
        let stream = self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            self.hints[hint_of(moved.id)] = place as u16;
        }
        Some(stream)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut()
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }
}
