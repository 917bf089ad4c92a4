//! The channels of a target: what came of the last update of each (`crate::channels`).

use types::{id::TargetId, rpc::storage::ChannelDone};

use super::Engine;
use crate::{channels::StoredDone, error::EngineError, log::entry::LogEntry};

/// Channels in one entry of the log at most: an entry is much shorter than a segment.
const ENTRY_CHANNELS: usize = 256;

impl Engine {
    /// What came of the last update of each channel that was committed at a target, or that was adopted; those of longest ago
    /// first.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub fn channels(&self, target: TargetId) -> Result<Vec<ChannelDone>, EngineError> {
        self.inner.health.check()?;
        let state = self.inner.state.lock();
        Ok(state.target(target)?.channels.in_order())
    }

    /// Takes what another replica knows, durably. Of each channel the higher number stays.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub async fn adopt_channels(
        &self,
        target: TargetId,
        channels: &[ChannelDone],
    ) -> Result<(), EngineError> {
        self.inner.health.check()?;
        self.inner.log_room().await?;
        self.inner.committer.room().await?;
        {
            let mut state = self.inner.state.lock();
            state.target(target)?;
            for piece in channels.chunks(ENTRY_CHANNELS) {
                let done: Vec<StoredDone> = piece.iter().map(StoredDone::from).collect();
                let after = state.put_channels(target, done.iter().copied());
                self.enqueue_plain(after, &LogEntry::ChannelsAdopted { target, done });
            }
        }
        self.sync().await
    }

    /// Forgets what is known of a target's channels, durably.
    ///
    /// # Errors
    /// `UnknownTarget`, `Failed`.
    pub async fn clear_channels(&self, target: TargetId) -> Result<(), EngineError> {
        self.inner.health.check()?;
        {
            let mut state = self.inner.state.lock();
            state.target(target)?;
            let after = state.clear_channels(target);
            if !after.is_empty() {
                self.enqueue_plain(after, &LogEntry::ChannelsCleared { target });
            }
        }
        // Also when nothing is there: whoever cleared it before may not have waited.
        self.sync().await
    }
}
