//! What the sandbox of a running worker process allows, as its supervisor knows it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sumun_config::checked::{Config, Sandbox};

use super::{Plan, pages, roots};

/// Device and inode: rules of Landlock are about files and folders, whatever their names become.
type Identity = (u64, u64);

/// Taken when the worker process starts, for that is when its rules come into force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Allowed {
    read: BTreeSet<Identity>,
    write: BTreeSet<Identity>,
    connect: BTreeSet<u16>,
    bind: BTreeSet<u16>,
    /// A program before this one knew no UDP.
    #[serde(default)]
    udp: bool,
    /// Nor addresses of clients.
    #[serde(default)]
    transparent: bool,
}

impl Allowed {
    pub(crate) fn by(config: &Config) -> Self {
        let plan = Plan::of(config);
        let identities = |paths: &BTreeSet<PathBuf>| paths.iter().filter_map(|path| identity(path)).collect();
        let (read, write) = (identities(&plan.read), identities(&plan.write));
        Self { read, write, connect: plan.connect, bind: plan.bind, udp: plan.udp, transparent: plan.transparent }
    }

    /// Why a process that runs with `old` in this sandbox cannot apply `new`; `None` where it can.
    pub(crate) fn forbids(&self, old: &Config, new: &Config) -> Option<String> {
        if old.user != new.user || old.sandbox != new.sandbox {
            return Some("`user` or `sandbox` is another one".to_owned());
        }
        let plan = Plan::of(new);
        // This is kept by who becomes another user without a sandbox, too.
        if plan.transparent && !self.transparent {
            return Some("`source: client` is used for the first time".to_owned());
        }
        if new.sandbox == Sandbox::Off {
            return None;
        }
        if let Some(port) = plan.connect.difference(&self.connect).next() {
            return Some(format!("TCP port {port} was not connected to before"));
        }
        if !plan.bind.is_subset(&self.bind) {
            return Some("`source` is used for the first time".to_owned());
        }
        if plan.udp && !self.udp {
            return Some("datagrams are passed on for the first time".to_owned());
        }
        // A root with the settings it had is not opened again.
        let opened = roots(new).filter(|files| roots(old).all(|before| before != *files));
        let closed = opened
            .map(|files| (files.root.as_path(), files.write))
            .chain(pages(new).map(|page| (page, false)))
            .find(|(path, is_written)| !self.reaches(path, *is_written));
        if let Some((path, _)) = closed {
            return Some(format!("{} is not what it was", path.display()));
        }
        let lists = |config: &Config| roots(config).any(|files| files.list);
        (lists(new) && !lists(old)).then(|| "folders are listed for the first time".to_owned())
    }

    fn reaches(&self, path: &Path, is_written: bool) -> bool {
        let Ok(real) = fs::canonicalize(path) else {
            // What is not there is read by nobody, in the sandbox or out of it.
            return true;
        };
        real.ancestors()
            .filter_map(identity)
            .any(|identity| self.write.contains(&identity) || (!is_written && self.read.contains(&identity)))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("sumun-allowed-{}-{name}", std::process::id()));
        for below in ["site/below", "other"] {
            fs::create_dir_all(folder.join(below)).unwrap();
        }
        fs::write(folder.join("404.html"), "no").unwrap();
        folder
    }

    fn with(folder: &Path, keys: &str, files: &str, pools: &str) -> Config {
        config(&format!(
            "{keys}\npools: {{ {pools} }}\nlisteners: {{ web: {{ bind: '127.0.0.1:80', error_pages: {{ 404: \
             {0}/404.html }}, routes: [ {{ path: /f/, files: {{ root: {0}/{files} }} }} ] }} }}\n",
            folder.display()
        ))
    }

    #[test]
    fn what_was_allowed_needs_no_other_process() {
        let folder = folder("same");
        let old = with(&folder, "", "site", "app: { servers: ['127.0.0.1:8001', '127.0.0.1:8002'] }");
        let allowed = Allowed::by(&old);
        let written = serde_json::to_string(&allowed).unwrap();
        assert_eq!(serde_json::from_str::<Allowed>(&written).unwrap(), allowed);
        for (files, pools) in [
            ("site", "app: { servers: ['127.0.0.1:8001', '127.0.0.1:8002'] }"),
            ("site/below", "other: { servers: ['10.0.0.1:8002'] }"),
            ("nowhere", ""),
            ("site, index: a.html", ""),
        ] {
            assert_eq!(allowed.forbids(&old, &with(&folder, "drain: 1s", files, pools)), None, "{files} {pools}");
        }
    }

    #[test]
    fn what_was_not_needs_one() {
        let folder = folder("more");
        let old = with(&folder, "", "site", "app: { servers: ['127.0.0.1:8001'] }");
        let allowed = Allowed::by(&old);
        for (keys, files, pools, why) in [
            ("", "site", "app: { servers: ['127.0.0.1:8003'] }", "8003"),
            ("", "site", "app: { servers: ['127.0.0.1:8001'], health: { tcp: {}, port: 8004 } }", "8004"),
            ("", "site", "app: { servers: ['example.com:8001'] }", "53"),
            ("", "site", "app: { servers: ['127.0.0.1:8001'], source: 127.0.0.1 }", "source"),
            ("", "site", "app: { servers: ['127.0.0.1:8001'], source: client }", "source: client"),
            ("", "other", "", "other"),
            ("", "site, write: on", "", "site"),
            ("", "site, list: on", "", "listed"),
            ("user: root", "site", "", "user"),
            ("sandbox: off", "site", "", "sandbox"),
        ] {
            let why_not = allowed.forbids(&old, &with(&folder, keys, files, pools));
            assert!(why_not.as_ref().is_some_and(|text| text.contains(why)), "{why}: {why_not:?}");
        }
        // Another file under the old name is another file.
        fs::rename(folder.join("404.html"), folder.join("old.html")).unwrap();
        fs::write(folder.join("404.html"), "new").unwrap();
        assert!(allowed.forbids(&old, &old).is_some_and(|why| why.contains("404.html")));
    }

    #[test]
    fn another_authority_needs_another_process() {
        let with = |directory: &str| {
            config(&format!(
                "listeners: {{ web: {{ bind: '127.0.0.1:443', tls: {{ acme: {{ directory: '{directory}', domains: \
                 a.example }} }}, routes: [ {{ respond: 204 }} ] }} }}"
            ))
        };
        let old = with("https://acme.example/dir");
        let allowed = Allowed::by(&old);
        assert_eq!(allowed.forbids(&old, &with("https://other.example/dir")), None);
        let why_not = allowed.forbids(&old, &with("https://acme.example:14000/dir"));
        assert!(why_not.is_some_and(|text| text.contains("14000")));
    }

    #[test]
    fn a_sandbox_that_is_off_forbids_nothing() {
        let folder = folder("off");
        let old = with(&folder, "sandbox: off", "site", "");
        let new = with(&folder, "sandbox: off", "other, write: on", "app: { servers: ['127.0.0.1:8003'] }");
        assert_eq!(Allowed::by(&old).forbids(&old, &new), None);
    }
}
