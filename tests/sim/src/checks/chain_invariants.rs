//! C3: the target set of a chain is unchanged; at most one is syncing, directly after the last that serves; last-serving only
//! where nothing serves; a chain comes back from "nothing serves" only through a last-serving target. M1: versions only rise.

use std::collections::BTreeSet;

use types::{
    chain::Chain,
    id::TargetId,
    routing::RoutingInfo,
    target::PublicState::{LastServing, Serving, Syncing},
};

/// Compares a map with the one known before it.
pub fn check(before: &RoutingInfo, after: &RoutingInfo) -> Vec<String> {
    let mut violations = Vec::new();
    if after.version < before.version {
        violations.push(format!(
            "the map went from {:?} to {:?}",
            before.version, after.version
        ));
    }
    for chain in after.chains.values() {
        let old = before.chains.get(&chain.id);
        let broken = broken_rules(chain)
            .into_iter()
            .chain(old.into_iter().flat_map(|old| {
                // Several changes may lie between the two maps.
                let next = chain.version.0 == old.version.0 + 1;
                broken_steps(old, chain, next)
            }));
        violations.extend(broken.map(|rule| format!("{rule}: {old:?} became {chain:?}")));
    }
    violations
}

fn broken_rules(chain: &Chain) -> Vec<&'static str> {
    let states: Vec<_> = chain.targets.iter().map(|target| target.state).collect();
    let count = |state| states.iter().filter(|found| **found == state).count();
    let mut broken = Vec::new();
    if count(Syncing) > 1 {
        broken.push("more than one syncs");
    }
    if let Some(syncing) = states.iter().position(|state| *state == Syncing)
        && (syncing != count(Serving) || count(Serving) == 0)
    {
        broken.push("the syncing one does not follow the last that serves");
    }
    if count(LastServing) > 0 && count(Serving) > 0 {
        broken.push("one is last-serving while another serves");
    }
    broken
}

fn broken_steps(old: &Chain, new: &Chain, next: bool) -> Vec<&'static str> {
    let ids = |chain: &Chain| -> BTreeSet<TargetId> {
        chain.targets.iter().map(|target| target.id).collect()
    };
    let mut broken = Vec::new();
    if new.version < old.version {
        broken.push("a chain version went back");
    }
    if new.version == old.version && new != old {
        broken.push("a chain changed without a new version");
    }
    if ids(old) != ids(new) {
        broken.push("the targets of a chain changed");
    }
    let served = old.serving().next().is_some();
    if next && !served && new.serving().next().is_some() {
        let last = old
            .targets
            .iter()
            .filter(|target| target.state == LastServing);
        let last: BTreeSet<TargetId> = last.map(|target| target.id).collect();
        if new.serving().any(|target| !last.contains(&target)) {
            broken.push("a chain came back through a target that was not last-serving");
        }
    }
    broken
}
