//! `kill -9` of a cache on disk while it is written, again and again: what it gives out afterwards is right
//! byte by byte, what was purged stays away, and it is still warm.

mod client;
mod load;
mod origin;
mod things;

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::Stage;
use super::client::ensure;
use super::gateway::Gateway;
use crate::process;
use crate::shell::{Fallible, output};
use client::{Ask, Client, Seen};
use load::{Desk, Gate};
use things::{THINGS, Thing, World};

const ROUNDS: u32 = 20;

const CLIENTS: u64 = 6;

/// Longest load before a kill.
const LOAD_MS: u64 = 2500;

/// A new worker process answers by then, and has its storage open.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// Of what was stored shortly before the kills, at least so much has to be there after them, in percent. More goes
/// than what was not written yet: the load goes on after the count, and pushes out what is oldest.
const WARM_PERCENT: u64 = 50;

/// The files that the group lies on, in the scratch folder.
const FILES: [&str; 2] = ["disk-a", "disk-b"];

pub(crate) fn crash(stage: &Stage) -> Fallible<String> {
    let seed = stage.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("  seed {seed}");
    let world = Arc::new(World::new());
    let app = origin::start(&world, seed)?;
    let mut gateway = Gateway::start(&stage.binary, &stage.folder, &config(stage.folder.path(), app))?;
    let desk = Desk { binary: stage.binary.clone(), config: gateway.config_path().to_owned(), base: gateway.url("") };
    let gate = Gate::default();
    let mut tally = Tally::default();
    let done = scope(|scope| {
        let listen = gateway.listen;
        for number in 0..CLIENTS {
            let random = fastrand::Rng::with_seed(seed ^ (number + 1));
            let (world, gate) = (&world, &gate);
            scope.spawn(move || load::ask_on(world, gate, Client::new(listen), random));
        }
        let (purging, random) = (&world, fastrand::Rng::with_seed(!seed));
        scope.spawn(|| load::purge_on(purging, &gate, &desk, random));
        let mut run =
            Run { stage, world: &world, gate: &gate, gateway: &mut gateway, random: fastrand::Rng::with_seed(seed) };
        let done = run.all(stage.rounds.unwrap_or(ROUNDS), &mut tally);
        world.stop.store(true, Ordering::Relaxed);
        done
    });
    let said = summary(&world, &tally, seed);
    println!("  {said}");
    for wrong in world.wrong() {
        println!("  wrong: {wrong}");
    }
    done?;
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    ensure("wrong answers", counted(&world.counts.wrong) == 0, world.wrong())?;
    ensure("the gateway panicked", !gateway.running.printed().contains("panicked"), gateway.running.printed())?;
    let cut = counted(&world.counts.cuts) * CLIENTS;
    ensure("answers broke off without a reason", counted(&world.counts.broken) <= cut, world.broken())?;
    ensure("it is cold after kills", tally.kept * 100 >= tally.stored * WARM_PERCENT, &said)?;
    Ok(said)
}

