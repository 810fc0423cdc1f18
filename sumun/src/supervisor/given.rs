//! Sockets that the service manager has opened for us (systemd's socket activation).
//!
//! Each is held against the addresses in the config: by where it listens, whatever it is called.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sumun_config::checked::Config;
use sumun_host::given::{self, Listening};

use super::descriptors::Descriptors;

pub(super) use sumun_host::given::Given as Socket;

/// What was given to this process, once.
pub(super) fn take() -> Result<Vec<Socket>, String> {
    given::take_given().map_err(|error| format!("sockets of the service manager: {error}"))
}

/// The sockets of which the config has the address. The others are kept for a reload that has, and
/// warned of: until then nobody answers there.
pub(super) fn sort(given: Vec<Socket>, config: &Config) -> Result<Descriptors, String> {
    let mut descriptors = Descriptors::default();
    for Socket { name, descriptor } in given {
        let called = if name.is_empty() { String::new() } else { format!(" ({name})") };
        let Some(listening) = given::listening(&descriptor) else {
            tracing::warn!(
                "the service manager gave a descriptor{called} that is no listening stream socket: not used"
            );
            continue;
        };
        given::prepare(&descriptor).map_err(|error| format!("a socket of the service manager{called}: {error}"))?;
        match listening {
            // Clients of the other family would come under other addresses than those that lists in the
            // config name.
            Listening::Tcp { address, both_families: true } => {
                return Err(format!(
                    "the service manager gave a socket for {address}{called} that takes IPv4 as well: set \
                     BindIPv6Only=ipv6-only in its unit, and give one for 0.0.0.0 besides"
                ));
            }
            Listening::Tcp { address, both_families: false } => {
                if !Descriptors::is_wanted_tcp(config, address) {
                    tracing::warn!("the service manager gave a socket for {address}{called}, which no listener has");
                }
                descriptors.give_tcp(address, descriptor);
            }
            // Whoever may connect there may stop us.
            Listening::Unix(path) if path == config.control && is_for_others(&path) => {
                return Err(format!(
                    "the service manager gave a control socket {}{called} that others may use: set \
                     SocketMode=0600 in its unit",
                    path.display()
                ));
            }
            Listening::Unix(path) => {
                if !Descriptors::is_wanted_unix(config, &path) {
                    let path = path.display();
                    tracing::warn!("the service manager gave a socket for unix:{path}{called}, which no listener has");
                }
                descriptors.give_unix(&path, config, descriptor);
            }
        }
    }
    Ok(descriptors)
}

/// Somebody besides its owner may connect, or nobody can tell.
fn is_for_others(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |socket| socket.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_control_socket_is_for_its_owner_alone() {
        let directory = std::env::temp_dir().join(format!("sumun-given-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("control.sock");
        std::fs::remove_file(&path).unwrap_or_default();
        let socket = UnixListener::bind(&path).unwrap();
        let text = format!(
            "control: unix:{}\nlisteners: {{ web: {{ bind: \":80\", routes: [{{ path: /, respond: 204 }}] }} }}\n",
            path.display()
        );
        let config = sumun_config::check_text("sumun.yaml", &text).unwrap().config;
        let given = || Socket { name: String::new(), descriptor: socket.try_clone().unwrap().into() };
        for (mode, is_taken) in [(0o666, false), (0o660, false), (0o602, false), (0o600, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let sorted = sort(vec![given()], &config);
            assert_eq!(sorted.is_ok(), is_taken, "{mode:o}: {:?}", sorted.err());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
