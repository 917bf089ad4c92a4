//! Many small pieces of work in few requests: what goes together, and how much is under way at a time.
//!
//! Pieces for one node share a request, which is bounded in number and in bytes: large pieces gain nothing by
//! company, and an answer comes only when the slowest piece of its request is done. A piece that failed goes on by
//! itself, so that it holds up nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::Semaphore;
use types::id::NodeId;

use crate::storage::PARTS_MAX;

/// Pieces in one request at most. A storage node reads so many at once; a chain's head has room for several such
/// batches of updates.
pub(super) const BATCH_PIECES_MAX: usize = 64;
/// Bytes in one request at most: as many pieces of 4 KiB. A larger piece goes alone.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;

/// Pieces sorted by the node they are for.
pub(super) struct Batches<T> {
    open: BTreeMap<NodeId, (usize, Vec<T>)>,
    full: Vec<Vec<T>>,
}

impl<T> Batches<T> {
    pub(super) fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            full: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, node: NodeId, bytes: usize, piece: T) {
        let (held, pieces) = self.open.entry(node).or_default();
        let fits = pieces.len() < BATCH_PIECES_MAX && *held + bytes <= BATCH_BYTES_MAX;
        if !pieces.is_empty() && !fits {
            self.full.push(std::mem::take(pieces));
            *held = 0;
        }
        *held += bytes;
        pieces.push(piece);
    }

    /// The pieces of each request; the requests that became full first come first.
    pub(super) fn finish(mut self) -> Vec<Vec<T>> {
        let open = self.open.into_values().map(|(_, pieces)| pieces);
        self.full.extend(open);
        self.full
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Batch,
    Alone,
}

/// The work of one call. Nothing runs unless `next` is waited for.
pub(super) struct Underway<'a, T> {
    waiting: VecDeque<BoxFuture<'a, T>>,
    running: FuturesUnordered<BoxFuture<'a, (Kind, T)>>,
    batches: usize,
    gate: Gate,
}

impl<'a, T: Send + 'a> Underway<'a, T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: FuturesUnordered::new(),
            batches: 0,
            gate: Gate::new(),
        }
    }

    /// A batch; it waits while `PARTS_MAX` others run.
    pub(super) fn add_batch(&mut self, work: impl Future<Output = T> + Send + 'a) {
        self.waiting.push_back(work.boxed());
    }

    /// A piece that goes on alone. It takes a place at `gate` whenever it sends something, and none while it pauses.
    pub(super) fn add_alone(&mut self, work: impl Future<Output = T> + Send + 'a) {
        self.running
            .push(work.map(|done| (Kind::Alone, done)).boxed());
    }

    /// Bounds what the pieces that go on alone have under way.
    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// What ends next; `None` when all has ended. What runs goes on where it was when the wait is given up.
    pub(super) async fn next(&mut self) -> Option<T> {
        while self.batches < PARTS_MAX
            && let Some(work) = self.waiting.pop_front()
        {
            self.batches += 1;
            self.running
                .push(work.map(|done| (Kind::Batch, done)).boxed());
        }
        let (kind, done) = self.running.next().await?;
        if kind == Kind::Batch {
            self.batches -= 1;
        }
        Some(done)
    }
}

/// Lets `PARTS_MAX` requests through at a time. Clones are the same gate.
#[derive(Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PARTS_MAX)))
    }

    pub(super) async fn pass<T>(&self, request: impl Future<Output = T>) -> T {
        // The semaphore is never closed; if it were, the request would just not be counted.
        let _place = self.0.acquire().await.ok();
        request.await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::env::Env;

    use super::*;

    fn sizes(pieces: &[(u32, usize)]) -> Vec<Vec<usize>> {
        let mut batches = Batches::new();
        for &(node, bytes) in pieces {
            batches.add(NodeId(node), bytes, bytes);
        }
        batches.finish()
    }

    #[test]
    fn pieces_of_one_node_share_requests_up_to_both_bounds() {
        let mixed = [(1, 10), (2, 20), (1, 30), (2, 40), (1, 50)];
        assert_eq!(sizes(&mixed), [vec![10, 30, 50], vec![20, 40]]);

        let many = vec![(1, 1); 2 * BATCH_PIECES_MAX + 1];
        let lengths: Vec<_> = sizes(&many).iter().map(Vec::len).collect();
        assert_eq!(lengths, [BATCH_PIECES_MAX, BATCH_PIECES_MAX, 1]);

        let half = BATCH_BYTES_MAX / 2;
        let large = [(1, half), (1, half), (1, 1), (1, BATCH_BYTES_MAX), (1, 1)];
        assert_eq!(
            sizes(&large),
            [vec![half, half], vec![1], vec![BATCH_BYTES_MAX], vec![1]]
        );
    }

    #[test]
    fn a_piece_larger_than_a_request_may_be_goes_alone() {
        let huge = 8 * BATCH_BYTES_MAX;
        assert_eq!(sizes(&[(1, 1), (1, huge), (1, 2)]), [[1], [huge], [2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_bounded_and_a_pausing_piece_holds_up_nobody() {
        let env = Env::seeded(1);
        let mut underway = Underway::new();
        let (started, second) = (env.now(), Duration::from_secs(1));
        for _ in 0..3 * PARTS_MAX {
            let env = env.clone();
            underway.add_batch(async move { env.sleep(second).await });
        }
        for _ in 0..2 * PARTS_MAX {
            let (env, gate) = (env.clone(), underway.gate());
            underway.add_alone(async move {
                env.sleep(10 * second).await;
                gate.pass(env.sleep(second)).await;
            });
        }
        let mut ends = Vec::new();
        while underway.next().await.is_some() {
            ends.push((env.now() - started).as_secs());
        }
        let at = |second: u64| ends.iter().filter(|end| **end == second).count();
        assert_eq!([1, 2, 3, 11, 12].map(at), [PARTS_MAX; 5], "{ends:?}");
    }
}
