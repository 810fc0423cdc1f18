//! The web server as a client sees it, on directories of its own.

mod coding;
mod reading;
mod refusing;
mod writing;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sumun_config::checked::Files;
use sumun_http::{Known, Method};

use super::{DiskGate, FileAnswer, FileBody, FileCache, FileFields, FileRoot, FilesRequest, Part, Upload};

/// A root with a worker's cache, and beside the root a directory that nothing may be served from.
struct Ground {
    directory: PathBuf,
    root: Arc<FileRoot>,
    cache: Rc<FileCache>,
    now: Cell<u64>,
}

/// An answer with its body read.
struct Seen {
    status: u16,
    head: String,
    body: Vec<u8>,
    kind: &'static str,
    reason: &'static str,
}

fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Ground {
    fn new(change: impl FnOnce(&mut Files)) -> Self {
        let directory =
            std::env::temp_dir().join(format!("sumun-files-{}-{:032x}", std::process::id(), fastrand::u128(..)));
        std::fs::create_dir_all(directory.join("root")).unwrap();
        std::fs::create_dir(directory.join("outside")).unwrap();
        std::fs::write(directory.join("outside/secret.txt"), "secret").unwrap();
        let mut files = Files {
            root: directory.join("root"),
            index: vec!["index.html".to_owned()],
            fallback: None,
            precompressed: true,
            compress: true,
            list: false,
            write: false,
            cache_control: Vec::new(),
            types: BTreeMap::new(),
        };
        change(&mut files);
        let root = FileRoot::open(&files).unwrap();
        // Long after all changes, so that dates are believed.
        let now = Cell::new(now() + 100);
        Self { directory, root, cache: FileCache::new(DiskGate::new()), now }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join("root").join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Seen {
        self.ask(Method::Get, path, fields).await
    }

    /// Through both doors, as the gateway does it. The route is `/pub/`.
    async fn ask(&self, method: Method, path: &str, fields: &[(&str, &str)]) -> Seen {
        let url_path = format!("/pub{path}");
        let request = self.request(method, path, &url_path, fields);
        let answer = match self.cache.lookup(&self.root, &request) {
            Some(answer) => answer,
            None => self.cache.answer(&self.root, &request).await,
        };
        Seen::read(answer).await
    }

    /// From the cache alone.
    async fn known(&self, path: &str, fields: &[(&str, &str)]) -> Option<Seen> {
        let url_path = format!("/pub{path}");
        let request = self.request(Method::Get, path, &url_path, fields);
        let answer = self.cache.lookup(&self.root, &request)?;
        Some(Seen::read(answer).await)
    }

    async fn begin(&self, path: &str, fields: &[(&str, &str)]) -> Result<Upload, Seen> {
        let url_path = format!("/pub{path}");
        let request = self.request(Method::Put, path, &url_path, fields);
        match Upload::begin(&self.cache, &self.root, &request).await {
            Ok(upload) => Ok(upload),
            Err(answer) => Err(Seen::read(answer).await),
        }
    }

    async fn put(&self, path: &str, content: &[u8], fields: &[(&str, &str)]) -> Seen {
        let mut upload = match self.begin(path, fields).await {
            Ok(upload) => upload,
            Err(seen) => return seen,
        };
        for chunk in content.chunks(10_000) {
            if let Err(answer) = upload.write(chunk).await {
                return Seen::read(answer).await;
            }
        }
        Seen::read(upload.commit().await).await
    }

    fn request<'a>(
        &self,
        method: Method,
        path: &'a str,
        url_path: &'a str,
        fields: &'a [(&str, &str)],
    ) -> FilesRequest<'a> {
        FilesRequest {
            method,
            path,
            url_path,
            query: None,
            fields: FileFields::collect(
                fields.iter().map(|(name, value)| (Known::of(name.as_bytes()), name.as_bytes(), value.as_bytes())),
            ),
            now_unix_seconds: self.now.get(),
        }
    }

    /// Names in the root, dot files included.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.join("root")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

impl Seen {
    async fn read(answer: FileAnswer) -> Self {
        let FileAnswer { status, head, body, reason } = answer;
        let mut content = Vec::new();
        let kind = match body {
            FileBody::Empty => "empty",
            FileBody::ErrorPage => "error page",
            FileBody::Memory { bytes, range } => {
                content.extend_from_slice(&bytes[range]);
                "memory"
            }
            FileBody::File { file, offset, length } => {
                content = read_part(&file, offset, length);
                "file"
            }
            FileBody::Parts(parts) => {
                for part in parts {
                    match part {
                        Part::Frame(frame) => content.extend_from_slice(&frame),
                        Part::Memory { bytes, range } => content.extend_from_slice(&bytes[range]),
                        Part::File { file, offset, length } => {
                            content.extend_from_slice(&read_part(&file, offset, length));
                        }
                    }
                }
                "parts"
            }
            FileBody::Stream(mut stream) => {
                while let Some(chunk) = stream.next().await.unwrap() {
                    content.extend_from_slice(&chunk);
                }
                "stream"
            }
        };
        let head = String::from_utf8(head.to_vec()).unwrap();
        let seen = Self { status, head, body: content, kind, reason };
        seen.check();
        seen
    }

    /// What has to be so in every answer.
    fn check(&self) {
        assert!(self.head.is_empty() || self.head.ends_with("\r\n"));
        for line in self.head.split_terminator("\r\n") {
            assert!(line.contains(": ") && !line.contains(['\r', '\n']), "{line:?}");
        }
        if matches!(self.kind, "memory" | "file" | "parts") {
            assert_eq!(self.field("Content-Length"), Some(self.body.len().to_string().as_str()));
        }
        if matches!(self.kind, "error page" | "stream") || self.status == 204 || self.status == 304 {
            assert_eq!(self.field("Content-Length"), None);
        }
        assert_eq!(self.status >= 400, self.kind == "error page");
        assert_eq!(self.status >= 400, !self.reason.is_empty());
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut values = self
            .head
            .split("\r\n")
            .filter_map(|line| line.split_once(": ").filter(|(field, _)| *field == name).map(|(_, value)| value));
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }
}

fn read_part(file: &std::fs::File, offset: u64, length: u64) -> Vec<u8> {
    let mut content = vec![0; length as usize];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut content, offset).unwrap();
    content
}
