//! Stands between a caller and a server and changes what the server says.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use common::sync::Mutex;
use types::{rpc::BulkIndex, status::Status};

use super::{Method, send};
use crate::{Bulk, Endpoint, Handler, Incoming, SharedBuf};

/// What a relay makes of a reply.
pub type Change = dyn Fn(Method, Vec<u8>) -> Result<Vec<u8>, Status> + Send + Sync;

/// Passes requests on to a server, and its replies back, changed.
pub struct Relay {
    endpoint: Endpoint,
    to: String,
    change: Mutex<Option<Arc<Change>>>,
    changed: AtomicUsize,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// To the server at `to`; changes nothing yet.
    pub fn new(endpoint: Endpoint, to: &str) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            to: to.to_owned(),
            change: Mutex::new(None),
            changed: AtomicUsize::new(0),
        })
    }

    /// What happens to replies from now on.
    pub fn set(&self, change: Option<Arc<Change>>) {
        *self.change.lock() = change;
    }

    /// How many replies went through a change.
    pub fn changed(&self) -> usize {
        self.changed.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Handler for Relay {
    async fn handle(&self, request: Incoming) -> Result<Vec<u8>, Status> {
        let method = Method {
            service: request.service as u16,
            method: request.method,
        };
        let (mut sources, mut destinations): (Vec<SharedBuf>, Vec<_>) = (Vec::new(), Vec::new());
        for index in (0..u16::MAX).map(BulkIndex) {
            if request.source_length(index).is_none() {
                break;
            }
            sources.push(request.pull(index).await?);
        }
        for index in (0..u16::MAX).map(BulkIndex) {
            let Some(length) = request.destination_length(index) else {
                break;
            };
            destinations.push(self.endpoint.buffers().allocate_zeroed(length));
        }
        let bulk = Bulk {
            sources,
            destinations,
        };
        let reply = send(
            &self.endpoint,
            &self.to,
            (&request.caller, method),
            &request.body,
            bulk,
            request.deadline,
        )
        .await;
        for (index, buf) in (0..u16::MAX).zip(reply.destinations) {
            request.push(BulkIndex(index), 0, buf.freeze()).await?;
        }
        let body = reply.result?.to_vec();
        let change = self.change.lock().clone();
        match change {
            Some(change) => {
                self.changed.fetch_add(1, Ordering::Relaxed);
                change(method, body)
            }
            None => Ok(body),
        }
    }
}
