//! System calls that a process which serves the network has no use for.

use libc::c_long;

/// Name and number on this architecture.
pub type Call = (&'static str, c_long);

macro_rules! calls {
    ($($name:literal = $number:expr,)*) => { &[$(($name, $number),)*] };
}

/// What is refused with EPERM, whatever its arguments.
pub const DENIED: &[Call] = calls! {
    // Starting programs.
    "execve" = libc::SYS_execve,
    "execveat" = libc::SYS_execveat,
    // Taking connections at a TCP port of the kernel's choice, for which no bind(2) is needed:
    // our listening sockets come from the supervisor, and listen already.
    "listen" = libc::SYS_listen,
    // Other processes' memory and descriptors.
    "ptrace" = libc::SYS_ptrace,
    "process_vm_readv" = libc::SYS_process_vm_readv,
    "process_vm_writev" = libc::SYS_process_vm_writev,
    "process_madvise" = libc::SYS_process_madvise,
    "process_mrelease" = libc::SYS_process_mrelease,
    "pidfd_getfd" = libc::SYS_pidfd_getfd,
    "kcmp" = libc::SYS_kcmp,
    // Network and files without the system calls that the rest of the sandbox looks at.
    "io_uring_setup" = libc::SYS_io_uring_setup,
    "io_uring_enter" = libc::SYS_io_uring_enter,
    "io_uring_register" = libc::SYS_io_uring_register,
    // Namespaces and mounts.
    "unshare" = libc::SYS_unshare,
    "setns" = libc::SYS_setns,
    "chroot" = libc::SYS_chroot,
    "pivot_root" = libc::SYS_pivot_root,
    "mount" = libc::SYS_mount,
    "umount2" = libc::SYS_umount2,
    "move_mount" = libc::SYS_move_mount,
    "open_tree" = libc::SYS_open_tree,
    "open_tree_attr" = 467,
    "mount_setattr" = libc::SYS_mount_setattr,
    "fsopen" = libc::SYS_fsopen,
    "fsconfig" = libc::SYS_fsconfig,
    "fsmount" = libc::SYS_fsmount,
    "fspick" = libc::SYS_fspick,
    // Files without their paths, and the files of everybody.
    "open_by_handle_at" = libc::SYS_open_by_handle_at,
    "fanotify_init" = libc::SYS_fanotify_init,
    "fanotify_mark" = libc::SYS_fanotify_mark,
    "quotactl" = libc::SYS_quotactl,
    "quotactl_fd" = libc::SYS_quotactl_fd,
    "acct" = libc::SYS_acct,
    // What Landlock does not look at: modes, owners, attributes and times of files by their path, and
    // memory and queues that processes share by name.
    "fchmodat" = libc::SYS_fchmodat,
    "fchmodat2" = 452,
    "fchownat" = libc::SYS_fchownat,
    "setxattr" = libc::SYS_setxattr,
    "lsetxattr" = libc::SYS_lsetxattr,
    "fsetxattr" = libc::SYS_fsetxattr,
    "setxattrat" = 463,
    "removexattr" = libc::SYS_removexattr,
    "lremovexattr" = libc::SYS_lremovexattr,
    "fremovexattr" = libc::SYS_fremovexattr,
    "removexattrat" = 466,
    "utimensat" = libc::SYS_utimensat,
    "shmget" = libc::SYS_shmget,
    "msgget" = libc::SYS_msgget,
    "semget" = libc::SYS_semget,
    "mq_open" = libc::SYS_mq_open,
    // Parts of the kernel that have let attackers in, and that nothing here needs.
    "bpf" = libc::SYS_bpf,
    "perf_event_open" = libc::SYS_perf_event_open,
    "userfaultfd" = libc::SYS_userfaultfd,
    "personality" = libc::SYS_personality,
    "keyctl" = libc::SYS_keyctl,
    "add_key" = libc::SYS_add_key,
    "request_key" = libc::SYS_request_key,
    "lookup_dcookie" = libc::SYS_lookup_dcookie,
    // The host itself.
    "kexec_load" = libc::SYS_kexec_load,
    "kexec_file_load" = libc::SYS_kexec_file_load,
    "init_module" = libc::SYS_init_module,
    "finit_module" = libc::SYS_finit_module,
    "delete_module" = libc::SYS_delete_module,
    "reboot" = libc::SYS_reboot,
    "swapon" = libc::SYS_swapon,
    "swapoff" = libc::SYS_swapoff,
    "syslog" = libc::SYS_syslog,
    "sethostname" = libc::SYS_sethostname,
    "setdomainname" = libc::SYS_setdomainname,
    "settimeofday" = libc::SYS_settimeofday,
    "clock_settime" = libc::SYS_clock_settime,
    "clock_adjtime" = libc::SYS_clock_adjtime,
    "adjtimex" = libc::SYS_adjtimex,
    "vhangup" = libc::SYS_vhangup,
};

/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
pub const DENIED_HERE: &[Call] = calls! {
    "chmod" = libc::SYS_chmod,
    "chown" = libc::SYS_chown,
    "lchown" = libc::SYS_lchown,
    "utime" = libc::SYS_utime,
    "utimes" = libc::SYS_utimes,
    "futimesat" = libc::SYS_futimesat,
    "fork" = libc::SYS_fork,
    "vfork" = libc::SYS_vfork,
    "uselib" = libc::SYS_uselib,
    "iopl" = libc::SYS_iopl,
    "ioperm" = libc::SYS_ioperm,
    "modify_ldt" = libc::SYS_modify_ldt,
    "sysfs" = libc::SYS_sysfs,
    "_sysctl" = libc::SYS__sysctl,
};
#[cfg(not(target_arch = "x86_64"))]
pub const DENIED_HERE: &[Call] = &[];

/// What is refused where no UDP is served. Names are looked up with other calls.
pub const WITHOUT_UDP: &[Call] = calls! {
    "recvmmsg" = libc::SYS_recvmmsg,
    "sendmmsg" = libc::SYS_sendmmsg,
};

/// What says that the kernel does not know it: the C library then takes `clone`, whose flags can be
/// looked at, while those of `clone3` lie in memory.
pub const UNKNOWN: &[Call] = calls! {
    "clone3" = libc::SYS_clone3,
};

/// The newest call that was looked at when this list was made (Linux 6.17). Newer ones, and numbers
/// of other ways to call, such as those of x32, are answered as by a kernel that has them not.
pub const NEWEST_KNOWN: Call = ("file_setattr", 469);

/// What is refused for some arguments only, in words.
pub const DENIED_IN_PART: &[(&str, &str)] = &[
    ("clone", "a new process; new threads are allowed"),
    (
        "socket",
        "families other than Unix, IPv4 and IPv6, and protocols other than TCP and UDP; packets made by hand (SOCK_RAW, SOCK_PACKET)",
    ),
    ("socketpair", "families other than Unix"),
    ("prlimit64", "limits of other processes, which can end them"),
    ("sendto, sendmsg, sendmmsg", "opening a TCP connection with MSG_FASTOPEN, which Landlock does not see"),
    ("ioctl", "typing into the terminal (TIOCSTI, TIOCLINUX)"),
];

/// Every call that is refused whatever its arguments.
pub fn denied() -> impl Iterator<Item = Call> {
    DENIED.iter().chain(DENIED_HERE).copied()
}
