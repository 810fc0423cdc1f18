//! The two ends of the channel.
//!
//! A frame is the length of its JSON and the number of its descriptors (both 32 bits, big
//! endian), then the descriptors on marker bytes of their own, then the JSON.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sumun_host::pass;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::limits::{DESCRIPTORS, FROM_WORKER_BYTES, REASON_BYTES, SEND_TIMEOUT, TO_WORKER_BYTES, WAITING_MESSAGES};
use super::message::{FromWorker, ToWorker};

const HEADER_BYTES: usize = 8;

/// The supervisor's end. Reading never waits; writing waits for a worker process that is slow to
/// read, up to a bound for each message.
#[derive(Debug)]
pub struct SupervisorEnd {
    stream: UnixStream,
    /// What came and is not a whole message yet.
    unread: Vec<u8>,
}

impl SupervisorEnd {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { stream, unread: Vec::new() })
    }

    /// For another life of this process: the stream, and what came and is not a whole message yet.
    pub fn parts(&self) -> (BorrowedFd<'_>, &[u8]) {
        (self.stream.as_fd(), &self.unread)
    }

    /// Goes on with what [`Self::parts`] gave.
    pub fn from_parts(stream: UnixStream, unread: Vec<u8>) -> io::Result<Self> {
        Ok(Self { unread, ..Self::new(stream)? })
    }

    /// An error means that this worker process cannot be talked to any more.
    pub fn send(&mut self, message: ToWorker) -> io::Result<()> {
        let (bytes, descriptors) = message.encode()?;
        // There may be keys in it.
        let bytes = Zeroizing::new(bytes);
        if bytes.len() > TO_WORKER_BYTES || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a config of {} bytes with {} sockets is too large (at most {TO_WORKER_BYTES} and {DESCRIPTORS})",
                    bytes.len(),
                    descriptors.len()
                ),
            ));
        }
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let deadline = Instant::now() + SEND_TIMEOUT;
        pass::send_until(&self.stream, &header(bytes.len(), descriptors.len()), deadline)?;
        pass::send_descriptors_until(&self.stream, &borrowed, deadline)?;
        pass::send_until(&self.stream, &bytes, deadline)
    }

    /// The messages that came. `UnexpectedEof` once the worker process has closed its end,
    /// `InvalidData` for a message that cannot be.
    pub fn receive(&mut self) -> io::Result<Vec<FromWorker>> {
        // What lies in the socket's buffer is bounded by the kernel, and each message by us.
        let open = pass::read_available(&self.stream, &mut self.unread, FROM_WORKER_BYTES * 2)?;
        let mut messages = Vec::new();
        while let Some((message, used)) = self.first_message()? {
            messages.push(message);
            self.unread.drain(..used);
        }
        if messages.is_empty() && !open {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(messages)
    }

    fn first_message(&self) -> io::Result<Option<(FromWorker, usize)>> {
        let Some((head, rest)) = self.unread.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (length, descriptors) = parse_header(*head);
        if length > FROM_WORKER_BYTES || descriptors > 0 {
            return Err(invalid("a message from the worker process breaks its bounds"));
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(None);
        };
        Ok(Some((FromWorker::decode(bytes)?, HEADER_BYTES + length)))
    }
}

/// Readable when messages wait or the worker process is gone.
impl AsFd for SupervisorEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The worker process's end. Reading waits: give it a thread of its own ([`Self::spawn`]).
#[derive(Debug)]
pub struct WorkerEnd {
    stream: UnixStream,
}

impl WorkerEnd {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The way back, to be cloned as needed.
    pub fn sender(&self) -> io::Result<WorkerSender> {
        Ok(WorkerSender { stream: Arc::new(Mutex::new(self.stream.try_clone()?)) })
    }

    /// Waits for the next message; `None` when the supervisor is gone.
    pub fn receive(&mut self) -> io::Result<Option<ToWorker>> {
        let mut head = [0_u8; HEADER_BYTES];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let (length, descriptors) = parse_header(head);
        if length > TO_WORKER_BYTES || descriptors > DESCRIPTORS {
            return Err(invalid("a message from the supervisor breaks its bounds"));
        }
        let descriptors = pass::receive_descriptors(&self.stream, descriptors)?;
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.stream.read_exact(&mut bytes)?;
        ToWorker::decode(&bytes, descriptors).map(Some)
    }

