//! What the documentation says is held against the program: its configs, its reasons, its metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The READMEs and the pages below docs.
fn pages() -> Vec<PathBuf> {
    let folder = fs::read_dir(workspace().join("docs")).expect("the docs can be listed");
    let mut pages: Vec<PathBuf> = folder
        .map(|entry| Path::new("docs").join(entry.expect("an entry of docs").file_name()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.extend(["README.md", "README.ko.md"].map(PathBuf::from));
    pages.sort();
    pages
}

/// The words behind the opening fence, the line it stands on, and the text of each code block.
fn blocks(page: &str) -> Vec<(String, usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize, String)> = None;
    for (index, line) in page.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(words)) => open = Some((words.trim().to_owned(), index + 1, String::new())),
            (None, None) => {}
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, _, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a code block is not closed");
    found
}

#[test]
fn every_config_in_the_docs_is_accepted() {
    let mut seen = 0;
    let mut wrong = String::new();
    for page in pages() {
        for (words, line, text) in blocks(&read(&page)) {
            if words != "yaml" {
                assert!(!words.starts_with("yaml") || words == "yaml fragment", "{}:{line}: {words}", page.display());
                continue;
            }
            seen += 1;
            let name = format!("{}, block on line {line}", page.display());
            match sumun_config::check_text(&name, &text) {
                Ok(checked) => wrong.push_str(&checked.warnings.render(false)),
                Err(report) => wrong.push_str(&report.render(false)),
            }
        }
    }
    assert!(seen > 0, "no config was found");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What a package or an image begins with.
#[test]
fn packaged_configs_are_accepted() {
    for name in ["packaging/sumun.yaml", "packaging/container.yaml"] {
        let checked = sumun_config::check_text(name, &read(name));
        let warnings = checked.map(|checked| checked.warnings.render(false));
        assert_eq!(warnings.unwrap_or_else(|report| report.render(false)), "");
    }
}

/// Every text in quotes that begins in this way, up to the first other character.
fn quoted_words(source: &str, before: &str) -> BTreeSet<String> {
    let is_word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    let parts = source.split(before).skip(1);
    let words = parts.filter_map(|rest| {
        let end = rest.find(|character| !is_word(character))?;
        let (word, behind) = rest.split_at_checked(end)?;
        behind.starts_with('"').then(|| word.to_owned())
    });
    words.filter(|word| !word.is_empty()).collect()
}

/// The first column of every table of a page, without its back quotes.
fn first_columns(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

#[test]
fn every_reason_is_explained() {
    let events = read("services/gateway/src/events.rs");
    let (_, of_reasons) = events.split_once("pub enum Reason").expect("events.rs has the reasons");
    let mut reasons = quoted_words(of_reasons, "=> \"");
    reasons.extend(quoted_words(&read("core/http/src/reject.rs"), "=> \""));
    assert!(reasons.contains("queue_full") && reasons.contains("chunk_size"), "{reasons:?}");
    let explained = first_columns(&read("docs/errors.md"));
    let missing: Vec<&String> = reasons.difference(&explained).collect();
    let invented: Vec<&String> = explained.difference(&reasons).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not explained: {missing:?}; not there: {invented:?}");
}

#[test]
fn every_reason_of_streams_is_explained() {
    let events = read("services/stream/src/events.rs");
    let (_, of_reasons) = events.split_once("pub enum Reason").expect("events.rs has the reasons");
    let reasons: BTreeSet<String> = quoted_words(of_reasons, "=> \"");
    assert!(reasons.contains("queue_full") && reasons.contains("client_reset"), "{reasons:?}");
    assert_eq!(first_columns(&read("docs/l4.md")), reasons);
}

#[test]
fn every_reason_of_http_2_is_explained() {
    let reasons: BTreeSet<String> = sumun_http2::REASONS.iter().map(|reason| (*reason).to_owned()).collect();
    let explained = first_columns(&read("docs/http2.md"));
    let explained: BTreeSet<String> = explained.into_iter().filter(|word| word.starts_with("h2_")).collect();
    assert_eq!(explained, reasons);
}

#[test]
fn every_metric_is_explained() {
    let sources = [
        "base/acme/src/show.rs",
        "base/engine/src/access_log/mod.rs",
        "base/engine/src/own_limits.rs",
        "base/engine/src/telemetry.rs",
        "base/engine/src/telemetry/names.rs",
        "base/engine/src/tls/metrics.rs",
        "services/admin/src/metrics.rs",
        "services/gateway/src/metrics/families.rs",
        "services/gateway/src/metrics/storage.rs",
        "services/stream/src/metrics.rs",
    ];
    let families: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| quoted_words(&read(source), "\"sumun_"))
        .map(|rest| format!("sumun_{rest}"))
        .collect();
    assert!(families.len() > 20, "{families:?}");
    let page = read("docs/observability.md");
    let explained: BTreeSet<String> =
        first_columns(&page).into_iter().filter(|word| word.starts_with("sumun_")).collect();
    let missing: Vec<&String> = families.difference(&explained).collect();
    let invented: Vec<&String> = explained.difference(&families).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not explained: {missing:?}; not there: {invented:?}");
}
