//! Answers to requests for a part: what is stored of them, and what they are not believed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sumun_http::cache::slices::{is_of_part, is_same_version, validator, whole_length};
use sumun_http::cache::{Fields, Qualified, ResponseControl};
use sumun_http::field::Field;
use sumun_http::{ResponseBody, ResponseHead};
use sumun_store::Ended;

use super::super::body::Body;
use super::super::response::{Held, Lines};
use super::super::slices::{Arriving, Portion, Slices};
use super::super::{Failed, Flight, Response, Slot};
use super::{Filling, Phase, body_of};
use crate::limits::CACHE_PASS_S;

/// What becomes of an answer to a request for a part.
pub(super) enum Taken {
    Done(Phase),
    /// It is a part that is all there is: the fields of the whole, and its bytes.
    Whole(Vec<Field>, u64),
    Other,
}

/// A slice on its way.
#[derive(Debug)]
pub(super) struct Part {
    /// That its body has to have.
    pub(super) bytes: u64,
    /// What of it is in memory.
    pub(super) held: Arc<Held>,
}

impl Filling {
    pub(super) fn take_part(&mut self, head: &ResponseHead, fields: Fields<'_>, now_s: u64) -> Taken {
        match self.wanted.portion.clone() {
            Portion::Whole => Taken::Other,
            Portion::First(number, slice_bytes) => self.take_first(head, fields, (number, slice_bytes), now_s),
            Portion::Slice(number, slices, response) => {
                Taken::Done(self.take_slice(head, fields, (number, slices, response), now_s))
            }
        }
    }

    fn take_first(
        &mut self,
        head: &ResponseHead,
        fields: Fields<'_>,
        (number, slice_bytes): (u64, u64),
        now_s: u64,
    ) -> Taken {
        if head.status == 416 {
            // Behind the end, which others know nothing of; or not even the first byte is there to be had.
            return Taken::Done(self.look_again(number == 0, now_s));
        }
        let asked = self.wanted.portion.range().filter(|_| head.status == 206);
        let Some(asked) = asked else { return Taken::Other };
        let Some(length) = whole_length(asked, fields, framed(head)) else {
            return Taken::Done(self.look_again(true, now_s));
        };
        let is_of_whole = |field: &&Field| !is_of_part(field.name.of_bytes(fields.bytes));
        let rest: Vec<Field> = head.fields.iter().filter(is_of_whole).cloned().collect();
        if length <= slice_bytes {
            return Taken::Whole(rest, length);
        }
        let fields = Fields { fields: &rest, ..fields };
        if validator(fields).is_none() {
            return Taken::Done(self.look_again(true, now_s));
        }
        let mut response = self.judge(200, fields, Lines::of(fields, self.wanted.caching.tags.as_deref()), now_s);
        response.length = Some(length);
        let incarnation = fastrand::u64(..);
        let is_too_large = slice_bytes > self.bytes_max();
        self.check_room(&mut response, is_too_large);
        if let Err(why) = response.stored {
            // Whoever asked has a range of its own, or none: it asks for that.
            response.status = 206;
            self.not_kept(why, is_too_large, 206, now_s);
            self.writer.begin(Arriving::whole(Arc::new(response)), false, false);
            return Taken::Done(Phase::Refuse);
        }
        self.settle(200, fields, &response.vary);
        let slices = Arc::new(Slices { head: self.wanted.slot.key, incarnation, length, slice_bytes });
        let slot = Slot { key: self.cache().slice_key(&slices, number), generation: None };
        // Those who find the head are to find this, too.
        self.cache().fills(slot.key).insert(slot.key, Flight::of_slice(Arc::clone(self.writer.fill())));
        let response = Arc::new(response);
        self.store(&response, Body::Slices(Arc::clone(&slices)));
        // Where it was not stored, the flight is there still.
        self.leave();
        self.wanted.slot = slot;
        self.wanted.portion = Portion::Slice(number, Arc::clone(&slices), Arc::clone(&response));
        Taken::Done(self.begin_slice(head, number, slices, response))
    }

