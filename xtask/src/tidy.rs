//! `cargo xtask tidy`: the laws of the house, as checks.
//!
//! Every check takes the tree and returns what it found, one sentence each, with the file it is
//! about. Nothing here asks for taste; each check stands for a law in ARCHITECTURE.md.

mod arrows;
mod documents;
mod manifests;
mod source;
mod tree;

use crate::shell::{Fallible, workspace};
use tree::Tree;

type Check = fn(&Tree) -> Vec<String>;

const CHECKS: [(&str, Check); 14] = [
    ("arrows point down", arrows::point_down),
    ("core crates depend on nothing that does IO or logs", arrows::core_is_pure),
    ("core crates touch no clock, file, socket or thread", source::core_does_no_io),
    ("unsafe lives in base/host and says why it is sound", source::unsafe_is_at_home),
    ("files are short", source::files_are_short),
    ("no tabs, no trailing spaces, one newline at the end", source::white_space),
    ("nothing is left for later", source::nothing_left_over),
    ("only the binary prints", source::only_the_binary_prints),
    ("each crate says what it is", source::crates_say_what_they_are),
    ("each dependency says why it is there", manifests::dependencies_say_why),
    ("manifests inherit dependencies and lints", manifests::inherit),
    ("both READMEs say the same", documents::readmes_agree),
    ("links lead somewhere", documents::links_lead_somewhere),
    ("ARCHITECTURE.md names every crate", documents::architecture_names_every_crate),
];

pub(crate) fn run() -> Fallible<bool> {
    let tree = Tree::read(&workspace())?;
    let mut broken = 0;
    for (law, check) in CHECKS {
        let findings = check(&tree);
        if !findings.is_empty() {
            broken += 1;
            println!("broken: {law}");
            for finding in findings {
                println!("  {finding}");
            }
        }
    }
    println!("tidy: {} laws hold, {broken} broken", CHECKS.len() - broken);
    Ok(broken == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_in_order() {
        let tree = Tree::read(&workspace()).expect("the workspace can be read");
        let broken: Vec<String> = CHECKS
            .iter()
            .flat_map(|(law, check)| check(&tree).into_iter().map(move |finding| format!("{law}: {finding}")))
            .collect();
        assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    }
}
