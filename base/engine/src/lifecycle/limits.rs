//! Bounds of the channel between supervisor and worker process, each with its unit.

use std::time::Duration;

/// A message to the worker process, bytes: the config's sources are in it. A larger one is not sent.
pub const TO_WORKER_BYTES: usize = 64 * 1024 * 1024;

/// A message from the worker process, bytes. A larger one ends the worker process.
pub const FROM_WORKER_BYTES: usize = 64 * 1024;

/// Text in a message from the worker process, bytes; the rest of a reason is cut off by the sender,
/// and of a runtime state sent as further messages.
pub const REASON_BYTES: usize = 8 * 1024;

/// What a worker process may say of its runtime state in all, bytes; more is not kept, and the next
/// worker process begins with what was known before.
pub const RUNTIME_STATE_BYTES: usize = 16 * 1024 * 1024;

/// Descriptors with one message. More are refused: 64 addresses for each of 256 workers.
pub const DESCRIPTORS: usize = 16 * 1024;

/// How long a whole message to the worker process may take, however it is read; then it is given up.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages from the supervisor that may wait for the worker process's control thread.
pub const WAITING_MESSAGES: usize = 16;

/// Commands that check servers and run at once. A worker process asks for no more at a time; where several
/// live and together ask for more, the further ones are not run.
pub const CHECKS_AT_ONCE: usize = 16;

const _: () = assert!(REASON_BYTES * 6 + 1024 < FROM_WORKER_BYTES, "a reason escaped as JSON fits");
const _: () = assert!(crate::rooms::ROOM_BYTES * 5 / 4 + 1024 < FROM_WORKER_BYTES, "a room escaped as JSON fits");
const _: () = assert!(crate::acme::ENTRY_BYTES * 4 / 3 + 1024 < FROM_WORKER_BYTES, "what is kept fits as base64");
