//! `dev kill` and `dev start`: take one service away and bring it back.

use std::{path::Path, time::Duration};

use anyhow::bail;
use common::env::Env;
use rustix::process::Signal;

use super::{
    lock, mounting,
    paths::Paths,
    process::{self, Lifetime},
    services,
    state::{ServiceKind, State},
};
use crate::{error::Usage, out};

/// How long a service may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Sends a signal to a service.
pub(crate) async fn kill(env: &Env, dir: &Path, name: &str, signal: &str) -> anyhow::Result<()> {
    let Some(number) = process::parse_signal(signal) else {
        bail!(Usage(format!(
            "--signal {signal}: not a signal; use a number or a name, for example 9, KILL, TERM, STOP"
        )));
    };
    let paths = Paths::open(dir)?;
    let _lock = lock::take(&paths)?;
    let state = State::require(&paths)?;
    let service = &state.services[state.find(name)?];
    let sent = match &service.process {
        Some(process) => process.signal(number)?.then_some(process),
        None => None,
    };
    let Some(process) = sent else {
        bail!("{name} is not running; start it with `penstock dev start {name}`");
    };
    if number == Signal::KILL && !process.wait_end(env, KILL_LIMIT).await {
        bail!(
            "{name} (process {}) does not end; the kernel holds it",
            process.pid
        );
    }
    out::say(&format!(
        "sent signal {} to {name} (process {})",
        number.as_raw(),
        process.pid
    ));
    Ok(())
}

/// Starts a service again.
pub(crate) async fn start(env: &Env, dir: &Path, name: &str) -> anyhow::Result<()> {
    let paths = Paths::open(dir)?;
    let _lock = lock::take(&paths)?;
    let mut state = State::require(&paths)?;
    let index = state.find(name)?;
    if let Some(process) = state.services[index].running() {
        out::say(&format!("{name} already runs (process {})", process.pid));
        return Ok(());
    }
    if state.services[index].kind == ServiceKind::Mount {
        mounting::prepare(env, state.services[index].address.as_ref()).await?;
    }
    let begin = env.now();
    let started = services::start(&paths, &mut state, index, Lifetime::Its)?;
    let (service, deadline) = (&state.services[index], begin + START_LIMIT);
    services::wait_ready(env, service, Some(&started), deadline, out::say).await?;
    let seconds = env.now().duration_since(begin).as_secs_f64();
    out::say(&format!("{name} is ready ({seconds:.1} s)"));
    Ok(())
}
