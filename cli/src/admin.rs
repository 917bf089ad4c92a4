//! `penstock admin NOUN VERB`: one file per noun. Lists come as tables for people and, with `--json`,
//! as arrays of objects for programs; the shapes of those are a contract (docs/operations.md).

mod chain;
mod chain_table;
mod disk;
mod manager;
mod node;
pub(crate) mod status;
mod target;

use common::env::Env;
use types::id::ChainId;

use crate::{
    args::{AdminArgs, ChainVerb, DiskVerb, ListVerb, ManagerVerb, Noun, TableVerb, TargetVerb},
    cluster::{self, Cluster},
};

/// Runs one command.
pub(crate) async fn run(env: &Env, args: &AdminArgs) -> anyhow::Result<()> {
    let cluster = || Cluster::open(env, &cluster::file(&args.cluster)?);
    match &args.noun {
        Noun::Node(ListVerb::List) => node::list(&cluster()?, args.json).await,
        Noun::Target(verb) => run_target(&cluster()?, verb, args.json).await,
        Noun::Chain(verb) => run_chain(&cluster()?, verb, args.json).await,
        Noun::Table(TableVerb::List) => chain_table::list(&cluster()?, args.json).await,
        Noun::Table(TableVerb::Append(append)) => {
            chain_table::append(&cluster()?, append, args.json).await
        }
        Noun::Manager(ManagerVerb::List) => manager::list(&cluster()?, args.json).await,
        Noun::Manager(ManagerVerb::Add(add)) => manager::add(&cluster()?, add, args.json).await,
        Noun::Manager(ManagerVerb::Remove(remove)) => {
            manager::remove(&cluster()?, remove, args.json).await
        }
        Noun::Disk(DiskVerb::Check(check)) => disk::check(env, check, args.json).await,
    }
}

async fn run_target(cluster: &Cluster, verb: &TargetVerb, json: bool) -> anyhow::Result<()> {
    match verb {
        TargetVerb::List => target::list(cluster, json).await,
        TargetVerb::Add(add) => target::add(cluster, add, json).await,
        TargetVerb::Remove(remove) => target::remove(cluster, remove, json).await,
    }
}

async fn run_chain(cluster: &Cluster, verb: &ChainVerb, json: bool) -> anyhow::Result<()> {
    match verb {
        ChainVerb::List => chain::list(cluster, json).await,
        ChainVerb::Show { id } => chain::show::run(cluster, id.map(ChainId), json).await,
        ChainVerb::Create(create) => chain::create(cluster, create, json).await,
        ChainVerb::Order(order) => chain::order(cluster, order, json).await,
        ChainVerb::Rotate(rotate) => chain::rotate(cluster, rotate, json).await,
        ChainVerb::ForceLastServing(force) => chain::force(cluster, force, json).await,
        ChainVerb::Losses => chain::losses(cluster, json).await,
    }
}

/// A state as its JSON word, for tables.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}
