//! What changed between two configs. A reload acts on this and on nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::checked::{Config, Name};

/// Names that came, went, or mean something else now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<Name>,
    pub removed: Vec<Name>,
    pub changed: Vec<Name>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    pub pools: Changes,
    pub limits: Changes,
    pub listeners: Changes,
    /// Keys of the top level, as they are written.
    pub settings: Vec<&'static str>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.limits.is_empty() && self.listeners.is_empty() && self.settings.is_empty()
    }
}

/// From `old` to `new`.
pub fn diff(old: &Config, new: &Config) -> Diff {
    // Named one by one, so that a new field of `Config` does not compile before it is thought of here.
    let Config {
        workers,
        admin,
        control,
        trusted_proxies,
        access_log,
        drain,
        user,
        sandbox,
        state,
        blocks,
        shared,
        cache,
        asn_table,
        pools,
        limits,
        listeners,
    } = old;
    let settings = [
        ("workers", *workers != new.workers),
        ("admin", *admin != new.admin),
        ("control", *control != new.control),
        ("trusted_proxies", *trusted_proxies != new.trusted_proxies),
        ("access_log", *access_log != new.access_log),
        ("drain", *drain != new.drain),
        ("user", *user != new.user),
        ("sandbox", *sandbox != new.sandbox),
        ("state", *state != new.state),
        ("blocks", *blocks != new.blocks),
        ("shared", *shared != new.shared),
        ("cache", *cache != new.cache),
        ("traffic", *asn_table != new.asn_table),
    ];
    Diff {
        pools: changes(pools, &new.pools),
        limits: changes(limits, &new.limits),
        listeners: changes(listeners, &new.listeners),
        settings: settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect(),
    }
}

fn changes<T: PartialEq>(old: &BTreeMap<Name, Arc<T>>, new: &BTreeMap<Name, Arc<T>>) -> Changes {
    Changes {
        added: new.keys().filter(|name| !old.contains_key(*name)).cloned().collect(),
        removed: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
        changed: old
            .iter()
            .filter(|(name, value)| new.get(*name).is_some_and(|other| other != *value))
            .map(|(name, _)| name.clone())
            .collect(),
    }
}

impl fmt::Display for Diff {
    /// `pools: + app, ~ media; listeners: - old; drain`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for (word, changes) in [("pools", &self.pools), ("limits", &self.limits), ("listeners", &self.listeners)] {
            let signed =
                |sign: char, names: &[Name]| names.iter().map(|name| format!("{sign} {name}")).collect::<Vec<_>>();
            let mut names = signed('+', &changes.added);
            names.extend(signed('~', &changes.changed));
            names.extend(signed('-', &changes.removed));
            if !names.is_empty() {
                parts.push(format!("{word}: {}", names.join(", ")));
            }
        }
        parts.extend(self.settings.iter().map(|name| (*name).to_owned()));
        if parts.is_empty() { formatter.write_str("nothing changed") } else { formatter.write_str(&parts.join("; ")) }
    }
}
