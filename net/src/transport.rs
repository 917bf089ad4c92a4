//! What a transport does for the layers above. tcp and mem are here; shared memory and RDMA fit behind the same
//! three traits: `Connection` (client side of a call), `BulkAccess` (server side of its buffers), `ReplyTo`.
//!
//! Contract of `Connection::call`: it returns by the deadline; it may be dropped at any time, and then no buffer of
//! it is written to by anyone but a reader that owns the buffer until it is done; a destination comes back with the
//! reply only when nobody can write to it any more.
//! Contract of `ReplyTo`: the reply arrives after every push that returned before it was sent.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::Instant,
};
use types::status::{Status, StatusCode};

use crate::{buf::Bulk, config::NetConfig};

pub(crate) mod mem;
pub(crate) mod tcp;

/// A request as transports carry it.
pub(crate) struct Outgoing {
    pub(crate) service: u16,
    pub(crate) method: u16,
    pub(crate) method_version: u16,
    pub(crate) deadline: Instant,
    /// The caller, then the request.
    pub(crate) body: Vec<u8>,
    pub(crate) bulk: Bulk,
}

/// What a call came to. `destinations` is empty when the transport still holds one of them.
pub(crate) struct RawReply {
    pub(crate) result: Result<Bytes, Status>,
    pub(crate) destinations: Vec<RegisteredBuf>,
}

/// The client side of a connection.
#[async_trait]
pub(crate) trait Connection: Send + Sync {
    /// Sends a request and waits for its reply. See the module's text for the contract.
    async fn call(&self, request: Outgoing) -> RawReply;
    /// False once no new call can succeed: the pool connects anew.
    fn is_open(&self) -> bool;
}

/// The server's access to the buffers of a request.
#[async_trait]
pub(crate) trait BulkAccess: Send + Sync {
    fn source_length(&self, index: usize) -> Option<usize>;
    fn destination_length(&self, index: usize) -> Option<usize>;
    /// The index was checked.
    async fn pull(&self, index: usize) -> Result<SharedBuf, Status>;
    /// Index and range were checked.
    async fn push(&self, index: usize, offset: usize, data: SharedBuf) -> Result<(), Status>;
}

/// Where the reply of a request goes.
#[async_trait]
pub(crate) trait ReplyTo: Send {
    async fn reply(self: Box<Self>, result: Result<Vec<u8>, Status>);
}

/// A request as it comes out of a transport.
pub(crate) struct Arrived {
    pub(crate) service: u16,
    pub(crate) method: u16,
    pub(crate) method_version: u16,
    pub(crate) deadline: Instant,
    pub(crate) peer: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) bulk: Box<dyn BulkAccess>,
    pub(crate) reply_to: Box<dyn ReplyTo>,
    /// What bounds requests under way; given back when the request is dropped.
    pub(crate) admission: Box<dyn Send + Sync>,
}

pub(crate) fn unreachable(message: impl Into<String>) -> Status {
    Status::new(StatusCode::Unreachable, message)
}

/// Replaces a reply that no peer would take.
pub(crate) fn check_reply(
    config: &NetConfig,
    result: Result<Vec<u8>, Status>,
) -> Result<Vec<u8>, Status> {
    let max = config.body_bytes_max as usize;
    match result {
        Ok(body) if body.len() > max => {
            let message = format!("a reply of {} bytes, at most {max} are allowed", body.len());
            Err(Status::new(StatusCode::Internal, message))
        }
        Err(mut status) if status.message.len() > MESSAGE_BYTES_MAX => {
            let cut = (0..=MESSAGE_BYTES_MAX)
                .rev()
                .find(|at| status.message.is_char_boundary(*at));
            status.message.truncate(cut.unwrap_or(0));
            Err(status)
        }
        other => other,
    }
}

/// Longer messages of a status are cut.
const MESSAGE_BYTES_MAX: usize = 4096;
