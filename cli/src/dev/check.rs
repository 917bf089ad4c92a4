//! Proves that the mount works: a small file is written, flushed to stable storage, read back and removed.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use common::env::Env;

const NAME: &str = ".penstock-dev-check";

/// Writes and reads back within `limit`.
pub(crate) async fn works(env: &Env, mount: &Path, limit: Duration) -> anyhow::Result<()> {
    let path = mount.join(NAME);
    let content = format!("penstock {:016x}\n", env.random_u64());
    let work = env.blocking(move || write_and_read(&path, &content));
    match env.timeout(limit, work).await {
        Ok(done) => done.with_context(|| format!("the mount {} does not work", mount.display())),
        Err(_) => bail!(
            "the mount {} does not answer within {} s; `penstock dev status` and the logs say more",
            mount.display(),
            limit.as_secs()
        ),
    }
}

fn write_and_read(path: &PathBuf, content: &str) -> anyhow::Result<()> {
    let mut file = File::create(path).context("make a file")?;
    file.write_all(content.as_bytes()).context("write a file")?;
    file.sync_all().context("sync a file")?;
    drop(file);
    let found = fs::read_to_string(path).context("read the file back")?;
    if found != content {
        bail!("a file holds something else than was written");
    }
    fs::remove_file(path).context("remove the file")
}
