//! Updates of chunks: each goes to the head of its chunk's chain, and is repeated until its outcome is known.
//!
//! Updates for one head share a request (protocol W13), which `batch` bounds in number and in bytes; they run in
//! parallel there. Each has a channel of its own and so is run once by itself: one that failed goes on alone, under
//! its tag, and if a reply was lost, all of its updates do. Channels are taken before anything is sent, never while
//! a place to send is held: so nobody waits in a circle.

use std::{collections::VecDeque, fmt, sync::Arc};

use common::{buf::SharedBuf, env::Instant};
use net::Bulk;
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::{InodeId, NodeId},
    layout::Layout,
    routing::RoutingInfo,
    rpc::{
        BulkIndex,
        storage::{UpdateChunks, UpdateDone, UpdateItem, UpdateRequest},
    },
    status::{Status, StatusCode},
    version::RoutingVersion,
};

use crate::{
    metrics,
    retry::is_outcome_known,
    storage::{
        Shared, StorageClient,
        batch::{Batches, Gate, Underway},
        channel::ChannelLease,
    },
    stripe,
};

/// Bytes for a range of a file.
#[derive(Debug)]
pub struct WriteRange<'a> {
    /// The file.
    pub inode: InodeId,
    /// Where its chunks are.
    pub layout: &'a Layout,
    /// Where the first byte goes.
    pub offset: u64,
    /// The bytes.
    pub data: SharedBuf,
}

/// What came of a range.
#[derive(Debug)]
pub struct RangeWritten {
    /// Its place among the ranges of the call.
    pub index: usize,
    /// On success it is durable and committed on every serving replica; on failure parts may be.
    pub result: Result<(), Status>,
}

/// Many writes under way. Dropping it leaves unknown what became of those that are not done.
pub struct Writes<'a> {
    shared: &'a Shared,
    deadline: Instant,
    ranges: Vec<Unfinished>,
    ended: VecDeque<RangeWritten>,
    underway: Underway<'a, Step<'a>>,
}

impl fmt::Debug for Writes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.ranges.iter().filter(|range| range.missing > 0);
        write!(f, "Writes({} under way)", missing.count())
    }
}

/// A range of which updates are missing.
struct Unfinished {
    length: usize,
    missing: usize,
    result: Result<(), Status>,
}

/// A change of one chunk, the same in every retry.
struct Job<'a> {
    layout: &'a Layout,
    chunk: ChunkId,
    update: Update,
    payload: Option<SharedBuf>,
    checksum: Checksum,
}

/// An update of a batch after its first attempt.
struct Attempted<'a> {
    range: usize,
    job: Job<'a>,
    channel: ChannelLease<'a>,
    result: Result<(), Status>,
    used: RoutingVersion,
}

/// What a piece of the work came to.
enum Step<'a> {
    /// Updates that failed go on alone.
    Batch(Vec<Attempted<'a>>),
    /// Updates of these ranges are done, or will not be.
    Done(Vec<usize>, Result<(), Status>),
}

impl StorageClient {
    /// Writes `data` at `offset` of a file. On success it is durable and committed on every serving replica.
    ///
    /// # Errors
    /// NoSpace at once; anything else only when it lasted for the whole operation. Parts may have been written.
    pub async fn write(
        &self,
        inode: InodeId,
        layout: &Layout,
        offset: u64,
        data: SharedBuf,
    ) -> Result<(), Status> {
        let range = WriteRange {
            inode,
            layout,
            offset,
            data,
        };
        let done = self.write_many(vec![range]).next().await;
        done.expect("one range has one end").result
    }

    /// Writes many ranges of many files, each as `write` does. They have no order among each other: each is done, and
    /// ends, as soon as it can. Where two overlap, either may be the later one, chunk by chunk.
    pub fn write_many<'a>(&'a self, ranges: Vec<WriteRange<'a>>) -> Writes<'a> {
        let shared = &*self.0;
        let mut writes = Writes {
            shared,
            deadline: shared.deadline(),
            ranges: Vec::with_capacity(ranges.len()),
            ended: VecDeque::new(),
            underway: Underway::new(),
        };
        let map = shared.routing.current();
        let mut batches = Batches::new();
        for (index, range) in ranges.into_iter().enumerate() {
            for job in writes.take_apart(index, range) {
                match head_node(&map, &job) {
                    Ok(node) => batches.add(node, job.bytes(), (index, job)),
                    Err(_) => writes.begin_alone(index, job),
                }
            }
        }
        for batch in batches.finish() {
            writes.send(batch, &map);
        }
        writes
    }

