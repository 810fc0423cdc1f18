//! Lines on their way: fixed fields in one row, texts behind each other in another.

use std::net::SocketAddr;
use std::sync::Arc;

use super::entry::{Entry, KeptHeaders, TEXTS, Text};
use super::limits::{EARLIER_BATCHES, KEPT_TEXT_BYTES, QUEUE_LINES, QUEUE_TEXT_BYTES, TEXT_BYTES, WAKE_LINES};
use super::plan::Plan;

/// Length of a header value that was not there.
const ABSENT: u16 = u16::MAX;

/// What of an entry has a fixed size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) unix_ms: u64,
    pub(super) read_us: u64,
    pub(super) queue_us: u64,
    pub(super) connect_us: u64,
    pub(super) first_byte_us: u64,
    pub(super) total_us: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) client: Option<SocketAddr>,
    pub(super) reason: &'static str,
    pub(super) tries: u32,
    pub(super) status: u16,
    lengths: [u16; TEXTS],
}

/// Lines of one plan. Its memory goes round between the worker and the writer.
#[derive(Debug, Default)]
pub(super) struct Batch {
    records: Vec<Record>,
    texts: Vec<u8>,
}

/// One line as the writer sees it.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) record: &'a Record,
    texts: [&'a [u8]; TEXTS],
    headers: &'a [Option<&'a [u8]>],
    request_headers: usize,
}

/// There is no room for another line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Copies what `plan` needs.
    pub(super) fn push(&mut self, plan: &Plan, entry: &Entry<'_>) -> Result<(), Full> {
        if self.records.len() >= QUEUE_LINES || self.texts.len() >= QUEUE_TEXT_BYTES {
            return Err(Full);
        }
        let mut lengths = [0; TEXTS];
        for (index, (length, text)) in lengths.iter_mut().zip(entry.texts()).enumerate() {
            if plan.needs.has(index) && !text.is_empty() {
                let text = text.get(..TEXT_BYTES).unwrap_or(text);
                self.texts.extend_from_slice(text);
                *length = text.len() as u16;
            }
        }
        self.push_headers(plan, plan.request_headers.len(), entry.request_headers);
        self.push_headers(plan, plan.response_headers.len(), entry.response_headers);
        self.records.push(Record {
            unix_ms: entry.unix_ms,
            read_us: entry.read_us,
            queue_us: entry.queue_us,
            connect_us: entry.connect_us,
            first_byte_us: entry.first_byte_us,
            total_us: entry.total_us,
            bytes_received: entry.bytes_received,
            bytes_sent: entry.bytes_sent,
            client: entry.client,
            reason: entry.reason,
            tries: entry.tries,
            status: entry.status,
            lengths,
        });
        Ok(())
    }

    fn push_headers(&mut self, plan: &Plan, wanted: usize, kept: Option<&KeptHeaders>) {
        match kept.filter(|kept| kept.plan == plan.id) {
            Some(kept) => self.texts.extend_from_slice(&kept.values),
            None => (0..wanted).for_each(|_| self.texts.extend_from_slice(&ABSENT.to_le_bytes())),
        }
    }

    /// Calls `each` with every line, in order.
    pub(super) fn lines(&self, plan: &Plan, mut each: impl FnMut(&Line<'_>)) {
        let mut rest = Reader(&self.texts);
        let request_headers = plan.request_headers.len();
        let mut headers = Vec::with_capacity(request_headers + plan.response_headers.len());
        for record in &self.records {
            let texts = record.lengths.map(|length| rest.take(length));
            headers.clear();
            headers.extend((0..headers.capacity()).map(|_| match rest.length() {
                ABSENT => None,
                length => Some(rest.take(length)),
            }));
            each(&Line { record, texts, headers: &headers, request_headers });
        }
    }

    /// Empty again; what a burst took is given back.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.texts.clear();
        self.records.shrink_to(WAKE_LINES * 2);
        self.texts.shrink_to(KEPT_TEXT_BYTES);
    }
}

impl KeptHeaders {
    /// The values of these names, in their order.
    pub(super) fn collect<'a>(plan: u64, names: &[String], value: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        let mut values = Vec::new();
        for name in names {
            match value(name) {
                Some(text) => {
                    let text = text.get(..TEXT_BYTES).unwrap_or(text);
                    values.extend_from_slice(&(text.len() as u16).to_le_bytes());
                    values.extend_from_slice(text);
                }
                None => values.extend_from_slice(&ABSENT.to_le_bytes()),
            }
        }
        Self { plan, values }
    }
}

impl<'a> Line<'a> {
    pub(super) fn text(&self, text: Text) -> &'a [u8] {
        self.texts[text as usize]
    }

    pub(super) fn request_header(&self, place: usize) -> &'a [u8] {
        self.headers.get(place).copied().flatten().unwrap_or_default()
    }

    pub(super) fn response_header(&self, place: usize) -> &'a [u8] {
        self.request_header(self.request_headers + place)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: u16) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(usize::from(length)).unwrap_or_default();
        self.0 = rest;
        taken
    }

    fn length(&mut self) -> u16 {
        self.take(2).try_into().map_or(ABSENT, u16::from_le_bytes)
    }
}

/// Where a worker puts its lines: those of the newest plan, and what is left of earlier ones.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) plan: Arc<Plan>,
    pub(super) batch: Batch,
    pub(super) earlier: Vec<(Arc<Plan>, Batch)>,
}

impl Place {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        Self { plan: Arc::clone(plan), batch: Batch::default(), earlier: Vec::new() }
    }

    /// Says how many lines of this plan wait now.
    pub(super) fn push(&mut self, plan: &Arc<Plan>, entry: &Entry<'_>) -> Result<usize, Full> {
        if !Arc::ptr_eq(&self.plan, plan) {
            if self.earlier.len() >= EARLIER_BATCHES {
                return Err(Full);
            }
            let before = std::mem::replace(&mut self.plan, Arc::clone(plan));
            if !self.batch.is_empty() {
                self.earlier.push((before, std::mem::take(&mut self.batch)));
            }
        }
        self.batch.push(plan, entry)?;
        Ok(self.batch.len())
    }
}
