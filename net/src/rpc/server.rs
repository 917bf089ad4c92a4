//! The server side of a request: from its arrival to its reply.
//!
//! A handler runs as a task of its own, to its end: it is never dropped half way, neither at its deadline nor when
//! the caller or the connection is gone, so a handler need not fear to be cut between two awaits. A request that
//! arrives after its deadline is not run; a reply that is late is dropped, because nobody waits for it.
//! A panicking handler is answered with Internal, and the server goes on.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    buf::SharedBuf,
    env::{Env, Instant},
};
use futures::FutureExt;
use types::{
    codec,
    rpc::{BulkIndex, Caller, Rpc, Service},
    status::{Status, StatusCode},
};

use crate::{
    metrics,
    rpc::METHOD_VERSION,
    transport::{Arrived, BulkAccess},
};

/// Answers requests. `Router` is the one to use; this is for those who dispatch themselves.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one request to its end; returns the encoded response.
    async fn handle(&self, request: Incoming) -> Result<Vec<u8>, Status>;

    /// The name of a method in metrics; `None` for one that is not served here.
    fn method_name(&self, _service: Service, _method: u16) -> Option<&'static str> {
        None
    }
}

/// A request at its server.
pub struct Incoming {
    /// The service asked.
    pub service: Service,
    /// The method's number in the service.
    pub method: u16,
    /// Who asks.
    pub caller: Caller,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The address of the peer, for logs.
    pub peer: Arc<str>,
    /// The encoded request.
    pub body: Bytes,
    bulk: Box<dyn BulkAccess>,
    _admission: Box<dyn Send + Sync>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("service", &self.service)
            .field("method", &self.method)
            .field("caller", &self.caller)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    /// Bytes of a source; `None` when the request has no such source.
    pub fn source_length(&self, source: BulkIndex) -> Option<usize> {
        self.bulk.source_length(usize::from(source.0))
    }

    /// Bytes of a destination; `None` when the request has no such destination.
    pub fn destination_length(&self, destination: BulkIndex) -> Option<usize> {
        self.bulk.destination_length(usize::from(destination.0))
    }

    /// Gets the payload of a source. On tcp it is here already and is handed over without a copy.
    ///
    /// # Errors
    /// InvalidArgument when there is no such source; Unreachable when the connection broke.
    pub async fn pull(&self, source: BulkIndex) -> Result<SharedBuf, Status> {
        if self.source_length(source).is_none() {
            return Err(invalid(format!("the request has no source {}", source.0)));
        }
        let data = self.bulk.pull(usize::from(source.0)).await?;
        metrics::pulled(data.len());
        Ok(data)
    }

    /// Places bytes into the caller's destination from `offset` on. Pushes may run concurrently; the caller sees
    /// the reply after all of them.
    ///
    /// # Errors
    /// InvalidArgument when the bytes leave the destination; Unreachable when the connection broke; Cancelled when
    /// the caller gave up and the transport knows it.
    pub async fn push(
        &self,
        destination: BulkIndex,
        offset: usize,
        data: SharedBuf,
    ) -> Result<(), Status> {
        let Some(length) = self.destination_length(destination) else {
            let message = format!("the request has no destination {}", destination.0);
            return Err(invalid(message));
        };
        if offset
            .checked_add(data.len())
            .is_none_or(|end| end > length)
        {
            return Err(invalid(format!(
                "{} bytes at {offset} leave destination {} of {length} bytes",
                data.len(),
                destination.0
            )));
        }
        if data.is_empty() {
            return Ok(());
        }
        metrics::pushed(data.len());
        self.bulk
            .push(usize::from(destination.0), offset, data)
            .await
    }

    /// The request of a method.
    ///
    /// # Errors
    /// Malformed when the body is no such request.
    pub fn decode<M: Rpc>(&self) -> Result<M::Request, Status> {
        codec::decode_body(&self.body).map_err(|error| {
            Status::new(
                StatusCode::Malformed,
                format!("request of {}: {error}", M::NAME),
            )
        })
    }
}

fn invalid(message: String) -> Status {
    Status::new(StatusCode::InvalidArgument, message)
}

/// Takes requests from transports to a handler.
pub(crate) struct Dispatch {
    env: Env,
    handler: Arc<dyn Handler>,
}

impl Dispatch {
    pub(crate) fn new(env: Env, handler: Arc<dyn Handler>) -> Self {
        Self { env, handler }
    }

    /// Starts the handler of a request. Returns at once.
    pub(crate) fn accept(&self, arrived: Arrived) {
        let env = self.env.clone();
        let handler = self.handler.clone();
        // The task runs on by itself; whoever waits for the end of all requests waits for their admission.
        drop(self.env.spawn("request", run(env, handler, arrived)));
    }
}

async fn run(env: Env, handler: Arc<dyn Handler>, arrived: Arrived) {
    let started = env.now();
    let reply_to = arrived.reply_to;
    let deadline = arrived.deadline;
    let known = Service::from_number(arrived.service);
    let name = known
        .and_then(|service| handler.method_name(service, arrived.method))
        .unwrap_or("unknown");
    let result = if started >= deadline {
        let message = format!("{name} came after its deadline");
        Err(Status::new(StatusCode::DeadlineExceeded, message))
    } else {
        let prepared = prepare(known, &arrived.body, arrived.method_version);
        match prepared {
            Err(status) => Err(status),
            Ok((service, caller, body)) => {
                let incoming = Incoming {
                    service,
                    method: arrived.method,
                    caller,
                    deadline,
                    peer: arrived.peer.clone(),
                    body,
                    bulk: arrived.bulk,
                    _admission: arrived.admission,
                };
                guard(name, handler.handle(incoming)).await
            }
        }
    };
    let now = env.now();
    let code = result.as_ref().err().map(|status| status.code);
    metrics::request(name, code, now.saturating_duration_since(started));
    if now < deadline || code == Some(StatusCode::DeadlineExceeded) {
        reply_to.reply(result).await;
    } else {
        tracing::debug!(method = name, peer = %arrived.peer, "the reply is late and was dropped");
    }
}

/// What can be told from a request before its handler sees it.
fn prepare(
    service: Option<Service>,
    body: &Bytes,
    method_version: u16,
) -> Result<(Service, Caller, Bytes), Status> {
    let Some(service) = service else {
        let message = "the service is unknown to this release";
        return Err(Status::new(StatusCode::Unsupported, message));
    };
    if method_version != METHOD_VERSION {
        let message = format!(
            "message version {method_version}, this release reads version {METHOD_VERSION}"
        );
        return Err(Status::new(StatusCode::Unsupported, message));
    }
    let (caller, rest) = postcard::take_from_bytes::<Caller>(body).map_err(|error| {
        Status::new(
            StatusCode::Malformed,
            format!("caller of a request: {error}"),
        )
    })?;
    Ok((service, caller, body.slice(body.len() - rest.len()..)))
}

/// Turns a panic into a status.
async fn guard<F>(name: &'static str, handler: F) -> Result<Vec<u8>, Status>
where
    F: Future<Output = Result<Vec<u8>, Status>>,
{
    // State that a panicking handler leaves behind is checked by its owner (see common::sync).
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(result) => result,
        Err(_) => {
            tracing::error!(method = name, "a handler panicked");
            let message = format!("the handler of {name} failed with a bug; see the server's log");
            Err(Status::new(StatusCode::Internal, message))
        }
    }
}
