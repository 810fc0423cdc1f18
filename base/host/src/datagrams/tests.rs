use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::*;
use crate::connect::connected_udp_socket;
use crate::limits::{DATAGRAMS_PER_TRAIN, TRAIN_BYTES};
use crate::options::set_option;
use crate::sockets::{Claim, reuseport_udp_sockets};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn listener(address: &str) -> (OwnedFd, SocketAddr) {
    let socket = reuseport_udp_sockets(address.parse().unwrap(), 1, Claim::Exclusive).unwrap().remove(0);
    let address = UdpSocket::from(socket.try_clone().unwrap()).local_addr().unwrap();
    (socket, address)
}

fn client(server: SocketAddr) -> OwnedFd {
    connected_udp_socket(server, None).unwrap()
}

fn address_of(socket: &OwnedFd) -> SocketAddr {
    UdpSocket::from(socket.try_clone().unwrap()).local_addr().unwrap()
}

/// Nothing of two datagrams is alike.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (seed * 7 + index * 13 + index / 251) as u8).collect()
}

fn send(socket: &OwnedFd, bytes: &[u8], segment: Option<u16>) -> Sent {
    Outgoing::new().send(socket, bytes, segment)
}

/// All that waits in a socket, message by message.
fn received(socket: &OwnedFd) -> Vec<(Vec<u8>, Option<u16>)> {
    let mut batch = Batch::new();
    let mut all = Vec::new();
    while batch.recv(socket).is_ok() {
        all.extend(batch.messages().map(|message| (message.bytes.to_vec(), message.segment)));
    }
    all
}

fn concatenated(messages: &[(Vec<u8>, Option<u16>)]) -> Vec<u8> {
    messages.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect()
}

fn wait_readable(socket: impl AsFd) {
    let mut waiting = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    let limit = rustix::time::Timespec::try_from(Duration::from_secs(20)).unwrap();
    assert_eq!(rustix::event::poll(&mut waiting, Some(&limit)), Ok(1), "nothing came");
}

