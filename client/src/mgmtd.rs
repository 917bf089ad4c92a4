//! Calls to the manager group: finds the leader and stays with it.
//!
//! Any member may be asked first. One that is not the leader names it when it can; one that is silent is left for the
//! next. Only failures that another member may not have are repeated; all others are the answer.

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
    addresses: Vec<String>,
    client: ClientId,
    next_request: AtomicU64,
    choice: Mutex<Choice>,
}

/// Whom to ask.
#[derive(Debug, Default)]
struct Choice {
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
            addresses,
            client,
            next_request: AtomicU64::new(1),
            choice: Mutex::default(),
        }))
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
        let member = self
            .addresses
            .get(choice.turn % self.addresses.len().max(1));
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
        if let Detail::Leader(leader) = &status.detail
            && leader != address
        {
            choice.leader = Some(leader.clone());
            return true;
        }
        // Another caller may have found the leader meanwhile: only what was asked is dropped.
        if choice
            .leader
            .as_deref()
            .is_some_and(|leader| leader != address)
        {
            return false;
        }
        choice.leader = None;
        let count = self.addresses.len().max(1);
        let turn = self.addresses.get(choice.turn % count);
        if turn.is_some_and(|member| member == address) {
            choice.turn = choice.turn.wrapping_add(1);
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
