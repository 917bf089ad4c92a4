//! What is broken now, as whoever breaks it knows, and who should be served all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use types::{chain::Chain, routing::RoutingInfo, target::PublicState};

use crate::{
    host::{CLIENTS, Host, MANAGERS},
    stalls::{Gaps, Moment, Service, Stall, stalls},
};

/// See the module's text. Clones are the same ground.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    env: Env,
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Faults that are on, by number, with the hosts that are not to be counted on.
    faults: BTreeMap<u32, (String, BTreeSet<Host>)>,
    /// Two storage nodes that cannot reach each other.
    split: bool,
    map: Arc<RoutingInfo>,
    what: String,
    moments: Vec<Moment>,
    gaps: Gaps,
    found: Vec<Stall>,
}

impl Ground {
    pub(crate) fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            start: env.now(),
            inner: Arc::default(),
        }
    }

    /// Tells whoever watches, with the time.
    #[allow(clippy::print_stdout, reason = "what happens is this program's output")]
    pub(crate) fn say(&self, text: fmt::Arguments<'_>) {
        println!("{:8.1} {text}", self.elapsed().as_secs_f64());
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.env.now() - self.start
    }

    /// A fault begins: these hosts cannot be counted on.
    pub(crate) fn broke(&self, number: u32, what: &str, hosts: impl IntoIterator<Item = Host>) {
        let at = self.elapsed();
        let mut inner = self.inner.lock();
        let hosts = hosts.into_iter().collect();
        inner.faults.insert(number, (what.to_owned(), hosts));
        inner.what = what.to_owned();
        inner.note(at, true);
    }

    /// A fault is over.
    pub(crate) fn mended(&self, number: u32, what: &str) {
        let at = self.elapsed();
        let mut inner = self.inner.lock();
        inner.faults.remove(&number);
        inner.what = what.to_owned();
        inner.note(at, false);
    }

    /// Two storage nodes cannot reach each other, or can again.
    pub(crate) fn set_split(&self, split: bool) {
        self.inner.lock().split = split;
    }

    /// There is a new map.
    pub(crate) fn map(&self, map: Arc<RoutingInfo>) {
        let at = self.elapsed();
        let mut inner = self.inner.lock();
        inner.map = map;
        inner.note(at, false);
    }

    pub(crate) fn user_begins(&self, user: Host) {
        let at = self.elapsed();
        self.inner.lock().gaps.begin(user, at);
    }

    pub(crate) fn success(&self, user: Host) {
        let at = self.elapsed();
        self.inner.lock().gaps.success(user, at);
    }

    pub(crate) fn user_ends(&self, user: Host) {
        let at = self.elapsed();
        self.inner.lock().gaps.end(user, at);
    }

    /// All stalls until now.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let inner = &mut *self.inner.lock();
        for gap in inner.gaps.take() {
            inner.found.extend(stalls(gap, &inner.moments));
        }
        inner.found.clone()
    }

    /// A user was told that a disk is full.
    pub(crate) fn refused(&self, user: Host) {
        let at = self.elapsed();
        self.inner.lock().gaps.refused(user, at);
    }

    /// What users asked for and got, and how often they were told that a disk is full.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.gaps.successes, inner.gaps.refusals)
    }
}

impl Inner {
    /// Writes down how the world is now.
    fn note(&mut self, at: Duration, broke: bool) {
        let gone: BTreeSet<Host> = self
            .faults
            .values()
            .flat_map(|(_, hosts)| hosts.iter().copied())
            .collect();
        let names: Vec<&str> = self
            .faults
            .values()
            .map(|(what, _)| what.as_str())
            .collect();
        let what = if names.is_empty() || names == [self.what.as_str()] {
            self.what.clone()
        } else {
            format!("{} (broken: {})", self.what, names.join(", "))
        };
        self.moments.push(Moment {
            at,
            broke,
            what,
            broken: names.len(),
            service: service(&gone, self.split, &self.map),
        });
    }
}

/// Who should be served when these hosts cannot be counted on.
fn service(gone: &BTreeSet<Host>, split: bool, map: &RoutingInfo) -> BTreeMap<Host, Service> {
    let managers = Host::managers().filter(|host| !gone.contains(host)).count();
    let node_there = |target: &types::id::TargetId| {
        let node = map.targets.get(target).map(|target| target.node.0);
        Host::storage().any(|host| Some(host.node()) == node && !gone.contains(&host))
    };
    let chain_there = |chain: &Chain| {
        // Who is down and comes back holds everything only if it was among the last that served.
        let state = if chain.serving().next().is_some() {
            PublicState::Serving
        } else {
            PublicState::LastServing
        };
        let mut holders = chain.targets.iter().filter(|target| target.state == state);
        holders.any(|target| node_there(&target.id))
    };
    let due = managers * 2 > usize::from(MANAGERS) && map.chains.values().all(chain_there);
    let service = match (due, split) {
        (false, _) => Service::NotDue,
        (true, true) => Service::Split,
        (true, false) => Service::Due,
    };
    let clients = (1..=CLIENTS).map(Host::Client);
    let users = clients.chain((!gone.contains(&Host::Meta)).then_some(Host::Mount));
    users
        .filter(|user| !gone.contains(user))
        .map(|user| (user, service))
        .collect()
}

#[cfg(test)]
mod tests {
    use types::{
        chain::ChainTarget,
        id::{ChainId, DiskIndex, NodeId, TargetId},
        target::Target,
        version::ChainVersion,
    };

    use super::*;

    fn map(states: &[PublicState]) -> RoutingInfo {
        let mut map = RoutingInfo::default();
        let targets = states.iter().zip(1..).map(|(state, id)| ChainTarget {
            id: TargetId(id),
            state: *state,
        });
        let chain = Chain {
            id: ChainId(1),
            version: ChainVersion(1),
            targets: targets.collect(),
            preferred: vec![],
        };
        for target in &chain.targets {
            let entry = Target {
                id: target.id,
                node: NodeId(u32::try_from(target.id.0).unwrap()),
                disk: DiskIndex(0),
                chain: chain.id,
                created: true,
            };
            map.targets.insert(target.id, entry);
        }
        map.chains.insert(chain.id, chain);
        map
    }

    fn due(gone: &[Host], states: &[PublicState]) -> bool {
        let gone = gone.iter().copied().collect();
        service(&gone, false, &map(states))[&Host::Client(1)] == Service::Due
    }

    #[test]
    fn service_is_due_while_a_majority_and_one_that_holds_everything_are_there() {
        use PublicState::{LastServing, Offline, Serving, Syncing};
        let (one, two) = (Host::Storage(1), Host::Storage(2));
        assert!(due(&[], &[Serving, Serving]));
        assert!(due(&[one, Host::Manager(1)], &[Serving, Serving]));
        assert!(!due(&[one, two], &[Serving, Serving]));
        assert!(!due(&[Host::Manager(1), Host::Manager(2)], &[Serving]));
        assert!(!due(&[one], &[Serving, Syncing]));
        assert!(due(&[], &[LastServing, Offline]));
        assert!(!due(&[one], &[LastServing, Offline]));
    }
}
