//! What goes through, both ends in one hand.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bench::load::Load;
use crate::shell::Fallible;

/// Nobody needs this long for a byte on loopback.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A datagram that did not arrive within this time is lost.
const DATAGRAM_LIMIT: Duration = Duration::from_millis(200);

/// How many questions there are, each the one before it shifted by a byte.
const QUESTIONS: usize = 251;

/// Connections and datagrams of earlier runs that may still wait.
const STRANGERS_MAX: u32 = 100_000;

/// Both ends of a connection that goes through the switch.
pub(crate) struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    /// Opens one and sends a byte there and back.
    pub(super) fn open(listener: &TcpListener, switch: SocketAddr) -> Fallible<Self> {
        let client = connect(switch, b'?')?;
        let pair = Self { client, server: accept(listener, b'?')? };
        pair.answer(b'!')?;
        Ok(pair)
    }

    fn answer(&self, byte: u8) -> Fallible<()> {
        (&self.server).write_all(&[byte])?;
        expect(&self.client, &[byte])
    }
}

fn connect(switch: SocketAddr, byte: u8) -> Fallible<TcpStream> {
    let client = TcpStream::connect_timeout(&switch, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    (&client).write_all(&[byte])?;
    Ok(client)
}

/// The next connection, which has to begin with this byte; those that end without one were of somebody
/// who only looked whether the switch is there.
fn accept(listener: &TcpListener, byte: u8) -> Fallible<TcpStream> {
    for _ in 0..STRANGERS_MAX {
        let server = accept_within(listener, PATIENCE)?;
        server.set_read_timeout(Some(PATIENCE))?;
        server.set_nodelay(true)?;
        let mut first = [0];
        match (&server).read(&mut first) {
            Ok(1) if first == [byte] => return Ok(server),
            Ok(1) => return Err(format!("{first:?} arrived instead of {byte}").into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("nothing but connections without a byte".into())
}

/// A listener has no timeout of its own.
fn accept_within(listener: &TcpListener, limit: Duration) -> Fallible<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(Duration::from_micros(20));
            }
            Err(error) => return Err(format!("no connection came through: {error}").into()),
        }
    }
}

fn expect(mut stream: &TcpStream, bytes: &[u8]) -> Fallible<()> {
    let mut arrived = vec![0; bytes.len()];
    stream.read_exact(&mut arrived)?;
    if arrived == bytes { Ok(()) } else { Err("other bytes arrived than were sent".into()) }
}

