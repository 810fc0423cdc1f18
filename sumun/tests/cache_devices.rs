//! The cache's physical volumes: files and block devices, which grow where they are.

mod support;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::Scratch;
use support::instance::{Instance, Place, eventually, everywhere, signal};
use support::server::{Request, Server};
use support::talk::Answer;

const TARGETS: [&str; 4] = ["/100/a", "/200000/a", "/300000/a", "/3500000/a"];

/// A gateway that keeps its cache on one physical volume, by this line of the config.
fn config(server: &Server, folder: &Path, physical: &str, size: &str) -> String {
    let (address, folder) = (server.address(), folder.display());
    format!(
        "state: {folder}/state\n\
         cache: {{ memory: 16MiB, group: {{ extent: 1MiB, physical_volumes: [{physical}] }}, \
         volumes: {{ pages: {{ size: {size} }} }} }}\n\
         pools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app, cache: {{}} }}] }} }}\n"
    )
}

/// `/SIZE/…` is a body of so many bytes.
fn server(place: Place) -> Server {
    Server::answering(place.ip, |request: &Request| {
        let body = body(&request.target);
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    })
}

fn body(target: &str) -> Vec<u8> {
    let size: u32 = target.split('/').nth(1).and_then(|size| size.parse().ok()).expect("a size");
    (0..size).map(|at| ((at / 3) ^ (at >> 9)) as u8).collect()
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("sumun; hit"))
}

/// Extents of the physical volume, once the pool is open.
fn extents(gateway: &Instance) -> u64 {
    let mut found = None;
    eventually("the pool is open", || {
        let listed = gateway.json(&["volume", "list"]);
        found = listed["physical_volumes"][0]["extents"].as_u64();
        listed["group"]["state"] == "open" && found.is_some()
    });
    found.expect("a number")
}

fn store(gateway: &Instance) {
    for target in TARGETS {
        gateway.get(target).expect(200);
        eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
    }
}

fn has_all(gateway: &Instance) {
    for target in TARGETS {
        let answer = gateway.get(target).expect(200);
        assert!(is_hit(&answer) && answer.body == body(target), "{target}");
    }
}

/// The supervisor and the worker process at once, in the middle of whatever they do.
fn kill(gateway: Instance) {
    let worker = gateway.worker_process();
    signal(gateway.gateway.process_id(), "KILL");
    signal(worker, "KILL");
    drop(gateway);
}

#[test]
fn a_config_that_cannot_be_followed_costs_nothing() {
    everywhere(|place| {
        let (folder, other, server) = (Scratch::new(), Scratch::new(), server(place));
        let physical = |folder: &Path, name: &str| format!("{{ path: {}/{name}, size: 48MiB }}", folder.display());
        let of_another = config(&server, other.path(), &physical(other.path(), "b"), "40MiB");
        let mut gateway = Instance::start(place, &of_another);
        extents(&gateway);
        gateway.signal("TERM");
        gateway.await_end();
        drop(gateway);
        let config = |physical: &str| config(&server, folder.path(), physical, "40MiB");
        let own = physical(folder.path(), "a");
        let gateway = Instance::start(place, &config(&own));
        extents(&gateway);
        store(&gateway);
        // Half of it is of another group.
        gateway.reload(&config(&format!("{own}, {}", physical(other.path(), "b"))));
        gateway.await_log("another group");
        // Who changes something, and the next reload, come through, and what is stored is there.
        gateway.connect().request("POST", "/100/other", "", b"x").expect(200);
        has_all(&gateway);
        gateway.reload(&config(&own));
        extents(&gateway);
        has_all(&gateway);
    });
}

