//! Many ranges in one call: what shares a request, and that nobody waits for another's failure.

use std::collections::BTreeSet;

use super::*;
use crate::storage::{
    RangeRead, RangeWritten, ReadRange, WriteRange,
    batch::{BATCH_BYTES_MAX, BATCH_PIECES_MAX},
    channel::CHANNELS_MAX,
};

const SMALL: usize = 4096;

/// What the range of this number holds.
fn bytes_of(number: usize) -> Vec<u8> {
    vec![u8::try_from(number % 251).unwrap(); SMALL]
}

impl Fixture {
    fn write_range(&self, number: usize) -> WriteRange<'_> {
        WriteRange {
            inode: INODE,
            layout: &self.layout,
            offset: (number * SMALL) as u64,
            data: self.pool.copy_from(&bytes_of(number)).freeze(),
        }
    }

    fn read_range(&self, number: usize, length: usize) -> ReadRange<'_> {
        let mut buf = self.pool.allocate(length);
        buf.fill(0xee);
        ReadRange {
            inode: INODE,
            layout: &self.layout,
            offset: (number * SMALL) as u64,
            buf,
        }
    }

    /// Writes so many ranges; the results in their order.
    async fn write_ranges(&self, count: usize) -> Vec<Result<(), Status>> {
        let ranges = (0..count).map(|number| self.write_range(number));
        let mut writes = self.client.write_many(ranges.collect());
        let mut results: Vec<_> = (0..count).map(|_| None).collect();
        while let Some(RangeWritten { index, result }) = writes.next().await {
            assert!(results[index].replace(result).is_none(), "{index} twice");
        }
        results.into_iter().map(Option::unwrap).collect()
    }

    /// Reads so many ranges; all must hold what belongs there.
    async fn read_ranges(&self, count: usize) {
        let ranges = (0..count).map(|number| self.read_range(number, SMALL));
        let mut reads = self.client.read_many(ranges.collect());
        let mut seen = BTreeSet::new();
        while let Some(RangeRead { index, result, buf }) = reads.next().await {
            result.unwrap();
            assert_eq!(buf[..], bytes_of(index)[..], "range {index}");
            assert!(seen.insert(index));
        }
        assert_eq!(seen.len(), count);
    }
}

#[tokio::test(start_paused = true)]
async fn small_ranges_for_one_node_share_requests() {
    let fixture = Fixture::new().await;
    let count = 200;
    assert!(fixture.write_ranges(count).await.iter().all(Result::is_ok));
    // One head for both chains: four requests hold 200 updates.
    assert_eq!(fixture.disk.lock().update_requests, [64, 64, 64, 8]);
    fixture.read_ranges(count).await;
    let disk = fixture.disk.lock();
    let ranges: usize = disk.read_requests.iter().map(|(_, ranges)| ranges).sum();
    assert_eq!(ranges, count);
    // Three replicas with about 67 ranges each.
    let lengths: Vec<_> = disk
        .read_requests
        .iter()
        .map(|(_, ranges)| *ranges)
        .collect();
    assert!(lengths.len() <= 6, "{lengths:?}");
    assert!(lengths.iter().all(|length| *length <= BATCH_PIECES_MAX));
    let nodes: BTreeSet<_> = disk.read_requests.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_range_over_several_chunks_is_one_result_in_its_own_buffer() {
    let fixture = Fixture::new().await;
    let count = 5 * CHUNK as usize / SMALL;
    assert!(fixture.write_ranges(count).await.iter().all(Result::is_ok));
    let long = fixture.read_range(3, 3 * CHUNK as usize);
    let short = fixture.read_range(1, SMALL);
    let starts = [long.buf.as_ptr(), short.buf.as_ptr()];
    let nothing = ReadRange {
        buf: fixture.pool.allocate(0),
        ..fixture.read_range(0, 0)
    };
    let mut reads = fixture.client.read_many(vec![long, short, nothing]);
    let mut ends = [0; 3];
    while let Some(RangeRead { index, result, buf }) = reads.next().await {
        result.unwrap();
        ends[index] += 1;
        if index < 2 {
            assert_eq!(buf.as_ptr(), starts[index]);
        }
        for (place, piece) in buf.chunks(SMALL).enumerate() {
            let first = [3, 1, 0][index];
            assert_eq!(piece, bytes_of(first + place), "range {index}");
        }
    }
    assert_eq!(ends, [1; 3]);
}

#[tokio::test(start_paused = true)]
async fn large_ranges_do_not_share_requests() {
    let fixture = Fixture::new().await;
    let layout = Layout {
        chunk_size: 1 << 20,
        ..fixture.layout.clone()
    };
    let ranges = (0..6_u64).map(|number| WriteRange {
        inode: INODE,
        layout: &layout,
        offset: number << 20,
        data: fixture
            .pool
            .allocate_zeroed(BATCH_BYTES_MAX / 2 + 1)
            .freeze(),
    });
    let mut writes = fixture.client.write_many(ranges.collect());
    while let Some(written) = writes.next().await {
        written.result.unwrap();
    }
    assert_eq!(fixture.disk.lock().update_requests, [1; 6]);
}

/// The other ranges of the request end at once.
#[tokio::test(start_paused = true)]
async fn a_range_that_fails_is_repeated_alone_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    let count = 20;
    for _ in 0..12 {
        fixture.fault(1, Fault::Refuse(StatusCode::ChannelBusy));
    }
    let started = fixture.env.now();
    let ranges = (0..count).map(|number| fixture.write_range(number));
    let mut writes = fixture.client.write_many(ranges.collect());
    let mut late = 0;
    while let Some(written) = writes.next().await {
        written.result.unwrap();
        let took = fixture.env.now() - started;
        late += usize::from(took > Duration::ZERO);
    }
    // Each of the first twelve was refused once and went on alone.
    assert_eq!(late, 12);
    {
        let disk = fixture.disk.lock();
        let mut requests = disk.update_requests.clone();
        assert_eq!(requests.remove(0), count);
        assert_eq!(requests, [1; 12]);
        let mut tags = BTreeSet::new();
        let runs = disk.arrived.iter().map(|(_, tag, _)| tag.channel);
        assert_eq!(runs.filter(|channel| !tags.insert(*channel)).count(), 12);
        assert_eq!(tags.len(), count);
    }
    fixture.read_ranges(count).await;

    // The same for reads: of the ranges that one replica is asked for, the first five fail.
    for _ in 0..5 {
        fixture.fault(2, Fault::Refuse(StatusCode::LeaseExpired));
    }
    fixture.disk.lock().read_requests.clear();
    fixture.read_ranges(count).await;
    let disk = fixture.disk.lock();
    let alone = disk.read_requests.iter().filter(|(_, ranges)| *ranges == 1);
    assert_eq!((alone.count(), disk.read_requests.len()), (5, 8));
}

