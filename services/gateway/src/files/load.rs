//! The work at the disk: from a name to what can be answered. Everything in here blocks and runs
//! on the blocking pool.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use sumun_http::conditional::{EntityTag, Validators};
use sumun_http::date;
use sumun_http::media_type;
use sumun_http::negotiate::{Coding, CodingOrder};

use super::compress::compress;
use super::limits::{
    COMPRESS_BYTES_MAX, COMPRESS_BYTES_MIN, COMPRESS_CACHED_BYTES_MAX, MEMORY_FILE_BYTES_MAX, READ_TRIES_MAX,
};
use super::listing;
use super::open_file::OpenFile;
use super::root::{FileRoot, OpenError, Stamp};

/// What to look for.
pub(super) struct Want {
    /// Decoded, below the root.
    pub(super) name: Vec<u8>,
    /// The path ended in a slash.
    pub(super) is_directory: bool,
    pub(super) url_path: String,
    pub(super) order: CodingOrder,
    /// Compression on the fly is wanted.
    pub(super) on_the_fly: bool,
    pub(super) now_unix_seconds: u64,
    /// What was known before; content of files that did not change is taken from it.
    pub(super) previous: Option<Arc<Resource>>,
}

/// What was found.
#[derive(Clone)]
pub(super) enum Loaded {
    File(Arc<Resource>),
    /// A directory that was asked for without its slash.
    Directory,
    Listing(Arc<[u8]>),
    Error(OpenError),
}

/// A file and its codings.
#[derive(Clone)]
pub(super) struct Resource {
    name: Vec<u8>,
    stamp: Stamp,
    /// The compressed files beside it, by [`Coding::index`].
    precompressed: [Option<Stamp>; 4],
    is_compressible: bool,
    /// By [`Coding::index`].
    slots: [Slot; 4],
}

/// A coding of a file, as far as somebody has asked for it.
#[derive(Clone)]
enum Slot {
    Unknown,
    Ready(Arc<Representation>),
    /// Compression on the fly does not make it smaller.
    Useless,
}

/// One coding of a file with the lines of its answers ready.
pub(super) struct Representation {
    stamp: Stamp,
    /// Of the content, in bytes; before compression where that is done as it is sent.
    pub(super) length: u64,
    pub(super) content: Content,
    pub(super) media_type: String,
    etag: String,
    last_modified: Option<u64>,
    /// With `Content-Type` and, where it is known, `Content-Length`.
    pub(super) head_200: Arc<[u8]>,
    pub(super) head_304: Arc<[u8]>,
    /// Lines that a 206 has too, but for its own type, length and range.
    pub(super) head_shared: Vec<u8>,
}

pub(super) enum Content {
    Memory(Arc<[u8]>),
    File(Arc<OpenFile>),
    /// Compressed as it is sent.
    Stream(Arc<OpenFile>, Coding),
}

/// What can go wrong while a file is read.
enum ReadError {
    Open(OpenError),
    /// Another state of the file than the one that was described.
    Changed,
}

/// Looks a name up and makes the representation that `want` would choose ready.
pub(super) fn load(root: &FileRoot, want: &Want) -> Loaded {
    for _ in 0..READ_TRIES_MAX {
        match find(root, want) {
            Ok(found) => return found,
            Err(ReadError::Open(error)) => return Loaded::Error(error),
            Err(ReadError::Changed) => {}
        }
    }
    Loaded::Error(OpenError::Unavailable("the file keeps changing"))
}

fn find(root: &FileRoot, want: &Want) -> Result<Loaded, ReadError> {
    let (file, stat) = root.open_beneath(&want.name)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if want.is_directory => Err(OpenError::NotFound("a file, and no directory").into()),
        FileType::RegularFile => describe(root, want, want.name.clone(), file, &stat),
        FileType::Directory if !want.is_directory => Ok(Loaded::Directory),
        FileType::Directory => {
            drop(file);
            find_index(root, want)
        }
        _ => Err(OpenError::NotFound("no regular file").into()),
    }
}

