//! The cache: origins and clients that there are, and the public suite of tests of HTTP caches (cache-tests.fyi), as npm has it. Its client asks for
//! everything, its server is the origin behind the gateway.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Stage;
use super::client::{curl, ensure, expect};
use super::gateway::{Gateway, START_LIMIT};
use super::servers::{self, script_path};
use crate::children::{Running, free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::shell::{Fallible, cache_folder, output};

/// The newest that is on npm.
const SUITE: &str = "http-cache-tests@0.4.5";

/// Cases that fail, and why. Where a name ends with a star, all that begin so.
const KNOWN: [(&str, &str); 19] = [
    ("headers-store-Set-Cookie", SET_COOKIE),
    ("304-etag-update-response-Set-Cookie", SET_COOKIE),
    ("other-set-cookie", SET_COOKIE),
    ("headers-store-Transfer-Encoding", "two codings in one answer are refused with 502 (RFC 9112 section 6.1)"),
    ("stale-close-*", "the case wants a field of the server in an answer that the server has not given"),
    ("method-POST", "answers to POST are not stored"),
    ("partial-store-partial-*", "parts are not stored, wholes are"),
    ("vary-normalise-lang-select", "the cache does not choose a language for the server"),
    ("conditional-lm-fresh-no-lm", "without Last-Modified there is nothing to compare with"),
    ("age-parse-dup-0", AGE),
    ("age-parse-dup-0-twoline", AGE),
    ("age-parse-dup-old", AGE),
    ("age-parse-float", AGE),
    ("age-parse-negative", AGE),
    ("age-parse-nonnumeric", AGE),
    ("age-parse-numeric-parameter", AGE),
    ("age-parse-parameter", AGE),
    ("age-parse-prefix-twoline", AGE),
    ("age-parse-suffix-twoline", AGE),
];

const SET_COOKIE: &str = "answers with Set-Cookie are stored only where the route says so, and without the cookie";

const AGE: &str = "RFC 9111 section 5.1 has it the other way round, and so has the suite since then";

/// Prints what its tests are, by kind; those that only browsers can run are left out.
const KINDS: &str = "import tests from './tests/index.mjs';
const kinds = {};
for (const suite of tests) for (const test of suite.tests)
  if (!test.browser_only) kinds[test.id] = test.kind || 'required';
console.log(JSON.stringify(kinds));";

pub(crate) fn suite(stage: &Stage) -> Fallible<String> {
    let suite = installed()?;
    let origin = loopback(free_tcp_port()?);
    let mut server = Command::new("node");
    server
        .arg("server/server.mjs")
        .current_dir(&suite)
        .env("npm_config_protocol", "http")
        .env("npm_config_port", origin.port().to_string())
        .env("npm_config_pidfile", stage.folder.path().join("origin.pid"));
    let mut server = Running::start("origin", &mut server, &stage.folder)?;
    // It listens on both families.
    server.wait_for(origin, START_LIMIT)?;
    let config = format!(
        "pools: {{ app: {{ servers: [\"{origin}\"] }} }}
listeners:
  web:
    bind: \"LISTEN\"
    routes:
      - {{ path: /test/, proxy: app, cache: {{ heuristic: on }} }}
      - {{ path: /, proxy: app }}
"
    );
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let printed = output(
        Command::new("node")
            .args(["--no-warnings", "cli.mjs"])
            .current_dir(&suite)
            .env("npm_config_base", gateway.url("").trim_end_matches('/'))
            .env("npm_config_id", "")
            .env("npm_package_config_id", ""),
    )?;
    let json = printed.find('{').and_then(|start| printed.get(start..)).ok_or("the suite printed no results")?;
    let results: BTreeMap<String, Value> = serde_json::from_str(json)?;
    judge(&results, &kinds(&suite)?)
}

/// An image of one pixel.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

const LARGE_BYTES: u64 = 5 << 30;

/// Apache httpd and Tomcat as origins, curl and Chromium as clients, ranges of a file of 5 GB.
pub(crate) fn origins(stage: &Stage) -> Fallible<String> {
    stage.folder.write("documents/page.html", "<!doctype html><title>p</title><img src=\"pixel.gif\">\n")?;
    stage.folder.write("documents/pixel.gif", PIXEL)?;
    let large = File::create(stage.folder.path().join("documents/large.bin"))?;
    // Nothing but a number every GiB: the rest is a hole that takes no room on the disk.
    large.set_len(LARGE_BYTES)?;
    for number in 0..5_u8 {
        large.write_all_at(&[b'0' + number; 16], u64::from(number) << 30)?;
    }
    let apache = servers::apache(&stage.folder, &stage.folder.path().join("documents"))?;
    let tomcat = servers::tomcat_examples(&stage.folder)?;
    let config = format!(
        "cache: {{ memory: 64MiB }}
pools: {{ files: {{ servers: [\"{}\"] }}, java: {{ servers: [\"{}\"] }} }}
listeners:
  web:
    bind: \"LISTEN\"
    routes:
      - {{ path: /examples/, proxy: java, cache: {{ heuristic: on }} }}
      - {{ path: /, proxy: files, cache: {{ default_ttl: 1m }} }}
",
        apache.address, tomcat.address
    );
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let get = |arguments: &[&str], path: &str| curl(&stage.folder, arguments, &gateway.url(path));
    let image = "/examples/servlets/images/code.gif";
    for path in ["/page.html", image] {
        let (first, second) = (get(&[], path)?, get(&[], path)?);
        expect(path, &(first.status, first.field("cache-status")), &(200, Some("sumun; fwd=uri-miss; stored")))?;
        let is_hit = second.field("cache-status").is_some_and(|status| status.starts_with("sumun; hit; ttl="));
        ensure("the second comes from the cache", is_hit && second.body == first.body, &second.fields)?;
        ensure("it has an age", second.field("age").is_some(), &second.fields)?;
        let tag = format!("If-None-Match: {}", first.field("etag").unwrap_or("none"));
        expect("a validator that matches", &get(&["--header", &tag], path)?.status, &304)?;
        expect(
            "a part of it",
            &get(&["--range", "0-3"], path)?.body.as_slice(),
            &first.body.get(..4).unwrap_or_default(),
        )?;
    }
    // A page that a servlet makes says nothing of its age and has nothing to ask by.
    let made = get(&[], "/examples/servlets/servlet/HelloWorldExample")?;
    expect(
        "a servlet",
        &(made.status, made.field("cache-status")),
        &(200, Some("sumun; fwd=uri-miss; detail=no-lifetime")),
    )?;
    for number in [4_u8, 0, 2, 3, 1] {
        let first = u64::from(number) << 30;
        let part = get(&["--range", &format!("{first}-{}", first + 15)], "/large.bin")?;
        let wanted = format!("bytes {first}-{}/{LARGE_BYTES}", first + 15);
        expect("a range of 5 GB", &(part.status, part.field("content-range")), &(206, Some(wanted.as_str())))?;
        expect("its bytes", &part.body, &vec![b'0' + number; 16])?;
    }
    let tail = get(&["--range", "-5"], "/large.bin")?;
    expect("the end of 5 GB", &(tail.status, tail.body.len()), &(206, 5))?;
    let python = match packages::python_environment("browser", &["playwright"])? {
        Ok(bin) => bin,
        Err(Missing::CannotInstall(why)) => return Err(why.into()),
    };
    gateway.purge_cache()?;
    let mut browser = Command::new(python.join("python"));
    let seen = output(browser.arg("-B").arg(script_path("cache_browser.py")).arg(gateway.url("/page.html")))?;
    print!("{seen}");
    Ok("Cache-Status in curl and Chromium, ages, validators, ranges, also of 5 GB".to_owned())
}

fn judge(results: &BTreeMap<String, Value>, kinds: &BTreeMap<String, String>) -> Fallible<String> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for (id, kind) in kinds.iter().filter(|(_, kind)| *kind != "check") {
        let result = results.get(id).ok_or_else(|| format!("{id} has no result"))?;
        let (passed, all) = counts.entry(kind).or_default();
        *all += 1;
        if *result == Value::Bool(true) {
            *passed += 1;
        } else if !is_known(id) {
            unexpected.push(format!("{id} ({kind}): {result}"));
        }
    }
    if !unexpected.is_empty() {
        return Err(format!("cases fail that did not: {}", unexpected.join("; ")).into());
    }
    let counts: Vec<String> = counts.iter().map(|(kind, (passed, all))| format!("{passed} of {all} {kind}")).collect();
    Ok(format!("{}; the rest is known, with reasons", counts.join(", ")))
}

fn is_known(id: &str) -> bool {
    KNOWN.iter().any(|(known, _)| match known.strip_suffix('*') {
        Some(prefix) => id.starts_with(prefix),
        None => id == *known,
    })
}

fn kinds(suite: &Path) -> Fallible<BTreeMap<String, String>> {
    let arguments = ["--no-warnings", "--input-type=module", "--eval", KINDS];
    Ok(serde_json::from_str(&output(Command::new("node").args(arguments).current_dir(suite))?)?)
}

/// Where the suite is, installed once.
fn installed() -> Fallible<PathBuf> {
    let folder = cache_folder().join("http-cache-tests-0.4.5");
    let suite = folder.join("node_modules/http-cache-tests");
    if !suite.join("cli.mjs").exists() {
        std::fs::create_dir_all(&folder)?;
        // Nothing of it is run while it is installed.
        let arguments = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", SUITE];
        output(Command::new("npm").args(arguments).current_dir(&folder))?;
    }
    Ok(suite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_named() {
        assert!(
            is_known("method-POST") && is_known("stale-close-no-cache") && is_known("partial-store-partial-complete")
        );
        assert!(!is_known("stale-503") && !is_known("method-POST-x") && !is_known("stale-close"));
    }

    #[test]
    fn a_case_that_fails_and_is_not_known_is_told() {
        let kinds = |id: &str| BTreeMap::from([(id.to_owned(), "required".to_owned())]);
        let results = |id: &str, value: Value| BTreeMap::from([(id.to_owned(), value)]);
        let failed = || serde_json::json!(["Assertion", "no"]);
        assert!(judge(&results("a", Value::Bool(true)), &kinds("a")).unwrap().starts_with("1 of 1 required"));
        assert!(judge(&results("a", failed()), &kinds("a")).is_err());
        assert!(judge(&results("method-POST", failed()), &kinds("method-POST")).is_ok());
        assert!(judge(&BTreeMap::new(), &kinds("a")).is_err());
    }
}
