//! The leader's one decision loop: looks at all that is known whenever something new is, or when a lease runs out, and puts
//! what follows into the log as one entry.
//!
//! One decision at a time: a node that is declared failed gets no lease until the entry is applied, and the next look sees
//! the state that the entry led to. A decision that may or may not have reached the log is made again; entries of one term are
//! applied in order, so once a later one is applied the earlier one is too, or never will be.

use std::{sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    shutdown::ShutdownSignal,
};

use crate::{
    command::{Command, Observation},
    leadership::Leadership,
    manager::Manager,
    metrics,
};

/// How long an entry may take before it is proposed again.
const PROPOSAL_MAX: Duration = Duration::from_secs(2);
/// The pause after a proposal that failed.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Decides while this member leads; until shutdown.
pub(crate) async fn keep(
    env: Env,
    manager: Arc<Manager>,
    leadership: Leadership,
    mut shutdown: ShutdownSignal,
) {
    let mut terms = leadership.subscribe();
    while !shutdown.is_triggered() {
        terms.borrow_and_update();
        let plan = manager.lead(|memory, cluster, now| memory.leases.plan(now, cluster));
        let wake = match plan {
            Ok(plan) if plan.observation.is_empty() => plan.next,
            Ok(plan) => match decide(&env, &manager, plan.observation).await {
                true => continue,
                false => Some(env.now() + RETRY_AFTER),
            },
            Err(_not_leader) => None,
        };
        tokio::select! {
            () = manager.wait_for_news() => {}
            () = until(&env, wake) => {}
            changed = terms.changed() => if changed.is_err() { return },
            () = shutdown.wait() => {}
        }
    }
}

async fn until(env: &Env, wake: Option<Instant>) {
    match wake {
        Some(at) => env.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Puts a decision into the log; returns whether it is applied.
async fn decide(env: &Env, manager: &Manager, observation: Observation) -> bool {
    log(&observation);
    let chains = observation.chains.len();
    let deadline = env.now() + PROPOSAL_MAX;
    let proposed = manager
        .propose(Command::Observe(observation), deadline)
        .await;
    match proposed {
        Ok(_) => {
            metrics::chains_changed(chains);
            // When this member does not lead any more, the memory that this is about is gone anyway.
            manager.lead(|memory, _, _| memory.leases.decided()).is_ok()
        }
        Err(error) => {
            tracing::warn!(%error, "a decision is not in the log yet");
            false
        }
    }
}

fn log(observation: &Observation) {
    for (node, status) in &observation.nodes {
        tracing::info!(%node, ?status, "a node changes");
    }
    for chain in &observation.chains {
        let targets: Vec<String> = chain
            .targets
            .iter()
            .map(|target| format!("{} {:?}", target.id, target.state))
            .collect();
        tracing::info!(chain = %chain.id, version = %chain.version, targets = targets.join(", "), "a chain changes");
    }
}
