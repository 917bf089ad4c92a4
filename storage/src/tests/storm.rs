//! Replicas die and come back at random under writers and readers. Checked all the time: a read never
//! returns less than what was acknowledged before it began, nor more than what was ever asked for. Checked
//! at the end: replicas are equal, and every acknowledged write is there, once.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use futures::future::{join, join_all};
use types::{
    chunk::ChunkId,
    id::TargetId,
    rpc::{mgmtd::StepDown, storage::ReadMode},
    status::{Status, StatusCode},
    target::{LocalState, PublicState},
};

use super::cluster::{Cluster, LastServing, Offline, Serving, Syncing, Waiting, chunk, tag};

const WRITERS: usize = 6;
const CHUNKS: u32 = 2;
const SLOT: usize = 8;

/// What one writer did: it writes 1, 2, 3 and so on into a slot of its own of a chunk it shares.
#[derive(Default)]
struct Writer {
    asked: AtomicU64,
    acknowledged: AtomicU64,
}

struct Storm {
    cluster: Cluster,
    writers: Vec<Writer>,
    over: AtomicBool,
    reads: AtomicU32,
}

fn chunk_of(writer: usize) -> ChunkId {
    chunk(writer as u32 % CHUNKS)
}

impl Storm {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Writes until the storm is over; asks again with the same tag until there is an answer.
    async fn write(&self, index: usize) {
        let writer = &self.writers[index];
        while !self.is_over() {
            let value = writer.asked.load(Ordering::SeqCst) + 1;
            writer.asked.store(value, Ordering::SeqCst);
            loop {
                if self.attempt(index, value).await {
                    break;
                }
                self.cluster.env.sleep(Duration::from_millis(3)).await;
            }
            writer.acknowledged.store(value, Ordering::SeqCst);
        }
    }

    async fn attempt(&self, index: usize, value: u64) -> bool {
        let cluster = &self.cluster;
        let Some(&head) = cluster.serving().first() else {
            return false;
        };
        let bytes = value.to_be_bytes();
        let offset = (index * SLOT) as u32;
        let tag = tag(index as u16, value);
        let item = cluster.write_item(chunk_of(index), offset, &bytes, tag);
        let limit = Duration::from_millis(700);
        match cluster.update(head, item, &bytes, limit).await {
            Ok(_) => true,
            Err(status) => {
                let never = [
                    StatusCode::ChannelStale,
                    StatusCode::InvalidArgument,
                    StatusCode::ReplicaDiverged,
                    StatusCode::Internal,
                    StatusCode::ChunkCorrupt,
                ];
                assert!(!never.contains(&status.code), "writer {index}: {status}");
                false
            }
        }
    }

    /// Reads from any serving replica until the storm is over.
    async fn read(&self, seed: u64) {
        let env = &self.cluster.env;
        let mut turn = seed;
        while !self.is_over() {
            turn += 1;
            let index = turn as usize % WRITERS;
            let serving = self.cluster.serving();
            let at = serving.get(env.random_below(serving.len() as u64) as usize);
            let least = self.writers[index].acknowledged.load(Ordering::SeqCst);
            if let Some(&at) = at
                && let Ok(value) = self.read_slot(at, index).await
            {
                let most = self.writers[index].asked.load(Ordering::SeqCst);
                assert!(
                    (least..=most).contains(&value),
                    "target {at} showed {value} of writer {index}; {least} was acknowledged, {most} asked"
                );
                self.reads.fetch_add(1, Ordering::SeqCst);
            }
            env.sleep(Duration::from_millis(1)).await;
        }
    }

    /// The value in a writer's slot.
    async fn read_slot(&self, at: u64, index: usize) -> Result<u64, Status> {
        let read = self
            .cluster
            .read(at, chunk_of(index), ReadMode::Linearizable);
        match read.await {
            Ok((bytes, _)) => {
                let slot = bytes.get(index * SLOT..(index + 1) * SLOT);
                Ok(slot.map_or(0, |slot| u64::from_be_bytes(slot.try_into().unwrap())))
            }
            Err(status) if status.code == StatusCode::ChunkNotFound => Ok(0),
            Err(status) => Err(status),
        }
    }

    /// The same once the storm is over: a connection that failed during it may still pause before it is made anew.
    async fn read_slot_at_last(&self, at: u64, index: usize) -> u64 {
        let env = &self.cluster.env;
        let deadline = env.now() + Duration::from_secs(5);
        loop {
            match self.read_slot(at, index).await {
                Ok(value) => return value,
                Err(status) => assert!(
                    status.code == StatusCode::Unreachable && env.now() < deadline,
                    "target {at}, writer {index}: {status}"
                ),
            }
            env.sleep(Duration::from_millis(5)).await;
        }
    }

    async fn pause(&self, limit_ms: u64) {
        let env = &self.cluster.env;
        let pause = Duration::from_millis(env.random_below(limit_ms));
        env.sleep(pause).await;
    }

    /// The next map: these serve, in this order; then `last`.
    fn publish(&self, serving: &[u64], last: &[(u64, PublicState)]) {
        let mut states: Vec<(u64, PublicState)> = serving.iter().map(|&id| (id, Serving)).collect();
        states.extend(last);
        self.cluster.set_chain(&states);
    }

