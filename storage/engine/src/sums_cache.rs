//! Which checksums of blocks stay in memory: those used of late, within a limit.
//!
//! Only committed versions whose checksums stand in the record store are known here; they can be loaded again. The
//! oldest go first. A version that is used again meanwhile is loaded again: that is one read of the store in a while.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use common::sync::Mutex;

use crate::chunk_meta::Version;

/// What a version costs here besides its checksums.
const ENTRY_BYTES: u64 = 64;

#[derive(Debug)]
pub(crate) struct SumsCache {
    limit_bytes: u64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    versions: VecDeque<(Weak<Version>, u64)>,
    bytes: u64,
}

impl SumsCache {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            queue: Mutex::default(),
        }
    }

    /// The checksums of this version are in memory and in the store. Others may have to go.
    pub(crate) fn note(&self, version: &Arc<Version>) {
        let detail = version
            .content
            .as_ref()
            .and_then(|content| content.detail.load_full());
        let Some(detail) = detail.filter(|detail| detail.overlay.is_empty()) else {
            return;
        };
        let bytes = ENTRY_BYTES + size_of_val(&*detail.sums) as u64;
        let mut queue = self.queue.lock();
        queue.versions.push_back((Arc::downgrade(version), bytes));
        queue.bytes += bytes;
        while queue.bytes > self.limit_bytes
            && let Some((oldest, bytes)) = queue.versions.pop_front()
        {
            queue.bytes -= bytes;
            if let Some(oldest) = oldest.upgrade()
                && let Some(content) = &oldest.content
            {
                content.detail.store(None);
            }
        }
    }
}
