//! `dev up`: from nothing, a crash or a `dev down` to a mount that has proved itself.
//!
//! 1. The shape: chosen when the cluster is made, checked against what is asked afterwards.
//! 2. Every service that does not run is started, all at once; `/healthz` of each says when it is ready.
//! 3. Chains are made when there are none.
//! 4. What a crashed mount left is taken away, the mount is started, a file is written and read back.
//!
//! A failure leaves what runs running, so that one can look at it; `dev down` ends it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use common::{
    env::{Env, Instant},
    health,
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{
    chains, check, configs, lock, mounting,
    paths::Paths,
    services::{self, Started},
    state::{ServiceKind, Shape, State},
};
use crate::{
    args::{DevUpArgs, KvBackend, Transport},
    error::Usage,
    mount_table, out,
};

/// How long the mount may take to write and read one small file.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// Runs the command.
pub(crate) async fn run(env: &Env, args: &DevUpArgs) -> anyhow::Result<()> {
    refuse_unbuilt(args)?;
    let begin = env.now();
    let deadline = begin + Duration::from_secs(args.timeout);
    let paths = Paths::create(&args.data.data)?;
    let _lock = lock::take(&paths)?;
    let mut state = load_or_plan(env, args, &paths)?;
    state.save(&paths)?;
    configs::write_missing(&paths, &state)?;
    choose_mount(args, &mut state)?;
    if is_up(env, &mut state).await {
        out::say("already up");
        summary(&paths, &mut state);
        return Ok(());
    }
    start_servers(env, &paths, &mut state, deadline).await?;
    chains::ensure(env, &paths.cluster(), &state.shape, deadline).await?;
    start_mount(env, &paths, &mut state, deadline).await?;
    check::works(env, state.mount().address.as_ref(), CHECK_LIMIT).await?;
    let seconds = env.now().duration_since(begin).as_secs_f64();
    out::say(&format!("up after {seconds:.1} s"));
    summary(&paths, &mut state);
    Ok(())
}

fn refuse_unbuilt(args: &DevUpArgs) -> anyhow::Result<()> {
    if args.transport == Transport::Shm {
        bail!("--transport shm: not built yet; use --transport tcp");
    }
    if args.kv == KvBackend::Fdb {
        bail!("--kv fdb: not built yet; use --kv embedded");
    }
    if args.meta.unwrap_or(1) > 1 {
        bail!(Usage(
            "--meta: the embedded key-value store belongs to one metadata server; several need \
             --kv fdb, which is not built yet; use --meta 1"
                .to_owned()
        ));
    }
    Ok(())
}

fn load_or_plan(env: &Env, args: &DevUpArgs, paths: &Paths) -> anyhow::Result<State> {
    if let Some(state) = State::load(paths)? {
        check_shape(args, &state.shape)?;
        return Ok(state);
    }
    refuse_foreign(paths)?;
    let storage = args.storage.unwrap_or(3);
    let shape = Shape {
        storage,
        replicas: args.replicas.unwrap_or(3.min(storage)),
        meta: args.meta.unwrap_or(1),
        mgmtd: args.mgmtd.unwrap_or(1),
        chains: args.chains.unwrap_or(2 * storage),
        transport: args.transport,
        kv: args.kv,
    };
    if shape.replicas > storage {
        bail!(Usage(format!(
            "--replicas {}: each copy needs a storage node of its own and there are {storage}; use \
             --storage {} or fewer replicas",
            shape.replicas, shape.replicas
        )));
    }
    let mount = paths.mount();
    Ok(State::new(
        paths,
        shape,
        services::plan(env, paths, &shape, &mount)?,
    ))
}

/// A directory with other things in it was named by mistake.
fn refuse_foreign(paths: &Paths) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(paths.root())
        .with_context(|| format!("cannot list {}", paths.root().display()))?;
    for entry in entries {
        let name = entry?.file_name();
        if name != "dev.lock" && name != "lost+found" {
            bail!(
                "{} is not empty and holds no cluster; name an empty or a new directory with --data",
                paths.root().display()
            );
        }
    }
    Ok(())
}