#[test]
fn a_batch_holds_what_came_and_from_whom() {
    for place in LOOPBACKS {
        let (server, address) = listener(place);
        let clients: Vec<OwnedFd> = (0..MESSAGES_PER_BATCH + 3).map(|_| client(address)).collect();
        let mut batch = Batch::new();
        assert_eq!(batch.recv(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for (index, client) in clients.iter().enumerate() {
            let sent = send(client, &bytes(index, index * 100), None);
            assert_eq!((sent.datagrams, sent.dropped), (1, 0));
        }
        let mut index = 0;
        for expected in [MESSAGES_PER_BATCH, 3] {
            assert_eq!(batch.recv(&server).unwrap(), expected);
            for message in batch.messages() {
                assert_eq!(message.bytes, bytes(index, index * 100), "an empty one counts as well");
                assert_eq!(&batch.pool()[message.range.clone()], message.bytes);
                assert_eq!(message.from, address_of(&clients[index]));
                assert_eq!((message.to, message.segment, message.truncated), (None, None, false));
                index += 1;
            }
        }
    }
}

#[test]
fn several_sockets_share_a_batch() {
    let (one, other) = (listener(LOOPBACKS[0]), listener(LOOPBACKS[1]));
    for (_, address) in [&one, &other] {
        send(&client(*address), address.to_string().as_bytes(), None);
    }
    let mut batch = Batch::new();
    assert_eq!((batch.recv(&one.0).unwrap(), batch.append(&other.0).unwrap()), (1, 1));
    assert_eq!(batch.append(&other.0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let seen: Vec<&[u8]> = batch.messages().map(|message| message.bytes).collect();
    assert_eq!(seen, [one.1, other.1].map(|address| address.to_string().into_bytes()));
    assert_eq!(batch.recv(&one.0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(batch.messages().len(), 0);
}

#[test]
fn trains_pass_in_one_piece_both_ways() {
    for place in LOOPBACKS {
        let (server, address) = listener(place);
        let client = client(address);
        let train = bytes(1, 4_321);
        let sent = send(&client, &train, Some(1_000));
        assert_eq!((sent.datagrams, sent.dropped), (5, 0));
        let mut batch = Batch::new();
        assert_eq!(batch.recv(&server).unwrap(), 1);
        let message = batch.message(0);
        assert_eq!((message.bytes, message.segment, message.datagrams()), (&*train, Some(1_000), 5));
        let mut back = Outgoing::new();
        back.push(message.range.clone(), Some(message.from), message.to, message.segment);
        assert_eq!(back.flush(&server, batch.pool()).datagrams, 5);
        assert_eq!(received(&client), [(train, Some(1_000))]);
    }
}

#[test]
fn whoever_takes_no_trains_gets_datagrams() {
    for place in LOOPBACKS {
        let plain = UdpSocket::bind(place).unwrap();
        let train = bytes(2, 2_500);
        assert_eq!(send(&client(plain.local_addr().unwrap()), &train, Some(1_000)).datagrams, 3);
        let mut buffer = [0; 4_096];
        for expected in train.chunks(1_000) {
            let length = plain.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
    }
}

#[test]
fn long_trains_are_cut_between_datagrams() {
    for (length, segment) in [(6_501, 50), (65_527, 1_200), (65_507, 65_506), (100, 100), (101, 100)] {
        let (server, address) = listener("127.0.0.1:0");
        let train = bytes(length, length);
        let sent = send(&client(address), &train, Some(segment));
        assert_eq!((sent.datagrams, sent.dropped), (length.div_ceil(usize::from(segment)), 0));
        let messages = received(&server);
        assert_eq!(concatenated(&messages), train);
        for (bytes, of) in &messages {
            assert!(datagrams_in(bytes.len(), *of) <= DATAGRAMS_PER_TRAIN && bytes.len() <= TRAIN_BYTES);
        }
    }
}

#[test]
fn without_gso_each_datagram_goes_by_itself() {
    let (server, address) = listener("127.0.0.1:0");
    let client = client(address);
    // The kernel cuts no trains for a socket that sends no checksums.
    set_option(&client, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let mut out = Outgoing::new();
    let pool = bytes(3, 5_000);
    out.push(0..10, None, None, None);
    out.push(10..4_000, None, None, Some(900));
    out.push(4_000..5_000, None, None, None);
    let sent = out.flush(&client, &pool);
    assert_eq!((sent.datagrams, sent.dropped, out.is_empty()), (7, 0, true));
    let messages = received(&server);
    let lengths: Vec<usize> = messages.iter().map(|(bytes, _)| bytes.len()).collect();
    assert_eq!(lengths, [10, 900, 900, 900, 900, 390, 1_000]);
    assert_eq!(concatenated(&messages), pool);
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let (server, bound) = listener("0.0.0.0:0");
    let asked = SocketAddr::new("127.0.0.77".parse().unwrap(), bound.port());
    let client = client(asked);
    send(&client, b"question, question, end", Some(10));
    let mut batch = Batch::new();
    batch.recv(&server).unwrap();
    let message = batch.message(0);
    assert_eq!(message.to.map(|to| to.address), Some(asked.ip()));
    assert_eq!(message.segment, Some(10));
    // Where nothing is said the route chooses, and the client, which is connected, hears nothing of it.
    Outgoing::new().send_to(&server, b"stranger", message.from, None, None);
    for segment in [None, Some(4)] {
        let sent = Outgoing::new().send_to(&server, b"answer", message.from, message.to, segment);
        assert_eq!((sent.datagrams, sent.dropped), (if segment.is_some() { 2 } else { 1 }, 0));
    }
    assert_eq!(received(&client), [(b"answer".to_vec(), None), (b"answer".to_vec(), Some(4))]);
}

#[test]
fn answers_over_ipv6_as_well() {
    let (server, bound) = listener("[::]:0");
    let client = client(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port()));
    send(&client, b"question", None);
    let mut batch = Batch::new();
    batch.recv(&server).unwrap();
    let message = batch.message(0);
    assert_eq!(message.to.map(|to| to.address), Some(Ipv6Addr::LOCALHOST.into()));
    assert!(message.to.is_some_and(|to| to.interface > 0));
    Outgoing::new().send_to(&server, b"answer", message.from, message.to, None);
    assert_eq!(received(&client), [(b"answer".to_vec(), None)]);
}

#[test]
fn what_does_not_fit_is_marked() {
    let (server, address) = listener("127.0.0.1:0");
    let client = client(address);
    for length in [100, 101, 99] {
        send(&client, &bytes(4, length), None);
    }
    let mut small = Batch::sized(100);
    assert_eq!(small.recv(&server).unwrap(), 3);
    let seen: Vec<(usize, bool)> = small.messages().map(|message| (message.bytes.len(), message.truncated)).collect();
    assert_eq!(seen, [(100, false), (100, true), (99, false)]);
}

#[test]
fn refusal_is_told_and_costs_no_datagram() {
    for place in LOOPBACKS {
        let gone = UdpSocket::bind(place).unwrap().local_addr().unwrap();
        let client = client(gone);
        let sent = send(&client, b"one", None);
        assert_eq!((sent.datagrams, sent.dropped, sent.refused), (1, 0, false));
        let mut batch = Batch::new();
        assert_eq!(batch.recv(&client).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(batch.recv(&client).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&client, b"two", None);
        let sent = send(&client, b"three", None);
        assert_eq!((sent.datagrams, sent.dropped, sent.refused), (1, 0, true));
    }
}

#[test]
fn a_message_that_is_refused_costs_no_other() {
    let (server, address) = listener("127.0.0.1:0");
    let (sender, _) = listener("127.0.0.1:0");
    let pool = bytes(5, 66_000);
    let mut out = Outgoing::new();
    // Longer than any datagram, of the other family, from an address that is not ours, to nobody.
    let elsewhere = Some(Local { address: "192.0.2.1".parse().unwrap(), interface: 0 });
    out.push(0..1, Some(address), None, None);
    out.push(0..66_000, Some(address), None, None);
    out.push(1..2, Some("[::1]:9".parse().unwrap()), None, None);
    out.push(2..3, Some(address), None, None);
    out.push(3..4, Some(address), elsewhere, None);
    out.push(3..4, None, None, None);
    out.push(4..5, Some(address), None, None);
    let sent = out.flush(&sender, &pool);
    assert_eq!((sent.datagrams, sent.dropped, sent.error.is_some()), (3, 4, true));
    assert_eq!(concatenated(&received(&server)), [pool[0], pool[2], pool[4]]);
}

/// What the next number is: xorshift64.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize
}

/// A datagram that names its client and says how many that one sent before.
fn numbered(client: usize, number: usize, length: usize) -> Vec<u8> {
    let mut datagram = bytes(number, length);
    datagram[..8].copy_from_slice(&(client as u64).to_be_bytes());
    datagram[8..16].copy_from_slice(&(number as u64).to_be_bytes());
    datagram
}

#[test]
fn nothing_is_lost_or_mixed_over_100_000_datagrams() {
    let (server, address) = listener("0.0.0.0:0");
    let asked = |client: usize| SocketAddr::new(IpAddr::from([127, 0, 0, 10 + client as u8]), address.port());
    // With how many each has sent, and how many answers it has.
    let mut clients: Vec<(OwnedFd, usize, usize)> =
        (0..8).map(|index| (connected_udp_socket(asked(index), None).unwrap(), 0, 0)).collect();
    let (mut batch, mut out) = (Batch::new(), Outgoing::new());
    let (mut state, mut total) = (0x5eed_u64, 0);
    while total < 100_000 {
        for (client, (socket, sent, _)) in clients.iter_mut().enumerate() {
            for _ in 0..next(&mut state) % 6 {
                // A train of equal datagrams, or one.
                let count = if next(&mut state).is_multiple_of(2) { 1 } else { 2 + next(&mut state) % 5 };
                let length = 16 + next(&mut state) % 300;
                let train: Vec<u8> =
                    (*sent..*sent + count).flat_map(|number| numbered(client, number, length)).collect();
                let done = out.send(&*socket, &train, Some(length as u16));
                assert_eq!((done.datagrams, done.dropped), (count, 0));
                *sent += count;
                total += count;
            }
        }
        // The server sends each message back to where it came from. Only then are there new ones, so
        // that every queue has room for what comes.
        while batch.recv(&server).is_ok() {
            for message in batch.messages() {
                assert!(!message.truncated);
                out.push(message.range.clone(), Some(message.from), message.to, message.segment);
            }
            let done = out.flush(&server, batch.pool());
            assert_eq!((done.dropped, done.refused), (0, false));
        }
        for (client, (socket, sent, answered)) in clients.iter_mut().enumerate() {
            while *answered < *sent {
                wait_readable(&*socket);
                batch.recv(&*socket).unwrap();
                for message in batch.messages() {
                    assert_eq!(message.from, asked(client));
                    for datagram in message.bytes.chunks(message.segment.map_or(usize::MAX, usize::from)) {
                        let expected = numbered(client, *answered, datagram.len());
                        assert!(datagram == expected, "client {client}, datagram {answered}");
                        *answered += 1;
                    }
                }
            }
        }
    }
}
