//! The messages, and their form in bytes (JSON; descriptors travel beside it).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sumun_config::checked::BindAddress;

use super::limits::REASON_BYTES;
use crate::acme::{ENTRY_BYTES, Entry};
use crate::rooms::{KeptRooms, ROOM_BYTES, RoomName};
use crate::tls::{Blob, Material};

/// From the supervisor to the worker process.
#[derive(Debug)]
pub enum ToWorker {
    /// The first message, sent once.
    Start(Start),
    /// A new config, already checked; answered by `Applied` or `Refused`.
    Apply(Apply),
    /// Accept nothing more, finish what was begun, say `Drained` and end; what still lives after
    /// `deadline` is cut off. Accept queues are emptied first. Sent again, the sooner deadline holds.
    Drain {
        deadline: Duration,
        /// Another worker process has the same sockets and serves: nothing waits for the end of this
        /// one, so connections without a request live until the answer to their next one has told
        /// the client, and the control socket is left to the other at once.
        successor: bool,
    },
    /// Another worker process is about to take over: answer with `RuntimeState`, and change nothing
    /// of it until `GoOn`.
    HandOver,
    /// Nobody takes over after all.
    GoOn,
    /// Answered by `Pong` once every worker thread has answered.
    Ping { id: u64 },
    /// Files of certificates were replaced, or ticket keys rotated: from the next connection on.
    Certificates(Material),
    /// This process is the one that obtains certificates by ACME from now on, until `HandOver`, and
    /// again with `GoOn`.
    CareForCertificates,
    /// Write the access log to this descriptor from now on, and close the old one.
    ReopenLogs { descriptor: Passed },
    /// Answers `Prepared`: the sockets listen from now on, so accept, and say `Ready`.
    Accept,
    /// Answers `HostFilesWanted` where they are not what they were.
    HostFiles(HostFiles),
    /// What a command found that `CheckWanted` asked for.
    CheckEnded { id: u64, verdict: CheckVerdict, words: String },
    /// How a reload or an upgrade went that this worker process asked for. `text` says what changed,
    /// or is the report of what is wrong.
    ReloadResult { id: u64, ok: bool, text: String },
    /// End at once.
    Stop,
}

/// The files of this host that say which name has which address, for a worker process that may not
/// open them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostFiles {
    /// /etc/resolv.conf; empty where it cannot be read.
    pub resolv_conf: String,
    /// /etc/hosts; empty where it cannot be read.
    pub hosts: String,
}

/// What comes of a command that checks a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckVerdict {
    Good,
    Bad,
    /// It was not run, for a reason that is no server's.
    None,
}

/// What a worker process begins with.
pub struct Start {
    /// `Sources::to_json` of the config, as text.
    pub sources: String,
    pub descriptors: Vec<Passed>,
    /// The sockets among them listen. Where not, say `Prepared`, and accept after `Accept`: listen(2)
    /// is the supervisor's, and before it an event loop would take a socket for one that has ended.
    pub listening: bool,
    /// 16 hexadecimal digits, made anew each time a supervisor starts: our name in CDN-Loop
    /// (RFC 8586).
    pub instance: String,
    /// The host's own key, the same after a restart: signs sticky cookies.
    pub state_key: [u8; 32],
    /// What the worker process before this one said of its servers (`RuntimeState`).
    pub runtime: Option<String>,
    /// Certificates, keys and authorities that the config names: a worker process may not read them.
    pub tls: Material,
    /// What is kept of waiting rooms.
    pub rooms: KeptRooms,
}

/// Keeps the key out of logs.
impl std::fmt::Debug for Start {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Start")
            .field("sources_bytes", &self.sources.len())
            .field("descriptors", &self.descriptors)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct Apply {
    /// Comes back in the answer.
    pub id: u64,
    /// `Sources::to_json` of the whole new config, as text.
    pub sources: String,
    /// Only what the worker process has not got yet. What the new config does not name any more
    /// is to be closed.
    pub added: Vec<Passed>,
    /// As in [`Start`], for the whole new config.
    pub tls: Material,
}

/// A descriptor and what it is.
#[derive(Debug)]
pub struct Passed {
    pub label: Label,
    pub descriptor: OwnedFd,
}

/// What a passed descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// A listening socket for one worker. TCP: one of its own for each worker, non-blocking.
    /// Unix: every worker gets the same socket. A worker may get several for one address.
    Listener {
        /// The listener's name in the config.
        listener: String,
        bind: BindAddress,
        /// 0-based.
        worker: usize,
    },
    /// The admin listener.
    Admin,
    /// The Unix socket on which the command line reaches the running instance.
    Control,
    /// Where access log lines go; opened for appending.
    AccessLog,
    /// A device of the cache, opened for this process alone: its lock goes with whoever has it.
    PhysicalVolume {
        /// As the config has it.
        path: PathBuf,
    },
}

