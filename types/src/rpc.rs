//! The requests and replies between processes. One file per service; each method is a type that implements
//! `Rpc`, so that callers and servers agree by construction.
//!
//! Bodies are postcard; the method's version travels in the frame. Fields are only ever appended, in a new
//! method version. Bulk data never stands in a body: a body names it by `BulkIndex`, and the transport
//! moves it (protocol section 10).

pub mod meta;
pub mod mgmtd;
pub mod operator;
pub mod storage;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    id::{ClientId, RequestId},
    user::Identity,
};

/// The services, as numbered on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Service {
    /// The cluster manager.
    Mgmtd = 1,
    /// Metadata.
    Meta = 2,
    /// Chunks.
    Storage = 3,
    /// Members of the manager group among themselves.
    Raft = 4,
    /// The conformance suite of the transports.
    Test = 5,
}

impl Service {
    /// The service with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        [
            Self::Mgmtd,
            Self::Meta,
            Self::Storage,
            Self::Raft,
            Self::Test,
        ]
        .into_iter()
        .find(|service| *service as u16 == number)
    }
}

/// One method of a service.
pub trait Rpc: Send + Sync + 'static {
    /// The service it belongs to.
    const SERVICE: Service;
    /// Its number in the service; never reused.
    const METHOD: u16;
    /// Its name in logs and metrics, `service.method`.
    const NAME: &'static str;
    /// What is asked.
    type Request: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What is answered on success; failures are `Status`.
    type Response: Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// Who asks; part of every request (protocol R4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The client process.
    pub client: ClientId,
    /// The same for all retries of one request.
    pub request: RequestId,
    /// On whose behalf.
    pub identity: Identity,
}

/// Names a buffer that travels with a request: the n-th source (payload to the server) or the n-th
/// destination (bytes the server places at the client), counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BulkIndex(pub u16);

macro_rules! methods {
    ($service:ident: $($(#[$doc:meta])* $name:ident = $number:literal, $label:literal, $request:ty => $response:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl $crate::rpc::Rpc for $name {
            const SERVICE: $crate::rpc::Service = $crate::rpc::Service::$service;
            const METHOD: u16 = $number;
            const NAME: &'static str = $label;
            type Request = $request;
            type Response = $response;
        }
    )*};
}
pub(crate) use methods;
