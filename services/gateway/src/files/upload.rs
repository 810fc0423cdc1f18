//! PUT and DELETE: a file is there as it was or as it shall be, and never in between.
//!
//! What comes in is written to a file beside the target, whose name begins with a dot and so can
//! be neither asked for nor listed. Directories are not made. Only a crash of the host or of the
//! process can leave such a `.sumun-upload-…` behind; it may be deleted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sumun_http::Method;
use sumun_http::conditional::{Conditions, Decision, EntityTag, Validators, evaluate};

use super::gate::{DiskGate, GateError};
use super::limits::UPLOAD_BLOCK_BYTES;
use super::load::{content_length, line};
use super::name::{self, last_segment};
use super::root::{FileRoot, OpenError, Stamp};
use super::{FileAnswer, FileBody, FileCache, FileFields, FilesRequest};

/// A PUT whose content is coming in. Dropped before [`Upload::commit`] it leaves nothing behind.
pub(crate) struct Upload {
    root: Arc<FileRoot>,
    gate: Arc<DiskGate>,
    /// Not there only while a block is being written.
    draft: Option<Draft>,
    /// What has not been written yet.
    block: Vec<u8>,
}

/// The file that is written, and what it shall become. Removed when it is dropped, which blocks.
struct Draft {
    target: Target,
    file: File,
    name: String,
    is_done: bool,
}

/// A name in an open directory, and the state that the client wants it in.
struct Target {
    directory: OwnedFd,
    name: Vec<u8>,
    method: Method,
    conditions: OwnedConditions,
    now_unix_seconds: u64,
}

#[derive(Default)]
struct OwnedConditions {
    if_match: Option<Vec<u8>>,
    if_none_match: Option<Vec<u8>>,
    if_modified_since: Option<Vec<u8>>,
    if_unmodified_since: Option<Vec<u8>>,
}

impl Upload {
    /// Makes ready for the content, before `100 Continue` is sent. The error is the answer.
    pub(crate) async fn begin(
        cache: &FileCache,
        root: &Arc<FileRoot>,
        request: &FilesRequest<'_>,
    ) -> Result<Self, FileAnswer> {
        if !root.takes_upload(request.method) {
            let answer = FileAnswer::error(405, "the method is not allowed for files");
            return Err(FileAnswer { head: root.allow().into(), ..answer });
        }
        // RFC 9110 section 14.5: a part must not be taken for the whole.
        if request.fields.has_content_range {
            return Err(FileAnswer::error(400, "parts of a file cannot be written"));
        }
        // It would be sent back without its coding.
        let coding = request.fields.content_encoding.as_deref();
        if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Err(FileAnswer::error(415, "a content coding cannot be stored"));
        }
        let wanted = Wanted::of(request)?;
        let gate = Arc::clone(cache.gate());
        let work_root = Arc::clone(root);
        let work = move || {
            let target = wanted.find(&work_root, 409)?;
            target.check_conditions()?;
            Draft::create(target)
        };
        let draft = gate.run(work).await.map_err(gate_error)??;
        Ok(Self { root: Arc::clone(root), gate, draft: Some(draft), block: Vec::new() })
    }

    /// Takes the next piece of the content. The error is the answer; the rest need not be read.
    pub(crate) async fn write(&mut self, chunk: &[u8]) -> Result<(), FileAnswer> {
        self.block.extend_from_slice(chunk);
        if self.block.len() < UPLOAD_BLOCK_BYTES {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let mut draft = self.draft.take().ok_or_else(lost)?;
        let work = move || (draft.file.write_all(&block), draft, block);
        let (written, draft, mut block) = self.gate.run_in_turn(work).await.map_err(gate_error)?;
        self.draft = Some(draft);
        written.map_err(|error| write_error(&error))?;
        block.clear();
        self.block = block;
        Ok(())
    }

    /// The content is complete: puts it in place, and waits until the disk has it. 201 where there
    /// was nothing, 204 where there was a file. Begun, it is completed even if nobody awaits it.
    pub(crate) async fn commit(mut self) -> FileAnswer {
        let Some(draft) = self.draft.take() else {
            return lost();
        };
        let block = std::mem::take(&mut self.block);
        let root = Arc::clone(&self.root);
        let work = move || draft.complete(&block, &root).unwrap_or_else(|answer| answer);
        self.gate.run_in_turn(work).await.unwrap_or_else(gate_error)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(draft) = self.draft.take() else {
            return;
        };
        // Removing a file may block, so not here; unless this is the end of the runtime.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(draft))),
            Err(_) => drop(draft),
        }
    }
}

