//! The subcommands that end by themselves.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::{Value, json};
use sumun_config::{Probe, VolumeEdit};
use sumun_host::process::{self, ProcessHandle};

use crate::arguments::{Arguments, CacheAction, Instance, ServerAction, ServerOfPool, VolumeAction};
use crate::client::{self, Answer, segment};
use crate::limits::{STOP_PATIENCE, UNKNOWN_DRAIN};
use crate::log::coloured;

mod show;
mod volumes;
mod warm;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// What a subcommand prints on standard error, and its exit status.
struct Failure {
    text: String,
    status: u8,
}

type Outcome = Result<u8, Failure>;

impl From<client::ClientError> for Failure {
    fn from(error: client::ClientError) -> Self {
        Self { text: format!("sumun: {error}\n"), status: FAILED }
    }
}

pub(crate) fn check(path: &Path, with_sandbox: bool, as_json: bool) -> ExitCode {
    let (config, report) = match crate::checked::load(path) {
        Ok((_, checked)) => (Some(checked.config), checked.warnings),
        Err(report) => (None, report),
    };
    let shown = config.as_ref().filter(|_| with_sandbox);
    let text = if as_json {
        let mut json = report.to_json();
        if let (Some(config), Some(json)) = (shown, json.as_object_mut()) {
            json.insert("sandbox".to_owned(), crate::sandbox::as_json(config));
        }
        format!("{json}\n")
    } else if config.is_some() {
        let sandbox = shown.map(crate::sandbox::as_text).unwrap_or_default();
        format!("{}{}: good\n{sandbox}", report.render(coloured(&io::stdout())), path.display())
    } else {
        report.render(coloured(&io::stdout()))
    };
    conclude(print(&text).map(|()| if config.is_some() { DONE } else { WRONG }))
}

pub(crate) fn schema() -> ExitCode {
    conclude(print(&format!("{:#}\n", sumun_config::schema())).map(|()| DONE))
}

pub(crate) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sumun", &mut script);
    conclude(print(&String::from_utf8_lossy(&script)).map(|()| DONE))
}

pub(crate) fn man() -> ExitCode {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(Arguments::command()).render(&mut page);
    let printed = match rendered {
        Ok(()) => print(&String::from_utf8_lossy(&page)),
        Err(error) => Err(failed(format!("the man page: {error}"))),
    };
    conclude(printed.map(|()| DONE))
}

pub(crate) fn reload(instance: &Instance) -> ExitCode {
    conclude(try_reload(instance))
}

pub(crate) fn upgrade(instance: &Instance) -> ExitCode {
    conclude(try_upgrade(instance))
}

pub(crate) fn stop(instance: &Instance) -> ExitCode {
    conclude(try_stop(instance))
}

pub(crate) fn status(instance: &Instance, as_json: bool) -> ExitCode {
    conclude(
        ask(instance, "GET", "/api/v1/status", None)
            .and_then(|answer| present(&answer, as_json, |body| show::status(body, coloured(&io::stdout())))),
    )
}

pub(crate) fn pool(instance: &Instance, name: Option<&str>, as_json: bool) -> ExitCode {
    conclude(
        pools(instance, name)
            .and_then(|answer| present(&answer, as_json, |body| show::pools(body, coloured(&io::stdout())))),
    )
}

pub(crate) fn traffic(instance: &Instance, as_json: bool) -> ExitCode {
    conclude(
        ask(instance, "GET", "/api/v1/traffic", None)
            .and_then(|answer| present(&answer, as_json, |body| show::traffic(body, coloured(&io::stdout())))),
    )
}

pub(crate) fn blocks(instance: &Instance, lift: Option<&str>, as_json: bool) -> ExitCode {
    let Some(client) = lift else {
        return conclude(
            ask(instance, "GET", "/api/v1/blocks", None)
                .and_then(|answer| present(&answer, as_json, |body| show::blocks(body, coloured(&io::stdout())))),
        );
    };
    let lifted = ask(instance, "DELETE", &format!("/api/v1/blocks/{}", segment(client)), None);
    conclude(lifted.and_then(|answer| present(&answer, false, |_| format!("{client} is not blocked any more\n"))))
}

pub(crate) fn cache(instance: &Instance, as_json: bool, action: Option<&CacheAction>) -> ExitCode {
    conclude(match action {
        None => ask(instance, "GET", "/api/v1/cache", None).and_then(|answer| present(&answer, as_json, show::cache)),
        Some(CacheAction::Get { url, header, instance, json }) => cache_get(instance, url, header, *json),
        Some(CacheAction::Purge { url, prefix, tag, all, soft, instance }) => {
            let mut body = json!({ "soft": soft });
            for (key, value) in [("url", url), ("prefix", prefix), ("tag", tag)] {
                if let Some(value) = value {
                    body[key] = json!(value);
                }
            }
            if *all {
                body["all"] = json!(true);
            }
            ask(instance, "POST", "/api/v1/cache/purge", Some(&body))
                .and_then(|answer| present(&answer, false, |_| "purged\n".to_owned()))
        }
        Some(CacheAction::Warm(options)) => warm::warm(options),
    })
}

