//! Bounds of this crate, each with its unit and what happens at it.

/// Length of the accept queue asked for, connections. The kernel takes the smaller of this and
/// `net.core.somaxconn`; a client beyond it has its SYN dropped and tries again.
pub const BACKLOG_CONNECTIONS: i32 = 4096;

/// Descriptors in one message: the kernel's SCM_MAX_FD. More are sent as further messages.
pub const DESCRIPTORS_PER_MESSAGE: usize = 253;

/// Processes looked at to name the holder of a port; beyond it the holder stays unnamed.
pub const PROCESSES_SEARCHED: usize = 4096;

/// Bytes read of a file in /proc; what lies beyond is not looked at.
pub const PROC_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Messages that one call receives or sends. More wait in the socket's queue for the next call. Four
/// times as many made a small datagram 3 % cheaper, measured once, and could take four times the memory.
pub const MESSAGES_PER_BATCH: usize = 16;

/// Room for each message of a batch, bytes: no train of datagrams is longer, since all of it has to
/// fit the length of an IP packet. The memory is there once bytes lie in it.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Datagrams of a train that is sent in one piece: UDP_MAX_SEGMENTS of kernels before 6.11. A longer
/// one is sent as several.
pub const DATAGRAMS_PER_TRAIN: usize = 64;

/// Bytes of a train that is sent in one piece: what fits an IPv4 packet. A longer one is sent as
/// several.
pub const TRAIN_BYTES: usize = 65_507;

/// Memory asked for the queue of a UDP socket that clients send to, bytes. The kernel takes the
/// smaller of this and `net.core.rmem_max`, unless we may do as we like (CAP_NET_ADMIN); a datagram
/// for which there is no room is lost, and counted in the column "drops" of /proc/net/udp.
pub const DATAGRAM_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Cgroups around this process whose bound on memory is looked at, from its own outwards.
pub const CGROUP_LEVELS: usize = 16;
