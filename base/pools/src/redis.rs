//! Scripts at a server of a pool that speaks RESP: Redis, Valkey and their kin.
//!
//! One connection, held by a task of the control thread. Who asks waits no longer than it says, and where
//! the server is away not at all. What is asked at the same time goes out together (pipelining).
//!
//! The crates that speak RESP bring connections of their own and read answers of any length; here the
//! pool's own way of connecting is what the sandbox allows, and no answer is longer than was asked for.

mod reply;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use reply::Reply;
use sumun_config::checked::{RedisLogin, SharedThrough};
use sumun_engine::tls::{Tls, Transport, server_name};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};

use crate::check;
use crate::limits::{
    REDIS_ANSWER_PATIENCE, REDIS_ASKED, REDIS_BATCH, REDIS_COMPLAINT, REDIS_IDLE, REDIS_LOOK, REDIS_PAUSE_LEAST,
    REDIS_PAUSE_MOST, REDIS_REPLY_BYTES, REDIS_STABLE,
};
use crate::pool::Pool;
use crate::pools::Pools;
use crate::server::{Server, Target};

/// For whoever asks.
#[derive(Debug)]
pub struct Redis {
    queue: mpsc::Sender<Asked>,
    settings: watch::Sender<Option<SharedThrough>>,
    state: Arc<State>,
}

/// The other end: the task that is connected.
#[derive(Debug)]
pub struct Link {
    queue: mpsc::Receiver<Asked>,
    settings: watch::Receiver<Option<SharedThrough>>,
    state: Arc<State>,
}

/// A command, and where its answer goes.
#[derive(Debug)]
struct Asked {
    bytes: Vec<u8>,
    /// `None`: nobody waits for it.
    answer: Option<oneshot::Sender<Reply>>,
}

