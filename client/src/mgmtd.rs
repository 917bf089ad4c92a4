//! Calls to the manager group: finds the leader and stays with it.
//!
//! Any member may be asked first: those of the configuration, and those that a routing map has named since, so that a
//! process outlives the managers it was started with. One that is not the leader names it when it can; one that is silent is
//! left for the next. Only failures that another member may not have are repeated; all others are the answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    backoff::Backoff,
    env::{Env, Instant},
    sync::Mutex,
};
use net::Endpoint;
use types::{
    id::{ClientId, RequestId},
    rpc::{Caller, Rpc},
    status::{Detail, Status, StatusCode},
    user::Identity,
};

use crate::metrics;

/// After this long without an answer another member is asked.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MgmtdClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    env: Env,
    endpoint: Endpoint,
    /// By the configuration.
    configured: Vec<String>,
    client: ClientId,
    next_request: AtomicU64,
    choice: Mutex<Choice>,
}

/// Whom to ask.
#[derive(Debug, Default)]
struct Choice {
    /// Who may be asked.
    members: Vec<String>,
    /// The leader as far as known.
    leader: Option<String>,
    /// Which member is asked when none is known.
    turn: usize,
}

impl MgmtdClient {
    /// A client of the managers at `addresses`.
    pub fn new(env: &Env, endpoint: Endpoint, addresses: Vec<String>, client: ClientId) -> Self {
        Self(Arc::new(Shared {
            env: env.clone(),
            endpoint,
            choice: Mutex::new(Choice {
                members: addresses.clone(),
                ..Choice::default()
            }),
            configured: addresses,
            client,
            next_request: AtomicU64::new(1),
        }))
    }

    /// These are the managers now. Those of the configuration are still asked, after them: they may be back when these are
    /// gone.
    pub fn learn_managers(&self, mut addresses: Vec<String>) {
        let configured = self.0.configured.iter();
        let others: Vec<String> = configured
            .filter(|address| !addresses.contains(address))
            .cloned()
            .collect();
        addresses.extend(others);
        self.0.choice.lock().members = addresses;
    }

    /// Asks the leader; looks for it until `deadline`.
    ///
    /// # Errors
    /// The leader's answer, or why none was found in time.
    pub async fn call<M: Rpc>(
        &self,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, Status> {
        self.call_within::<M>(request, deadline, ATTEMPT_LIMIT)
            .await
    }

    /// Like `call`, but a member may take up to `attempt` to answer: for long polls.
    ///
    /// # Errors
    /// See `call`.
    pub async fn call_within<M: Rpc>(
        &self,
        request: &M::Request,
        deadline: Instant,
        attempt: Duration,
    ) -> Result<M::Response, Status> {
        let shared = &*self.0;
        let caller = Caller {
            client: shared.client,
            request: RequestId(shared.next_request.fetch_add(1, Ordering::Relaxed)),
            identity: Identity::root(),
        };
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        loop {
            let address = shared.address()?;
            let until = (shared.env.now() + attempt).min(deadline);
            let asked = shared.endpoint.ask::<M>(&address, &caller, request, until);
            let status = match asked.await {
                Ok(response) => {
                    shared.choice.lock().leader = Some(address);
                    return Ok(response);
                }
                Err(status) if !is_for_another_member(status.code) => return Err(status),
                Err(status) => status,
            };
            let pause = backoff.next_delay(&shared.env);
            let named = shared.learn(&address, &status);
            if shared.env.now() + pause >= deadline {
                let message = format!("no manager answered in time: {}", status.message);
                return Err(Status { message, ..status });
            }
            metrics::retried(M::NAME, status.code);
            tracing::debug!(method = M::NAME, address, %status, "asking another manager");
            // A leader that was just named is asked at once, unless this goes round in circles.
            if !named || pause > Duration::from_millis(50) {
                shared.env.sleep(pause).await;
            }
        }
    }
}

impl Shared {
    fn address(&self) -> Result<String, Status> {
        let choice = self.choice.lock();
        if let Some(leader) = &choice.leader {
            return Ok(leader.clone());
        }
        let member = choice
            .members
            .get(choice.turn % choice.members.len().max(1));
        member.cloned().ok_or_else(|| {
            Status::new(
                StatusCode::InvalidArgument,
                "no manager address is configured (`mgmtd`)",
            )
        })
    }

