//! A member that is sent, and answered, what no correct member sends: its consensus runs on, and what it has stays.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::{panics, sync::Mutex};
use net::hostile::{Hostile, peak_memory};
use openraft::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Membership, SnapshotMeta, StoredMembership,
    Vote,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest,
        VoteResponse,
    },
};
use serde::Serialize;
use types::{
    codec,
    node::NodeKind,
    rpc::mgmtd::{Heartbeat, HeartbeatReply},
};

use super::*;
use crate::command::{Observation, Registration};

/// The member under test and the two that are made up.
const OWN: NodeId = NodeId(1);
const SEEDS: u64 = 12;
/// Messages of one seed.
const MESSAGES: u64 = 250;
/// A member that believed what is announced would hold gigabytes.
const GROWTH_MAX: u64 = 512 << 20;

/// What the others answer: grants and successes, distorted as often as `rate` says.
struct Made {
    hostile: Hostile,
    rate: Mutex<u64>,
    /// A member that has lost everything it confirmed.
    emptied: Mutex<Option<NodeId>>,
}

impl Made {
    fn encode<T: Serialize>(&self, value: &T) -> Bytes {
        let rate = *self.rate.lock();
        self.hostile.nonsense(value, rate).into()
    }
}

#[async_trait]
impl Peers for Made {
    async fn call(
        &self,
        member: NodeId,
        method: RaftMethod,
        body: Bytes,
        _deadline: Instant,
    ) -> Result<Bytes, Status> {
        let damaged =
            |error: codec::DecodeError| Status::new(StatusCode::Malformed, error.to_string());
        Ok(match method {
            RaftMethod::Vote => {
                let request: VoteRequest<u64> = codec::decode_body(&body).map_err(damaged)?;
                let granted: VoteResponse<u64> = VoteResponse {
                    vote: request.vote,
                    vote_granted: true,
                    last_log_id: request.last_log_id,
                };
                self.encode(&granted)
            }
            RaftMethod::Append => {
                let request: AppendEntriesRequest<TypeConfig> =
                    codec::decode_body(&body).map_err(damaged)?;
                if request.prev_log_id.is_some() && *self.emptied.lock() == Some(member) {
                    return Ok(self.encode(&AppendEntriesResponse::<u64>::Conflict));
                }
                let last = request.entries.last().map(|entry| entry.log_id);
                let partial = AppendEntriesResponse::PartialSuccess(last.or(request.prev_log_id));
                match self.hostile.below(4) {
                    0 if *self.rate.lock() > 0 => {
                        self.encode(&AppendEntriesResponse::HigherVote(request.vote))
                    }
                    1 => self.encode(&partial),
                    _ => self.encode(&AppendEntriesResponse::<u64>::Success),
                }
            }
            RaftMethod::InstallSnapshot => Bytes::from(self.hostile.random(100)),
        })
    }

    async fn heartbeat(
        &self,
        _member: NodeId,
        _heartbeat: &Heartbeat,
        _deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        Err(Status::new(StatusCode::Unsupported, "not in this test"))
    }
}

struct Fixture {
    env: Env,
    member: Member,
    peers: Arc<Made>,
    hostile: Hostile,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new(seed: u64) -> Self {
        panics::watch();
        let env = Env::seeded(seed);
        let dir = tempfile::tempdir().unwrap();
        let hostile = Hostile::new(seed);
        let peers = Arc::new(Made {
            hostile: hostile.clone(),
            rate: Mutex::new(0),
            emptied: Mutex::new(None),
        });
        let times = RaftTimes {
            snapshot_entries: 16,
            ..RaftTimes::default()
        };
        let started = Member::start(&env, OWN, dir.path(), peers.clone(), &times).await;
        let member = started.unwrap();
        let addresses = (1..=3).map(|id| (NodeId(id), format!("m:{id}")));
        let addresses: BTreeMap<NodeId, String> = addresses.collect();
        member.bootstrap(&addresses).await.unwrap();
        Self {
            env,
            member,
            peers,
            hostile,
            _dir: dir,
        }
    }

