//! Streams: the other end of them, and what goes through.
//!
//! Client and server are one thread of this program on CPU 1: it writes at one end, and reads what
//! arrives at the other, in the same order. So neither waits for its turn, and each byte is checked.
//! Only bulk comes from iperf3.

pub(crate) mod configs;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use traffic::{PATIENCE, Pace, Pair};

use super::load::Load;
use super::rivals::pinned;
use super::rows::{Kind, Row, Traffic};
use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::shell::{Fallible, all_output, output};

/// Keeps this program and what it starts from now on to a CPU.
pub(crate) fn stay_on_cpu(cpu: u32) -> Fallible<()> {
    let own = std::process::id().to_string();
    output(Command::new("taskset").args(["-c", "-p", &cpu.to_string(), &own])).map(drop)
}

/// How often iperf3 may turn us away before it counts as broken.
const TURNED_AWAY_MAX: u32 = 20;

/// Where all contenders of a row lead to.
pub(crate) enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Iperf { address: SocketAddr, _running: Running },
}

impl Server {
    pub(crate) fn start(traffic: Traffic, folder: &TemporaryFolder) -> Fallible<Self> {
        match traffic {
            Traffic::Bulk => {
                let address = loopback(free_tcp_port()?);
                let (host, port) = (address.ip().to_string(), address.port().to_string());
                let command = ["iperf3", "--server", "--bind", &host, "--port", &port].map(str::to_owned);
                let mut running = Running::start("iperf3", &mut pinned(&[1], &command), folder)?;
                running.wait_for(address, PATIENCE)?;
                Ok(Self::Iperf { address, _running: running })
            }
            Traffic::Datagrams { .. } => Ok(Self::Udp(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)),
            Traffic::Small | Traffic::New | Traffic::Idle => {
                Ok(Self::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let address = match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
            Self::Iperf { address, .. } => return *address,
        };
        address.unwrap_or_else(|_| loopback(0))
    }

    /// Whether what is sent to `switch` comes here.
    pub(crate) fn reach(&self, switch: SocketAddr) -> Fallible<()> {
        match self {
            Self::Tcp(listener) => Pair::open(listener, switch).map(drop),
            Self::Udp(socket) => {
                let pace = Pace { clients: 1, per_second: 1_000, bytes: 64, echo: true };
                match traffic::datagrams(socket, switch, &pace, Duration::ZERO)? {
                    load if load.errors == 0 => Ok(()),
                    _ => Err("a datagram was lost".into()),
                }
            }
            // The first run tells.
            Self::Iperf { .. } => Ok(()),
        }
    }

    /// One run of what the row measures.
    pub(crate) fn load(&self, row: &Row, switch: SocketAddr, seconds: u32) -> Fallible<Load> {
        let length = Duration::from_secs(u64::from(seconds));
        match (self, row.kind) {
            (Self::Iperf { .. }, _) => iperf(switch, row, seconds),
            (Self::Udp(socket), Kind::Stream(Traffic::Datagrams { bytes, per_second, echo })) => {
                let pace = Pace { clients: row.connections, per_second, bytes, echo };
                traffic::datagrams(socket, switch, &pace, length)
            }
            (Self::Tcp(listener), Kind::Stream(Traffic::New)) => {
                traffic::new_connections(listener, switch, row.connections, length)
            }
            (Self::Tcp(listener), _) => {
                traffic::round_trips(listener, switch, row.connections as usize, row.body_bytes(), length)
            }
            (Self::Udp(_), _) => Err(format!("{} is not about datagrams", row.name).into()),
        }
    }

    /// Opens up to `wanted` connections, with one byte there and back on each; the reason, when no more
    /// went through.
    pub(crate) fn open_idle(&self, switch: SocketAddr, wanted: u32, pairs: &mut Vec<Pair>) -> Option<String> {
        let Self::Tcp(listener) = self else {
            return Some("not a server of connections".to_owned());
        };
        if let Err(error) = traffic::forget_strangers(listener) {
            return Some(error.to_string());
        }
        for _ in 0..wanted {
            match Pair::open(listener, switch) {
                Ok(pair) => pairs.push(pair),
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    }
}

/// As much as goes for so long. iperf3 serves one client at a time, and turns away who comes while it
/// still looks at somebody who only wanted to know whether it is there.
fn iperf(switch: SocketAddr, row: &Row, seconds: u32) -> Fallible<Load> {
    let mut turned_away = 0;
    loop {
        // It ends well also where it says that it failed.
        let text = all_output(
            Command::new("taskset")
                .args(["-c", "1", "iperf3", "--json", "--client", &switch.ip().to_string()])
                .args(["--port", &switch.port().to_string(), "--time", &seconds.to_string()])
                .args(["--parallel", &row.connections.to_string()]),
        )?;
        let report: Value = serde_json::from_str(&text)?;
        let has_begun = report["intervals"].as_array().is_some_and(|intervals| !intervals.is_empty());
        match parse_iperf(&report, row.body_bytes() as u64) {
            Some(load) => return Ok(load),
            None if !has_begun && turned_away < TURNED_AWAY_MAX => {
                turned_away += 1;
                sleep(Duration::from_millis(100));
            }
            None => return Err(format!("iperf3 said something else than expected:\n{text}").into()),
        }
    }
}

/// How many units of so many bytes arrived.
fn parse_iperf(report: &Value, unit_bytes: u64) -> Option<Load> {
    let sum = &report["end"]["sum_received"];
    let requests = (sum["bytes"].as_u64()? + unit_bytes / 2) / unit_bytes;
    if !report["error"].is_null() {
        return None;
    }
    let requests_per_second = sum["bits_per_second"].as_f64()? / 8.0 / unit_bytes as f64;
    Some(Load { requests, requests_per_second, ..Load::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_iperf3() {
        let report = serde_json::json!({ "end": { "sum_received": { "bytes": 83_486_081, "bits_per_second": 8e6 } } });
        let load = parse_iperf(&report, 1_000_000).expect("it is iperf3's own form");
        assert_eq!((load.requests, load.requests_per_second), (83, 1.0));
        assert_eq!(parse_iperf(&serde_json::json!({ "error": "the server is busy" }), 1), None);
    }
}
