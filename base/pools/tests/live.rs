//! Health checks and names against real servers on this host.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{config, pool, pools, until};
use sumun_config::checked::{Check, Health as HealthConfig};
use sumun_engine::lifecycle::CheckVerdict;
use sumun_engine::lifecycle::limits::CHECKS_AT_ONCE;
use sumun_engine::tls::Tls;
use sumun_pools::external::{ExternalChecks, Wanted};
use sumun_pools::resolve::{Copies, NameServers};
use sumun_pools::{Health, OperationError, PickKey, Picker, Pools, Refused, Tried, health, resolve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// A web server that answers every request with the status in `status`.
async fn web_server(status: Arc<AtomicU16>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = status.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let _request = stream.read(&mut [0; 1024]).await?;
                stream.write_all(format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n").as_bytes()).await
            });
        }
    });
    address
}

fn every_10_ms() -> HealthConfig {
    HealthConfig {
        check: Check::Http { path: "/".to_owned(), host: None, status: vec![(200, 299)] },
        every: Duration::from_millis(10),
        timeout: Duration::from_secs(10),
        rise: 2,
        fall: 3,
        port: None,
    }
}

fn health_of(pools: &Pools, number: usize) -> Health {
    pools.pool("app").unwrap().servers().members()[number].server.health()
}

#[tokio::test]
async fn checks_take_a_server_out_and_back_in() {
    let (good, changing) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let addresses = [web_server(good).await.to_string(), web_server(Arc::clone(&changing)).await.to_string()];
    let mut settings = pool(&[&addresses[0], &addresses[1]]);
    settings.health = Some(every_10_ms());
    let pools = pools(&settings);
    let checks = tokio::spawn(health::run(Arc::clone(&pools), Tls::new(1), ExternalChecks::of_nobody()));
    let mut picker = Picker::new(pools.pool("app").unwrap());
    let mut seen = |count: u32| {
        let names = (0..count).map(|_| picker.pick(0, PickKey::default(), &Tried::default()).unwrap());
        let mut names: Vec<_> = names.map(|lease| lease.server().name().to_string()).collect();
        names.sort();
        names.dedup();
        names.len()
    };

    until(|| (0..2).all(|number| health_of(&pools, number) == Health::Up)).await;
    assert_eq!(seen(100), 2);
    changing.store(503, Ordering::SeqCst);
    until(|| health_of(&pools, 1) == Health::Down).await;
    assert_eq!(seen(100), 1);
    let status = &pools.status()[0].servers[1];
    assert_eq!(status.reason, "health check: status 503, wanted 200-299");
    assert!(status.counts.checks_failed >= 3 && !status.usable);
    changing.store(200, Ordering::SeqCst);
    until(|| health_of(&pools, 1) == Health::Up).await;
    assert_eq!(seen(100), 2);

    // A reload that turns checks off forgets what they found.
    changing.store(503, Ordering::SeqCst);
    until(|| health_of(&pools, 1) == Health::Down).await;
    settings.health = None;
    pools.apply(&config(&settings));
    until(|| health_of(&pools, 1) == Health::Unknown).await;
    checks.abort();
}

/// Commands are run by somebody else: as many at once as it takes, and what it does not run says nothing
/// about a server.
#[tokio::test]
async fn checks_by_somebody_else() {
    let names: Vec<String> = (0..CHECKS_AT_ONCE + 4).map(|number| format!("127.0.0.1:{}", 9000 + number)).collect();
    let mut settings = pool(&names.iter().map(String::as_str).collect::<Vec<_>>());
    settings.health = Some(HealthConfig {
        check: Check::Exec { program: "/check".into(), arguments: Vec::new() },
        rise: 1,
        fall: 1,
        ..every_10_ms()
    });
    let pools = pools(&settings);
    let asked: Arc<Mutex<Vec<Wanted>>> = Arc::default();
    let notes = Arc::clone(&asked);
    let external = Arc::new(ExternalChecks::new(move |wanted| {
        notes.lock().unwrap().push(wanted);
        Ok(())
    }));
    let checks = tokio::spawn(health::run(Arc::clone(&pools), Tls::new(1), Arc::clone(&external)));
    let open = || asked.lock().unwrap().len();
    until(|| open() == CHECKS_AT_ONCE).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(open(), CHECKS_AT_ONCE, "the others wait");
    let first = asked.lock().unwrap()[0].clone();
    assert_eq!((first.pool.as_str(), &first.server), ("app", &first.address));

    let status = |name: &str| {
        let servers = pools.status().remove(0).servers;
        servers.into_iter().find(|server| *server.name == *name).unwrap()
    };
    external.answered(first.id, CheckVerdict::Bad, "no".to_owned());
    // Neither an answer that was given already nor one that nobody asked for changes anything.
    external.answered(first.id, CheckVerdict::Good, String::new());
    external.answered(u64::MAX, CheckVerdict::Good, String::new());
    until(|| open() == CHECKS_AT_ONCE + 1).await;
    assert_eq!(status(&first.server).reason, "health check: no");
    let next = asked.lock().unwrap()[1].clone();
    external.answered(next.id, CheckVerdict::Good, "OK".to_owned());
    until(|| status(&next.server).reason.starts_with("health check: OK in ")).await;
    assert_eq!(status(&next.server).counts.checks, 1);

    // Down it stays while nobody looks.
    let again = || asked.lock().unwrap().iter().filter(|wanted| wanted.server == first.server).nth(1).cloned();
    let answer_others = || {
        for wanted in asked.lock().unwrap().iter().filter(|wanted| wanted.server != first.server) {
            external.answered(wanted.id, CheckVerdict::Good, String::new());
        }
    };
    until(|| {
        answer_others();
        again().is_some()
    })
    .await;
    external.answered(again().unwrap().id, CheckVerdict::None, "too many checks run".to_owned());
    until(|| {
        answer_others();
        status(&first.server).last_check == "too many checks run"
    })
    .await;
    let status = status(&first.server);
    assert_eq!((status.reason.as_str(), status.counts.checks), ("health check: no", 1));
    checks.abort();
}

