//! What the operating system gives: sockets, descriptor passing, files, signals, processes, clocks.
//!
//! Linux only. Everything here is a thin, typed layer over system calls: no policy, no event
//! loop, no knowledge of the config. The one crate that may hold `unsafe`; what no safe library offers
//! is a few socket options, batches of datagrams ([`datagrams`]), the mask of signals ([`signals`]), to own what the service manager
//! has opened ([`given`]), what a child does before it is another program ([`group`]), the program's own pages ([`image`]), to read memory that is a file ([`pages`]), and to try what the sandbox refuses ([`sandbox::acts`]).

pub mod child;
pub mod clock;
pub mod connect;
pub mod datagrams;
pub mod files;
pub mod given;
pub mod group;
pub mod image;
pub mod limits;
pub mod memory;
pub mod notify;
mod options;
pub mod pages;
pub mod pass;
pub mod pipes;
pub mod ports;
pub mod process;
pub mod program;
pub mod random;
pub mod sandbox;
pub mod signals;
pub mod sockets;
pub mod usage;
pub mod users;
pub mod wait;
