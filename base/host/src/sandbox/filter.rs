//! The filter of system calls: seccomp.
//!
//! A list of what is refused, as classic BPF: the number of the call is looked up in a binary tree
//! of ranges. Where the answer does not depend on arguments, the kernel finds that out once, when
//! the filter is set (since Linux 5.11), and then runs no BPF for calls that are allowed: so few
//! calls have rules for their arguments.

use seccompiler::{BpfProgram, sock_filter};

use super::calls::{DENIED_IN_PART, NEWEST_KNOWN, UNKNOWN, WITHOUT_UDP, denied};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(libc::EM_X86_64 as u32 | AUDIT_64_BIT_LITTLE_ENDIAN);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(libc::EM_AARCH64 as u32 | AUDIT_64_BIT_LITTLE_ENDIAN);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;
const AUDIT_64_BIT_LITTLE_ENDIAN: u32 = 0xc000_0000;

// `struct seccomp_data`; of each argument of 64 bits the lower half comes first.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

// Classic BPF: what it loads and how it jumps.
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const MASK: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The rest of a socket's type are flags (SOCK_TYPE_MASK of the kernel).
const SOCKET_TYPE: u32 = 0xf;

/// SOCK_STREAM sockets are TCP with either of these, and UDP is the third.
const PROTOCOLS: [i32; 3] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// Puts the filter in force for the calling thread and those that it starts, with what serving UDP needs
/// or without it; the error says what is not restricted.
pub(super) fn apply(udp: bool) -> Result<(), String> {
    let Some(architecture) = ARCHITECTURE else {
        return Err("system calls (there is no filter for this processor)".to_owned());
    };
    let applied = seccompiler::apply_filter(&program(architecture, udp));
    applied.map_err(|error| format!("system calls: {error}"))
}

fn program(architecture: u32, udp: bool) -> BpfProgram {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE_AT),
        jump(EQUAL, architecture, 1, 0),
        statement(RETURN, REFUSE),
        statement(LOAD, NUMBER_AT),
    ];
    program.extend(tree(&ranges(udp)));
    program
}

/// First number of a range, and what is done with it up to the next range.
type Range = (u32, BpfProgram);

/// From 0 to the end of all numbers, without a gap.
fn ranges(udp: bool) -> Vec<Range> {
    let mut single: Vec<Range> = Vec::new();
    let number = |number: libc::c_long| u32::try_from(number).unwrap_or(u32::MAX);
    single.extend(denied().map(|(_, call)| (number(call), vec![statement(RETURN, REFUSE)])));
    single.extend(UNKNOWN.iter().map(|(_, call)| (number(*call), vec![statement(RETURN, NOT_THERE)])));
    single.extend(in_part().map(|(call, rules)| (number(call), rules)));
    if !udp {
        // Some of them have rules for their arguments otherwise.
        let without = WITHOUT_UDP.iter().map(|(_, call)| number(*call));
        single.retain(|(number, _)| without.clone().all(|call| call != *number));
        single.extend(without.map(|call| (call, vec![statement(RETURN, REFUSE)])));
    }
    single.sort_by_key(|(number, _)| *number);

    let allowed = || vec![statement(RETURN, ALLOW)];
    let mut ranges: Vec<Range> = vec![(0, allowed())];
    for (number, rules) in single {
        match ranges.last_mut() {
            Some((start, actions)) if *start == number => *actions = rules,
            _ => ranges.push((number, rules)),
        }
        ranges.push((number.saturating_add(1), allowed()));
    }
    let first_unknown = number(NEWEST_KNOWN.1) + 1;
    ranges.retain(|(start, _)| *start < first_unknown);
    ranges.push((first_unknown, vec![statement(RETURN, NOT_THERE)]));
    // Neighbours that are treated in the same way are one range.
    ranges.dedup_by(|later, earlier| same(&later.1, &earlier.1));
    ranges
}

