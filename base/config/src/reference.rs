//! The reference of all keys, from the table.

use std::fmt::Write as _;

use crate::shape::{Default, Key, Map, Shape, State};
use crate::table;
use crate::values::log;

/// Markdown of `docs/config.md`.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    for (name, map) in table::MAPS {
        section(&mut out, name, map);
    }
    out.push_str("\n## Fields of the access log\n\nA template names ");
    let fields: Vec<String> = log::FIELDS.iter().map(|(name, _)| format!("`{{{name}}}`")).collect();
    out.push_str(&fields.join(", "));
    out.push_str(", and header fields as `{request.NAME}` and `{response.NAME}`. The `_ms` ones are milliseconds.\n");
    out
}

const HEAD: &str = "\
# The config file

This file is made from the table that also checks a config; `SUMUN_WRITE=1 cargo test -p sumun-config` writes it again.

## How values are written

- Durations: `250ms`, `2s`, `5m`, `1h`, `1d`. Sizes: `64KiB`, `10MB`. Speeds: `1KiB/s`. Shares: `20%`. `0` needs no unit.
- `on` and `true` mean the same, `off` and `false` too.
- Addresses: `127.0.0.1:8080`, `\"[::1]:8080\"`, `\":8080\"` (all addresses, both families), `unix:/run/x.sock`; servers also `10.0.0.5:8000-8010` and `app.example.com:80`.
- Text that YAML would take for something else stands in quotes: a leading `[`, `{`, `*`, `&`, `!` or `@`, and `{`, `[` or `,` inside braces.
- `${NAME}` and `${NAME:-default}` read the environment, in values and never in keys; `$${` is `${` itself.
- A path without a leading slash starts from the directory of the file that it stands in.
- Where one value or a list is taken, a list of one may be written without its brackets.
- Every error is reported at once, with its place; anything that is not known is an error.
";

fn section(out: &mut String, name: &str, map: &'static Map) {
    // Writing to a String cannot fail.
    write!(out, "\n## {name}\n\n{}{}", capital(map.title), if map.keys.is_empty() { ".\n" } else { ". " }).ok();
    if map.keys.is_empty() {
        write!(out, "\n{}\n", map.about).ok();
        return;
    }
    writeln!(out, "{}\n", map.about).ok();
    out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in map.keys {
        if let State::Built(shape) = key.state {
            row(out, key, shape);
        }
    }
    let later: Vec<String> = map
        .keys
        .iter()
        .filter_map(|key| match key.state {
            State::Later(capability) => Some(format!("`{}` ({capability})", key.name)),
            State::Built(_) => None,
        })
        .collect();
    if !later.is_empty() {
        writeln!(out, "\nNot built yet, and refused: {}.", later.join(", ")).ok();
    }
}

fn row(out: &mut String, key: &Key, shape: Shape) {
    let default = match key.default {
        Default::Value(text) => format!("`{text}`"),
        Default::Words(words) => words.to_owned(),
        Default::None if key.required => "required".to_owned(),
        Default::None => String::new(),
    };
    let cells = [format!("`{}`", key.name), describe(shape), default, key.about.to_owned()];
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(out, "| {} |", cells.join(" | ")).ok();
}

/// As [`Shape::describe`], with links to the maps.
fn describe(shape: Shape) -> String {
    match shape {
        Shape::One(kind) => kind.describe(),
        Shape::List(item) => format!("list of: {}", describe(*item)),
        Shape::OneOrList(item) => format!("one or a list of: {}", describe(*item)),
        Shape::Map(map) => link(map),
        Shape::Names(names) => format!("map, by {}: {}", names.key.describe(), describe(names.value)),
        Shape::Either(shapes) => {
            let parts: Vec<String> =
                shapes.iter().map(|shape| describe(*shape)).filter(|part| !part.is_empty()).collect();
            parts.join("; or ")
        }
    }
}

fn link(map: &'static Map) -> String {
    let name = table::name_of(map);
    format!("[{name}](#{name})")
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
