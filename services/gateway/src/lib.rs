//! The L7 gateway: HTTP/1.1 and HTTP/2 in front of application servers and files.
//!
//! ```text
//!   supervisor ── sockets ──► LocalGateway (one a worker)
//!                               ├─ accept task (one a socket) ──► serve task (one a connection)
//!                               └─ idle sweep (one)                 └─ ServerConnection while it needs one
//! ```
//!
//! Build with `Gateway::new`, start with `LocalGateway::new` on each worker, change with `take` and `apply`,
//! end with `Worker::drain`. What one request goes through stands in `path.rs`.

mod asn;
mod blocks;
mod cache;
mod challenge;
mod client;
mod control;
mod events;
mod files;
mod heads;
mod http2;
mod io;
mod limiting;
mod limits;
pub mod metrics;
mod number;
mod path;
pub mod rooms;
mod sharing;
mod site;
mod traffic;
mod upstream;

pub use blocks::Blocked;
pub use cache::{CacheReport, Finding, PhysicalVolumeReport, PurgeScope, StorageReport, VolumeReport};
pub use control::{Gateway, LocalGateway};
pub use events::{Reason, Side};
pub use rooms::{RoomTotal, Rooms};
pub use traffic::{Row, Totals, Traffic};
