//! Runs one role: reads its configuration, starts logging, serves until SIGTERM or Ctrl-C, ends in order.

use std::fmt;

use anyhow::Context as _;
use common::{
    config::{self, Config, ConfigError},
    env::Env,
    logging::{self, LogFormat},
    shutdown::{self, Shutdown},
};
use meta::MetaConfig;
use mgmtd::MgmtdConfig;
use storage::StorageConfig;

use crate::{args::ServeArgs, error::Usage, out};

/// A cluster manager.
pub(crate) async fn mgmtd(env: &Env, args: &ServeArgs) -> anyhow::Result<()> {
    let Some(config) = configure::<MgmtdConfig>(args)? else {
        return Ok(());
    };
    start_logging(&config.log, config.log_format)?;
    let shutdown = Shutdown::new();
    let running = mgmtd::serve(config, env.clone(), shutdown.clone())
        .await
        .context("start the manager")?;
    until_told(env, "mgmtd", running.address(), &shutdown).await?;
    running.join().await;
    Ok(())
}

/// A metadata server.
pub(crate) async fn meta(env: &Env, args: &ServeArgs) -> anyhow::Result<()> {
    let Some(config) = configure::<MetaConfig>(args)? else {
        return Ok(());
    };
    start_logging(&config.log, config.log_format)?;
    let shutdown = Shutdown::new();
    let running = meta::serve(config, env.clone(), shutdown.clone())
        .await
        .context("start the metadata server")?;
    until_told(env, "meta", running.address(), &shutdown).await?;
    running.join().await;
    Ok(())
}

/// A storage node.
pub(crate) async fn storage(env: &Env, args: &ServeArgs) -> anyhow::Result<()> {
    let Some(config) = configure::<StorageConfig>(args)? else {
        return Ok(());
    };
    start_logging(&config.log, config.log_format)?;
    let shutdown = Shutdown::new();
    let running = storage::serve(config, env.clone(), shutdown.clone())
        .await
        .context("start the storage node")?;
    until_told(env, "storage", running.address(), &shutdown).await?;
    running.join().await;
    Ok(())
}

/// The configuration; `None` when it was only to be printed.
fn configure<C: Config>(args: &ServeArgs) -> anyhow::Result<Option<C>> {
    let config = match &args.config {
        None => C::default(),
        Some(path) => match config::load::<C>(path) {
            Ok(config) => config,
            Err(error @ ConfigError::Read { .. }) => {
                return Err(error).context("--print-config shows what such a file holds");
            }
            Err(error @ (ConfigError::UnknownKey { .. } | ConfigError::Invalid(_))) => {
                return Err(Usage(format!("{}: {error}", path.display())).into());
            }
        },
    };
    if args.print_config {
        out::say(config::print(&config).trim_end());
        return Ok(None);
    }
    Ok(Some(config))
}

/// Starts logging; a filter that is not understood is wrong usage.
pub(crate) fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    logging::init(filter, format)
        .map_err(|error| Usage(format!("log: `{filter}` is not a log filter: {error}")).into())
}

/// Returns when the process was asked to end, and has passed that on.
async fn until_told(
    env: &Env,
    role: &'static str,
    address: impl fmt::Display,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    tracing::info!(role, %address, pid = std::process::id(), wall = env.wall().0, "serving");
    shutdown::termination()
        .await
        .context("listen for SIGTERM and SIGINT")?;
    tracing::info!(role, "asked to end");
    shutdown.trigger();
    Ok(())
}
