//! Bounds of the binary, each with its unit and what happens at it.

use std::time::Duration;

/// A worker process that is not ready after this long is ended and counts as failed.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker process that does not answer a new config within this is replaced by a new one.
pub(crate) const APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Beyond its drain deadline a worker process gets this long to end before it is killed.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// After "stop at once" a worker process gets this long before it is killed.
pub(crate) const STOP_GRACE: Duration = Duration::from_millis(500);

/// First and longest pause before a dead worker process is started again; it doubles each time.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
pub(crate) const BACKOFF_LONGEST: Duration = Duration::from_secs(10);

/// A worker process that lived this long is healthy: its end begins the backoff anew.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// How often a worker process that serves is asked whether each of its threads answers.
pub(crate) const QUESTION_EVERY: Duration = Duration::from_secs(5);

/// Questions in a row, each with its time, of which none was answered: the worker process hangs, and is
/// replaced. After 30 s: under any load that can be served, an answer takes no such time.
pub(crate) const QUESTIONS_UNANSWERED: u32 = 6;

/// Worker processes that drain at once; beyond it the one that drains longest ends what it has left.
pub(crate) const DRAINING_PROCESSES: usize = 4;

/// A worker process that is to hand over has this long to say what it knows of its servers; then
/// the next one begins with what it said last.
pub(crate) const RUNTIME_STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// A new program has this long to say whether it can go on from the state of the running one; then
/// it is killed and the upgrade refused.
pub(crate) const REHEARSAL_TIMEOUT: Duration = Duration::from_secs(20);

/// What it may say, bytes; more is not read, and it runs into its timeout.
pub(crate) const REHEARSAL_BYTES: usize = 64 * 1024;

/// The supervisor's state that an upgrade hands over, bytes; a larger one refuses the upgrade. A
/// config has less than a message to the worker process has, and its servers' state less than this.
pub(crate) const STATE_BYTES: u64 = 128 * 1024 * 1024;

/// What a command that checks a server may print, bytes; then its output is closed. Its first line is shown.
pub(crate) const CHECK_OUTPUT_BYTES: usize = 64 * 1024;

/// Commands that check servers started in a second; whoever asks for more is told that they are too many,
/// and the server is what it was. A worker process gone mad has no more than these forked.
pub(crate) const CHECKS_PER_SECOND: u32 = 200;

/// The name of a server that a command is told of, bytes; with a longer one it is not run. A name of DNS
/// and an address fit.
pub(crate) const CHECK_NAME_BYTES: usize = 512;

/// How often the files of certificates are looked at. A new one is in force after twice that.
pub(crate) const CERTIFICATES_EVERY: Duration = Duration::from_secs(1);

/// Certificates whose files are looked at in one go; with more, each has its turn later.
pub(crate) const CERTIFICATES_AT_ONCE: usize = 256;

/// Reload requests that wait for the one in progress; a further one is refused.
pub(crate) const WAITING_RELOADS: usize = 64;

/// Reloads that the API of a worker process has asked for and waits for; a further one is refused.
pub(crate) const PENDING_RELOADS: usize = 64;

/// What is read of /etc/resolv.conf and /etc/hosts, bytes; of a larger file nothing is used.
pub(crate) const HOST_FILE_BYTES: u64 = 1024 * 1024;

/// An answer of the API to the command line, bytes; a longer one is an error.
pub(crate) const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How long the command line waits for an answer: longer than a reload may take.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);

/// How long `sumun stop` waits beyond `drain:` before it says that the instance still runs.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Taken for `drain:` where the file cannot be read any more.
pub(crate) const UNKNOWN_DRAIN: Duration = Duration::from_secs(60);

/// URLs that `sumun cache warm` takes; more are refused before the first is asked for.
pub(crate) const WARM_URLS: usize = 1_000_000;

/// One of them, bytes; a longer one is refused.
pub(crate) const WARM_URL_BYTES: usize = 8 * 1024;

/// One list or sitemap, bytes when unpacked: sitemaps have 50 MB at most. A longer one is refused.
pub(crate) const WARM_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// An index and all of its sitemaps, bytes when unpacked; more are refused.
pub(crate) const WARM_BYTES: u64 = 512 * 1024 * 1024;

/// How deep elements of a sitemap may lie; with deeper ones it is refused. Extensions need 5.
pub(crate) const WARM_DEPTH: usize = 16;

/// Lines that are no URL and are named; of further ones only their number is.
pub(crate) const WARM_WRONG: usize = 10;

/// Different reasons for not storing that are counted apart, and the bytes of each; further ones are `other`.
pub(crate) const WARM_REASONS: usize = 32;
pub(crate) const WARM_REASON_BYTES: usize = 64;

/// Requests that failed and are named; further ones are only counted.
pub(crate) const WARM_FAILURES: usize = 5;

/// Addresses of `--to` that are tried.
pub(crate) const WARM_ADDRESSES: usize = 16;

/// Each step of getting a connection and of sending a request; then the request has failed.
pub(crate) const WARM_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until the head of an answer is there: longer than the gateway waits for two servers.
pub(crate) const WARM_HEAD_TIMEOUT: Duration = Duration::from_secs(70);

/// Until its body has ended. The gateway goes on with one that it stores.
pub(crate) const WARM_BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// How often there is a line where there is no terminal.
pub(crate) const WARM_LINE_EVERY: Duration = Duration::from_secs(5);

const _: () = assert!(ANSWER_TIMEOUT.as_secs() > APPLY_TIMEOUT.as_secs() + START_TIMEOUT.as_secs());
const _: () = assert!(
    ANSWER_TIMEOUT.as_secs() > REHEARSAL_TIMEOUT.as_secs() + RUNTIME_STATE_TIMEOUT.as_secs() + START_TIMEOUT.as_secs()
);
