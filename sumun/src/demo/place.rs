//! The directory of the demonstration: config file and site, removed at its end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sumun_host::random::random_bytes;

/// `drain:` of the config: how long `/api/slow` has to finish after Ctrl-C.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

const PAGE: &str = include_str!("site/index.html");
const STYLE: &str = include_str!("site/style.css");
const SCRIPT: &str = include_str!("site/demo.js");

/// TCP ports on 127.0.0.1, and where the application servers listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) site: u16,
    pub(super) admin: u16,
    pub(super) servers: [SocketAddr; 2],
}

pub(super) struct Place {
    directory: PathBuf,
    config: PathBuf,
}

impl Place {
    /// A fresh directory below the system's one for temporary files.
    pub(super) fn create() -> io::Result<Self> {
        let name = format!("sumun-demo-{:08x}", u32::from_be_bytes(random_bytes()?));
        let directory = std::path::absolute(std::env::temp_dir())?.join(name);
        // Fails where something lies there already: nobody else's files are served or removed.
        DirBuilder::new().mode(0o755).create(&directory)?;
        let config = directory.join("sumun.yaml");
        Ok(Self { directory, config })
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Writes config and site for these addresses; over earlier ones.
    pub(super) fn furnish(&self, addresses: &Addresses, workers: usize) -> io::Result<()> {
        let config = config_text(addresses, workers);
        let page = PAGE
            .replace("{{admin}}", &format!("http://127.0.0.1:{}/", addresses.admin))
            .replace("{{file}}", &escape(&self.config.display().to_string()))
            .replace("{{config}}", &escape(&config));
        let site = self.directory.join("site");
        fs::create_dir_all(&site)?;
        // Started by root it is served by another user, whatever the umask is.
        for directory in [&self.directory, &site] {
            fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        }
        for (name, content) in [("index.html", page.as_str()), ("style.css", STYLE), ("demo.js", SCRIPT)] {
            let path = site.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
        fs::write(&self.config, config)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("sumun: {} could not be removed: {error}", self.directory.display());
        }
    }
}

/// This program, to run the gateway with `config`; in a process group of its own, so that Ctrl-C
/// reaches the demonstration alone and the gateway is ended in order.
pub(super) fn gateway_command(config: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("sumun")
        .args(["demo", "--gateway"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    if std::env::var_os("SUMUN_LOG").is_none() {
        command.env("SUMUN_LOG", "warn");
    }
    command
}

fn config_text(addresses: &Addresses, workers: usize) -> String {
    let Addresses { site, admin, servers: [east, west] } = addresses;
    format!(
        "\
# What `sumun demo` runs. Copy it, change it, and start yours with `sumun run -c FILE`.
workers: {workers}
admin: 127.0.0.1:{admin}
drain: {}s

pools:
  app:
    servers:
      - \"{east}\"
      - \"{west}\"
    balance: round-robin        # in turn, so that it can be seen; the default is p2c
    health: {{ http: /healthz, every: 1s, timeout: 500ms, rise: 1, fall: 2 }}
    outlier: {{ eject: 1s, eject_max: 2s }}

listeners:
  web:
    bind: \"127.0.0.1:{site}\"
    routes:                     # the first match wins
      - {{ path: /api/, proxy: app, deadline: 10s }}
      - {{ path: /admin, redirect: \"http://127.0.0.1:{admin}/\" }}
      - {{ path: /about, respond: {{ body: \"Sumun is a floodgate.\\n\" }} }}
      - {{ path: /, files: {{ root: site }} }}
",
        DRAIN.as_secs()
    )
}

/// Text inside HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_right_and_the_page_has_no_hole() {
        let servers = ["127.0.0.1:4001", "127.0.0.1:4002"].map(|address| address.parse().unwrap());
        let addresses = Addresses { site: 8080, admin: 9900, servers };
        let place = Place::create().unwrap();
        place.furnish(&addresses, 2).unwrap();
        let checked = crate::checked::load(place.config()).unwrap_or_else(|report| panic!("{}", report.render(false)));
        let warnings = checked.1.warnings.render(false);
        assert!(warnings.trim().is_empty(), "{warnings}");
        let page = fs::read_to_string(place.directory.join("site/index.html")).unwrap();
        assert!(!page.contains("{{") && page.contains("http://127.0.0.1:9900/"), "{page}");
        let directory = place.directory.clone();
        drop(place);
        assert!(!directory.exists());
    }
}