    fn take_slice(
        &mut self,
        head: &ResponseHead,
        fields: Fields<'_>,
        (number, slices, response): (u64, Arc<Slices>, Arc<Response>),
        now_s: u64,
    ) -> Phase {
        if head.status != 206 {
            // Who may not see it, or is too many, says nothing of the resource; nor does a failure.
            let has_changed = matches!(head.status, 200..=299 | 404 | 410 | 416);
            return if has_changed { self.is_another(&response, now_s) } else { self.refuse() };
        }
        let asked = slices.range(number);
        let length = asked.and_then(|asked| whole_length(asked, fields, framed(head)));
        let is_same = is_same_version(&response.head().validators(), fields);
        let control = ResponseControl::of(fields);
        let is_for_all = !control.no_store
            && control.private != Qualified::All
            && (!fields.has("set-cookie") || self.wanted.caching.rules.stores_set_cookie)
            && (!self.wanted.has_identity || control.public || control.s_maxage.is_some() || control.must_revalidate);
        match (is_same, length == Some(slices.length)) {
            (true, true) if is_for_all => self.begin_slice(head, number, slices, response),
            // What is for whoever asked says nothing of what the others have.
            (true, true) => self.refuse(),
            // Of the same version it is a lie.
            (true, false) => self.look_again(true, now_s),
            (false, _) => self.is_another(&response, now_s),
        }
    }

    /// The resource has changed. Where that was soon, it may be servers that do not agree: there it is asked for
    /// whole.
    fn is_another(&mut self, response: &Response, now_s: u64) -> Phase {
        self.look_again(now_s.saturating_sub(response.validity.born_s) < CACHE_PASS_S, now_s)
    }

    /// It is nobody's: who waits for it asks for itself.
    fn refuse(&mut self) -> Phase {
        self.leave();
        self.writer.end(Ended::Complete);
        Phase::Refuse
    }

    fn begin_slice(&mut self, head: &ResponseHead, number: u64, slices: Arc<Slices>, response: Arc<Response>) -> Phase {
        let bytes = slices.range(number).map_or(0, |range| range.length());
        let is_kept = bytes <= self.bytes_max() && !self.cache().is_crowded();
        self.cache().counts.slices.fetch_add(1, Relaxed);
        let held = Arc::new(Held::new(&self.cache().held, 0));
        let (sliced, _held) = (Some((slices, Some(number))), Some(Arc::clone(&held)));
        self.part = Some(Part { bytes, held });
        let arriving = Arriving { response: Arc::clone(&response), sliced, _held };
        self.writer.begin(Arc::new(arriving), true, is_kept);
        if is_kept {
            self.response = Some(response);
            if bytes > self.cache().memory_max() {
                self.move_to_disk();
            }
        } else {
            self.leave();
        }
        body_of(head)
    }

    /// It is none of what was asked for. Whoever waits for it looks again what is there; `is_lie`: and is to ask
    /// for the whole.
    pub(super) fn look_again(&mut self, is_lie: bool, now_s: u64) -> Phase {
        self.leave();
        let (head, is_own) = match &self.wanted.portion {
            Portion::Slice(_, slices, _) => (slices.head, self.cache().drop_sliced(slices)),
            Portion::Whole | Portion::First(..) => (self.wanted.slot.key, true),
        };
        if is_lie && is_own {
            self.cache().ask_whole(head, now_s);
        }
        self.response = None;
        self.on_disk = None;
        self.writer.end(Ended::Failed(Failed::Again));
        Phase::Refuse
    }
}

/// Bytes of the body, where its framing says so.
fn framed(head: &ResponseHead) -> Option<u64> {
    match head.body {
        ResponseBody::Length(length) => Some(length),
        ResponseBody::None => Some(0),
        ResponseBody::Chunked | ResponseBody::UntilClose => None,
    }
}
