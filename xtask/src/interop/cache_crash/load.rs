//! Clients that ask for this and that, and an operator who purges.

use std::path::PathBuf;
use std::process::Command;
use std::sync::RwLock;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use super::client::{Ask, Client, Seen};
use super::things::{RACKS, TAGS, THINGS, Thing, VARIANTS, World, count};
use crate::shell::output;

/// Who has it for writing is alone: nobody asks and nobody purges.
pub(super) type Gate = RwLock<()>;

/// Asks until it is told to stop.
pub(super) fn ask_on(world: &World, gate: &Gate, mut client: Client, mut random: fastrand::Rng) {
    while !world.stop.load(Ordering::Relaxed) {
        let entered = gate.read();
        let ask = choose(&mut random);
        if ask.thing.is_short_lived() && random.u32(..4) == 0 {
            // It changes by itself, and nobody says so.
            world.renew(ask.thing);
        }
        let is_right = ask_and_count(world, &mut client, &ask);
        drop(entered);
        if !is_right {
            sleep(Duration::from_millis(20));
        }
    }
}

/// Asks once, and counts what came of it; whether it was right.
fn ask_and_count(world: &World, client: &mut Client, ask: &Ask) -> bool {
    let is_quiet = || !world.disturbed.load(Ordering::SeqCst);
    let was_quiet = is_quiet();
    let counts = &world.counts;
    match client.ask(world, ask) {
        Seen::Right { is_hit, bytes, .. } => {
            count(&counts.right);
            counts.hits.fetch_add(u64::from(is_hit), Ordering::Relaxed);
            counts.bytes.fetch_add(bytes, Ordering::Relaxed);
            true
        }
        Seen::NotStored | Seen::Left => true,
        Seen::Broken(why) if was_quiet && is_quiet() => {
            world.broke_off(&why);
            false
        }
        Seen::Broken(_) => {
            count(&counts.broken_by_kills);
            false
        }
        Seen::Wrong(what) => {
            world.is_wrong(what);
            false
        }
    }
}

fn choose(random: &mut fastrand::Rng) -> Ask {
    // Those with low numbers are asked for more often.
    let thing = Thing(random.usize(..THINGS).min(random.usize(..THINGS)));
    let length = thing.length(0);
    let mut ask = Ask::whole(thing, random.u32(..VARIANTS));
    match random.u32(..100) {
        0..5 => ask.is_head = true,
        5..20 if length > 0 => {
            let start = random.u64(..length);
            ask.range = Some(start..start + random.u64(1..=length));
        }
        20..25 if length > 0 => ask.leave_after = Some(random.u64(..length)),
        _ => {}
    }
    ask
}

/// Where the operator sits.
pub(super) struct Desk {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    /// What URLs begin with.
    pub(super) base: String,
}

/// Purges until it is told to stop.
pub(super) fn purge_on(world: &World, gate: &Gate, desk: &Desk, mut random: fastrand::Rng) {
    while !world.stop.load(Ordering::Relaxed) {
        let entered = gate.read();
        purge(world, desk, &mut random);
        drop(entered);
        sleep(Duration::from_millis(random.u64(50..250)));
    }
}

/// Renews things at the origin and has the gateway forget them. Once it says that it has, none of them may
/// be seen in an older version.
fn purge(world: &World, desk: &Desk, random: &mut fastrand::Rng) {
    let all = || (0..THINGS).map(Thing);
    let (what, things): (Vec<String>, Vec<Thing>) = match random.u32(..10) {
        0..6 => {
            let thing = Thing(random.usize(..THINGS).min(random.usize(..THINGS)));
            (vec![format!("{}{}", desk.base, thing.path())], vec![thing])
        }
        6..8 => {
            let tag = format!("tag-{}", random.usize(..TAGS));
            let things = all().filter(|thing| thing.tag().as_ref() == Some(&tag)).collect();
            (vec!["--tag".to_owned(), tag], things)
        }
        _ => {
            let prefix = Thing(random.usize(..RACKS) * THINGS / RACKS).prefix();
            let things = all().filter(|thing| thing.prefix() == prefix).collect();
            (vec!["--prefix".to_owned(), format!("{}{prefix}", desk.base)], things)
        }
    };
    let is_quiet = !world.disturbed.load(Ordering::SeqCst);
    let renewed: Vec<(Thing, u32)> = things.into_iter().map(|thing| (thing, world.renew(thing))).collect();
    let mut command = Command::new(&desk.binary);
    command.args(["cache", "purge"]).args(what);
    if random.u32(..4) == 0 {
        command.arg("--soft");
    }
    match output(command.arg("-c").arg(&desk.config)) {
        Ok(_) => {
            count(&world.counts.purges);
            for (thing, version) in renewed {
                world.forbid_before(thing, version);
            }
        }
        Err(error) => {
            count(&world.counts.purges_failed);
            if is_quiet && !world.disturbed.load(Ordering::SeqCst) {
                println!("  a purge failed: {}", error.to_string().trim_end().replace('\n', " "));
            }
        }
    }
}
