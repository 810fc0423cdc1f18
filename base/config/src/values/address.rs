//! Addresses of listeners and servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::Wrong;
use crate::limits;
use crate::report::quoted;

/// An address as written; the path of a socket is not yet made absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    Tcp(Vec<SocketAddr>),
    Udp(Vec<SocketAddr>),
    Unix(String),
}

/// White space is written out in these patterns: what `\s` stands for beyond ASCII differs between
/// the expressions of Rust and those of a JSON Schema.
pub(crate) const BIND_PATTERN: &str = r"^(unix:.+|[^/\x09-\x0d\x20]*:[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp))?)$";

/// `127.0.0.1:8080`, `[::1]:8080`, `:8080` for all addresses of both families, `:8080-8089` for ten of
/// each, `127.0.0.1:53/udp`, `unix:PATH`.
pub(crate) fn bind(text: &str) -> Result<Bind, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path).map(|()| Bind::Unix(path.to_owned()));
    }
    let (address, is_udp) = match text.strip_suffix("/udp") {
        Some(address) => (address, true),
        None => (text.strip_suffix("/tcp").unwrap_or(text), false),
    };
    let (host, ports) = host_and_port(address, BIND)?;
    let ports = if ports.contains('-') {
        port_range(text, ports, limits::BIND_PORTS)?
    } else {
        let port = single_port(text, ports, 0)?;
        port..=port
    };
    let ips: Vec<IpAddr> = if host.is_empty() {
        vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
    } else {
        vec![host.parse().map_err(|_| no_address_of_ours(host, *ports.start()))?]
    };
    let sockets = ports.flat_map(|port| ips.iter().map(move |ip| SocketAddr::new(*ip, port))).collect();
    Ok(if is_udp { Bind::Udp(sockets) } else { Bind::Tcp(sockets) })
}

fn no_address_of_ours(host: &str, port: u16) -> Wrong {
    Wrong::new(format!("{} is no IP address to listen on", quoted(host))).help(match host {
        "localhost" => format!("write \"127.0.0.1:{port}\", and \"[::1]:{port}\" for IPv6"),
        "*" => format!("write \":{port}\" for all addresses"),
        _ => format!("write an address of this host, or \":{port}\" for all of them"),
    })
}

pub(crate) const ADMIN_PATTERN: &str = r"^[^/\x09-\x0d\x20]+:[0-9]{1,5}$";

/// One address with its TCP port.
pub(crate) fn admin(text: &str) -> Result<SocketAddr, Wrong> {
    let (host, port) = host_and_port(text, BIND)?;
    let port = single_port(text, port, 0)?;
    host.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, port))).map_err(|_| {
        Wrong::new(format!("{} names no IP address", quoted(text)))
            .help("the admin listener takes one address, such as 127.0.0.1:9900, or `off`")
    })
}

/// One server as written: its name, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerAt {
    Ip(SocketAddr),
    Name(String, u16),
    Unix(String),
}

pub(crate) const SERVER_PATTERN: &str = r"^(unix:.+|[^/\x09-\x0d\x20]+:[0-9]{1,5}(-[0-9]{1,5})?)$";

/// `10.0.0.5:8000`, `10.0.0.5:8000-8010` for one server a TCP port, `[::1]:80`,
/// `app.example.com:80`, `unix:PATH`.
pub(crate) fn server(text: &str) -> Result<Vec<(String, ServerAt)>, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        socket_path(path)?;
        return Ok(vec![(text.to_owned(), ServerAt::Unix(path.to_owned()))]);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let wrong = Wrong::new(format!("{} is a URL", quoted(text)));
        let address = rest.split('/').next().unwrap_or_default();
        let port = if scheme == "https" { 443 } else { 80 };
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:{port}") };
        return Err(wrong.help(format!("a server is an address and a TCP port: `{address}`")));
    }
    let (host, ports) = host_and_port(text, "connect to")?;
    let (first, last) = match ports.split_once('-') {
        None => {
            let port = single_port(text, ports, 1)?;
            (port, port)
        }
        Some(_) => port_range(text, ports, limits::SERVERS)?.into_inner(),
    };
    let ip = host.parse::<IpAddr>().ok();
    if ip.is_some_and(|ip| ip.is_unspecified()) {
        let wrong = Wrong::new(format!("{} is no address to connect to", quoted(host)));
        return Err(wrong.help("name the server's own address; 127.0.0.1 is this host"));
    }
    if ip.is_none() {
        host_name(host)?;
    }
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok((first..=last)
        .map(|port| {
            let at = match ip {
                Some(ip) => ServerAt::Ip(SocketAddr::from((ip, port))),
                None => ServerAt::Name(host.to_ascii_lowercase(), port),
            };
            (format!("{shown}:{port}"), at)
        })
        .collect())
}

