//! Laws about Markdown.

use std::path::Path;

use super::tree::Tree;
use crate::shell::workspace;

/// A Markdown file apart: headings and fenced code blocks in their order.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outline {
    /// How deep each heading is.
    headings: Vec<usize>,
    /// Each block without its comments, which may be in the reader's language.
    code: Vec<String>,
    /// The lines that are in no code block.
    prose: Vec<String>,
}

fn outline(text: &str) -> Outline {
    let mut outline = Outline::default();
    let mut block: Option<String> = None;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        match (&mut block, fence) {
            (Some(_), true) => outline.code.extend(block.take()),
            (Some(code), false) => {
                let code_line = without_comment(line);
                if !code_line.is_empty() {
                    code.push_str(code_line);
                    code.push('\n');
                }
            }
            (None, true) => block = Some(format!("{}\n", line.trim())),
            (None, false) => {
                let depth = line.bytes().take_while(|&byte| byte == b'#').count();
                if depth > 0 && line.as_bytes().get(depth) == Some(&b' ') {
                    outline.headings.push(depth);
                }
                outline.prose.push(line.to_owned());
            }
        }
    }
    outline
}

fn without_comment(line: &str) -> &str {
    let code = if line.trim_start().starts_with('#') { "" } else { line };
    code.split_once(" #").map_or(code, |(code, _)| code).trim_end()
}

pub(crate) fn readmes_agree(tree: &Tree) -> Vec<String> {
    let (Some(english), Some(korean)) = (tree.file("README.md"), tree.file("README.ko.md")) else {
        return vec!["README.md and README.ko.md are both needed".to_owned()];
    };
    let (english, korean) = (outline(&english.text), outline(&korean.text));
    let mut findings = Vec::new();
    if english.headings != korean.headings {
        findings.push(format!(
            "README.md has headings of depth {:?}, README.ko.md {:?}",
            english.headings, korean.headings
        ));
    }
    if english.code.len() != korean.code.len() {
        findings.push(format!("README.md has {} code blocks, README.ko.md {}", english.code.len(), korean.code.len()));
    }
    let blocks = english.code.iter().zip(&korean.code).enumerate();
    findings.extend(
        blocks
            .filter(|(_, (one, other))| one != other)
            .map(|(index, (one, other))| format!("code block {} differs:\n{one}---\n{other}", index + 1)),
    );
    findings
}

pub(crate) fn links_lead_somewhere(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.with_ending(".md") {
        let folder = Path::new(&file.path).parent().unwrap_or_else(|| Path::new(""));
        for line in &outline(&file.text).prose {
            for target in link_targets(line) {
                let path = target.split('#').next().unwrap_or_default();
                if !path.is_empty() && !workspace().join(folder).join(path).exists() {
                    findings.push(format!("{}: {target} is not there", file.path));
                }
            }
        }
    }
    findings
}

/// Targets of `[text](target)` that are files of ours.
fn link_targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

pub(crate) fn architecture_names_every_crate(tree: &Tree) -> Vec<String> {
    let Some(architecture) = tree.file("ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md is missing".to_owned()];
    };
    let names_it = |line: &str, member: &super::tree::Crate| {
        let last = member.folder.rsplit('/').next().unwrap_or_default();
        // In the code map a crate is a folder below its floor.
        line.contains(&member.folder) && member.folder.contains('/')
            || line.trim_start().trim_start_matches(['-', '*', '`', ' ']).starts_with(&format!("{last}/"))
            || line
                .split(|character: char| !character.is_ascii_alphanumeric() && character != '-')
                .any(|word| word == member.name)
    };
    tree.crates
        .iter()
        .filter(|member| !architecture.text.lines().any(|line| names_it(line, member)))
        .map(|member| format!("{} ({}) is not in ARCHITECTURE.md", member.name, member.folder))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translated_comments_do_not_make_a_difference() {
        let english = outline("# A\n\n## B\n```sh\nrun it # now\n# first\n```\n");
        let korean = outline("# 가\n\n## 나\n```sh\nrun it # 지금\n```\n");
        assert_eq!((english.headings, english.code), (korean.headings, korean.code));
        assert_ne!(outline("```\na\n```\n").code, outline("```\nb\n```\n").code);
    }

    #[test]
    fn links_of_ours_are_found() {
        assert_eq!(link_targets("[a](docs/x.md#y) and [b](https://example.com) [c](#here)"), ["docs/x.md#y", "#here"]);
    }
}