/// From the worker process to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// `Start` was understood, and nothing is missing but sockets that listen.
    Prepared,
    /// `Start` was understood and connections are accepted.
    Ready,
    Applied {
        id: u64,
    },
    /// `Apply` with this id, or `Start` (id 0), was refused; the config before it goes on.
    Refused {
        id: u64,
        why: String,
    },
    /// Somebody asked for a reload over the API; `id` comes back in `ReloadResult`.
    ReloadRequested {
        id: u64,
    },
    /// Somebody asked for an upgrade over the API; `id` comes back in `ReloadResult`.
    UpgradeRequested {
        id: u64,
    },
    /// What was changed at run time and is known of servers, for the worker process that comes
    /// next; a piece of a text that the supervisor only keeps. Said when it is asked for, and
    /// whenever an operator changed something.
    RuntimeState {
        piece: String,
        is_last: bool,
    },
    Pong {
        id: u64,
    },
    /// What is to be found again after a restart. Only from the process that cares for certificates.
    Keep {
        entry: Entry,
        content: Blob,
    },
    /// The newest of a waiting room. Only from the process that serves, and of one that hands over
    /// before it says so.
    KeepRoom {
        room: RoomName,
        state: String,
    },
    /// A name is about to be looked up: `HostFiles` is wanted if it is news.
    HostFilesWanted,
    /// A server is to be checked by the command that the config has for its pool: this process may
    /// start none. Answered by `CheckEnded`.
    CheckWanted {
        id: u64,
        pool: String,
        /// As it is called.
        server: String,
        /// `10.0.0.1:80` or `unix:/run/x.sock`.
        address: String,
    },
    /// Somebody asked over the API to drain and end.
    StopRequested,
    /// The last connection is gone; the process is about to end.
    Drained,
}

/// `ToWorker` without its descriptors, which stand in the order of their labels.
#[derive(Serialize, Deserialize)]
enum Written {
    Start {
        sources: String,
        labels: Vec<WrittenLabel>,
        /// A supervisor that does not say so lets them listen from the beginning.
        #[serde(default = "yes")]
        listening: bool,
        instance: String,
        state_key: [u8; 32],
        runtime: Option<String>,
        #[serde(default)]
        tls: Material,
        #[serde(default)]
        rooms: KeptRooms,
    },
    Apply {
        id: u64,
        sources: String,
        labels: Vec<WrittenLabel>,
        #[serde(default)]
        tls: Material,
    },
    Certificates(Material),
    CareForCertificates,
    Drain {
        deadline: Duration,
        successor: bool,
    },
    HandOver,
    GoOn,
    Ping {
        id: u64,
    },
    ReopenLogs {
        label: WrittenLabel,
    },
    Accept,
    HostFiles(HostFiles),
    CheckEnded {
        id: u64,
        verdict: CheckVerdict,
        words: String,
    },
    ReloadResult {
        id: u64,
        ok: bool,
        text: String,
    },
    Stop,
}

#[derive(Serialize, Deserialize)]
enum WrittenLabel {
    Tcp { listener: String, address: SocketAddr, worker: usize },
    Unix { listener: String, path: PathBuf, worker: usize },
    Udp { listener: String, address: SocketAddr, worker: usize },
    Admin,
    Control,
    AccessLog,
    PhysicalVolume { path: PathBuf },
}

fn yes() -> bool {
    true
}

