//! Health checks by commands of the operator.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::instance::{Instance, Place, eventually, everywhere, signal};
use support::server::Server;

/// One server, checked by a script with these commands.
fn start(place: Place, address: SocketAddr, keys: &str, script: &str) -> Instance {
    Instance::start_in(place, &config(address, keys), |directory| write_script(directory, script))
}

fn config(address: SocketAddr, keys: &str) -> String {
    format!(
        "pools: {{ app: {{ servers: [\"{address}\"], health: {{ exec: ./check.sh, rise: 1, fall: 1, {keys} }} }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n"
    )
}

/// `$DIR` in it is the directory of the test.
fn write_script(directory: &Path, script: &str) {
    let path = directory.join("check.sh");
    let script = script.replace("$DIR", &directory.display().to_string());
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // The command runs as another user where the tests are root's.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

fn last_check(gateway: &Instance, address: SocketAddr) -> String {
    gateway.server("app", address)["last_check"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the last check of the server said something like this.
fn await_check(gateway: &Instance, address: SocketAddr, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    eventually(what, || {
        last = last_check(gateway, address);
        holds(&last)
    });
    last
}

fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ")
}

/// The numbers that a check has said.
fn numbers(words: &str) -> Vec<u32> {
    words.split(|one: char| !one.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

fn children(process: u32) -> usize {
    let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    text.split_whitespace().count()
}

#[test]
fn the_exit_status_decides() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "a");
        let script = "if test -e $DIR/broken; then echo it is broken; exit 2; fi\necho fine";
        let gateway = start(place, server.address(), "every: 2s, timeout: 2s", script);
        await_check(&gateway, server.address(), "it is fine", |words| words.starts_with("fine in "));
        gateway.await_state("app", server.address(), "up");
        gateway.get("/").expect(200);
        fs::write(gateway.directory().join("broken"), "").expect("ours");
        gateway.await_state("app", server.address(), "down");
        let said = gateway.server("app", server.address())["reason"].clone();
        assert_eq!(said, "health check: it is broken (exit status: 2)");
        gateway.get("/").expect(503);
        fs::remove_file(gateway.directory().join("broken")).expect("ours");
        gateway.await_state("app", server.address(), "up");
        gateway.get("/").expect(200);
        // A file in its place that is no command any more is the operator's to mend, and said so.
        fs::set_permissions(gateway.directory().join("check.sh"), fs::Permissions::from_mode(0o644)).expect("ours");
        let words =
            await_check(&gateway, server.address(), "it cannot be run", |words| words.contains("cannot be run"));
        assert!(words.contains("Permission denied"), "{words}");
    });
}