#[test]
fn a_file_grows_where_it_is() {
    everywhere(|place| {
        let (folder, server) = (Scratch::new(), server(place));
        let file = folder.path().join("a");
        let physical = |size: &str| format!("{{ path: {}, size: {size} }}", file.display());
        let config = |physical: &str, size: &str| config(&server, folder.path(), physical, size);
        let gateway = Instance::start(place, &config(&physical("48MiB"), "40MiB"));
        assert_eq!(extents(&gateway), 47);
        store(&gateway);
        gateway.reload(&config(&physical("80MiB"), "72MiB"));
        eventually("it has grown", || extents(&gateway) == 79);
        assert_eq!(fs::metadata(&file).expect("it is there").len(), 80 << 20);
        let listed = gateway.json(&["volume", "list"]);
        assert_eq!((&listed["volumes"][0]["bytes"], listed["group"]["problem"].is_null()), (&(72 << 20).into(), true));
        has_all(&gateway);
        // Not beyond what it was made for, and not back.
        gateway.reload(&config(&physical("1GiB"), "72MiB"));
        gateway.await_log("cannot grow as far: it was made with room for 122 MiB");
        eventually("it is said", || {
            let listed = gateway.json(&["volume", "list"]);
            listed["group"]["problem"].as_str().is_some_and(|why| why.contains("122 MiB"))
        });
        gateway.reload(&config(&physical("80MiB"), "72MiB"));
        eventually("it is as the config says", || gateway.json(&["volume", "list"])["group"]["problem"].is_null());
        assert_eq!(extents(&gateway), 121);
        has_all(&gateway);
        kill(gateway);
        let gateway = Instance::start(place, &config(&physical("80MiB"), "72MiB"));
        assert_eq!(extents(&gateway), 121);
        has_all(&gateway);
        assert_eq!(server.count(), TARGETS.len());
    });
}

/// A file as a block device.
struct Loop {
    device: PathBuf,
}

impl Loop {
    /// `None`: there are none here, or not for us.
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let device = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        (output.status.success() && device.exists()).then_some(Self { device })
    }

    /// It is as large as its file again.
    fn look_again(&self) {
        assert!(Command::new("losetup").arg("--set-capacity").arg(&self.device).status().expect("it runs").success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It goes once nobody has it open any more.
        Command::new("losetup").arg("--detach").arg(&self.device).status().ok();
    }
}

#[test]
fn a_block_device_is_taken_whole_and_grows() {
    let place = Place { ip: Ipv4Addr::LOCALHOST.into(), workers: 1 };
    let (folder, server) = (Scratch::new(), server(place));
    let file = File::create_new(folder.path().join("disk")).expect("it can be made");
    file.set_len(48 << 20).expect("it can be as large");
    let Some(device) = Loop::new(&folder.path().join("disk")) else {
        println!("skipped: there are no loop devices here, or only for root");
        return;
    };
    let physical = format!("{{ path: {} }}", device.device.display());
    let text = |size: &str| config(&server, folder.path(), &physical, size);
    let gateway = Instance::start(place, &text("40MiB"));
    assert_eq!(extents(&gateway), 47);
    store(&gateway);
    kill(gateway);
    let gateway = Instance::start(place, &text("40MiB"));
    assert_eq!(extents(&gateway), 47);
    has_all(&gateway);
    file.set_len(80 << 20).expect("it can grow");
    device.look_again();
    gateway.reload(&text("40MiB"));
    eventually("it has grown", || extents(&gateway) == 79);
    has_all(&gateway);
    gateway.reload(&text("72MiB"));
    eventually("it is used", || gateway.json(&["volume", "list"])["volumes"][0]["bytes"] == 72 << 20);
    has_all(&gateway);
    assert_eq!(server.count(), TARGETS.len());
}

