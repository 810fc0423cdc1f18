//! Talking to the service manager: sd_notify(3), as far as a service needs it.
//!
//! One datagram for each state, to the Unix socket that NOTIFY_SOCKET names; a name that begins
//! with `@` is in the abstract namespace. Without the variable nobody listens and nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What is said about this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State<'a> {
    /// It serves; also said when a reload is over.
    Ready,
    /// A reload has begun, at this time of CLOCK_MONOTONIC in microseconds.
    Reloading {
        monotonic_us: u64,
    },
    Stopping,
    /// It is alive: wanted more often than the time of [`watchdog`].
    Watchdog,
    /// A line for people.
    Status(&'a str),
}

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// `None` where no service manager wants to hear from us.
    ///
    /// # Errors
    /// The variable holds what cannot be an address, or there is no socket to be had.
    pub fn from_environment() -> io::Result<Option<Self>> {
        std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).map(|name| Self::to(&name)).transpose()
    }

    fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            Some((b'/', _)) => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read must not stop us.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Says all of these at once.
    pub fn say(&self, states: &[State<'_>]) -> io::Result<()> {
        let text = states.iter().map(line).collect::<Vec<String>>().join("\n");
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(drop)
    }
}

fn line(state: &State<'_>) -> String {
    match state {
        State::Ready => "READY=1".to_owned(),
        State::Reloading { monotonic_us } => format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"),
        State::Stopping => "STOPPING=1".to_owned(),
        State::Watchdog => "WATCHDOG=1".to_owned(),
        // A line break would begin another assignment.
        State::Status(text) => format!("STATUS={}", text.replace(['\n', '\r'], " ")),
    }
}

/// How long the service manager waits for a sign of life before it ends this process
/// (WATCHDOG_USEC, where WATCHDOG_PID is us or not set); `None` where it does not.
pub fn watchdog() -> Option<Duration> {
    watchdog_of(|name| std::env::var(name).ok(), std::process::id())
}

fn watchdog_of(variable: impl Fn(&str) -> Option<String>, we: u32) -> Option<Duration> {
    if variable("WATCHDOG_PID").is_some_and(|pid| pid.parse() != Ok(we)) {
        return None;
    }
    let microseconds: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn states_arrive_at_a_path_and_at_an_abstract_name() {
        let path = std::env::temp_dir().join(format!("sumun-notify-{}", std::process::id()));
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("sumun-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, name) in [(at_path, path.display().to_string()), (at_name, format!("@{name}"))] {
            let notifier = Notifier::to(OsStr::new(&name)).unwrap();
            notifier.say(&[State::Ready, State::Status("web on\n0.0.0.0:80")]).unwrap();
            assert_eq!(received(&socket), "READY=1\nSTATUS=web on 0.0.0.0:80");
            notifier.say(&[State::Reloading { monotonic_us: 17 }]).unwrap();
            assert_eq!(received(&socket), "RELOADING=1\nMONOTONIC_USEC=17");
            notifier.say(&[State::Stopping]).unwrap();
            notifier.say(&[State::Watchdog]).unwrap();
            assert_eq!((received(&socket).as_str(), received(&socket).as_str()), ("STOPPING=1", "WATCHDOG=1"));
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert!(Notifier::to(OsStr::new("relative")).is_err());
        assert!(Notifier::to(OsStr::new("vsock:2:1")).is_err());
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let with = |usec: &'static str, pid: Option<&'static str>| {
            watchdog_of(move |name| if name == "WATCHDOG_USEC" { Some(usec) } else { pid }.map(str::to_owned), 7)
        };
        assert_eq!(with("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(with("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(with("30000000", Some("8")), None);
        assert_eq!(with("0", None), None);
        assert_eq!(with("soon", None), None);
        assert_eq!(watchdog_of(|_| None, 7), None);
    }
}