#[test]
fn a_command_knows_the_server_and_nothing_else() {
    everywhere(|place| {
        let address = place.free_address();
        let script = "read line; names=$(env | cut -d= -f1 | grep -v '^_$\\|^PWD$\\|^OLDPWD$\\|^SHLVL$' | sort | tr '\\n' ' ')\n\
                      echo \"$SUMUN_POOL/$SUMUN_SERVER/$SUMUN_ADDRESS/$SUMUN_PORT/$line/$(pwd)/$(id -u)/$(ls /proc/$$/fd | wc -l)/$names\"";
        let gateway = start(place, address, "every: 10s, timeout: 10s, port: 7777", script);
        let words = await_check(&gateway, address, "what it was told", |words| words.contains("app/"));
        let user = fs::metadata(format!("/proc/{}", gateway.worker_process()));
        let user = std::os::unix::fs::MetadataExt::uid(&user.expect("it runs"));
        // Of the shell's descriptors the fourth is the script, and the fifth what it reads from here.
        let expected = format!(
            "app/{address}/{}/7777////{user}/5/PATH SUMUN_ADDRESS SUMUN_POOL SUMUN_PORT SUMUN_SERVER in ",
            address.ip()
        );
        assert!(words.starts_with(&expected), "{words}\n{expected}");
    });
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_it_started() {
    everywhere(|place| {
        let address = place.free_address();
        let script = "trap '' TERM HUP INT\nsleep 1000 &\nfirst=$!\nsleep 1000 &\necho $first $! $$\nwait";
        let gateway = start(place, address, "every: 500ms, timeout: 400ms", script);
        let words = await_check(&gateway, address, "it is killed", |words| words.contains("killed"));
        assert!(words.starts_with("killed after 400 ms, it said "), "{words}");
        let processes = numbers(words.trim_start_matches("killed after 400 ms"));
        assert_eq!(processes.len(), 3, "{words}");
        eventually("all of them are gone", || processes.iter().all(|process| !is_alive(*process)));
        assert_eq!(gateway.server("app", address)["state"], "down");
    });
}

#[test]
fn what_it_says_is_bounded() {
    everywhere(|place| {
        let address = place.free_address();
        let script =
            "if test -e $DIR/long; then head -c 60000 /dev/zero | tr '\\0' a; exit 0; fi\nprintf '\\033[31m'; exec yes";
        let gateway = start(place, address, "every: 10s, timeout: 10s", script);
        // Its output is closed, and it ends by that, long before its time.
        let words = await_check(&gateway, address, "a bounded answer", |words| words.contains("SIGPIPE"));
        assert_eq!(words, "[31my (signal: 13 (SIGPIPE))");
        fs::write(gateway.directory().join("long"), "").expect("ours");
        gateway.reload(&config(address, "every: 500ms"));
        let words = await_check(&gateway, address, "a long line", |words| words.contains('…'));
        assert!(words.chars().count() < 250, "{words}");
    });
}

#[test]
fn a_check_outlives_an_upgrade_and_not_its_worker_process() {
    everywhere(|place| {
        let address = place.free_address();
        let script = "if test -e $DIR/quick; then echo quick; exit 0; fi\ntest -e $DIR/stuck && exec sleep 1000\n\
                      sleep 2; echo done $$";
        let gateway = start(place, address, "every: 20s, timeout: 20s", script);
        let supervisor = gateway.gateway.process_id();
        eventually("it runs", || children(supervisor) == 2);
        gateway.command_ok(&["upgrade"]);
        // The one of the new worker process, which began before the upgrade was over, too.
        await_check(&gateway, address, "the check ends", |words| words.starts_with("done "));
        eventually("nothing is left", || children(supervisor) == 1);

        fs::write(gateway.directory().join("stuck"), "").expect("ours");
        gateway.reload(&config(address, "every: 20s, timeout: 19s"));
        eventually("the next one runs", || children(supervisor) == 2);
        fs::write(gateway.directory().join("quick"), "").expect("ours");
        let before = gateway.worker_process();
        signal(before, "KILL");
        // Whoever asked for it is gone, and another one asks.
        await_check(&gateway, address, "another worker process checks", |words| words.starts_with("quick in "));
        eventually("the old check is killed", || children(supervisor) == 1);
        assert_ne!(gateway.worker_process(), before);
        assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    });
}

#[test]
fn a_stop_ends_what_runs() {
    everywhere(|place| {
        let address = place.free_address();
        let mut gateway = start(place, address, "every: 20s, timeout: 20s", "echo $$ > /dev/null; exec sleep 1000");
        let supervisor = gateway.gateway.process_id();
        eventually("it runs", || children(supervisor) == 2);
        let text = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
        let worker = gateway.worker_process();
        let check = numbers(&text).into_iter().find(|child| *child != worker).expect("it runs");
        gateway.signal("TERM");
        assert_eq!(gateway.await_end(), "exit status: 0");
        eventually("it is killed", || !is_alive(check));
    });
}

#[test]
fn a_command_that_is_not_there_is_found_before_the_start() {
    let place = Place { ip: [127, 0, 0, 1].into(), workers: 1 };
    let gateway = start(place, place.free_address(), "", "exit 0");
    fs::remove_file(gateway.directory().join("check.sh")).expect("ours");
    let output = gateway.command(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("check.sh cannot be run: there is no such file"), "{text}");
}