fn cache_get(instance: &Instance, url: &str, header: &[String], as_json: bool) -> Outcome {
    let mut headers = serde_json::Map::new();
    for line in header {
        let Some((name, value)) = line.split_once(':') else {
            return Err(Failure { text: format!("sumun: {line} is no header field: NAME: VALUE\n"), status: WRONG });
        };
        headers.insert(name.trim().to_owned(), json!(value.trim()));
    }
    let body = json!({ "url": url, "headers": headers });
    let answer = ask(instance, "POST", "/api/v1/cache/get", Some(&body))?;
    present(&answer, as_json, |body| show::cache_found(body, coloured(&io::stdout())))
}

pub(crate) fn volume(action: &VolumeAction) -> ExitCode {
    conclude(match action {
        VolumeAction::List { instance, json } => ask(instance, "GET", "/api/v1/volumes", None)
            .and_then(|answer| present(&answer, *json, |body| show::volumes(body, coloured(&io::stdout())))),
        VolumeAction::Grow { volume, size, instance } => {
            volumes::change(instance, VolumeEdit::Resize { volume, size, grows: true })
        }
        VolumeAction::Shrink { volume, size, instance } => {
            volumes::change(instance, VolumeEdit::Resize { volume, size, grows: false })
        }
        VolumeAction::Add { path, size, instance } => volumes::add(instance, path, size.as_deref()),
        VolumeAction::Remove { path, instance } => volumes::remove(instance, path),
    })
}

pub(crate) fn server(action: &ServerAction) -> ExitCode {
    conclude(match action {
        ServerAction::List { pool, instance, json } => pools(instance, pool.as_deref())
            .and_then(|answer| present(&answer, *json, |body| show::servers(body, coloured(&io::stdout())))),
        ServerAction::Drain(target) => patch(target, &json!({"state": "draining"}), "drains"),
        ServerAction::Enable(target) => patch(target, &json!({"state": "enabled"}), "is enabled"),
        ServerAction::Disable(target) => patch(target, &json!({"state": "disabled"}), "is disabled"),
        ServerAction::Weight { target, weight } => {
            patch(target, &json!({"weight": weight}), &format!("has weight {weight}"))
        }
        ServerAction::Add { target, weight, quic_id } => {
            let path = format!("/api/v1/pools/{}/servers", segment(&target.pool));
            let mut body = json!({"address": target.server, "weight": weight});
            if let Some(id) = quic_id {
                body["quic_id"] = json!(id);
            }
            act(target, "POST", &path, Some(&body), "was added")
        }
        ServerAction::Remove(target) => act(target, "DELETE", &path_of(target), None, "was removed"),
    })
}

fn try_reload(instance: &Instance) -> Outcome {
    // The instance reads its file itself; looking first gives a report with colours and places
    // also where the file is too broken to say which instance is meant.
    if instance.control.is_none()
        && let Err(report) = crate::checked::load(&instance.file.path())
    {
        let text = report.render(coloured(&io::stderr()));
        return Err(Failure { text: format!("{text}nothing was reloaded\n"), status: WRONG });
    }
    let answer = ask(instance, "POST", "/api/v1/reload", None)?;
    match (answer.status, answer.body.get("report").and_then(Value::as_str)) {
        (200, _) => {
            let changed = answer.body.get("changed").and_then(Value::as_str);
            print(&format!("reloaded: {}\n", changed.unwrap_or("done")))?;
            Ok(DONE)
        }
        (422, Some(report)) => {
            Err(Failure { text: format!("{}\nnothing was changed\n", report.trim_end()), status: WRONG })
        }
        _ => Err(refused(&answer)),
    }
}

fn try_upgrade(instance: &Instance) -> Outcome {
    let answer = ask(instance, "POST", "/api/v1/upgrade", None)?;
    match (answer.status, answer.body.get("report").and_then(Value::as_str)) {
        (200, _) => {
            let text = answer.body.get("upgraded").and_then(Value::as_str);
            print(&format!("{}\n", text.unwrap_or("upgraded")))?;
            Ok(DONE)
        }
        (422, Some(why)) => Err(failed(format!("not upgraded, the running program goes on: {}", why.trim_end()))),
        _ => Err(refused(&answer)),
    }
}

