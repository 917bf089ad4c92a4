//! `IDEM` + client id + request id (big-endian) -> what a request came to, so that a retry changes nothing
//! and gets the same answer (protocol N2). `IDET` + time + client id + request id (big-endian) -> nothing:
//! the records by age, for the one who prunes them.
//!
//! Only successes are stored: a request that failed changed nothing and may well be tried again.

use kv::{KeyRange, RangeOptions, ReadMode, Transaction, key};
use serde::{Deserialize, Serialize};
use types::{
    codec::{self, Versioned},
    id::{ClientId, RequestId},
    rpc::{Caller, Rpc},
};

use super::{bad_key, decode};
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"IDEM";
const BY_AGE: [u8; 4] = *b"IDET";

#[derive(Serialize, Deserialize)]
struct Record {
    method: u16,
    /// The encoded response.
    response: Vec<u8>,
}

impl Versioned for Record {
    const VERSION: u16 = 1;
}

/// The key of a request's record.
pub fn record_key(client: ClientId, request: RequestId) -> Vec<u8> {
    with_request(&PREFIX, client, request)
}

/// The key of a record in the index by age.
pub fn age_key(stored_ns: u64, client: ClientId, request: RequestId) -> Vec<u8> {
    let mut prefix = BY_AGE.to_vec();
    key::push_u64(&mut prefix, stored_ns);
    with_request(&prefix, client, request)
}

fn with_request(prefix: &[u8], client: ClientId, request: RequestId) -> Vec<u8> {
    let mut bytes = prefix.to_vec();
    bytes.extend_from_slice(&client.0.to_be_bytes());
    key::push_u64(&mut bytes, request.0);
    bytes
}

/// What `caller`'s request came to when it ran before. Two runs of one request at a time conflict.
pub async fn replay<M: Rpc>(
    txn: &mut dyn Transaction,
    caller: &Caller,
) -> Result<Option<M::Response>, MetaError> {
    let key = record_key(caller.client, caller.request);
    let Some(value) = txn.get(&key, ReadMode::Serializable).await? else {
        return Ok(None);
    };
    let record: Record = decode(&key, &value)?;
    if record.method != M::METHOD {
        return Err(MetaError::InvalidArgument {
            reason: "the request id was used for another method",
        });
    }
    let response = codec::decode_body(&record.response);
    response.map(Some).map_err(|source| MetaError::Corrupt {
        key: super::printable(&key),
        source,
    })
}

/// Stores what `caller`'s request came to.
pub fn record<M: Rpc>(
    txn: &mut dyn Transaction,
    caller: &Caller,
    now_ns: u64,
    response: &M::Response,
) {
    let record = Record {
        method: M::METHOD,
        response: codec::encode_body(response),
    };
    let key = record_key(caller.client, caller.request);
    txn.set(&key, &codec::encode(&record));
    txn.set(&age_key(now_ns, caller.client, caller.request), b"");
}

/// Removes at most `limit` of the records stored before `before_ns`; returns how many.
pub async fn prune(
    txn: &mut dyn Transaction,
    before_ns: u64,
    limit: usize,
) -> Result<usize, MetaError> {
    let mut end = BY_AGE.to_vec();
    key::push_u64(&mut end, before_ns);
    let options = RangeOptions {
        limit,
        reverse: false,
    };
    let range = KeyRange::new(BY_AGE.to_vec(), end);
    let page = txn.get_range(range, options, ReadMode::Snapshot).await?;
    for (age_key, _) in &page.items {
        let request = age_key.get(BY_AGE.len() + 8..);
        let request = request.filter(|bytes| bytes.len() == 24);
        let request = request.ok_or_else(|| bad_key(age_key))?;
        let mut record_key = PREFIX.to_vec();
        record_key.extend_from_slice(request);
        txn.clear(&record_key);
        txn.clear(age_key);
    }
    Ok(page.items.len())
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};
    use types::{
        rpc::meta::{Rmdir, StatFs, StatFsReply, Unlink},
        user::Identity,
    };

    use super::*;

    fn caller(request: u64) -> Caller {
        Caller {
            client: ClientId(0x1122),
            request: RequestId(request),
            identity: Identity::root(),
        }
    }

    #[tokio::test]
    async fn a_record_answers_its_own_request_only() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        let reply = StatFsReply {
            inode_count: 3,
            ..StatFsReply::default()
        };
        assert_eq!(replay::<StatFs>(&mut *txn, &caller(1)).await, Ok(None));
        record::<StatFs>(&mut *txn, &caller(1), 10, &reply);
        let again = replay::<StatFs>(&mut *txn, &caller(1)).await;
        assert_eq!(again, Ok(Some(reply)));
        assert_eq!(replay::<StatFs>(&mut *txn, &caller(2)).await, Ok(None));
        let other = replay::<Rmdir>(&mut *txn, &caller(1)).await;
        assert!(matches!(other, Err(MetaError::InvalidArgument { .. })));
    }

    #[tokio::test]
    async fn only_old_records_are_pruned() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        for (number, now_ns) in [(1, 10), (2, 20), (3, 30)] {
            record::<Unlink>(&mut *txn, &caller(number), now_ns, &());
        }
        assert_eq!(prune(&mut *txn, 30, 1).await, Ok(1));
        assert_eq!(prune(&mut *txn, 30, 9).await, Ok(1));
        assert_eq!(prune(&mut *txn, 30, 9).await, Ok(0));
        assert_eq!(replay::<Unlink>(&mut *txn, &caller(2)).await, Ok(None));
        assert_eq!(replay::<Unlink>(&mut *txn, &caller(3)).await, Ok(Some(())));
    }
}
