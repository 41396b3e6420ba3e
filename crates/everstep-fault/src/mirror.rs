//! The newest trusted snapshot in the host's memory: it outlives the device.

use everstep_tensor::{Download, HostSnapshot, Result};

use crate::Ring;

/// Copies one snapshot after the other, in the background.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    // The attempt after which it was taken.
    newest: Option<(u64, HostSnapshot)>,
    under_way: Option<(u64, Download)>,
}

impl Mirror {
    /// Takes in a copy that has arrived, and begins the next one where a newer snapshot is trusted. Nothing waits.
    pub(crate) fn turn(&mut self, ring: &Ring) -> Result<()> {
        if let Some((attempt, download)) = &mut self.under_way {
            let Some(copy) = download.try_take()? else { return Ok(()) };
            self.newest = Some((*attempt, copy));
            self.under_way = None;
        }
        let known = self.newest.as_ref().map(|(attempt, _)| *attempt);
        if let Some((attempt, snapshot)) = ring.newest_trusted().filter(|(attempt, _)| Some(*attempt) > known) {
            self.under_way = Some((attempt, snapshot.download()?));
        }
        Ok(())
    }

    /// The copy, and the attempt after which its snapshot was taken.
    pub(crate) fn newest(&self) -> Option<(u64, &HostSnapshot)> {
        self.newest.as_ref().map(|(attempt, copy)| (*attempt, copy))
    }
}
