//! Laws about Rust source.

use super::tree::{TextFile, Tree, code_only, lines_with_word};

/// Longest source file, in lines.
const LINES_MAX: usize = 700;

/// Files that were longer when the law was made, each with its length. The list may only shrink:
/// a file may not grow beyond what stands here, and leaves the list once it is short.
const LONG_FILES: [(&str, usize); 0] = [];

pub(crate) fn files_are_short(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.with_ending(".rs") {
        let lines = file.text.lines().count();
        let exception = LONG_FILES.iter().find(|(path, _)| *path == file.path).map(|(_, lines)| *lines);
        match exception {
            None if lines > LINES_MAX => findings.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.path)),
            Some(allowed) if lines > allowed => {
                findings.push(format!("{}: {lines} lines, and may only shrink from {allowed}", file.path))
            }
            Some(_) if lines <= LINES_MAX => {
                findings.push(format!("{}: short now; take it off the list of long files", file.path))
            }
            _ => {}
        }
    }
    let gone = LONG_FILES.iter().filter(|(path, _)| tree.file(path).is_none());
    findings.extend(gone.map(|(path, _)| format!("{path}: gone; take it off the list of long files")));
    findings
}

pub(crate) fn unsafe_is_at_home(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.with_ending(".rs") {
        let code = code_only(&file.text);
        let lines: Vec<&str> = file.text.lines().collect();
        for number in lines_with_word(&code, "unsafe") {
            if !file.path.starts_with("base/host/") {
                findings.push(format!("{}:{number}: unsafe outside base/host", file.path));
            } else if !says_why_sound(&lines, number) {
                findings.push(format!("{}:{number}: no SAFETY comment above it", file.path));
            }
        }
    }
    findings
}

/// A SAFETY comment on the line, or in the block of comments and attributes right above it.
fn says_why_sound(lines: &[&str], number: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let above = lines[..number - 1].iter().rev().map(|line| line.trim());
    lines.get(number - 1).is_some_and(|line| says(line))
        || above.take_while(|line| line.starts_with("//") || line.starts_with("#[")).any(says)
}

pub(crate) fn white_space(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.with_ending(".rs").chain(tree.with_ending(".md")) {
        for (index, line) in file.text.lines().enumerate() {
            if line.contains('\t') {
                findings.push(format!("{}:{}: a tab", file.path, index + 1));
            }
            if line.ends_with([' ', '\r']) {
                findings.push(format!("{}:{}: space at the end", file.path, index + 1));
            }
        }
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            findings.push(format!("{}: does not end with exactly one newline", file.path));
        }
    }
    findings
}

/// Put together so that this file does not find itself.
const LEFT_OVER_WORDS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const LEFT_OVER_MACROS: [&str; 3] = ["dbg!", "todo!", "unimplemented!"];

pub(crate) fn nothing_left_over(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.with_ending(".rs").chain(tree.with_ending(".toml")).chain(tree.with_ending(".py")) {
        for word in LEFT_OVER_WORDS {
            findings.extend(lines_with_word(&file.text, word).map(|number| format!("{}:{number}: {word}", file.path)));
        }
    }
    for file in tree.with_ending(".rs") {
        let code = code_only(&file.text);
        for name in LEFT_OVER_MACROS {
            findings.extend(lines_with_word(&code, name).map(|number| format!("{}:{number}: {name}", file.path)));
        }
    }
    findings
}

pub(crate) fn only_the_binary_prints(tree: &Tree) -> Vec<String> {
    let product = tree.with_ending(".rs").filter(|file| {
        !file.is_test() && !["sumun/", "xtask/", "tools/", "fuzz/"].iter().any(|folder| file.path.starts_with(folder))
    });
    find_words(product, &["print!", "println!", "eprint!", "eprintln!"])
}

pub(crate) fn core_does_no_io(tree: &Tree) -> Vec<String> {
    let core = tree.with_ending(".rs").filter(|file| file.path.starts_with("core/") && !file.is_test());
    find_words(
        core,
        &[
            "Instant::now",
            "SystemTime::now",
            "std::fs",
            "std::thread",
            "std::io",
            "std::process",
            "std::env",
            "TcpStream",
            "UdpSocket",
            "TcpListener",
        ],
    )
}

/// Where the code, tests left out, has one of the words.
fn find_words<'a>(files: impl Iterator<Item = &'a TextFile>, words: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        let code = code_only(file.without_tests());
        for word in words {
            findings.extend(lines_with_word(&code, word).map(|number| format!("{}:{number}: {word}", file.path)));
        }
    }
    findings
}

pub(crate) fn crates_say_what_they_are(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for member in &tree.crates {
        for root in ["src/lib.rs", "src/main.rs"] {
            let path = format!("{}/{root}", member.folder);
            if tree.file(&path).is_some_and(|file| !file.text.starts_with("//!")) {
                findings.push(format!("{path}: does not begin with //! and what the crate is"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_safety_comment_stands_right_above() {
        let good = ["// SAFETY: the pointer is ours.", "#[inline]", "unsafe { x() }"];
        assert!(says_why_sound(&good, 3));
        let apart = ["// SAFETY: another one's.", "let x = 1;", "unsafe { x() }"];
        assert!(!says_why_sound(&apart, 3));
        assert!(says_why_sound(&["unsafe { x() } // SAFETY: short."], 1));
    }
}
