//! A process's place on the network: it calls, and it serves. One per process, shared by everything in it.
//!
//! Addresses: `tcp://host:port`, `host:port` (the same), `mem://name`.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use common::{
    buf::{BufPool, RegisteredBuf},
    env::{Env, Instant, Task},
    shutdown::{Shutdown, ShutdownSignal},
};
use types::{
    codec,
    rpc::{Caller, Rpc},
    status::{Status, StatusCode},
};

use crate::{
    buf::Bulk,
    config::NetConfig,
    metrics,
    pool::Pool,
    rpc::{
        METHOD_VERSION,
        server::{Dispatch, Handler},
    },
    transport::{
        Outgoing, RawReply,
        mem::MemNetwork,
        tcp::{self, TcpContext},
    },
};

/// Which transports an endpoint has; tcp always.
#[derive(Clone, Debug, Default)]
pub struct Transports {
    /// For addresses `mem://name`.
    pub mem: Option<MemNetwork>,
}

impl Transports {
    /// Only tcp.
    pub fn tcp() -> Self {
        Self::default()
    }

    /// tcp, and a network inside the process.
    pub fn with_mem(network: MemNetwork) -> Self {
        Self { mem: Some(network) }
    }
}

/// What a call came to.
#[derive(Debug)]
pub struct Reply<T> {
    /// The response, or why there is none.
    pub result: Result<T, Status>,
    /// The destinations, filled as far as the server pushed. After a timeout or a broken connection their content
    /// is undefined, and the list may be empty because the transport still holds a buffer: allocate anew then.
    pub destinations: Vec<RegisteredBuf>,
}

/// Why an endpoint does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else has the address.
    #[error(
        "address {address} is already in use; another process listens there, choose another with `listen`"
    )]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// The system refused the address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No such transport here.
    #[error("cannot listen on {address}: this process has no such transport")]
    NoTransport {
        /// The address.
        address: String,
    },
}

/// A running server. Dropping it lets it serve on until its shutdown signal.
#[derive(Debug)]
pub struct Server {
    address: String,
    kill: Shutdown,
    task: Task<()>,
}

impl Server {
    pub(crate) fn new(address: String, kill: Shutdown, task: Task<()>) -> Self {
        Self {
            address,
            kill,
            task,
        }
    }

    /// The address in use, with the port that was chosen for port 0.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Waits until the server has ended: after its shutdown signal, when requests under way are answered or the
    /// drain time is over.
    pub async fn join(self) {
        // A server task that panicked has ended as well; the panic hook has logged it.
        let _ended = self.task.join().await;
    }

    /// Ends at once: connections break, replies are lost. For tests of what a crash looks like to callers.
    pub async fn kill(self) {
        self.kill.trigger();
        self.join().await;
    }
}

/// See the module's text. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    env: Env,
    buffers: BufPool,
    config: Arc<NetConfig>,
    transports: Transports,
    pool: Pool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("transports", &self.0.transports)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint without connections. Needs a tokio runtime from its first call on.
    pub fn new(env: &Env, transports: Transports, buffers: BufPool, config: NetConfig) -> Self {
        let config = Arc::new(config);
        Self(Arc::new(Inner {
            env: env.clone(),
            buffers,
            pool: Pool::new(env.clone(), config.clone(), transports.clone()),
            config,
            transports,
        }))
    }

    /// Where buffers for bulk come from.
    pub fn buffers(&self) -> &BufPool {
        &self.0.buffers
    }

    /// Calls `M` at `address`; connects first when there is no connection. `deadline` bounds everything.
    ///
    /// Dropping the future gives the call up; the server runs it to its end all the same.
    pub async fn call<M: Rpc>(
        &self,
        address: &str,
        caller: &Caller,
        request: &M::Request,
        bulk: Bulk,
        deadline: Instant,
    ) -> Reply<M::Response> {
        let started = self.0.env.now();
        let mut body = codec::encode_body(caller);
        body.append(&mut codec::encode_body(request));
        let outgoing = Outgoing {
            service: M::SERVICE as u16,
            method: M::METHOD,
            method_version: METHOD_VERSION,
            deadline,
            body,
            bulk,
        };
        let reply = self.exchange(address, outgoing).await;
        let result = reply.result.and_then(|body| decode::<M>(&body));
        let took = self.0.env.now().saturating_duration_since(started);
        let code = result.as_ref().err().map(|status| status.code);
        metrics::call(M::NAME, code, took);
        Reply {
            result,
            destinations: reply.destinations,
        }
    }

    /// Calls without bulk.
    ///
    /// # Errors
    /// What the server answered; Unreachable; DeadlineExceeded.
    pub async fn ask<M: Rpc>(
        &self,
        address: &str,
        caller: &Caller,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, Status> {
        self.call::<M>(address, caller, request, Bulk::default(), deadline)
            .await
            .result
    }

    /// One request and its reply, both as bytes.
    pub(crate) async fn exchange(&self, address: &str, outgoing: Outgoing) -> RawReply {
        let bulk_bytes = outgoing.bulk.total_bytes();
        let connection = self
            .0
            .pool
            .get(address, bulk_bytes, outgoing.deadline)
            .await;
        match connection {
            Ok(connection) => connection.call(outgoing).await,
            Err(status) => RawReply {
                result: Err(status),
                destinations: outgoing.bulk.destinations,
            },
        }
    }

    /// Serves `handler` at `listen` until shutdown. May be called for several addresses.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn serve(
        &self,
        listen: &str,
        handler: Arc<dyn Handler>,
        shutdown: ShutdownSignal,
    ) -> Result<Server, ServeError> {
        let dispatch = Dispatch::new(self.0.env.clone(), handler);
        if let Some(name) = listen.strip_prefix("mem://") {
            let Some(network) = &self.0.transports.mem else {
                let address = listen.to_owned();
                return Err(ServeError::NoTransport { address });
            };
            let Inner { env, config, .. } = &*self.0;
            return network.listen(env, config, name, dispatch, shutdown);
        }
        let context = TcpContext {
            env: self.0.env.clone(),
            config: self.0.config.clone(),
        };
        let host = listen.strip_prefix("tcp://").unwrap_or(listen);
        tcp::listen(context, host, self.0.buffers.clone(), dispatch, shutdown).await
    }
}

fn decode<M: Rpc>(body: &Bytes) -> Result<M::Response, Status> {
    codec::decode_body(body).map_err(|error| {
        Status::new(
            StatusCode::Malformed,
            format!("reply of {}: {error}", M::NAME),
        )
    })
}
