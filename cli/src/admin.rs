//! `penstock admin NOUN VERB`: one file per noun. Lists come as tables for people and, with `--json`,
//! as arrays of objects for programs; the shapes of those are a contract (docs/operations.md).

mod chain;
mod disk;
mod node;
pub(crate) mod status;
mod target;

use common::env::Env;
use types::id::ChainId;

use crate::{
    args::{AdminArgs, ChainVerb, DiskVerb, ListVerb, Noun},
    cluster::{self, Cluster},
};

/// Runs one command.
pub(crate) async fn run(env: &Env, args: &AdminArgs) -> anyhow::Result<()> {
    let cluster = || Cluster::open(env, &cluster::file(&args.cluster)?);
    match &args.noun {
        Noun::Node(ListVerb::List) => node::list(&cluster()?, args.json).await,
        Noun::Target(ListVerb::List) => target::list(&cluster()?, args.json).await,
        Noun::Chain(ChainVerb::List) => chain::list(&cluster()?, args.json).await,
        Noun::Chain(ChainVerb::Show { id }) => {
            chain::show::run(&cluster()?, id.map(ChainId), args.json).await
        }
        Noun::Disk(DiskVerb::Check(check)) => disk::check(env, check, args.json).await,
    }
}

/// A state as its JSON word, for tables.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}
