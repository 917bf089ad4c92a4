//! One run: a cluster, trouble, repair, judgement.

use std::{sync::Arc, time::Duration};

use client::RoutingCache;
use common::{
    env::{Env, Task},
    shutdown::{Shutdown, ShutdownSignal},
};
use types::{checksum::Checksum, routing::RoutingInfo};

use crate::{
    checks::{chain_invariants, linearizable, replicas_equal},
    context::Context,
    faults::Faults,
    history::{Action, CELLS},
    panics,
    scenario::Scenario,
    world::World,
};

/// How long clients may take to finish what they began, after everything was made whole.
const FINISH_LIMIT: Duration = Duration::from_secs(120);
/// How long a run may take in all: nothing in it waits without an end, so one that takes longer is stuck.
const RUN_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Mistakes that can be made on purpose. Where each is made: search for its name.
///
/// - `skip-lease`: a node whose lease has run out answers all the same (M4);
/// - `acknowledge-early`: a change that the successor did not take is committed as if there were none (W11);
/// - `serve-pending`: a read takes what is pending without asking the last serving target (D2);
/// - `forget-channels`: a retry runs again (W2).
pub const MISTAKES: [&str; 4] = [
    "skip-lease",
    "acknowledge-early",
    "serve-pending",
    "forget-channels",
];

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Rules that were broken, each with what shows it.
    pub violations: Vec<String>,
    /// Operations of clients, and those of them that ended well.
    pub operations: (usize, usize),
    /// Things that broke, beside what the network did to single messages.
    pub faults: u32,
    /// Chunks whose history was too tangled to judge.
    pub undecided: u32,
    /// Simulated time.
    pub elapsed: Duration,
    /// Of the whole log.
    pub checksum: Checksum,
    /// The log.
    pub log: Vec<String>,
}

/// Runs one seed on this thread.
pub fn run(seed: u64) -> Report {
    run_with(seed, None)
}

/// Runs one seed, with a mistake of `MISTAKES` if one is given.
///
/// # Panics
/// When the system gives no runtime.
pub fn run_with(seed: u64, mistake: Option<&'static str>) -> Report {
    panics::watch();
    mgmtd::fix_randomness(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime needs a few descriptors");
    let mut report = runtime.block_on(async {
        let env = Env::seeded_with(seed, mistake);
        let scenario = Scenario::draw(&env);
        judge(seed, &env, scenario).await
    });
    // Whatever still hangs ends here, too.
    drop(runtime);
    let panics = panics::take();
    report.violations.extend(
        panics
            .into_iter()
            .map(|panic| format!("a task panicked: {panic}")),
    );
    report
}

async fn judge(seed: u64, env: &Env, scenario: Scenario) -> Report {
    let mut report = Report {
        seed,
        violations: Vec::new(),
        operations: (0, 0),
        faults: 0,
        undecided: 0,
        elapsed: Duration::ZERO,
        checksum: Checksum::default(),
        log: Vec::new(),
    };
    let mut world = match World::start(env, scenario).await {
        Ok(world) => world,
        Err(error) => {
            report.violations.push(error);
            return report;
        }
    };
    let context = world.context.clone();
    context.log.add(format_args!("{:?}", world.scenario));
    let mut faults = Faults::new();
    let lived = env.timeout(RUN_LIMIT, live(&mut world, &mut faults)).await;
    match lived {
        Ok(Ok(())) => context.violated(replicas_equal::check(&world)),
        Ok(Err(error)) => context.violated([error]),
        Err(_) => context.violated([format!("the run did not end within {RUN_LIMIT:?}")]),
    }
    let (broken, undecided) = linearizable::check(&context.history, world.scenario.chunks);
    context.violated(broken);
    report.violations = context.take_violations();
    report.faults = faults.count;
    report.undecided = undecided;
    report.operations = context.history.counts();
    report.elapsed = context.log.elapsed();
    (report.log, report.checksum) = context.log.take();
    context.network.remove_all();
    report
}

/// The trouble, the repair, and proof that the cluster works again.
async fn live(world: &mut World, faults: &mut Faults) -> Result<(), String> {
    let stop = Shutdown::new();
    let watch = watch_maps(world, stop.signal());
    let share =
        world.scenario.operations_per_chunk * world.scenario.chunks / world.scenario.clients;
    let clients = world.clients.clone().into_iter();
    let clients: Vec<Task<()>> = clients
        .map(|client| client.start(share.max(1), stop.signal()))
        .collect();
    faults.run(world).await?;
    faults.heal(world).await?;
    world.wait_until_whole().await?;
    stop.trigger();
    let finished = async {
        for client in clients {
            let _ended = client.join().await;
        }
    };
    let finished = world.context.env.timeout(FINISH_LIMIT, finished).await;
    finished.map_err(|_| format!("clients are not done {FINISH_LIMIT:?} after the repair"))?;
    let _ended = watch.join().await;
    prove(world).await
}

/// Every chunk takes a write and gives it back; before that it gives what is there. With these writes nothing is under way or
/// pending any more (W11), so replicas have to be equal after it.
async fn prove(world: &World) -> Result<(), String> {
    let client = &world.clients[0];
    for chunk in 0..world.scenario.chunks {
        for action in [Action::Read, client.write(0, CELLS), Action::Read] {
            let done = client.run(chunk, action).await;
            done.map_err(|status| {
                format!("{action:?} of chunk {chunk} in a whole cluster: {status}")
            })?;
        }
    }
    Ok(())
}

/// Looks at every map that is published.
fn watch_maps(world: &World, mut stop: ShutdownSignal) -> Task<()> {
    let (routing, context) = (world.routing.clone(), world.context.clone());
    world.context.env.spawn("sim-maps", async move {
        tokio::select! {
            () = look_at_maps(&routing, &context) => {}
            () = stop.wait() => {}
        }
    })
}

async fn look_at_maps(routing: &RoutingCache, context: &Context) {
    let mut maps = routing.subscribe();
    let mut before: Arc<RoutingInfo> = maps.borrow_and_update().clone();
    while maps.changed().await.is_ok() {
        let after = maps.borrow_and_update().clone();
        context.violated(chain_invariants::check(&before, &after));
        before = after;
    }
}
