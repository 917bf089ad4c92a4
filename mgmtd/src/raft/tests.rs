//! Three members whose links are cut at random: at most one leads at any moment, and nothing that was acknowledged is lost.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    shutdown::{Shutdown, ShutdownSignal},
    sync::Mutex,
};
use tempfile::TempDir;
use types::{
    node::NodeKind,
    rpc::mgmtd::{Heartbeat, HeartbeatReply},
};

use super::*;
use crate::{
    command::Registration,
    leadership::{self, Leadership},
};

/// As `MgmtdConfig::leadership_time` has it.
const BOUND: Duration = Duration::from_millis(400);
const ROUNDS: u32 = 12;
const STEP: Duration = Duration::from_millis(20);
const STEPS_PER_ROUND: u32 = 100;

/// What connects the members: messages from the first to the second of a cut pair are lost.
#[derive(Default)]
struct Wires {
    members: Mutex<BTreeMap<NodeId, Arc<Member>>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

struct Wired {
    env: Env,
    from: NodeId,
    wires: Arc<Wires>,
}

impl Wired {
    /// The way from one member to another; a lost message is noticed at its deadline only.
    async fn pass(&self, from: NodeId, to: NodeId, deadline: Instant) -> Result<(), Status> {
        let delay = Duration::from_micros(self.env.random_below(5000));
        self.env.sleep(delay).await;
        if self.wires.cut.lock().contains(&(from, to)) {
            self.env.sleep_until(deadline).await;
            return Err(Status::new(StatusCode::DeadlineExceeded, "lost"));
        }
        Ok(())
    }
}

#[async_trait]
impl Peers for Wired {
    async fn call(
        &self,
        peer: &Peer,
        method: RaftMethod,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Status> {
        self.pass(self.from, peer.id, deadline).await?;
        let member = self.wires.members.lock().get(&peer.id).cloned();
        let down = || Status::new(StatusCode::Unreachable, "down");
        let reply = member.ok_or_else(down)?.handle(method, &body).await?;
        self.pass(peer.id, self.from, deadline).await?;
        Ok(Bytes::from(reply))
    }

    async fn heartbeat(
        &self,
        _peer: &Peer,
        _heartbeat: &Heartbeat,
        _deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        Err(Status::new(StatusCode::Unsupported, "not in this test"))
    }
}

struct Seat {
    member: Arc<Member>,
    leadership: Leadership,
    _dir: TempDir,
}

async fn seat(env: &Env, id: NodeId, wires: &Arc<Wires>, shutdown: ShutdownSignal) -> Seat {
    let dir = tempfile::tempdir().unwrap();
    let peers = Arc::new(Wired {
        env: env.clone(),
        from: id,
        wires: wires.clone(),
    });
    let times = RaftTimes {
        snapshot_entries: 16,
        ..RaftTimes::default()
    };
    let member = Member::start(env, id, dir.path(), peers, &times)
        .await
        .unwrap();
    let member = Arc::new(member);
    let leadership = Leadership::new(BOUND);
    let keeping = leadership::keep(env.clone(), member.clone(), leadership.clone(), shutdown);
    drop(env.spawn("leadership", keeping));
    Seat {
        member,
        leadership,
        _dir: dir,
    }
}

/// Cuts one member off in both directions, in one, or nobody.
fn cut_at_random(env: &Env, wires: &Wires) {
    let one = NodeId(1 + u32::try_from(env.random_below(3)).unwrap());
    let kind = env.random_below(4);
    let mut cut = wires.cut.lock();
    cut.clear();
    for other in (1..=3).map(NodeId).filter(|other| *other != one) {
        if kind == 0 || kind == 1 {
            cut.insert((one, other));
        }
        if kind == 0 || kind == 2 {
            cut.insert((other, one));
        }
    }
}

fn registration(id: u32) -> Command {
    Command::RegisterNode(Registration {
        id: NodeId(id),
        kind: NodeKind::Storage,
        addresses: Vec::new(),
        tags: Vec::new(),
    })
}

/// Proposes through whoever leads; the leaders of one moment are one at most.
async fn step(env: &Env, seats: &[Seat], proposal: Option<u32>) -> Option<u32> {
    let now = env.now();
    let leading: Vec<&Seat> = seats
        .iter()
        .filter(|seat| seat.leadership.at(now).is_some())
        .collect();
    assert!(leading.len() <= 1, "two lead at one moment");
    let (Some(seat), Some(id)) = (leading.first(), proposal) else {
        env.sleep(STEP).await;
        return None;
    };
    let proposed = seat.member.propose(registration(id), now + STEP * 5).await;
    proposed.is_ok().then_some(id)
}

#[tokio::test(start_paused = true)]
async fn at_most_one_leads_and_nothing_acknowledged_is_lost_whatever_is_cut() {
    let env = Env::seeded(23);
    let (wires, shutdown) = (Arc::new(Wires::default()), Shutdown::new());
    let mut seats = Vec::new();
    for id in (1..=3).map(NodeId) {
        let seat = seat(&env, id, &wires, shutdown.signal()).await;
        wires.members.lock().insert(id, seat.member.clone());
        seats.push(seat);
    }
    let table: BTreeMap<NodeId, String> =
        (1..=3).map(|id| (NodeId(id), format!("m{id}"))).collect();
    for seat in &seats {
        seat.member.bootstrap(Some(&table)).await.unwrap();
    }
    let (mut next, mut acknowledged) = (100, Vec::new());
    for _ in 0..ROUNDS {
        cut_at_random(&env, &wires);
        for index in 0..STEPS_PER_ROUND {
            next += 1;
            let proposal = (index % 10 == 0).then_some(next);
            acknowledged.extend(step(&env, &seats, proposal).await);
        }
    }
    wires.cut.lock().clear();
    env.sleep(Duration::from_secs(5)).await;
    let now = env.now();
    let leaders = seats
        .iter()
        .filter(|seat| seat.leadership.at(now).is_some());
    assert_eq!(leaders.count(), 1, "a healed group has a leader");
    let first = seats[0].member.cluster();
    for seat in &seats {
        assert_eq!(seat.member.cluster(), first);
    }
    assert!(acknowledged.len() > 40, "{}", acknowledged.len());
    for id in acknowledged {
        assert!(first.routing.nodes.contains_key(&NodeId(id)), "lost {id}");
    }
    shutdown.trigger();
}