/// Nobody knows what became of the updates in it: each is repeated under its own tag, with its own content.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_of_a_batch_repeats_each_update_under_its_own_tag() {
    let fixture = Fixture::new().await;
    fixture.fault(1, Fault::LoseReply);
    let count = 10;
    assert!(fixture.write_ranges(count).await.iter().all(Result::is_ok));
    let disk = fixture.disk.lock();
    assert_eq!(disk.update_requests[0], count);
    assert_eq!(disk.update_requests[1..], [1; 10]);
    let key = |(_, tag, bytes): &(NodeId, UpdateTag, Vec<u8>)| (tag.channel, tag.seq.0, bytes[0]);
    let first: BTreeSet<_> = disk.arrived[..count].iter().map(key).collect();
    let again: BTreeSet<_> = disk.arrived[count..].iter().map(key).collect();
    assert_eq!((first.len(), &first), (count, &again));
}

#[tokio::test(start_paused = true)]
async fn a_refused_range_is_an_error_of_its_own() {
    let fixture = Fixture::new().await;
    fixture.fault(1, Fault::Refuse(StatusCode::NoSpace));
    let mut codes = Vec::new();
    for result in fixture.write_ranges(4).await {
        codes.push(result.err().map(|status| status.code));
    }
    assert_eq!(codes, [Some(StatusCode::NoSpace), None, None, None]);

    let far = ReadRange {
        offset: types::layout::FILE_LENGTH_MAX,
        ..fixture.read_range(0, SMALL)
    };
    let ranges = vec![far, fixture.read_range(1, SMALL)];
    let mut reads = fixture.client.read_many(ranges);
    let mut codes = [None; 2];
    while let Some(read) = reads.next().await {
        codes[read.index] = read.result.err().map(|status| status.code);
    }
    assert_eq!(codes, [Some(StatusCode::FileTooLarge), None]);
}

/// More updates than there are channels, from several callers at once, all of which have to wait for some.
#[tokio::test(start_paused = true)]
async fn calls_that_need_more_channels_than_there_are_all_end() {
    let fixture = Fixture::new().await;
    let count = CHANNELS_MAX + 100;
    let calls = (0..3).map(|_| fixture.write_ranges(count));
    let all = futures::future::join_all(calls);
    let limit = Duration::from_secs(10);
    let results = fixture.env.timeout(limit, all).await.unwrap();
    assert!(results.iter().flatten().all(Result::is_ok));
    fixture.read_ranges(count).await;
}

/// A call that is dropped has left its channels; what was under way is not mistaken for something new.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_retires_its_channels() {
    let fixture = Fixture::new().await;
    fixture.fault(1, Fault::LoseReply);
    let limit = Duration::from_secs(1);
    let call = fixture.write_ranges(5);
    assert!(fixture.env.timeout(limit, call).await.is_err());
    assert!(fixture.write_ranges(5).await.iter().all(Result::is_ok));
    let disk = fixture.disk.lock();
    let channels = disk.arrived.iter().map(|(_, tag, _)| tag.channel);
    let channels: BTreeSet<_> = channels.collect();
    assert_eq!(channels.len(), 10);
}
