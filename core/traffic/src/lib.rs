//! Balancing, retry budgets, outlier detection, slow start and queue discipline, without IO or clock.
//!
//! Time comes in as `now_ms` (milliseconds of any clock that never steps back), chance comes in as
//! `u64`s, and load comes in as a function of a candidate's index. So a pick can be replayed, and
//! the same code serves HTTP, TCP and DNS.
//!
//! ```text
//! balance        which candidate: p2c, round-robin, least-request, random, hash, maglev, first
//!   draw           weighted draw in two table reads (Walker's alias method, built as Vose does)
//!   turns          weighted turns, spread evenly (round-robin)
//!   rendezvous     highest score of (key, server), within a bound of load (hash)
//!   maglev         lookup table with small disruption (maglev)
//! health         rise and fall of active checks
//! outlier        when live failures eject a server, and for how long
//! slow_start     how much of its weight a server that came back has already
//! retry_budget   how many retries the requests of the last seconds have earned
//! token_bucket   so many a period, with a burst
//! sliding        so many in a window that slides
//! keyed          a word for each of very many keys, in a table of fixed size
//! limiter        token buckets and sliding windows of very many keys
//! rates          token buckets of one rate
//! pacer          a bandwidth that several share
//! priority       who goes first
//! queue          bounded, by priority, newest first while it does not empty
//! adaptive       how many requests at once a server serves best, found out from its answers
//! level          who is refused while a pool is overloaded, the same ones for a while
//! throttle       who is sent to servers that refuse most of what they get
//! waiting_room   visitors by number: who waits, who is called, who is inside
//! space_saving   who comes most often, of very many
//! top            the same of the last minutes, added up over threads, with its texts
//! asn            which autonomous system an address belongs to
//! blocks         who is blocked until when, and who has earned it
//! pressure       how near a process is to its own limits, and what it gives up for that
//! self_calls     how much of a pool its own servers may hold by calling it
//! ```
//!
//! Not here: who the servers are, their shared counters, waiting and waking (`sumun-pools`).

pub mod adaptive;
pub mod asn;
pub mod balance;
pub mod blocks;
mod draw;
pub mod health;
pub mod key;
mod keyed;
pub mod level;
pub mod limiter;
pub mod limits;
mod maglev;
pub mod outlier;
pub mod pacer;
pub mod pressure;
pub mod priority;
pub mod queue;
pub mod rates;
mod rendezvous;
pub mod retry_budget;
pub mod self_calls;
pub mod sliding;
pub mod slow_start;
pub mod space_saving;
pub mod throttle;
pub mod token_bucket;
pub mod top;
mod turns;
pub mod waiting_room;

pub use balance::{Balancer, Candidate, Method};
pub use priority::Priority;