/// What [`DENIED_IN_PART`] says. Each ends with a verdict on every way.
fn in_part() -> impl Iterator<Item = (libc::c_long, BpfProgram)> {
    const { assert!(DENIED_IN_PART.len() == 6, "each has its rules here") }
    let thread = vec![
        statement(LOAD, argument_at(0)),
        jump(ANY_BIT, libc::CLONE_THREAD as u32, 1, 0),
        statement(RETURN, REFUSE),
        statement(RETURN, ALLOW),
    ];
    let mut socket = vec![
        statement(LOAD, argument_at(0)),
        jump(EQUAL, libc::AF_UNIX as u32, 11, 0),
        jump(EQUAL, libc::AF_INET as u32, 1, 0),
        jump(EQUAL, libc::AF_INET6 as u32, 0, 8),
        // By others (SOCK_RAW, SOCK_PACKET) whoever keeps CAP_NET_RAW could read and forge packets.
        statement(LOAD, argument_at(1)),
        statement(MASK, SOCKET_TYPE),
        jump(EQUAL, libc::SOCK_STREAM as u32, 1, 0),
        jump(EQUAL, libc::SOCK_DGRAM as u32, 0, 4),
        statement(LOAD, argument_at(2)),
    ];
    let [any, tcp, udp] = PROTOCOLS.map(|protocol| protocol as u32);
    socket.extend([
        jump(EQUAL, any, 3, 0),
        jump(EQUAL, tcp, 2, 0),
        jump(EQUAL, udp, 1, 0),
        statement(RETURN, REFUSE),
        statement(RETURN, ALLOW),
    ]);
    let without_fast_open = |flags: u32| {
        vec![
            statement(LOAD, argument_at(flags)),
            jump(ANY_BIT, libc::MSG_FASTOPEN as u32, 0, 1),
            statement(RETURN, REFUSE),
            statement(RETURN, ALLOW),
        ]
    };
    let only = |first: u32| {
        vec![
            statement(LOAD, argument_at(0)),
            jump(EQUAL, first, 1, 0),
            statement(RETURN, REFUSE),
            statement(RETURN, ALLOW),
        ]
    };
    let terminal = vec![
        statement(LOAD, argument_at(1)),
        jump(EQUAL, libc::TIOCSTI as u32, 1, 0),
        jump(EQUAL, libc::TIOCLINUX as u32, 0, 1),
        statement(RETURN, REFUSE),
        statement(RETURN, ALLOW),
    ];
    [
        (libc::SYS_clone, thread),
        (libc::SYS_socket, socket),
        (libc::SYS_socketpair, only(libc::AF_UNIX as u32)),
        // 0 is the process itself.
        (libc::SYS_prlimit64, only(0)),
        (libc::SYS_sendto, without_fast_open(3)),
        (libc::SYS_sendmsg, without_fast_open(2)),
        (libc::SYS_sendmmsg, without_fast_open(3)),
        (libc::SYS_ioctl, terminal),
    ]
    .into_iter()
}

/// A program that finds the range of the number that was loaded.
fn tree(ranges: &[Range]) -> BpfProgram {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (Some((start, rules)), false) = (upper.first(), lower.is_empty()) else {
        return ranges.iter().flat_map(|(_, rules)| rules.iter().cloned()).collect();
    };
    debug_assert!(!rules.is_empty());
    let (lower, upper) = (tree(lower), tree(upper));
    // A conditional jump reaches no further than 255 instructions.
    let mut program = match u8::try_from(lower.len()) {
        Ok(over_lower) => vec![jump(AT_LEAST, *start, over_lower, 0)],
        Err(_) => vec![jump(AT_LEAST, *start, 0, 1), statement(JUMP, lower.len() as u32)],
    };
    program.extend(lower);
    program.extend(upper);
    program
}

fn statement(code: u32, operand: u32) -> sock_filter {
    jump(code, operand, 0, 0)
}

fn jump(code: u32, operand: u32, if_true: u8, if_false: u8) -> sock_filter {
    // Every code of classic BPF has 16 bits.
    sock_filter { code: code as u16, jt: if_true, jf: if_false, k: operand }
}

