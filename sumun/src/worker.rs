//! The worker process: takes its config and descriptors over, then serves ([`crate::wiring`]).

use std::process::ExitCode;
use std::sync::Arc;

use sumun_config::checked::Config;
use sumun_engine::lifecycle::{FromWorker, Passed, Start, ToWorker, WorkerEnd, WorkerSender};
use sumun_engine::rooms::KeptRooms;
use sumun_engine::tls::Material;
use sumun_host::memory::Bounds;
use sumun_host::{given, process, signals};
use tokio::sync::mpsc;

use crate::sandbox::Inside;

/// Everything the worker process begins with.
pub(crate) struct Beginning {
    pub(crate) config: Arc<Config>,
    pub(crate) descriptors: Vec<Passed>,
    /// The sockets among them listen already.
    pub(crate) listening: bool,
    /// Our name in CDN-Loop, 16 hexadecimal digits.
    pub(crate) instance: String,
    /// The host's own key.
    pub(crate) state_key: [u8; 32],
    /// What the worker process before this one knew of its servers.
    pub(crate) runtime: Option<String>,
    /// What the supervisor read for TLS.
    pub(crate) tls: Material,
    /// What is kept of waiting rooms.
    pub(crate) rooms: KeptRooms,
    /// How much memory there is.
    pub(crate) memory: Bounds,
    /// What this process is confined to from now on.
    pub(crate) sandbox: Inside,
    /// Further messages; ends when the supervisor is gone.
    pub(crate) messages: mpsc::Receiver<ToWorker>,
    pub(crate) supervisor: WorkerSender,
}

/// The hidden subcommand `worker`.
pub(crate) fn run() -> ExitCode {
    crate::log::start();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("worker process: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    // Before anything is opened here: no sandbox keeps from a process what it has open already.
    given::close_inherited().map_err(text)?;
    let channel = process::inherited_channel()
        .map_err(|error| format!("{error}; this subcommand is started by `sumun run`, not by hand"))?;
    // A terminal's Ctrl-C and a service manager's SIGTERM reach this process too; what to do then
    // is the supervisor's word.
    signals::disregard().map_err(text)?;
    process::name_thread("sumun-worker").map_err(text)?;
    process::raise_open_files_limit().map_err(text)?;
    let mut channel = WorkerEnd::new(channel);
    let supervisor = channel.sender().map_err(text)?;
    let start = match channel.receive().map_err(text)? {
        Some(ToWorker::Start(start)) => start,
        Some(other) => return Err(format!("the first message was not Start but {other:?}")),
        None => return Ok(()),
    };
    let begun = begin(start, channel, &supervisor).and_then(crate::wiring::serve);
    if let Err(why) = &begun {
        let refused = FromWorker::Refused { id: 0, why: why.clone() };
        if supervisor.send(refused).is_err() {
            tracing::debug!("the supervisor is gone already");
        }
    }
    begun
}

fn begin(start: Start, channel: WorkerEnd, supervisor: &WorkerSender) -> Result<Beginning, String> {
    let Start { sources, descriptors, listening, instance, state_key, runtime, tls, rooms } = start;
    let config = Arc::new(crate::checked::received(&sources)?.config);
    // Before the first thread is started, which the channel is about to do.
    let memory = Bounds::find();
    let sandbox = crate::sandbox::enter(&config)?;
    Ok(Beginning {
        config,
        descriptors,
        listening,
        instance,
        state_key,
        runtime,
        tls,
        rooms,
        memory,
        sandbox,
        messages: channel.spawn().map_err(|error| error.to_string())?,
        supervisor: supervisor.clone(),
    })
}
