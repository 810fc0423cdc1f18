use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sumun-certificates-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn config(&self, text: &str) -> Config {
        let path = self.0.join("sumun.yaml");
        fs::write(&path, text).unwrap();
        let sources = sumun_config::load(&path).unwrap();
        sumun_config::check(&sources, sumun_config::Probe::Nothing).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn write(&self, name: &str, text: &str) {
        // As every careful tool does: the new file takes the place of the old one at once.
        let aside = self.0.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.0.join(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// PEM of a certificate and its key.
fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

const LISTENER: &str =
    "listeners: { web: { bind: ':0', tls: { certs: { cert: a.pem, key: a.key } }, routes: [ respond: 204 ] } }";
const NOW: u64 = 1_800_000_000;

fn look(certificates: &mut Certificates) -> bool {
    certificates.look(Instant::now(), NOW)
}

fn certificate_in(certificates: &Certificates) -> String {
    String::from_utf8(certificates.material().identities[0].certificate.bytes().to_vec()).unwrap()
}

#[test]
fn a_replaced_pair_is_taken_up_once_both_files_fit() {
    let folder = Folder::new();
    let config = folder.config(LISTENER);
    let (old, new) = (pair("old.example"), pair("new.example"));
    folder.write("a.pem", &old.0);
    folder.write("a.key", &old.1);
    let mut certificates = Certificates::read(&config, None, Instant::now()).unwrap();
    // What is sent first has keys for tickets in it; they are due for the test's own clock.
    assert!(!certificates.material().tickets.is_empty());
    look(&mut certificates);
    assert!(!look(&mut certificates));

    folder.write("a.pem", &new.0);
    // Seen, then left alone for one look, then judged: the key does not fit.
    assert!(!look(&mut certificates) && !look(&mut certificates) && !look(&mut certificates));
    assert_eq!(certificate_in(&certificates), old.0);
    folder.write("a.key", &new.1);
    assert!(!look(&mut certificates));
    assert!(look(&mut certificates));
    assert_eq!(certificate_in(&certificates), new.0);
    assert!(!look(&mut certificates));

    for rubbish in ["", "no PEM", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        folder.write("a.pem", rubbish);
        assert!(!look(&mut certificates) && !look(&mut certificates));
    }
    fs::remove_file(folder.0.join("a.pem")).unwrap();
    assert!(!look(&mut certificates) && !look(&mut certificates));
    assert_eq!(certificate_in(&certificates), new.0);
    // The same bytes in another file are nothing new.
    folder.write("a.pem", &new.0);
    assert!(!look(&mut certificates) && !look(&mut certificates));
}

#[test]
fn every_file_that_cannot_be_used_is_named() {
    let folder = Folder::new();
    let config = folder.config(
        "pools: { app: { servers: '127.0.0.1:1', tls: { ca: ca.pem } } }\n\
         listeners: { web: { bind: ':0', tls: { certs: [{ cert: a.pem, key: a.key }, { cert: b.pem, key: b.key }] }, routes: [ proxy: app ] } }",
    );
    let (a, b) = (pair("a.example"), pair("b.example"));
    folder.write("a.pem", &a.0);
    folder.write("a.key", &b.1);
    folder.write("b.pem", &b.0);
    let problems = Certificates::read(&config, None, Instant::now()).unwrap_err();
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 3, "{problems}");
    assert!(lines[0].contains("a.key: does not fit the certificate"), "{problems}");
    assert!(lines[1].contains("b.key: No such file"), "{problems}");
    assert!(lines[2].contains("ca.pem: No such file"), "{problems}");
}

#[test]
fn ticket_keys_are_rotated_and_outlive_reload_and_upgrade() {
    let folder = Folder::new();
    let config = folder.config(LISTENER);
    let (certificate, key) = pair("a.example");
    folder.write("a.pem", &certificate);
    folder.write("a.key", &key);
    let before = Certificates::read(&config, None, Instant::now()).unwrap();
    let again = Certificates::read(&config, Some(&before), Instant::now()).unwrap();
    assert_eq!(again.material(), before.material());

    let json = serde_json::to_vec(&before.material()).unwrap();
    let mut next =
        Certificates::from_material(&config, serde_json::from_slice(&json).unwrap(), Instant::now()).unwrap();
    assert_eq!(next.material(), before.material());
    // The files are read anew; they are the same.
    let now = unix_seconds();
    assert!(!next.look(Instant::now(), now) && !next.look(Instant::now(), now));
    assert!(next.look(Instant::now(), now + 9 * 3600));
    assert_ne!(next.material().tickets, before.material().tickets);
}

#[test]
fn nothing_is_looked_at_where_there_is_nothing() {
    let folder = Folder::new();
    let config = folder.config("listeners: { web: { bind: ':0', routes: [ respond: 204 ] } }");
    let certificates = Certificates::read(&config, None, Instant::now()).unwrap();
    assert_eq!(certificates.deadline(), None);
    assert_eq!(certificates.material(), Material::default());
}

#[test]
fn the_authorities_of_the_host_are_read_where_a_pool_trusts_them() {
    let folder = Folder::new();
    let config = folder.config(
        "pools: { app: { servers: '127.0.0.1:1', tls: on } }\nlisteners: { web: { bind: ':0', routes: [ proxy: app ] } }",
    );
    match Certificates::read(&config, None, Instant::now()) {
        Ok(certificates) => assert!(!certificates.material().system.is_empty()),
        // A host without any says so.
        Err(why) => assert!(why.contains("this host's authorities"), "{why}"),
    }
}
