//! What all handlers and workers of a storage node share.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use client::RoutingCache;
use common::{
    env::{Env, Instant},
    http::Readiness,
    shutdown::ShutdownSignal,
    sync::{Mutex, RwLock},
};
use net::Endpoint;
use tokio::sync::{Notify, mpsc};
use types::{
    id::{ChainId, ClientId, NodeId, RequestId, TargetId},
    routing::RoutingInfo,
    rpc::{Caller, mgmtd::StepDown},
    status::{Detail, Status, StatusCode},
    target::{LocalState, PublicState},
    user::Identity,
    version::ChainVersion,
};

use crate::{
    disk::Disk,
    lease::Lease,
    repair::{self, Damage},
    replica::role::{Refusal, Standing},
    resync::{self, reach},
    room::Room,
    target::{Target, View, driver},
};

/// How long a request that knows a newer map than this node waits for it.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(1);

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) env: Env,
    pub(crate) id: NodeId,
    pub(crate) endpoint: Endpoint,
    pub(crate) routing: RoutingCache,
    pub(crate) disks: Vec<Arc<Disk>>,
}

/// See the module's text.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) id: NodeId,
    pub(crate) endpoint: Endpoint,
    pub(crate) routing: RoutingCache,
    pub(crate) disks: Vec<Arc<Disk>>,
    pub(crate) lease: Lease,
    pub(crate) readiness: Readiness,
    pub(crate) room: Room,
    /// Asks for a heartbeat at once.
    pub(crate) report: Notify,
    /// Names this process in the requests it makes.
    client: ClientId,
    next_request: AtomicU64,
    targets: RwLock<Targets>,
    /// Chunks whose bytes are damaged.
    pub(crate) repairs: mpsc::Sender<Damage>,
    /// The other end, until its task is started.
    damages: Mutex<Option<mpsc::Receiver<Damage>>>,
}