#[tokio::test]
async fn no_server_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut settings = pool(&[&address]);
    settings.health = Some(HealthConfig { check: Check::CONNECT, ..every_10_ms() });
    let pools = pools(&settings);
    let checks = tokio::spawn(health::run(Arc::clone(&pools), Tls::new(1), ExternalChecks::of_nobody()));
    until(|| health_of(&pools, 0) == Health::Down).await;
    let mut picker = Picker::new(pools.pool("app").unwrap());
    assert_eq!(picker.pick(0, PickKey::default(), &Tried::default()).unwrap_err(), Refused::NoServer);
    checks.abort();
}

/// Where all others are dead, a server whose checks have begun to be good is asked before they were so
/// often enough.
#[tokio::test]
async fn a_rising_server_is_better_than_nobody() {
    let status = Arc::new(AtomicU16::new(503));
    let address = web_server(Arc::clone(&status)).await.to_string();
    let mut settings = pool(&[&address]);
    settings.health = Some(HealthConfig { rise: u32::MAX, ..every_10_ms() });
    let pools = pools(&settings);
    let checks = tokio::spawn(health::run(Arc::clone(&pools), Tls::new(1), ExternalChecks::of_nobody()));
    until(|| health_of(&pools, 0) == Health::Down).await;
    let picker = std::cell::RefCell::new(Picker::new(pools.pool("app").unwrap()));
    let is_taken = || picker.borrow_mut().pick(0, PickKey::default(), &Tried::default()).is_ok();
    assert!(!is_taken());
    status.store(200, Ordering::SeqCst);
    until(is_taken).await;
    assert_eq!(health_of(&pools, 0), Health::Down);
    status.store(503, Ordering::SeqCst);
    until(|| !is_taken()).await;
    checks.abort();
}

/// The same for who waits for a place there.
#[tokio::test]
async fn who_waits_gets_a_place_at_a_rising_server() {
    let status = Arc::new(AtomicU16::new(503));
    let address = web_server(Arc::clone(&status)).await.to_string();
    let mut settings = pool(&[&address]);
    settings.health = Some(HealthConfig { rise: u32::MAX, ..every_10_ms() });
    settings.servers[0].max_connections = Some(1);
    let pools = pools(&settings);
    let checks = tokio::spawn(health::run(Arc::clone(&pools), Tls::new(1), ExternalChecks::of_nobody()));
    until(|| health_of(&pools, 0) == Health::Down).await;
    status.store(200, Ordering::SeqCst);
    let shared = pools.pool("app").unwrap();
    let picker = std::cell::RefCell::new(Picker::new(Arc::clone(&shared)));
    let held = std::cell::RefCell::new(None);
    until(|| {
        *held.borrow_mut() = picker.borrow_mut().pick(0, PickKey::default(), &Tried::default()).ok();
        held.borrow().is_some()
    })
    .await;
    let tried = Tried::default();
    assert_eq!(picker.borrow_mut().pick(0, PickKey::default(), &tried).unwrap_err(), Refused::AtCapacity);
    let asked = Arc::clone(&shared);
    let waiting = tokio::spawn(async move {
        asked.wait_for_place(&Tried::default(), sumun_pools::Priority::Normal, Duration::from_secs(600)).await
    });
    until(|| shared.waiting_for_place() == 1).await;
    drop(held.take());
    assert_eq!(waiting.await.unwrap().unwrap().server().id(), shared.servers().members()[0].server.id());
    assert_eq!(health_of(&pools, 0), Health::Down);
    checks.abort();
}

