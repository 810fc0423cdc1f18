//! Volumes of the cache are changed by command: in the file, and in the running instance.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use support::instance::{Instance, everywhere};

const CONFIG: &str = "\
cache: # disks
  group: { physical_volumes: [{ path: $DIR/a, size: 64MiB }, { path: $DIR/away/b, size: 64MiB }], extent: 1MiB }
  volumes: { pages: { size: 16MiB } } # one
listeners:
  web: { bind: [\"$BIND\"], routes: [{ respond: 204 }] }
";

#[test]
fn commands_change_the_file_and_the_instance() {
    everywhere(|place| {
        let gateway = Instance::start(place, CONFIG);
        let file = |name: &str| gateway.directory().join(name);
        assert_eq!(fs::metadata(file("a")).expect("it was made").permissions().mode() & 0o777, 0o600);
        assert!(!file("away").exists());
        gateway.await_log("away/b cannot be opened: there is no directory");
        gateway.command_ok(&["volume", "list"]);
        assert!(gateway.json(&["volume", "list"])["volumes"].is_array());

        let config = || fs::read_to_string(gateway.config_path()).expect("it is there");
        let first = config();
        let c = file("c").display().to_string();
        let away = file("away/b").display().to_string();
        assert_eq!(gateway.command_ok(&["volume", "grow", "pages", "20MiB"]), "reloaded: cache\n");
        gateway.command_ok(&["volume", "add", &c, "64MiB"]);
        gateway.command_ok(&["volume", "remove", &away]);
        let added = format!("{{ path: \"{c}\", size: 64MiB }}");
        let expected = first.replace("16MiB", "20MiB").replace(&format!("{{ path: {away}, size: 64MiB }}"), &added);
        assert_eq!(config(), expected);
        assert!(file("c").exists());

        for (arguments, why) in [
            (["grow", "pages", "18MiB"].as_slice(), "pages has 20MiB, and 18MiB is not more"),
            (&["shrink", "pages", "20MiB"], "is not less"),
            (&["grow", "pages", "1GiB"], "there is room for"),
            (&["grow", "media", "1GiB"], "there is no volume media"),
            (&["add", "/dev/no/such"], "there is no device /dev/no/such"),
            (&["remove", &away], "there is no physical volume"),
        ] {
            let output = gateway.command(&[&["volume"], arguments].concat());
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?} {text}");
            assert!(text.contains(why), "{text}");
        }
        assert_eq!(config(), expected);

        // What the instance refuses is put back.
        let taken = TcpListener::bind((place.ip, 0)).expect("a free TCP port");
        let address = taken.local_addr().expect("it is bound").to_string();
        let refused = expected.replace("web: { bind: [", &format!("web: {{ bind: [\"{address}\", "));
        fs::write(gateway.config_path(), &refused).expect("it can be written");
        let output = gateway.command(&["volume", "shrink", "pages", "8MiB"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("is as it was"), "{text}");
        assert_eq!(config(), refused);
    });
}
