//! Reads: each part of a range goes to a serving replica of its chain, straight into its part of the reader's buffer.
//!
//! Parts for one node share a request (`batch`); a part that failed goes on alone, at another replica or after the
//! pause its failure asks for, and the others do not wait for it. A range is done when its last part is.
//!
//! What a chunk does not hold reads as zeros: a chunk that is missing, and what lies behind the end of a short one.
//! The caller clamps to the length of the file. A part's buffer may be lost to a transport that still holds it after
//! a timeout, or to a replica that was left for a quicker one; the part goes on with a new one, and the whole is put
//! together again at the end.

use std::{collections::VecDeque, fmt, sync::Arc};

use common::{
    buf::{BufPool, RegisteredBuf},
    env::Instant,
};
use types::{
    id::{InodeId, TargetId},
    layout::{ChunkRange, Layout},
    routing::RoutingInfo,
    status::Status,
};

use crate::{
    metrics,
    retry::is_for_another_replica,
    storage::{
        Shared, StorageClient,
        batch::{Batches, Gate, Underway},
        read_request::{Answered, Asked, ReadBatch},
    },
    stripe,
};

/// A range of a file, and where its bytes go.
#[derive(Debug)]
pub struct ReadRange<'a> {
    /// The file.
    pub inode: InodeId,
    /// Where its chunks are.
    pub layout: &'a Layout,
    /// The first byte.
    pub offset: u64,
    /// As long as the range.
    pub buf: RegisteredBuf,
}

/// What came of a range.
#[derive(Debug)]
pub struct RangeRead {
    /// Its place among the ranges of the call.
    pub index: usize,
    /// Whether `buf` is filled; if not, its content is undefined.
    pub result: Result<(), Status>,
    /// The buffer of the range, or another one in its place.
    pub buf: RegisteredBuf,
}

/// Many reads under way. Dropping it gives up those that are not done.
pub struct Reads<'a> {
    shared: &'a Shared,
    deadline: Instant,
    ranges: Vec<Unfinished>,
    ended: VecDeque<RangeRead>,
    underway: Underway<'a, Step<'a>>,
}

impl fmt::Debug for Reads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.ranges.iter().filter(|range| range.missing > 0);
        write!(f, "Reads({} under way)", missing.count())
    }
}

/// A range of which parts are missing.
struct Unfinished {
    length: usize,
    pieces: Vec<Option<RegisteredBuf>>,
    missing: usize,
    result: Result<(), Status>,
}

/// What one chunk holds of a range.
pub(super) struct Part<'a> {
    /// Which range of the call, and which piece of it.
    range: usize,
    piece: usize,
    pub(super) layout: &'a Layout,
    pub(super) chunk: ChunkRange,
    /// Replicas that were asked in vain since the last pause, or are being asked.
    pub(super) tried: Vec<TargetId>,
}

