//! Forgets what nobody comes back for: the write sessions of clients that are gone (protocol M7), and stored
//! results that no retry asks for any more (protocol N2).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use common::{
    env::Instant,
    worker::{Next, Worker},
};
use kv::{RangeOptions, ReadMode, transact};
use types::{
    id::{ClientId, RequestId},
    rpc::Caller,
    session::FileSession,
    user::Identity,
};

use crate::{error::MetaError, metrics, service::Namespace, store};

/// How often sessions are compared with the manager's list.
const SESSIONS_EVERY: Duration = Duration::from_secs(20);
/// How long a client must be missing from that list: longer than a new leader needs to hear from everybody.
const CLIENT_GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a stored result is kept.
pub const RESULT_KEPT: Duration = Duration::from_secs(30 * 60);
/// How often results are pruned.
const RESULTS_EVERY: Duration = Duration::from_secs(60);
/// Records per transaction.
const PAGE: usize = 500;
/// For each transaction and call.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Ends sessions of clients that are gone.
#[derive(Debug)]
pub struct SessionPruner {
    namespace: Arc<Namespace>,
    /// Clients with sessions that the manager does not know, and since when.
    missing: BTreeMap<ClientId, Instant>,
    ended: u64,
    /// Why the last round failed.
    failure: Option<String>,
}

impl SessionPruner {
    /// Ends sessions of `namespace`.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self {
            namespace,
            missing: BTreeMap::new(),
            ended: 0,
            failure: None,
        }
    }

    /// Compares once.
    ///
    /// # Errors
    /// When the store or the manager fails. Sessions that cannot be ended now are tried again later.
    pub async fn prune(&mut self) -> Result<(), MetaError> {
        let sessions = self.sessions().await?;
        if sessions.is_empty() {
            self.missing.clear();
            return Ok(());
        }
        let env = &self.namespace.env;
        let alive = self
            .namespace
            .cluster
            .clients(env.now() + CALL_TIME)
            .await?;
        let alive: BTreeSet<_> = alive.iter().map(|session| session.client).collect();
        let now = env.now();
        let absent: BTreeSet<_> = sessions
            .iter()
            .map(|session| session.client)
            .filter(|client| !alive.contains(client))
            .collect();
        self.missing.retain(|client, _| absent.contains(client));
        for client in absent {
            self.missing.entry(client).or_insert(now);
        }
        let mut result = Ok(());
        for session in sessions {
            let since = self.missing.get(&session.client);
            if since.is_some_and(|since| now.duration_since(*since) >= CLIENT_GONE_AFTER) {
                // One file whose chains are away does not keep the others.
                result = result.and(self.end(&session).await);
            }
        }
        result
    }

    async fn end(&mut self, session: &FileSession) -> Result<(), MetaError> {
        let caller = Caller {
            client: session.client,
            request: RequestId(0),
            identity: Identity::root(),
        };
        let deadline = self.namespace.env.now() + CALL_TIME;
        self.namespace
            .end_lost_session(&caller, deadline, session.inode, session.id)
            .await?;
        tracing::info!(inode = session.inode.0, client = %session.client, "ended a lost session");
        metrics::session_pruned();
        self.ended += 1;
        Ok(())
    }

    async fn sessions(&self) -> Result<Vec<FileSession>, MetaError> {
        let mut sessions = Vec::new();
        let mut left = Some(store::session::range_of_all());
        while let Some(range) = left {
            let mut txn = self.namespace.kv.begin();
            let options = RangeOptions {
                limit: PAGE,
                reverse: false,
            };
            let page = txn
                .get_range(range.clone(), options, ReadMode::Snapshot)
                .await?;
            for (key, value) in &page.items {
                sessions.push(store::session::read(key, value)?);
            }
            left = page.rest(&range, false);
        }
        Ok(sessions)
    }
}

impl Worker for SessionPruner {
    fn name(&self) -> &'static str {
        "session-pruner"
    }

    async fn step(&mut self) -> Next {
        self.failure = match self.prune().await {
            Ok(()) => None,
            Err(error) => {
                tracing::info!(%error, "cannot prune sessions now");
                Some(error.to_string())
            }
        };
        Next::Wait(SESSIONS_EVERY)
    }

    fn status(&self) -> String {
        let (missing, ended) = (self.missing.len(), self.ended);
        match &self.failure {
            Some(reason) => format!("{ended} ended, {missing} clients missing, failed: {reason}"),
            None => format!("{ended} ended, {missing} clients missing"),
        }
    }
}

/// Removes old results.
#[derive(Debug)]
pub struct ResultPruner {
    namespace: Arc<Namespace>,
    removed: usize,
}

impl ResultPruner {
    /// Removes results of `namespace`.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self {
            namespace,
            removed: 0,
        }
    }

    /// Removes a page of old results; returns how many there were.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn prune(&mut self) -> Result<usize, MetaError> {
        let env = &self.namespace.env;
        let kept = u64::try_from(RESULT_KEPT.as_nanos()).unwrap_or(u64::MAX);
        let before_ns = env.wall().0.saturating_sub(kept);
        let count = transact(env, &*self.namespace.kv, env.now() + CALL_TIME, |txn| {
            Box::pin(store::idempotency::prune(txn, before_ns, PAGE))
        })
        .await?;
        self.removed += count;
        Ok(count)
    }
}

impl Worker for ResultPruner {
    fn name(&self) -> &'static str {
        "result-pruner"
    }

    async fn step(&mut self) -> Next {
        match self.prune().await {
            Ok(PAGE..) => Next::Again,
            Ok(_) => Next::Wait(RESULTS_EVERY),
            Err(error) => {
                tracing::info!(%error, "cannot prune stored results now");
                Next::Wait(RESULTS_EVERY)
            }
        }
    }

    fn status(&self) -> String {
        format!("{} removed", self.removed)
    }
}
