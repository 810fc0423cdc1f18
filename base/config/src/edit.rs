//! Changes of the cache's volumes in the text of a config: one value, or one item of a list. Everything else
//! in the file stays as it is written, comments and order among it.
//!
//! What comes out is checked as a whole, and has to mean the config before with this one change. Where it
//! does not, nothing is changed: whoever wrote the file in a way that is not foreseen here edits it by hand.

use std::path::{Path, PathBuf};

use crate::check::{Probe, check};
use crate::checked::{CacheGroup, Config, PhysicalVolume};
use crate::lower::size_text;
use crate::merge;
use crate::node::{Node, Place, Value};
use crate::problems::Problems;
use crate::sources::Sources;
use crate::values;

/// What is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeEdit<'a> {
    /// `size` of a volume: more than before, or less.
    Resize { volume: &'a str, size: &'a str, grows: bool },
    /// One more physical volume; `path` is absolute.
    Add { path: &'a Path, size: Option<&'a str> },
    /// One less.
    Remove { path: &'a Path },
}

/// A file with the change in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Absolute: the main file, or one that it includes.
    pub file: PathBuf,
    pub before: String,
    pub after: String,
}

/// The text of the file that the change belongs into. Nothing is written.
///
/// # Errors
/// Why it cannot be, in words; also the report where the config would be wrong then.
pub fn edit_volumes(sources: &Sources, edit: VolumeEdit<'_>) -> Result<Edited, String> {
    let report = |report: crate::Report| report.render(false);
    let before = check(sources, Probe::Nothing).map_err(report)?.config;
    let expected = expected(&before, edit)?;
    let tree = merge::merged(sources, &mut Problems::default()).map(|merged| merged.tree);
    let cache = tree.as_ref().and_then(|tree| tree.find("cache")).ok_or_else(by_hand)?;
    let file = sources.files.get(cache.place.file).ok_or_else(by_hand)?;
    let after = match edit {
        VolumeEdit::Resize { volume, size, .. } => resized(&file.text, cache, volume, size),
        VolumeEdit::Add { path, size } => added(&file.text, cache, path, size),
        VolumeEdit::Remove { path } => {
            let at =
                before.cache.group.iter().flat_map(|group| &group.physical_volumes).position(|one| one.path == path);
            at.and_then(|at| removed(&file.text, cache, at))
        }
    };
    let after = after.ok_or_else(by_hand)?;
    let mut changed = sources.clone();
    if let Some(file) = changed.files.get_mut(cache.place.file) {
        file.text.clone_from(&after);
    }
    if check(&changed, Probe::Host).map_err(report)?.config != expected {
        return Err(by_hand());
    }
    Ok(Edited { file: file.path(), before: file.text.clone(), after })
}

fn by_hand() -> String {
    "this is written in a way that cannot be changed from here: edit the file, and `sumun reload`".to_owned()
}

/// What the config is to mean.
fn expected(before: &Config, edit: VolumeEdit<'_>) -> Result<Config, String> {
    let mut config = before.clone();
    let Some(group) = &mut config.cache.group else {
        return Err("the config has no `group`: there are no volumes".to_owned());
    };
    let bytes = |text: &str| {
        values::size(text)
            .map_err(|wrong| [Some(wrong.message), wrong.help].into_iter().flatten().collect::<Vec<_>>().join("; "))
    };
    match edit {
        VolumeEdit::Resize { volume, size, grows } => {
            let found = group.volumes.iter_mut().find(|one| *one.name == *volume);
            let found = found.ok_or_else(|| format!("there is no volume {volume}"))?;
            let (before, after) = (found.size, bytes(size)?);
            if before == after || (before < after) != grows {
                let word = if grows { "more" } else { "less" };
                return Err(format!("{volume} has {}, and {size} is not {word}", size_text(before)));
            }
            found.size = after;
        }
        VolumeEdit::Add { path, size } => {
            if position(group, path).is_some() {
                return Err(format!("{} is a physical volume already", path.display()));
            }
            group.physical_volumes.push(PhysicalVolume { path: path.to_owned(), size: size.map(bytes).transpose()? });
        }
        VolumeEdit::Remove { path } => {
            let at = position(group, path).ok_or_else(|| format!("there is no physical volume {}", path.display()))?;
            if group.physical_volumes.len() == 1 {
                return Err(format!("{} is the only physical volume", path.display()));
            }
            group.physical_volumes.remove(at);
        }
    }
    Ok(config)
}

fn position(group: &CacheGroup, path: &Path) -> Option<usize> {
    group.physical_volumes.iter().position(|volume| volume.path == path)
}

fn resized(text: &str, cache: &Node, volume: &str, size: &str) -> Option<String> {
    let node = cache.find("volumes")?.find(volume)?.find("size")?;
    // Of one that comes from the environment the place is not the value.
    node.scalar().filter(|scalar| !scalar.filled)?;
    spliced(text, start_of(text, node.place)?, end_of(text, node)?, size)
}