/// Drops the connections that wait to be accepted.
pub(super) fn forget_strangers(listener: &TcpListener) -> Fallible<()> {
    listener.set_nonblocking(true)?;
    for _ in 0..STRANGERS_MAX {
        match listener.accept() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Counts up to now.
fn load(requests: u64, errors: u64, started: Instant) -> Load {
    let requests_per_second = requests as f64 / started.elapsed().as_secs_f64();
    Load { requests, errors, requests_per_second, ..Load::default() }
}

/// `bytes` there and back on each of so many connections at once, again and again. It ends with the first
/// error: what comes later on a connection would be out of step.
pub(super) fn round_trips(
    listener: &TcpListener,
    switch: SocketAddr,
    connections: usize,
    bytes: usize,
    length: Duration,
) -> Fallible<Load> {
    forget_strangers(listener)?;
    let pairs: Vec<Pair> = (0..connections).map(|_| Pair::open(listener, switch)).collect::<Fallible<_>>()?;
    // Each connection asks something else than its neighbours, and in each wave something else than before.
    let text: Vec<u8> = (0..bytes + QUESTIONS).map(|at| (at % 251) as u8).collect();
    let (mut count, started) = (0_usize, Instant::now());
    while started.elapsed() < length {
        let questions: Vec<&[u8]> = (0..connections)
            .filter_map(|index| text.get((count / connections + index) % QUESTIONS..)?.get(..bytes))
            .collect();
        let wave = || -> Fallible<()> {
            for (pair, question) in pairs.iter().zip(&questions) {
                (&pair.client).write_all(question)?;
            }
            for (pair, question) in pairs.iter().zip(&questions) {
                expect(&pair.server, question)?;
                (&pair.server).write_all(question)?;
            }
            pairs.iter().zip(&questions).try_for_each(|(pair, question)| expect(&pair.client, question))
        };
        if let Err(error) = wave() {
            eprintln!("  {error}");
            return Ok(load(count as u64, 1, started));
        }
        count += connections;
    }
    Ok(load(count as u64, 0, started))
}

/// So many connections at once, each for a byte there and back; the client closes, and its end has to
/// arrive.
pub(super) fn new_connections(
    listener: &TcpListener,
    switch: SocketAddr,
    at_once: u32,
    length: Duration,
) -> Fallible<Load> {
    forget_strangers(listener)?;
    let (mut count, mut errors, started) = (0_u64, 0_u64, Instant::now());
    while started.elapsed() < length {
        // They need not arrive in the order in which they were opened: all ask the same in a wave.
        let byte = (count / u64::from(at_once)) as u8;
        let wave = || -> Fallible<()> {
            let clients: Vec<TcpStream> = (0..at_once).map(|_| connect(switch, byte)).collect::<Fallible<_>>()?;
            let servers: Vec<TcpStream> = (0..at_once).map(|_| accept(listener, byte)).collect::<Fallible<_>>()?;
            servers.iter().try_for_each(|mut server| server.write_all(&[byte]))?;
            for client in clients {
                expect(&client, &[byte])?;
            }
            for mut server in servers {
                if server.read(&mut [0])? != 0 {
                    return Err("a byte arrived after the end".into());
                }
            }
            Ok(())
        };
        match wave() {
            Ok(()) => count += u64::from(at_once),
            Err(error) => {
                eprintln!("  {error}");
                errors += 1;
                forget_strangers(listener)?;
                if errors > 100 {
                    break;
                }
            }
        }
    }
    Ok(load(count, errors, started))
}

/// How datagrams are sent.
pub(super) struct Pace {
    pub(super) clients: u32,
    pub(super) per_second: u32,
    pub(super) bytes: usize,
    pub(super) echo: bool,
}

/// How often a few of them are sent.
const TICK: Duration = Duration::from_millis(1);

/// Datagrams at a fixed rate, a few each millisecond, the clients taking turns; counted is each that the
/// switch has passed on, there and back. What is lost, or is not what was sent, is an error.
pub(super) fn datagrams(server: &UdpSocket, switch: SocketAddr, pace: &Pace, length: Duration) -> Fallible<Load> {
    forget_datagrams(server)?;
    let open = |_| -> Fallible<UdpSocket> {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        client.set_read_timeout(Some(DATAGRAM_LIMIT))?;
        client.connect(switch)?;
        Ok(client)
    };
    let clients: Vec<UdpSocket> = (0..pace.clients).map(open).collect::<Fallible<_>>()?;
    let burst = u64::from(pace.per_second) * TICK.as_millis() as u64 / 1_000;
    let (mut passed, mut errors, mut number, started) = (0, 0, 0_u64, Instant::now());
    let mut next = started;
    let mut buffer = vec![0; 2 * pace.bytes];
    loop {
        let numbers = number..number + burst;
        let client_of = |number: u64| &clients[(number % u64::from(pace.clients)) as usize];
        for number in numbers.clone() {
            // An error that is told here is about an earlier one, which is counted as lost.
            drop(client_of(number).send(&datagram(number, pace.bytes)));
        }
        let mut missing = burst;
        while missing > 0 {
            let Ok((count, from)) = server.recv_from(&mut buffer) else {
                break;
            };
            let arrived = buffer.get(..count).unwrap_or_default();
            match number_of(arrived) {
                // It was given up already.
                Some(number) if number < numbers.start => continue,
                Some(number) if numbers.contains(&number) && arrived == datagram(number, pace.bytes) => {
                    missing -= 1;
                    passed += 1;
                }
                _ => errors += 1,
            }
            if pace.echo {
                server.send_to(arrived, from)?;
            }
        }
        errors += missing;
        if pace.echo {
            for number in numbers.clone() {
                match arrives(client_of(number), number, &mut buffer) {
                    Ok(count) if buffer.get(..count) == Some(&*datagram(number, pace.bytes)) => passed += 1,
                    _ => errors += 1,
                }
            }
        }
        number = numbers.end;
        next += TICK;
        let now = Instant::now();
        if now >= started + length || errors > 1_000 {
            return Ok(load(passed, errors, started));
        }
        sleep(next.saturating_duration_since(now));
    }
}

/// The length of the next datagram, those left out that were given up already.
fn arrives(client: &UdpSocket, number: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let count = client.recv(buffer)?;
        if buffer.get(..count).and_then(number_of).is_none_or(|arrived| arrived >= number) {
            return Ok(count);
        }
    }
}

/// Its number, and bytes that follow from it.
fn datagram(number: u64, bytes: usize) -> Vec<u8> {
    let mut datagram = number.to_be_bytes().to_vec();
    datagram.resize(bytes, number as u8);
    datagram
}

fn number_of(datagram: &[u8]) -> Option<u64> {
    datagram.first_chunk().map(|number| u64::from_be_bytes(*number))
}

/// Drops the datagrams that wait.
fn forget_datagrams(server: &UdpSocket) -> Fallible<()> {
    server.set_nonblocking(true)?;
    (0..STRANGERS_MAX).take_while(|_| server.recv_from(&mut [0]).is_ok()).for_each(drop);
    server.set_nonblocking(false)?;
    server.set_read_timeout(Some(DATAGRAM_LIMIT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch that leads to itself is none: client and server are connected directly.
    #[test]
    fn what_passes_is_counted_without_errors() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ones");
        let address = listener.local_addr().expect("it is bound");
        let short = Duration::from_millis(50);
        let load = round_trips(&listener, address, 3, 64, short).expect("it runs");
        assert!(load.requests >= 3 && load.requests.is_multiple_of(3) && load.errors == 0, "{load:?}");
        let load = new_connections(&listener, address, 4, short).expect("it runs");
        assert!(load.requests >= 4 && load.errors == 0, "{load:?}");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ones");
        let address = socket.local_addr().expect("it is bound");
        let pace = Pace { clients: 3, per_second: 2_000, bytes: 64, echo: true };
        let load = datagrams(&socket, address, &pace, short).expect("it runs");
        assert!(load.requests >= 4 && load.errors == 0, "{load:?}");
    }

    #[test]
    fn what_is_lost_is_counted() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ones");
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are free ones");
        let pace = Pace { clients: 1, per_second: 3_000, bytes: 64, echo: false };
        let load = datagrams(&socket, elsewhere.local_addr().expect("it is bound"), &pace, Duration::ZERO);
        assert_eq!(load.map(|load| (load.requests, load.errors)).expect("it runs"), (0, 3));
    }
}
