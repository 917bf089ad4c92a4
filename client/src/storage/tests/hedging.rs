//! Reads of which one replica is slow: how long they take, and what that costs.

use super::*;
use crate::storage::{ReadRange, ReplicaChoice};

const MS: Duration = Duration::from_millis(1);
const LENGTH: usize = 4096;

/// All reads ask the head first, so that hedging alone decides what is quick.
async fn with_head(percent: u32) -> Fixture {
    let fixture = Fixture::with(StorageOptions {
        replica_choice: ReplicaChoice::Head,
        hedge_percent: percent,
        hedge_delay_min: 5 * MS,
        ..StorageOptions::default()
    })
    .await;
    fixture.write(0, &pattern(CHUNK as usize)).await.unwrap();
    for node in 1..=NODES {
        fixture.slow(node, MS);
    }
    fixture
}

impl Fixture {
    fn slow(&self, node: u32, by: Duration) {
        self.disk.lock().slow.insert(NodeId(node), by);
    }

    /// One read of the first chunk, checked; how long it took.
    async fn timed_read(&self) -> Duration {
        let started = self.env.now();
        assert_eq!(self.read(0, LENGTH).await, pattern(LENGTH));
        self.env.now() - started
    }

    fn asked(&self, node: u32) -> usize {
        let disk = self.disk.lock();
        let asked = disk.read_requests.iter().filter(|(id, _)| id.0 == node);
        asked.count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_late_is_answered_by_a_second_replica() {
    let fixture = with_head(5).await;
    for _ in 0..100 {
        assert!(fixture.timed_read().await <= 3 * MS);
    }
    assert_eq!((fixture.asked(1), fixture.asked(2)), (100, 0));
    fixture.slow(1, 2000 * MS);
    for _ in 0..5 {
        // The delay of at least 5 ms, and the second replica's time.
        let took = fixture.timed_read().await;
        assert!(took <= 10 * MS, "{took:?}");
    }
    assert_eq!((fixture.asked(1), fixture.asked(2)), (105, 5));
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_kept_when_every_read_is_late() {
    let fixture = with_head(5).await;
    for _ in 0..100 {
        fixture.timed_read().await;
    }
    // Far above the others, and below the delay that is known: the next 200 are all late at first.
    let (mut quick, reads) = (0, 1000);
    for n in 0..reads {
        // Slower and slower, so that what is recent never says that this is normal.
        fixture.slow(1, (20 + n) * MS);
        quick += u32::from(fixture.timed_read().await < (20 + n) * MS);
    }
    let seconds = fixture.asked(2) + fixture.asked(3);
    assert!(
        seconds as u32 >= quick && quick >= 40,
        "{quick} of {seconds}"
    );
    // One twentieth of all reads, and the ten that are lent.
    assert!(seconds <= (100 + reads as usize) / 20 + 10, "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_no_read_is_sent_twice() {
    let fixture = with_head(0).await;
    fixture.slow(1, 2000 * MS);
    assert!(fixture.timed_read().await >= 2000 * MS);
    assert_eq!((fixture.asked(1), fixture.asked(2)), (1, 0));
}

/// The slow replica answers in the end. Its bytes must not come to a buffer that the caller has by then.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_the_loser_reaches_no_buffer() {
    let fixture = with_head(100).await;
    fixture.slow(1, 1000 * MS);
    let mut buf = fixture.pool.allocate(LENGTH);
    buf.fill(0xee);
    let (client, layout) = (&fixture.client, &fixture.layout);
    let (result, mut buf) = client.read(INODE, layout, 0, buf).await;
    result.unwrap();
    assert_eq!(buf[..], pattern(LENGTH)[..]);
    // The caller uses its buffer for something else; so does whoever gets the loser's memory next.
    buf.fill(0x11);
    let mut next = fixture.pool.allocate(LENGTH);
    next.fill(0x22);
    fixture.env.sleep(5000 * MS).await;
    assert_eq!(fixture.disk.lock().read_from.len(), 2);
    assert!(buf.iter().all(|byte| *byte == 0x11));
    assert!(next.iter().all(|byte| *byte == 0x22));
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_wins_also_when_the_second_replica_fails() {
    let fixture = with_head(100).await;
    fixture.slow(1, 300 * MS);
    fixture.fault(2, Fault::Refuse(StatusCode::LeaseExpired));
    let took = fixture.timed_read().await;
    assert!((300..310).contains(&took.as_millis()), "{took:?}");
    // And the other way round: the first is late and wrong, the second later and right.
    fixture.slow(2, 400 * MS);
    fixture.fault(1, Fault::Corrupt);
    let took = fixture.timed_read().await;
    assert!((400..520).contains(&took.as_millis()), "{took:?}");
    assert_eq!((fixture.asked(1), fixture.asked(2)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_late_request_for_many_ranges_is_answered_by_the_others_for_each() {
    let fixture = with_head(100).await;
    let missing = 20;
    fixture.slow(1, 2000 * MS);
    let range = |number: usize| {
        let mut buf = fixture.pool.allocate(512);
        buf.fill(0xee);
        ReadRange {
            inode: if number < missing { INODE } else { InodeId(1) },
            layout: &fixture.layout,
            offset: 512 * number as u64,
            buf,
        }
    };
    // Ten of chunks that are not there: that is an answer as well.
    let ranges = (0..missing + 10).map(range).collect();
    let started = fixture.env.now();
    let mut reads = fixture.client.read_many(ranges);
    let mut ended = 0;
    while let Some(read) = reads.next().await {
        read.result.unwrap();
        let at = 512 * read.index;
        if read.index < missing {
            assert_eq!(read.buf[..], pattern(at + 512)[at..]);
        } else {
            assert!(read.buf.iter().all(|byte| *byte == 0));
        }
        ended += 1;
    }
    assert_eq!(ended, missing + 10);
    let took = fixture.env.now() - started;
    assert!(took <= 150 * MS, "{took:?}");
}

/// With the adaptive choice a replica that becomes slow costs a few late reads; then it is not asked any more.
#[tokio::test(start_paused = true)]
async fn one_slow_replica_slows_hardly_any_read() {
    let fixture = Fixture::new().await;
    fixture.write(0, &pattern(CHUNK as usize)).await.unwrap();
    for node in 1..=NODES {
        fixture.slow(node, MS);
    }
    let mut slowest = Duration::ZERO;
    let (mut late, reads) = (0, 1000);
    for n in 0..reads {
        if n == 200 {
            fixture.slow(2, 500 * MS);
        }
        let took = fixture.timed_read().await;
        late += usize::from(took > 3 * MS);
        slowest = slowest.max(took);
    }
    assert!(late <= 5 && slowest <= 20 * MS, "{late} late, {slowest:?}");
    let seconds = fixture.disk.lock().read_requests.len() - reads;
    assert!(seconds <= reads / 20 + 10, "{seconds}");
}