#[derive(Default)]
struct Targets {
    all: BTreeMap<TargetId, Arc<Target>>,
    /// A node holds at most one target of a chain (C7).
    of_chain: BTreeMap<ChainId, Arc<Target>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let client = ClientId(parts.env.random_u128());
        let (repairs, damages) = mpsc::channel(repair::QUEUE_LENGTH);
        Self {
            env: parts.env,
            id: parts.id,
            endpoint: parts.endpoint,
            routing: parts.routing,
            disks: parts.disks,
            lease: Lease::default(),
            readiness: Readiness::default(),
            room: Room::default(),
            report: Notify::new(),
            client,
            next_request: AtomicU64::new(1),
            targets: RwLock::default(),
            repairs,
            damages: Mutex::new(Some(damages)),
        }
    }

    /// Who this process is in a request of its own.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            client: self.client,
            request: RequestId(self.next_request.fetch_add(1, Ordering::Relaxed)),
            identity: Identity::root(),
        }
    }

    pub(crate) fn targets(&self) -> Vec<Arc<Target>> {
        self.targets.read().all.values().cloned().collect()
    }

    pub(crate) fn target(&self, id: TargetId) -> Option<Arc<Target>> {
        self.targets.read().all.get(&id).cloned()
    }

    /// The target of `chain` on this node.
    pub(crate) fn target_of(&self, chain: ChainId) -> Result<Arc<Target>, Status> {
        let found = self.targets.read().of_chain.get(&chain).cloned();
        found.ok_or_else(|| {
            let message = format!("node {} has no target of chain {chain}", self.id);
            Status::new(StatusCode::UnknownTarget, message)
                .with_detail(Detail::Routing(self.routing.current().version))
        })
    }

    /// Runs one check of a role against where `target` stands now.
    pub(crate) fn check<T>(
        &self,
        target: &Target,
        view: &View,
        check: impl FnOnce(&Standing<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Status> {
        let standing = Standing {
            target: target.id,
            chain: &view.chain,
            local: view.local,
            lease_valid: self.lease.is_valid(self.env.now())
                || self.env.makes_mistake("skip-lease"),
        };
        check(&standing).map_err(|refusal| refusal.status(view.routing))
    }

    /// The target's view, at `wanted` or later when it gets there soon: the peer knows a newer chain.
    pub(crate) async fn catch_up(
        &self,
        target: &Target,
        wanted: ChainVersion,
        deadline: Instant,
    ) -> Arc<View> {
        let view = target.view();
        if view.chain.version >= wanted {
            return view;
        }
        let until = deadline.min(self.env.now() + CATCH_UP_LIMIT);
        let mut views = target.subscribe();
        let arrived = async {
            // An error means that the target is gone, which cannot be while it is borrowed here.
            let _gone = views
                .wait_for(|view| view.chain.version >= wanted)
                .await
                .is_err();
        };
        let asked = async {
            self.routing.refresh(view.routing, until).await;
            self.env.sleep_until(until).await;
        };
        tokio::select! {
            () = arrived => {}
            () = asked => {}
        }
        target.view()
    }

    /// A heartbeat goes out at once: something changed that the manager should know.
    pub(crate) fn report_soon(&self) {
        self.report.notify_one();
    }

    /// Takes a target out of its chain; a resync brings it back.
    pub(crate) fn take_out(&self, target: &Target, reason: &str) {
        if target.take_out() {
            tracing::error!(target = target.id.0, reason, "target leaves its chain");
            self.report_soon();
        }
    }

    /// Follows the maps, and repairs: every target of this node gets a task that drives it, one that resyncs its
    /// successor, and one that looks whether that can be reached. Ends at shutdown.
    pub(crate) async fn follow_maps(self: Arc<Self>, mut end: ShutdownSignal) {
        if let Some(damages) = self.damages.lock().take() {
            let run = repair::run(self.clone(), damages, end.clone());
            drop(self.env.spawn("repair", run));
        }
        let mut maps = self.routing.subscribe();
        loop {
            let map = maps.borrow_and_update().clone();
            self.retire(&map);
            self.adopt(&map, &end);
            self.show_readiness(&map);
            tokio::select! {
                changed = maps.changed() => if changed.is_err() { return },
                () = self.env.sleep(Duration::from_millis(500)) => {}
                () = end.wait() => return,
            }
        }
    }

    /// Ends the targets that an operator has removed: ids are never used again, so what a map lacks is gone for good. What is
    /// in it stays on the disk; nobody reads it any more.
    fn retire(&self, map: &RoutingInfo) {
        if map.version.0 == 0 {
            return;
        }
        let mut targets = self.targets.write();
        let gone: Vec<Arc<Target>> = targets
            .all
            .values()
            .filter(|target| !map.targets.contains_key(&target.id))
            .cloned()
            .collect();
        for target in gone {
            targets.all.remove(&target.id);
            targets.of_chain.remove(&target.chain);
            target.retire();
            tracing::info!(
                target = target.id.0,
                chain = target.chain.0,
                disk = target.disk.index.0,
                "target removed from its chain; its data stays on the disk"
            );
        }
    }

    /// Starts the targets of this node that are new in the map.
    fn adopt(self: &Arc<Self>, map: &RoutingInfo, end: &ShutdownSignal) {
        for entry in map.targets.values().filter(|t| t.node == self.id) {
            let Some(chain) = map.chains.get(&entry.chain) else {
                continue;
            };
            if self.targets.read().all.contains_key(&entry.id) {
                continue;
            }
            let Some(disk) = self.disks.get(usize::from(entry.disk.0)) else {
                tracing::error!(
                    target = entry.id.0,
                    disk = entry.disk.0,
                    "the map puts a target on a disk that is not configured here"
                );
                continue;
            };
            // Whatever was there before counts as Offline until the map says so too (C5). The chain is
            // taken at version 0, so that the first step looks at this very map.
            let mut unseen = chain.clone();
            unseen.version = ChainVersion(0);
            let view = View {
                chain: Arc::new(unseen),
                local: LocalState::Offline,
                routing: map.version,
            };
            let target = Arc::new(Target::new(entry.id, disk.clone(), view));
            {
                let mut targets = self.targets.write();
                targets.all.insert(target.id, target.clone());
                targets.of_chain.insert(target.chain, target.clone());
            }
            let drive = driver::follow_maps(self.clone(), target.clone(), end.clone());
            self.spawn_for(&target, "target", drive);
            let fill = resync::fill_successors(self.clone(), target.clone(), end.clone());
            self.spawn_for(&target, "resync", fill);
            let watch = reach::watch(self.clone(), target.clone(), end.clone());
            self.spawn_for(&target, "reach", watch);
        }
    }

    /// Starts a task that ends with its target at the latest.
    fn spawn_for(
        &self,
        target: &Target,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut retired = target.retired();
        let until_retired = async move {
            tokio::select! {
                () = task => {}
                () = retired.wait() => {}
            }
        };
        drop(self.env.spawn(name, until_retired));
    }

    /// Takes a target out because an operator rotates its chain; a resync brings it back, as the last one. Only at this
    /// version of the chain, and only while another target serves: what was asked for may be over.
    pub(crate) fn step_down(&self, step: StepDown) {
        let Some(target) = self.target(step.target) else {
            return;
        };
        let view = target.view();
        let current = view.chain.version == step.chain_version
            && view.public(target.id) == PublicState::Serving
            && view.chain.serving().count() > 1;
        if current && target.take_out() {
            tracing::info!(
                target = target.id.0,
                chain = target.chain.0,
                "target steps down: an operator rotates its chain"
            );
            self.report_soon();
        }
    }

    fn show_readiness(&self, map: &RoutingInfo) {
        if map.version.0 == 0 {
            self.readiness
                .not_ready("targets", "no routing map from the manager yet");
            return;
        }
        let closed: Vec<String> = self
            .targets()
            .iter()
            .filter(|target| !target.view().local.is_alive())
            .map(|target| format!("{} ({:?})", target.id, target.view().public(target.id)))
            .collect();
        if closed.is_empty() {
            self.readiness.ready("targets");
        } else {
            let list = closed.join(", ");
            self.readiness
                .not_ready("targets", format!("waiting to come back: {list}"));
        }
    }
}
