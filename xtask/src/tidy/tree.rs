//! What the checks look at: the text files of the workspace, and what cargo knows of its crates.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::shell::{Fallible, cargo, output};

pub(crate) struct Tree {
    /// Text files, sorted by path.
    pub(crate) files: Vec<TextFile>,
    pub(crate) crates: Vec<Crate>,
    /// What `cargo metadata` says.
    pub(crate) metadata: Value,
}

pub(crate) struct TextFile {
    /// From the root of the workspace, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A member of the workspace.
pub(crate) struct Crate {
    pub(crate) name: String,
    /// Its folder, from the root of the workspace.
    pub(crate) folder: String,
}

const TEXT: [&str; 9] = ["rs", "md", "toml", "yaml", "yml", "py", "html", "js", "css"];

impl Tree {
    pub(crate) fn read(root: &Path) -> Fallible<Self> {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let metadata: Value = serde_json::from_str(&output(&mut cargo(&["metadata", "--format-version", "1"]))?)?;
        let members = text_list(&metadata["workspace_members"]);
        let crates = list(&metadata["packages"]).iter().filter(|package| members.contains(&text(&package["id"])));
        let crates = crates
            .filter_map(|package| {
                let manifest = Path::new(text(&package["manifest_path"]));
                let folder = manifest.parent()?.strip_prefix(root).ok()?;
                Some(Crate { name: text(&package["name"]).to_owned(), folder: folder.to_str()?.to_owned() })
            })
            .collect();
        Ok(Self { files, crates, metadata })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }

    pub(crate) fn with_ending(&self, ending: &str) -> impl Iterator<Item = &TextFile> {
        self.files.iter().filter(move |file| file.path.ends_with(ending))
    }
}

fn walk(root: &Path, below: &str, files: &mut Vec<TextFile>) -> Fallible<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "__pycache__" {
            walk(root, &path, files)?;
        } else if kind.is_file() && name.rsplit_once('.').is_some_and(|(_, ending)| TEXT.contains(&ending)) {
            // Test data may be deliberately broken text.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(TextFile { path, text });
            }
        }
    }
    Ok(())
}

impl TextFile {
    /// The text as far as it is not inside `#[cfg(test)]`, which by habit is the last module.
    pub(crate) fn without_tests(&self) -> &str {
        self.text.split_once("\n#[cfg(test)]\nmod ").map_or(&self.text, |(code, _)| code)
    }

    /// Tests, benches and build scripts of a crate, which are not part of the product.
    pub(crate) fn is_test(&self) -> bool {
        ["/tests/", "/benches/", "/examples/"].iter().any(|folder| self.path.contains(folder))
            || self.path.ends_with("/tests.rs")
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text_list(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

/// Rust source with comments, strings and characters blanked out; lines and columns stay.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skipped_end(bytes, at).unwrap_or(at);
        if end == at {
            code.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = end.min(bytes.len());
        code.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Where the comment, string or character that starts here ends; `None` if none starts here.
fn skipped_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let from = |offset: usize, needle: &[u8]| {
        rest.get(offset..)?.windows(needle.len()).position(|window| window == needle).map(|found| at + offset + found)
    };
    match rest {
        [b'/', b'/', ..] => Some(from(2, b"\n").unwrap_or(bytes.len())),
        [b'/', b'*', ..] => Some(block_comment_end(bytes, at)),
        [b'"', ..] => Some(string_end(bytes, at)),
        [b'r', b'"' | b'#', ..]
            if !at.checked_sub(1).is_some_and(|before| is_word(bytes[before])) || bytes[at - 1] == b'b' =>
        {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return None;
            }
            let closing = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            Some(from(2 + hashes, &closing).map_or(bytes.len(), |found| found + closing.len()))
        }
        // A character, not a lifetime: an escape, or a quote soon after one character.
        [b'\'', b'\\', ..] => Some(from(3, b"'").map_or(bytes.len(), |found| found + 1)),
        [b'\'', ..] => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()?
                .chars()
                .next()?
                .len_utf8();
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        _ => None,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Line numbers (from 1) of `code` in which `word` stands as a whole word.
pub(crate) fn lines_with_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let has_word = move |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line.as_bytes().get(at.wrapping_sub(1)).copied();
            let after = line.as_bytes().get(at + word.len()).copied();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
    };
    code.lines().enumerate().filter(move |(_, line)| has_word(line)).map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked() {
        let source = "a // unsafe\n\"unsafe \\\" unsafe\" b /* unsafe /* */ unsafe */ c\nr#\"unsafe \" \"# d '\\'' e '\"' f\n&'a str";
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        assert!(!code.contains("unsafe"), "{code}");
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "d", "e", "f", "&'a", "str"]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(lines_with_word("unsafe_code\nunsafe {\nx unsafe", "unsafe").collect::<Vec<_>>(), [2, 3]);
    }
}
