//! The mount point of a development cluster: made when missing, cleared of what a crashed mount left.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use common::env::Env;

use crate::mount_table;

/// A kernel call on a mount takes milliseconds; one that takes longer hangs on a dead daemon.
const LIMIT: Duration = Duration::from_secs(5);

/// Makes `point` a directory one can mount at. The mount process of this cluster must not be running: then a
/// mount of Penstock there is what a crash left, and is taken away.
pub(crate) async fn prepare(env: &Env, point: &Path) -> anyhow::Result<()> {
    clear_stale(env, point).await?;
    refuse_foreign(point)?;
    std::fs::create_dir_all(point)
        .with_context(|| format!("cannot make the mount point {}", point.display()))
}

/// Refuses a place where something else than Penstock is mounted.
pub(crate) fn refuse_foreign(point: &Path) -> anyhow::Result<()> {
    match mount_table::mounted_at(point)? {
        Some(entry) if !entry.is_penstock() => bail!(
            "the mount point {} is busy: a {} file system is mounted there; choose another with --mount",
            point.display(),
            entry.kind
        ),
        _ => Ok(()),
    }
}

/// Takes mounts of Penstock at `point` away whose daemon is gone; leaves everything else alone.
pub(crate) async fn clear_stale(env: &Env, point: &Path) -> anyhow::Result<()> {
    // One mount may lie on top of another; a handful is more than anyone makes.
    for _ in 0..8 {
        match mount_table::mounted_at(point)? {
            Some(entry) if entry.is_penstock() => {}
            _ => return Ok(()),
        }
        let path = point.to_owned();
        env.timeout(LIMIT, env.blocking(move || fuse::unmount_lazy(&path)))
            .await
            .with_context(|| format!("unmount {}", point.display()))??;
    }
    bail!(
        "{} is still mounted; unmount it with `umount -l`",
        point.display()
    )
}
