//! Who may depend on whom: core <- base <- services <- sumun.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Crate, Tree, list, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Core,
    Base,
    Services,
    Binary,
    /// Beside the house: nobody depends on it, and it may use what it likes.
    Tools,
}

fn floor(folder: &str) -> Option<Floor> {
    match folder.split('/').next()? {
        "core" => Some(Floor::Core),
        "base" => Some(Floor::Base),
        "services" => Some(Floor::Services),
        "sumun" => Some(Floor::Binary),
        "xtask" | "tools" => Some(Floor::Tools),
        _ => None,
    }
}

pub(crate) fn point_down(tree: &Tree) -> Vec<String> {
    let floors: BTreeMap<&str, Option<Floor>> =
        tree.crates.iter().map(|member| (member.name.as_str(), floor(&member.folder))).collect();
    let mut findings = Vec::new();
    for (from, to) in own_dependencies(tree) {
        match (floors.get(from.name.as_str()).copied().flatten(), floors.get(to).copied().flatten()) {
            (Some(upper), Some(lower)) if is_allowed(upper, lower) => {}
            (Some(upper), Some(lower)) => {
                findings.push(format!("{}: {upper:?} may not depend on {lower:?} ({to})", from.name));
            }
            _ => findings.push(format!("{} -> {to}: one of them stands on no floor", from.name)),
        }
    }
    for member in tree.crates.iter().filter(|member| floor(&member.folder).is_none()) {
        findings.push(format!("{}: {} is on no floor of the house", member.name, member.folder));
    }
    findings
}

/// Base has two floors in one, and one protocol of core may stand on another; cargo itself keeps
/// circles out. Everywhere else the neighbours on the same floor do not know each other.
fn is_allowed(upper: Floor, lower: Floor) -> bool {
    upper > lower || (upper == lower && matches!(upper, Floor::Base | Floor::Core))
}

/// (a member, the name of another member that it depends on), of every kind, tests included.
fn own_dependencies(tree: &Tree) -> Vec<(&Crate, &str)> {
    let mut arrows = Vec::new();
    for member in &tree.crates {
        let packages = list(&tree.metadata["packages"]);
        let package =
            packages.iter().find(|package| text(&package["name"]) == member.name && package["source"].is_null());
        for dependency in package.map(|package| list(&package["dependencies"])).unwrap_or_default() {
            let name = text(&dependency["name"]);
            if tree.crates.iter().any(|other| other.name == name) {
                arrows.push((member, name));
            }
        }
    }
    arrows
}

/// Crates that bring IO, a clock, a runtime, randomness or a log, by name or beginning of a name.
const IMPURE: [&str; 16] = [
    "tokio",
    "mio",
    "async-std",
    "smol",
    "polling",
    "socket2",
    "rustix",
    "nix",
    "libloading",
    "tracing",
    "log",
    "env_logger",
    "rand",
    "fastrand",
    "getrandom",
    "chrono",
];

pub(crate) fn core_is_pure(tree: &Tree) -> Vec<String> {
    let nodes: BTreeMap<&str, &serde_json::Value> =
        list(&tree.metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let packages = list(&tree.metadata["packages"]);
    let names: BTreeMap<&str, &str> =
        packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let mut findings = Vec::new();
    for member in tree.crates.iter().filter(|member| floor(&member.folder) == Some(Floor::Core)) {
        let root = packages.iter().find(|package| text(&package["name"]) == member.name && package["source"].is_null());
        let mut open: Vec<&str> = root.map(|package| text(&package["id"])).into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(identifier) = open.pop() {
            if !seen.insert(identifier) {
                continue;
            }
            let name = names.get(identifier).copied().unwrap_or_default();
            if IMPURE.iter().any(|impure| {
                name == *impure || name.strip_prefix(impure).is_some_and(|rest| rest.starts_with(['-', '_']))
            }) {
                findings.push(format!("{} has {name} below it", member.name));
            }
            let dependencies = nodes.get(identifier).map(|node| list(&node["deps"])).unwrap_or_default();
            // Kind null is a normal dependency; what only tests or build scripts use is no matter.
            let normal = dependencies
                .iter()
                .filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
            open.extend(normal.map(|dependency| text(&dependency["pkg"])));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors() {
        assert!(is_allowed(Floor::Base, Floor::Core) && is_allowed(Floor::Binary, Floor::Services));
        assert!(is_allowed(Floor::Base, Floor::Base) && is_allowed(Floor::Core, Floor::Core));
        assert!(!is_allowed(Floor::Services, Floor::Services) && !is_allowed(Floor::Core, Floor::Base));
        assert!(!is_allowed(Floor::Services, Floor::Binary));
        assert_eq!(floor("services/gateway"), Some(Floor::Services));
        assert_eq!(floor("attic/old"), None);
    }
}
