//! The life of a mount: from an empty directory to one that answers, and back.
//!
//! The end, whoever asks for it, in this order: the kernel lets go, requests under way are answered, handles that
//! were never closed are closed, what is still to be told to meta is told, the client's session ends.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use client::Client;
use common::{shutdown::Shutdown, sync::Mutex, worker::Workers};
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::mount::UnmountFlags;
use tokio::sync::{Semaphore, watch};

use crate::{adapter::Adapter, core::Core, mount_point, options::MountOptions, reporter::Reporter};

/// How long requests under way may take to end after the kernel let go.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the last words to meta may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// How long a mount with open files goes on serving them after it was asked to end.
const DETACHED_LIMIT: Duration = Duration::from_secs(5);

/// Why something could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory is not there.
    #[error("mount point {} does not exist", point.display())]
    Missing {
        /// The directory.
        point: PathBuf,
    },
    /// It is something else.
    #[error("mount point {} is not a directory", point.display())]
    NotDirectory {
        /// The path.
        point: PathBuf,
    },
    /// Something is mounted there.
    #[error("mount point {} is busy: already a mount of {source_name}", point.display())]
    Busy {
        /// The directory.
        point: PathBuf,
        /// What is mounted there.
        source_name: String,
    },
    /// The directory cannot be looked at.
    #[error("mount point {} cannot be used: {source}", point.display())]
    Unusable {
        /// The directory.
        point: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no FUSE in this system.
    #[error("FUSE is not available (/dev/fuse: {source}); try `modprobe fuse`")]
    NoFuse {
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot mount at {}: {source}", point.display())]
    Refused {
        /// The directory.
        point: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Files are open in it, or somebody's current directory is there.
    #[error("{} is busy: files are open in it; close them or unmount lazily", point.display())]
    InUse {
        /// The directory.
        point: PathBuf,
    },
    /// It could not be unmounted.
    #[error("cannot unmount {}: {reason}", point.display())]
    Unmount {
        /// The directory.
        point: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The kernel's side broke.
    #[error("the mount broke: {reason}")]
    Broken {
        /// What the system said.
        reason: String,
    },
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mount {
    core: Arc<Core>,
    point: PathBuf,
    unmounter: Arc<Mutex<Option<SessionUnmounter>>>,
    permits: Arc<Semaphore>,
    requests_max: u32,
    shutdown: Shutdown,
    /// Set once the kernel let go: nothing, or why it broke.
    ended: watch::Receiver<Option<Result<(), String>>>,
    /// Held while the end is brought about; true once it was.
    finished: tokio::sync::Mutex<bool>,
}

impl Mount {
    /// Mounts at `point`. Returns once the kernel's requests are answered.
    ///
    /// # Errors
    /// When the directory cannot be mounted at; see `MountError`.
    pub async fn start(
        client: Client,
        point: &Path,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        let env = client.env.clone();
        let given = point.to_owned();
        let point = env.blocking(move || mount_point::check(&given)).await?;
        let core = Arc::new(Core::new(client));
        let permits = Arc::new(Semaphore::new(options.requests_max));
        let adapter = Adapter::new(core.clone(), permits.clone(), &options);
        let config = config(&options);
        let at = point.clone();
        let mounted = env
            .blocking(move || Session::new(adapter, &at, &config))
            .await;
        let mut session = mounted.map_err(|source| refused(&point, source))?;
        let unmounter = session.unmount_callable();
        let (end, ended) = watch::channel(None);
        env.spawn_thread("fuse-session", move || {
            let result = session.run().map_err(|error| error.to_string());
            end.send_replace(Some(result));
        })
        .map_err(|source| refused(&point, source))?;
        let at = point.clone();
        let readahead_kib = options.readahead_kib;
        env.blocking(move || set_readahead(&at, readahead_kib))
            .await;
        let shutdown = Shutdown::new();
        let reporter = Reporter::new(core.clone());
        let _reporter = Workers::default().start(&env, shutdown.signal(), reporter);
        Ok(Self {
            core,
            point,
            unmounter: Arc::new(Mutex::new(Some(unmounter))),
            permits,
            requests_max: u32::try_from(options.requests_max).unwrap_or(u32::MAX),
            shutdown,
            ended,
            finished: tokio::sync::Mutex::new(false),
        })
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Waits until somebody has unmounted it and everything is told to the cluster.
    ///
    /// # Errors
    /// When the kernel's side broke.
    pub async fn wait(&self) -> Result<(), MountError> {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => Some(Err(String::from("its thread is gone"))),
        };
        self.finish().await;
        match result {
            Some(Err(reason)) => Err(MountError::Broken { reason }),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Unmounts. When files are open in it the directory is freed all the same, they are served a little longer, and
    /// then everything is told to the cluster.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn unmount(&self) -> Result<(), MountError> {
        let env = self.core.env();
        let (unmounter, point) = (self.unmounter.clone(), self.point.clone());
        env.blocking(move || release_point(&unmounter, &point))
            .await?;
        let mut ended = self.ended.clone();
        let gone = ended.wait_for(Option::is_some);
        if env.timeout(DETACHED_LIMIT, gone).await.is_err() {
            tracing::warn!("files are still open; their processes will see errors");
        }
        self.finish().await;
        Ok(())
    }

    /// Tells the cluster everything. Once.
    async fn finish(&self) {
        let mut finished = self.finished.lock().await;
        if std::mem::replace(&mut *finished, true) {
            return;
        }
        self.shutdown.trigger();
        let (core, env) = (&self.core, self.core.env());
        // The permits are kept for good: nothing may start any more.
        let drained = self.permits.acquire_many(self.requests_max);
        match env.timeout(DRAIN_LIMIT, drained).await {
            Ok(Ok(permits)) => permits.forget(),
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!("requests are still under way"),
        }
        for handle in core.handles.remove_all() {
            let closing = core.clone();
            core.background.start(env, "close", async move {
                closing.close(handle).await;
            });
        }
        if env
            .timeout(FLUSH_LIMIT, core.background.idle())
            .await
            .is_err()
        {
            tracing::error!("gave up telling the cluster which files were closed");
        }
        core.client.end_session().await;
    }
}

/// Unmounts the directory at `point`, from any process.
///
/// # Errors
/// When files are open in it, or the system refuses.
pub fn unmount(point: &Path) -> Result<(), MountError> {
    take_down(point, UnmountFlags::NOFOLLOW)
}

/// Frees the directory at `point` at once; open files go on working while the daemon lives. The way to get rid of a
/// mount whose daemon is dead.
///
/// # Errors
/// When the system refuses.
pub fn unmount_lazy(point: &Path) -> Result<(), MountError> {
    take_down(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

fn take_down(point: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    match rustix::mount::unmount(point, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(MountError::InUse {
            point: point.to_owned(),
        }),
        // Only root may; everyone else has the helper.
        Err(rustix::io::Errno::PERM) => {
            take_down_by_helper(point, flags.contains(UnmountFlags::DETACH))
        }
        Err(error) => Err(MountError::Unmount {
            point: point.to_owned(),
            reason: error.to_string(),
        }),
    }
}

fn take_down_by_helper(point: &Path, lazy: bool) -> Result<(), MountError> {
    let failed = |reason: String| MountError::Unmount {
        point: point.to_owned(),
        reason,
    };
    let how = if lazy { "-uz" } else { "-u" };
    let mut helper = Command::new("fusermount3");
    let output = helper.arg(how).arg("--").arg(point).output();
    let output = output.map_err(|error| failed(format!("fusermount3: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        let point = point.to_owned();
        return Err(MountError::InUse { point });
    }
    Err(failed(said))
}

/// Frees the directory of our own mount, lazily when files are open.
fn release_point(
    unmounter: &Mutex<Option<SessionUnmounter>>,
    point: &Path,
) -> Result<(), MountError> {
    let Some(mut unmounter) = unmounter.lock().take() else {
        return Ok(());
    };
    match unmounter.unmount() {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::info!(%error, "unmounting lazily");
            unmount_lazy(point)
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let allow_other = options
        .allow_other
        .unwrap_or_else(|| rustix::process::geteuid().is_root());
    let flag = |on, yes, no| if on { yes } else { no };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(mount_point::NAME.to_owned()),
        // fuser drops `Subtype` when it mounts by itself; the kernel takes it as any other option.
        MountOption::CUSTOM(format!("subtype={}", mount_point::NAME)),
        // The kernel checks permissions with the attributes it has; meta checks them again.
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        flag(options.read_only, MountOption::RO, MountOption::RW),
        flag(options.suid, MountOption::Suid, MountOption::NoSuid),
        flag(options.exec, MountOption::Exec, MountOption::NoExec),
    ];
    config.acl = match allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(match options.threads {
        0 => std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8)),
        threads => threads,
    });
    config.clone_fd = true;
    config
}

fn refused(point: &Path, source: io::Error) -> MountError {
    if let Err(source) = std::fs::metadata("/dev/fuse") {
        return MountError::NoFuse { source };
    }
    MountError::Refused {
        point: point.to_owned(),
        source,
    }
}

/// Raises the kernel's read-ahead, which starts at 128 KiB whatever the daemon asks for. Root only; without it
/// sequential reads are slower and nothing else.
fn set_readahead(point: &Path, kib: u32) {
    let Some(device) = mount_point::device_at(point) else {
        return;
    };
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, kib.to_string()) {
        tracing::debug!(path, %error, "the read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_mount_is_one() {
        let options: MountOptions = "ro,noexec,noallow_other,threads=3".parse().unwrap();
        let config = config(&options);
        assert!(config.mount_options.contains(&MountOption::RO));
        assert!(config.mount_options.contains(&MountOption::NoExec));
        assert!(config.mount_options.contains(&MountOption::NoSuid));
        assert_eq!(config.acl, SessionACL::Owner);
        assert_eq!(config.n_threads, Some(3));
    }

    #[test]
    fn what_is_not_mounted_cannot_be_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        for result in [unmount(dir.path()), unmount_lazy(dir.path())] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("cannot unmount"), "{error}");
        }
    }
}