fn check_shape(args: &DevUpArgs, shape: &Shape) -> anyhow::Result<()> {
    for (flag, asked, made) in [
        ("storage", args.storage, shape.storage),
        ("replicas", args.replicas, shape.replicas),
        ("meta", args.meta, shape.meta),
        ("mgmtd", args.mgmtd, shape.mgmtd),
        ("chains", args.chains, shape.chains),
    ] {
        if asked.is_some_and(|asked| asked != made) {
            bail!(
                "this cluster was made with --{flag} {made}, which is kept; leave --{flag} away, or \
                 make another cluster with another --data"
            );
        }
    }
    Ok(())
}

/// Takes a new mount point from the command line.
fn choose_mount(args: &DevUpArgs, state: &mut State) -> anyhow::Result<()> {
    let Some(asked) = &args.mount else {
        return Ok(());
    };
    if let Some(parent) = std::path::absolute(asked)?.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
    }
    let asked = mount_table::absolute(asked)
        .with_context(|| format!("cannot use the mount point {}", asked.display()))?;
    let mount = state.mount();
    if asked.as_os_str() == mount.address.as_str() {
        return Ok(());
    }
    if mount.running().is_some() {
        bail!(
            "the cluster is mounted at {}; run `penstock dev down` first to mount it at {}",
            mount.address,
            asked.display()
        );
    }
    mounting::refuse_foreign(&asked)?;
    mount.address = asked.display().to_string();
    Ok(())
}

/// Whether all services run and are ready and the mount is there.
async fn is_up(env: &Env, state: &mut State) -> bool {
    for service in &state.services {
        if service.running().is_none()
            || health::ask(env, &service.admin_address).await != health::Health::Ready
        {
            return false;
        }
    }
    let point = PathBuf::from(&state.mount().address);
    mount_table::mounted_at(&point).is_ok_and(|entry| entry.is_some())
}

async fn start_servers(
    env: &Env,
    paths: &Paths,
    state: &mut State,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut started: Vec<Option<Started>> = Vec::new();
    for index in 0..state.services.len() {
        let service = &state.services[index];
        let wanted = service.kind != ServiceKind::Mount && service.running().is_none();
        started.push(
            wanted
                .then(|| services::start(paths, state, index))
                .transpose()?,
        );
    }
    let begin = env.now();
    let servers = state.services.iter().zip(&started);
    let mut waits: FuturesUnordered<_> = servers
        .filter(|(service, _)| service.kind != ServiceKind::Mount)
        .map(async |(service, started)| {
            let ready = services::wait_ready(env, service, started.as_ref(), deadline).await;
            (service, ready)
        })
        .collect();
    while let Some((service, ready)) = waits.next().await {
        ready?;
        let seconds = env.now().duration_since(begin).as_secs_f64();
        out::say(&format!("  {:<12} ready ({seconds:.1} s)", service.name));
    }
    Ok(())
}

async fn start_mount(
    env: &Env,
    paths: &Paths,
    state: &mut State,
    deadline: Instant,
) -> anyhow::Result<()> {
    let index = state.find("mount")?;
    let point = PathBuf::from(&state.services[index].address);
    let mut started = None;
    if state.services[index].running().is_none() {
        mounting::prepare(env, &point).await?;
        started = Some(services::start(paths, state, index)?);
    }
    services::wait_ready(env, &state.services[index], started.as_ref(), deadline).await?;
    if mount_table::mounted_at(&point)?.is_none() {
        bail!(
            "the mount process runs, but nothing is mounted at {}; run `penstock dev kill mount`, then \
             `penstock dev up` again",
            point.display()
        );
    }
    out::say(&format!("  {:<12} ready", "mount"));
    Ok(())
}

fn summary(paths: &Paths, state: &mut State) {
    let data = paths.root().display().to_string();
    let shape = state.shape;
    let mount = &state.mount().address;
    out::say(&format!(
        "\nmounted at {mount}\n{} storage nodes, {} copies of everything\n\n\
         next:\n\
         \x20 export PENSTOCK_DATA={data}\n\
         \x20 export PENSTOCK_CLUSTER={data}/cluster.toml\n\
         \x20 penstock dev status            what runs\n\
         \x20 penstock status                is it healthy\n\
         \x20 penstock dev kill storage-1    a crash; `penstock dev start storage-1` repairs it\n\
         \x20 penstock dev down              stop everything; the data stays",
        shape.storage, shape.replicas
    ));
}