    /// Cuts a chunk to at most `length` bytes; a chunk that is not there is fine.
    ///
    /// # Errors
    /// When it did not succeed for the whole operation.
    pub async fn truncate_chunk(
        &self,
        layout: &Layout,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), Status> {
        stripe::check_layout(layout)?;
        let job = Job {
            layout,
            chunk,
            update: Update::Truncate { length },
            payload: None,
            checksum: Checksum::default(),
        };
        match self.0.update(&job, &Gate::new(), self.0.deadline()).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == StatusCode::ChunkNotFound => Ok(()),
            Err(status) => Err(status),
        }
    }
}

impl<'a> Writes<'a> {
    /// The range that ends next; `None` when all have ended. Nothing goes on while nobody waits for this; a wait that
    /// is given up loses nothing.
    pub async fn next(&mut self) -> Option<RangeWritten> {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return Some(ended);
            }
            match self.underway.next().await? {
                Step::Done(ranges, result) => {
                    for range in ranges {
                        self.end(range, result.clone());
                    }
                }
                Step::Batch(updates) => {
                    for update in updates {
                        match update.result {
                            Ok(()) => {
                                update.channel.finish();
                                self.end(update.range, Ok(()));
                            }
                            Err(_) => self.go_on_alone(update),
                        }
                    }
                }
            }
        }
    }

    /// The updates of a range. None when it ends here.
    fn take_apart(&mut self, index: usize, range: WriteRange<'a>) -> Vec<Job<'a>> {
        let WriteRange {
            inode,
            layout,
            offset,
            data,
        } = range;
        let checked = stripe::check_layout(layout)
            .and_then(|()| stripe::check_end(layout, offset, data.len()));
        let mut jobs = Vec::new();
        if checked.is_ok() {
            let mut at = 0;
            for range in layout.split(inode, offset, data.len() as u64) {
                let payload = data.slice(at..at + range.length as usize);
                at += range.length as usize;
                jobs.push(Job {
                    layout,
                    chunk: range.chunk,
                    update: Update::Write {
                        offset: range.offset,
                        length: range.length,
                    },
                    checksum: Checksum::of(&payload),
                    payload: Some(payload),
                });
            }
        }
        if jobs.is_empty() {
            self.ended.push_back(RangeWritten {
                index,
                result: checked,
            });
        }
        self.ranges.push(Unfinished {
            length: data.len(),
            missing: jobs.len(),
            result: Ok(()),
        });
        jobs
    }

    fn send(&mut self, batch: Vec<(usize, Job<'a>)>, map: &Arc<RoutingInfo>) {
        let (shared, deadline, map) = (self.shared, self.deadline, map.clone());
        self.underway
            .add_batch(async move { shared.update_batch(batch, &map, deadline).await });
    }

    fn begin_alone(&mut self, range: usize, job: Job<'a>) {
        let (shared, deadline) = (self.shared, self.deadline);
        let gate = self.underway.gate();
        self.underway.add_alone(async move {
            let done = shared.update(&job, &gate, deadline).await;
            Step::Done(vec![range], done.map(|_| ()))
        });
    }

    fn go_on_alone(&mut self, failed: Attempted<'a>) {
        let (shared, deadline) = (self.shared, self.deadline);
        let gate = self.underway.gate();
        self.underway.add_alone(async move {
            let Attempted {
                range,
                job,
                channel,
                result,
                used,
            } = failed;
            let failure = result.err().map(|status| (status, used));
            let done = shared.update_on(channel, &job, failure, &gate, deadline);
            Step::Done(vec![range], done.await.map(|_| ()))
        });
    }

    /// An update of a range has ended. A range ends with its last update, also after one failed: an update that is given up
    /// would have an unknown outcome.
    fn end(&mut self, index: usize, result: Result<(), Status>) {
        let range = &mut self.ranges[index];
        range.missing -= 1;
        if let Err(status) = result
            && range.result.is_ok()
        {
            range.result = Err(status);
        }
        if range.missing > 0 {
            return;
        }
        let result = std::mem::replace(&mut range.result, Ok(()));
        if result.is_ok() {
            metrics::bytes_written(range.length);
        }
        self.ended.push_back(RangeWritten { index, result });
    }
}

impl Job<'_> {
    fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, |payload| payload.len())
    }
}

/// The node that an update is sent to.
fn head_node(map: &RoutingInfo, job: &Job<'_>) -> Result<NodeId, Status> {
    let head = stripe::head(stripe::chain_of(map, job.layout, job.chunk.index)?)?;
    stripe::address_of(map, head)?;
    let node = map.node_of(head).map(|node| node.id);
    node.ok_or_else(|| Status::new(StatusCode::UnknownTarget, "the head has no node"))
}