/// DELETE of one file.
pub(super) async fn delete(gate: &DiskGate, root: &Arc<FileRoot>, request: &FilesRequest<'_>) -> FileAnswer {
    let wanted = match Wanted::of(request) {
        Ok(wanted) => wanted,
        Err(answer) => return answer,
    };
    let root = Arc::clone(root);
    let work = move || {
        let target = wanted.find(&root, 404)?;
        let _writing = root.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if target.check_conditions()?.is_none() {
            return Err(FileAnswer::error(404, "no such file"));
        }
        rustix::fs::unlinkat(&target.directory, &*target.name, AtFlags::empty()).map_err(errno_error)?;
        root.generation.fetch_add(1, Ordering::Release);
        rustix::fs::fsync(&target.directory).map_err(errno_error)?;
        Ok(FileAnswer { status: 204, head: Arc::from([]), body: FileBody::Empty, reason: "" })
    };
    let answered: Result<Result<FileAnswer, FileAnswer>, GateError> = gate.run(work).await;
    answered.map_or_else(gate_error, |answer| answer.unwrap_or_else(|answer| answer))
}

/// What a request wants to change, in a form that can go to another thread.
struct Wanted {
    name: Vec<u8>,
    method: Method,
    conditions: OwnedConditions,
    now_unix_seconds: u64,
}

impl Wanted {
    fn of(request: &FilesRequest<'_>) -> Result<Self, FileAnswer> {
        let name = name::decode(request.path).map_err(|refusal| FileAnswer::error(404, refusal.reason()))?;
        if name.is_empty() || request.url_path.ends_with('/') {
            return Err(FileAnswer::error(409, "a directory"));
        }
        Ok(Self {
            name,
            method: request.method,
            conditions: OwnedConditions::of(&request.fields),
            now_unix_seconds: request.now_unix_seconds,
        })
    }

    /// Opens the directory; a missing one is answered with `status_without_directory`.
    fn find(self, root: &FileRoot, status_without_directory: u16) -> Result<Target, FileAnswer> {
        let last = last_segment(&self.name).to_vec();
        let parent = self.name.len().saturating_sub(last.len() + 1);
        let directory = match root.open_directory(&self.name[..parent]) {
            Ok(directory) => directory,
            Err(OpenError::NotFound(_)) => {
                return Err(FileAnswer::error(status_without_directory, "no such directory"));
            }
            Err(error) => return Err(super::answer::error(error)),
        };
        Ok(Target {
            directory,
            name: last,
            method: self.method,
            conditions: self.conditions,
            now_unix_seconds: self.now_unix_seconds,
        })
    }
}

impl Target {
    /// The file as it is now, `None` where there is none, provided the conditions hold for it.
    fn check_conditions(&self) -> Result<Option<Stat>, FileAnswer> {
        let stat = match rustix::fs::statat(&self.directory, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno_error(errno)),
        };
        match stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => return Err(FileAnswer::error(409, "a directory")),
            // A link is the operator's, and may lead anywhere.
            Some(_) => return Err(FileAnswer::error(403, "no regular file")),
        }
        let stamp = stat.as_ref().map(Stamp::of);
        let etag = stamp.as_ref().map(|stamp| stamp.etag(false, ""));
        let current = stamp.as_ref().map(|stamp| Validators {
            etag: etag.as_deref().and_then(|etag| EntityTag::parse(etag.as_bytes())),
            last_modified: stamp.last_modified(self.now_unix_seconds),
        });
        let conditions = self.conditions.borrow();
        match evaluate(self.method.as_str(), current.as_ref(), &conditions) {
            Decision::Proceed => Ok(stat),
            Decision::NotModified | Decision::PreconditionFailed => {
                Err(FileAnswer::error(412, "a condition does not hold"))
            }
        }
    }
}

