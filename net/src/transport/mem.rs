//! The transport inside one process, for tests and simulation: the same bytes in bodies, no sockets.
//!
//! A pull hands over the caller's buffer itself; a push copies into the destination, which lives in a slot that
//! the caller empties when it stops waiting, so a late push finds nothing to write to.
//! What goes wrong on the way is decided in `MemConnection::travel`, which every request and every reply passes (`faults`).

mod faults;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::{Env, Instant},
    shutdown::{Shutdown, ShutdownSignal},
    sync::Mutex,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use types::status::{Status, StatusCode};

use self::faults::{Fate, Faults, Leg};
pub use self::faults::{Gone, LinkFaults};
use crate::{
    config::NetConfig,
    endpoint::{ServeError, Server},
    frame::FrameError,
    rpc::server::Dispatch,
    transport::{
        Arrived, BulkAccess, Connection, Outgoing, RawReply, ReplyTo, check_reply, unreachable,
    },
};

/// The names at which endpoints of this process listen. One for each simulated network; clones are the same one.
#[derive(Clone, Default)]
pub struct MemNetwork {
    shared: Arc<Shared>,
    /// Where calls come from that are made through this.
    host: Arc<str>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<BTreeMap<String, Arc<Listener>>>,
    faults: Mutex<Faults>,
}

impl fmt::Debug for MemNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.shared.names.lock();
        f.debug_list().entries(names.keys()).finish()
    }
}

struct Listener {
    /// The server's clock: a deadline travels as the time that is left.
    env: Env,
    /// `None` once it is gone: connections to it, which others keep, then keep nothing of it.
    dispatch: Mutex<Option<Dispatch>>,
    outstanding: Arc<Semaphore>,
    /// Takes no new calls.
    stopping: Shutdown,
    closed: Shutdown,
}

impl Listener {
    /// Lets go of the server; not while the lock is held, whatever that ends.
    fn let_go(&self) {
        let dispatch = self.dispatch.lock().take();
        drop(dispatch);
    }
}

impl MemNetwork {
    /// A network without anyone.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same network as this host sees it. A host is named as it listens, or in any other way if it does not.
    #[must_use]
    pub fn at(&self, host: &str) -> Self {
        Self {
            shared: self.shared.clone(),
            host: host.into(),
        }
    }

    /// What goes wrong between any two hosts from now on.
    pub fn set_faults(&self, faults: LinkFaults) {
        self.shared.faults.lock().links = faults;
    }

    /// Nothing gets from one host to the other any more; in the other direction it does.
    pub fn cut(&self, from: &str, to: &str) {
        let link = (from.to_owned(), to.to_owned());
        self.shared.faults.lock().cut.insert(link);
    }

    /// Ends all cuts.
    pub fn join(&self) {
        self.shared.faults.lock().cut.clear();
    }

    /// A host is gone, as after a loss of power: nothing gets from or to it any more, and nobody listens there. With
    /// `Gone::Reset` its callers learn it at once, as from the kernel of a host whose process died.
    pub fn remove(&self, host: &str, how: Gone) {
        self.shared.faults.lock().gone.insert(host.to_owned());
        let listener = self.shared.names.lock().remove(host);
        if let Some(listener) = listener {
            listener.stopping.trigger();
            listener.let_go();
            if how == Gone::Reset {
                listener.closed.trigger();
            }
        }
    }

    /// All hosts are gone. Whoever listens holds the network and is held by it: without this neither is ever freed.
    pub fn remove_all(&self) {
        let names: Vec<String> = self.shared.names.lock().keys().cloned().collect();
        for name in names {
            self.remove(&name, Gone::Reset);
        }
    }

    /// A host that was gone is there again; it may listen anew.
    pub fn bring_back(&self, host: &str) {
        self.shared.faults.lock().gone.remove(host);
    }

    pub(crate) fn connect(
        &self,
        env: &Env,
        config: &Arc<NetConfig>,
        name: &str,
    ) -> Result<Arc<dyn Connection>, Status> {
        let Some(listener) = self.shared.names.lock().get(name).cloned() else {
            return Err(unreachable(format!("nobody listens at mem://{name}")));
        };
        Ok(Arc::new(MemConnection {
            env: env.clone(),
            config: config.clone(),
            network: self.clone(),
            name: name.to_owned(),
            stopping: listener.stopping.signal(),
            closed: listener.closed.signal(),
            listener,
        }))
    }

