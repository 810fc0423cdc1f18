//! A response that is on its way from a server, and is read while it comes by as many as want it.
//!
//! Who fetches it has the [`Writer`]: the head once, then pieces, then the end. A [`Reader`] waits for what
//! it has not seen yet, in whatever worker it is. The first one, whose request it was, is the *asker*: it
//! gets the response whatever it is, the others only one that is for everybody. As long as the response may
//! be kept and is within its bound, all of it stays here, and who comes later reads from the beginning; else
//! pieces go once all have read them, and the writer waits for the slowest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::limits::{FILL_AHEAD_BYTES, FILL_DISK_BYTES, INTERIMS_MAX, READERS_MAX};
use crate::on_disk::OnDisk;
use bytes::Bytes;

/// `H` is what is known of the response before its body, `F` why there is none.
#[derive(Debug)]
pub struct Fill<H, F> {
    state: Mutex<State<H, F>>,
    /// More bytes are not kept together.
    bytes_max: u64,
}

#[derive(Debug)]
struct State<H, F> {
    /// It goes on where nobody reads it, if it may be kept.
    is_wanted: bool,
    head: Option<Arc<H>>,
    /// What the server said before, for the asker.
    interims: VecDeque<Bytes>,
    /// It is for everybody.
    is_shared: bool,
    /// All pieces since the first are here.
    is_kept: bool,
    /// Each with the bytes before it.
    pieces: VecDeque<(u64, Bytes)>,
    /// All that has come, and what of it is in the pieces.
    bytes: u64,
    held_bytes: u64,
    /// Where pieces that are gone can be read.
    disk: Option<OnDisk>,
    /// No more comes there: who is behind reads what is there, and nobody joins any more.
    is_cut_short: bool,
    ended: Option<Ended<F>>,
    readers: Vec<Option<Place>>,
    /// Places that nobody has.
    free: Vec<usize>,
    reading: usize,
    /// Nobody will ever ask for it again.
    is_left: bool,
    writer: Option<Waker>,
}

/// A reader, as the others know it.
#[derive(Debug, Default)]
struct Place {
    /// Bytes that it has read.
    at: u64,
    waker: Option<Waker>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended<F> {
    Complete,
    Failed(F),
}

/// What comes before the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First<H> {
    /// The asker is told so meanwhile.
    Interim(Bytes),
    Head(Arc<H>),
}

/// What a reader finds instead of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHead<F> {
    /// The response is for the asker alone: the others have to ask for themselves.
    Alone,
    Failed(F),
}

/// What a reader gets next.
#[derive(Debug, Clone)]
pub enum Next<F> {
    Piece(Bytes),
    /// It is behind: what comes next is on disk, from this byte of the body on. Who has read it there goes on
    /// with [`Reader::skip_to`].
    OnDisk(OnDisk, u64),
    Ended(Ended<F>),
}

/// Nobody wants the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwanted;

/// The one end that writes. Dropped before it said how it ended, the response has failed.
#[derive(Debug)]
pub struct Writer<H, F: Default> {
    fill: Arc<Fill<H, F>>,
}

/// One of the ends that read.
#[derive(Debug)]
pub struct Reader<H, F> {
    fill: Arc<Fill<H, F>>,
    slot: usize,
    is_asker: bool,
}

impl<H, F: Copy + Default> Fill<H, F> {
    /// A response of which at most `bytes_max` are kept together. `is_wanted`: also where nobody reads it.
    #[must_use]
    pub fn begin(bytes_max: u64, is_wanted: bool) -> (Arc<Self>, Writer<H, F>) {
        let state = State {
            is_wanted,
            head: None,
            interims: VecDeque::new(),
            is_shared: true,
            is_kept: true,
            pieces: VecDeque::new(),
            bytes: 0,
            held_bytes: 0,
            disk: None,
            is_cut_short: false,
            ended: None,
            readers: Vec::new(),
            free: Vec::new(),
            reading: 0,
            is_left: false,
            writer: None,
        };
        let fill = Arc::new(Self { state: Mutex::new(state), bytes_max });
        (Arc::clone(&fill), Writer { fill })
    }

