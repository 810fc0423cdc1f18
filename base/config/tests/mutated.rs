//! Good files, damaged at random: no text makes the check panic, and what it says about the
//! shape of a config is what the JSON Schema says.

mod support;

use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;
use sumun_config::{Rule, check_text, schema};
use support::{read, to_json, yaml_files};

static GOOD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut files = yaml_files("tests/good");
    files.extend(yaml_files("../../examples"));
    files.iter().map(|path| without_files(&read(path))).collect()
});

static SCHEMA: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::draft202012::new(&schema()).expect("the schema is a valid JSON Schema"));

/// A text that stands alone can include nothing and read no file of users.
fn without_files(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("include:"));
    let lines = lines.map(|line| {
        line.replace(
            "file: parts/users.txt",
            "users: { ann: \"$2b$10$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234\" }",
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Values that some key takes, and values that none does.
const VALUES: &[&str] = &[
    "5",
    "0",
    "-1",
    "2.0",
    "1.5",
    "0x10",
    "010",
    "1e3",
    "5s",
    "0s",
    "\"5s\"",
    "2sec",
    "400d",
    "64KiB",
    "10mb",
    "1KiB/s",
    "20%",
    "100%",
    "200%",
    "on",
    "off",
    "true",
    "false",
    "True",
    "\"true\"",
    "\"on\"",
    "yes",
    "~",
    "null",
    "\"\"",
    "''",
    "[]",
    "{}",
    "[1, 2]",
    "{ a: b }",
    "\"127.0.0.1:80\"",
    "\":80\"",
    "\"[::1]:80\"",
    "127.0.0.1",
    "localhost:80",
    "unix:/run/x.sock",
    "\"127.0.0.1:80/udp\"",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "app",
    "App-1",
    "\"*\"",
    "\"*.example.com\"",
    "example.com:80",
    "/",
    "/x",
    "/x/",
    "x",
    "\"~^/x$\"",
    "\"~(\"",
    "/a/../b",
    "GET",
    "get",
    "p2c",
    "adaptive",
    "accept",
    "stdout",
    "json",
    "\"{client}\"",
    "\"{clinet}\"",
    "keep",
    "200-299",
    "404",
    "\"${A:-5}\"",
    "\"${A}\"",
    "\"$${A}\"",
    "\"a\\nb\"",
    "\" a\"",
    "text/css",
    "http://x/",
    "\"{host}\"",
    "2026-11-23",
    ".5",
    ".inf",
    ".nan",
    "1.3",
    "required",
    "\"\u{feff}:80\"",
    "\"\u{85}:80\"",
];

/// Keys of some map, and keys of none.
const KEYS: &[&str] = &[
    "path",
    "proxy",
    "files",
    "redirect",
    "respond",
    "servers",
    "bind",
    "routes",
    "http",
    "tcp",
    "tls",
    "cache",
    "address",
    "to",
    "match",
    "status",
    "users",
    "file",
    "name",
    "pools",
    "listeners",
    "listner",
    "workers",
    "404",
    "x y",
    "\"\"",
    "X-A",
    "limits",
    "root",
    "include",
];

#[derive(Debug, Clone)]
enum Damage {
    Value { at: usize, value: usize },
    Key { at: usize, key: usize },
    RemoveLine { at: usize },
    RepeatLine { at: usize },
    Indent { at: usize },
    RemoveCharacter { at: usize },
    InsertCharacter { at: usize, character: char },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<usize>;
    prop_oneof![
        6 => (at(), 0..VALUES.len()).prop_map(|(at, value)| Damage::Value { at, value }),
        3 => (at(), 0..KEYS.len()).prop_map(|(at, key)| Damage::Key { at, key }),
        1 => at().prop_map(|at| Damage::RemoveLine { at }),
        1 => at().prop_map(|at| Damage::RepeatLine { at }),
        1 => at().prop_map(|at| Damage::Indent { at }),
        1 => at().prop_map(|at| Damage::RemoveCharacter { at }),
        1 => (at(), any::<char>()).prop_map(|(at, character)| Damage::InsertCharacter { at, character }),
    ]
}

/// Where `: VALUE` ends in a line: at the next comma or closing bracket, or with the line.
fn damaged(text: &str, damage: &Damage) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len().max(1);
    match damage {
        Damage::Value { at, value } => replace(&mut lines, *at, |line, colon| {
            let (head, rest) = line.split_at(colon + 2);
            let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
            format!("{head}{}{}", VALUES[*value], rest.split_at(end).1)
        }),
        Damage::Key { at, key } => replace(&mut lines, *at, |line, colon| {
            let (before, rest) = line.split_at(colon);
            let start = before.rfind([' ', '{', '[', ',']).map_or(0, |start| start + 1);
            format!("{}{}{rest}", before.split_at(start).0, KEYS[*key])
        }),
        Damage::RemoveLine { at } if !lines.is_empty() => {
            lines.remove(at % count);
        }
        Damage::RepeatLine { at } if !lines.is_empty() => {
            let line = lines[at % count].clone();
            lines.insert(at % count, line);
        }
        Damage::Indent { at } if !lines.is_empty() => lines[at % count].insert_str(0, "  "),
        Damage::RemoveCharacter { at } => {
            let text = lines.join("\n");
            let count = text.chars().count().max(1);
            return text
                .chars()
                .enumerate()
                .filter(|(index, _)| *index != at % count)
                .map(|(_, character)| character)
                .collect();
        }
        Damage::InsertCharacter { at, character } => {
            let mut characters: Vec<char> = lines.join("\n").chars().collect();
            characters.insert(at % (characters.len() + 1), *character);
            return characters.into_iter().collect();
        }
        _ => {}
    }
    lines.join("\n")
}

/// Changes the line of one of the `key: value` of the text, by the place of its colon.
fn replace(lines: &mut [String], at: usize, change: impl Fn(&str, usize) -> String) {
    let places: Vec<(usize, usize)> = lines
        .iter()
        .enumerate()
        .flat_map(|(index, line)| line.match_indices(": ").map(move |(colon, _)| (index, colon)).collect::<Vec<_>>())
        .collect();
    if let Some((index, colon)) = places.get(at % places.len().max(1)) {
        lines[*index] = change(&lines[*index], *colon);
    }
}

/// The check and the schema have to agree about the shape of a text.
fn agree(text: &str) -> Result<(), TestCaseError> {
    let outcome = check_text("damaged.yaml", text);
    let report = match &outcome {
        Ok(checked) => &checked.warnings,
        Err(report) => report,
    };
    // Drawing a report must not panic either, wherever its places lie.
    let drawn = report.render(true);
    prop_assert!(outcome.is_ok() || !drawn.is_empty());
    let has = |rule: Rule| report.problems.iter().any(|problem| problem.rule == rule);
    if has(Rule::Yaml) || report.omitted > 0 {
        return Ok(());
    }
    let Some(json) = to_json(text) else {
        return Ok(());
    };
    let errors: Vec<String> =
        SCHEMA.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if has(Rule::Shape) {
        prop_assert!(!errors.is_empty(), "the schema accepts what the check refuses:\n{drawn}");
    } else if outcome.is_ok() || !text.contains("${") {
        // Where a variable could not be filled in, nobody knows what it would have stood for.
        prop_assert!(errors.is_empty(), "the schema rejects what the check accepts:\n{}\n{text}", errors.join("\n"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_schema_agrees_about_damaged_files(file in any::<usize>(), damages in prop::collection::vec(damage(), 1..4)) {
        let mut text = GOOD[file % GOOD.len()].clone();
        for damage in &damages {
            text = damaged(&text, damage);
        }
        agree(&text)?;
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}") {
        agree(&text)?;
    }

    #[test]
    fn any_yaml_like_text_is_refused_without_a_panic(text in "([a-z]{1,9}|: |\\n {0,8}|- |[\\[\\]{},&*!|>'\"%@`~#?$\\\\\t\r]){0,60}") {
        agree(&text)?;
    }
}

/// Of all pairs of a place and a value every such one is tried; all of them take a minute.
/// `SUMUN_ALL=1` tries them all.
const STRIDE: usize = 19;

/// Random damage seldom puts the right odd value to the right key.
#[test]
fn the_schema_agrees_about_odd_values_of_every_key() {
    let stride = if std::env::var_os("SUMUN_ALL").is_some() { 1 } else { STRIDE };
    for text in GOOD.iter() {
        let places = text.matches(": ").count();
        for at in 0..places {
            for value in (at % stride..VALUES.len()).step_by(stride) {
                let damaged = damaged(text, &Damage::Value { at, value });
                if let Err(error) = agree(&damaged) {
                    panic!("place {at}, value {}: {error}", VALUES[value]);
                }
            }
        }
    }
}

#[test]
fn good_files_are_good_on_their_own() {
    for text in GOOD.iter() {
        let outcome = check_text("good.yaml", text);
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}
