//! The messages of the members among themselves, for `tests/fuzz`, which cannot name openraft's types.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest, VoteResponse,
};
use serde::{Serialize, de::DeserializeOwned};
use types::codec;

use super::{
    TypeConfig,
    guard::{Known, check_append_reply},
    snapshot_store::Meta,
};
use crate::{cluster::Cluster, command::Command};

/// Kinds of messages.
pub const RAFT_MESSAGES: usize = 7;

/// Reads a body as one kind of message. What is read holds no more than was sent; what it means is looked at as a member does.
pub fn read_raft(which: usize, body: &[u8]) {
    match which % RAFT_MESSAGES {
        0 => {
            if let Some(request) = read::<AppendEntriesRequest<TypeConfig>>(body) {
                let stored = request.leader_commit;
                let _verdict = known(body).check_append(&request, &|_| stored).is_ok();
                for reply in [
                    AppendEntriesResponse::Conflict,
                    AppendEntriesResponse::PartialSuccess(stored),
                ] {
                    let _verdict = check_append_reply(&request, &reply).is_ok();
                }
            }
        }
        1 => {
            if let Some(request) = read::<VoteRequest<u64>>(body) {
                let _verdict = known(body).check_vote(&request).is_ok();
            }
        }
        2 => {
            if let Some(request) = read::<InstallSnapshotRequest<TypeConfig>>(body) {
                let _verdict = known(body).check_snapshot(&request).is_ok();
            }
        }
        3 => drop(read::<AppendEntriesResponse<u64>>(body)),
        4 => drop(read::<VoteResponse<u64>>(body)),
        5 => drop(read::<Command>(body)),
        _ => {
            if let Some(cluster) = read::<Cluster>(body) {
                let _verdict = cluster.check().is_ok();
            }
        }
    }
}

/// A member whose state is also of the fuzzer's choice.
fn known(body: &[u8]) -> Known {
    let meta = codec::decode_body::<Meta>(body).unwrap_or_default();
    Known {
        own: 1,
        vote: openraft::Vote::new_committed(body.len() as u64 % 5, 2),
        committed: meta.last_log_id,
        voters: [1, 2, 3].into(),
    }
}

fn read<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
    let value: T = codec::decode_body(body).ok()?;
    let encoded = codec::encode_body(&value);
    assert!(encoded.len() <= body.len(), "more was read than was sent");
    let again: T = codec::decode_body(&encoded).expect("what was encoded can be read");
    assert_eq!(codec::encode_body(&again), encoded);
    Some(value)
}

/// Real encodings, each with its kind.
pub fn raft_samples() -> Vec<(u8, Vec<u8>)> {
    let mut samples = Vec::new();
    for fill in 0..4_u8 {
        let bytes = vec![fill; 1 << 16];
        let mut put =
            |kind: u8, sample: Option<Vec<u8>>| samples.extend(sample.map(|sample| (kind, sample)));
        put(0, sample::<AppendEntriesRequest<TypeConfig>>(&bytes));
        put(1, sample::<VoteRequest<u64>>(&bytes));
        put(2, sample::<InstallSnapshotRequest<TypeConfig>>(&bytes));
        put(3, sample::<AppendEntriesResponse<u64>>(&bytes));
        put(4, sample::<VoteResponse<u64>>(&bytes));
        put(5, sample::<Command>(&bytes));
        put(6, sample::<Cluster>(&bytes));
    }
    samples
}

fn sample<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let (value, _) = postcard::take_from_bytes::<T>(bytes).ok()?;
    Some(codec::encode_body(&value))
}
