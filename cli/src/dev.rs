//! `penstock dev`: a whole cluster on this machine, each service a process of its own.
//!
//! Everything of a cluster lives below one directory; `dev.json` there says which services it has and
//! which processes run them. A process is known by its id *and* its start time, so a recycled process
//! id is never signalled. One `dev` command at a time: a lock file.

mod chains;
mod check;
mod configs;
mod control;
mod down;
mod lock;
mod mounting;
mod paths;
mod ports;
mod process;
mod services;
mod state;
mod status;
mod up;

use common::env::Env;

use crate::args::{DevArgs, DevCommand};

/// Runs one `dev` command.
pub(crate) async fn run(env: &Env, args: DevArgs) -> anyhow::Result<()> {
    match args.command {
        DevCommand::Up(args) => up::run(env, &args).await,
        DevCommand::Status { data, json } => status::run(env, &data.data, json).await,
        DevCommand::Kill { name, signal, data } => {
            control::kill(env, &data.data, &name, &signal).await
        }
        DevCommand::Start { name, data } => control::start(env, &data.data, &name).await,
        DevCommand::Down { data } => down::run(env, &data.data).await,
    }
}