    /// One more reader; `None`: it is not to be had from the beginning any more, or not by others.
    #[must_use]
    pub fn join(self: &Arc<Self>, is_asker: bool) -> Option<Reader<H, F>> {
        let mut state = self.lock();
        if !(state.is_whole() || is_asker) || state.reading >= READERS_MAX || state.is_left {
            return None;
        }
        state.reading += 1;
        let slot = state.free.pop().unwrap_or(state.readers.len());
        match state.readers.get_mut(slot) {
            Some(place) => *place = Some(Place::default()),
            None => state.readers.push(Some(Place::default())),
        }
        Some(Reader { fill: Arc::clone(self), slot, is_asker })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State<H, F>) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let waiting = state.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State<H, F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H, F: Copy + Default> Writer<H, F> {
    /// The head is here. `is_shared`: it is for everybody; `is_kept`: all of it is to stay together.
    pub fn begin(&self, head: Arc<H>, is_shared: bool, is_kept: bool) {
        self.fill.change(|state| {
            state.head = Some(head);
            state.is_shared = is_shared;
            state.is_kept = is_kept;
        });
    }

    /// The server says something before its answer.
    pub fn interim(&self, text: Bytes) {
        self.fill.change(|state| {
            if state.interims.len() < INTERIMS_MAX {
                state.interims.push_back(text);
            }
        });
    }

    /// Ready once there is room for a piece.
    ///
    /// # Errors
    /// Nobody wants it.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<(), Unwanted>> {
        let mut state = self.fill.lock();
        if state.is_kept {
            return Poll::Ready(Ok(()));
        }
        if state.disk.is_some() && !state.is_cut_short {
            return if state.has_room_on_disk(context) { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        if state.reading == 0 {
            return Poll::Ready(Err(Unwanted));
        }
        if state.held_bytes < FILL_AHEAD_BYTES || state.cut_off_the_slowest() {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when nobody reads what is not kept.
    pub fn poll_unwanted(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.fill.lock();
        if state.is_for_readers() && state.reading == 0 {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// A piece of the body. False: what has come is not kept together, or not any more.
    pub fn push(&self, piece: &[u8]) -> bool {
        let bytes_max = self.fill.bytes_max;
        self.fill.change(|state| {
            if state.ended.is_none() {
                state.push(piece);
                state.is_kept &= state.bytes <= bytes_max;
                state.let_go();
            }
            state.is_whole()
        })
    }

    /// There is no room to keep it.
    pub fn give_up_keeping(&self) {
        self.fill.change(|state| {
            state.is_kept = false;
            state.is_cut_short = true;
            state.let_go();
        });
    }

    /// From here on it is written to disk, too, from its first byte; gives what has come so far. `None`: not all
    /// of that is here any more.
    pub fn move_to_disk(&self, disk: OnDisk) -> Option<Vec<Bytes>> {
        self.fill.change(|state| {
            if !state.is_kept {
                return None;
            }
            state.is_kept = false;
            let chunk_bytes = disk.chunk_bytes();
            state.disk = Some(disk);
            // Whoever goes on behind a chunk has to find a piece that begins there.
            let pieces: Vec<Bytes> = state.pieces.drain(..).map(|(_, piece)| piece).collect();
            state.held_bytes = 0;
            state.bytes = 0;
            pieces.iter().for_each(|piece| state.push_in_parts(piece, chunk_bytes));
            Some(pieces)
        })
    }

    /// It is over. What was kept, if it is complete.
    pub fn end(&self, how: Ended<F>) -> Option<Vec<Bytes>> {
        self.fill.change(|state| {
            let is_complete = matches!(how, Ended::Complete) && state.ended.is_none();
            state.ended.get_or_insert(how);
            let is_here = is_complete && state.is_kept && state.is_shared;
            is_here.then(|| state.pieces.iter().map(|(_, piece)| piece.clone()).collect())
        })
    }

    /// All of the body is here already.
    pub fn end_with(&self, pieces: impl IntoIterator<Item = Bytes>) {
        self.fill.change(|state| {
            pieces.into_iter().for_each(|piece| state.push_piece(piece));
            state.ended = Some(Ended::Complete);
        });
    }

    /// All of the body is on disk already.
    pub fn end_on_disk(&self, disk: OnDisk) {
        self.fill.change(|state| {
            state.bytes = disk.written();
            state.is_kept = false;
            state.disk = Some(disk);
            state.ended = Some(Ended::Complete);
        });
    }

    #[must_use]
    pub fn fill(&self) -> &Arc<Fill<H, F>> {
        &self.fill
    }
}

impl<H, F: Default> Drop for Writer<H, F> {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended.get_or_insert(Ended::Failed(F::default()));
        let waiting = state.take_waiting();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<H, F: Copy + Default> Reader<H, F> {
    /// It reads this one.
    #[must_use]
    pub fn is_of(&self, fill: &Arc<Fill<H, F>>) -> bool {
        Arc::ptr_eq(&self.fill, fill)
    }

    /// The head, once it is here.
    pub fn poll_head(&self, context: &mut Context<'_>) -> Poll<Result<First<H>, NoHead<F>>> {
        let mut state = self.fill.lock();
        if self.is_asker
            && let Some(interim) = state.interims.pop_front()
        {
            return Poll::Ready(Ok(First::Interim(interim)));
        }
        match (&state.head, state.ended) {
            // Its head is nobody else's business.
            (Some(_), _) if !state.is_shared && !self.is_asker => Poll::Ready(Err(NoHead::Alone)),
            (Some(head), _) => Poll::Ready(Ok(First::Head(Arc::clone(head)))),
            (None, Some(Ended::Failed(why))) => Poll::Ready(Err(NoHead::Failed(why))),
            (None, Some(Ended::Complete)) => Poll::Ready(Err(NoHead::Alone)),
            (None, None) => {
                state.wait(self.slot, context);
                Poll::Pending
            }
        }
    }

    /// The next piece, once it is here.
    pub fn poll_piece(&self, context: &mut Context<'_>) -> Poll<Next<F>> {
        let mut state = self.fill.lock();
        let at = state.readers.get(self.slot).and_then(Option::as_ref).map_or(u64::MAX, |place| place.at);
        if at < state.first_byte() {
            return Poll::Ready(match &state.disk {
                Some(disk) if at < disk.written() => Next::OnDisk(disk.clone(), at),
                // It has held up others, who have read on without it.
                _ => Next::Ended(Ended::Failed(F::default())),
            });
        }
        match (state.piece_at(at), state.ended) {
            (Some(piece), _) => {
                state.move_reader(self.slot, at + piece.len() as u64);
                Poll::Ready(Next::Piece(piece))
            }
            (None, Some(ended)) => Poll::Ready(Next::Ended(ended)),
            (None, None) => {
                state.wait(self.slot, context);
                Poll::Pending
            }
        }
    }

    /// It goes on with this byte of the body: what is before it was read from disk, or is not wanted.
    pub fn skip_to(&self, at: u64) {
        self.fill.lock().move_reader(self.slot, at);
    }

    /// Bytes of the body that have come.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.fill.lock().bytes
    }

    /// It was this reader's request.
    #[must_use]
    pub fn is_asker(&self) -> bool {
        self.is_asker
    }
}

impl<H, F> Drop for Reader<H, F> {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.readers.get_mut(self.slot) {
            *place = None;
        }
        state.free.push(self.slot);
        state.reading -= 1;
        state.is_left = state.reading == 0 && state.ended.is_none() && state.is_for_readers();
        state.let_go();
        if let Some(writer) = state.writer.take() {
            drop(state);
            writer.wake();
        }
    }
}

impl<H, F> State<H, F> {
    /// Without readers there is no use in it.
    fn is_for_readers(&self) -> bool {
        !self.is_whole() || (self.head.is_none() && !self.is_wanted)
    }

    /// Whoever comes now can read all of it.
    fn is_whole(&self) -> bool {
        self.is_kept || self.disk.is_some() && !self.is_cut_short
    }

    /// Of the pieces that are here.
    fn first_byte(&self) -> u64 {
        self.bytes - self.held_bytes
    }

    fn push(&mut self, piece: &[u8]) {
        match self.disk.as_ref().map(OnDisk::chunk_bytes) {
            Some(chunk_bytes) => self.push_in_parts(piece, chunk_bytes),
            None => self.push_piece(Bytes::copy_from_slice(piece)),
        }
    }

    /// No piece goes across the end of a chunk on disk.
    fn push_in_parts(&mut self, mut piece: &[u8], chunk_bytes: u64) {
        while !piece.is_empty() {
            let room = (chunk_bytes - self.bytes % chunk_bytes) as usize;
            let (part, rest) = piece.split_at(room.min(piece.len()));
            self.push_piece(Bytes::copy_from_slice(part));
            piece = rest;
        }
    }

    fn push_piece(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            let length = piece.len() as u64;
            self.pieces.push_back((self.bytes, piece));
            self.bytes += length;
            self.held_bytes += length;
        }
    }

    /// What is here from this byte on, as far as its piece goes.
    fn piece_at(&self, at: u64) -> Option<Bytes> {
        let index = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, piece) = self.pieces.get(index)?;
        let before = (at - start) as usize;
        (before < piece.len()).then(|| piece.slice(before..))
    }

    /// What waits to be written to disk, of this or of all, is not too much. If it is, the writer is woken once
    /// less waits.
    fn has_room_on_disk(&mut self, context: &Context<'_>) -> bool {
        self.let_go();
        if self.held_bytes >= FILL_DISK_BYTES
            && let Some(disk) = &self.disk
        {
            // In this order: what is written from here on wakes.
            disk.wake(context.waker());
            self.let_go();
        }
        let Some(disk) = &self.disk else { return true };
        disk.has_failed() || self.held_bytes < FILL_DISK_BYTES && disk.has_room(context.waker())
    }

    fn move_reader(&mut self, slot: usize, at: u64) {
        if let Some(Some(place)) = self.readers.get_mut(slot) {
            place.at = at;
        }
        self.let_go();
    }

    /// What is not needed here any more goes: what is on disk, once all have read it or it is too much;
    /// what does not get there, once all have read it.
    fn let_go(&mut self) {
        if self.is_kept {
            return;
        }
        let written = self.disk.as_ref().map(OnDisk::written);
        let mut freed = false;
        while let Some((start, piece)) = self.pieces.front() {
            let end = start + piece.len() as u64;
            let is_on_disk = written.is_some_and(|written| end <= written);
            // There may be very many readers: they are asked last, and the first who has not read it is enough.
            let is_read = || !self.places().any(|place| place.at < end);
            let goes = match self.is_whole() {
                true => is_on_disk && (self.held_bytes > FILL_AHEAD_BYTES || is_read()),
                false => is_on_disk || is_read(),
            };
            if !goes {
                break;
            }
            self.drop_first();
            freed = true;
        }
        if freed && let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, piece)) = self.pieces.pop_front() {
            self.held_bytes -= piece.len() as u64;
        }
    }

    /// Who is so far behind that the others wait, though they have read all there is, is left behind: nobody
    /// slows down many. False: nobody is.
    fn cut_off_the_slowest(&mut self) -> bool {
        if self.pieces.is_empty() || !self.places().any(|place| place.at >= self.bytes) {
            return false;
        }
        // Those that are left behind count no more; their next piece is gone.
        self.drop_first();
        self.let_go();
        true
    }

    /// Readers that are not left behind.
    fn places(&self) -> impl Iterator<Item = &Place> {
        let first = self.first_byte();
        let written = self.disk.as_ref().map_or(0, OnDisk::written);
        self.readers.iter().flatten().filter(move |place| place.at >= first || place.at < written)
    }

    fn take_waiting(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|place| place.waker.take()).collect()
    }

    fn wait(&mut self, slot: usize, context: &Context<'_>) {
        if let Some(Some(place)) = self.readers.get_mut(slot) {
            place.waker = Some(context.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests;
