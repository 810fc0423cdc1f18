//! QUIC through the L4 switch, with aioquic on both sides: connections whose clients come from another UDP
//! port go on where the switch goes by their ids, and not where it does not.

use std::process::Command;

use serde_json::Value;

use super::Stage;
use super::client::ensure;
use super::gateway::Gateway;
use super::servers::script_path;
use crate::children::{free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::shell::{Fallible, output};

pub(crate) fn rebinding(stage: &Stage) -> Fallible<String> {
    let python = match packages::python_environment("quic", &["aioquic"])? {
        Ok(bin) => bin,
        Err(Missing::CannotInstall(why)) => return Err(why.into()),
    };
    let [one, other] = [free_tcp_port()?, free_tcp_port()?];
    let [with, without] = [loopback(free_tcp_port()?), loopback(free_tcp_port()?)];
    let config = format!(
        "pools: {{ app: {{ servers: [\"127.0.0.1:{one}\", \"127.0.0.1:{other}\"] }} }}
listeners:
  web: {{ bind: \"LISTEN\", routes: [{{ respond: 204 }}] }}
  with: {{ bind: \"{with}/udp\", udp: {{ pool: app, quic: on }} }}
  without: {{ bind: \"{without}/udp\", udp: app }}
"
    );
    let _gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let mut command = Command::new(python.join("python"));
    command.arg(script_path("quic.py")).arg(format!("{one},{other}")).args([with.to_string(), without.to_string()]);
    let seen: Value = serde_json::from_str(&output(&mut command)?)?;
    let number = |value: &Value| value.as_u64().ok_or_else(|| format!("no number in {seen}"));
    let all = number(&seen["connections"])?;
    let [with, without] = [number(&seen["survivors"][0])?, number(&seen["survivors"][1])?];
    ensure("all go on with `quic: on`", with == all, &seen)?;
    ensure("without it they do not, or nothing was shown", without < all, &seen)?;
    Ok(format!("of {all} connections whose UDP port changes {with} go on with `quic: on`, {without} without"))
}
