//! From a file that is ready to the answer: conditions, ranges, the body.

use std::sync::Arc;

use sumun_http::Method;
use sumun_http::conditional::{self, Decision};
use sumun_http::negotiate::{Coding, CodingOrder};
use sumun_http::range::{self, ByteRange, Selection};
use tokio::sync::Semaphore;

use super::load::{Content, Representation, Resource, content_length, line};
use super::root::OpenError;
use super::{CompressedStream, DiskGate, FileAnswer, FileBody, FilesRequest, Part};

/// What a worker needs to open compressed streams.
pub(super) struct Streams {
    pub(super) gate: Arc<DiskGate>,
    pub(super) places: Arc<Semaphore>,
}

/// Whether an answer may be compressed on the fly: not where a part is asked for, for parts are
/// cut out of what lies on the disk.
pub(super) fn may_compress(request: &FilesRequest<'_>) -> bool {
    request.fields.range.is_none()
}

/// Answers GET or HEAD of a file. `None` where the coding that is due has not been loaded.
pub(super) fn file(
    resource: &Resource,
    order: &CodingOrder,
    request: &FilesRequest<'_>,
    streams: &Streams,
) -> Option<FileAnswer> {
    let representation = resource.ready(resource.choose(order, may_compress(request)))?;
    let Content::Stream(file, coding) = &representation.content else {
        return Some(stored(representation, request));
    };
    if let Some(answer) = by_conditions(representation, request) {
        return Some(answer);
    }
    if request.method == Method::Head {
        return Some(whole(representation, FileBody::Empty));
    }
    let Ok(place) = Arc::clone(&streams.places).try_acquire_owned() else {
        return Some(stored(resource.ready(Coding::Identity)?, request));
    };
    let gate = Arc::clone(&streams.gate);
    let length = representation.length;
    Some(match CompressedStream::new(*coding, Arc::clone(file), length, gate, place) {
        Ok(stream) => whole(representation, FileBody::Stream(stream)),
        Err(_) => FileAnswer::error(500, "the compressor failed"),
    })
}

/// The directory is where the path with a slash is.
pub(super) fn redirect_to_directory(request: &FilesRequest<'_>) -> FileAnswer {
    // Two slashes at the start would name another host (RFC 3986 section 4.2).
    let path = request.url_path.trim_start_matches('/');
    let mut location = format!("/{path}/");
    if let Some(query) = request.query {
        location.push('?');
        location.push_str(query);
    }
    let mut head = Vec::new();
    line(&mut head, "Location", location.as_bytes());
    content_length(&mut head, 0);
    FileAnswer { status: 301, head: head.into(), body: FileBody::Empty, reason: "" }
}

pub(super) fn listing(page: &Arc<[u8]>, request: &FilesRequest<'_>) -> FileAnswer {
    let mut head = Vec::new();
    line(&mut head, "Content-Type", b"text/html; charset=utf-8");
    line(&mut head, "Cache-Control", b"no-cache");
    content_length(&mut head, page.len() as u64);
    let body = match request.method {
        Method::Head => FileBody::Empty,
        _ => FileBody::Memory { bytes: Arc::clone(page), range: 0..page.len() },
    };
    FileAnswer { status: 200, head: head.into(), body, reason: "" }
}

pub(super) fn error(error: OpenError) -> FileAnswer {
    match error {
        OpenError::NotFound(reason) => FileAnswer::error(404, reason),
        OpenError::Forbidden(reason) => FileAnswer::error(403, reason),
        OpenError::Unavailable(reason) => FileAnswer::error(503, reason),
        OpenError::Failed(reason) => FileAnswer::error(500, reason),
    }
}

