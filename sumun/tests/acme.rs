//! Certificates that the gateway obtains by itself. The authority is one of the tests' own, which
//! misbehaves on demand; the interop has a real one.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use serde_json::Value;
use support::acme::AcmeServer;
use support::gateway;
use support::instance::{Instance, Place, eventually, everywhere};
use support::server::Server;
use support::talk::Client;

/// What stands in the config of an instance.
#[derive(Clone)]
struct Site {
    place: Place,
    directory: String,
    /// Where it listens without TLS.
    plain: SocketAddr,
    domains: String,
    /// Further keys of `acme`, each ending in a comma.
    acme: String,
    /// Lines at the top level.
    top: String,
}

impl Site {
    fn new(place: Place, authority: &AcmeServer) -> Self {
        let site = Self::at(place, &format!("https://{}/dir", authority.address()));
        authority.behave(|behaviour| behaviour.http = Some(site.plain));
        Self { acme: "ca: $DIR/directory.pem,".to_owned(), ..site }
    }

    fn at(place: Place, directory: &str) -> Self {
        Self {
            place,
            directory: directory.to_owned(),
            plain: place.free_address(),
            domains: "[site.test, www.site.test]".to_owned(),
            acme: String::new(),
            top: String::new(),
        }
    }

    fn config(&self) -> String {
        let Self { directory, plain, domains, acme, top, .. } = self;
        format!(
            "{top}\nstate: $DIR/state\nlisteners:\n  web:\n    bind:\n      - \"{plain}\"\n      \
             - {{ address: \"$BIND\", tls: {{ acme: {{ {acme} directory: \"{directory}\", domains: {domains} }} }} }}\n    \
             redirect_https: on\n    routes: [{{ path: /, respond: {{ body: hello }} }}]\n"
        )
    }

    fn start(&self, directory_pem: &str) -> Instance {
        let prepare = |directory: &Path| {
            fs::write(directory.join("directory.pem"), directory_pem).expect("the file can be written");
        };
        Instance::start_in(self.place, &self.config(), prepare)
    }

