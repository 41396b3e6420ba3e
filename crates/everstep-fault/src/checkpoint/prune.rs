//! Which generations stay.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::names::{self, Kind};
use super::{CheckpointError, Manifest, Store};

/// Which generations stay: those that any of the rules keeps, and always the newest one and the newest trusted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// So many of the newest.
    pub last: usize,
    /// Those whose number is a multiple of it.
    pub every: Option<u64>,
    /// So many of those with the smallest metric; of equal ones the newer.
    pub best: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { last: 3, every: None, best: 0 }
    }
}

impl Retention {
    /// The numbers of those that stay, of manifests in any order.
    pub fn kept(&self, manifests: &[Manifest]) -> BTreeSet<u64> {
        let mut newest: Vec<&Manifest> = manifests.iter().collect();
        newest.sort_by_key(|manifest| std::cmp::Reverse(manifest.generation));
        let mut best: Vec<(f64, u64)> = Vec::new();
        best.extend(newest.iter().filter_map(|manifest| Some((manifest.health.metric?, manifest.generation))));
        best.sort_by(|a, b| a.0.total_cmp(&b.0));
        let is_multiple =
            |generation: u64| self.every.is_some_and(|every| every > 0 && generation.is_multiple_of(every));
        let mut kept = BTreeSet::new();
        kept.extend(newest.iter().take(self.last.max(1)).map(|manifest| manifest.generation));
        kept.extend(newest.iter().find(|manifest| manifest.health.trusted).map(|manifest| manifest.generation));
        kept.extend(newest.iter().map(|manifest| manifest.generation).filter(|&generation| is_multiple(generation)));
        kept.extend(best.iter().take(self.best).map(|&(_, generation)| generation));
        kept
    }
}

impl Store {
    /// Removes the generations that `retention` does not keep, and then the files that no generation refers to. Which
    /// generations were removed, oldest first. A generation whose manifest is damaged counts as none; where one cannot be read
    /// now, or is of another version, nothing is removed, as nobody knows what it refers to.
    ///
    /// # Errors
    /// [`CheckpointError::ReadOnly`]; [`CheckpointError::Io`]: then some are removed, and those that are not are whole.
    pub fn prune(&self, retention: &Retention) -> Result<Vec<u64>, CheckpointError> {
        let _changing = self.change()?;
        let names = self.names()?;
        let mut manifests = Vec::new();
        for generation in Self::generations(&names).into_iter().rev() {
            match self.reader().manifest(generation) {
                Ok(manifest) => manifests.push(manifest),
                Err(CheckpointError::Damaged { .. }) => {}
                Err(error) => {
                    tracing::warn!(generation, %error, "no generation is removed while one cannot be read");
                    return Ok(Vec::new());
                }
            }
        }
        let kept = retention.kept(&manifests);
        let (kept, old): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|manifest| kept.contains(&manifest.generation));
        for manifest in &old {
            let name = names::manifest(manifest.generation);
            self.storage.remove(&name).map_err(|error| self.io("removing", &name, &error))?;
        }
        if !old.is_empty() {
            // A manifest must not come back after a crash when its tensors are gone.
            self.sync()?;
        }
        let used: BTreeSet<&str> = kept.iter().flat_map(|manifest| &manifest.files).map(|file| &*file.name).collect();
        let is_unused = |name: &&String| names::kind(name) == Kind::Data && !used.contains(name.as_str());
        names.iter().filter(is_unused).for_each(|name| self.try_remove(name));
        Ok(old.into_iter().map(|manifest| manifest.generation).collect())
    }
}