    /// One replica dies and comes back; perhaps another dies while it is refilled.
    async fn lose_one(&self) {
        let cluster = &self.cluster;
        let mut serving = cluster.serving();
        let victim = serving.remove(cluster.env.random_below(serving.len() as u64) as usize);
        cluster.kill(victim).await;
        self.pause(60).await;
        self.publish(&serving, &[(victim, Offline)]);
        self.pause(60).await;
        cluster.start_node(victim).await;
        cluster.wait_local(victim, LocalState::Online).await;
        self.publish(&serving, &[(victim, Syncing)]);
        let mut dead = None;
        if serving.len() > 1 && cluster.env.random_below(2) == 0 {
            self.pause(10).await;
            let second = serving.remove(cluster.env.random_below(serving.len() as u64) as usize);
            cluster.kill(second).await;
            self.pause(30).await;
            self.publish(&serving, &[(victim, Syncing), (second, Offline)]);
            dead = Some(second);
        }
        cluster.wait_local(victim, LocalState::UpToDate).await;
        serving.push(victim);
        match dead {
            None => self.publish(&serving, &[]),
            Some(second) => {
                self.publish(&serving, &[(second, Offline)]);
                cluster.start_node(second).await;
                self.refill(&mut serving, second, &[]).await;
            }
        }
    }

    /// All replicas die at once; any of them may come back first.
    async fn lose_all(&self) {
        let cluster = &self.cluster;
        let mut all = cluster.serving();
        for &id in &all {
            cluster.kill(id).await;
        }
        let states: Vec<_> = all.iter().map(|&id| (id, LastServing)).collect();
        self.publish(&[], &states);
        let first = all.remove(cluster.env.random_below(all.len() as u64) as usize);
        cluster.start_node(first).await;
        cluster.wait_local(first, LocalState::Online).await;
        let mut serving = vec![first];
        let offline: Vec<_> = all.iter().map(|&id| (id, Offline)).collect();
        self.publish(&serving, &offline);
        cluster.wait_local(first, LocalState::UpToDate).await;
        for &id in &all {
            cluster.start_node(id).await;
        }
        while let Some(next) = all.pop() {
            let others: Vec<_> = all.iter().map(|&id| (id, Waiting)).collect();
            self.refill(&mut serving, next, &others).await;
        }
    }

    async fn refill(&self, serving: &mut Vec<u64>, id: u64, others: &[(u64, PublicState)]) {
        let with = |state| [&[(id, state)], others].concat();
        self.publish(serving, &with(Offline));
        self.cluster.wait_local(id, LocalState::Online).await;
        self.publish(serving, &with(Syncing));
        self.cluster.wait_local(id, LocalState::UpToDate).await;
        serving.push(id);
        self.publish(serving, others);
    }

    /// An operator rotates: one replica steps down, the others go on, and it comes back as the last one.
    async fn rotate(&self) {
        let cluster = &self.cluster;
        let mut serving = cluster.serving();
        let target = serving.remove(cluster.env.random_below(serving.len() as u64) as usize);
        cluster.wait_chain(target).await;
        cluster.node(target).node.step_down(StepDown {
            target: TargetId(target),
            chain_version: cluster.version(),
        });
        assert_eq!(cluster.view(target).local, LocalState::Offline);
        // The manager hears of it a moment later.
        self.pause(40).await;
        self.refill(&mut serving, target, &[]).await;
    }

    async fn rounds(&self, rounds: u32) {
        for round in 0..rounds {
            self.pause(100).await;
            match round % 5 {
                1 => self.rotate().await,
                4 => self.lose_all().await,
                _ => self.lose_one().await,
            }
        }
        self.pause(100).await;
        self.over.store(true, Ordering::SeqCst);
    }

    async fn check_end(&self) {
        for id in 1..=3 {
            self.cluster.wait_chain(id).await;
            assert_eq!(
                self.cluster.view(id).local,
                LocalState::UpToDate,
                "target {id}"
            );
        }
        let contents: Vec<_> = (1..=3).map(|id| self.cluster.contents(id)).collect();
        assert!(contents[0].iter().all(|(.., pending)| !pending));
        assert_eq!(contents[0], contents[1]);
        assert_eq!(contents[1], contents[2]);
        let mut updates = 0;
        for index in 0..WRITERS {
            let value = self.read_slot_at_last(3, index).await;
            let acknowledged = self.writers[index].acknowledged.load(Ordering::SeqCst);
            assert_eq!(value, acknowledged, "writer {index}");
            updates += acknowledged;
        }
        let versions: u64 = contents[0].iter().map(|chunk| u64::from(chunk.3)).sum();
        assert_eq!(versions, updates, "one version for each update, no more");
        let reads = self.reads.load(Ordering::SeqCst);
        assert!(
            updates > 100 && reads > 100,
            "{updates} updates, {reads} reads"
        );
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_no_read_goes_back() {
    let storm = Storm {
        cluster: Cluster::start(3).await,
        writers: (0..WRITERS).map(|_| Writer::default()).collect(),
        over: AtomicBool::new(false),
        reads: AtomicU32::new(0),
    };
    let work = join(
        join_all((0..WRITERS).map(|index| storm.write(index))),
        join_all((0..4).map(|seed| storm.read(seed))),
    );
    join(storm.rounds(15), work).await;
    storm.check_end().await;
}
