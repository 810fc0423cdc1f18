//! `*` and `?` in file names.

use std::path::{Path, PathBuf};

use crate::limits;

/// Does a name match a pattern of `*` (any text) and `?` (one character)?
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at_pattern, mut at_name) = (0, 0);
    // Where to go on after the last `*` should it have to swallow one character more.
    let mut again: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some('*') => {
                again = Some((at_pattern + 1, at_name));
                at_pattern += 1;
            }
            Some(wanted) if *wanted == '?' || name.get(at_name) == Some(wanted) => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => match again {
                Some((after_star, swallowed)) => {
                    again = Some((after_star, swallowed + 1));
                    at_pattern = after_star;
                    at_name = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at_pattern).all(|character| *character == '*')
}

/// The files that an absolute pattern stands for, in the order of their names; without a
/// wildcard the path itself.
pub(crate) fn expand(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let is_wild = |part: &str| part.contains(['*', '?']);
    let mut found = vec![PathBuf::new()];
    let mut wild = false;
    for part in pattern.components() {
        let text = part.as_os_str().to_str();
        match text.filter(|text| is_wild(text)) {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some(text) => {
                wild = true;
                let mut next = Vec::new();
                for directory in &found {
                    names(directory, text, &mut next)?;
                }
                found = next;
            }
        }
    }
    if wild {
        found.retain(|path| path.is_file());
    }
    Ok(found)
}

fn names(directory: &Path, pattern: &str, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // A directory that is not there holds no file: `conf.d/*.yaml` may be prepared for later.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(()),
        Err(error) => {
            return Err(format!("{}: {}", directory.display(), crate::host_error(&error)));
        }
    };
    let start = found.len();
    for (count, entry) in entries.enumerate() {
        if count >= limits::INCLUDE_ENTRIES {
            return Err(format!("{} holds more than {} files", directory.display(), limits::INCLUDE_ENTRIES));
        }
        let entry = entry.map_err(|error| format!("{}: {}", directory.display(), crate::host_error(&error)))?;
        let name = entry.file_name();
        // Editors leave hidden files beside the real ones; a shell's `*` passes them over too.
        let hidden_fits = pattern.starts_with('.');
        if let Some(name) = name.to_str()
            && (hidden_fits || !name.starts_with('.'))
            && matches(pattern, name)
        {
            found.push(entry.path());
        }
    }
    if let Some(new) = found.get_mut(start..) {
        new.sort();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*.css", "site.css", true),
            ("*.css", "site.css.map", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
