//! TLS: certificates and tickets in force, and connections over TLS.
//!
//! ```text
//!   supervisor: reads files ── Material ──► control thread: Tls::apply builds, then swaps
//!                                                │ ArcSwap, one for each address and pool
//!                                                ▼
//!   worker: accepted or connected socket ── TlsListener::accept, TlsConnector::connect ──► TlsStream
//! ```
//!
//! rustls runs without buffers of its own ([`rustls::unbuffered`]): records are read into, and
//! encrypted into, buffers that the worker leases out and gets back before the connection waits.
//! With rustls' buffered interface an idle connection would keep 4 KiB for the next record, and
//! every read would be of 4 KiB at most: five system calls for one full record.

mod async_io;
mod client;
mod failure;
pub mod limits;
mod material;
mod metrics;
mod obtained;
mod pairs;
mod records;
mod registry;
mod server;
mod sessions;
mod store;
mod stream;
mod tickets;
mod transport;
mod verifier;

pub use client::{Offer, TlsConnector, TlsPool, knock, server_name};
pub use failure::{Alert, Failure, Reason};
pub use material::{Blob, IdentityMaterial, Material, of_path};
pub use metrics::HandshakeCounts;
pub use registry::Tls;
pub use rustls::pki_types::ServerName;
pub use server::TlsListener;
pub use stream::{Peer, Session, TlsStream};
pub use tickets::{KEY_RANDOM_BYTES, TicketKeys};
pub use transport::Transport;

#[cfg(test)]
mod tests;