impl Draft {
    fn create(target: Target) -> Result<Self, FileAnswer> {
        let name = format!(".sumun-upload-{:032x}", fastrand::u128(..));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(&target.directory, &*name, flags, mode).map_err(errno_error)?;
        Ok(Self { target, file: file.into(), name, is_done: false })
    }

    fn complete(mut self, block: &[u8], root: &FileRoot) -> Result<FileAnswer, FileAnswer> {
        self.file.write_all(block).map_err(|error| write_error(&error))?;
        self.file.sync_all().map_err(|error| write_error(&error))?;

        let writing = root.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Once more: another client may have been faster.
        let before = self.target.check_conditions()?;
        if let Some(before) = &before {
            let mode = Mode::from_raw_mode(before.st_mode & 0o777);
            rustix::fs::fchmod(&self.file, mode).map_err(errno_error)?;
        }
        let directory = &self.target.directory;
        rustix::fs::renameat(directory, &*self.name, directory, &*self.target.name).map_err(errno_error)?;
        self.is_done = true;
        root.generation.fetch_add(1, Ordering::Release);
        drop(writing);

        rustix::fs::fsync(directory).map_err(errno_error)?;
        let stat = rustix::fs::fstat(&self.file).map_err(errno_error)?;
        let mut head = Vec::new();
        // RFC 9110 section 9.3.4: allowed, for we have stored what was sent and nothing else.
        line(&mut head, "ETag", Stamp::of(&stat).etag(false, "").as_bytes());
        let status = if before.is_some() {
            204
        } else {
            content_length(&mut head, 0);
            201
        };
        Ok(FileAnswer { status, head: head.into(), body: FileBody::Empty, reason: "" })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done {
            // Nothing more can be done about it here; the name tells the operator what it is.
            rustix::fs::unlinkat(&self.target.directory, &*self.name, AtFlags::empty()).unwrap_or_default();
        }
    }
}

impl OwnedConditions {
    fn of(fields: &FileFields<'_>) -> Self {
        let conditions = fields.conditions();
        Self {
            if_match: conditions.if_match.map(<[u8]>::to_vec),
            if_none_match: conditions.if_none_match.map(<[u8]>::to_vec),
            if_modified_since: conditions.if_modified_since.map(<[u8]>::to_vec),
            if_unmodified_since: conditions.if_unmodified_since.map(<[u8]>::to_vec),
        }
    }

    fn borrow(&self) -> Conditions<'_> {
        Conditions {
            if_match: self.if_match.as_deref(),
            if_none_match: self.if_none_match.as_deref(),
            if_modified_since: self.if_modified_since.as_deref(),
            if_unmodified_since: self.if_unmodified_since.as_deref(),
        }
    }
}

fn lost() -> FileAnswer {
    FileAnswer::error(500, "a disk operation was lost")
}

fn gate_error(error: GateError) -> FileAnswer {
    match error {
        GateError::Busy => FileAnswer::error(503, "too many wait for the disk"),
        GateError::Lost => lost(),
    }
}

fn write_error(error: &io::Error) -> FileAnswer {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => errno_error(errno),
        None => FileAnswer::error(500, "the disk failed"),
    }
}

fn errno_error(errno: Errno) -> FileAnswer {
    match errno {
        Errno::NOSPC | Errno::DQUOT => FileAnswer::error(507, "the disk is full"),
        Errno::FBIG => FileAnswer::error(413, "larger than a file may be"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => FileAnswer::error(403, "no permission to write there"),
        other => super::answer::error(OpenError::from_errno(other)),
    }
}
