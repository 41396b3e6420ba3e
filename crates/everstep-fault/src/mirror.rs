//! The newest trusted snapshot in the host's memory: it outlives the device.

use std::sync::Arc;

use everstep_tensor::{Download, HostSnapshot, Result};

use crate::Ring;

/// Copies one snapshot after the other, in the background.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    // The attempt after which it was taken.
    newest: Option<(u64, Arc<HostSnapshot>)>,
    // Whether its snapshot was trusted: that of the start may not be.
    is_trusted: bool,
    under_way: Option<(u64, Download)>,
}

impl Mirror {
    /// Copies the newest snapshot, and waits for it: that of the start, and of whatever must not be undone by a device that is
    /// lost before another has arrived.
    pub(crate) fn keep(&mut self, ring: &Ring) -> Result<()> {
        let Some((attempt, snapshot)) = ring.newest() else { return Ok(()) };
        self.under_way = None;
        self.newest = snapshot.download()?.wait()?.map(|copy| (attempt, Arc::new(copy)));
        self.is_trusted = ring.newest_trusted().is_some_and(|(trusted, _)| trusted == attempt);
        Ok(())
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// A copy that is under way does not arrive any more.
    pub(crate) fn forget_download(&mut self) {
        self.under_way = None;
    }

    /// Takes in a copy that has arrived, and begins the next one where a newer snapshot is trusted. Nothing waits.
    pub(crate) fn turn(&mut self, ring: &Ring) -> Result<()> {
        if let Some((attempt, download)) = &mut self.under_way {
            let Some(copy) = download.try_take()? else { return Ok(()) };
            (self.newest, self.is_trusted) = (Some((*attempt, Arc::new(copy))), true);
            self.under_way = None;
        }
        let known = self.newest.as_ref().map(|(attempt, _)| *attempt);
        if let Some((attempt, snapshot)) = ring.newest_trusted().filter(|(attempt, _)| Some(*attempt) > known) {
            self.under_way = Some((attempt, snapshot.download()?));
        }
        Ok(())
    }

    /// The copy, and the attempt after which its snapshot was taken.
    pub(crate) fn newest(&self) -> Option<(u64, &Arc<HostSnapshot>)> {
        self.newest.as_ref().map(|(attempt, copy)| (*attempt, copy))
    }
}
