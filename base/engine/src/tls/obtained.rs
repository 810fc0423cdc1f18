//! Certificates that are obtained by ACME, and what stands in for those that are not there yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use sumun_certificates::make;
use sumun_config::checked::{Acme, CertifiedName};

use super::material::Material;
use super::pairs::{Pair, Pairs};
use crate::acme::{Challenges, Entry, Names};

/// What the control thread shows for them.
#[derive(Debug, Default)]
pub(super) struct Obtained {
    pub(super) challenges: Arc<Challenges>,
    /// Each stays the same until the real one is there.
    stand_ins: BTreeMap<Entry, Arc<Pair>>,
}

impl Obtained {
    /// What is kept of it; true: a stand-in. A certificate whose time is over is still shown, as
    /// clients learn more from that than from one that nobody signed.
    pub(super) fn pair(
        &mut self,
        acme: &Acme,
        material: &Material,
        pairs: &mut Pairs,
    ) -> Result<(Arc<Pair>, bool), String> {
        let entry = Names::of(acme).certificate;
        if let Some(pem) = material.acme.get(&entry) {
            match pairs.of(pem, pem, None) {
                Ok(pair) => {
                    self.stand_ins.remove(&entry);
                    return Ok((pair, false));
                }
                Err(problem) => {
                    tracing::error!("the kept certificate {} cannot be used: it {problem}", entry.file_name());
                }
            }
        }
        if let Some(known) = self.stand_ins.get(&entry) {
            return Ok((Arc::clone(known), true));
        }
        let names: Vec<String> = acme.domains.iter().map(CertifiedName::to_string).collect();
        let made = make::stand_in(&names, sumun_host::clock::wall_ns() / 1_000_000_000)?;
        let made = Arc::new(Pair::from(made));
        self.stand_ins.insert(entry, Arc::clone(&made));
        Ok((made, true))
    }
}
