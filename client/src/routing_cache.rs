//! The newest routing map this process knows, kept new by a watch (a long poll) at the manager.
//!
//! Invariant: the map never goes back to an older version (protocol M5). Everyone may offer a map; only a newer one
//! is taken.

use std::{sync::Arc, time::Duration};

use common::{
    backoff::Backoff,
    env::{Env, Instant, Task},
    shutdown::ShutdownSignal,
};
use tokio::sync::watch;
use types::{
    chain::Chain,
    id::ChainId,
    routing::RoutingInfo,
    rpc::mgmtd::{WatchRouting, WatchRoutingRequest},
    status::{Status, StatusCode},
    version::RoutingVersion,
};

use crate::mgmtd::MgmtdClient;

/// How long a poll waits at the manager for a newer map.
const POLL: Duration = Duration::from_secs(20);
/// A manager that answers a poll later than this is hung.
const POLL_MARGIN: Duration = Duration::from_secs(2);
/// Many callers that fail together ask once in this time; the watch tells what comes in between.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Who waits for a silent node asks for a newer map this often.
const SILENCE: Duration = Duration::from_secs(1);
/// How long one answer may take that nobody waits for at the manager.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// See the module's text. Cheap to clone; clones share the map.
#[derive(Clone, Debug)]
pub struct RoutingCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    env: Env,
    mgmtd: Option<MgmtdClient>,
    map: watch::Sender<Arc<RoutingInfo>>,
    /// When the last question that was answered was asked. Held while asking, so that many callers ask once.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

impl RoutingCache {
    /// An empty cache that can ask `mgmtd`. `start` makes it watch.
    pub fn new(env: &Env, mgmtd: MgmtdClient) -> Self {
        Self::build(env, Some(mgmtd))
    }

    /// A cache without a manager: holds what is offered. For tests and tools.
    pub fn detached(env: &Env) -> Self {
        Self::build(env, None)
    }

    fn build(env: &Env, mgmtd: Option<MgmtdClient>) -> Self {
        Self(Arc::new(Shared {
            env: env.clone(),
            mgmtd,
            map: watch::Sender::new(Arc::default()),
            asking: tokio::sync::Mutex::new(None),
        }))
    }

    /// Starts the watch; it ends at shutdown. `None` for a detached cache.
    pub fn start(&self, shutdown: ShutdownSignal) -> Option<Task<()>> {
        let mgmtd = self.0.mgmtd.clone()?;
        let cache = self.clone();
        Some(self.0.env.spawn("routing-watch", async move {
            cache.watch(&mgmtd, shutdown).await;
        }))
    }

    /// The newest map; version 0 before the first one came.
    pub fn current(&self) -> Arc<RoutingInfo> {
        self.0.map.borrow().clone()
    }