/// A name server for one zone of one name: A records with a TTL of one second, no others; it
/// fails while it has no addresses.
struct NameServer {
    at: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    failed: Arc<AtomicU32>,
}

async fn name_server(addresses: &[Ipv4Addr]) -> NameServer {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let addresses = Arc::new(Mutex::new(addresses.to_vec()));
    let failed = Arc::new(AtomicU32::new(0));
    let (records, failures) = (Arc::clone(&addresses), Arc::clone(&failed));
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let records = records.lock().unwrap().clone();
            if records.is_empty() {
                failures.fetch_add(1, Ordering::SeqCst);
            }
            let _sent = socket.send_to(&dns_answer(&query[..length], &records), from).await;
        }
    });
    NameServer { at, addresses, failed }
}

/// RFC 1035 section 4.1: the header, the question as it came, and the A records.
fn dns_answer(query: &[u8], records: &[Ipv4Addr]) -> Vec<u8> {
    let labels_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[12..labels_end + 4];
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let records = if is_a { records } else { &[] };
    let failed = records.is_empty() && is_a;
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, if failed { 0x82 } else { 0x80 }, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(question);
    for record in records {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(record.octets());
    }
    answer
}

fn targets(pools: &Pools) -> Vec<String> {
    let set = pools.pool("app").unwrap().servers();
    set.members().iter().map(|member| member.server.target().to_string()).collect()
}

#[tokio::test]
async fn names_are_followed_and_the_last_good_answer_stays() {
    let names =
        name_server(&[Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]).await;
    let pools = pools(&pool(&["app.test:8080"]));
    assert_eq!(pools.unresolved(), ["app.test"]);
    let resolving = tokio::spawn(resolve::run(Arc::clone(&pools), NameServers::At(vec![names.at])));
    resolve::settled(&pools).await;
    assert_eq!(targets(&pools), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let kept = pools.pool("app").unwrap().servers().by_name("app.test:8080@10.0.0.2").unwrap().server.id();

    *names.addresses.lock().unwrap() = vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
    until(|| targets(&pools) == ["10.0.0.2:8080", "10.0.0.3:8080"]).await;
    assert_eq!(pools.pool("app").unwrap().servers().members()[0].server.id(), kept);

    names.addresses.lock().unwrap().clear();
    until(|| names.failed.load(Ordering::SeqCst) >= 2).await;
    assert_eq!(targets(&pools), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    *names.addresses.lock().unwrap() = vec![Ipv4Addr::new(10, 0, 0, 9)];
    until(|| targets(&pools) == ["10.0.0.9:8080"]).await;
    resolving.abort();
}

#[tokio::test]
async fn the_hosts_file_is_read() {
    let pools = pools(&pool(&["localhost:8080"]));
    let resolving = tokio::spawn(resolve::run(Arc::clone(&pools), NameServers::System));
    until(|| targets(&pools).contains(&"127.0.0.1:8080".to_owned())).await;
    resolving.abort();
}

/// A process that may open neither of the files follows what it is told of them.
#[tokio::test]
async fn copies_of_the_hosts_files_are_followed() {
    let pools = pools(&pool(&["app.test:8080"]));
    let resolv_conf = "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n";
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let ask = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let copies = Copies::new(resolv_conf.to_owned(), "10.0.0.1 other.test\n".to_owned(), ask);
    let resolving = tokio::spawn(resolve::run(Arc::clone(&pools), NameServers::Copies(copies.clone())));
    until(|| asked.load(Ordering::SeqCst) == 1).await;
    assert!(targets(&pools).is_empty());
    copies.replace(resolv_conf.to_owned(), "10.0.0.7 app.test\n".to_owned());
    until(|| targets(&pools) == ["10.0.0.7:8080"]).await;
    assert!(asked.load(Ordering::SeqCst) >= 2, "it is asked for before each lookup");
    resolving.abort();
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_added() {
    let known = pools(&pool(&["10.0.0.1:8080"]));
    known.add_server("app", "10.0.0.2:9090", None).unwrap();
    let limited = pools(&pool(&["10.0.0.1:8080"]));
    limited.limit_ports([8080].into());
    let refused = limited.add_server("app", "10.0.0.2:9090", None).unwrap_err();
    assert_eq!(refused, OperationError::OutOfReach(9090));
    assert!(refused.to_string().contains("TCP port 9090"), "{refused}");
    assert_eq!(limited.add_server("app", "app.test:1", None).unwrap_err(), OperationError::OutOfReach(1));
    limited.add_server("app", "10.0.0.3:8080", None).unwrap();
    limited.add_server("app", "unix:/run/app.sock", None).unwrap();
    // Nor is it taken over from the process before.
    limited.carry_in(&known.carry_out()).unwrap();
    assert_eq!(targets(&limited), ["10.0.0.1:8080", "10.0.0.3:8080", "unix:/run/app.sock"]);
}
