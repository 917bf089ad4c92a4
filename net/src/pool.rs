//! Connections to peers: one for small calls, some for bulk, opened at need, shared by all callers.
//!
//! Each lane of a peer is in one of three states:
//!
//! | state | a caller |
//! | --- | --- |
//! | open | uses the connection; a closed one is found out here and replaced |
//! | connecting | waits for the attempt under way; it is a task of its own, so that no caller's end ends it |
//! | pausing | fails at once with the last failure, until the pause is over; then the next caller connects |
//!
//! So a dead peer costs an attempt per pause (which doubles up to `reconnect_ms_max`), and only while someone calls.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    backoff::Backoff,
    env::{Env, Instant},
    sync::Mutex,
};
use tokio::sync::watch;
use types::status::{Status, StatusCode};

use crate::{
    config::NetConfig,
    endpoint::Transports,
    frame::Lane,
    transport::{
        Connection,
        tcp::{self, TcpContext},
        unreachable,
    },
};

type Attempt = watch::Receiver<Option<Result<Arc<dyn Connection>, Status>>>;

/// The first pause after a failed attempt.
const RECONNECT_FIRST: Duration = Duration::from_millis(10);

/// Peers kept at most; beyond, those without an open connection are forgotten.
const PEERS_MAX: usize = 4096;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
}

struct Shared {
    env: Env,
    config: Arc<NetConfig>,
    transports: Transports,
}

struct Peer {
    address: String,
    /// The first is for calls, the others for bulk.
    slots: Vec<Mutex<Slot>>,
    next_bulk: AtomicUsize,
}

struct Slot {
    state: State,
    backoff: Backoff,
}

enum State {
    Idle,
    Open(Arc<dyn Connection>),
    Connecting(Attempt),
    Pausing { until: Instant, failure: Status },
}

impl Pool {
    pub(crate) fn new(env: Env, config: Arc<NetConfig>, transports: Transports) -> Self {
        Self {
            shared: Arc::new(Shared {
                env,
                config,
                transports,
            }),
            peers: Mutex::default(),
        }
    }

    /// A connection to `address` that suits a call with so many bulk bytes.
    ///
    /// # Errors
    /// Unreachable when there is none to be had; DeadlineExceeded when it takes too long.
    pub(crate) async fn get(
        &self,
        address: &str,
        bulk_bytes: usize,
        deadline: Instant,
    ) -> Result<Arc<dyn Connection>, Status> {
        let peer = self.peer(address);
        let index = if bulk_bytes <= self.shared.config.bulk_threshold_bytes as usize
            || peer.slots.len() == 1
        {
            0
        } else {
            1 + peer.next_bulk.fetch_add(1, Ordering::Relaxed) % (peer.slots.len() - 1)
        };
        let mut attempt = match self.shared.look(&peer, index) {
            Found::Open(connection) => return Ok(connection),
            Found::Failed(status) => return Err(status),
            Found::Wait(attempt) => attempt,
        };
        let done = attempt.wait_for(Option::is_some);
        let result = match self.shared.env.timeout_at(deadline, done).await {
            Ok(Ok(result)) => result.clone(),
            Ok(Err(_)) => None,
            Err(_) => {
                let message = format!("{address} could not be connected in time");
                return Err(Status::new(StatusCode::DeadlineExceeded, message));
            }
        };
        result.unwrap_or_else(|| Err(unreachable(format!("{address}: connecting was given up"))))
    }

    fn peer(&self, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address) {
            return peer.clone();
        }
        if peers.len() >= PEERS_MAX {
            peers.retain(|_, peer| peer.is_used());
        }
        let config = &self.shared.config;
        let longest = Duration::from_millis(config.reconnect_ms_max);
        let slot = || {
            Mutex::new(Slot {
                state: State::Idle,
                backoff: Backoff::new(RECONNECT_FIRST.min(longest), longest),
            })
        };
        let peer = Arc::new(Peer {
            address: address.to_owned(),
            slots: (0..=config.bulk_connections).map(|_| slot()).collect(),
            next_bulk: AtomicUsize::new(0),
        });
        peers.insert(address.to_owned(), peer.clone());
        peer
    }
}

enum Found {
    Open(Arc<dyn Connection>),
    Failed(Status),
    Wait(Attempt),
}

impl Peer {
    fn is_used(&self) -> bool {
        self.slots.iter().any(|slot| match &slot.lock().state {
            State::Open(connection) => connection.is_open(),
            State::Connecting(_) => true,
            State::Idle | State::Pausing { .. } => false,
        })
    }
}

impl Shared {
    /// The state of a slot as a caller sees it; starts an attempt when one is due.
    fn look(self: &Arc<Self>, peer: &Arc<Peer>, index: usize) -> Found {
        let mut slot = peer.slots[index].lock();
        match &slot.state {
            State::Open(connection) if connection.is_open() => {
                return Found::Open(connection.clone());
            }
            State::Connecting(attempt) => return Found::Wait(attempt.clone()),
            State::Pausing { until, failure } if self.env.now() < *until => {
                return Found::Failed(failure.clone());
            }
            State::Idle | State::Open(_) | State::Pausing { .. } => {}
        }
        let (sender, receiver) = watch::channel(None);
        slot.state = State::Connecting(receiver.clone());
        drop(slot);
        let (shared, peer) = (self.clone(), peer.clone());
        let connecting = async move {
            let lane = if index == 0 { Lane::Calls } else { Lane::Bulk };
            let result = shared.connect(&peer.address, lane).await;
            shared.settle(&mut peer.slots[index].lock(), &result);
            sender.send_replace(Some(result));
        };
        drop(self.env.spawn("connect", connecting));
        Found::Wait(receiver)
    }

    fn settle(&self, slot: &mut Slot, result: &Result<Arc<dyn Connection>, Status>) {
        slot.state = match result {
            Ok(connection) => {
                let longest = Duration::from_millis(self.config.reconnect_ms_max);
                slot.backoff = Backoff::new(RECONNECT_FIRST.min(longest), longest);
                State::Open(connection.clone())
            }
            Err(failure) => State::Pausing {
                until: self.env.now() + slot.backoff.next_delay(&self.env),
                failure: failure.clone(),
            },
        };
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Arc<dyn Connection>, Status> {
        if let Some(name) = address.strip_prefix("mem://") {
            let Some(network) = &self.transports.mem else {
                return Err(unreachable(format!("{address}: no such transport here")));
            };
            return network.connect(&self.env, &self.config, name);
        }
        let context = TcpContext {
            env: self.env.clone(),
            config: self.config.clone(),
        };
        let host = address.strip_prefix("tcp://").unwrap_or(address);
        tcp::connect(context, host, lane).await
    }
}
