//! A reload with more workers under load: sockets that are new get connections only once somebody
//! accepts them.

mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use support::instance::{Instance, eventually, everywhere, signal};
use support::talk::Client;

fn config(workers: usize) -> String {
    format!("workers: {workers}\nlisteners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, respond: 204 }}] }} }}\n")
}

/// Children of the supervisor that are worker processes by now.
fn worker_processes(gateway: &Instance) -> Vec<u32> {
    let supervisor = gateway.gateway.process_id();
    let text = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let is_worker = |process: &u32| {
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == b"worker")
    };
    text.split_whitespace().filter_map(|word| word.parse().ok()).filter(is_worker).collect()
}

fn threads(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

fn is_stopped(process: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    text.lines().any(|line| line.starts_with("State:") && line.contains("stopped"))
}

/// Holds a new worker process up that has only just begun, calls `meanwhile` with its id, and lets it
/// go on if it is still there; gives what the reload said, and who served before it. A process that was too fast has become one
/// that serves, and the next try has one worker more.
fn reload_held_up(gateway: &Instance, workers: &mut usize, mut meanwhile: impl FnMut(u32)) -> (Output, u32) {
    loop {
        *workers += 1;
        gateway.write_config(&config(*workers));
        // One that a process which was too fast has replaced goes first.
        eventually("one serves", || worker_processes(gateway).len() == 1);
        let before = worker_processes(gateway);
        let said = thread::scope(|scope| {
            let reload = scope.spawn(|| gateway.command(&["reload"]));
            let mut new = None;
            eventually("a new worker process", || {
                new = worker_processes(gateway).into_iter().find(|process| !before.contains(process));
                new.is_some()
            });
            let new = new.expect("it was found");
            signal(new, "STOP");
            eventually("it is held up", || is_stopped(new));
            // It has no other thread until it has its config, and long before it is prepared.
            let is_early = threads(new) == 1;
            if is_early {
                meanwhile(new);
            }
            if is_stopped(new) {
                signal(new, "CONT");
            }
            let output = reload.join().expect("the command runs");
            is_early.then_some(output)
        });
        if let Some(output) = said {
            return (output, before[0]);
        }
    }
}

/// Runs a test while clients connect again and again, each of which has to be answered.
fn under_load(test: impl Fn(&Instance, &mut usize, &dyn Fn(&str)) + Sync) {
    everywhere(|place| {
        let mut workers = place.workers;
        let gateway = Instance::start(place, &config(workers));
        let address = gateway.address;
        let (done, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        while !done.load(Ordering::SeqCst) {
                            Client::connect(address).get("/").expect(204);
                            answers.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            // However few of the sockets are new, one of so many connections would come to them.
            let flows = |when: &str| {
                let before = answers.load(Ordering::SeqCst);
                eventually(when, || answers.load(Ordering::SeqCst) > before + 200);
            };
            let tested = catch_unwind(AssertUnwindSafe(|| {
                flows("traffic at the beginning");
                test(&gateway, &mut workers, &flows);
                flows("traffic at the end");
            }));
            // Also where it failed: the scope waits for them.
            done.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().expect("a client saw an error");
            }
            if let Err(failure) = tested {
                resume_unwind(failure);
            }
        });
    });
}

#[test]
fn a_slow_start_delays_nobody() {
    under_load(|gateway, workers, flows| {
        for _ in 0..3 {
            let (output, old) = reload_held_up(gateway, workers, |_| flows("traffic while the new process is held up"));
            assert!(output.status.success(), "{}", gateway.log());
            assert_ne!(gateway.worker_process(), old, "another process serves");
            let status = gateway.json(&["status"]);
            assert_eq!(status["workers"], *workers, "{status}");
            eventually("the old one has ended", || worker_processes(gateway) == [gateway.worker_process()]);
        }
    });
}

#[test]
fn a_start_that_fails_loses_nothing() {
    under_load(|gateway, workers, flows| {
        for _ in 0..3 {
            let (output, old) = reload_held_up(gateway, workers, |new| {
                flows("traffic while the new process is held up");
                signal(new, "KILL");
                eventually("it is gone", || !worker_processes(gateway).contains(&new));
            });
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!output.status.success(), "{said}");
            assert!(said.contains("the new worker process ended: signal: 9"), "{said}");
            assert_eq!(worker_processes(gateway), [old], "the one before serves on");
        }
        // What was opened for them is closed again, and does not stand in the way.
        gateway.reload(&config(*workers + 1));
    });
}

/// Fewer workers keep every socket, so that more need fewer new ones.
#[test]
fn up_and_down_and_up_again() {
    under_load(|gateway, _, flows| {
        for workers in [5, 1, 3, 7, 2] {
            gateway.reload(&config(workers));
            flows("traffic goes on");
        }
    });
}