impl Asked {
    fn is_given_up(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

#[derive(Debug, Default)]
struct State {
    is_up: AtomicBool,
    commands: AtomicU64,
    /// Connections that could not be had, or broke, and scripts that were refused.
    failures: AtomicU64,
    /// The log has a refused script of this connection.
    has_complained: AtomicBool,
}

impl Redis {
    #[must_use]
    pub fn new() -> (Self, Link) {
        let (queue, asked) = mpsc::channel(REDIS_ASKED);
        let (settings, followed) = watch::channel(None);
        let state: Arc<State> = Arc::default();
        let link = Link { queue: asked, settings: followed, state: Arc::clone(&state) };
        (Self { queue, settings, state }, link)
    }

    /// What a config says; `None`: nothing is shared.
    pub fn follow(&self, settings: Option<&SharedThrough>) {
        self.settings.send_if_modified(|current| {
            let differs = current.as_ref() != settings;
            if differs {
                *current = settings.cloned();
            }
            differs
        });
    }

    /// What it followed last.
    #[must_use]
    pub fn settings(&self) -> Option<SharedThrough> {
        self.settings.borrow().clone()
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.is_up.load(Ordering::Acquire)
    }

    /// Commands that were answered, and connections that could not be had or broke.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.state.commands.load(Ordering::Relaxed), self.state.failures.load(Ordering::Relaxed))
    }

    /// Runs a script. `None`: the server is away, or too slow; whether the script has run is then not known.
    pub async fn eval(&self, script: &str, keys: &[String], words: &[String], patience: Duration) -> Option<Reply> {
        if !self.is_up() {
            return None;
        }
        let count = keys.len().to_string();
        let head = ["EVAL", script, &count];
        let all: Vec<&str> = head.into_iter().chain(keys.iter().chain(words).map(String::as_str)).collect();
        let (answer, answered) = oneshot::channel();
        // More than can wait means that the server does not keep up.
        self.queue.try_send(Asked { bytes: command(&all), answer: Some(answer) }).ok()?;
        tokio::time::timeout(patience, answered).await.ok()?.ok()
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Keeps a connection for as long as it is polled. For the control thread.
pub async fn run(mut link: Link, pools: Arc<Pools>, tls: Arc<Tls>) {
    let (mut pause, mut was_up) = (REDIS_PAUSE_LEAST, None);
    loop {
        let settings = link.settings.borrow_and_update().clone();
        let Some(shared) = settings else {
            if link.rest(None).await.is_err() {
                return;
            }
            (pause, was_up) = (REDIS_PAUSE_LEAST, None);
            continue;
        };
        let begun = Instant::now();
        let ended = match connect(&shared, &pools, &tls).await {
            Ok((mut stream, server)) => {
                if was_up != Some(true) {
                    tracing::info!(pool = &*shared.pool, "what is shared: connected");
                }
                was_up = Some(true);
                link.state.has_complained.store(false, Ordering::Relaxed);
                link.state.is_up.store(true, Ordering::Release);
                let ended = link.serve(&mut *stream, || is_best(&shared, &pools, &server)).await;
                link.state.is_up.store(false, Ordering::Release);
                if begun.elapsed() >= REDIS_STABLE {
                    pause = REDIS_PAUSE_LEAST;
                }
                ended
            }
            Err(why) => Err(why),
        };
        let Err(why) = ended else {
            // Other settings, or nobody is left to ask.
            if link.queue.is_closed() {
                return;
            }
            continue;
        };
        link.state.failures.fetch_add(1, Ordering::Relaxed);
        if was_up != Some(false) {
            let pool = &*shared.pool;
            tracing::warn!(pool, reason = why, "what is shared: the server is away, each gateway goes on alone");
        }
        was_up = Some(false);
        // Gateways that have lost the same server do not all come back at once.
        let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        if link.rest(Some(jittered)).await.is_err() {
            return;
        }
        pause = (pause * 2).min(REDIS_PAUSE_MOST);
    }
}

impl Link {
    /// Answers nobody until the settings change or the time is over. An error: nobody is left to ask.
    async fn rest(&mut self, time: Option<Duration>) -> Result<(), ()> {
        let mut over = pin!(async {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        });
        loop {
            tokio::select! {
                () = &mut over => return Ok(()),
                changed = self.settings.changed() => return changed.map_err(drop),
                asked = self.queue.recv() => drop(asked.ok_or(())?),
            }
        }
    }

    /// `Ok`: the settings are others, another server is the one to ask, or nobody is left to ask.
    async fn serve(&mut self, stream: &mut (impl Stream + ?Sized), is_best: impl Fn() -> bool) -> Result<(), String> {
        let mut unread = Vec::new();
        let mut looked = Instant::now();
        loop {
            // Gateways that ask different servers share nothing: all of them go to the first that is up.
            if looked.elapsed() >= REDIS_LOOK {
                if !is_best() {
                    return Ok(());
                }
                looked = Instant::now();
            }
            let mut batch = Vec::new();
            tokio::select! {
                asked = self.queue.recv() => match asked {
                    Some(asked) => batch.push(asked),
                    None => return Ok(()),
                },
                _ = self.settings.changed() => return Ok(()),
                () = tokio::time::sleep(REDIS_IDLE) => {
                    // A server that is gone is seen to be.
                    batch.push(Asked { bytes: command(&["PING"]), answer: None });
                }
            }
            while batch.len() < REDIS_BATCH
                && let Ok(asked) = self.queue.try_recv()
            {
                batch.push(asked);
            }
            // Whose answer would come too late is not asked for.
            batch.retain(|asked| !asked.is_given_up());
            let answered = exchange(stream, batch, &mut unread, &self.state);
            within(REDIS_ANSWER_PATIENCE, answered).await?;
        }
    }
}

async fn within<T>(time: Duration, what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(time, what).await.unwrap_or_else(|_| Err(format!("no answer within {} ms", time.as_millis())))
}

async fn exchange(
    stream: &mut (impl Stream + ?Sized),
    batch: Vec<Asked>,
    unread: &mut Vec<u8>,
    state: &State,
) -> Result<(), String> {
    let bytes: Vec<u8> = batch.iter().flat_map(|asked| asked.bytes.iter().copied()).collect();
    stream.write_all(&bytes).await.map_err(|error| lost(&error))?;
    for asked in batch {
        let reply = receive(stream, unread).await?;
        if let Reply::Error(said) = &reply {
            if asked.answer.is_none() || is_about_server(said) {
                return Err(format!("the server says {said}"));
            }
            // About what this one asked, or its keys: the others go on.
            state.failures.fetch_add(1, Ordering::Relaxed);
            if !state.has_complained.swap(true, Ordering::Relaxed) {
                let reason: String = said.chars().take(REDIS_COMPLAINT).collect();
                tracing::warn!(reason, "what is shared: the server refuses a script, whoever asked goes on alone");
            }
            continue;
        }
        state.commands.fetch_add(1, Ordering::Relaxed);
        if let Some(answer) = asked.answer {
            // Who asked may have waited long enough.
            answer.send(reply).ok();
        }
    }
    if unread.is_empty() { Ok(()) } else { Err("there are more answers than questions".to_owned()) }
}

/// The server can do nothing for anybody.
fn is_about_server(said: &str) -> bool {
    let code = said.split(' ').next().unwrap_or_default();
    matches!(
        code,
        "NOAUTH" | "NOPERM" | "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "MOVED" | "OOM" | "MISCONF"
    )
}

async fn receive(stream: &mut (impl Stream + ?Sized), unread: &mut Vec<u8>) -> Result<Reply, String> {
    loop {
        if let Some((reply, length)) = reply::parse(unread)? {
            unread.drain(..length);
            return Ok(reply);
        }
        let left = REDIS_REPLY_BYTES.saturating_sub(unread.len());
        if left == 0 {
            return Err(format!("an answer is longer than {} KiB", REDIS_REPLY_BYTES / 1024));
        }
        match (&mut *stream).take(left as u64).read_buf(unread).await {
            Ok(0) => return Err("the connection was closed".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(lost(&error)),
        }
    }
}

fn lost(error: &io::Error) -> String {
    format!("the connection is lost: {error}")
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// To the first server that is up and answers, with everything said that comes first.
async fn connect(shared: &SharedThrough, pools: &Pools, tls: &Tls) -> Result<(Box<dyn Stream>, Arc<Server>), String> {
    let pool = pools.pool(&shared.pool).ok_or_else(|| format!("there is no pool {}", shared.pool))?;
    let mut why = "no server of the pool is up".to_owned();
    let patience = pool.settings().timeouts.connect;
    for server in in_order(&pool) {
        match within(patience, open(&pool, &server, tls, shared.login.as_ref())).await {
            Ok(stream) => return Ok((stream, server)),
            Err(problem) => why = format!("{}: {problem}", server.name()),
        }
    }
    Err(why)
}

/// The servers that are up, backups last.
fn in_order(pool: &Pool) -> Vec<Arc<Server>> {
    let servers = pool.servers();
    let mut members: Vec<_> = servers.members().iter().filter(|member| member.server.accepts()).collect();
    members.sort_by_key(|member| member.backup);
    members.into_iter().map(|member| Arc::clone(&member.server)).collect()
}

/// No other server of the pool comes before this one.
fn is_best(shared: &SharedThrough, pools: &Pools, server: &Arc<Server>) -> bool {
    let first = pools.pool(&shared.pool).and_then(|pool| in_order(&pool).into_iter().next());
    first.is_none_or(|first| Arc::ptr_eq(&first, server))
}

async fn open(pool: &Pool, server: &Server, tls: &Tls, login: Option<&RedisLogin>) -> Result<Box<dyn Stream>, String> {
    let settings = pool.settings();
    let source = match server.target() {
        Target::Tcp(address) => {
            settings.source.own().iter().copied().find(|source| source.is_ipv4() == address.is_ipv4())
        }
        Target::Unix(_) => None,
    };
    let no_connection = |error: io::Error| format!("no connection: {error}");
    let transport = check::connect(server.target(), source).await.map_err(no_connection)?;
    let mut stream: Box<dyn Stream> = match tls.pool(pool.name()) {
        Some(tls) => Box::new(check::secure(&tls, transport, &server_name(&server.address())).await?),
        None => match transport {
            Transport::Tcp(stream) => Box::new(stream),
            Transport::Unix(stream) => Box::new(stream),
        },
    };
    let mut hello = Vec::new();
    if let Some(login) = login {
        let words: Vec<&str> = ["AUTH"].into_iter().chain(login.user.as_deref()).chain([&*login.password]).collect();
        hello.push((command(&words), "OK"));
    }
    hello.push((command(&["PING"]), "PONG"));
    let mut unread = Vec::new();
    for (bytes, expected) in hello {
        stream.write_all(&bytes).await.map_err(|error| lost(&error))?;
        match receive(&mut *stream, &mut unread).await? {
            Reply::Text(text) if text == expected.as_bytes() => {}
            Reply::Error(said) => return Err(format!("the server says {said}")),
            _ => return Err("not an answer of Redis".to_owned()),
        }
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn answered(bytes: &'static [u8], count: usize) -> Result<(), String> {
        let (mut ours, mut theirs) = duplex(1024);
        tokio::spawn(async move {
            // Whoever has heard enough leaves.
            theirs.write_all(bytes).await.ok();
        });
        let batch = (0..count).map(|_| Asked { bytes: Vec::new(), answer: None }).collect();
        exchange(&mut ours, batch, &mut Vec::new(), &State::default()).await
    }

    #[tokio::test]
    async fn answers_of_a_batch() {
        assert_eq!(answered(b"*1\r\n:1\r\n+OK\r\n", 2).await, Ok(()));
        for (bytes, why) in [
            (&b"-ERR no\r\n"[..], "the server says ERR no"),
            (b":1\r\n:2\r\n", "there are more answers than questions"),
            (b"*1\r\n", "the connection was closed"),
            (b"hello\r\n", "not an answer of Redis"),
        ] {
            assert_eq!(answered(bytes, 1).await.unwrap_err(), why);
        }
    }

    /// What one script did wrong is not the others' business; a server that can do nothing is left.
    #[tokio::test]
    async fn errors_of_scripts() {
        for (bytes, expected) in [(&b"-WRONGTYPE no\r\n:1\r\n"[..], Ok(())), (b"-READONLY no\r\n:1\r\n", Err(()))] {
            let (mut ours, mut theirs) = duplex(1024);
            theirs.write_all(bytes).await.expect("there is room");
            let (answers, mut answered): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel()).unzip();
            let batch = answers.into_iter().map(|answer| Asked { bytes: Vec::new(), answer: Some(answer) }).collect();
            let ended = exchange(&mut ours, batch, &mut Vec::new(), &State::default()).await;
            assert_eq!(ended.map_err(drop), expected);
            assert!(answered[0].try_recv().is_err(), "nobody is told");
            assert_eq!(answered[1].try_recv().is_ok(), expected.is_ok());
        }
    }
}