    /// Every newer map from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<RoutingInfo>> {
        self.0.map.subscribe()
    }

    /// Takes a map if it is newer than the one that is there.
    pub fn offer(&self, map: RoutingInfo) {
        self.0.map.send_if_modified(|current| {
            let newer = map.version > current.version;
            if newer {
                tracing::debug!(version = map.version.0, "routing map");
                *current = Arc::new(map);
            }
            newer
        });
    }

    /// Asks for a map newer than `newer_than` and waits for it until `deadline`; returns the newest there is then.
    pub async fn refresh(&self, newer_than: RoutingVersion, deadline: Instant) -> Arc<RoutingInfo> {
        let mut maps = self.subscribe();
        if maps.borrow_and_update().version > newer_than {
            return self.current();
        }
        let newer = async {
            // An error means that the cache is gone, which cannot be while it is borrowed here.
            let _gone = maps.wait_for(|map| map.version > newer_than).await.is_err();
        };
        tokio::select! {
            () = newer => {}
            () = self.ask_until(newer_than, deadline) => {}
        }
        self.current()
    }

    /// Waits until a chain is not any more as an attempt needs it: `holds` is false. Returns that as the attempt's failure, which a
    /// newer map cures. So nobody waits for a node that the chain has gone on without: it may hang or be cut off.
    pub(crate) async fn moved(&self, chain: ChainId, holds: impl Fn(&Chain) -> bool) -> Status {
        let env = &self.0.env;
        let is_moved = |map: &RoutingInfo| !map.chains.get(&chain).is_some_and(&holds);
        let mut maps = self.subscribe();
        let told = maps.wait_for(|map| is_moved(map));
        // An error means that the cache is gone, which cannot be while it is borrowed here.
        let mut moved = env.timeout(SILENCE, told).await.is_ok();
        while !moved {
            // The manager of the watch may be as silent as the node: so another one is asked.
            let map = self.current();
            moved = is_moved(&map);
            if !moved {
                self.refresh(map.version, env.now() + SILENCE).await;
            }
        }
        let why = format!("chain {chain} has changed meanwhile");
        Status::new(StatusCode::Unreachable, why)
    }

    /// Asks once, unless somebody else just did, then waits for `deadline`.
    async fn ask_until(&self, newer_than: RoutingVersion, deadline: Instant) {
        let env = &self.0.env;
        if let Some(mgmtd) = &self.0.mgmtd {
            let started = env.now();
            let mut asking = self.0.asking.lock().await;
            let asked_since = asking.is_some_and(|asked| asked + ASK_PAUSE >= started);
            if !asked_since && self.current().version <= newer_than {
                let asked = env.now();
                let until = (asked + ASK_LIMIT).min(deadline);
                if self.ask(mgmtd, Duration::ZERO, until).await.is_ok() {
                    *asking = Some(asked);
                }
            }
        }
        env.sleep_until(deadline).await;
    }

    /// One question: the map, at once or when it is newer within `wait`.
    async fn ask(
        &self,
        mgmtd: &MgmtdClient,
        wait: Duration,
        deadline: Instant,
    ) -> Result<(), Status> {
        let request = WatchRoutingRequest {
            known: self.current().version,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let attempt = wait + POLL_MARGIN;
        let asked = mgmtd.call_within::<WatchRouting>(&request, deadline, attempt);
        if let Some(map) = asked.await?.routing {
            self.offer(map);
        }
        Ok(())
    }

    async fn watch(&self, mgmtd: &MgmtdClient, mut shutdown: ShutdownSignal) {
        let env = &self.0.env;
        let first = || Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        let mut backoff = first();
        loop {
            let deadline = env.now() + POLL + POLL_MARGIN;
            let polled = tokio::select! {
                polled = self.ask(mgmtd, POLL, deadline) => polled,
                () = shutdown.wait() => return,
            };
            let Err(status) = polled else {
                backoff = first();
                continue;
            };
            tracing::debug!(%status, "the routing watch failed; watching again");
            tokio::select! {
                () = backoff.wait(env) => {}
                () = shutdown.wait() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64) -> RoutingInfo {
        RoutingInfo {
            version: RoutingVersion(version),
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_map_is_never_taken() {
        let env = Env::seeded(1);
        let cache = RoutingCache::detached(&env);
        cache.offer(map(5));
        cache.offer(map(4));
        assert_eq!(cache.current().version, RoutingVersion(5));
    }

    #[tokio::test(start_paused = true)]
    async fn refresh_returns_with_the_newer_map_or_at_its_deadline() {
        let env = Env::seeded(1);
        let cache = RoutingCache::detached(&env);
        cache.offer(map(1));
        let deadline = env.now() + Duration::from_millis(500);
        let same = cache.refresh(RoutingVersion(1), deadline).await;
        assert_eq!(same.version, RoutingVersion(1));
        assert!(env.now() >= deadline);

        let feeder = cache.clone();
        let task = env.spawn("feed", async move { feeder.offer(map(2)) });
        let started = env.now();
        let newer = cache
            .refresh(RoutingVersion(1), started + Duration::from_secs(9))
            .await;
        assert_eq!(newer.version, RoutingVersion(2));
        assert!(env.now() < started + Duration::from_secs(1));
        task.join().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_map_that_is_there_already_needs_no_wait() {
        let env = Env::seeded(1);
        let cache = RoutingCache::detached(&env);
        cache.offer(map(7));
        let started = env.now();
        let map = cache
            .refresh(RoutingVersion(3), started + Duration::from_secs(9))
            .await;
        assert_eq!((map.version, env.now()), (RoutingVersion(7), started));
    }
}