fn same(one: &[sock_filter], other: &[sock_filter]) -> bool {
    let fields = |instruction: &sock_filter| (instruction.code, instruction.jt, instruction.jf, instruction.k);
    one.iter().map(fields).eq(other.iter().map(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = match ARCHITECTURE {
        Some(architecture) => architecture,
        None => 0,
    };

    /// What the kernel would do, and after how many instructions.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let mut data = [number.to_le_bytes(), architecture.to_le_bytes()].concat();
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut at, mut loaded, mut steps) = (0, 0_u32, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            steps += 1;
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                RETURN => return (k, steps),
                JUMP => at += k as usize,
                LOAD => loaded = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                EQUAL => branch(loaded == k),
                AT_LEAST => branch(loaded >= k),
                MASK => loaded &= k,
                ANY_BIT => branch(loaded & k != 0),
                other => panic!("code {other}"),
            }
        }
    }

    fn verdict(number: libc::c_long, arguments: [u64; 6]) -> u32 {
        run(&program(HERE, true), HERE, number as u32, arguments).0
    }

    #[test]
    fn each_number_gets_what_the_lists_say() {
        for udp in [true, false] {
            each_number_with(udp);
        }
    }

    fn each_number_with(udp: bool) {
        let program = program(HERE, udp);
        assert!(program.len() < 4096, "the kernel takes no more");
        let without: &[(&str, libc::c_long)] = if udp { &[] } else { WITHOUT_UDP };
        let partly: Vec<libc::c_long> = in_part().map(|(number, _)| number).collect();
        for number in 0..=NEWEST_KNOWN.1 {
            let refused = denied().chain(without.iter().copied()).any(|(_, call)| call == number);
            let expected = if refused {
                REFUSE
            } else if UNKNOWN.iter().any(|(_, call)| *call == number) {
                NOT_THERE
            } else if partly.contains(&number) {
                continue;
            } else {
                ALLOW
            };
            assert_eq!(run(&program, HERE, number as u32, [u64::MAX; 6]).0, expected, "call {number}");
        }
        for number in [470, 512, 0x4000_0000, 0x4000_0000 + 520, u32::MAX] {
            assert_eq!(run(&program, HERE, number, [0; 6]).0, NOT_THERE, "call {number}");
        }
        assert_eq!(run(&program, 0x4000_0003, 11, [0; 6]).0, REFUSE, "a call of another architecture");
    }

    #[test]
    fn hot_calls_leave_early() {
        let program = program(HERE, true);
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_recvmmsg,
            libc::SYS_sendmmsg,
            libc::SYS_epoll_pwait,
            libc::SYS_accept4,
            libc::SYS_splice,
            libc::SYS_sendfile,
        ] {
            let (verdict, steps) = run(&program, HERE, number as u32, [0; 6]);
            assert!(verdict == ALLOW && steps <= 15, "call {number}: {verdict:x} after {steps} instructions");
        }
    }

    #[test]
    fn processes_are_refused_and_threads_are_not() {
        let flags = |flags: libc::c_int| [flags as u64, 0, 0, 0, 0, 0];
        assert_eq!(verdict(libc::SYS_clone, flags(libc::CLONE_VM | libc::CLONE_THREAD)), ALLOW);
        assert_eq!(verdict(libc::SYS_clone, flags(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD)), REFUSE);
        assert_eq!(verdict(libc::SYS_clone, flags(libc::CLONE_NEWUSER)), REFUSE);
    }

    #[test]
    fn sockets_are_of_the_families_and_protocols_that_are_served() {
        let socket = |family: i32, protocol: i32| [family as u64, libc::SOCK_STREAM as u64, protocol as u64, 0, 0, 0];
        for (family, protocol) in [
            (libc::AF_UNIX, 0),
            (libc::AF_INET, 0),
            (libc::AF_INET, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::IPPROTO_UDP),
        ] {
            assert_eq!(verdict(libc::SYS_socket, socket(family, protocol)), ALLOW, "{family} {protocol}");
        }
        for (family, protocol) in [
            (libc::AF_NETLINK, 0),
            (libc::AF_PACKET, 0),
            (libc::AF_VSOCK, 0),
            (libc::AF_ALG, 0),
            (43, 0),
            (libc::AF_INET, libc::IPPROTO_MPTCP),
            (libc::AF_INET6, libc::IPPROTO_SCTP),
            (libc::AF_INET, libc::IPPROTO_ICMP),
        ] {
            assert_eq!(verdict(libc::SYS_socket, socket(family, protocol)), REFUSE, "{family} {protocol}");
        }
    }

    #[test]
    fn packets_are_not_made_by_hand() {
        // Its number: an old way to the same as AF_PACKET.
        const SOCK_PACKET: i32 = 10;
        let kinds = [
            (libc::SOCK_STREAM, ALLOW),
            (libc::SOCK_DGRAM, ALLOW),
            (libc::SOCK_RAW, REFUSE),
            (libc::SOCK_SEQPACKET, REFUSE),
            (SOCK_PACKET, REFUSE),
        ];
        for (kind, expected) in kinds {
            for protocol in PROTOCOLS {
                let kind = (kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
                let arguments = [libc::AF_INET6 as u64, kind, protocol as u64, 0, 0, 0];
                assert_eq!(verdict(libc::SYS_socket, arguments), expected, "{kind:x} {protocol}");
            }
        }
    }

    #[test]
    fn what_serves_udp_passes_the_filter() {
        let outcome = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            apply(true).unwrap();
            let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let client = crate::connect::connected_udp_socket(server.local_addr().unwrap(), None).unwrap();
            let sent = crate::datagrams::Outgoing::new().send(&client, b"many words", Some(4));
            let mut batch = crate::datagrams::Batch::new();
            (sent.datagrams, batch.recv(&server).unwrap())
        });
        // A socket that takes no trains gets each datagram.
        assert_eq!(outcome.join().unwrap(), (3, 3));
    }

    #[test]
    fn connections_are_not_opened_by_sending() {
        let fast_open = (libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL) as u64;
        let usual = libc::MSG_NOSIGNAL as u64;
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            let mut arguments = [u64::from(u32::MAX) << 32; 6];
            arguments[flags] = usual;
            assert_eq!(verdict(call, arguments), ALLOW);
            arguments[flags] = fast_open;
            assert_eq!(verdict(call, arguments), REFUSE);
        }
    }

    #[test]
    fn nothing_is_typed_into_the_terminal() {
        let request = |request: u64| [0, request, 0, 0, 0, 0];
        assert_eq!(verdict(libc::SYS_ioctl, request(libc::TIOCSTI)), REFUSE);
        assert_eq!(verdict(libc::SYS_ioctl, request(libc::TIOCLINUX)), REFUSE);
        assert_eq!(verdict(libc::SYS_ioctl, request(libc::FIONBIO)), ALLOW);
    }

    #[test]
    fn a_far_jump_is_made_in_two() {
        let ranges: Vec<Range> = (0..600).map(|number| (number, vec![statement(RETURN, number)])).collect();
        let mut program = vec![statement(LOAD, NUMBER_AT)];
        program.extend(tree(&ranges));
        for number in 0..600 {
            assert_eq!(run(&program, HERE, number, [0; 6]).0, number);
        }
    }

    #[test]
    fn the_kernel_takes_it_and_threads_still_start() {
        let outcome = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            apply(false).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let refused = crate::datagrams::Batch::new().recv(&socket).unwrap_err().kind();
            assert_eq!(refused, std::io::ErrorKind::PermissionDenied);
            // With clone3 said not to be there, the C library takes clone.
            let thread = std::thread::spawn(|| std::fs::read("/proc/self/comm").is_ok()).join().unwrap();
            (thread, std::process::Command::new("true").status().unwrap_err().kind())
        });
        assert_eq!(outcome.join().unwrap(), (true, std::io::ErrorKind::PermissionDenied));
    }
}