#[test]
fn what_is_purged_while_there_is_no_group_does_not_come_back_with_it() {
    everywhere(|place| {
        let (folder, server) = (Scratch::new(), server(place));
        let physical = format!("{{ path: {}, size: 48MiB }}", folder.path().join("a").display());
        let with_group = config(&server, folder.path(), &physical, "40MiB");
        let lines: Vec<String> = with_group.lines().map(str::to_owned).collect();
        let without = with_group.replace(&lines[1], "cache: { memory: 16MiB }");
        let gateway = Instance::start(place, &with_group);
        assert_eq!(extents(&gateway), 47);
        store(&gateway);
        gateway.reload(&without);
        eventually("it is closed", || gateway.json(&["volume", "list"])["group"].is_null());
        gateway.command_ok(&["cache", "purge", "http://test/200000/a"]);
        gateway.reload(&with_group);
        assert_eq!(extents(&gateway), 47);
        kill(gateway);
        let gateway = Instance::start(place, &with_group);
        assert_eq!(extents(&gateway), 47);
        assert!(!is_hit(&gateway.get("/200000/a").expect(200)));
    });
}

/// A file system on a file as a block device, mounted; frozen, whoever writes to it waits.
struct Mounted {
    at: PathBuf,
    _device: Loop,
}

impl Mounted {
    /// `None`: there are none here, or not for us.
    fn new(folder: &Path) -> Option<Self> {
        let (disk, at) = (folder.join("disk"), folder.join("mounted"));
        File::create_new(&disk).and_then(|file| file.set_len(80 << 20)).and_then(|()| fs::create_dir(&at)).ok()?;
        let device = Loop::new(&disk)?;
        let works = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let is_mounted = works(Command::new("mkfs.ext4").arg("-q").arg(&device.device))
            && works(Command::new("mount").arg(&device.device).arg(&at));
        is_mounted.then_some(Self { at, _device: device })
    }

    fn freeze(&self) -> bool {
        Command::new("fsfreeze").arg("--freeze").arg(&self.at).status().is_ok_and(|status| status.success())
    }

    fn thaw(&self) {
        Command::new("fsfreeze").arg("--unfreeze").arg(&self.at).stderr(Stdio::null()).status().ok();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.thaw();
        // It goes once nobody has anything of it open any more.
        Command::new("umount").arg("--lazy").arg(&self.at).status().ok();
    }
}

#[test]
fn a_device_that_hangs_can_be_taken_out_and_put_back() {
    let place = Place { ip: Ipv4Addr::LOCALHOST.into(), workers: 2 };
    let (folder, server) = (Scratch::new(), server(place));
    let Some(mounted) = Mounted::new(folder.path()) else {
        println!("skipped: a file system cannot be mounted here");
        return;
    };
    let physical = |at: &Path| format!("{{ path: {}/a, size: 48MiB }}", at.display());
    let (one, other) = (physical(&mounted.at), physical(folder.path()));
    let text = |physical: &str| config(&server, folder.path(), physical, "30MiB");
    let gateway = Instance::start(place, &text(&format!("{one}, {other}")));
    extents(&gateway);
    store(&gateway);
    if !mounted.freeze() {
        println!("skipped: a file system cannot be frozen here");
        return;
    }
    let get_all = |size: usize| {
        (0..40).all(|number| {
            let target = format!("/{size}/{number}");
            gateway.get(&target).expect(200).body == body(&target)
        })
    };
    assert!(get_all(300_000), "nobody waits for the disk");
    let states = || -> Vec<String> {
        let listed = gateway.json(&["volume", "list"]);
        let all = listed["physical_volumes"].as_array().expect("a list").iter();
        all.map(|one| one["state"].as_str().expect("a state").to_owned()).collect()
    };
    eventually("it is seen to be slow", || states().contains(&"slow".to_owned()));
    gateway.reload(&text(&other));
    eventually("the other one goes on by itself", || states() == ["working"]);
    store(&gateway);
    has_all(&gateway);
    // It is not taken back before it has come back.
    gateway.reload(&text(&format!("{one}, {other}")));
    eventually("it is missed", || states() == ["working", "failed"]);
    has_all(&gateway);
    mounted.thaw();
    eventually("it is there again", || {
        gateway.reload(&text(&format!("{one}, {other}")));
        states() == ["working", "working"]
    });
    store(&gateway);
    has_all(&gateway);
    assert!(get_all(300_000) && get_all(250_000), "whatever of it is stored is right");
}
