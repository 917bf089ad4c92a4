//! How far a resync is, for people: the manager hears it with heartbeats and `penstock admin chain show` prints it.
//!
//! Totals are those of the target that fills, at the beginning of each page, so they follow what clients do meanwhile. Bytes
//! are the space that chunks take; only `sent_bytes` counts bytes of content.

use std::{collections::VecDeque, time::Duration};

use common::env::Instant;
use types::{chunk::ChunkMeta, id::TargetId, rpc::mgmtd::ResyncReport};

use crate::change::size_class;

/// Rates are taken over so many samples, that is seconds.
const SAMPLES: usize = 15;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Chunks, and the space they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    /// One chunk of the target that fills.
    pub(crate) fn of(meta: &ChunkMeta) -> Self {
        let bytes = if meta.exists {
            u64::from(size_class(meta.length))
        } else {
            0
        };
        Self { chunks: 1, bytes }
    }

    fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    successor: TargetId,
    total: Amount,
    /// Of the pages that are done.
    pages: Amount,
    /// Of the page under way: counted again when the page is tried again.
    page: Amount,
    sent: Amount,
    left: u64,
    /// When, done bytes, sent bytes: at most `SAMPLES`, `SAMPLE_EVERY` apart.
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Progress {
    pub(crate) fn new(successor: TargetId) -> Self {
        Self {
            successor,
            total: Amount::default(),
            pages: Amount::default(),
            page: Amount::default(),
            sent: Amount::default(),
            left: 0,
            samples: VecDeque::new(),
        }
    }

    /// A page begins, for the first time or again.
    pub(crate) fn begin_page(&mut self, total: Amount) {
        self.total = total;
        self.page = Amount::default();
    }

    /// Chunks of the page are equal.
    pub(crate) fn equal(&mut self, amount: Amount) {
        self.page.add(amount);
    }

    /// A chunk was sent, with so many bytes of content.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent.add(Amount { chunks: 1, bytes });
    }

    /// Chunks that are passed over until the end.
    pub(crate) fn leave(&mut self, count: usize) {
        self.left = count as u64;
    }

    pub(crate) fn end_page(&mut self) {
        self.pages.add(std::mem::take(&mut self.page));
    }

    /// Chunks compared and equal now, and chunks sent.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.pages.chunks + self.page.chunks, self.sent.chunks)
    }

    /// What the manager is told. Also takes the samples: it is called with every heartbeat.
    pub(crate) fn report(&mut self, now: Instant) -> ResyncReport {
        let mut done = self.pages;
        done.add(self.page);
        let fresh = self
            .samples
            .back()
            .is_some_and(|(at, ..)| now < *at + SAMPLE_EVERY);
        if !fresh {
            self.samples.push_back((now, done.bytes, self.sent.bytes));
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        let total_bytes = self.total.bytes.max(done.bytes);
        let (done_rate, sent_rate) = self.rates(now, done.bytes);
        let left = total_bytes - done.bytes;
        ResyncReport {
            target: self.successor,
            done_chunks: done.chunks,
            total_chunks: self.total.chunks.max(done.chunks),
            done_bytes: done.bytes,
            total_bytes,
            sent_chunks: self.sent.chunks,
            sent_bytes: self.sent.bytes,
            bytes_per_second: sent_rate,
            seconds_left: (done_rate > 0).then(|| left.div_ceil(done_rate.max(1))),
            left_chunks: self.left,
        }
    }

    /// Bytes that became equal, and bytes sent, in a second.
    fn rates(&self, now: Instant, done: u64) -> (u64, u64) {
        let Some((at, done_then, sent_then)) = self.samples.front() else {
            return (0, 0);
        };
        let millis = u64::try_from(now.duration_since(*at).as_millis()).unwrap_or(u64::MAX);
        let rate = |amount: u64| amount.saturating_mul(1000) / millis.max(1);
        if millis == 0 {
            return (0, 0);
        }
        // A page that is tried again counts anew.
        (
            rate(done.saturating_sub(*done_then)),
            rate(self.sent.bytes - sent_then),
        )
    }
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn amount(chunks: u64) -> Amount {
        Amount {
            chunks,
            bytes: chunks * MIB,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_estimated_by_what_became_equal_lately() {
        let start = Env::seeded(1).now();
        let mut progress = Progress::new(TargetId(3));
        progress.begin_page(amount(1000));
        let first = progress.report(start);
        assert_eq!((first.seconds_left, first.bytes_per_second), (None, 0));
        // Ten chunks in a second become equal, half of them by being sent.
        for second in 1..=20 {
            progress.equal(amount(10));
            (0..5).for_each(|_| progress.sent(MIB));
            let report = progress.report(start + SAMPLE_EVERY * second);
            assert_eq!(report.done_bytes, u64::from(second) * 10 * MIB);
            assert_eq!(report.bytes_per_second, 5 * MIB);
            assert_eq!(report.seconds_left, Some(100 - u64::from(second)));
        }
        // Then nothing does for a while.
        let later = progress.report(start + SAMPLE_EVERY * 39);
        assert!(later.seconds_left > Some(80), "{later:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_tried_again_is_not_counted_twice() {
        let now = Env::seeded(1).now();
        let mut progress = Progress::new(TargetId(3));
        progress.begin_page(amount(10));
        progress.equal(amount(4));
        progress.end_page();
        for _ in 0..3 {
            progress.begin_page(amount(10));
            progress.equal(amount(6));
        }
        let report = progress.report(now);
        assert_eq!((report.done_chunks, report.total_chunks), (10, 10));
        assert_eq!(progress.counts(), (10, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_total_that_was_too_small_is_not_exceeded() {
        let now = Env::seeded(1).now();
        let mut progress = Progress::new(TargetId(3));
        progress.begin_page(amount(2));
        progress.equal(amount(5));
        let report = progress.report(now);
        assert_eq!(report.total_bytes, report.done_bytes);
        assert_eq!(report.total_chunks, 5);
    }
}
