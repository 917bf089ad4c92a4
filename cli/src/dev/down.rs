//! `dev down`: the mount first, so that everything written gets flushed while there are servers to
//! take it; then all servers at once. Leaves no mount and no process.

use std::{path::PathBuf, time::Duration};

use common::env::Env;
use rustix::process::Signal;

use super::{
    lock, mounting,
    paths::Paths,
    state::{Service, ServiceKind, State},
};
use crate::out;

/// How long the mount may flush.
const MOUNT_LIMIT: Duration = Duration::from_secs(15);
/// How long a server may take to end in an orderly way.
const SERVER_LIMIT: Duration = Duration::from_secs(5);
/// The kernel ends a killed process at once, unless it sits in a device driver.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) async fn run(env: &Env, dir: &std::path::Path) -> anyhow::Result<()> {
    let paths = Paths::open(dir)?;
    let _lock = lock::take(&paths)?;
    let mut state = State::require(&paths)?;
    let point = PathBuf::from(&state.mount().address);
    let running = state
        .services
        .iter()
        .filter(|s| s.running().is_some())
        .count();
    end(env, state.mount(), MOUNT_LIMIT).await?;
    // The servers are to be stopped in any case.
    let cleared = mounting::clear_stale(env, &point).await;
    let servers = state
        .services
        .iter_mut()
        .filter(|service| service.kind != ServiceKind::Mount);
    let ended = futures::future::join_all(servers.map(|s| end(env, s, SERVER_LIMIT))).await;
    state.save(&paths)?;
    for result in ended {
        result?;
    }
    cleared?;
    match running {
        0 => out::say("nothing was running"),
        count => out::say(&format!(
            "stopped {count} services; the data stays in {}",
            dir.display()
        )),
    }
    Ok(())
}

/// Ends a service: SIGTERM, and SIGKILL after `limit`.
async fn end(env: &Env, service: &mut Service, limit: Duration) -> anyhow::Result<()> {
    let Some(process) = &service.process else {
        return Ok(());
    };
    process.signal(Signal::TERM)?;
    // A stopped process (dev kill --signal STOP) hears nothing before it goes on.
    process.signal(Signal::CONT)?;
    if !process.wait_end(env, limit).await {
        out::warn(&format!(
            "{} did not end within {} s and was killed; its log is {}",
            service.name,
            limit.as_secs(),
            service.log.display()
        ));
        process.signal(Signal::KILL)?;
        if !process.wait_end(env, KILL_LIMIT).await {
            anyhow::bail!(
                "{} (process {}) cannot be killed; the kernel holds it, look at `dmesg`",
                service.name,
                process.pid
            );
        }
    }
    service.process = None;
    Ok(())
}
