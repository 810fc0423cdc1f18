//! Where the cache keeps responses.
//!
//! [`Memory`] holds them within a number of bytes, shared by all workers; a [`Fill`] is one that is
//! on its way from a server and is read while it comes. Neither knows what HTTP is: the law of caching is
//! `sumun_http::cache`, and what a request makes of it is the gateway's business.
//!
//! [`pool`] holds them on disk, in volumes that outlive the process.

mod fill;
pub mod limits;
mod memory;
mod on_disk;
pub mod pool;

pub use fill::{Ended, Fill, First, Next, NoHead, Reader, Unwanted, Writer};
pub use memory::{Key, Memory, Usage};
pub use on_disk::OnDisk;
