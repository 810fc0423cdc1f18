//! What several parts of the program share of ACME: names of what is kept, and challenges in flight.
//!
//! ```text
//!   base/acme, on the control thread ── Keep ──► supervisor: files ── Material ──► tls: certificates
//!         │ Challenges
//!         ▼
//!   workers: HTTP-01 in the gateway, TLS-ALPN-01 where a certificate is chosen
//! ```

mod challenges;
mod kept;

pub use challenges::{Challenges, Pledge, TLS_PROTOCOL};
pub use kept::{ENTRY_BYTES, Entry, Kept, Names, all, entries};