    /// Nothing panicked, and the core has not stopped.
    fn is_sound(&self, after: &str) {
        assert_eq!(panics::take(), Vec::<String>::new(), "after {after}");
        assert_eq!(self.member.failure(), None, "after {after}");
        self.member.cluster().check().unwrap();
    }

    /// A log id near what this member has.
    fn id(&self, term: u64) -> Option<LogId<u64>> {
        let leader = CommittedLeaderId::new(term, 2);
        (self.hostile.below(6) > 0).then(|| LogId::new(leader, self.hostile.below(8)))
    }

    /// One message of a leader or candidate that makes some sense.
    fn message(&self, term: u64) -> (RaftMethod, Vec<u8>) {
        let rate = [0, 20, 60, 200][usize::try_from(self.hostile.below(4)).unwrap()];
        let sender = 2 + self.hostile.below(2);
        match self.hostile.below(4) {
            0 => {
                let request = VoteRequest::new(Vote::new(term, sender), self.id(term));
                (RaftMethod::Vote, self.hostile.nonsense(&request, rate))
            }
            1 => {
                let request = self.piece(term, sender);
                let body = self.hostile.nonsense(&request, rate);
                (RaftMethod::InstallSnapshot, body)
            }
            _ => {
                let request = self.append(term, sender);
                (RaftMethod::Append, self.hostile.nonsense(&request, rate))
            }
        }
    }

    fn append(&self, term: u64, sender: u64) -> AppendEntriesRequest<TypeConfig> {
        let prev = self.id(term.saturating_sub(1));
        let first = prev.map_or(0, |id| id.index + 1);
        let entries = (first..first + self.hostile.below(4)).map(|index| Entry {
            log_id: LogId::new(CommittedLeaderId::new(term, sender), index),
            payload: self.payload(),
        });
        AppendEntriesRequest {
            vote: Vote::new_committed(term, sender),
            prev_log_id: prev,
            entries: entries.collect(),
            leader_commit: self.id(term),
        }
    }

    fn payload(&self) -> EntryPayload<TypeConfig> {
        match self.hostile.below(4) {
            0 => EntryPayload::Blank,
            1 => {
                let voters: BTreeSet<u64> = (1..=1 + self.hostile.below(4)).collect();
                EntryPayload::Membership(Membership::new(vec![voters], None))
            }
            2 => EntryPayload::Normal(Command::Observe(Observation::default())),
            _ => EntryPayload::Normal(registration(7)),
        }
    }

    fn piece(&self, term: u64, sender: u64) -> InstallSnapshotRequest<TypeConfig> {
        let voters: BTreeSet<u64> = (1..=3).collect();
        let membership = Membership::new(vec![voters], None);
        let data = match self.hostile.below(3) {
            0 => self.hostile.random(300),
            1 => self.hostile.nonsense(&Cluster::default(), 50),
            _ => codec::encode(&Cluster::default()),
        };
        InstallSnapshotRequest {
            vote: Vote::new_committed(term, sender),
            meta: SnapshotMeta {
                last_log_id: self.id(term),
                last_membership: StoredMembership::new(None, membership),
                snapshot_id: self.hostile.below(3).to_string(),
            },
            offset: self.hostile.below(2) * data.len() as u64,
            data,
            done: self.hostile.below(2) == 0,
        }
    }
}