fn config(folder: &Path, app: std::net::SocketAddr) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    // The logs go round within a few rounds: there is twice as much as the volumes hold. What memory keeps of
    // one answer is a sixteenth of it.
    format!(
        "cache:
  memory: 8MiB
  group:
    extent: 1MiB
    physical_volumes: [{{ path: {}, size: 80MiB }}, {{ path: {}, size: 80MiB }}]
  volumes: {{ small: {{ size: 32MiB }}, large: {{ size: 96MiB }} }}
pools: {{ app: {{ servers: [\"{app}\"] }} }}
listeners:
  web:
    bind: \"LISTEN\"
    bounds: {{ per_client: 1000, requests: 1000000000 }}
    routes:
      - {{ path: /small/, proxy: app, cache: {{ volume: small, tags: Cache-Tag }} }}
      - {{ path: /large/, proxy: app, cache: {{ volume: large, tags: Cache-Tag }} }}
",
        file(FILES[0]),
        file(FILES[1])
    )
}

/// What the rounds have shown.
#[derive(Debug, Default)]
struct Tally {
    worker_kills: u64,
    kills_of_all: u64,
    kills_at_start: u64,
    without_a_file: u64,
    /// Answers that were stored before kills, and those of them that were still given out after them.
    stored: u64,
    kept: u64,
    /// Longest time from a kill to the first answer from before it.
    warm_again: Duration,
    /// Purges that were acknowledged before the last kill: all that they were about was asked for after it.
    purges_checked: u64,
}

fn summary(world: &World, tally: &Tally, seed: u64) -> String {
    let counts = &world.counts;
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    format!(
        "{} kills of the worker process, {} of all and {} more while it started, {} starts without a file; {} answers \
         checked ({} from the cache, {} MiB), {} wrong, {} broken off by kills, {} otherwise ({} by the origin); \
         from before the kills {} of {} were there, after {:.1} s at most; {} purges checked, {} not acknowledged; \
         seed {seed}",
        tally.worker_kills,
        tally.kills_of_all,
        tally.kills_at_start,
        tally.without_a_file,
        of(&counts.right),
        of(&counts.hits),
        of(&counts.bytes) >> 20,
        of(&counts.wrong),
        of(&counts.broken_by_kills),
        of(&counts.broken),
        of(&counts.cuts),
        tally.kept,
        tally.stored,
        tally.warm_again.as_secs_f64(),
        tally.purges_checked,
        of(&counts.purges_failed),
    )
}

struct Run<'a> {
    stage: &'a Stage,
    world: &'a World,
    gate: &'a Gate,
    gateway: &'a mut Gateway,
    random: fastrand::Rng,
}

/// What was stored at some time: things with their variants.
type Stored = Vec<(Thing, u32)>;

impl Run<'_> {
    fn all(&mut self, rounds: u32, tally: &mut Tally) -> Fallible<()> {
        for number in 1..=rounds {
            self.round(number, rounds, tally)?;
        }
        for name in FILES {
            self.round_without(name, tally)?;
        }
        Ok(())
    }

    /// Load, a kill, and a look at everything.
    fn round(&mut self, number: u32, rounds: u32, tally: &mut Tally) -> Fallible<()> {
        self.load_for(LOAD_MS);
        let stored = self.stored();
        self.load_for(LOAD_MS / 5);
        let serial = self.world.serial();
        let kills_worker = number % 2 == 1;
        let killed = Instant::now();
        if kills_worker {
            self.kill_worker()?;
            tally.worker_kills += 1;
        } else {
            self.kill_all();
            self.gateway.start_again(&self.stage.folder)?;
            tally.kills_of_all += 1;
            if number.is_multiple_of(4) {
                // Once more, while it opens what the first kill has left.
                sleep(Duration::from_millis(self.random.u64(..300)));
                self.kill_all();
                self.gateway.start_again(&self.stage.folder)?;
                tally.kills_at_start += 1;
            }
        }
        let (kept, warm_again) = self.look_at_all(&stored, serial, killed)?;
        println!(
            "  {number}/{rounds} {}: {kept} of {} from before, the first {:.2} s after the kill",
            if kills_worker { "worker process" } else { "all" },
            stored.len(),
            warm_again.as_secs_f64(),
        );
        tally.stored += stored.len() as u64;
        tally.kept += kept;
        tally.warm_again = tally.warm_again.max(warm_again);
        tally.purges_checked = self.world.counts.purges.load(Ordering::Relaxed);
        self.world.disturbed.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// A start with one of the files out of reach, and one with the file back as it was.
    fn round_without(&mut self, name: &str, tally: &mut Tally) -> Fallible<()> {
        let file = self.stage.folder.path().join(name);
        let away = self.stage.folder.path().join(format!("{name}-away"));
        self.load_for(LOAD_MS);
        self.kill_all();
        std::fs::rename(&file, &away)?;
        std::os::unix::fs::symlink("/nonexistent/disk", &file)?;
        self.gateway.start_again(&self.stage.folder)?;
        self.wait_until_open(&file)?;
        self.world.disturbed.store(false, Ordering::SeqCst);
        let right = || self.world.counts.right.load(Ordering::Relaxed);
        let before = right();
        sleep(Duration::from_millis(LOAD_MS));
        let served = right() - before;
        println!("  without {name}: {served} answers");
        ensure("it serves without a file", served > 50, served)?;

        self.kill_all();
        std::fs::remove_file(&file)?;
        std::fs::rename(&away, &file)?;
        let (serial, killed) = (self.world.serial(), Instant::now());
        self.gateway.start_again(&self.stage.folder)?;
        // What was purged while it was away is on it still.
        let (kept, _) = self.look_at_all(&everything().collect(), serial, killed)?;
        println!("  with {name} as it was: {kept} from before");
        self.world.disturbed.store(false, Ordering::SeqCst);
        tally.without_a_file += 1;
        tally.kills_of_all += 2;
        tally.purges_checked = self.world.counts.purges.load(Ordering::Relaxed);
        Ok(())
    }

    fn load_for(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.random.u64(most_ms / 10..=most_ms)));
    }

    fn kill_all(&mut self) {
        self.world.disturbed.store(true, Ordering::SeqCst);
        self.gateway.running.kill();
        // A process that was killed may hold its sockets for a moment yet.
        while TcpStream::connect(self.gateway.listen).is_ok() {
            sleep(Duration::from_millis(5));
        }
        self.world.kills.fetch_add(1, Ordering::SeqCst);
    }

    /// The worker process alone; the supervisor starts the next one.
    fn kill_worker(&self) -> Fallible<()> {
        let supervisor = self.gateway.running.id();
        let is_worker = |process: &u32| {
            let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            *process != supervisor && line.split(|&byte| byte == 0).nth(1) == Some(b"worker")
        };
        let workers: Vec<u32> = process::tree(supervisor).into_iter().filter(is_worker).collect();
        ensure("there is a worker process", !workers.is_empty(), self.gateway.running.printed())?;
        self.world.disturbed.store(true, Ordering::SeqCst);
        for worker in workers {
            output(Command::new("sh").args(["-c", "kill -s KILL \"$0\"", &worker.to_string()]))?;
        }
        self.world.kills.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What is stored now, by the gateway's own word, while the load goes on.
    fn stored(&self) -> Stored {
        let mut client = Client::new(self.gateway.listen);
        let mut is_stored = |&(thing, variant): &(Thing, u32)| {
            let ask = Ask { is_head: true, only_if_cached: true, ..Ask::whole(thing, variant) };
            matches!(client.ask(self.world, &ask), Seen::Right { is_hit: true, .. })
        };
        everything().filter(|one| is_stored(one)).collect()
    }

    /// Asks for all that there is, of what is stored alone, while nobody else asks: how many of `stored` are there
    /// from before `serial`, and when the first of them came.
    fn look_at_all(&self, stored: &Stored, serial: u64, killed: Instant) -> Fallible<(u64, Duration)> {
        let _alone = self.gate.write();
        let mut client = Client::new(self.gateway.listen);
        let deadline = killed + BACK_LIMIT;
        // The storage is opened behind the first answers.
        for &(thing, variant) in stored.iter().cycle() {
            let ask = Ask { only_if_cached: true, ..Ask::whole(thing, variant) };
            match client.ask(self.world, &ask) {
                Seen::Right { edition, is_hit: true, .. } if edition.serial <= serial => break,
                Seen::Wrong(what) => self.world.is_wrong(what),
                _ if Instant::now() > deadline => {
                    return Err(format!("nothing from before is there\n{}", self.gateway.running.printed()).into());
                }
                _ => sleep(Duration::from_millis(5)),
            }
        }
        let warm_again = killed.elapsed();
        let mut kept = 0;
        for (thing, variant) in everything() {
            let ask = Ask { only_if_cached: true, ..Ask::whole(thing, variant) };
            match client.ask(self.world, &ask) {
                Seen::Right { edition, is_hit: true, bytes } if edition.serial <= serial => {
                    kept += u64::from(stored.contains(&(thing, variant)));
                    self.count_right(bytes);
                }
                Seen::Right { bytes, .. } => self.count_right(bytes),
                Seen::Wrong(what) => self.world.is_wrong(what),
                Seen::Broken(why) => {
                    println!("  {}: {why}", thing.path());
                    self.world.broke_off(&why);
                }
                Seen::NotStored | Seen::Left => {}
            }
        }
        Ok((kept, warm_again))
    }

    fn count_right(&self, bytes: u64) {
        let counts = &self.world.counts;
        things::count(&counts.right);
        things::count(&counts.hits);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Until the gateway says that this file has failed.
    fn wait_until_open(&self, failed: &Path) -> Fallible<()> {
        let deadline = Instant::now() + BACK_LIMIT;
        let path = failed.display().to_string();
        loop {
            let listed =
                output(Command::new(&self.stage.binary).args(["volume", "list", "-c"]).arg(self.gateway.config_path()))
                    .unwrap_or_else(|error| error.to_string());
            if listed.lines().any(|line| line.contains(&path) && line.contains("failed")) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("{path} does not count as failed:\n{listed}").into());
            }
            sleep(Duration::from_millis(50));
        }
    }
}

/// Every thing in every variant.
fn everything() -> impl Iterator<Item = (Thing, u32)> {
    (0..THINGS).map(Thing).flat_map(|thing| (0..thing.variants()).map(move |variant| (thing, variant)))
}
