//! `penstock bench`: how fast a part of the system is on this machine, beside what the disk gives to fio.
//!
//! What benchmarks have in common is in the crate `measure`.

mod chain;
mod load;

use common::env::Env;

use crate::args::{BenchArgs, BenchCommand};

/// Runs one benchmark.
pub(crate) async fn run(env: &Env, args: BenchArgs) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Chain(args) => chain::run(env, &args).await,
    }
}