    /// Receives on a thread of its own. The queue ends when the supervisor is gone or the channel
    /// broke, which comes to the same: drain and end.
    pub fn spawn(mut self) -> io::Result<mpsc::Receiver<ToWorker>> {
        let (queue, messages) = mpsc::channel(WAITING_MESSAGES);
        std::thread::Builder::new().name("sumun-channel".to_owned()).spawn(move || {
            loop {
                match self.receive() {
                    Ok(Some(message)) => {
                        if queue.blocking_send(message).is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!("the channel to the supervisor broke: {error}");
                        return;
                    }
                }
            }
        })?;
        Ok(messages)
    }
}

/// Sends from the worker process to the supervisor; from any thread.
#[derive(Debug, Clone)]
pub struct WorkerSender {
    stream: Arc<Mutex<UnixStream>>,
}

impl WorkerSender {
    /// Waits only while the supervisor is busy with earlier messages. An error means it is gone.
    pub fn send(&self, message: FromWorker) -> io::Result<()> {
        let bytes = message.encode()?;
        let mut frame = header(bytes.len(), 0).to_vec();
        frame.extend_from_slice(&bytes);
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&frame)
    }

    /// Sends a text of any length as `RuntimeState`. Not from two threads at once: the pieces would mix.
    pub fn send_runtime_state(&self, text: &str) -> io::Result<()> {
        let mut rest = text;
        loop {
            let (piece, behind) = rest.split_at(rest.floor_char_boundary(REASON_BYTES));
            self.send(FromWorker::RuntimeState { piece: piece.to_owned(), is_last: behind.is_empty() })?;
            if behind.is_empty() {
                return Ok(());
            }
            rest = behind;
        }
    }
}

