//! Reads: each part of a range goes to a serving replica of its chain, straight into its part of the reader's buffer.
//!
//! What a chunk does not hold reads as zeros: a chunk that is missing, and what lies behind the end of a short one.
//! The caller clamps to the length of the file. A part's buffer may be lost to a transport that still holds it after
//! a timeout; the part goes on with a new one, and the whole is put together again at the end.

use common::{
    buf::{BufPool, RegisteredBuf},
    env::Instant,
};
use futures::{StreamExt, stream};
use net::{Bulk, Reply};
use types::{
    chain::Chain,
    checksum::Checksum,
    id::{InodeId, TargetId},
    layout::{ChunkRange, Layout},
    routing::RoutingInfo,
    rpc::{
        BulkIndex,
        storage::{ReadChunks, ReadDone, ReadItem, ReadMode, ReadRequest},
    },
    status::{Status, StatusCode},
};

use crate::{
    metrics,
    retry::{Retries, is_silence},
    storage::{PARTS_MAX, Shared, StorageClient},
    stripe,
};

impl StorageClient {
    /// Fills `buf` with the bytes of a file from `offset` on. The buffer comes back also on failure, then with
    /// undefined content.
    pub async fn read(
        &self,
        inode: InodeId,
        layout: &Layout,
        offset: u64,
        mut buf: RegisteredBuf,
    ) -> (Result<(), Status>, RegisteredBuf) {
        if let Err(status) = stripe::check_layout(layout) {
            return (Err(status), buf);
        }
        let (shared, length) = (&*self.0, buf.len());
        let deadline = shared.deadline();
        let parts: Vec<(ChunkRange, RegisteredBuf)> = layout
            .split(inode, offset, length as u64)
            .map(|range| (range, buf.split_to(range.length as usize)))
            .collect();
        if !buf.is_empty() {
            let message = format!("{length} bytes at {offset} leave the longest file");
            let whole = shared.endpoint.buffers().allocate(length);
            return (Err(Status::new(StatusCode::FileTooLarge, message)), whole);
        }
        let mut reads = stream::iter(parts)
            .map(|(range, buf)| async move { shared.read_part(layout, range, buf, deadline).await })
            .buffered(PARTS_MAX);
        let mut result = Ok(());
        let mut read = Vec::new();
        while let Some((part, buf)) = reads.next().await {
            result = result.and(part);
            read.push(buf);
        }
        if result.is_ok() {
            metrics::bytes_read(length);
        }
        (result, join(read, length, shared.endpoint.buffers()))
    }
}

/// Puts the parts together again; copies when one of them is a new buffer.
fn join(parts: Vec<RegisteredBuf>, length: usize, pool: &BufPool) -> RegisteredBuf {
    let mut pieces: Vec<RegisteredBuf> = Vec::new();
    for part in parts {
        let apart = match pieces.last_mut() {
            Some(last) => last.unsplit(part).err(),
            None => Some(part),
        };
        pieces.extend(apart);
    }
    if pieces.len() == 1
        && let Some(whole) = pieces.pop()
    {
        return whole;
    }
    let mut whole = pool.allocate(length);
    let mut at = 0;
    for piece in pieces {
        whole[at..at + piece.len()].copy_from_slice(&piece);
        at += piece.len();
    }
    whole
}

impl Shared {
    async fn read_part(
        &self,
        layout: &Layout,
        range: ChunkRange,
        mut buf: RegisteredBuf,
        deadline: Instant,
    ) -> (Result<(), Status>, RegisteredBuf) {
        let mut retries = self.retries("storage.read", deadline);
        let mut tried = Vec::new();
        loop {
            let map = self.routing.current();
            let result;
            let attempt = Attempt {
                layout,
                range,
                map: &map,
            };
            (result, buf) = self.read_once(&attempt, buf, &mut tried, &retries).await;
            let status = match result {
                Ok(length) => {
                    buf[length..].fill(0);
                    return (Ok(()), buf);
                }
                Err(status) if status.code == StatusCode::ChunkNotFound => {
                    buf.fill(0);
                    return (Ok(()), buf);
                }
                Err(status) => status,
            };
            // Another replica may answer at once: wait only after each of them failed.
            if self.has_untried(&attempt, &tried) && is_for_another_replica(status.code) {
                metrics::retried("storage.read", status.code);
                tracing::debug!(chunk = %range.chunk, %status, "reading from another replica");
                continue;
            }
            tried.clear();
            if let Err(status) = retries.wait(status, map.version).await {
                return (Err(status), buf);
            }
        }
    }

    fn has_untried(&self, attempt: &Attempt<'_>, tried: &[TargetId]) -> bool {
        stripe::chain_of(attempt.map, attempt.layout, attempt.range.chunk.index)
            .is_ok_and(|chain| chain.serving().any(|target| !tried.contains(&target)))
    }