/// Answers from memory or from a file as it lies on the disk.
fn stored(representation: &Representation, request: &FilesRequest<'_>) -> FileAnswer {
    if let Some(answer) = by_conditions(representation, request) {
        return answer;
    }
    if request.method == Method::Head {
        return whole(representation, FileBody::Empty);
    }
    if let Some(range) = &request.fields.range {
        // RFC 9110 section 13.2.2, step 5; without a match the whole is sent.
        let counts = request.fields.if_range.as_deref().is_none_or(|if_range| {
            let now = request.now_unix_seconds;
            conditional::if_range_holds(if_range, &representation.validators(), now)
        });
        if counts {
            match range::select(range, representation.length) {
                Selection::Whole => {}
                Selection::One(range) => return one_range(representation, range),
                Selection::Many(ranges) => return many_ranges(representation, &ranges),
                Selection::Unsatisfiable => return unsatisfiable(representation),
            }
        }
    }
    let all = body(representation, 0, representation.length);
    whole(representation, all)
}

fn by_conditions(representation: &Representation, request: &FilesRequest<'_>) -> Option<FileAnswer> {
    if !request.fields.has_conditions() {
        return None;
    }
    let validators = representation.validators();
    let conditions = request.fields.conditions();
    match conditional::evaluate(request.method.as_str(), Some(&validators), &conditions) {
        Decision::Proceed => None,
        Decision::NotModified => Some(FileAnswer {
            status: 304,
            head: Arc::clone(&representation.head_304),
            body: FileBody::Empty,
            reason: "",
        }),
        Decision::PreconditionFailed => Some(FileAnswer::error(412, "a condition does not hold")),
    }
}

fn whole(representation: &Representation, body: FileBody) -> FileAnswer {
    FileAnswer { status: 200, head: Arc::clone(&representation.head_200), body, reason: "" }
}

fn body(representation: &Representation, offset: u64, length: u64) -> FileBody {
    match part(representation, offset, length) {
        Part::Frame(frame) => FileBody::Memory { range: 0..frame.len(), bytes: frame.into() },
        Part::Memory { bytes, range } => FileBody::Memory { bytes, range },
        Part::File { file, offset, length } => FileBody::File { file, offset, length },
    }
}

fn part(representation: &Representation, offset: u64, length: u64) -> Part {
    match &representation.content {
        Content::Memory(bytes) => {
            Part::Memory { bytes: Arc::clone(bytes), range: offset as usize..(offset + length) as usize }
        }
        Content::File(file) | Content::Stream(file, _) => Part::File { file: Arc::clone(file), offset, length },
    }
}

fn one_range(representation: &Representation, range: ByteRange) -> FileAnswer {
    let mut value = Vec::new();
    range::write_content_range(range, representation.length, &mut value);
    let mut head = Vec::with_capacity(256);
    line(&mut head, "Content-Type", representation.media_type.as_bytes());
    content_length(&mut head, range.length());
    line(&mut head, "Content-Range", &value);
    head.extend_from_slice(&representation.head_shared);
    let body = body(representation, range.first, range.length());
    FileAnswer { status: 206, head: head.into(), body, reason: "" }
}

fn many_ranges(representation: &Representation, ranges: &[ByteRange]) -> FileAnswer {
    let boundary = format!("{:032x}", fastrand::u128(..));
    let media_type = representation.media_type.as_bytes();
    let frames = range::multipart(ranges, representation.length, media_type, boundary.as_bytes());
    let mut head = Vec::with_capacity(256);
    let media_type = format!("multipart/byteranges; boundary={boundary}");
    line(&mut head, "Content-Type", media_type.as_bytes());
    content_length(&mut head, frames.length);
    head.extend_from_slice(&representation.head_shared);
    let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
    for (frame, range) in frames.heads.into_iter().zip(ranges) {
        parts.push(Part::Frame(frame));
        parts.push(part(representation, range.first, range.length()));
    }
    parts.push(Part::Frame(frames.end));
    FileAnswer { status: 206, head: head.into(), body: FileBody::Parts(parts), reason: "" }
}

/// RFC 9110 section 15.5.17.
fn unsatisfiable(representation: &Representation) -> FileAnswer {
    let mut value = Vec::new();
    range::write_unsatisfied_range(representation.length, &mut value);
    let mut head = Vec::new();
    line(&mut head, "Content-Range", &value);
    let reason = "the range lies outside the file";
    FileAnswer { status: 416, head: head.into(), body: FileBody::ErrorPage, reason }
}