/// SIGTERM to the supervisor, whom the kernel names: it called listen(2) on the control socket.
fn try_stop(instance: &Instance) -> Outcome {
    let system = |error: io::Error| failed(error.to_string());
    let (control, drain) = control_of(instance)?;
    let (stream, supervisor) = client::connect(&control)?;
    drop(stream);
    let pid = supervisor.pid;
    let gone = |_| failed(format!("process {pid} has ended already"));
    let handle = ProcessHandle::open(pid).map_err(gone)?;
    // A worker process that outlives its supervisor still answers on the socket, and the id may
    // mean another process by now.
    if process::name_of(pid).as_deref() != Some("sumun") {
        return Err(failed(format!("{} is not an instance's supervisor", process::describe(pid))));
    }
    handle.send(process::Send::Terminate).map_err(system)?;
    let began = Instant::now();
    let finish = drain.map(|drain| format!(", connections have {} s to finish", drain.as_secs_f32()));
    print(&format!("process {pid} is ending{}\n", finish.unwrap_or_default()))?;
    if !handle.wait_gone(drain.unwrap_or(UNKNOWN_DRAIN) + STOP_PATIENCE).map_err(system)? {
        return Err(failed(format!("process {pid} still runs")));
    }
    print(&format!("ended after {:.1} s\n", began.elapsed().as_secs_f32()))?;
    Ok(DONE)
}

fn pools(instance: &Instance, name: Option<&str>) -> Result<Answer, Failure> {
    let mut answer = ask(instance, "GET", "/api/v1/pools", None)?;
    if let (200, Some(name), Some(pools)) = (answer.status, name, answer.body.as_array_mut()) {
        pools.retain(|pool| pool.get("name").and_then(Value::as_str) == Some(name));
        if pools.is_empty() {
            return Err(failed(format!("there is no pool {name}")));
        }
    }
    Ok(answer)
}

fn patch(target: &ServerOfPool, body: &Value, done: &str) -> Outcome {
    act(target, "PATCH", &path_of(target), Some(body), done)
}

fn path_of(target: &ServerOfPool) -> String {
    format!("/api/v1/pools/{}/servers/{}", segment(&target.pool), segment(&target.server))
}

fn act(target: &ServerOfPool, method: &str, path: &str, body: Option<&Value>, done: &str) -> Outcome {
    let answer = ask(&target.instance, method, path, body)?;
    if !(200..300).contains(&answer.status) {
        return Err(refused(&answer));
    }
    print(&format!("server {} of pool {} {done}\n", target.server, target.pool))?;
    Ok(DONE)
}

fn ask(instance: &Instance, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
    let (control, _) = control_of(instance)?;
    Ok(client::request(&control, method, path, body)?)
}

/// The control socket of the instance that is meant, and how long it drains where the
/// file says.
///
/// Of a file that is wrong by now the default place is tried: most files do not name another one.
fn control_of(instance: &Instance) -> Result<(PathBuf, Option<Duration>), Failure> {
    let path = instance.file.path();
    let checked = sumun_config::load(&path).and_then(|sources| sumun_config::check(&sources, Probe::Nothing));
    let drain = checked.as_ref().ok().map(|checked| checked.config.drain);
    if let Some(control) = &instance.control {
        return Ok((control.clone(), drain));
    }
    match checked {
        Ok(checked) => Ok((checked.config.control, drain)),
        Err(report) => {
            let control = sumun_config::default_control(&path);
            if client::connect(&control).is_ok() {
                return Ok((control, drain));
            }
            let mut text = report.render(coloured(&io::stderr()));
            text.push_str("sumun: the file does not tell which instance is meant; --control SOCKET does\n");
            Err(Failure { text, status: WRONG })
        }
    }
}

fn present(answer: &Answer, as_json: bool, table: impl Fn(&Value) -> String) -> Outcome {
    if answer.status != 200 {
        return Err(refused(answer));
    }
    print(&if as_json { format!("{:#}\n", answer.body) } else { table(&answer.body) })?;
    Ok(DONE)
}

fn refused(answer: &Answer) -> Failure {
    let texts = ["error", "report", "message"].map(|key| answer.body.get(key)?.as_str());
    let why = texts.into_iter().flatten().next();
    match why {
        Some(why) => failed(why.trim_end().to_owned()),
        None => failed(format!("the instance answered with status {}", answer.status)),
    }
}

fn failed(text: String) -> Failure {
    Failure { text: format!("sumun: {text}\n"), status: FAILED }
}

/// To standard output; a reader that went away, as `head` does, is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error.to_string())),
        _ => Ok(()),
    }
}

fn conclude(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(Failure { text, status }) => {
            eprint!("{text}");
            ExitCode::from(status)
        }
    }
}
