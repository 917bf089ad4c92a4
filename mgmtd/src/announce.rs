//! Each member tells the leader that it lives, so that the managers stand in the map like every other node.

use std::{sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    shutdown::ShutdownSignal,
};
use types::{
    id::{BootId, NodeId},
    node::NodeKind,
    rpc::mgmtd::{Heartbeat, HeartbeatReply},
    status::Status,
    version::HeartbeatNumber,
};

use crate::{
    leadership::Leadership,
    manager::Manager,
    raft::{Member, Peer, Peers},
};

/// As often as any node.
const INTERVAL: Duration = Duration::from_millis(500);

/// What a member needs to announce itself.
pub(crate) struct Announcer {
    pub(crate) env: Env,
    pub(crate) id: NodeId,
    pub(crate) address: String,
    pub(crate) manager: Arc<Manager>,
    pub(crate) member: Arc<Member>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) leadership: Leadership,
}

impl Announcer {
    /// Announces until shutdown.
    pub(crate) async fn run(self, mut shutdown: ShutdownSignal) {
        let mut heartbeat = Heartbeat {
            node: self.id,
            kind: NodeKind::Mgmtd,
            boot: BootId(self.env.random_u64()),
            number: HeartbeatNumber(0),
            addresses: vec![self.address.clone()],
            tags: Vec::new(),
            disks: Vec::new(),
            targets: Vec::new(),
            routing_version: self.manager.cluster().routing.version,
            resyncs: Vec::new(),
            cut_off: Vec::new(),
        };
        let mut terms = self.leadership.subscribe();
        while !shutdown.is_triggered() {
            heartbeat.number.0 += 1;
            heartbeat.routing_version = self.manager.cluster().routing.version;
            terms.borrow_and_update();
            let announced = self.announce(&heartbeat, self.env.now() + INTERVAL).await;
            self.manager.note_announced(announced.as_ref().map(|_| ()));
            if let Err(status) = announced {
                tracing::debug!(%status, "the leader has not heard of this manager");
            }
            tokio::select! {
                () = self.env.sleep(INTERVAL) => {}
                // A member that begins to lead announces itself at once.
                changed = terms.changed() => if changed.is_err() { return },
                () = shutdown.wait() => {}
            }
        }
    }

    async fn announce(
        &self,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        match self.member.leader() {
            Some(leader) if leader != self.id => {
                let members = self.member.members();
                let address = members.address(leader).cloned().unwrap_or_default();
                let leader = Peer {
                    id: leader,
                    address,
                };
                self.peers.heartbeat(&leader, heartbeat, deadline).await
            }
            _ => self.manager.heartbeat(heartbeat, deadline).await,
        }
    }
}