impl Shared {
    /// Sends updates for one node once, each on a channel of its own.
    async fn update_batch<'a>(
        &'a self,
        batch: Vec<(usize, Job<'a>)>,
        map: &RoutingInfo,
        deadline: Instant,
    ) -> Step<'a> {
        let channels = match self.channels.take_many(batch.len()).await {
            Ok(channels) => channels,
            Err(status) => {
                let ranges = batch.into_iter().map(|(range, _)| range).collect();
                return Step::Done(ranges, Err(status));
            }
        };
        let updates = batch.iter().zip(&channels);
        let updates: Vec<_> = updates
            .map(|((_, job), channel)| (job, channel.tag(self.client)))
            .collect();
        let results = self.update_once(&updates, map, deadline).await;
        let pieces = batch.into_iter().zip(channels).zip(results);
        let attempted = pieces.map(|(((range, job), channel), result)| Attempted {
            range,
            job,
            channel,
            result: result.map(|_| ()),
            used: map.version,
        });
        Step::Batch(attempted.collect())
    }

    /// Runs one update exactly once.
    async fn update(
        &self,
        job: &Job<'_>,
        gate: &Gate,
        deadline: Instant,
    ) -> Result<UpdateDone, Status> {
        let channel = self.channels.take().await?;
        self.update_on(channel, job, None, gate, deadline).await
    }

    /// Runs the update of a channel exactly once, also if an attempt at it has failed before.
    async fn update_on(
        &self,
        channel: ChannelLease<'_>,
        job: &Job<'_>,
        mut failure: Option<(Status, RoutingVersion)>,
        gate: &Gate,
        deadline: Instant,
    ) -> Result<UpdateDone, Status> {
        let tag = channel.tag(self.client);
        let mut retries = self.retries("storage.update", deadline);
        loop {
            if let Some((status, used)) = failure.take() {
                let known = is_outcome_known(status.code);
                if let Err(status) = retries.wait(status, used).await {
                    if known {
                        channel.finish();
                    }
                    return Err(status);
                }
            }
            let map = self.routing.current();
            let update = [(job, tag)];
            let results = gate.pass(self.update_once(&update, &map, deadline)).await;
            for result in results {
                match result {
                    Ok(done) => {
                        channel.finish();
                        return Ok(done);
                    }
                    Err(status) => failure = Some((status, map.version)),
                }
            }
        }
    }

    /// Sends updates whose chunks have the same head; one result for each.
    async fn update_once(
        &self,
        updates: &[(&Job<'_>, UpdateTag)],
        map: &RoutingInfo,
        deadline: Instant,
    ) -> Vec<Result<UpdateDone, Status>> {
        let results = self.request_updates(updates, map, deadline).await;
        results.unwrap_or_else(|status| updates.iter().map(|_| Err(status.clone())).collect())
    }

    async fn request_updates(
        &self,
        updates: &[(&Job<'_>, UpdateTag)],
        map: &RoutingInfo,
        deadline: Instant,
    ) -> Result<Vec<Result<UpdateDone, Status>>, Status> {
        let (mut items, mut sources) = (Vec::new(), Vec::new());
        let mut address = "";
        for (job, tag) in updates {
            let chain = stripe::chain_of(map, job.layout, job.chunk.index)?;
            address = stripe::address_of(map, stripe::head(chain)?)?;
            let index = BulkIndex(u16::try_from(sources.len()).unwrap_or(u16::MAX));
            items.push(UpdateItem {
                chain: chain.id,
                chain_version: chain.version,
                chunk: job.chunk,
                chunk_size: job.layout.chunk_size,
                update: job.update,
                payload: job.payload.as_ref().map(|_| index),
                checksum: job.checksum,
                tag: *tag,
            });
            sources.extend(job.payload.clone());
        }
        let request = UpdateRequest { updates: items };
        let bulk = Bulk {
            sources,
            destinations: Vec::new(),
        };
        let until = deadline.min(self.env.now() + self.options.write_attempt);
        let caller = self.caller();
        let call = self
            .endpoint
            .call::<UpdateChunks>(address, &caller, &request, bulk, until);
        let results = call.await.result?.results;
        if results.len() == updates.len() {
            return Ok(results);
        }
        let (sent, got) = (updates.len(), results.len());
        let message = format!("a request of {sent} updates was answered with {got} results");
        Err(Status::new(StatusCode::Malformed, message))
    }
}