    /// Another instance that finds what the one before has kept.
    fn start_again(&self, directory_pem: &str, before: &Instance) -> Instance {
        let state = before.directory().join("state");
        Instance::start_in(self.place, &self.config(), |directory| {
            fs::write(directory.join("directory.pem"), directory_pem).expect("the file can be written");
            let copied = Command::new("cp").arg("-a").arg(state).arg(directory.join("state")).status();
            assert!(copied.is_ok_and(|status| status.success()));
        })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// An answer over TLS, where the certificate is trusted and for this name.
fn get(instance: &Instance, client: &Arc<ClientConfig>, name: &str) -> Option<String> {
    let mut connection = Client::secure(instance.address, client, name);
    connection.handshake().ok()?;
    Some(connection.get("/").expect(200).text())
}

fn await_trust(instance: &Instance, client: &Arc<ClientConfig>, name: &str) {
    eventually("a certificate that is trusted", || get(instance, client, name).is_some());
}

/// What `sumun status` says of the only certificate.
fn row(instance: &Instance) -> Value {
    instance.json(&["status"])["certificates"][0].clone()
}

fn files(instance: &Instance) -> Vec<PathBuf> {
    let folder = instance.directory().join("state/acme");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn file(instance: &Instance, ending: &str) -> PathBuf {
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.ends_with(ending) && !name.starts_with("account")
    };
    files(instance).into_iter().find(is_meant).unwrap_or_else(|| panic!("no {ending}"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_certificate_is_obtained_and_kept_for_us_alone() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        let mut site = Site::new(place, &authority);
        site.acme.push_str("email: admin@site.test,");
        // Long enough to see what is there before.
        authority.behave(|behaviour| behaviour.looks = 3);
        let mut instance = site.start(&pem);
        let client = authority.client();
        assert_eq!(get(&instance, &client, "site.test"), None, "{}", instance.log());
        assert_eq!(row(&instance)["expires"], Value::Null);
        for name in ["site.test", "www.site.test"] {
            await_trust(&instance, &client, name);
            assert_eq!(get(&instance, &client, name).as_deref(), Some("hello"));
        }
        // Nobody is let past the redirection with a token that was invented.
        let plain = Client::connect(site.plain).get("/.well-known/acme-challenge/token");
        assert_eq!(plain.expect(308).text(), "");
        let row = row(&instance);
        assert_eq!((row["state"].as_str(), row["failures"].as_u64()), (Some("valid"), Some(0)));
        assert!(row["expires"].as_u64().is_some_and(|at| at > now() + 89 * 86_400), "{row}");
        let renewal = row["next_try"].as_u64().unwrap_or_default();
        // An hour later the authority is asked when it would have it renewed.
        assert!(renewal > now() + 3000, "{row}");
        assert_eq!(authority.orders(), [["site.test", "www.site.test"]]);
        assert_eq!(authority.contacts(), [serde_json::json!(["mailto:admin@site.test"])]);

        assert_eq!(mode(&instance.directory().join("state")), 0o700);
        assert_eq!(mode(&instance.directory().join("state/acme")), 0o700);
        assert_eq!(files(&instance).len(), 3);
        for path in files(&instance) {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        // It is there from the first moment of the next instance, and nobody is asked.
        instance.signal("TERM");
        instance.await_end();
        let again = site.start_again(&pem, &instance);
        assert_eq!(get(&again, &client, "site.test").as_deref(), Some("hello"));
        assert_eq!(self::row(&again)["state"], "valid");
        assert_eq!((authority.orders().len(), authority.accounts()), (1, 1));
    });
}

#[test]
fn a_handshake_proves_a_name_too() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        let mut site = Site::new(place, &authority);
        site.acme.push_str("challenge: tls-alpn-01, key_type: ecdsa-p384,");
        site.domains = "[site.test, other.test]".to_owned();
        authority.behave(|behaviour| behaviour.http = None);
        // Where it is, is known once it listens; until then all names lead nowhere.
        let address = place.free_address();
        authority.behave(|behaviour| behaviour.tls = Some(address));
        let prepare = |directory: &Path| fs::write(directory.join("directory.pem"), &pem).expect("a file");
        let command = |_: &Path, log: &fs::File| gateway::command(env!("CARGO_BIN_EXE_sumun"), log);
        let instance = Instance::start_at(address, place, &site.config(), prepare, command);
        await_trust(&instance, &authority.client(), "other.test");
        // Nobody else gets that protocol, and who asks for it gets nothing else.
        let mut config = ClientConfig::clone(&authority.client());
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let mut late = Client::secure(instance.address, &Arc::new(config), "site.test");
        late.handshake().expect("the certificate of every day");
        late.end();
        assert_eq!(get(&instance, &authority.client(), "site.test").as_deref(), Some("hello"));
    });
}

#[test]
fn renewal_touches_no_connection_and_outlives_the_account() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.lifetime = Duration::from_secs(15));
        let site = Site::new(place, &authority);
        let instance = site.start(&pem);
        let client = authority.client();
        await_trust(&instance, &client, "site.test");
        let certificate = |connection: &Client| {
            connection.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first().cloned()).expect("a certificate")
        };
        let mut old = Client::secure(instance.address, &client, "site.test");
        old.get("/").expect(200);
        // Nobody knows our account any more: a new one is made.
        authority.deactivate_accounts();
        eventually("another certificate", || {
            let mut new = Client::secure(instance.address, &client, "site.test");
            new.handshake().is_ok() && certificate(&new) != certificate(&old)
        });
        old.get("/").expect(200);
        assert_eq!(authority.accounts(), 2, "{}", instance.log());
        instance.await_log("does not take our account any more");
    });
}

