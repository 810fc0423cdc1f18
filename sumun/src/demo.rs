//! `sumun demo`: the whole thing working with nothing else installed.
//!
//! ```text
//! demo ──threads──► application server "east"   application server "west"
//!   │                          ▲                          ▲
//!   └──child──► supervisor ──► worker process (the gateway)
//! ```
//!
//! The child is `sumun run` as everybody runs it, with a config file that lies in a directory of
//! its own and can be read meanwhile.

mod live;
mod place;
mod screen;
mod servers;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use sumun_host::process::{ProcessHandle, Send, cpu_count};
use sumun_host::signals::{Signal, Signals};
use sumun_host::wait::wait_readable;

use live::Figures;
use place::{Addresses, Place};
use screen::Screen;

/// Where people expect the site and the admin page; the next free TCP port is taken instead.
const SITE_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9900;
/// TCP ports that are tried for each; beyond them the demonstration gives up.
const PORTS_TRIED: u16 = 100;
/// Somebody may take a TCP port between our look and the start of the gateway: starts in all.
const STARTS: usize = 5;
/// Between two looks at a gateway that is not ready yet.
const START_LOOK: Duration = Duration::from_millis(20);
/// Between two live lines.
const LIVE_EVERY: Duration = Duration::from_secs(1);
/// Beyond `drain:` of the demonstration's config the gateway gets this long before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// More would show nothing on a laptop but idle threads.
const WORKERS_MAX: usize = 4;

/// Runs until it is told to end by Ctrl-C, SIGTERM or the end of its terminal.
pub(crate) fn run() -> ExitCode {
    let screen = Screen::start();
    match demonstrate(&screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            screen.clear();
            eprintln!("sumun: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The gateway itself, as a process of its own that ends with the one that shows it.
pub(crate) fn run_gateway(file: &Path) -> ExitCode {
    if let Err(error) = sumun_host::process::end_with_parent() {
        eprintln!("sumun: {error}");
    }
    crate::supervisor::run(file.to_owned())
}

fn demonstrate(screen: &Screen) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    // Before anything exists that a signal would leave behind.
    let mut signals = Signals::catch().map_err(failed)?;
    let servers = servers::start_all().map_err(failed)?;
    let place = Place::create().map_err(|error| format!("no directory for the demonstration: {error}"))?;

    let mut starts = 0;
    let (addresses, mut gateway) = loop {
        starts += 1;
        let site = free_port(SITE_PORT, None)?;
        let admin = free_port(ADMIN_PORT, Some(site))?;
        let addresses = Addresses { site, admin, servers };
        place.furnish(&addresses, cpu_count().min(WORKERS_MAX)).map_err(failed)?;
        let mut gateway = Gateway::start(place.config(), screen).map_err(failed)?;
        match gateway.wait_ready(&place, &mut signals).map_err(failed)? {
            Start::Ready => break (addresses, gateway),
            Start::Unwanted => return gateway.stop().map_err(failed),
            Start::Failed => {
                let log = screen.held();
                if starts == STARTS || !log.contains(" in use ") {
                    return Err(format!("the gateway did not start\n{log}"));
                }
            }
        }
    };

    screen.release();
    let shown = screen.print(&introduction(&place, &addresses));
    let outcome = match shown {
        Ok(()) => show(screen, &mut gateway, &mut signals, &place),
        Err(_) => Ok(()),
    };
    screen.clear();
    gateway.stop().map_err(failed)?;
    outcome
}

/// Rewrites the live line until the end is asked for, or nobody reads it any more.
fn show(screen: &Screen, gateway: &mut Gateway, signals: &mut Signals, place: &Place) -> Result<(), String> {
    let control = sumun_config::default_control(place.config());
    let mut before: Option<(Figures, Instant)> = None;
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next {
            next = now + LIVE_EVERY;
            // A worker process that just died answers nothing; the next one will.
            if let Some(figures) = live::ask(&control) {
                let last = before.as_ref().map(|(figures, at)| (figures, now.saturating_duration_since(*at)));
                if screen.live(&figures, last).is_err() {
                    return Ok(());
                }
                before = Some((figures, now));
            }
        }
        if wait(gateway, signals, next.saturating_duration_since(Instant::now())).map_err(|error| error.to_string())? {
            return Ok(());
        }
        if let Some(status) = gateway.ended() {
            return Err(format!("the gateway ended ({status})"));
        }
    }
}

/// Waits for the gateway's end, a signal or the timeout; whether the end was asked for.
fn wait(gateway: &Gateway, signals: &mut Signals, timeout: Duration) -> io::Result<bool> {
    let descriptors: Vec<BorrowedFd<'_>> = signals.descriptors().chain([gateway.handle.as_fd()]).collect();
    wait_readable(&descriptors, Some(timeout))?;
    // SIGHUP: the terminal is gone.
    Ok(signals.take().iter().any(|signal| !matches!(signal, Signal::User1)))
}

/// How the start of a gateway went.
enum Start {
    Ready,
    Failed,
    /// The end was asked for meanwhile.
    Unwanted,
}

/// The child process; stopped when dropped.
struct Gateway {
    child: Child,
    handle: ProcessHandle,
}

impl Gateway {
    /// Its log goes to the screen: warnings, unless SUMUN_LOG says otherwise.
    fn start(config: &Path, screen: &Screen) -> io::Result<Self> {
        let mut child = place::gateway_command(config).spawn()?;
        if let Some(log) = child.stderr.take() {
            screen.follow(log)?;
        }
        let handle = ProcessHandle::open(child.id())?;
        Ok(Self { child, handle })
    }

    fn wait_ready(&mut self, place: &Place, signals: &mut Signals) -> io::Result<Start> {
        let control = sumun_config::default_control(place.config());
        loop {
            if live::ask(&control).is_some_and(|figures| figures.all_up()) {
                return Ok(Start::Ready);
            }
            if wait(self, signals, START_LOOK)? {
                return Ok(Start::Unwanted);
            }
            if self.ended().is_some() {
                return Ok(Start::Failed);
            }
        }
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Lets it finish what it began, and waits for its end.
    fn stop(&mut self) -> io::Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.handle.send(Send::Terminate)?;
        if !self.handle.wait_gone(place::DRAIN + STOP_PATIENCE)? {
            self.handle.send(Send::Kill)?;
        }
        self.child.wait().map(drop)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("sumun: the gateway (process {}) could not be stopped: {error}", self.child.id());
        }
    }
}