    /// Asks one replica; returns how many bytes at the front of the buffer are content.
    async fn read_once(
        &self,
        attempt: &Attempt<'_>,
        buf: RegisteredBuf,
        tried: &mut Vec<TargetId>,
        retries: &Retries<'_>,
    ) -> (Result<usize, Status>, RegisteredBuf) {
        let Attempt { layout, range, map } = attempt;
        let chain = match stripe::chain_of(map, layout, range.chunk.index) {
            Ok(chain) => chain,
            Err(status) => return (Err(status), buf),
        };
        let serving: Vec<_> = chain.serving().collect();
        let Some(ticket) = self.choice.choose(&serving, tried, self.env.now()) else {
            return (Err(stripe::not_serving(chain)), buf);
        };
        tried.push(ticket.target);
        let address = match stripe::address_of(map, ticket.target) {
            Ok(address) => address,
            Err(status) => return (Err(status), buf),
        };
        let item = ReadItem {
            chain: chain.id,
            chain_version: chain.version,
            target: ticket.target,
            chunk: range.chunk,
            offset: range.offset,
            length: range.length,
            destination: BulkIndex(0),
            destination_offset: 0,
        };
        let request = ReadRequest {
            reads: vec![item],
            mode: ReadMode::Linearizable,
        };
        let until = retries.attempt_deadline(self.options.read_attempt);
        let (caller, bulk) = (self.caller(), Bulk::destination(buf));
        let call = self
            .endpoint
            .call::<ReadChunks>(address, &caller, &request, bulk, until);
        let serves = |chain: &Chain| chain.serving().any(|target| target == ticket.target);
        let mut reply = tokio::select! {
            reply = call => reply,
            // The buffer is lost: only when the call has ended is it known that nobody writes to it.
            moved = self.routing.moved(chain.id, serves) => Reply {
                result: Err(moved),
                destinations: Vec::new(),
            },
        };
        let lost = || self.endpoint.buffers().allocate(range.length as usize);
        let buf = reply.destinations.pop().unwrap_or_else(lost);
        let result = reply
            .result
            .and_then(
                |mut reply| match (reply.results.pop(), reply.results.is_empty()) {
                    (Some(result), true) => result,
                    _ => Err(malformed("another number of results than ranges")),
                },
            )
            .and_then(|done| check(&done, &buf));
        if let Err(status) = &result
            && is_silence(status.code)
        {
            self.choice.avoid(ticket.target, self.env.now());
        }
        (result, buf)
    }
}

/// What one attempt at a part works by.
struct Attempt<'a> {
    layout: &'a Layout,
    range: ChunkRange,
    map: &'a RoutingInfo,
}

/// Holds the bytes against the checksum that came with them.
fn check(done: &ReadDone, buf: &RegisteredBuf) -> Result<usize, Status> {
    let length = done.length as usize;
    let Some(content) = buf.get(..length) else {
        return Err(malformed("more bytes than asked for"));
    };
    if Checksum::of(content) != done.checksum {
        metrics::corrupt_read();
        return Err(Status::new(
            StatusCode::ChecksumMismatch,
            "the bytes read do not match their checksum",
        ));
    }
    Ok(length)
}

fn malformed(what: &str) -> Status {
    Status::new(
        StatusCode::Malformed,
        format!("a read was answered with {what}"),
    )
}

/// Failures that are one replica's own.
fn is_for_another_replica(code: StatusCode) -> bool {
    is_silence(code)
        || matches!(
            code,
            StatusCode::ChecksumMismatch
                | StatusCode::ChunkCorrupt
                | StatusCode::DiskFailed
                | StatusCode::LeaseExpired
                | StatusCode::UnknownTarget
                | StatusCode::WrongRole
                | StatusCode::NotReady
                | StatusCode::Overloaded
                | StatusCode::VersionGone
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_buffer_are_joined_without_a_copy() {
        let pool = BufPool::new(0);
        let mut tail = pool.allocate_zeroed(10);
        let start = tail.as_ptr();
        let head = tail.split_to(3);
        let whole = join(vec![head, tail], 10, &pool);
        assert_eq!((whole.len(), whole.as_ptr()), (10, start));
    }

    #[test]
    fn a_part_in_a_new_buffer_is_copied_to_its_place() {
        let pool = BufPool::new(0);
        let mut rest = pool.copy_from(b"aabbcc");
        let head = rest.split_to(2);
        drop(rest.split_to(2));
        let parts = vec![head, pool.copy_from(b"XY"), rest];
        assert_eq!(&join(parts, 6, &pool)[..], b"aaXYcc");
    }
}
