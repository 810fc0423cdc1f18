//! Pools of servers: state, picks, health checks, name resolution.
//!
//! ```text
//!   control thread (one)                      workers (one thread each)
//!   ---------------------------------         ------------------------------------------
//!   Pools::apply(&Config)   reload            Picker   one per pool and worker, not shared:
//!   operations, carry       admin API, next process    ready list of servers, random numbers,
//!   health::run             checks, news               the worker's share of the retry budget
//!   resolve::run            names
//!        |                                       |  pick(now_ms, key, tried) -> Lease
//!        |  replaces            adds one         |  reports, leaves
//!        v                         |             v
//!   +----------------------------------------------------------------------------------+
//!   | Pool, shared by all as Arc                                                       |
//!   |   generation   atomic: "look again", raised by whoever changes what can be taken |
//!   |   settings     ArcSwap<config>   \  replaced whole; a picker holds its own Arc   |
//!   |   set          ArcSwap<ServerSet> /  and looks only when the generation changed  |
//!   |   admission    atomics; concurrency of the pool, self calls; lock at the limit   |
//!   |   room         atomic + lock: who waits for a place; lock only when somebody     |
//!   |                waits                                                             |
//!   |   throttle     atomics; how much is sent to servers that refuse                    |
//!   |   traces       16 shards with a lock each; only requests with a traceparent      |
//!   |                                                                                  |
//!   |   Server (Arc, lives on through reloads)                                         |
//!   |     in_flight, requests, failures in a row      touched by every request         |
//!   |     weight, operator's state, health, ejection  read when the list is made anew  |
//!   |     texts for the API                           lock, control side only          |
//!   +----------------------------------------------------------------------------------+
//! ```
//!
//! A [`Lease`] is a place at one server for one request, freed when it is dropped. The steps of a
//! request: `admission().acquire`, `Picker::pick` (and `Pool::wait_for_place` where all places are
//! taken), talk to `lease.target()`, `lease.report`, and where it failed, `Tried::insert` and
//! `Picker::may_retry` before the next pick.
//!
//! A [`Dialer`] makes connections to the servers. Not here: what is kept of them (each worker keeps
//! its own), and what a request is.

pub mod admission;
mod capacity;
mod carry;
mod check;
mod dial;
mod door;
pub mod external;
pub mod health;
mod lease;
pub mod limits;
mod meter;
pub mod operations;
mod picker;
mod pool;
mod pools;
pub mod redis;
pub mod resolve;
mod roster;
mod server;
mod set;
mod sticky;
mod tasks;
mod throttle;
mod trace;
mod tried;

pub use admission::{Admission, AdmissionLimits, Asker, Caller, NotAdmitted, Permit};
pub use dial::{DialError, Dialed, Dialer};
pub use lease::{Lease, Outcome};
pub use operations::{OperationError, PoolStatus, ServerCounts, ServerStatus};
pub use picker::{Named, PickKey, Picker, Refused, Wants};
pub use pool::{Pool, patience_ms};
pub use pools::Pools;
pub use server::{AdminState, Server, Target};
pub use set::{Member, ServerSet};
pub use sumun_traffic::Priority;
pub use sumun_traffic::health::Health;
pub use sumun_traffic::key::key_of;
pub use throttle::{Sent, Throttle};
pub use trace::TraceGuard;
pub use tried::Tried;