#[test]
fn a_lost_account_is_replaced_once_for_all_certificates() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.lifetime = Duration::from_secs(15));
        let site = Site::new(place, &authority);
        let acme = |domain: &str| {
            format!("{{ ca: $DIR/directory.pem, directory: \"{}\", domains: {domain} }}", site.directory)
        };
        let config = format!(
            "state: $DIR/state\nlisteners:\n  web:\n    bind:\n      - \"{}\"\n      \
             - {{ address: \"$BIND\", tls: {{ acme: [{}, {}] }} }}\n    \
             redirect_https: on\n    routes: [{{ path: /, respond: {{ body: hello }} }}]\n",
            site.plain,
            acme("one.test"),
            acme("two.test")
        );
        let instance = Instance::start_in(place, &config, |directory| {
            fs::write(directory.join("directory.pem"), &pem).expect("a file");
        });
        let client = authority.client();
        await_trust(&instance, &client, "one.test");
        await_trust(&instance, &client, "two.test");
        assert_eq!(authority.accounts(), 1);
        authority.deactivate_accounts();
        eventually("two more certificates", || authority.issued() >= 4);
        assert_eq!(authority.accounts(), 2, "{}", instance.log());
    });
}

#[test]
fn a_lost_account_that_cannot_be_replaced_is_explained_and_tried_again_later() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.lifetime = Duration::from_secs(18));
        let site = Site::new(place, &authority);
        let instance = site.start(&pem);
        let client = authority.client();
        await_trust(&instance, &client, "site.test");
        authority.behave(|behaviour| behaviour.wants_external_account = true);
        authority.deactivate_accounts();
        eventually("an error", || row(&instance)["error"].is_string());
        let (row, asked) = (row(&instance), authority.server.count());
        let error = row["error"].as_str().unwrap_or_default();
        assert!(error.contains("does not take our account any more"), "{row}");
        assert!(error.contains("the account was deactivated (unauthorized)"), "{row}");
        assert!(error.contains("no account was made: the authority says"), "{row}");
        assert!(error.contains("externalAccountRequired"), "{row}");
        assert!(row["next_try"].as_u64().is_some_and(|at| at > now() + 100), "{row}");
        instance.await_log("and no account was made");
        // Meanwhile the certificate that there is goes on being served.
        assert_eq!(get(&instance, &client, "site.test").as_deref(), Some("hello"));
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(authority.server.count(), asked);
    });
}

#[test]
fn an_external_account_and_nonces_that_are_not_liked() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| {
            behaviour.wants_external_account = true;
            behaviour.bad_nonces = 7;
        });
        let mut site = Site::new(place, &authority);
        site.acme.push_str("key_type: rsa-2048, external_account: { key_id: kid-1, hmac_key_file: $DIR/hmac.key },");
        let instance = Instance::start_in(place, &site.config(), |directory| {
            fs::write(directory.join("directory.pem"), &pem).expect("a file");
            fs::write(directory.join("hmac.key"), "AAECAwQFBgcICQoLDA0ODw\n").expect("a file");
            fs::set_permissions(directory.join("hmac.key"), fs::Permissions::from_mode(0o600)).expect("its mode");
        });
        await_trust(&instance, &authority.client(), "site.test");
        let key = fs::read_to_string(file(&instance, ".pem")).expect("the kept file");
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
    });
}

#[test]
fn who_is_refused_waits_and_remembers_it() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.refusal = Some((429, "rateLimited", Some(7200))));
        let site = Site::new(place, &authority);
        let mut instance = site.start(&pem);
        instance.await_log("not today (rateLimited); the next try comes in 7");
        let refused = row(&instance);
        assert_eq!((refused["state"].as_str(), refused["failures"].as_u64()), (Some("waiting"), Some(1)));
        assert!(refused["next_try"].as_u64().is_some_and(|at| at > now() + 7000), "{refused}");
        assert!(refused["error"].as_str().is_some_and(|why| why.contains("rateLimited")), "{refused}");
        let table = instance.command_ok(&["status"]);
        assert!(table.contains("site.test") && table.contains("waiting") && table.contains("rateLimited"), "{table}");
        instance.signal("TERM");
        instance.await_end();
        let asked = authority.server.count();
        let again = site.start_again(&pem, &instance);
        eventually("a row", || row(&again)["next_try"] == refused["next_try"]);
        assert_eq!(authority.server.count(), asked);
        // With a stand-in the listener is open all the while.
        let mut stranger = Client::secure(again.address, &authority.client(), "site.test");
        assert!(stranger.handshake().is_err());
    });
}

