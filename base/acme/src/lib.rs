//! Certificates obtained and renewed by ACME: RFC 8555, HTTP-01 and TLS-ALPN-01 (RFC 8737), IP
//! addresses (RFC 8738), renewal information (RFC 9773).
//!
//! ```text
//!   control thread of the worker process that cares for certificates
//!     care.rs: a task for each certificate ── schedule.rs says when, progress.rs what is known
//!        │ order.rs: one order, from the account to the chain
//!        │ fetch.rs: HTTP over our own TLS, below instant-acme
//!        ├── Challenges ──► workers answer the authority
//!        └── Keep ──► supervisor: files, and the certificate for all processes
//! ```
//!
//! It asks for no wildcards (no DNS-01), revokes nothing, and never deletes an account.

mod care;
mod fault;
mod fetch;
pub mod limits;
mod order;
mod progress;
pub mod schedule;
mod show;

pub use care::{Acme, Inputs};
pub use show::{Row, Shown, State};