    pub(crate) fn listen(
        &self,
        env: &Env,
        config: &NetConfig,
        name: &str,
        dispatch: Dispatch,
        mut shutdown: ShutdownSignal,
    ) -> Result<Server, ServeError> {
        let address = format!("mem://{name}");
        let listener = Arc::new(Listener {
            env: env.clone(),
            dispatch: Mutex::new(Some(dispatch)),
            outstanding: Arc::new(Semaphore::new(config.outstanding_max as usize)),
            stopping: Shutdown::new(),
            closed: Shutdown::new(),
        });
        {
            let mut names = self.shared.names.lock();
            if names.contains_key(name) {
                return Err(ServeError::AddressInUse { address });
            }
            names.insert(name.to_owned(), listener.clone());
        }
        let kill = Shutdown::new();
        let keep = kill.clone();
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let (drain, all) = (config.drain_ms_max, config.outstanding_max);
        let timer = env.clone();
        let task = env.spawn("mem-server", async move {
            // The signal fires when its last sender is gone, and a `Server` may be dropped.
            let mut killed = keep.signal();
            tokio::select! {
                () = shutdown.wait() => {}
                () = killed.wait() => {}
            }
            listener.stopping.trigger();
            {
                let mut names = shared.names.lock();
                // Somebody else may listen there, if this one was removed before.
                if names
                    .get(&name)
                    .is_some_and(|there| Arc::ptr_eq(there, &listener))
                {
                    names.remove(&name);
                }
            }
            let drained = timer.timeout(
                std::time::Duration::from_millis(drain),
                listener.outstanding.acquire_many(all),
            );
            tokio::select! {
                _ = drained => {}
                () = killed.wait() => {}
            }
            listener.closed.trigger();
            listener.let_go();
        });
        Ok(Server::new(address, kill, task))
    }
}

struct MemConnection {
    env: Env,
    config: Arc<NetConfig>,
    /// As the caller sees it.
    network: MemNetwork,
    name: String,
    listener: Arc<Listener>,
    stopping: ShutdownSignal,
    closed: ShutdownSignal,
}

type Slot = Arc<Mutex<Option<Vec<RegisteredBuf>>>>;

/// Empties the slot when the caller stops waiting, for whatever reason.
struct SlotGuard(Slot);

impl SlotGuard {
    fn empty(&self) -> Vec<RegisteredBuf> {
        self.0.lock().take().unwrap_or_default()
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        drop(self.empty());
    }
}

#[async_trait]
impl Connection for MemConnection {
    async fn call(&self, request: Outgoing) -> RawReply {
        let deadline = request.deadline;
        let lengths = request.bulk.destinations.iter().map(|buf| buf.len());
        let lengths: Vec<usize> = lengths.collect();
        let slot: Slot = Arc::new(Mutex::new(Some(request.bulk.destinations)));
        let guard = SlotGuard(slot.clone());
        let sources = request.bulk.sources;
        let checked = check_limits(&self.config, &request.body, &sources, &lengths);
        let letter = Letter {
            service: request.service,
            method: request.method,
            method_version: request.method_version,
            deadline,
            body: Bytes::from(request.body),
            sources,
            lengths,
            slot,
        };
        let exchange = async {
            checked?;
            match self.travel(Leg::Request).await {
                Fate::Arrives => {}
                Fate::ArrivesTwice => {
                    // Nobody waits for what the second one is told.
                    drop(self.deliver(&letter).await?);
                }
                Fate::Lost => std::future::pending().await,
                Fate::Reset => return Err(self.gone()),
            }
            let replied = self.deliver(&letter).await?.await;
            match self.travel(Leg::Reply).await {
                Fate::Arrives | Fate::ArrivesTwice => replied.map_err(|_| self.gone())?,
                Fate::Lost => std::future::pending().await,
                Fate::Reset => Err(self.gone()),
            }
        };
        let mut closed = self.closed.clone();
        let result = tokio::select! {
            biased;
            done = self.env.timeout_at(deadline, exchange) => match done {
                Ok(result) => result,
                Err(_) => Err(Status::new(
                    StatusCode::DeadlineExceeded,
                    format!("mem://{} did not answer in time", self.name),
                )),
            },
            () = closed.wait() => Err(self.gone()),
        };
        RawReply {
            result: result.map(Bytes::from),
            destinations: guard.empty(),
        }
    }