#[test]
fn an_authority_that_is_away_is_tried_again_soon() {
    everywhere(|place| {
        let address = place.free_address();
        let mut site = Site::at(place, &format!("http://{address}/dir"));
        site.domains = "site.test".to_owned();
        let instance = site.start("");
        instance.await_log("the authority cannot be asked: no connection to");
        let authority = AcmeServer::start_plainly(address);
        authority.behave(|behaviour| behaviour.http = Some(site.plain));
        await_trust(&instance, &authority.client(), "site.test");
        assert_eq!(row(&instance)["error"], Value::Null);
    });
}

#[test]
fn an_authority_that_is_another_hears_nothing() {
    everywhere(|place| {
        let (authority, _) = AcmeServer::start(place.ip);
        let (_other, pem) = AcmeServer::start(place.ip);
        let instance = Site::new(place, &authority).start(&pem);
        instance.await_log("the TLS handshake with");
        assert_eq!(authority.server.count(), 0);
        assert_eq!(row(&instance)["state"], "waiting");
    });
}

#[test]
fn names_that_are_not_ours_are_not_proven() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        let site = Site::new(place, &authority);
        // Names lead to somebody else.
        let elsewhere = Server::saying(place.ip, "who?");
        authority.behave(|behaviour| behaviour.http = Some(elsewhere.address()));
        let instance = site.start(&pem);
        instance.await_log("did not find its proof at TCP port 80 of the names: site.test: nothing at site.test");
        let families = instance.json(&["status"]);
        assert_eq!(families["certificates"][0]["failures"], 1);
        assert_eq!(authority.issued(), 0);
    });
}

/// What an authority may say that is no good. Each is one of its own, since a pause follows.
#[test]
fn no_answer_hurts() {
    let endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n".to_vec();
    let elsewhere =
        "{\"newNonce\":\"http://192.0.2.1/\",\"newAccount\":\"http://192.0.2.1/\",\"newOrder\":\"file:///\"}";
    let elsewhere = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{elsewhere}", elsewhere.len());
    let cases: [(Vec<u8>, &str); 7] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(), "makes no sense"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops".to_vec(), "makes no sense"),
        (b"SSH-2.0-x\r\n\r\n".to_vec(), "is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n".to_vec(), "more than 128 KiB"),
        ([endless, vec![b'['; 1024 * 1024]].concat(), "more than 128 KiB"),
        ([b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; 1024 * 1024]].concat(), "is no HTTP"),
        (elsewhere.into_bytes(), "it names a URL that is not https"),
    ];
    everywhere(|place| {
        for (answer, expected) in &cases {
            let (authority, pem) = AcmeServer::start(place.ip);
            authority.behave(|behaviour| behaviour.answer = Some(answer.clone()));
            let instance = Site::new(place, &authority).start(&pem);
            instance.await_log(expected);
            instance.await_log("the next try comes in");
            assert_eq!(row(&instance)["state"], "waiting");
            // A control thread that works answers.
            instance.command_ok(&["reload"]);
        }
    });
}

#[test]
fn a_certificate_for_somebody_else_is_not_taken() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.certified_name = Some("evil.test"));
        let instance = Site::new(place, &authority).start(&pem);
        instance.await_log("the authority's certificate is not for site.test");
        assert_eq!(row(&instance)["expires"], Value::Null);
        assert!(files(&instance).iter().all(|path| path.extension().is_none_or(|ending| ending != "pem")));
    });
}

/// One order, whatever happens while it is with the authority.
fn in_the_middle(what: &str, happens: impl Fn(&Instance, &Site) + Sync) {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.looks = 1_000_000);
        let site = Site::new(place, &authority);
        let instance = site.start(&pem);
        // Before that the authority may come while nobody is there, and the order is lost.
        eventually("names that are proven", || authority.is_proven());
        assert_eq!(row(&instance)["state"], "ordering");
        happens(&instance, &site);
        authority.behave(|behaviour| behaviour.looks = 0);
        authority.settle();
        await_trust(&instance, &authority.client(), "site.test");
        assert_eq!((authority.orders().len(), authority.accounts()), (1, 1), "{what}\n{}", instance.log());
    });
}

#[test]
fn a_reload_in_the_middle() {
    in_the_middle("reload", |instance, site| {
        instance.reload(&site.config().replace("hello", "good morning").replace("good morning", "hello"));
    });
}

