//! Laws about Cargo.toml files, read line by line: a parser of TOML drops the comments.

use super::tree::Tree;

/// A `name = …` line of a table, with the number of the line and the line above.
struct Entry<'a> {
    section: &'a str,
    name: &'a str,
    line: &'a str,
    above: &'a str,
    number: usize,
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut section = "";
    let mut above = "";
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((name, _)) = line.split_once('=')
            && line.starts_with(|first: char| first.is_ascii_alphanumeric())
        {
            entries.push(Entry { section, name: name.trim(), line, above, number: index + 1 });
        }
        above = trimmed;
    }
    entries
}

pub(crate) fn dependencies_say_why(tree: &Tree) -> Vec<String> {
    let Some(manifest) = tree.file("Cargo.toml") else {
        return vec!["no Cargo.toml".to_owned()];
    };
    let entries = entries(&manifest.text);
    let foreign =
        entries.iter().filter(|entry| entry.section == "workspace.dependencies" && !entry.line.contains("path = "));
    foreign
        .filter(|entry| !entry.line.contains('#') && !entry.above.starts_with('#'))
        .map(|entry| format!("Cargo.toml:{}: {} has no comment that says why", entry.number, entry.name))
        .collect()
}

pub(crate) fn inherit(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for member in &tree.crates {
        let path = format!("{}/Cargo.toml", member.folder);
        let Some(manifest) = tree.file(&path) else {
            continue;
        };
        let entries = entries(&manifest.text);
        for entry in entries.iter().filter(|entry| entry.section.ends_with("dependencies")) {
            if !entry.line.contains("workspace = true") {
                findings.push(format!("{path}:{}: {} does not come from the workspace", entry.number, entry.name));
            }
        }
        let inherits_lints =
            entries.iter().any(|entry| entry.section == "lints" && entry.line.contains("workspace = true"));
        // The one crate with unsafe cannot lower a `forbid`, so it spells its lints out.
        if !inherits_lints && member.folder != "base/host" {
            findings.push(format!("{path}: does not inherit the lints of the workspace"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_know_their_section_and_the_line_above() {
        let found =
            entries("[package]\nname = \"x\"\n[dependencies]\n# why\nfirst = \"1\"\nsecond = \"2\" # because\n");
        let names: Vec<(&str, &str, &str)> =
            found.iter().map(|entry| (entry.section, entry.name, entry.above)).collect();
        assert_eq!(
            names,
            [
                ("package", "name", "[package]"),
                ("dependencies", "first", "# why"),
                ("dependencies", "second", "first = \"1\"")
            ]
        );
    }
}
