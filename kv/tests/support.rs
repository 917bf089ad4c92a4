//! What the tests of the embedded store share: opening it, and running a part of a test in another process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use common::{data_dir::DataDirError, env::Env, shutdown::Shutdown};
use kv::{
    Kv, KvError, ReadMode,
    embedded::{EmbeddedConfig, EmbeddedKv, OpenError, SyncPolicy},
};

/// Tells a child process in which directory to work.
pub(crate) const CHILD_DIR: &str = "PENSTOCK_KV_TEST_DIR";

pub(crate) fn open_with(dir: &Path, config: EmbeddedConfig) -> Result<Arc<EmbeddedKv>, OpenError> {
    // It must outlive the store: a signal without its sender counts as given.
    let shutdown = Box::leak(Box::new(Shutdown::new()));
    EmbeddedKv::open(&Env::real(), dir, config, shutdown.signal())
}

/// Syncs only when asked.
pub(crate) fn lazy() -> EmbeddedConfig {
    EmbeddedConfig {
        sync: SyncPolicy::Interval(3_600_000),
        ..EmbeddedConfig::default()
    }
}

/// Opens a store that may have been closed a moment ago: while another test starts a child process, that
/// holds copies of our descriptors, and with them the lock, until it has become another program.
pub(crate) async fn try_reopen(
    dir: &Path,
    config: EmbeddedConfig,
) -> Result<Arc<EmbeddedKv>, OpenError> {
    let env = Env::real();
    let deadline = env.now() + Duration::from_secs(10);
    loop {
        match open_with(dir, config.clone()) {
            Err(OpenError::Directory(DataDirError::InUse { .. })) if env.now() < deadline => {
                env.sleep(Duration::from_millis(5)).await;
            }
            opened => return opened,
        }
    }
}

pub(crate) async fn open(dir: &Path) -> Arc<EmbeddedKv> {
    let opened = try_reopen(dir, EmbeddedConfig::default()).await;
    opened.unwrap()
}

/// Frees the directory.
pub(crate) async fn close(kv: Arc<EmbeddedKv>) {
    kv.close().await.unwrap();
}

pub(crate) async fn set(kv: &dyn Kv, key: &str, value: &str) -> Result<(), KvError> {
    let mut txn = kv.begin();
    txn.set(key.as_bytes(), value.as_bytes());
    txn.commit().await.map(|_version| ())
}

pub(crate) async fn get(kv: &dyn Kv, key: &str) -> Option<Bytes> {
    let mut txn = kv.begin();
    txn.get(key.as_bytes(), ReadMode::Snapshot).await.unwrap()
}

/// Runs the test `name` of this binary in another process, there with `CHILD_DIR` set. `limit_blocks` bounds
/// the size of files that it may write, in the units of `ulimit -f`.
pub(crate) fn child(name: &str, dir: &Path, limit_blocks: Option<u32>) -> Child {
    let limit = limit_blocks.map_or("unlimited".to_owned(), |blocks| blocks.to_string());
    Command::new("sh")
        .args(["-c", "ulimit -f $0; exec \"$@\"", &limit])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The complete lines of a child that contain `mark`, cut to what follows it.
pub(crate) fn marked_lines(
    child: &mut Child,
    mark: &'static str,
) -> impl Iterator<Item = String> + use<> {
    let output = BufReader::new(child.stdout.take().unwrap());
    let complete = output.split(b'\n').map_while(Result::ok);
    complete.filter_map(move |line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        let (_before, after) = line.split_once(mark)?;
        Some(after.trim().to_owned())
    })
}
