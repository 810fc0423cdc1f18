//! Ours, started with a config for one interop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::shell::{Fallible, output};

/// Slow machines that build at the same time need a while.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Gateway {
    binary: PathBuf,
    config: PathBuf,
    pub(crate) running: Running,
    pub(crate) listen: SocketAddr,
}

impl Gateway {
    /// Starts the gateway. In `config` the word `LISTEN` stands for the address of the listener;
    /// what every interop has in common is put before it.
    pub(crate) fn start(binary: &Path, folder: &TemporaryFolder, config: &str) -> Fallible<Self> {
        let listen = loopback(free_tcp_port()?);
        // Named after its TCP port: one interop may start several.
        let path = folder.write(&format!("sumun-{}.yaml", listen.port()), complete(folder, listen, config))?;
        let mut command = Command::new(binary);
        command.args(["run", "-c"]).arg(&path);
        let mut running = Running::start("sumun", &mut command, folder)?;
        running.wait_for(listen, START_LIMIT)?;
        Ok(Self { binary: binary.to_owned(), config: path, running, listen })
    }

    /// Starts it anew where it was, once it is dead, with the config and the files that it had.
    pub(crate) fn start_again(&mut self, folder: &TemporaryFolder) -> Fallible<()> {
        let mut command = Command::new(&self.binary);
        command.args(["run", "-c"]).arg(&self.config);
        self.running = Running::start("sumun", &mut command, folder)?;
        self.running.wait_for(self.listen, START_LIMIT)
    }

    pub(crate) fn config_path(&self) -> &Path {
        &self.config
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Its metrics, over the control socket.
    pub(crate) fn metrics(&self, folder: &TemporaryFolder) -> Fallible<String> {
        let socket = folder.path().join(format!("control-{}.sock", self.listen.port()));
        output(Command::new("curl").arg("--silent").arg("--unix-socket").arg(socket).arg("http://localhost/metrics"))
    }

    /// Has it go on in the program that lies in its place.
    pub(crate) fn upgrade(&self) -> Fallible<()> {
        output(Command::new(&self.binary).args(["upgrade", "-c"]).arg(&self.config)).map(drop)
    }

    /// Has it forget all that is cached.
    pub(crate) fn purge_cache(&self) -> Fallible<()> {
        output(Command::new(&self.binary).args(["cache", "purge", "--all", "-c"]).arg(&self.config)).map(drop)
    }

    /// Puts another config in place and has it taken over.
    pub(crate) fn reload(&self, folder: &TemporaryFolder, config: &str) -> Fallible<()> {
        // Written beside it and renamed: nobody reads half a file.
        let new = folder.write("sumun.yaml.new", complete(folder, self.listen, config))?;
        std::fs::rename(new, &self.config)?;
        output(Command::new(&self.binary).args(["reload", "-c"]).arg(&self.config)).map(drop)
    }
}

fn complete(folder: &TemporaryFolder, listen: SocketAddr, config: &str) -> String {
    let common =
        format!("workers: 2\nadmin: off\ncontrol: unix:{}/control-{}.sock\n", folder.path().display(), listen.port());
    common + &config.replace("LISTEN", &listen.to_string())
}
