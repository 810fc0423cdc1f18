//! What is kept beside a certificate, and its form.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::schedule::Timing;

/// Everything that has to be found again after a restart, but the certificate itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) timing: Timing,
    /// The order that is with the authority.
    pub(crate) order: Option<Placed>,
    /// Why the last try failed.
    pub(crate) error: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) url: String,
    /// The key of the certificate that it is for, in PEM.
    pub(crate) key: String,
}

/// Keeps the key out of logs.
impl std::fmt::Debug for Placed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Placed").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl Progress {
    /// What was kept; a broken file is as good as none.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut progress: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if progress.order.is_none() {
            progress.timing.in_flight = None;
        }
        Ok(progress)
    }

    pub(crate) fn write(&self) -> Zeroizing<Vec<u8>> {
        // Texts and numbers: they can always be written.
        Zeroizing::new(serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    /// The order is over, one way or the other.
    pub(crate) fn forget_order(&mut self) {
        self.order = None;
        self.timing.in_flight = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut progress = Progress { error: Some("no".to_owned()), ..Progress::default() };
        progress.timing.begin(1_800_000_000, 7);
        progress.timing.placed(1_800_000_000);
        progress.order = Some(Placed { url: "https://a/1".to_owned(), key: "KEY".to_owned() });
        assert_eq!(Progress::read(&progress.write()), Ok(progress.clone()));
        assert!(!format!("{progress:?}").contains("KEY"));
        // An older form, and a newer one.
        assert_eq!(Progress::read(b"{}"), Ok(Progress::default()));
        assert!(Progress::read(br#"{"later":1,"timing":{"failures":3,"more":[]}}"#).is_ok());
        for broken in [&b""[..], b"[", b"{\"timing\":3}", b"\xff"] {
            assert!(Progress::read(broken).is_err());
        }
        // Without the order itself there is nothing to go on with.
        progress.order = None;
        assert_eq!(Progress::read(&progress.write()).map(|read| read.timing.in_flight), Ok(None));
    }
}