fn find_index(root: &FileRoot, want: &Want) -> Result<Loaded, ReadError> {
    for index in &root.files.index {
        let name = join(&want.name, index.as_bytes());
        match root.open_beneath(&name) {
            Ok((file, stat)) if is_regular(&stat) => {
                return describe(root, want, name, file, &stat);
            }
            Ok(_) | Err(OpenError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if root.files.list {
        return Ok(Loaded::Listing(listing::page(root, &want.name, &want.url_path)?));
    }
    Err(OpenError::NotFound("a directory without an index file").into())
}

fn describe(root: &FileRoot, want: &Want, name: Vec<u8>, file: File, stat: &Stat) -> Result<Loaded, ReadError> {
    let stamp = Stamp::of(stat);
    let mut resource = Resource {
        is_compressible: root.files.compress
            && (COMPRESS_BYTES_MIN..=COMPRESS_BYTES_MAX).contains(&stamp.size)
            && media_type::is_compressible(root.media_type(&name)),
        precompressed: find_precompressed(root, &name, &stamp),
        name,
        stamp,
        slots: [Slot::Unknown, Slot::Unknown, Slot::Unknown, Slot::Unknown],
    };
    if let Some(previous) = &want.previous {
        resource.keep_unchanged(previous);
    }
    let file = Arc::new(OpenFile::new(file));
    // Each turn settles one coding, so the turns end.
    for _ in 0..=2 * Coding::ALL.len() {
        let coding = resource.choose(&want.order, want.on_the_fly);
        if resource.ready(coding).is_some() {
            return Ok(Loaded::File(Arc::new(resource)));
        }
        resource.fill(root, want, coding, &file)?;
    }
    Err(ReadError::Changed)
}

impl Resource {
    /// The coding for a client: its own order; among what it likes the same, a file that is there
    /// already comes before work. By RFC 9110 section 12.5.3 identity is sent where nothing else is
    /// left, even if the client would rather not.
    pub(super) fn choose(&self, order: &CodingOrder, on_the_fly: bool) -> Coding {
        let better = |coding: &Coding| *coding != Coding::Identity;
        let mut beside = order.iter().take_while(better);
        if let Some(coding) = beside.find(|coding| self.precompressed[coding.index()].is_some()) {
            return coding;
        }
        let is_useful = |coding: &Coding| !matches!(self.slots[coding.index()], Slot::Useless);
        let made = order.iter().take_while(better).find(is_useful);
        match made {
            Some(coding) if self.is_compressible && on_the_fly => coding,
            _ => Coding::Identity,
        }
    }

    /// A representation that somebody has asked for before.
    pub(super) fn ready(&self, coding: Coding) -> Option<&Arc<Representation>> {
        match &self.slots[coding.index()] {
            Slot::Ready(representation) => Some(representation),
            Slot::Unknown | Slot::Useless => None,
        }
    }

    /// What it costs a cache: bytes of memory, and open descriptors.
    pub(super) fn cost(&self) -> (usize, usize) {
        let mut bytes = size_of::<Self>() + self.name.len();
        let mut files = 0;
        for slot in &self.slots {
            let Slot::Ready(representation) = slot else {
                continue;
            };
            bytes += size_of::<Representation>()
                + representation.head_200.len()
                + representation.head_304.len()
                + representation.head_shared.len();
            match &representation.content {
                Content::Memory(content) => bytes += content.len(),
                Content::File(_) | Content::Stream(..) => files += 1,
            }
        }
        (bytes, files)
    }

    /// Takes over what was made of the same state of the same files.
    fn keep_unchanged(&mut self, previous: &Self) {
        if previous.name != self.name || previous.stamp != self.stamp {
            return;
        }
        for coding in Coding::ALL {
            let index = coding.index();
            let is_kept = match (&previous.slots[index], self.precompressed[index]) {
                (Slot::Ready(kept), Some(stamp)) => kept.stamp == stamp,
                // Made of the plain file; or of a compressed one that is gone.
                (Slot::Ready(kept), None) => kept.stamp == self.stamp && previous.varies() == self.varies(),
                (Slot::Useless, None) => true,
                _ => false,
            };
            if is_kept {
                self.slots[index] = previous.slots[index].clone();
            }
        }
    }

    /// The answer depends on `Accept-Encoding`.
    fn varies(&self) -> bool {
        self.is_compressible || self.precompressed.iter().any(Option::is_some)
    }

    fn fill(&mut self, root: &FileRoot, want: &Want, coding: Coding, file: &Arc<OpenFile>) -> Result<(), ReadError> {
        let index = coding.index();
        let now = want.now_unix_seconds;
        if coding != Coding::Identity && self.precompressed[index].is_some() {
            match open_precompressed(root, &self.name, coding) {
                Ok((file, stamp)) => {
                    let content = content_of(&Arc::new(OpenFile::new(file)), &stamp)?;
                    self.precompressed[index] = Some(stamp);
                    self.put(root, coding, stamp, content, false, now);
                }
                // Gone or not readable for us: as if it were not there.
                Err(_) => self.precompressed[index] = None,
            }
            return Ok(());
        }
        if coding == Coding::Identity {
            let content = content_of(file, &self.stamp)?;
            self.put(root, coding, self.stamp, content, false, now);
        } else if self.stamp.size > COMPRESS_CACHED_BYTES_MAX {
            let content = Content::Stream(Arc::clone(file), coding);
            self.put(root, coding, self.stamp, content, true, now);
            // Sent where too many streams are open already.
            if self.ready(Coding::Identity).is_none() {
                let content = Content::File(Arc::clone(file));
                self.put(root, Coding::Identity, self.stamp, content, false, now);
            }
        } else {
            let plain = read_whole(file, &self.stamp)?;
            let compressed = compress(coding, &plain).map_err(|_error| OpenError::Failed("the compressor failed"))?;
            if compressed.len() < plain.len() {
                let content = Content::Memory(compressed.into());
                self.put(root, coding, self.stamp, content, true, now);
            } else {
                self.slots[index] = Slot::Useless;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        root: &FileRoot,
        coding: Coding,
        stamp: Stamp,
        content: Content,
        is_made: bool,
        now_unix_seconds: u64,
    ) {
        // What we compress may come out differently in another version, so its tag is weak.
        let suffix = match coding {
            Coding::Identity => "",
            Coding::Br => "-br",
            Coding::Zstd => "-zstd",
            Coding::Gzip => "-gzip",
        };
        let etag = stamp.etag(is_made, suffix);
        let last_modified = stamp.last_modified(now_unix_seconds);
        let length = match &content {
            Content::Memory(content) => content.len() as u64,
            Content::File(_) | Content::Stream(..) => stamp.size,
        };

        let mut head_304 = Vec::new();
        line(&mut head_304, "ETag", etag.as_bytes());
        if let Some(cache_control) = root.cache_control(&self.name) {
            line(&mut head_304, "Cache-Control", cache_control.as_bytes());
        }
        if self.varies() {
            line(&mut head_304, "Vary", b"Accept-Encoding");
        }
        let mut head_shared = head_304.clone();
        if let Some(last_modified) = last_modified {
            let mut text = [0; date::LENGTH];
            date::format(last_modified, &mut text);
            line(&mut head_shared, "Last-Modified", &text);
        }
        if coding != Coding::Identity {
            line(&mut head_shared, "Content-Encoding", coding.name().as_bytes());
        }
        // Ranges are cut out of what lies on the disk, never out of what we make.
        if !is_made {
            line(&mut head_shared, "Accept-Ranges", b"bytes");
        }
        let media_type = root.media_type(&self.name).to_owned();
        let mut head_200 = Vec::with_capacity(head_shared.len() + 96);
        line(&mut head_200, "Content-Type", media_type.as_bytes());
        if !matches!(content, Content::Stream(..)) {
            content_length(&mut head_200, length);
        }
        head_200.extend_from_slice(&head_shared);

        self.slots[coding.index()] = Slot::Ready(Arc::new(Representation {
            stamp,
            length,
            content,
            media_type,
            etag,
            last_modified,
            head_200: head_200.into(),
            head_304: head_304.into(),
            head_shared,
        }));
    }
}

impl Representation {
    pub(super) fn validators(&self) -> Validators<'_> {
        let etag = EntityTag::parse(self.etag.as_bytes());
        Validators { etag, last_modified: self.last_modified }
    }
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Appends a header line.
pub(super) fn line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

pub(super) fn content_length(head: &mut Vec<u8>, length: u64) {
    line(head, "Content-Length", itoa::Buffer::new().format(length).as_bytes());
}

pub(super) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// A name below a directory; an empty one is the root.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn precompressed_name(name: &[u8], coding: Coding) -> Option<Vec<u8>> {
    let suffix: &[u8] = match coding {
        Coding::Br => b".br",
        Coding::Zstd => b".zst",
        Coding::Gzip => b".gz",
        Coding::Identity => return None,
    };
    Some([name, suffix].concat())
}

/// The compressed files beside a file. One that is older than the file was made of something else
/// and does not count.
fn find_precompressed(root: &FileRoot, name: &[u8], plain: &Stamp) -> [Option<Stamp>; 4] {
    Coding::ALL.map(|coding| {
        if !root.files.precompressed {
            return None;
        }
        let stat = root.stat_beneath(&precompressed_name(name, coding)?).ok()?;
        let stamp = Stamp::of(&stat);
        (is_regular(&stat) && stamp.modified.0 >= plain.modified.0).then_some(stamp)
    })
}

fn open_precompressed(root: &FileRoot, name: &[u8], coding: Coding) -> Result<(File, Stamp), OpenError> {
    const GONE: OpenError = OpenError::NotFound("no compressed file");
    let (file, stat) = root.open_beneath(&precompressed_name(name, coding).ok_or(GONE)?)?;
    if is_regular(&stat) { Ok((file, Stamp::of(&stat))) } else { Err(GONE) }
}

fn content_of(file: &Arc<OpenFile>, stamp: &Stamp) -> Result<Content, ReadError> {
    if stamp.size > MEMORY_FILE_BYTES_MAX {
        return Ok(Content::File(Arc::clone(file)));
    }
    Ok(Content::Memory(read_whole(file, stamp)?.into()))
}

/// Reads a file that has to be in the given state before and after.
fn read_whole(file: &File, stamp: &Stamp) -> Result<Vec<u8>, ReadError> {
    let mut content = vec![0; stamp.size as usize];
    if let Err(error) = file.read_exact_at(&mut content, 0) {
        return Err(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ReadError::Changed,
            _ => OpenError::Failed("the disk failed").into(),
        });
    }
    let stat = rustix::fs::fstat(file).map_err(OpenError::from_errno)?;
    if Stamp::of(&stat) == *stamp { Ok(content) } else { Err(ReadError::Changed) }
}