impl ToWorker {
    /// The message in bytes, and the descriptors that go with it in this order.
    pub(super) fn encode(self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (written, descriptors) = match self {
            Self::Start(Start { sources, descriptors, listening, instance, state_key, runtime, tls, rooms }) => {
                let (labels, descriptors) = split(descriptors);
                (Written::Start { sources, labels, listening, instance, state_key, runtime, tls, rooms }, descriptors)
            }
            Self::Apply(Apply { id, sources, added, tls }) => {
                let (labels, descriptors) = split(added);
                (Written::Apply { id, sources, labels, tls }, descriptors)
            }
            Self::Certificates(material) => (Written::Certificates(material), Vec::new()),
            Self::CareForCertificates => (Written::CareForCertificates, Vec::new()),
            Self::Drain { deadline, successor } => (Written::Drain { deadline, successor }, Vec::new()),
            Self::HandOver => (Written::HandOver, Vec::new()),
            Self::GoOn => (Written::GoOn, Vec::new()),
            Self::Ping { id } => (Written::Ping { id }, Vec::new()),
            Self::ReopenLogs { descriptor: Passed { label, descriptor } } => {
                (Written::ReopenLogs { label: label.into() }, vec![descriptor])
            }
            Self::Accept => (Written::Accept, Vec::new()),
            Self::HostFiles(files) => (Written::HostFiles(files), Vec::new()),
            Self::CheckEnded { id, verdict, words } => (Written::CheckEnded { id, verdict, words }, Vec::new()),
            Self::ReloadResult { id, ok, text } => (Written::ReloadResult { id, ok, text }, Vec::new()),
            Self::Stop => (Written::Stop, Vec::new()),
        };
        Ok((serde_json::to_vec(&written)?, descriptors))
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let (message, labels) = match serde_json::from_slice(bytes)? {
            Written::Start { sources, labels, listening, instance, state_key, runtime, tls, rooms } => {
                let descriptors = Vec::new();
                let start = Start { sources, descriptors, listening, instance, state_key, runtime, tls, rooms };
                (Self::Start(start), labels)
            }
            Written::Apply { id, sources, labels, tls } => {
                (Self::Apply(Apply { id, sources, added: Vec::new(), tls }), labels)
            }
            Written::Certificates(material) => (Self::Certificates(material), Vec::new()),
            Written::CareForCertificates => (Self::CareForCertificates, Vec::new()),
            Written::ReopenLogs { label } => {
                let mut passed = join(vec![label], descriptors)?;
                let descriptor = passed.pop().ok_or_else(mismatch)?;
                return Ok(Self::ReopenLogs { descriptor });
            }
            Written::Drain { deadline, successor } => (Self::Drain { deadline, successor }, Vec::new()),
            Written::HandOver => (Self::HandOver, Vec::new()),
            Written::GoOn => (Self::GoOn, Vec::new()),
            Written::Ping { id } => (Self::Ping { id }, Vec::new()),
            Written::Accept => (Self::Accept, Vec::new()),
            Written::HostFiles(files) => (Self::HostFiles(files), Vec::new()),
            Written::CheckEnded { id, verdict, words } => (Self::CheckEnded { id, verdict, words }, Vec::new()),
            Written::ReloadResult { id, ok, text } => (Self::ReloadResult { id, ok, text }, Vec::new()),
            Written::Stop => (Self::Stop, Vec::new()),
        };
        let passed = join(labels, descriptors)?;
        Ok(match message {
            Self::Start(start) => Self::Start(Start { descriptors: passed, ..start }),
            Self::Apply(apply) => Self::Apply(Apply { added: passed, ..apply }),
            other => other,
        })
    }
}

impl FromWorker {
    pub(super) fn encode(mut self) -> io::Result<Vec<u8>> {
        if let Self::Refused { why, .. } = &mut self {
            why.truncate(why.floor_char_boundary(REASON_BYTES));
        }
        if matches!(&self, Self::Keep { content, .. } if content.bytes().len() > ENTRY_BYTES) {
            let text = format!("more than {ENTRY_BYTES} bytes are not kept");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if matches!(&self, Self::KeepRoom { state, .. } if state.len() > ROOM_BYTES) {
            let text = format!("more than {ROOM_BYTES} bytes of a room are not kept");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(serde_json::to_vec(&self)?)
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

fn split(passed: Vec<Passed>) -> (Vec<WrittenLabel>, Vec<OwnedFd>) {
    passed.into_iter().map(|one| (one.label.into(), one.descriptor)).unzip()
}

fn join(labels: Vec<WrittenLabel>, descriptors: Vec<OwnedFd>) -> io::Result<Vec<Passed>> {
    if labels.len() != descriptors.len() {
        return Err(mismatch());
    }
    let passed = labels.into_iter().zip(descriptors);
    Ok(passed.map(|(label, descriptor)| Passed { label: label.into(), descriptor }).collect())
}

fn mismatch() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message has another number of descriptors")
}

impl From<Label> for WrittenLabel {
    fn from(label: Label) -> Self {
        match label {
            Label::Listener { listener, bind: BindAddress::Tcp(address), worker } => {
                Self::Tcp { listener, address, worker }
            }
            Label::Listener { listener, bind: BindAddress::Unix(path), worker } => {
                Self::Unix { listener, path, worker }
            }
            Label::Listener { listener, bind: BindAddress::Udp(address), worker } => {
                Self::Udp { listener, address, worker }
            }
            Label::Admin => Self::Admin,
            Label::Control => Self::Control,
            Label::AccessLog => Self::AccessLog,
            Label::PhysicalVolume { path } => Self::PhysicalVolume { path },
        }
    }
}

impl From<WrittenLabel> for Label {
    fn from(label: WrittenLabel) -> Self {
        match label {
            WrittenLabel::Tcp { listener, address, worker } => {
                Self::Listener { listener, bind: BindAddress::Tcp(address), worker }
            }
            WrittenLabel::Unix { listener, path, worker } => {
                Self::Listener { listener, bind: BindAddress::Unix(path), worker }
            }
            WrittenLabel::Udp { listener, address, worker } => {
                Self::Listener { listener, bind: BindAddress::Udp(address), worker }
            }
            WrittenLabel::Admin => Self::Admin,
            WrittenLabel::Control => Self::Control,
            WrittenLabel::AccessLog => Self::AccessLog,
            WrittenLabel::PhysicalVolume { path } => Self::PhysicalVolume { path },
        }
    }
}
