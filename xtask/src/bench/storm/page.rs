//! Puts what was measured into the docs.

use super::{Report, Scenario};
use crate::shell::{Fallible, workspace};

const PAGE: &str = "docs/overload-storm.md";
const IMAGES: &str = "docs/images";

pub(super) fn name(scenario: Scenario) -> String {
    format!("{scenario:?}").to_lowercase()
}

pub(super) fn record(frame: &str, reports: &[Report]) -> Fallible<()> {
    let path = workspace().join(PAGE);
    let mut text = std::fs::read_to_string(&path)?;
    for report in reports {
        let content = format!("{frame}\n\n{}", report.markdown.trim_end());
        text = replace(&text, &name(report.scenario), &content)?;
        for (name, image) in &report.images {
            let folder = workspace().join(IMAGES);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join(name), image)?;
        }
    }
    std::fs::write(&path, text)?;
    println!("recorded in {}", path.display());
    Ok(())
}

/// Replaces what stands between the two marks of this name.
fn replace(text: &str, name: &str, content: &str) -> Fallible<String> {
    let (begin, end) = (format!("<!-- measured: {name} -->\n"), format!("<!-- end: {name} -->"));
    let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = parts else {
        return Err(format!("{PAGE} has no marks for {name}").into());
    };
    Ok(format!("{before}{begin}\n{content}\n\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_marks_changes() {
        let page = "a\n<!-- measured: curve -->\nold\n<!-- end: curve -->\nb\n";
        let first = replace(page, "curve", "new").expect("it has the marks");
        assert_eq!(first, "a\n<!-- measured: curve -->\n\nnew\n\n<!-- end: curve -->\nb\n");
        assert_eq!(replace(&first, "curve", "new").expect("still"), first);
        assert!(replace(page, "step", "new").is_err());
    }
}