    fn is_open(&self) -> bool {
        !self.stopping.is_triggered()
    }
}

/// A request on its way.
struct Letter {
    service: u16,
    method: u16,
    method_version: u16,
    deadline: Instant,
    body: Bytes,
    sources: Vec<SharedBuf>,
    lengths: Vec<usize>,
    slot: Slot,
}

impl MemConnection {
    /// Hands a request to the server; its reply comes later.
    async fn deliver(
        &self,
        letter: &Letter,
    ) -> Result<oneshot::Receiver<Result<Vec<u8>, Status>>, Status> {
        let permit = self.listener.outstanding.clone().acquire_owned().await;
        let permit = permit.map_err(|_| self.gone())?;
        let (sender, receiver) = oneshot::channel();
        let left = letter.deadline.saturating_duration_since(self.env.now());
        let arrived = Arrived {
            service: letter.service,
            method: letter.method,
            method_version: letter.method_version,
            deadline: self.listener.env.now() + left,
            peer: "mem".into(),
            body: letter.body.clone(),
            bulk: Box::new(MemBulk {
                sources: letter.sources.clone(),
                lengths: letter.lengths.clone(),
                slot: letter.slot.clone(),
            }),
            reply_to: Box::new(MemReply {
                sender,
                config: self.config.clone(),
                _outstanding: permit,
            }),
            admission: Box::new(()),
        };
        match &*self.listener.dispatch.lock() {
            Some(dispatch) => dispatch.accept(arrived),
            None => return Err(self.gone()),
        }
        Ok(receiver)
    }

    /// Waits as long as one way takes, and says how it ends.
    async fn travel(&self, leg: Leg) -> Fate {
        let (host, name) = (&*self.network.host, &*self.name);
        let link = match leg {
            Leg::Request => (host, name),
            Leg::Reply => (name, host),
        };
        let (fate, delay) = self.network.shared.faults.lock().draw(&self.env, link, leg);
        if !delay.is_zero() {
            self.env.sleep(delay).await;
        }
        fate
    }

    fn gone(&self) -> Status {
        unreachable(format!("mem://{} is gone", self.name))
    }
}

fn check_limits(
    config: &NetConfig,
    body: &[u8],
    sources: &[SharedBuf],
    destinations: &[usize],
) -> Result<(), Status> {
    let payload: usize = sources.iter().map(|source| source.len()).sum();
    let checks = [
        ("a body", body.len(), config.body_bytes_max),
        ("a payload", payload, config.payload_bytes_max),
        (
            "a bulk table",
            sources.len() + destinations.len(),
            u32::from(config.buffers_max),
        ),
    ];
    for (what, found, max) in checks {
        if found > max as usize {
            let error = FrameError::TooLarge {
                what,
                found: found as u64,
                max: u64::from(max),
            };
            return Err(Status::new(StatusCode::InvalidArgument, error.to_string()));
        }
    }
    Ok(())
}

struct MemBulk {
    sources: Vec<SharedBuf>,
    lengths: Vec<usize>,
    slot: Slot,
}

#[async_trait]
impl BulkAccess for MemBulk {
    fn source_length(&self, index: usize) -> Option<usize> {
        self.sources.get(index).map(|source| source.len())
    }

    fn destination_length(&self, index: usize) -> Option<usize> {
        self.lengths.get(index).copied()
    }

    async fn pull(&self, index: usize) -> Result<SharedBuf, Status> {
        Ok(self.sources[index].clone())
    }

    async fn push(&self, index: usize, offset: usize, data: SharedBuf) -> Result<(), Status> {
        let mut slot = self.slot.lock();
        let Some(destinations) = slot.as_mut() else {
            return Err(Status::new(StatusCode::Cancelled, "the caller gave up"));
        };
        destinations[index][offset..offset + data.len()].copy_from_slice(&data);
        Ok(())
    }
}

struct MemReply {
    sender: oneshot::Sender<Result<Vec<u8>, Status>>,
    config: Arc<NetConfig>,
    /// Given back when the reply is sent, so that a server which waits for all of them loses none.
    _outstanding: OwnedSemaphorePermit,
}

#[async_trait]
impl ReplyTo for MemReply {
    async fn reply(self: Box<Self>, result: Result<Vec<u8>, Status>) {
        if self.sender.send(check_reply(&self.config, result)).is_err() {
            tracing::trace!("the caller gave up");
        }
    }
}
