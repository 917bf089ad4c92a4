//! A disk of this node: its engine, or why it has none.

use std::path::PathBuf;

use engine::Engine;
use types::{
    id::DiskIndex,
    rpc::mgmtd::DiskReport,
    status::{Status, StatusCode},
};

use crate::resync::pace::{Pace, ResyncLimits};

/// See the module's text. A disk that is out of service stays so until the process is started again (E10).
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) index: DiskIndex,
    pub(crate) dir: PathBuf,
    engine: Result<Engine, String>,
    /// How fast it refills other targets.
    pub(crate) pace: Pace,
}

impl Disk {
    /// A disk that opened, or did not and why.
    pub(crate) fn new(
        index: DiskIndex,
        dir: PathBuf,
        engine: Result<Engine, String>,
        limits: ResyncLimits,
    ) -> Self {
        Self {
            index,
            dir,
            engine,
            pace: Pace::new(limits),
        }
    }

    /// The engine, also of a disk that failed since: it answers with its failure itself.
    pub(crate) fn engine(&self) -> Result<&Engine, Status> {
        self.engine.as_ref().map_err(|reason| {
            let message = format!("disk {} ({}): {reason}", self.index, self.dir.display());
            Status::new(StatusCode::DiskFailed, message)
        })
    }

    /// Why the disk is out of service, when it is.
    pub(crate) fn failure(&self) -> Option<String> {
        match &self.engine {
            Ok(engine) => engine.failure(),
            Err(reason) => Some(reason.clone()),
        }
    }

    /// Whether an update finds room for sure, so that it may be passed on before it is made here.
    pub(crate) fn has_room(&self) -> bool {
        /// More than the updates under way at one moment take.
        const ROOM_BYTES: u64 = 1 << 30;
        self.engine.as_ref().is_ok_and(|engine| {
            let space = engine.space();
            let room = ROOM_BYTES.max(space.capacity_bytes / 16);
            space.used_bytes.saturating_add(room) < space.capacity_bytes
        })
    }

    /// What the manager is told.
    pub(crate) fn report(&self) -> DiskReport {
        let space = self.engine.as_ref().ok().map(Engine::space);
        DiskReport {
            disk: self.index,
            capacity_bytes: space.as_ref().map_or(0, |space| space.capacity_bytes),
            used_bytes: space.as_ref().map_or(0, |space| space.used_bytes),
            failure: self.failure(),
        }
    }
}