    /// Draws conclusions from a failure at `address`; true when it named another leader.
    fn learn(&self, address: &str, status: &Status) -> bool {
        let mut choice = self.choice.lock();
        let count = choice.members.len().max(1);
        let turn = choice.members.get(choice.turn % count);
        if turn.is_some_and(|member| member == address) {
            // Always the next one, so that a member which names a dead leader is not asked for ever.
            choice.turn = choice.turn.wrapping_add(1);
        }
        if let Detail::Leader(leader) = &status.detail
            && leader != address
        {
            choice.leader = Some(leader.clone());
            return true;
        }
        // Another caller may have found the leader meanwhile: only what was asked is dropped.
        if choice.leader.as_deref() == Some(address) {
            choice.leader = None;
        }
        false
    }
}

/// Failures that say something about the member asked, not about the request.
fn is_for_another_member(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::NotLeader
            | StatusCode::Unreachable
            | StatusCode::DeadlineExceeded
            | StatusCode::Overloaded
            | StatusCode::NotReady
            | StatusCode::NoQuorum
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::{buf::BufPool, shutdown::Shutdown};
    use net::{MemNetwork, NetConfig, Router, Transports};
    use types::rpc::mgmtd::{GetSpace, SpaceReply};

    use super::*;

    /// What each manager answers, and how often it was asked.
    type Group = Arc<Mutex<BTreeMap<u32, (Result<u64, Status>, u32)>>>;

    struct Fixture {
        env: Env,
        group: Group,
        client: MgmtdClient,
        _shutdown: Shutdown,
    }

    async fn fixture(listening: &[u32]) -> Fixture {
        let env = Env::seeded(2);
        let transports = Transports::with_mem(MemNetwork::new());
        let endpoint = Endpoint::new(&env, transports, BufPool::new(0), NetConfig::default());
        let (group, shutdown) = (Group::default(), Shutdown::new());
        for &id in listening {
            let member = group.clone();
            let router = Router::new().on::<GetSpace, _, _>(move |(), _| {
                let mut group = member.lock();
                let (answer, asked) = group.get_mut(&id).unwrap();
                *asked += 1;
                std::future::ready(answer.clone().map(|capacity_bytes| SpaceReply {
                    capacity_bytes,
                    ..SpaceReply::default()
                }))
            });
            let name = format!("mem://m{id}");
            let served = endpoint.serve(&name, Arc::new(router), shutdown.signal());
            drop(served.await.unwrap());
        }
        let addresses = (1..=3).map(|id| format!("mem://m{id}")).collect();
        let client = MgmtdClient::new(&env, endpoint, addresses, ClientId(1));
        Fixture {
            env,
            group,
            client,
            _shutdown: shutdown,
        }
    }

    impl Fixture {
        fn answer(&self, id: u32, answer: Result<u64, Status>) {
            self.group.lock().insert(id, (answer, 0));
        }

        fn not_leader(&self, id: u32, leader: Option<u32>) {
            let status = Status::new(StatusCode::NotLeader, "not the leader");
            let status = match leader {
                Some(leader) => status.with_detail(Detail::Leader(format!("mem://m{leader}"))),
                None => status,
            };
            self.answer(id, Err(status));
        }

        async fn ask(&self) -> Result<u64, Status> {
            let deadline = self.env.now() + Duration::from_secs(20);
            let reply = self.client.call::<GetSpace>(&(), deadline).await;
            reply.map(|space| space.capacity_bytes)
        }

        fn asked(&self) -> Vec<u32> {
            self.group
                .lock()
                .values()
                .map(|(_, asked)| *asked)
                .collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_that_is_named_is_asked_and_kept() {
        let fixture = fixture(&[1, 2, 3]).await;
        fixture.not_leader(1, Some(3));
        fixture.not_leader(2, Some(3));
        fixture.answer(3, Ok(7));
        for _ in 0..4 {
            assert_eq!(fixture.ask().await, Ok(7));
        }
        assert_eq!(fixture.asked(), [1, 0, 4]);
        fixture.not_leader(3, None);
        fixture.answer(2, Ok(8));
        assert_eq!(fixture.ask().await, Ok(8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_member_is_passed_over() {
        let fixture = fixture(&[3]).await;
        fixture.answer(3, Ok(1));
        assert_eq!(fixture.ask().await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn managers_that_a_map_named_are_asked_when_the_configured_ones_are_gone() {
        let fixture = fixture(&[7]).await;
        fixture.answer(7, Ok(1));
        fixture.client.learn_managers(vec!["mem://m7".to_owned()]);
        assert_eq!(fixture.ask().await, Ok(1));
        // And the other way round.
        let fixture = self::fixture(&[2]).await;
        fixture.answer(2, Ok(1));
        fixture.client.learn_managers(vec!["mem://m7".to_owned()]);
        assert_eq!(fixture.ask().await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_leaders_refusal_is_the_answer() {
        let fixture = fixture(&[1, 2, 3]).await;
        let refusal = Status::new(StatusCode::Conflict, "too few nodes");
        for id in 1..=3 {
            fixture.answer(id, Err(refusal.clone()));
        }
        assert_eq!(fixture.ask().await, Err(refusal));
        assert_eq!(fixture.asked().iter().sum::<u32>(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_there_is_said_at_the_deadline() {
        let fixture = fixture(&[]).await;
        let started = fixture.env.now();
        let status = fixture.ask().await.unwrap_err();
        assert_eq!(status.code, StatusCode::Unreachable);
        assert!(fixture.env.now() - started <= Duration::from_secs(20));
    }
}