fn header(length: usize, descriptors: usize) -> [u8; HEADER_BYTES] {
    // Both were held against bounds far below 2^32.
    let ([a, b, c, d], [e, f, g, h]) = ((length as u32).to_be_bytes(), (descriptors as u32).to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

fn parse_header([a, b, c, d, e, f, g, h]: [u8; HEADER_BYTES]) -> (usize, usize) {
    (u32::from_be_bytes([a, b, c, d]) as usize, u32::from_be_bytes([e, f, g, h]) as usize)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use proptest::prelude::*;
    use sumun_config::checked::{BindAddress, CertificateFiles};

    use super::super::message::{Apply, CheckVerdict, HostFiles, Label, Passed, Start};
    use super::*;
    use crate::acme::{ENTRY_BYTES, Entry};
    use crate::tls::{Blob, IdentityMaterial, Material};

    fn ends() -> (SupervisorEnd, WorkerEnd) {
        let (left, right) = UnixStream::pair().unwrap();
        (SupervisorEnd::new(left).unwrap(), WorkerEnd::new(right))
    }

    fn labels() -> impl Strategy<Value = Vec<Label>> {
        let label = prop_oneof![
            ("[a-z]{1,9}", any::<IpAddr>(), any::<u16>(), 0..8_usize).prop_map(|(listener, address, port, worker)| {
                Label::Listener { listener, bind: BindAddress::Tcp(SocketAddr::new(address, port)), worker }
            }),
            ("\\PC{1,9}", "/[a-z가-힣 ]{1,20}", 0..8_usize).prop_map(|(listener, path, worker)| {
                Label::Listener { listener, bind: BindAddress::Unix(PathBuf::from(path)), worker }
            }),
            Just(Label::Admin),
            Just(Label::Control),
            Just(Label::AccessLog),
            "/[a-z가-힣 ]{1,20}".prop_map(|path| Label::PhysicalVolume { path: PathBuf::from(path) }),
        ];
        proptest::collection::vec(label, 0..12)
    }

    fn passed(labels: &[Label]) -> Vec<Passed> {
        let descriptor = || UnixStream::pair().unwrap().0.into();
        labels.iter().map(|label| Passed { label: label.clone(), descriptor: descriptor() }).collect()
    }

    /// With bytes that are no text, in a file whose name is none either.
    fn material(bytes: &[u8; 32]) -> Material {
        let path = PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
        let files = CertificateFiles { certificate: path.clone(), key: path, ocsp: None };
        let blob = || Blob::new(bytes.to_vec());
        let identities = vec![IdentityMaterial::new(&files, blob(), blob(), Some(blob()))];
        Material { identities, authorities: vec![(blob(), blob())], system: vec![blob()], ..Material::default() }
    }

    fn entry() -> Entry {
        serde_json::from_str("\"a.example-0123456789abcdef.pem\"").unwrap()
    }

    fn labels_of(passed: &[Passed]) -> Vec<Label> {
        passed.iter().map(|one| one.label.clone()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn start_and_apply_arrive_as_they_were_sent(
            labels in labels(),
            sources in "\\PC{0,400}",
            state_key in any::<[u8; 32]>(),
            id in any::<u64>(),
        ) {
            let (mut supervisor, mut worker) = ends();
            supervisor.send(ToWorker::Start(Start {
                sources: sources.clone(),
                descriptors: passed(&labels),
                listening: id % 2 == 0,
                instance: "0123456789abcdef".to_owned(),
                state_key,
                runtime: Some(sources.clone()),
                tls: material(&state_key),
                rooms: crate::rooms::KeptRooms::from([(crate::rooms::RoomName::of(&sources, "/"), sources.clone())]),
            })).unwrap();
            supervisor.send(ToWorker::Apply(Apply {
                id,
                sources: sources.clone(),
                added: passed(&labels),
                tls: Material::default(),
            })).unwrap();
            supervisor.send(ToWorker::Certificates(material(&state_key))).unwrap();
            let Some(ToWorker::Start(start)) = worker.receive().unwrap() else { panic!() };
            prop_assert_eq!(&start.sources, &sources);
            prop_assert_eq!(start.listening, id % 2 == 0);
            prop_assert_eq!(start.state_key, state_key);
            prop_assert_eq!(start.runtime.as_ref(), Some(&sources));
            prop_assert_eq!(start.tls, material(&state_key));
            prop_assert_eq!(labels_of(&start.descriptors), labels.clone());
            let Some(ToWorker::Apply(apply)) = worker.receive().unwrap() else { panic!() };
            prop_assert_eq!(apply.id, id);
            prop_assert_eq!(apply.sources, sources);
            prop_assert_eq!(labels_of(&apply.added), labels);
            let Some(ToWorker::Certificates(received)) = worker.receive().unwrap() else { panic!() };
            prop_assert_eq!(received, material(&state_key));
        }

        #[test]
        fn answers_arrive_in_whatever_pieces(
            id in any::<u64>(),
            why in "\\PC{0,200}",
            cut in 1..40_usize,
        ) {
            let sent = [
                FromWorker::Prepared,
                FromWorker::Ready,
                FromWorker::Refused { id, why },
                FromWorker::Applied { id },
                FromWorker::ReloadRequested { id },
                FromWorker::UpgradeRequested { id },
                FromWorker::RuntimeState { piece: "{}".to_owned(), is_last: true },
                FromWorker::Pong { id },
                FromWorker::Keep { entry: entry(), content: Blob::new(vec![7; ENTRY_BYTES]) },
                FromWorker::HostFilesWanted,
                FromWorker::CheckWanted { id, pool: "app".to_owned(), server: "a:1".to_owned(), address: String::new() },
                FromWorker::StopRequested,
                FromWorker::Drained,
            ];
            let (mut stream, far_end) = UnixStream::pair().unwrap();
            let mut supervisor = SupervisorEnd::new(far_end).unwrap();
            let mut bytes = Vec::new();
            for message in &sent {
                let json = message.clone().encode().unwrap();
                bytes.extend(header(json.len(), 0));
                bytes.extend(json);
            }
            let mut received = Vec::new();
            for piece in bytes.chunks(cut) {
                stream.write_all(piece).unwrap();
                received.extend(supervisor.receive().unwrap());
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn no_bytes_of_a_worker_process_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut stream, far_end) = UnixStream::pair().unwrap();
            let mut supervisor = SupervisorEnd::new(far_end).unwrap();
            stream.write_all(&bytes).unwrap();
            drop(stream);
            prop_assert!(supervisor.receive().is_err());
        }
    }

    #[test]
    fn small_messages_and_the_end() {
        let (mut supervisor, mut worker) = ends();
        let deadline = Duration::from_millis(1500);
        let descriptor = passed(&[Label::AccessLog]).remove(0);
        supervisor.send(ToWorker::Drain { deadline, successor: true }).unwrap();
        supervisor.send(ToWorker::HandOver).unwrap();
        supervisor.send(ToWorker::GoOn).unwrap();
        supervisor.send(ToWorker::CareForCertificates).unwrap();
        supervisor.send(ToWorker::Accept).unwrap();
        supervisor.send(ToWorker::Ping { id: 9 }).unwrap();
        let files = HostFiles { resolv_conf: "nameserver ::1\n".to_owned(), hosts: String::new() };
        supervisor.send(ToWorker::HostFiles(files.clone())).unwrap();
        supervisor.send(ToWorker::ReopenLogs { descriptor }).unwrap();
        supervisor.send(ToWorker::ReloadResult { id: 7, ok: false, text: "line\n".to_owned() }).unwrap();
        let (verdict, words) = (CheckVerdict::Bad, "no".to_owned());
        supervisor.send(ToWorker::CheckEnded { id: 8, verdict, words: words.clone() }).unwrap();
        supervisor.send(ToWorker::Stop).unwrap();
        drop(supervisor);
        let mut next = || worker.receive().unwrap();
        assert!(matches!(next(), Some(ToWorker::Drain { deadline: d, successor: true }) if d == deadline));
        assert!(matches!(next(), Some(ToWorker::HandOver)));
        assert!(matches!(next(), Some(ToWorker::GoOn)));
        assert!(matches!(next(), Some(ToWorker::CareForCertificates)));
        assert!(matches!(next(), Some(ToWorker::Accept)));
        assert!(matches!(next(), Some(ToWorker::Ping { id: 9 })));
        assert!(matches!(next(), Some(ToWorker::HostFiles(got)) if got == files));
        assert!(matches!(next(), Some(ToWorker::ReopenLogs { descriptor }) if descriptor.label == Label::AccessLog));
        assert!(matches!(next(), Some(ToWorker::ReloadResult { id: 7, ok: false, text }) if text == "line\n"));
        assert!(matches!(
            next(),
            Some(ToWorker::CheckEnded { id: 8, verdict: CheckVerdict::Bad, words: said }) if said == words
        ));
        assert!(matches!(next(), Some(ToWorker::Stop)));
        assert!(next().is_none());
    }

    #[test]
    fn what_was_sent_before_the_end_is_still_read() {
        let (mut supervisor, worker) = ends();
        worker.sender().unwrap().send(FromWorker::Drained).unwrap();
        drop(worker);
        assert_eq!(supervisor.receive().unwrap(), [FromWorker::Drained]);
        assert_eq!(supervisor.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_channel_goes_on_in_another_life_with_half_a_message() {
        let (mut stream, far_end) = UnixStream::pair().unwrap();
        let mut supervisor = SupervisorEnd::new(far_end).unwrap();
        let json = FromWorker::Pong { id: 3 }.encode().unwrap();
        let bytes = [header(json.len(), 0).as_slice(), &json].concat();
        stream.write_all(&bytes[..11]).unwrap();
        assert!(supervisor.receive().unwrap().is_empty());
        let (descriptor, unread) = supervisor.parts();
        let descriptor = descriptor.try_clone_to_owned().unwrap();
        let mut next = SupervisorEnd::from_parts(descriptor.into(), unread.to_vec()).unwrap();
        stream.write_all(&bytes[11..]).unwrap();
        assert_eq!(next.receive().unwrap(), [FromWorker::Pong { id: 3 }]);
    }

    #[test]
    fn a_long_text_travels_in_pieces() {
        let (mut supervisor, worker) = ends();
        let text = "\u{1}\u{d55c}".repeat(10_000);
        worker.sender().unwrap().send_runtime_state(&text).unwrap();
        let mut gathered = String::new();
        let mut last = false;
        while !last {
            for message in supervisor.receive().unwrap() {
                let FromWorker::RuntimeState { piece, is_last } = message else { panic!("{message:?}") };
                gathered.push_str(&piece);
                last = is_last;
            }
        }
        assert_eq!(gathered, text);
    }

    #[test]
    fn what_is_too_large_to_be_kept_is_not_sent() {
        let (_supervisor, worker) = ends();
        let content = Blob::new(vec![7; ENTRY_BYTES + 1]);
        let sent = worker.sender().unwrap().send(FromWorker::Keep { entry: entry(), content });
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_long_reason_is_cut_and_not_refused() {
        let (mut supervisor, worker) = ends();
        let why = "\u{1}".repeat(FROM_WORKER_BYTES);
        worker.sender().unwrap().send(FromWorker::Refused { id: 1, why }).unwrap();
        let received = supervisor.receive().unwrap();
        assert!(matches!(received.as_slice(), [FromWorker::Refused { id: 1, .. }]));
    }

    #[test]
    fn the_thread_ends_the_queue_with_the_supervisor() {
        let (mut supervisor, worker) = ends();
        let mut messages = worker.spawn().unwrap();
        supervisor.send(ToWorker::Stop).unwrap();
        drop(supervisor);
        assert!(matches!(messages.blocking_recv(), Some(ToWorker::Stop)));
        assert!(messages.blocking_recv().is_none());
    }
}
