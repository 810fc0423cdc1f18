//! What a reload changed, in a line for the operator.

use std::collections::BTreeMap;

use sumun_config::checked::Config;

/// `listener web changed; pool app added`, or `nothing changed`.
pub(crate) fn describe(old: &Config, new: &Config) -> String {
    let mut parts = Vec::new();
    compare("listener", &old.listeners, &new.listeners, &mut parts);
    compare("pool", &old.pools, &new.pools, &mut parts);
    let settings = [
        ("workers", old.workers != new.workers),
        ("admin", old.admin != new.admin),
        ("control", old.control != new.control),
        ("trusted_proxies", old.trusted_proxies != new.trusted_proxies),
        ("access_log", old.access_log != new.access_log),
        ("drain", old.drain != new.drain),
        ("user", old.user != new.user),
        ("sandbox", old.sandbox != new.sandbox),
        ("state", old.state != new.state),
    ];
    let changed = settings.iter().filter(|(_, differs)| *differs);
    parts.extend(changed.map(|(name, _)| format!("{name} changed")));
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join("; ") }
}

fn compare<Key: Ord + std::fmt::Display, Value: PartialEq>(
    kind: &str,
    old: &BTreeMap<Key, Value>,
    new: &BTreeMap<Key, Value>,
    parts: &mut Vec<String>,
) {
    for (name, value) in new {
        match old.get(name) {
            None => parts.push(format!("{kind} {name} added")),
            Some(before) if before != value => parts.push(format!("{kind} {name} changed")),
            Some(_) => {}
        }
    }
    let removed = old.keys().filter(|name| !new.contains_key(name));
    parts.extend(removed.map(|name| format!("{kind} {name} removed")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_change_is_named() {
        let old = BTreeMap::from([("a", 1), ("b", 1), ("c", 1)]);
        let new = BTreeMap::from([("b", 2), ("c", 1), ("d", 1)]);
        let mut parts = Vec::new();
        compare("pool", &old, &new, &mut parts);
        assert_eq!(parts, ["pool b changed", "pool d added", "pool a removed"]);
    }
}
