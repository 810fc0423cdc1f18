//! The L4 switch: connections and datagrams passed on to servers, whatever they say.
//!
//! ```text
//!   supervisor ── sockets ──► LocalStream (one a worker)
//!                               ├─ accept task (one a TCP or Unix socket) ──► one task a connection:
//!                               │                          open ► choose ► connect ► relay
//!                               └─ datagram task (one a UDP socket) ──► one task a flow: the answers
//! ```
//!
//! Build with `Switch::new`, start with `LocalStream::new` on each worker, change with `take` and
//! `apply`, end with `Worker::drain`. What one connection goes through stands in `path.rs`.

mod backend;
mod control;
mod end;
mod events;
mod front;
mod limits;
mod metrics;
mod path;
mod quic;

pub use control::{LocalStream, Switch};
pub use events::{Reason, Side};
