//! The chain state machine (protocol section 3): what becomes of a chain when the local states of its
//! targets are these. Pure: no clock, no randomness, the same input gives the same output.
//!
//! The table stands in `docs/design/replication.md`; a test reads it from there and compares it with
//! `evaluate` over every chain of up to four targets. `check_transition` holds what must be true of any
//! change; `evaluate` asserts it on its own result, so a wrong rule stops the manager before it can
//! reach the log.

use types::{
    chain::{Chain, ChainTarget},
    id::TargetId,
    target::{LocalState, PublicState},
};

#[cfg(test)]
mod tests;

/// Why a chain or a change of one is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// A target came, went, or stands there twice.
    #[error("the set of targets changed")]
    TargetSet,
    /// The version is not the old one plus one.
    #[error("the version is not the next one")]
    Version,
    /// The targets are not ordered by state.
    #[error("the targets are not in the order of their states")]
    Order,
    /// More than one target is being refilled, or none serves that could refill it.
    #[error("a Syncing target does not stand directly after the last Serving one")]
    Syncing,
    /// Some target is LastServing although another serves.
    #[error("a target is LastServing although another serves")]
    LastServing,
    /// Nobody serves and nobody is known to hold every acknowledged write.
    #[error("no target serves and none is LastServing")]
    Lost,
    /// A target serves that may lack acknowledged writes.
    #[error("target {target} serves but may lack acknowledged writes")]
    Incomplete {
        /// Which one.
        target: TargetId,
    },
    /// A target that held every acknowledged write was forgotten while nobody serves.
    #[error("target {target} left the last serving set while nobody serves")]
    Forgotten {
        /// Which one.
        target: TargetId,
    },
}

/// The chain after its targets were seen in these local states; `None` when nothing changes.
///
/// # Panics
/// When the result breaks an invariant: a bug here or a chain that was damaged before.
pub fn evaluate(chain: &Chain, local: &dyn Fn(TargetId) -> LocalState) -> Option<Chain> {
    let old = in_order(&chain.targets);
    let serving = serving_after(&old, local);
    let mut syncing = None;
    let mut targets: Vec<ChainTarget> = old
        .iter()
        .map(|target| {
            let state = if serving.contains(&target.id) {
                PublicState::Serving
            } else {
                not_serving(*target, local(target.id), !serving.is_empty(), &mut syncing)
            };
            ChainTarget {
                id: target.id,
                state,
            }
        })
        .collect();
    targets.sort_by_key(|target| rank(target.state));
    if targets == chain.targets {
        return None;
    }
    let new = Chain {
        id: chain.id,
        version: chain.version.next(),
        targets,
        preferred: chain.preferred.clone(),
    };
    if let Err(error) = check_transition(chain, &new) {
        panic!("chain {} cannot change so: {error}", chain.id);
    }
    Some(new)
}

/// The targets grouped by state; the order inside of a group stays.
pub(crate) fn in_order(targets: &[ChainTarget]) -> Vec<ChainTarget> {
    let mut targets = targets.to_vec();
    targets.sort_by_key(|target| rank(target.state));
    targets
}

fn rank(state: PublicState) -> usize {
    PublicState::ALL
        .iter()
        .position(|candidate| *candidate == state)
        .expect("ALL names every state")
}

/// Who serves in the new chain: who served and lives; else the first of the last serving set that
/// lives; and a target that was refilled to the end.
fn serving_after(old: &[ChainTarget], local: &dyn Fn(TargetId) -> LocalState) -> Vec<TargetId> {
    let alive = |state: PublicState| {
        old.iter()
            .filter(move |target| target.state == state && local(target.id).is_alive())
            .map(|target| target.id)
    };
    let mut serving: Vec<TargetId> = alive(PublicState::Serving).collect();
    if serving.is_empty() {
        serving.extend(alive(PublicState::LastServing).next());
    }
    serving.extend(
        alive(PublicState::Syncing).filter(|target| local(*target) == LocalState::UpToDate),
    );
    serving
}

/// The new state of a target that does not serve in the new chain.
fn not_serving(
    target: ChainTarget,
    local: LocalState,
    somebody_serves: bool,
    syncing: &mut Option<TargetId>,
) -> PublicState {
    let refilled = match target.state {
        PublicState::Serving | PublicState::LastServing if somebody_serves => false,
        PublicState::Serving | PublicState::LastServing => return PublicState::LastServing,
        PublicState::Syncing | PublicState::Waiting | PublicState::Offline => true,
    };
    match local {
        LocalState::Offline => PublicState::Offline,
        LocalState::Online if refilled && somebody_serves && syncing.is_none() => {
            *syncing = Some(target.id);
            PublicState::Syncing
        }
        LocalState::Online | LocalState::UpToDate => PublicState::Waiting,
    }
}

/// Checks what is true of every chain, however it came about.
///
/// # Errors
/// The first rule that is broken.
pub fn check_chain(chain: &Chain) -> Result<(), TransitionError> {
    let states: Vec<PublicState> = chain.targets.iter().map(|target| target.state).collect();
    if !states.is_sorted_by_key(|state| rank(*state)) {
        return Err(TransitionError::Order);
    }
    let count = |state| states.iter().filter(|other| **other == state).count();
    let serving = count(PublicState::Serving);
    let last_serving = count(PublicState::LastServing);
    if count(PublicState::Syncing) > usize::from(serving > 0) {
        return Err(TransitionError::Syncing);
    }
    match (serving, last_serving) {
        (0, 0) => Err(TransitionError::Lost),
        (1.., 1..) => Err(TransitionError::LastServing),
        _ => Ok(()),
    }
}

/// Checks what is true of every change by observation (protocol C3; operator actions have rules of their own).
///
/// # Errors
/// The first rule that is broken.
pub fn check_transition(old: &Chain, new: &Chain) -> Result<(), TransitionError> {
    if sorted_ids(old) != sorted_ids(new) {
        return Err(TransitionError::TargetSet);
    }
    if new.version.0 != old.version.0 + 1 {
        return Err(TransitionError::Version);
    }
    check_chain(new)?;
    let somebody_served = old.serving().next().is_some();
    for target in new.serving() {
        let complete = match old.state_of(target) {
            Some(PublicState::Serving | PublicState::LastServing) => true,
            Some(PublicState::Syncing) => somebody_served,
            Some(PublicState::Waiting | PublicState::Offline) | None => false,
        };
        if !complete {
            return Err(TransitionError::Incomplete { target });
        }
    }
    if new.serving().next().is_none() {
        let complete = |state| matches!(state, PublicState::Serving | PublicState::LastServing);
        for target in old.targets.iter().filter(|target| complete(target.state)) {
            if new.state_of(target.id) != Some(PublicState::LastServing) {
                return Err(TransitionError::Forgotten { target: target.id });
            }
        }
    }
    Ok(())
}

fn sorted_ids(chain: &Chain) -> Vec<TargetId> {
    let mut ids: Vec<TargetId> = chain.targets.iter().map(|target| target.id).collect();
    ids.sort_unstable();
    ids
}
