//! The one binary `penstock`: every role, the mount, a whole cluster on one machine, and the operator's
//! commands.
//!
//! Exit codes are a contract: 0 done, 1 failed, 2 wrong usage (an unknown flag, configuration key or
//! name). Results go to standard output, everything else to standard error.

mod admin;
mod args;
mod bench;
mod cluster;
mod dev;
mod error;
mod mount;
mod mount_helper;
mod mount_table;
mod out;
mod serve;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use common::env::Env;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse_from(mount_helper::rewrite(std::env::args_os().collect()));
    if args.new_session
        && let Err(error) = rustix::process::setsid()
    {
        // Harmless: the process only stays in the session it was started in.
        out::warn(&format!("cannot start a session of its own: {error}"));
    }
    if let Some(parent) = args.end_with
        && let Err(error) = end_with(parent)
    {
        out::warn(&error::text(&error));
        return ExitCode::from(error::FAILED);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            out::warn(&format!(
                "cannot start: {error}; too many processes or threads here?"
            ));
            return ExitCode::from(error::FAILED);
        }
    };
    let ended = runtime.block_on(run(args.command));
    // A call into a mount that hangs must not keep a command from ending.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::warn(&error::text(&error));
            ExitCode::from(error::exit_code(&error))
        }
    }
}

/// Lets the kernel kill this process when the one that started it ends.
fn end_with(parent: u32) -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("tie this process to its caller")?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    anyhow::ensure!(now == Some(parent), "process {parent} has ended already");
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<()> {
    let env = Env::real();
    match command {
        Command::Dev(args) => dev::run(&env, args).await,
        Command::Status(args) => admin::status::run(&env, &args).await,
        Command::Admin(args) => admin::run(&env, &args).await,
        Command::Bench(args) => bench::run(&env, args).await,
        Command::Mount(args) => mount::mount(&env, args).await,
        Command::Umount(args) => mount::umount(&env, &args).await,
        Command::Mgmtd(args) => serve::mgmtd(&env, &args).await,
        Command::Meta(args) => serve::meta(&env, &args).await,
        Command::Storage(args) => serve::storage(&env, &args).await,
    }
}
