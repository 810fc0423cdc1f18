//! What the supervisor and its worker process say to each other, and how it travels.
//!
//! ```text
//!   supervisor                                     worker process
//!   SupervisorEnd ── ToWorker + descriptors ──►  WorkerEnd (a thread of its own)
//!                 ◄── FromWorker ──────────────  WorkerSender (from any thread)
//! ```
//!
//! The channel is a Unix stream socket, the worker process's standard input. A worker process
//! begins with `Start`, answers `Ready` or `Refused { id: 0 }`, then serves until `Drain`, `Stop`
//! or the end of the channel (the supervisor is gone: drain and end). With sockets that do not listen
//! yet, `Prepared` and `Accept` come before `Ready`.
//!
//! The supervisor trusts no byte of a worker process: its messages are small, bounded, without
//! descriptors, and a broken one ends that worker process.

mod channel;
pub mod limits;
mod message;

pub use channel::{SupervisorEnd, WorkerEnd, WorkerSender};
/// Which messages there are and what they mean. A supervisor and a worker process of different
/// versions of the program understand each other where this is the same: it is raised whenever an
/// older one would misunderstand a newer one, and not for what it may ignore.
pub const VERSION: u32 = 1;

pub use message::{Apply, CheckVerdict, FromWorker, HostFiles, Label, Passed, Start, ToWorker};
