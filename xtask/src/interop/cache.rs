//! The public suite of tests of HTTP caches (cache-tests.fyi), as npm has it. Its client asks for
//! everything, its server is the origin behind the gateway.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Stage;
use super::gateway::{Gateway, START_LIMIT};
use crate::children::{Running, free_tcp_port, loopback};
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
    ("conditional-lm-fresh-no-lm", "the date that the client names is before the stored answer's"),
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