/// The first TCP port from `first` on that nobody listens at on 127.0.0.1.
fn free_port(first: u16, taken: Option<u16>) -> Result<u16, String> {
    (first..first.saturating_add(PORTS_TRIED))
        .filter(|port| Some(*port) != taken)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| format!("127.0.0.1 has no free TCP port from {first} on"))
}

fn introduction(place: &Place, addresses: &Addresses) -> String {
    let Addresses { site, admin, .. } = addresses;
    let config = place.config().display();
    let elsewhere = |port: &u16, wanted: u16| {
        if *port == wanted { String::new() } else { format!("   (TCP port {wanted} is taken)") }
    };
    format!(
        "\
Sumun, in front of two small application servers.

  site     http://127.0.0.1:{site}/{}
  admin    http://127.0.0.1:{admin}/{}
  config   {config}

Try, in another terminal:

  curl http://127.0.0.1:{site}/api/hello            # once more: the other server answers
  curl -d hello http://127.0.0.1:{site}/api/echo    # what a server sees of your request
  curl -X POST http://127.0.0.1:{site}/api/crash    # one server is gone for five seconds; nobody notices

`sumun status -c {config}` shows more. Ctrl-C ends it.

",
        elsewhere(site, SITE_PORT),
        elsewhere(admin, ADMIN_PORT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_free_port_is_taken() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let next = free_port(port, None).unwrap();
        assert!(next > port && next < port + PORTS_TRIED);
        assert!(free_port(next, Some(next)).unwrap() > next);
    }
}