/// What a piece of the work came to.
enum Step<'a> {
    /// Parts that failed go on alone.
    Batch(Vec<Answered<'a>>),
    /// The part is done.
    Alone(Answered<'a>),
}

impl StorageClient {
    /// Fills `buf` with the bytes of a file from `offset` on. The buffer comes back also on failure, then with
    /// undefined content.
    pub async fn read(
        &self,
        inode: InodeId,
        layout: &Layout,
        offset: u64,
        buf: RegisteredBuf,
    ) -> (Result<(), Status>, RegisteredBuf) {
        let range = ReadRange {
            inode,
            layout,
            offset,
            buf,
        };
        let done = self.read_many(vec![range]).next().await;
        let done = done.expect("one range has one end");
        (done.result, done.buf)
    }

    /// Reads many ranges of many files, each as `read` does. They end in any order, each as soon as it can.
    pub fn read_many<'a>(&'a self, ranges: Vec<ReadRange<'a>>) -> Reads<'a> {
        let shared = &*self.0;
        let mut reads = Reads {
            shared,
            deadline: shared.deadline(),
            ranges: Vec::with_capacity(ranges.len()),
            ended: VecDeque::new(),
            underway: Underway::new(),
        };
        let map = shared.routing.current();
        let mut batches = Batches::new();
        for range in ranges {
            for (mut part, buf) in reads.take_apart(range) {
                match shared.choose_replica(&map, &mut part) {
                    Ok(asked) => batches.add(asked.node(), buf.len(), (part, asked, buf)),
                    Err(status) => reads.go_on_alone(Answered {
                        part,
                        buf,
                        result: Err(status),
                        map: map.clone(),
                    }),
                }
            }
        }
        for batch in batches.finish() {
            reads.send(batch, &map);
        }
        reads
    }
}

impl<'a> Reads<'a> {
    /// The range that ends next; `None` when all have ended. Nothing goes on while nobody waits for this; a wait that
    /// is given up loses nothing.
    pub async fn next(&mut self) -> Option<RangeRead> {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return Some(ended);
            }
            match self.underway.next().await? {
                Step::Alone(answered) => self.end(answered),
                Step::Batch(answers) => {
                    for answered in answers {
                        match answered.result {
                            Ok(()) => self.end(answered),
                            Err(_) => self.go_on_alone(answered),
                        }
                    }
                }
            }
        }
    }

    /// The parts of a range, and its buffer in as many pieces. None when it ends here.
    fn take_apart(&mut self, range: ReadRange<'a>) -> Vec<(Part<'a>, RegisteredBuf)> {
        let ReadRange {
            inode,
            layout,
            offset,
            mut buf,
        } = range;
        let (index, length) = (self.ranges.len(), buf.len());
        let checked =
            stripe::check_layout(layout).and_then(|()| stripe::check_end(layout, offset, length));
        let mut parts = Vec::new();
        if checked.is_ok() {
            for (piece, chunk) in layout.split(inode, offset, length as u64).enumerate() {
                let part = Part {
                    range: index,
                    piece,
                    layout,
                    chunk,
                    tried: Vec::new(),
                };
                parts.push((part, buf.split_to(chunk.length as usize)));
            }
        }
        if parts.is_empty() {
            self.ended.push_back(RangeRead {
                index,
                result: checked,
                buf,
            });
        }
        self.ranges.push(Unfinished {
            length,
            pieces: parts.iter().map(|_| None).collect(),
            missing: parts.len(),
            result: Ok(()),
        });
        parts
    }

    fn send(&mut self, batch: Vec<(Part<'a>, Asked<'a>, RegisteredBuf)>, map: &Arc<RoutingInfo>) {
        let mut request = ReadBatch::new(map.clone());
        for (part, asked, buf) in batch {
            request.add(part, asked, buf);
        }
        let (shared, deadline) = (self.shared, self.deadline);
        self.underway
            .add_batch(async move { Step::Batch(shared.read_batch(request, deadline).await) });
    }

    fn go_on_alone(&mut self, failed: Answered<'a>) {
        let (shared, deadline) = (self.shared, self.deadline);
        let gate = self.underway.gate();
        self.underway.add_alone(async move {
            Step::Alone(shared.read_alone(failed, &gate, deadline).await)
        });
    }

    fn end(&mut self, answered: Answered<'a>) {
        let Part {
            range: index,
            piece,
            ..
        } = answered.part;
        let range = &mut self.ranges[index];
        range.pieces[piece] = Some(answered.buf);
        range.missing -= 1;
        if let Err(status) = answered.result
            && range.result.is_ok()
        {
            range.result = Err(status);
        }
        if range.missing > 0 {
            return;
        }
        let result = std::mem::replace(&mut range.result, Ok(()));
        if result.is_ok() {
            metrics::bytes_read(range.length);
        }
        let pieces = std::mem::take(&mut range.pieces).into_iter().flatten();
        let buf = join(pieces, range.length, self.shared.endpoint.buffers());
        self.ended.push_back(RangeRead { index, result, buf });
    }
}

/// Puts the pieces together again; copies when one of them is a new buffer.
fn join(
    parts: impl Iterator<Item = RegisteredBuf>,
    length: usize,
    pool: &BufPool,
) -> RegisteredBuf {
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
    /// Repeats a part that failed until it succeeds, or nothing is left to try.
    async fn read_alone<'a>(
        &'a self,
        failed: Answered<'a>,
        gate: &Gate,
        deadline: Instant,
    ) -> Answered<'a> {
        let mut retries = self.retries("storage.read", deadline);
        let mut last = failed;
        loop {
            let Err(status) = last.result else {
                return last;
            };
            // Another replica may answer at once: wait only after each of them failed.
            if has_untried(&last.map, &last.part) && is_for_another_replica(status.code) {
                metrics::retried("storage.read", status.code);
                tracing::debug!(chunk = %last.part.chunk.chunk, %status, "reading from another replica");
            } else {
                last.part.tried.clear();
                if let Err(status) = retries.wait(status, last.map.version).await {
                    last.result = Err(status);
                    return last;
                }
            }
            let map = self.routing.current();
            let Answered { mut part, buf, .. } = last;
            last = match self.choose_replica(&map, &mut part) {
                Ok(asked) => {
                    let mut request = ReadBatch::new(map);
                    request.add(part, asked, buf);
                    let mut answers = gate.pass(self.read_batch(request, deadline)).await;
                    answers.pop().expect("one part has one answer")
                }
                Err(status) => Answered {
                    part,
                    buf,
                    result: Err(status),
                    map,
                },
            };
        }
    }
}

/// Whether a replica serves that was not tried yet.
pub(super) fn has_untried(map: &RoutingInfo, part: &Part<'_>) -> bool {
    let is_new = |target: &TargetId| !part.tried.contains(target);
    stripe::chain_of(map, part.layout, part.chunk.chunk.index).is_ok_and(|chain| {
        // Those that `TargetChoice` can choose.
        let mut known = chain
            .serving()
            .filter(|target| map.targets.contains_key(target));
        known.any(|target| is_new(&target))
    })
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
        let whole = join([head, tail].into_iter(), 10, &pool);
        assert_eq!((whole.len(), whole.as_ptr()), (10, start));
    }

    #[test]
    fn a_part_in_a_new_buffer_is_copied_to_its_place() {
        let pool = BufPool::new(0);
        let mut rest = pool.copy_from(b"aabbcc");
        let head = rest.split_to(2);
        drop(rest.split_to(2));
        let parts = [head, pool.copy_from(b"XY"), rest];
        assert_eq!(&join(parts.into_iter(), 6, &pool)[..], b"aaXYcc");
    }
}
