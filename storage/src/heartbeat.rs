//! The heartbeat (protocol M3, M4): reports disks and targets, renews the lease.

use std::{sync::Arc, time::Duration};

use client::MgmtdClient;
use common::{env::Instant, shutdown::ShutdownSignal};
use types::{
    id::{BootId, TargetId},
    node::NodeKind,
    rpc::mgmtd::{Heartbeat, ResyncReport, SendHeartbeat, TargetReport},
    status::{Status, StatusCode},
    target::LocalState,
    version::{HeartbeatNumber, RoutingVersion},
};

use crate::{metrics, node::Node};

/// The pause between heartbeats (M3).
const INTERVAL: Duration = Duration::from_millis(500);
/// One heartbeat is given up after this long; half of the lease, so that a second one can still save it.
const LIMIT: Duration = Duration::from_millis(1000);
/// One manager may take this long to answer.
const ATTEMPT: Duration = Duration::from_millis(500);

/// Sends heartbeats until shutdown.
pub(crate) struct Heartbeats {
    pub(crate) node: Arc<Node>,
    pub(crate) mgmtd: MgmtdClient,
    pub(crate) boot: BootId,
    /// Where this node listens.
    pub(crate) addresses: Vec<String>,
    /// Failure domains.
    pub(crate) tags: Vec<String>,
}

impl Heartbeats {
    pub(crate) async fn run(self, mut end: ShutdownSignal) {
        let node = &*self.node;
        node.readiness
            .not_ready("mgmtd", "no lease yet: the manager has not answered");
        let mut number = HeartbeatNumber(0);
        loop {
            number.0 += 1;
            let sent = node.env.now();
            let heartbeat = self.heartbeat(number);
            let call = self
                .mgmtd
                .call_within::<SendHeartbeat>(&heartbeat, sent + LIMIT, ATTEMPT);
            let answered = tokio::select! {
                answered = call => answered,
                () = end.wait() => return,
            };
            let newest = match answered {
                Ok(reply) => {
                    node.lease
                        .renew(sent, Duration::from_millis(reply.lease_ms));
                    node.readiness.ready("mgmtd");
                    for step in reply.step_down {
                        node.step_down(step);
                    }
                    reply.routing_version
                }
                Err(status) => {
                    self.failed(&status, sent);
                    RoutingVersion(0)
                }
            };
            tokio::select! {
                () = self.pause(newest, sent + INTERVAL) => {}
                () = node.report.notified() => {}
                () = end.wait() => return,
            }
        }
    }

    /// Waits for the next heartbeat. The map is asked for if the manager has a newer one: the watch may hang at a manager that
    /// is gone, and a node that works by an old map is not counted on for long.
    async fn pause(&self, newest: RoutingVersion, until: Instant) {
        let node = &*self.node;
        let known = node.routing.current().version;
        if known < newest {
            node.routing.refresh(known, until).await;
        }
        node.env.sleep_until(until).await;
    }

    fn failed(&self, status: &Status, sent: Instant) {
        let node = &*self.node;
        if status.code == StatusCode::StaleHeartbeat {
            tracing::error!(
                node = node.id.0,
                %status,
                "the manager hears another process under this node's id; stop one of them or change `node_id`"
            );
        } else {
            tracing::debug!(%status, "heartbeat not answered");
        }
        if !node.lease.is_valid(sent) {
            node.readiness
                .not_ready("mgmtd", format!("no lease: {status}"));
        }
    }

    /// What is reported. Targets of a disk that failed leave their chains first.
    fn heartbeat(&self, number: HeartbeatNumber) -> Heartbeat {
        let node = &*self.node;
        let mut targets = Vec::new();
        // A node that returns gets its lease back once it has the map: not before every target works by it.
        let mut routing_version = node.routing.current().version;
        for target in node.targets() {
            if let Some(reason) = target.disk.failure() {
                node.take_out(&target, &format!("its disk failed: {reason}"));
            }
            let view = target.view();
            if view.chain.version.0 == 0 {
                // It has not looked at any map yet.
                continue;
            }
            routing_version = routing_version.min(view.routing);
            let used = |engine: &engine::Engine| engine.used_by(target.id);
            targets.push(TargetReport {
                target: target.id,
                chain_version: view.chain.version,
                state: if target.disk.failure().is_some() {
                    LocalState::Offline
                } else {
                    view.local
                },
                used_bytes: target.disk.engine().map_or(0, used),
            });
        }
        let (resyncs, cut_off) = self.resyncs();
        Heartbeat {
            node: node.id,
            kind: NodeKind::Storage,
            boot: self.boot,
            number,
            addresses: self.addresses.clone(),
            tags: self.tags.clone(),
            disks: node.disks.iter().map(|disk| disk.report()).collect(),
            targets,
            routing_version,
            resyncs,
            cut_off,
        }
    }

    /// How far the resyncs are that this node drives, and the targets that it cannot reach for one.
    fn resyncs(&self) -> (Vec<ResyncReport>, Vec<TargetId>) {
        let (mut resyncs, mut cut_off) = (Vec::new(), Vec::new());
        let now = self.node.env.now();
        for target in self.node.targets() {
            let progress = &mut *target.resync.lock();
            resyncs.extend(progress.as_mut().map(|progress| progress.report(now)));
            cut_off.extend(target.reach.lock().lost());
        }
        let left = resyncs.iter().map(|r| r.total_bytes - r.done_bytes).sum();
        metrics::resync_left(left, resyncs.iter().map(|r| r.left_chunks).sum());
        (resyncs, cut_off)
    }
}