#[test]
fn a_reload_with_a_new_process_in_the_middle() {
    in_the_middle("reload with a new process", |instance, site| {
        let before = instance.worker_process();
        let top = format!("workers: {}\n", site.place.workers + 1);
        instance.write_config(&format!("{top}{}", site.config()));
        let text = fs::read_to_string(instance.config_path()).expect("the config");
        // The preamble has a number of workers already.
        let text = text.replacen(&format!("workers: {}\n", site.place.workers), "", 1);
        fs::write(instance.config_path(), text).expect("the config");
        instance.command_ok(&["reload"]);
        assert_ne!(instance.worker_process(), before);
    });
}

#[test]
fn the_death_of_the_worker_process_in_the_middle() {
    in_the_middle("death", |instance, _| {
        let before = instance.worker_process();
        support::instance::signal(before, "KILL");
        eventually("another worker process", || instance.worker_process() != before);
    });
}

#[test]
fn an_upgrade_in_the_middle() {
    in_the_middle("upgrade", |instance, _| {
        instance.command_ok(&["upgrade"]);
    });
}

#[test]
fn an_order_ends_with_its_listener() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        authority.behave(|behaviour| behaviour.looks = 1_000_000);
        let site = Site::new(place, &authority);
        let instance = site.start(&pem);
        eventually("an order", || row(&instance)["state"] == "ordering");
        instance.reload("listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: 204 }] } }");
        assert_eq!(instance.json(&["status"])["certificates"], serde_json::json!([]));
        let seen = authority.server.count();
        // Whatever was on its way has arrived by the time of a whole reload.
        instance.command_ok(&["reload"]);
        instance.get("/").expect(204);
        assert!(authority.server.count() <= seen + 1);
    });
}

/// RFC 9773: what is kept is set back, so that the authority is asked now and not in an hour.
#[test]
fn the_authority_may_ask_for_a_renewal() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        let window = ("2020-01-01T00:00:00Z".to_owned(), "2020-01-02T00:00:00Z".to_owned());
        authority.behave(|behaviour| behaviour.window = Some(window));
        let site = Site::new(place, &authority);
        let mut instance = site.start(&pem);
        await_trust(&instance, &authority.client(), "site.test");
        eventually("kept", || row(&instance)["state"] == "valid");
        instance.signal("TERM");
        instance.await_end();
        let path = file(&instance, ".json");
        let mut kept: Value = serde_json::from_slice(&fs::read(&path).expect("kept")).expect("JSON");
        kept["timing"]["window_look"] = 0.into();
        kept["timing"]["last_try"] = 0.into();
        fs::write(&path, kept.to_string()).expect("kept");
        let again = site.start_again(&pem, &instance);
        again.await_log("the authority suggests to renew it between 2020-01-01 and 2020-01-02");
        eventually("a second certificate", || authority.issued() == 2);
        let replaced = authority.replaced();
        assert!(replaced[0].is_none() && replaced[1].as_ref().is_some_and(|id| id.contains('.')), "{replaced:?}");
    });
}

/// The state is what an operator or a broken disk left there.
#[test]
fn broken_files_are_begun_anew_and_no_place_is_an_error() {
    everywhere(|place| {
        let (authority, pem) = AcmeServer::start(place.ip);
        let site = Site::new(place, &authority);
        let mut instance = site.start(&pem);
        await_trust(&instance, &authority.client(), "site.test");
        instance.signal("TERM");
        instance.await_end();
        for path in files(&instance) {
            fs::write(path, "no such thing").expect("a file of ours");
        }
        let again = site.start_again(&pem, &instance);
        again.await_log("cannot be used: it holds no certificate");
        // As if a try had failed: it comes again after a pause.
        await_trust(&again, &authority.client(), "site.test");
        assert_eq!(authority.accounts(), 2);
        // Somebody puts a file in the place of the folder.
        fs::write(again.directory().join("file"), "").expect("a file");
        again.write_config(&site.config().replace("$DIR/state", "$DIR/file"));
        let refused = again.command(&["reload"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("cannot be kept in"), "{said}");
        assert_eq!(get(&again, &authority.client(), "site.test").as_deref(), Some("hello"));
    });
}
