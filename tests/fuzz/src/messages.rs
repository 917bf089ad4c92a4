//! All messages between processes, for the target that reads them from any bytes.

use mgmtd::fuzzing::{RAFT_MESSAGES, read_raft};
use serde::{Serialize, de::DeserializeOwned};
use types::{
    codec,
    rpc::{Caller, Rpc, meta, mgmtd as manager, storage},
    status::Status,
};

/// Reads a body as `T`. What was read holds no more than was sent (so a short body cannot make much), and encodes to
/// bytes that read the same.
fn read_as<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(value) = codec::decode_body::<T>(body) else {
        return;
    };
    let encoded = codec::encode_body(&value);
    assert!(encoded.len() <= body.len(), "more was read than was sent");
    let again: T = codec::decode_body(&encoded).expect("what was encoded can be read");
    assert_eq!(codec::encode_body(&again), encoded);
}

/// Encodings of values that a body of equal bytes stands for: zeros and empty lists, ones and lists of one, and so on.
fn encodings_of<T: Serialize + DeserializeOwned>() -> Vec<Vec<u8>> {
    let fills = (0..4).map(|byte| vec![byte; 1 << 16]);
    let values = fills.filter_map(|fill| postcard::take_from_bytes::<T>(&fill).ok().map(|read| codec::encode_body(&read.0)));
    values.collect()
}

macro_rules! messages {
    ($($method:ty),* $(,)?; $($other:ty),* $(,)?) => {
        const READERS: &[fn(&[u8])] = &[
            $(read_as::<<$method as Rpc>::Request>, read_as::<<$method as Rpc>::Response>,)*
            $(read_as::<$other>,)*
        ];
        const SAMPLES: &[fn() -> Vec<Vec<u8>>] = &[
            $(encodings_of::<<$method as Rpc>::Request>, encodings_of::<<$method as Rpc>::Response>,)*
            $(encodings_of::<$other>,)*
        ];
    };
}

messages! {
    storage::UpdateChunks, storage::ForwardUpdate, storage::ReadChunks, storage::QueryVersion,
    storage::QueryLastChunk, storage::RemoveChunks, storage::ListChunks, storage::FinishSync,
    storage::AdoptChannels,
    meta::Lookup, meta::GetAttr, meta::SetAttr, meta::Create, meta::Open, meta::Close, meta::Sync,
    meta::Mkdir, meta::Symlink, meta::Link, meta::Unlink, meta::Rmdir, meta::Rename, meta::ReadDir,
    meta::StatFs,
    manager::SendHeartbeat, manager::WatchRouting, manager::ExtendClientSession,
    manager::ListClientSessions, manager::CreateChains, manager::GetSpace, manager::GetManagers,
    manager::EndClientSession;
    Caller, Status,
}

/// Reads a body as one of the messages.
pub fn read(which: u8, body: &[u8]) {
    let which = usize::from(which) % (READERS.len() + RAFT_MESSAGES);
    match READERS.get(which) {
        Some(reader) => reader(body),
        None => read_raft(which - READERS.len(), body),
    }
}

/// Inputs for the beginning: real encodings of every message.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, samples) in (0..).zip(SAMPLES) {
        seeds.extend(samples().into_iter().map(|sample| [vec![which], sample].concat()));
    }
    let first = u8::try_from(READERS.len()).unwrap_or(u8::MAX);
    for (which, sample) in mgmtd::fuzzing::raft_samples() {
        seeds.push([vec![first + which], sample].concat());
    }
    seeds
}
