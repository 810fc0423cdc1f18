//! Compression on the fly: whole files at once, or as they are sent.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sumun_http::negotiate::Coding;
use tokio::sync::OwnedSemaphorePermit;

use super::gate::DiskGate;
use super::limits::{COMPRESS_CHUNK_BYTES, COMPRESS_READ_BYTES, COMPRESS_STEP_BYTES_MAX};
use super::open_file::OpenFile;

/// Levels where more effort stops to pay for content that is made while somebody waits.
const GZIP_LEVEL: u32 = 5;
const BR_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;

/// Binary logarithm of the window in bytes: keeps the state of one stream below a megabyte, and
/// below the 8 MiB that RFC 9659 lets a decoder expect.
const BR_WINDOW_LOG: u32 = 18;
const ZSTD_WINDOW_LOG: u32 = 18;

/// Between the encoder and its output, bytes.
const BR_BUFFER_BYTES: usize = 4_096;

/// Compresses a whole content.
pub(super) fn compress(coding: Coding, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(coding)?;
    encoder.write_all(content)?;
    encoder.finish()
}

/// A file that is compressed as it is sent. No thread and no place at the disk is taken between
/// two chunks, however slow the client.
pub(crate) struct CompressedStream {
    progress: Progress,
    gate: Arc<DiskGate>,
    /// Counted against the streams of the worker for as long as this lives.
    _place: OwnedSemaphorePermit,
}

enum Progress {
    Open(Box<State>),
    Complete,
    /// A step failed, or was not awaited to its end.
    Lost,
}

struct State {
    encoder: Encoder,
    file: Arc<OpenFile>,
    offset: u64,
    length: u64,
}

enum Encoder {
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    Gzip(Box<flate2::write::GzEncoder<Vec<u8>>>),
    Identity(Vec<u8>),
}

impl CompressedStream {
    pub(super) fn new(
        coding: Coding,
        file: Arc<OpenFile>,
        length: u64,
        gate: Arc<DiskGate>,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let encoder = Encoder::new(coding)?;
        let progress = Progress::Open(Box::new(State { encoder, file, offset: 0, length }));
        Ok(Self { progress, gate, _place: place })
    }

    /// The next piece, never empty; `None` behind the last.
    ///
    /// After an error the answer can only be cut off: it must not look complete. The same holds
    /// when a call was not awaited to its end: the next one then fails.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let state = match std::mem::replace(&mut self.progress, Progress::Lost) {
            Progress::Open(state) => state,
            Progress::Complete => {
                self.progress = Progress::Complete;
                return Ok(None);
            }
            Progress::Lost => return Err(io::Error::other("an earlier step was lost")),
        };
        let (state, chunk) = self.gate.run_in_turn(move || step(state)).await??;
        self.progress = state.map_or(Progress::Complete, Progress::Open);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

/// Compresses until there is enough to send or the file is at its end. Without a state in the
/// result this was the last chunk.
fn step(mut state: Box<State>) -> io::Result<(Option<Box<State>>, Vec<u8>)> {
    let mut buffer = vec![0; COMPRESS_READ_BYTES];
    let mut read_in_step = 0;
    while state.offset < state.length {
        let wanted = (state.length - state.offset).min(buffer.len() as u64) as usize;
        let count = state.file.read_at(&mut buffer[..wanted], state.offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        state.encoder.write_all(&buffer[..count])?;
        state.offset += count as u64;
        read_in_step += count;
        let is_full = state.encoder.output().len() >= COMPRESS_CHUNK_BYTES;
        if is_full || read_in_step >= COMPRESS_STEP_BYTES_MAX {
            state.encoder.flush_if_empty()?;
            let chunk = std::mem::take(state.encoder.output());
            return Ok((Some(state), chunk));
        }
    }
    Ok((None, state.encoder.finish()?))
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        let output = Vec::new();
        Ok(match coding {
            Coding::Br => {
                Self::Br(Box::new(brotli::CompressorWriter::new(output, BR_BUFFER_BYTES, BR_LEVEL, BR_WINDOW_LOG)))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_LOG)?;
                Self::Zstd(Box::new(encoder))
            }
            Coding::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Self::Gzip(Box::new(flate2::write::GzEncoder::new(output, level)))
            }
            Coding::Identity => Self::Identity(output),
        })
    }

    fn write_all(&mut self, content: &[u8]) -> io::Result<()> {
        match self {
            Self::Br(encoder) => encoder.write_all(content),
            Self::Zstd(encoder) => encoder.write_all(content),
            Self::Gzip(encoder) => encoder.write_all(content),
            Self::Identity(output) => output.write_all(content),
        }
    }

    /// What compresses extremely well gives nothing for long; an empty chunk would mean the end.
    fn flush_if_empty(&mut self) -> io::Result<()> {
        if !self.output().is_empty() {
            return Ok(());
        }
        match self {
            Self::Br(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Identity(_) => Ok(()),
        }
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Br(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Identity(output) => output,
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Br(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Identity(output) => Ok(output),
        }
    }
}

/// Undoes a coding, for tests of what was sent.
#[cfg(test)]
pub(super) fn decompress(coding: Coding, content: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut plain = Vec::new();
    match coding {
        Coding::Br => brotli::Decompressor::new(content, 4_096).read_to_end(&mut plain),
        Coding::Zstd => zstd::stream::read::Decoder::new(content).unwrap().read_to_end(&mut plain),
        Coding::Gzip => flate2::read::GzDecoder::new(content).read_to_end(&mut plain),
        Coding::Identity => { content }.read_to_end(&mut plain),
    }
    .unwrap();
    plain
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    fn stream_of(content: &[u8], length: u64, coding: Coding) -> CompressedStream {
        let file = tempfile(content);
        let places = Arc::new(Semaphore::new(1));
        let place = places.try_acquire_owned().unwrap();
        CompressedStream::new(coding, file, length, DiskGate::new(), place).unwrap()
    }

    fn tempfile(content: &[u8]) -> Arc<OpenFile> {
        let path = std::env::temp_dir().join(format!("sumun-compress-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::write(&path, content).unwrap();
        let file = Arc::new(OpenFile::new(File::open(&path).unwrap()));
        std::fs::remove_file(&path).unwrap();
        file
    }

    #[tokio::test]
    async fn streams_give_the_content_back() {
        let mut text: Vec<u8> =
            (0..200_000_u32).flat_map(|i| format!("line {} of a log\n", i * 7).into_bytes()).collect();
        // A long run of nothing, of which an encoder gives out next to nothing.
        text.extend(std::iter::repeat_n(0, 3 * COMPRESS_STEP_BYTES_MAX));
        for coding in Coding::ALL {
            let mut stream = stream_of(&text, text.len() as u64, coding);
            let (mut sent, mut chunks) = (Vec::new(), 0);
            while let Some(chunk) = stream.next().await.unwrap() {
                assert!(!chunk.is_empty());
                sent.extend_from_slice(&chunk);
                chunks += 1;
            }
            assert!(chunks > 3, "{coding:?} came in {chunks} chunks");
            assert!(decompress(coding, &sent) == text, "{coding:?}");
            assert!(stream.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_file_that_shrank_is_an_error() {
        let mut stream = stream_of(b"short", 100, Coding::Gzip);
        assert_eq!(stream.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(stream.next().await.is_err(), "and stays one");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_compressed_can_be_read(content in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            for coding in Coding::ALL {
                let compressed = compress(coding, &content).unwrap();
                prop_assert_eq!(&decompress(coding, &compressed), &content);
            }
        }
    }
}
