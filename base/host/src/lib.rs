//! What the operating system gives: sockets, descriptor passing, files, signals, processes, clocks.
//!
//! Linux only. Everything here is a thin, typed layer over system calls: no policy, no event
//! loop, no knowledge of the config. The one crate that may hold `unsafe`; it has one block, for a
//! socket option that no safe library offers ([`connect`]).

pub mod clock;
pub mod connect;
pub mod files;
pub mod limits;
pub mod pass;
pub mod pipes;
pub mod ports;
pub mod process;
pub mod random;
pub mod signals;
pub mod sockets;
pub mod usage;
pub mod wait;
