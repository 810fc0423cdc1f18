//! Bad files, each with the report it gets; good files; and the JSON Schema held against both.
//!
//! `SUMUN_WRITE=1 cargo test -p sumun-config` writes the expected reports and the reference
//! again; look at the difference before keeping it.

mod support;

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use sumun_config::{Probe, Report, Rule, Severity, Sources, check, load, reference, schema};
use support::{read, to_json, yaml_files};

fn writes() -> bool {
    std::env::var_os("SUMUN_WRITE").is_some()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).expect("the schema is a valid JSON Schema")
}

/// Absolute paths differ from machine to machine.
fn portable(text: &str) -> String {
    text.replace(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"), "DIRECTORY")
}

fn expected(path: &Path, found: &str, failures: &mut Vec<String>) {
    if writes() {
        std::fs::write(path, found).unwrap();
    } else if std::fs::read_to_string(path).unwrap_or_default() != found {
        failures.push(format!("{} differs:\n{found}", path.display()));
    }
}

fn good_files() -> Vec<PathBuf> {
    let mut files = yaml_files("tests/good");
    files.extend(yaml_files("../../examples"));
    files
}

fn reports(path: &Path) -> Report {
    let sources = load(path).unwrap_or_else(|report| panic!("{report}"));
    match check(&sources, Probe::Files) {
        Ok(checked) => checked.warnings,
        Err(report) => report,
    }
}

#[test]
fn bad_files_are_refused_as_written_beside_them() {
    let validator = validator();
    let mut failures = Vec::new();
    let files = yaml_files("tests/bad");
    assert!(files.len() >= 60, "{} bad files", files.len());
    for path in files {
        let report = reports(&path);
        assert!(report.errors() > 0, "{} was accepted", path.display());
        expected(&path.with_extension("expected"), &portable(&report.render(false)), &mut failures);

        let own: Vec<Rule> =
            report.problems.iter().filter(|problem| problem.file == path).map(|problem| problem.rule).collect();
        let Some(json) = to_json(&read(&path)) else {
            continue;
        };
        let valid = validator.is_valid(&json);
        if own.contains(&Rule::Shape) && valid {
            failures.push(format!("the schema accepts {}", path.display()));
        }
        if !own.iter().any(|rule| matches!(rule, Rule::Shape | Rule::Yaml)) && !valid {
            let reasons: Vec<String> =
                validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
            failures.push(format!(
                "the schema rejects {}, where only the meaning is wrong: {}",
                path.display(),
                reasons.join("\n")
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn warned_files_are_accepted_with_a_warning() {
    let mut failures = Vec::new();
    for path in yaml_files("tests/warned") {
        let report = reports(&path);
        assert_eq!(report.errors(), 0, "{report}");
        assert!(!report.is_empty(), "{} has no warning", path.display());
        assert!(report.problems.iter().all(|problem| problem.severity == Severity::Warning));
        expected(&path.with_extension("expected"), &portable(&report.render(false)), &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn good_files_pass_the_check_and_the_schema() {
    let validator = validator();
    for path in good_files() {
        let report = reports(&path);
        assert!(report.is_empty(), "{report}");
        let json = to_json(&read(&path)).unwrap_or_else(|| panic!("{} is no YAML", path.display()));
        let errors: Vec<String> =
            validator.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {}", path.display(), errors.join("\n"));
    }
}

#[test]
fn another_process_finds_the_same_without_files() {
    for path in good_files() {
        let sources = load(&path).unwrap();
        let there = Sources::from_json(&sources.to_json()).unwrap();
        assert_eq!(there, sources);
        assert_eq!(check(&there, Probe::Nothing).unwrap().config, check(&sources, Probe::Files).unwrap().config);
    }
    assert!(Sources::from_json(&serde_json::json!({ "files": 1 })).is_err());
}

#[test]
fn the_reference_is_up_to_date() {
    let mut failures = Vec::new();
    expected(Path::new("../../docs/config.md"), &reference(), &mut failures);
    assert!(failures.is_empty(), "docs/config.md is out of date: run SUMUN_WRITE=1 cargo test -p sumun-config");
}

#[test]
fn a_main_file_that_cannot_be_read() {
    let report = load(Path::new("tests/no-such-file.yaml")).unwrap_err();
    let text = report.render(false);
    assert!(
        text.contains("error: the config file cannot be read: there is no such file\n  --> tests/no-such-file.yaml\n"),
        "{text}"
    );
}
