//! Reports the lengths of files that are being written, every second (protocol L3), so that other mounts see them
//! grow and little is left to find out when this one dies.

use std::{sync::Arc, time::Duration};

use common::worker::{Next, Worker};
use futures::{StreamExt, stream};

use crate::core::Core;

const EVERY: Duration = Duration::from_secs(1);
/// Reports under way at a time.
const PARALLEL: usize = 16;

/// See the module's text.
pub(crate) struct Reporter {
    core: Arc<Core>,
    reported: usize,
}

impl Reporter {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, reported: 0 }
    }
}

impl Worker for Reporter {
    fn name(&self) -> &'static str {
        "length-reports"
    }

    async fn step(&mut self) -> Next {
        let dirty = self.core.files.dirty();
        self.reported = dirty.len();
        let core = &self.core;
        stream::iter(dirty)
            .for_each_concurrent(PARALLEL, |file| async move {
                if let Err(status) = core.flush(&file).await {
                    tracing::warn!(inode = file.inode.0, %status, "cannot report a length yet");
                }
            })
            .await;
        Next::Wait(EVERY)
    }

    fn status(&self) -> String {
        format!("{} files reported in the last round", self.reported)
    }
}
