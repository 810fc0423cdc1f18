//! What must never be served.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{CWD, FileType, Mode};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sumun_http::Method;

use super::{Ground, on_worker};

#[test]
fn no_way_leads_out_of_the_root() {
    on_worker(async {
        let ground = Ground::new(|files| files.list = true);
        ground.file("a/x.txt", "x");
        ground.file(".env", "secret");
        ground.file("a/.git/config", "secret");
        ground.file("~back\\slash", "secret");
        let outside = ground.directory.join("outside");
        let absolute = outside.to_str().unwrap().to_owned() + "/secret.txt";
        for path in [
            "/../outside/secret.txt",
            "/..//outside/secret.txt",
            "/a/../../outside/secret.txt",
            "/%2e%2e/outside/secret.txt",
            "/%2E%2E/outside/secret.txt",
            "/.%2e/outside/secret.txt",
            "/..%2foutside%2fsecret.txt",
            "/..%5coutside%5csecret.txt",
            "/..\\outside\\secret.txt",
            "/a/..%2f..%2foutside/secret.txt",
            "/%252e%252e/outside/secret.txt",
            "/%c0%ae%c0%ae/outside/secret.txt",
            "/..%c0%af..%c0%afoutside/secret.txt",
            "/..;/outside/secret.txt",
            "/.../outside/secret.txt",
            "/....//outside/secret.txt",
            "/a/x.txt%00.html",
            "/a/x.txt%00",
            "/%00/../outside/secret.txt",
            "//outside/secret.txt",
            "/a%2fx.txt",
            "/a%5cx.txt",
            "/~back%5cslash",
            "/~back\\slash",
            "/a//x.txt",
            "/./a/x.txt",
            "/a/./x.txt",
            "/.env",
            "/%2eenv",
            "/%2Eenv",
            "/a/.git/config",
            "/a/%2egit/config",
            "/a/.git/",
            "/.",
            "/..",
            "/a/..",
            "/a/.",
            "/%",
            "/%zz",
            "/a/x.txt%",
            "/a/x.txt%2",
            "/a/x.txt%0a",
            "/a/x.txt/",
            "/a/x.txt/..",
            "/a/x.txt/y",
            "/\u{2025}/outside/secret.txt",
            &absolute,
            &format!("/{absolute}"),
        ] {
            for method in [Method::Get, Method::Head] {
                let seen = ground.ask(method, path, &[]).await;
                assert!(matches!(seen.status, 403 | 404), "{path}: {}", seen.status);
                assert!(seen.body.is_empty() && seen.head.is_empty(), "{path}");
            }
        }
        assert_eq!(ground.get("/a/x.txt", &[]).await.status, 200);
        assert_eq!(ground.get(&format!("/{}", "a/".repeat(3_000)), &[]).await.status, 404);
        assert_eq!(ground.get(&format!("/{}", "a".repeat(300)), &[]).await.status, 404);
    });
}

#[test]
fn links_are_followed_inside_the_root_only() {
    on_worker(async {
        let ground = Ground::new(|files| files.list = true);
        ground.file("real/x.txt", "inside");
        ground.link("file", "real/x.txt");
        ground.link("directory", "real");
        ground.link("real/up", "../real/x.txt");
        for path in ["/file", "/directory/x.txt", "/real/up"] {
            assert_eq!(ground.get(path, &[]).await.body, b"inside", "{path}");
        }
        let outside = ground.directory.join("outside");
        ground.link("absolute", outside.join("secret.txt"));
        ground.link("relative", "../outside/secret.txt");
        ground.link("deep", "real/../../outside/secret.txt");
        ground.link("out", &outside);
        ground.link("itself", "itself");
        ground.link("dangling", "nowhere");
        ground.link("process", "/proc/self/root");
        // Even one that would come back: it is absolute, so it begins outside.
        ground.link("around", ground.path("real/x.txt"));
        for path in [
            "/absolute",
            "/relative",
            "/deep",
            "/out",
            "/out/",
            "/out/secret.txt",
            "/itself",
            "/dangling",
            "/process",
            "/process/etc/passwd",
            "/around",
        ] {
            let seen = ground.get(path, &[]).await;
            assert_eq!(seen.status, 404, "{path}");
            assert!(seen.body.is_empty(), "{path}");
        }
        assert_eq!(ground.get("/relative", &[]).await.reason, "a link that leaves the root");
        ground.link("index.html", "../outside/secret.txt");
        assert!(!ground.get("/", &[]).await.body.windows(6).any(|part| part == b"secret"));
    });
}

#[test]
fn a_link_that_turns_outward_is_noticed() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("real.txt", "inside");
        ground.link("turning", "real.txt");
        assert_eq!(ground.get("/turning", &[]).await.status, 200);
        std::fs::remove_file(ground.path("turning")).unwrap();
        ground.link("turning", "../outside/secret.txt");
        ground.now.set(ground.now.get() + 2);
        assert_eq!(ground.get("/turning", &[]).await.status, 404);
    });
}

#[test]
fn only_regular_files() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        rustix::fs::mknodat(CWD, ground.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listening = std::os::unix::net::UnixListener::bind(ground.path("socket")).unwrap();
        for path in ["/pipe", "/pipe/", "/socket"] {
            assert_eq!(ground.get(path, &[]).await.status, 404, "{path}");
        }
    });
}

#[test]
fn what_the_process_may_not_read_is_forbidden() {
    // A thread of its own, for it gives up what lets the superuser read everything. The threads of
    // its blocking pool get what it has.
    let test = std::thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        on_worker(async {
            let ground = Ground::new(|files| files.list = true);
            let closed = ground.file("closed.txt", "closed");
            ground.file("open/.keep", "");
            ground.file("shut/x.txt", "x");
            ground.file("a.css", "plain");
            let compressed = ground.file("a.css.gz", "closed");
            for path in [&closed, &compressed, &ground.path("shut")] {
                std::fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
            }
            for path in ["/closed.txt", "/shut/", "/shut/x.txt"] {
                let seen = ground.get(path, &[]).await;
                assert_eq!((seen.status, &*seen.body), (403, &b""[..]), "{path}");
            }
            assert_eq!(ground.get("/open/", &[]).await.status, 200);
            let seen = ground.get("/a.css", &[("Accept-Encoding", "gzip")]).await;
            assert_eq!((seen.status, &*seen.body), (200, &b"plain"[..]), "as if it were not there");
            std::fs::set_permissions(ground.path("shut"), Permissions::from_mode(0o700)).unwrap();
        });
    });
    test.join().unwrap();
}

#[test]
fn other_methods() {
    on_worker(async {
        for (write, allow) in [(false, "GET, HEAD, OPTIONS"), (true, "GET, HEAD, PUT, DELETE, OPTIONS")] {
            let ground = Ground::new(|files| files.write = write);
            ground.file("a.txt", "a");
            for method in [Method::Post, Method::Patch, Method::Trace, Method::Connect] {
                let seen = ground.ask(method, "/a.txt", &[]).await;
                assert_eq!((seen.status, seen.field("Allow")), (405, Some(allow)));
            }
            let seen = ground.ask(Method::Options, "/a.txt", &[]).await;
            assert_eq!((seen.status, seen.field("Allow")), (204, Some(allow)));
        }
    });
}
