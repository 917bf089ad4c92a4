//! Opening: the directory, the engine in it, and the version to go on from.
//!
//! fjall cannot open what it was killed over while making it. So a new engine is made under another name and
//! renamed when it is complete; a half-made one is made anew.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{
    data_dir::{DataDir, DataDirError},
    env::Env,
    sync::Mutex,
};
use tokio::sync::mpsc;

use super::{
    Shared, View,
    committer::{JOBS_MAX, Job},
    config::EmbeddedConfig,
    engine::Engine,
    failure::Failure,
    rotator::RotationState,
    space::Space,
    syncer::SyncState,
};
use crate::{error::KvError, transaction::CommitVersion};

/// What `VERSION` says besides the version.
const ROLE: &str = "kv";
/// Rises when a release can no longer read what an earlier one wrote.
const FORMAT_VERSION: u32 = 1;
const ENGINE_DIR: &str = "engine";
const NEW_ENGINE_DIR: &str = "engine.new";

/// Versions left out at each opening, more than a store commits between two syncs: a loss of power may
/// have taken commits that others saw, and their versions must not come again.
const VERSION_GAP: u64 = 1 << 24;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is in use, of another version, or not ours.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The engine cannot read what is there.
    #[error("cannot open the key-value store in {}: {detail}", path.display())]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// The engine's words.
        detail: String,
    },
    /// What is there makes no sense.
    #[error(transparent)]
    Content(KvError),
    /// The system refused a thread.
    #[error("cannot start the committer's thread: {0}")]
    Thread(io::Error),
}

pub(super) fn open(
    env: &Env,
    path: &Path,
    config: EmbeddedConfig,
) -> Result<(Arc<Shared>, mpsc::Receiver<Job>), OpenError> {
    let dir = DataDir::open(path, ROLE, FORMAT_VERSION)?;
    let engine_path = path.join(ENGINE_DIR);
    if !engine_path.exists() {
        make_engine(path, &engine_path, &config)?;
    }
    let engine = open_engine(&engine_path, &config)?;
    let snapshot = engine.snapshot();
    let last = engine.last_version(&snapshot).map_err(OpenError::Content)?;
    let version = CommitVersion(last.0.saturating_add(VERSION_GAP));
    let (sender, jobs) = mpsc::channel(JOBS_MAX);
    let shared = Shared {
        env: env.clone(),
        jobs: Mutex::new(Some(sender)),
        view: Mutex::new(Arc::new(View { snapshot, version })),
        sync: SyncState::new(version),
        rotation: RotationState::default(),
        failure: Failure::default(),
        space: Space::new(path, config.space_reserve_bytes),
        config,
        engine,
        dir,
    };
    Ok((Arc::new(shared), jobs))
}

fn make_engine(dir: &Path, path: &Path, config: &EmbeddedConfig) -> Result<(), OpenError> {
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io {
            action,
            path,
            source,
        }
    };
    let new_path = dir.join(NEW_ENGINE_DIR);
    if new_path.exists() {
        fs::remove_dir_all(&new_path).map_err(fail("remove the half-made", &new_path))?;
    }
    let engine = open_engine(&new_path, config)?;
    engine.sync().map_err(|error| engine_error(path, &error))?;
    drop(engine);
    fs::rename(&new_path, path).map_err(fail("rename", &new_path))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(fail("sync", dir))
}

/// fjall panics over some kinds of damage; to us that is an error like the others.
fn open_engine(path: &Path, config: &EmbeddedConfig) -> Result<Engine, OpenError> {
    let opened = catch_unwind(AssertUnwindSafe(|| Engine::open(path, config)));
    match opened {
        Ok(opened) => opened.map_err(|error| engine_error(path, &error)),
        Err(panic) => {
            let detail = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Err(OpenError::Engine {
                path: path.to_owned(),
                detail,
            })
        }
    }
}

fn engine_error(path: &Path, error: &fjall::Error) -> OpenError {
    OpenError::Engine {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}
