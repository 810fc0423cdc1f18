//! The messages, and their form in bytes (JSON; descriptors travel beside it).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sumun_config::checked::BindAddress;

use super::limits::REASON_BYTES;

/// From the supervisor to the worker process.
#[derive(Debug)]
pub enum ToWorker {
    /// The first message, sent once.
    Start(Start),
    /// A new config, already checked; answered by `Applied` or `Refused`.
    Apply(Apply),
    /// Accept nothing more, finish what was begun, say `Drained` and end; what still lives after
    /// `deadline` is cut off. Accept queues are emptied first unless another worker process has
    /// the same sockets.
    Drain { deadline: Duration },
    /// Write the access log to this descriptor from now on, and close the old one.
    ReopenLogs { descriptor: Passed },
    /// How a reload went that this worker process asked for. `text` says what changed, or is the
    /// report of what is wrong.
    ReloadResult { id: u64, ok: bool, text: String },
    /// End at once.
    Stop,
}

/// What a worker process begins with.
pub struct Start {
    /// `Sources::to_json` of the config, as text.
    pub sources: String,
    pub descriptors: Vec<Passed>,
    /// 16 hexadecimal digits, made anew each time a supervisor starts: our name in CDN-Loop
    /// (RFC 8586).
    pub instance: String,
    /// The host's own key, the same after a restart: signs sticky cookies.
    pub state_key: [u8; 32],
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
}

/// From the worker process to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
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
    /// Somebody asked over the API to drain and end.
    StopRequested,
    /// The last connection is gone; the process is about to end.
    Drained,
}

/// `ToWorker` without its descriptors, which stand in the order of their labels.
#[derive(Serialize, Deserialize)]
enum Written {
    Start { sources: String, labels: Vec<WrittenLabel>, instance: String, state_key: [u8; 32] },
    Apply { id: u64, sources: String, labels: Vec<WrittenLabel> },
    Drain { deadline: Duration },
    ReopenLogs { label: WrittenLabel },
    ReloadResult { id: u64, ok: bool, text: String },
    Stop,
}

#[derive(Serialize, Deserialize)]
enum WrittenLabel {
    Tcp { listener: String, address: SocketAddr, worker: usize },
    Unix { listener: String, path: PathBuf, worker: usize },
    Admin,
    Control,
    AccessLog,
}

impl ToWorker {
    /// The message in bytes, and the descriptors that go with it in this order.
    pub(super) fn encode(self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (written, descriptors) = match self {
            Self::Start(Start { sources, descriptors, instance, state_key }) => {
                let (labels, descriptors) = split(descriptors);
                (Written::Start { sources, labels, instance, state_key }, descriptors)
            }
            Self::Apply(Apply { id, sources, added }) => {
                let (labels, descriptors) = split(added);
                (Written::Apply { id, sources, labels }, descriptors)
            }
            Self::Drain { deadline } => (Written::Drain { deadline }, Vec::new()),
            Self::ReopenLogs { descriptor: Passed { label, descriptor } } => {
                (Written::ReopenLogs { label: label.into() }, vec![descriptor])
            }
            Self::ReloadResult { id, ok, text } => (Written::ReloadResult { id, ok, text }, Vec::new()),
            Self::Stop => (Written::Stop, Vec::new()),
        };
        Ok((serde_json::to_vec(&written)?, descriptors))
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let (message, labels) = match serde_json::from_slice(bytes)? {
            Written::Start { sources, labels, instance, state_key } => {
                let start = Start { sources, descriptors: Vec::new(), instance, state_key };
                (Self::Start(start), labels)
            }
            Written::Apply { id, sources, labels } => (Self::Apply(Apply { id, sources, added: Vec::new() }), labels),
            Written::ReopenLogs { label } => {
                let mut passed = join(vec![label], descriptors)?;
                let descriptor = passed.pop().ok_or_else(mismatch)?;
                return Ok(Self::ReopenLogs { descriptor });
            }
            Written::Drain { deadline } => (Self::Drain { deadline }, Vec::new()),
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
            Label::Admin => Self::Admin,
            Label::Control => Self::Control,
            Label::AccessLog => Self::AccessLog,
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
            WrittenLabel::Admin => Self::Admin,
            WrittenLabel::Control => Self::Control,
            WrittenLabel::AccessLog => Self::AccessLog,
        }
    }
}