fn added(text: &str, cache: &Node, path: &Path, size: Option<&str>) -> Option<String> {
    let list = cache.find("group")?.find("physical_volumes")?;
    let last = list.list()?.last()?;
    // JSON's text is YAML's. What would be filled in from the environment is not meant so.
    let path =
        path.to_str().filter(|path| !path.contains("${")).map(|path| serde_json::Value::from(path).to_string())?;
    let item = match size {
        Some(size) => format!("{{ path: {path}, size: {size} }}"),
        None => format!("{{ path: {path} }}"),
    };
    let end = end_of(text, last)?;
    if is_in_brackets(text, list)? {
        return spliced(text, end, end, &format!(", {item}"));
    }
    let (line, dash) = line_of(text, last)?;
    let rest = text.get(end..)?;
    let line_end = end + rest.find('\n').unwrap_or(rest.len());
    let (line_end, newline) =
        if text.get(..line_end)?.ends_with('\r') { (line_end - 1, "\r\n") } else { (line_end, "\n") };
    let indent = text.get(line..dash)?;
    spliced(text, line_end, line_end, &format!("{newline}{indent}{item}"))
}

fn removed(text: &str, cache: &Node, at: usize) -> Option<String> {
    let list = cache.find("group")?.find("physical_volumes")?;
    let items = list.list()?;
    let item = items.get(at)?;
    let end = end_of(text, item)?;
    if !is_in_brackets(text, list)? {
        let (line, _) = line_of(text, item)?;
        let line_end = text.get(end..)?.find('\n').map_or(text.len(), |length| end + length + 1);
        return spliced(text, line, line_end, "");
    }
    let start = start_of(text, item.place)?;
    if let Some(next) = items.get(at + 1) {
        return spliced(text, start, start_of(text, next.place)?, "");
    }
    let before = end_of(text, items.get(at.checked_sub(1)?)?)?;
    if !text.get(before..start)?.contains('#') {
        return spliced(text, before, end, "");
    }
    // The comment is about the one that stays, and so is its comma.
    let comma = usize::from(text.get(end..)?.starts_with(','));
    spliced(text, start, end + comma, "")
}

fn spliced(text: &str, from: usize, to: usize, new: &str) -> Option<String> {
    Some(format!("{}{new}{}", text.get(..from)?, text.get(to..)?))
}

/// The bytes before a place.
fn start_of(text: &str, place: Place) -> Option<usize> {
    let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut line = mark;
    for _ in 1..place.line {
        line += text.get(line..)?.find('\n')? + 1;
    }
    let (before, _) = text.get(line..)?.char_indices().nth(place.column as usize - 1)?;
    Some(line + before)
}

/// The bytes up to the end of what is written there.
fn end_of(text: &str, node: &Node) -> Option<usize> {
    let start = start_of(text, node.place)?;
    let last = match &node.value {
        Value::Scalar(_) => return Some(start + scalar_bytes(text.get(start..)?.lines().next()?, node.place)?),
        Value::List(items) => items.last()?,
        Value::Map(entries) => &entries.last()?.value,
    };
    let end = end_of(text, last)?;
    if is_in_brackets(text, node)? { closing(text, end) } else { Some(end) }
}

/// How much of a line a value takes. The place of a value may reach into the white space behind it.
fn scalar_bytes(line: &str, place: Place) -> Option<usize> {
    let mut characters = line.char_indices();
    match characters.next()?.1 {
        '"' => {
            while let Some((at, character)) = characters.next() {
                match character {
                    '\\' => drop(characters.next()),
                    '"' => return Some(at + 1),
                    _ => {}
                }
            }
            None
        }
        '\'' => {
            while let Some((at, character)) = characters.next() {
                if character == '\'' && !line.get(at + 1..)?.starts_with('\'') {
                    return Some(at + 1);
                }
                if character == '\'' {
                    characters.next();
                }
            }
            None
        }
        '|' | '>' => None,
        _ => {
            let mut ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
            let written = line.get(..ends.nth(place.length as usize)?)?;
            Some(written.split(" #").next()?.trim_end().len())
        }
    }
}

fn is_in_brackets(text: &str, node: &Node) -> Option<bool> {
    Some(text.get(start_of(text, node.place)?..)?.starts_with(['{', '[']))
}

/// Behind the bracket that closes, past white space, comments and a comma.
fn closing(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let rest = text.get(at..)?;
        match rest.chars().next()? {
            '}' | ']' => return Some(at + 1),
            '#' => at += rest.find('\n')?,
            ',' | ' ' | '\t' | '\r' | '\n' => at += 1,
            _ => return None,
        }
    }
}

/// Where the line of an item begins, and the item on it: between them stands its dash and nothing else.
fn line_of(text: &str, item: &Node) -> Option<(usize, usize)> {
    let start = start_of(text, item.place)?;
    let line = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let before = text.get(line..start)?;
    (before.trim() == "-").then_some((line, start))
}