/// A name that DNS can look up.
pub(crate) fn host_name(host: &str) -> Result<(), Wrong> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() <= 253 && name.split('.').all(label_fits) && !last_is_number {
        return Ok(());
    }
    let wrong = Wrong::new(format!("{} is neither an IP address nor a host name", quoted(host)));
    Err(if host.is_ascii() { wrong } else { wrong.help("write the name in its ASCII form, xn--…") })
}

const BIND: &str = "bind to";

/// The host without brackets, and the text behind the last colon.
fn host_and_port<'a>(text: &'a str, purpose: &str) -> Result<(&'a str, &'a str), Wrong> {
    let form = format!("an address to {purpose} is written as 127.0.0.1:8080, \"[::1]:8080\" or unix:/run/x.sock");
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("{} is a number, not an address", quoted(text));
        let host = if purpose == BIND { "" } else { "127.0.0.1" };
        return Err(Wrong::new(message).help(format!("{form}; did you mean \"{host}:{text}\"?")));
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        return match bracketed.split_once("]:") {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => Ok((host, port)),
            Some((host, _)) => Err(Wrong::new(format!("{} is no IPv6 address", quoted(host))).help(form)),
            None => Err(Wrong::new(format!("{} has no TCP port", quoted(text))).help(form)),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Wrong::new(format!("{} has no TCP port", quoted(text))).help(form));
    };
    if host.contains(':') {
        let wrong = Wrong::new(format!("{} is an IPv6 address without brackets", quoted(text)));
        let ends_with_port = host.parse::<Ipv6Addr>().is_ok() && port.len() <= 5;
        return Err(wrong.help(match text.parse::<Ipv6Addr>() {
            Ok(_) if !ends_with_port => format!("write \"[{text}]:80\" with its TCP port"),
            _ => format!("did you mean \"[{host}]:{port}\"?"),
        }));
    }
    Ok((host, port))
}

/// `8000-8010`, at most so many.
fn port_range(text: &str, ports: &str, most: usize) -> Result<RangeInclusive<u16>, Wrong> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (single_port(text, first, 1)?, single_port(text, last, 1)?);
    if first > last {
        let wrong = Wrong::new(format!("{} is a range that ends before it starts", quoted(text)));
        return Err(wrong.help(format!("did you mean {last}-{first}?")));
    }
    if usize::from(last - first) >= most {
        return Err(Wrong::new(format!("{} is a range of more than {most}", quoted(text))));
    }
    Ok(first..=last)
}

fn single_port(text: &str, port: &str, least: u16) -> Result<u16, Wrong> {
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(Wrong::new(format!("{} has no TCP port after its last colon", quoted(text))));
    }
    let number = port.parse::<u16>().ok().filter(|number| *number >= least);
    number.ok_or_else(|| Wrong::new(format!("{} is no TCP port: they go from 1 to 65535", quoted(port))))
}

/// The path behind `unix:`.
pub(crate) fn socket_path(path: &str) -> Result<(), Wrong> {
    super::path(path)?;
    if path.len() > limits::SOCKET_PATH_BYTES {
        let message = format!("{} is too long for a socket: at most {} bytes", quoted(path), limits::SOCKET_PATH_BYTES);
        return Err(Wrong::new(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        let tcp = |texts: &[&str]| Ok(Bind::Tcp(texts.iter().map(|text| text.parse().expect("an address")).collect()));
        assert_eq!(bind("127.0.0.1:8080"), tcp(&["127.0.0.1:8080"]));
        assert_eq!(bind("[::1]:8080"), tcp(&["[::1]:8080"]));
        assert_eq!(bind(":80"), tcp(&["0.0.0.0:80", "[::]:80"]));
        assert_eq!(bind("unix:run/x.sock"), Ok(Bind::Unix("run/x.sock".to_owned())));
        assert_eq!(bind("127.0.0.1:7-9/tcp"), tcp(&["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"]));
        assert_eq!(bind("[::1]:53/udp"), Ok(Bind::Udp(vec!["[::1]:53".parse().expect("an address")])));
        for text in [
            "8080",
            "localhost:80",
            "::1:80",
            "*:80",
            "1.2.3.4",
            "1.2.3.4:99999",
            "[1.2.3.4]:80",
            "unix:",
            ":5514/sctp",
            ":9-8",
            ":0-8",
            ":1-65535",
            "",
        ] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn servers() {
        let range = server("10.0.0.5:8000-8002").expect("a range");
        assert_eq!(
            range.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["10.0.0.5:8000", "10.0.0.5:8001", "10.0.0.5:8002"]
        );
        assert_eq!(
            server("App.example:80").expect("a name"),
            [("App.example:80".to_owned(), ServerAt::Name("app.example".to_owned(), 80))]
        );
        for text in [
            "app",
            "http://app:80/",
            "10.0.0.300:80",
            "10.0.0.1:0",
            "10.0.0.1:9-8",
            "a_b..c:1",
            "0.0.0.0:80",
            "::1",
            "",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
