//! Tells the manager that this server is alive, which puts it on the map where clients find it.
//!
//! The namespace needs no lease: what two servers may do at a time is decided by transactions.

use std::time::Duration;

use client::{MgmtdClient, RoutingCache};
use common::{
    env::Env,
    http::Readiness,
    worker::{Next, Worker},
};
use types::{
    id::{BootId, NodeId},
    node::NodeKind,
    rpc::mgmtd::{Heartbeat, SendHeartbeat},
    version::HeartbeatNumber,
};

/// Protocol M3.
const INTERVAL: Duration = Duration::from_millis(500);
/// One heartbeat's time. The next one is due anyway.
const LIMIT: Duration = Duration::from_secs(2);
/// A manager that does not answer for this long is left for another.
const ATTEMPT: Duration = Duration::from_millis(500);

/// The worker.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    env: Env,
    mgmtd: MgmtdClient,
    routing: RoutingCache,
    readiness: Readiness,
    heartbeat: Heartbeat,
}

impl Heartbeats {
    /// Heartbeats of one start of this server.
    pub(crate) fn new(
        env: &Env,
        mgmtd: MgmtdClient,
        routing: RoutingCache,
        readiness: Readiness,
        node: (NodeId, Vec<String>),
    ) -> Self {
        readiness.not_ready("mgmtd", "the manager has not answered yet");
        let (node, addresses) = node;
        Self {
            env: env.clone(),
            mgmtd,
            readiness,
            heartbeat: Heartbeat {
                node,
                kind: NodeKind::Meta,
                boot: BootId(env.random_u64()),
                number: HeartbeatNumber(0),
                addresses,
                tags: Vec::new(),
                disks: Vec::new(),
                targets: Vec::new(),
                routing_version: routing.current().version,
                resyncs: Vec::new(),
                cut_off: Vec::new(),
            },
            routing,
        }
    }
}

impl Worker for Heartbeats {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    async fn step(&mut self) -> Next {
        let sent = self.env.now();
        self.heartbeat.number.0 += 1;
        self.heartbeat.routing_version = self.routing.current().version;
        let answered = self
            .mgmtd
            .call_within::<SendHeartbeat>(&self.heartbeat, sent + LIMIT, ATTEMPT)
            .await;
        match answered {
            Ok(_lease) if self.routing.current().version.0 == 0 => {
                self.readiness
                    .not_ready("mgmtd", "there is no routing map yet");
            }
            Ok(_lease) => self.readiness.ready("mgmtd"),
            Err(status) => {
                let reason = format!("the manager does not answer: {}", status.message);
                self.readiness.not_ready("mgmtd", reason);
            }
        }
        Next::Wait(INTERVAL.saturating_sub(self.env.now() - sent))
    }

    fn status(&self) -> String {
        format!("{} sent", self.heartbeat.number)
    }
}
