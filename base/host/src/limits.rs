//! Bounds of this crate, each with its unit and what happens at it.

/// Length of the accept queue asked for, connections. The kernel takes the smaller of this and
/// `net.core.somaxconn`; a client beyond it has its SYN dropped and tries again.
pub const BACKLOG_CONNECTIONS: i32 = 4096;

/// Descriptors in one message: the kernel's SCM_MAX_FD. More are sent as further messages.
pub const DESCRIPTORS_PER_MESSAGE: usize = 253;

/// Processes looked at to name the holder of a TCP port; beyond it the holder stays unnamed.
pub const PROCESSES_SEARCHED: usize = 4096;

/// Bytes read of a file in /proc; what lies beyond is not looked at.
pub const PROC_FILE_BYTES: u64 = 4 * 1024 * 1024;
