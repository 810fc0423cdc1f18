//! PUT and DELETE.

use std::os::unix::fs::PermissionsExt;

use sumun_http::Method;

use super::super::limits::UPLOAD_BLOCK_BYTES;
use super::{Ground, on_worker};

fn writable() -> Ground {
    Ground::new(|files| files.write = true)
}

#[test]
fn a_file_is_made_replaced_and_removed() {
    on_worker(async {
        let ground = writable();
        let seen = ground.put("/a.txt", b"one", &[]).await;
        assert_eq!((seen.status, seen.field("Content-Length")), (201, Some("0")));
        let tag = seen.field("ETag").unwrap().to_owned();
        let seen = ground.get("/a.txt", &[]).await;
        assert_eq!((&*seen.body, seen.field("ETag")), (&b"one"[..], Some(&*tag)));

        let large = vec![5; 3 * UPLOAD_BLOCK_BYTES + 1];
        assert_eq!(ground.put("/a.txt", &large, &[]).await.status, 204);
        assert_eq!(ground.get("/a.txt", &[]).await.body, large, "seen at once");
        assert_eq!(ground.put("/empty", b"", &[]).await.status, 201);
        assert_eq!(ground.get("/empty", &[]).await.body, b"");

        assert_eq!(ground.ask(Method::Delete, "/a.txt", &[]).await.status, 204);
        assert_eq!(ground.get("/a.txt", &[]).await.status, 404);
        assert_eq!(ground.ask(Method::Delete, "/a.txt", &[]).await.status, 404);
        assert_eq!(ground.names(), ["empty"]);
    });
}

#[test]
fn until_the_end_the_old_content_is_there_and_an_abandoned_upload_leaves_nothing() {
    on_worker(async {
        let ground = writable();
        ground.file("a.txt", "old");
        let mut upload = ground.begin("/a.txt", &[]).await.ok().unwrap();
        assert!(upload.write(&vec![1; 2 * UPLOAD_BLOCK_BYTES]).await.is_ok());
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"old");
        assert_eq!(ground.names().len(), 2);
        let hidden = ground.names().remove(0);
        assert_eq!(ground.get(&format!("/{hidden}"), &[]).await.status, 404);
        drop(upload);
        while ground.names() != ["a.txt"] {
            tokio::task::yield_now().await;
        }
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"old");
    });
}

#[test]
fn conditions_guard_against_lost_updates() {
    on_worker(async {
        let ground = writable();
        assert_eq!(ground.put("/a.txt", b"1", &[("If-Match", "*")]).await.status, 412);
        let seen = ground.put("/a.txt", b"1", &[("If-None-Match", "*")]).await;
        assert_eq!(seen.status, 201);
        let first = seen.field("ETag").unwrap().to_owned();
        assert_eq!(ground.put("/a.txt", b"2", &[("If-None-Match", "*")]).await.status, 412);
        assert_eq!(ground.put("/a.txt", b"2", &[("If-Match", "\"x\"")]).await.status, 412);
        let seen = ground.put("/a.txt", b"two", &[("If-Match", &first)]).await;
        assert_eq!(seen.status, 204);
        let second = seen.field("ETag").unwrap().to_owned();
        assert_eq!(ground.put("/a.txt", b"3", &[("If-Match", &first)]).await.status, 412);
        let old = [("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(ground.put("/a.txt", b"3", &old).await.status, 412);
        assert_eq!(ground.ask(Method::Delete, "/a.txt", &[("If-Match", &first)]).await.status, 412);
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"two");
        assert_eq!(ground.ask(Method::Delete, "/a.txt", &[("If-Match", &second)]).await.status, 204);
    });
}

#[test]
fn of_two_who_edit_the_same_state_the_second_is_refused() {
    on_worker(async {
        let ground = writable();
        let seen = ground.put("/a.txt", b"start", &[]).await;
        let tag = [("If-Match", seen.field("ETag").unwrap())];
        let mut one = ground.begin("/a.txt", &tag).await.ok().unwrap();
        let mut other = ground.begin("/a.txt", &tag).await.ok().unwrap();
        assert!(one.write(b"one's text").await.is_ok());
        assert!(other.write(b"other").await.is_ok());
        assert_eq!(one.commit().await.status, 204);
        assert_eq!(other.commit().await.status, 412);
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"one's text");
        assert_eq!(ground.names(), ["a.txt"]);
    });
}

#[test]
fn what_cannot_be_written() {
    on_worker(async {
        let ground = writable();
        std::fs::create_dir(ground.path("sub")).unwrap();
        ground.link("leaves", "../outside/secret.txt");
        ground.link("out", "../outside");
        ground.file("target.txt", "target");
        ground.link("inside", "target.txt");
        for (path, status) in [
            ("/.env", 404),
            ("/%2eenv", 404),
            ("/sub/.htaccess", 404),
            ("/../outside/x", 404),
            ("/sub%2fx", 404),
            ("/x%00", 404),
            ("/", 409),
            ("/sub", 409),
            ("/sub/", 409),
            ("/new/", 409),
            ("/missing/x", 409),
            ("/target.txt/x", 409),
            ("/out/x", 409),
            ("/leaves", 403),
            ("/inside", 403),
        ] {
            assert_eq!(ground.put(path, b"evil", &[]).await.status, status, "PUT {path}");
            let deleted = ground.ask(Method::Delete, path, &[]).await;
            assert!(matches!(deleted.status, 403 | 404 | 409), "DELETE {path}");
        }
        let part = [("Content-Range", "bytes 0-1/2")];
        assert_eq!(ground.put("/a", b"xx", &part).await.status, 400);
        assert_eq!(ground.put("/a", b"xx", &[("Content-Encoding", "gzip")]).await.status, 415);
        assert_eq!(ground.names(), ["inside", "leaves", "out", "sub", "target.txt"]);
        let outside = std::fs::read_dir(ground.directory.join("outside")).unwrap();
        assert_eq!(outside.count(), 1);
        assert_eq!(ground.get("/target.txt", &[]).await.body, b"target");
    });
}

#[test]
fn nothing_is_written_unless_it_was_allowed() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("a.txt", "a");
        assert!(!ground.root.takes_upload(Method::Put));
        let seen = ground.put("/b.txt", b"b", &[]).await;
        assert_eq!((seen.status, seen.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
        assert_eq!(ground.ask(Method::Delete, "/a.txt", &[]).await.status, 405);
        assert_eq!(ground.names(), ["a.txt"]);
    });
}

#[test]
fn a_file_keeps_its_mode() {
    on_worker(async {
        let ground = writable();
        let path = ground.file("a.sh", "old");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(ground.put("/a.sh", b"new", &[]).await.status, 204);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    });
}