fn registration(id: u32) -> Command {
    Command::RegisterNode(Registration {
        id: NodeId(id),
        kind: NodeKind::Storage,
        addresses: vec!["a:1".to_owned()],
        tags: Vec::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn no_message_ends_the_consensus_of_a_member() {
    let before = peak_memory();
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let fixture = Fixture::new(seed).await;
        for number in 0..MESSAGES {
            let (method, body) = fixture.message(1 + number / 8);
            let answered = fixture.member.handle(method, &body).await;
            if let Err(status) = &answered {
                assert!(!status.message.is_empty());
            }
            taken += usize::from(answered.is_ok());
            refused += usize::from(answered.is_err());
            let shown = &body[..body.len().min(120)];
            fixture.is_sound(&format!("seed {seed}, {method:?} {number}: {shown:02x?}"));
            if fixture.hostile.below(8) == 0 {
                fixture.env.sleep(Duration::from_millis(300)).await;
                fixture.is_sound("a pause");
            }
        }
        fixture.member.stop().await;
    }
    assert!(
        taken > 300 && refused > 300,
        "{taken} taken, {refused} refused"
    );
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test(start_paused = true)]
async fn no_answer_ends_the_consensus_of_a_leader() {
    for seed in 0..SEEDS {
        let fixture = Fixture::new(seed).await;
        *fixture.peers.rate.lock() = 150;
        for id in 0..40 {
            let deadline = fixture.env.now() + Duration::from_secs(2);
            // It may lead or not: an answer may depose it.
            let _outcome = fixture
                .member
                .propose(registration(100 + id), deadline)
                .await;
            fixture.is_sound(&format!("seed {seed}, command {id}"));
        }
        *fixture.peers.rate.lock() = 0;
        let deadline = fixture.env.now() + Duration::from_secs(60);
        let led = async {
            while fixture
                .member
                .propose(registration(7), deadline)
                .await
                .is_err()
            {
                fixture.env.sleep(Duration::from_millis(50)).await;
            }
        };
        let led = fixture.env.timeout_at(deadline, led).await;
        assert!(led.is_ok(), "seed {seed}: no commands are taken any more");
        fixture.member.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_denies_what_it_confirmed_does_not_end_the_leader() {
    let fixture = Fixture::new(3).await;
    let propose = async |id| {
        let deadline = fixture.env.now() + Duration::from_secs(20);
        while let Err(status) = fixture.member.propose(registration(id), deadline).await {
            assert_eq!(status.code, StatusCode::NotLeader, "{status}");
            fixture.env.sleep(Duration::from_millis(50)).await;
        }
        fixture.is_sound("a command");
    };
    propose(11).await;
    *fixture.peers.emptied.lock() = Some(NodeId(2));
    for id in 12..20 {
        propose(id).await;
        fixture.env.sleep(Duration::from_millis(500)).await;
    }
    fixture.is_sound("conflicts");
}

#[tokio::test(start_paused = true)]
async fn a_piece_of_a_snapshot_far_beyond_its_end_is_refused() {
    let fixture = Fixture::new(1).await;
    let mut piece = fixture.piece(5, 2);
    piece.meta.last_log_id = Some(LogId::new(CommittedLeaderId::new(5, 2), 9));
    let send = async |piece: &InstallSnapshotRequest<TypeConfig>| {
        let body = codec::encode_body(piece);
        fixture
            .member
            .handle(RaftMethod::InstallSnapshot, &body)
            .await
    };
    (piece.offset, piece.done) = (0, false);
    send(&piece).await.unwrap();
    piece.offset = 1 << 62;
    let answer = send(&piece).await.unwrap();
    // A mismatch: the leader begins anew.
    assert_eq!(answer[0], 1);
    fixture.is_sound("the piece");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_read_replaces_nothing() {
    let fixture = Fixture::new(2).await;
    let mut piece = fixture.piece(5, 2);
    piece.meta.last_log_id = Some(LogId::new(CommittedLeaderId::new(5, 2), 9));
    (piece.offset, piece.done, piece.data) = (0, true, vec![9; 50]);
    let body = codec::encode_body(&piece);
    let answer = fixture
        .member
        .handle(RaftMethod::InstallSnapshot, &body)
        .await;
    assert_eq!(answer.unwrap_err().code, StatusCode::Malformed);
    fixture.is_sound("the snapshot");
}
