//! The hidden subcommand `sandbox-probe`: enters the sandbox of a config as its worker process does,
//! and then tries one thing. For tests of the sandbox, and for who doubts it.

use std::path::Path;
use std::process::ExitCode;

use sumun_host::sandbox::acts::{Act, attempt};

/// Prints `allowed` or the kernel's error. Exit 0: allowed; 1: refused; 2: it could not be tried.
pub(crate) fn run(file: &Path, act: &str, object: Option<&str>) -> ExitCode {
    crate::log::start();
    let Some(act) = parse(act, object.unwrap_or_default()) else {
        eprintln!("sumun: there is no act `{act}` with this object");
        return ExitCode::from(2);
    };
    let entered = sumun_config::load(file)
        .and_then(|sources| sumun_config::check(&sources, sumun_config::Probe::Nothing))
        .map_err(|report| report.render(false))
        .and_then(|checked| super::enter(&checked.config));
    match entered.map(|inside| (attempt(&act), inside)) {
        Err(why) => {
            eprintln!("sumun: {why}");
            ExitCode::from(2)
        }
        Ok((Ok(()), _)) => {
            println!("allowed");
            ExitCode::SUCCESS
        }
        Ok((Err(error), _)) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(act: &str, object: &str) -> Option<Act> {
    Some(match act {
        "read" => Act::Read(object.into()),
        "list" => Act::List(object.into()),
        "write" => Act::Write(object.into()),
        "connect" => Act::Connect(object.parse().ok()?),
        "fast-open" => Act::FastOpen(object.parse().ok()?),
        "multipath" => Act::Multipath(object.parse().ok()?),
        "bind" => Act::Bind(object.parse().ok()?),
        "listen" => Act::Listen,
        "raw" => Act::Raw,
        "netlink" => Act::Netlink,
        "netlink-pair" => Act::NetlinkPair,
        "exec" => Act::Exec(object.into()),
        "spawn" => Act::Spawn(object.into()),
        "signal" => Act::Signal(object.parse().ok()?),
        "limit" => Act::Limit(object.parse().ok()?),
        "thread" => Act::Thread,
        "call" => Act::Call(object.to_owned()),
        _ => return None,
    })
}
