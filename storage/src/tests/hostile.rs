//! Requests and replies that make no sense: what was stored before stays, records stay in order, the node serves on.

use std::{sync::Arc, time::Duration};

use common::{panics, shutdown::Shutdown};
use engine::ReadVersion;
use net::{
    Bulk,
    hostile::{Case, Hostile, Method, Relay, Victim, assault, peak_memory},
};
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    codec,
    id::{ChainId, ChannelId, ChannelSeq, ClientId, InodeId, TargetId},
    rpc::{
        BulkIndex,
        storage::{
            AdoptChannels, AdoptChannelsRequest, ChannelDone, FinishSync, FinishSyncRequest,
            ForwardKind, ForwardReply, ForwardRequest, ForwardUpdate, ListChunks,
            ListChunksRequest, QueryChunks, QueryChunksRequest, QueryLastChunk,
            QueryLastChunkRequest, QueryVersion, QueryVersionRequest, ReadChunks, ReadItem,
            ReadMode, ReadRequest, UpdateChunks, UpdateDone, UpdateItem, UpdateRequest,
        },
    },
    status::StatusCode,
    version::{ChainVersion, ChunkVersion},
};

use super::cluster::{CHAIN, CHUNK_SIZE, Cluster, Offline, Serving, Syncing, chunk};

/// Payload that goes along with every request: 4,096 bytes, and a source of another length.
const PAYLOAD: [u8; 4096] = [7; 4096];
/// The files that requests are about; those that must stay as they are belong to another (`chunk`).
const FILE: InodeId = InodeId(1000);
/// A node that believed what is announced would hold many gigabytes.
const GROWTH_MAX: u64 = 2 << 30;

fn stranger(index: u32) -> ChunkId {
    ChunkId { inode: FILE, index }
}

fn foreign_tag() -> UpdateTag {
    UpdateTag {
        client: ClientId(9000),
        channel: ChannelId(3),
        seq: ChannelSeq(5),
    }
}

fn item(update: Update, index: u32, seq: u64) -> UpdateItem {
    let write = matches!(update, Update::Write { .. });
    UpdateItem {
        chain: CHAIN,
        chain_version: ChainVersion(1),
        chunk: stranger(index),
        chunk_size: CHUNK_SIZE,
        update,
        payload: write.then_some(BulkIndex(0)),
        checksum: if write {
            Checksum::of(&PAYLOAD)
        } else {
            Checksum::default()
        },
        tag: UpdateTag {
            seq: ChannelSeq(seq),
            ..foreign_tag()
        },
    }
}

/// What clients ask.
fn client_cases(target: u64, version: ChainVersion) -> Vec<Case> {
    let write = Update::Write {
        offset: 100,
        length: 4096,
    };
    let updates = [
        write,
        Update::Extend { length: 9000 },
        Update::Truncate { length: 5 },
        Update::Remove,
    ];
    let items = updates
        .into_iter()
        .zip(0..)
        .map(|(update, index)| UpdateItem {
            chain_version: version,
            ..item(update, index % 2, u64::from(index))
        });
    let items: Vec<UpdateItem> = items.collect();
    let read = ReadItem {
        chain: CHAIN,
        chain_version: version,
        target: TargetId(target),
        chunk: chunk(0),
        offset: 0,
        length: 4096,
        destination: BulkIndex(0),
        destination_offset: 0,
    };
    let reads = ReadRequest {
        reads: vec![read; 2],
        mode: ReadMode::Linearizable,
    };
    let mut cases: Vec<Case> = items
        .iter()
        .map(|item| UpdateRequest {
            updates: vec![item.clone()],
        })
        .map(Case::of::<UpdateChunks>)
        .collect();
    cases.push(Case::of::<UpdateChunks>(UpdateRequest { updates: items }));
    cases.push(Case::of::<ReadChunks>(reads));
    cases.push(Case::of::<QueryVersion>(QueryVersionRequest {
        chain: CHAIN,
        chain_version: version,
        chunk: chunk(0),
    }));
    cases.push(Case::of::<QueryLastChunk>(QueryLastChunkRequest {
        chain: CHAIN,
        chain_version: version,
        target: TargetId(target),
        inode: chunk(0).inode,
    }));
    cases.push(Case::of::<QueryChunks>(QueryChunksRequest {
        chain: CHAIN,
        chain_version: version,
        inode: FILE,
        from_index: 0,
        limit: 10,
    }));
    cases
}

fn forward(kind: ForwardKind, version: ChainVersion, update_version: u32) -> ForwardRequest {
    let payload = match kind {
        ForwardKind::Replace { .. } | ForwardKind::Update(Update::Write { .. }) => true,
        ForwardKind::Update(_) | ForwardKind::Drop => false,
    };
    ForwardRequest {
        chain: CHAIN,
        chain_version: version,
        from: TargetId(1),
        chunk: stranger(update_version % 3),
        chunk_size: CHUNK_SIZE,
        update_version: ChunkVersion(update_version),
        kind,
        payload: payload.then_some(BulkIndex(0)),
        checksum: if payload {
            Checksum::of(&PAYLOAD)
        } else {
            Checksum::default()
        },
        tag: Some(foreign_tag()),
    }
}

/// What a predecessor says.
fn neighbour_cases(version: ChainVersion) -> Vec<Case> {
    let write = Update::Write {
        offset: 3,
        length: 4096,
    };
    let kinds = [
        ForwardKind::Update(write),
        ForwardKind::Update(Update::Extend { length: 10_000 }),
        ForwardKind::Update(Update::Truncate { length: 100 }),
        ForwardKind::Update(Update::Remove),
        ForwardKind::Replace { length: 4096 },
        ForwardKind::Drop,
    ];
    let mut cases: Vec<Case> = kinds
        .into_iter()
        .flat_map(|kind| (1..4).map(move |number| forward(kind.clone(), version, number)))
        .map(Case::of::<ForwardUpdate>)
        .collect();
    let done = ChannelDone {
        tag: foreign_tag(),
        chunk: stranger(1),
        done: UpdateDone {
            length: 5,
            commit_version: ChunkVersion(2),
            chain_version: version,
            checksum: Checksum(3),
        },
    };
    cases.push(Case::of::<AdoptChannels>(AdoptChannelsRequest {
        chain: CHAIN,
        chain_version: version,
        target: TargetId(2),
        channels: vec![done; 3],
    }));
    cases.push(Case::of::<ListChunks>(ListChunksRequest {
        chain: CHAIN,
        chain_version: version,
        target: TargetId(2),
        from: chunk(0),
        limit: 100,
    }));
    // Of another chain, so that only a distorted one ends the resync.
    cases.push(Case::of::<FinishSync>(FinishSyncRequest {
        chain: ChainId(77),
        chain_version: version,
        target: TargetId(2),
    }));
    cases
}

/// Buffers that fit what most requests say, none, or others.
fn bulk(cluster: &Cluster, hostile: &Hostile) -> Bulk {
    let buffers = cluster.endpoint().buffers();
    match hostile.below(8) {
        0 => Bulk::default(),
        1 => Bulk::source(buffers.copy_from(&PAYLOAD[..17]).freeze()),
        2 => Bulk::destination(buffers.allocate_zeroed(10)),
        _ => Bulk {
            sources: vec![
                buffers.copy_from(&PAYLOAD).freeze(),
                buffers.copy_from(b"another").freeze(),
            ],
            destinations: vec![buffers.allocate_zeroed(8192)],
        },
    }
}

async fn attack(cluster: &Cluster, node: u64, cases: &[Case], seed: u64) {
    let address = format!("mem://node-{node}");
    let caller = cluster.caller();
    let victim = Victim {
        env: &cluster.env,
        endpoint: cluster.endpoint(),
        address: &address,
        caller: &caller,
        limit: Duration::from_millis(250),
    };
    let made = |hostile: &Hostile| bulk(cluster, hostile);
    let tally = assault(&victim, cases, &Hostile::new(seed), &made).await;
    assert!(tally.served > 20, "{tally:?}");
    assert!(
        tally.refused.contains_key(&StatusCode::Malformed),
        "{tally:?}"
    );
    assert!(
        tally.refused.contains_key(&StatusCode::UnknownTarget),
        "{tally:?}"
    );
}

/// Writes that must survive.
async fn keep(cluster: &Cluster) -> Vec<Vec<u8>> {
    let contents: Vec<Vec<u8>> = (0..3).map(|index| vec![index + 1; 20_000]).collect();
    for (index, content) in (0..).zip(&contents) {
        cluster.write(1, chunk(index), 0, content).await.unwrap();
    }
    contents
}

/// Everything kept is there at every replica, the engines are in order, and one more write is made.
async fn is_sound(cluster: &Cluster, ids: &[u64], kept: &[Vec<u8>]) {
    assert_eq!(panics::take(), Vec::<String>::new());
    for &id in ids {
        let engine = cluster.engine(id);
        engine.check().unwrap();
        assert_eq!(engine.failure(), None);
        for (index, content) in (0..).zip(kept) {
            let key = cluster.target(id).key(chunk(index));
            let read = engine.read(key, ReadVersion::Committed, 0, u32::MAX).await;
            assert!(
                read.unwrap().data[..] == content[..],
                "chunk {index} of target {id}"
            );
        }
    }
    cluster.write(ids[0], chunk(9), 0, b"more").await.unwrap();
    let (bytes, _) = cluster
        .read(ids[0], chunk(9), ReadMode::Linearizable)
        .await
        .unwrap();
    assert_eq!(bytes, b"more");
}

#[tokio::test]
async fn nonsense_of_clients_leaves_replicas_equal_and_in_order() {
    panics::watch();
    let before = peak_memory();
    let cluster = Cluster::start(2).await;
    let kept = keep(&cluster).await;
    for node in [1, 2] {
        attack(&cluster, node, &client_cases(node, cluster.version()), node).await;
    }
    is_sound(&cluster, &[1, 2], &kept).await;
    let quiet = || {
        let idle = |id| cluster.contents(id).iter().all(|chunk| !chunk.5);
        idle(1) && idle(2)
    };
    cluster.wait("what is under way to end", quiet).await;
    assert_eq!(cluster.contents(1), cluster.contents(2));
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test]
async fn nonsense_of_a_predecessor_harms_no_other_chunk_of_a_serving_target() {
    panics::watch();
    let cluster = Cluster::start(2).await;
    let kept = keep(&cluster).await;
    attack(&cluster, 2, &neighbour_cases(cluster.version()), 21).await;
    is_sound(&cluster, &[1, 2], &kept).await;
}

#[tokio::test]
async fn nonsense_of_a_predecessor_harms_no_other_chunk_of_a_syncing_target() {
    panics::watch();
    let cluster = Cluster::start(2).await;
    let kept = keep(&cluster).await;
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    cluster
        .wait_local(2, types::target::LocalState::Online)
        .await;
    cluster.set_chain(&[(1, Serving), (2, Syncing)]);
    cluster
        .wait_local(2, types::target::LocalState::UpToDate)
        .await;
    attack(&cluster, 2, &neighbour_cases(cluster.version()), 22).await;
    is_sound(&cluster, &[1, 2], &kept).await;
}

/// Versions that no head makes would leave a chunk without versions to count on to.
#[tokio::test]
async fn a_forward_of_a_version_that_no_head_makes_is_refused() {
    let cluster = Cluster::start(2).await;
    for version in [0, u32::MAX, u32::MAX - 1] {
        let request = ForwardRequest {
            chunk: stranger(0),
            ..forward(
                ForwardKind::Update(Update::Remove),
                cluster.version(),
                version,
            )
        };
        let refused = cluster.ask::<ForwardUpdate>(2, &request).await.unwrap_err();
        assert_eq!(
            refused.code,
            StatusCode::InvalidArgument,
            "{version}: {refused}"
        );
    }
    assert_eq!(cluster.meta(2, stranger(0)), None);
}

#[tokio::test]
async fn a_successor_that_answers_nonsense_is_not_believed() {
    panics::watch();
    let cluster = Cluster::start(2).await;
    let kept = keep(&cluster).await;
    let end = Shutdown::new();
    let relay = Relay::new(cluster.endpoint().clone(), "mem://node-2");
    let served = cluster
        .endpoint()
        .serve("mem://relay", relay.clone(), end.signal())
        .await;
    drop(served.unwrap());
    cluster.set_address(2, "mem://relay");
    cluster.set_chain(&[(1, Serving), (2, Serving)]);
    for id in [1, 2] {
        cluster.wait_chain(id).await;
    }
    let hostile = Hostile::new(31);
    let limit = Duration::from_millis(150);
    for index in 0..60 {
        let drawn = hostile.clone();
        relay.set(Some(Arc::new(move |method, body| {
            Ok(if method == Method::of::<ForwardUpdate>() {
                unlike(&drawn, &body)
            } else {
                body
            })
        })));
        let chunk = stranger(index);
        let tag = cluster.fresh_tag();
        let item = cluster.write_item(chunk, 0, &PAYLOAD, tag);
        let started = cluster.env.now();
        let answer = cluster.update(1, item.clone(), &PAYLOAD, limit).await;
        assert!(cluster.env.now() - started < Duration::from_secs(5));
        let status = answer.unwrap_err();
        assert!(!status.message.is_empty());
        assert_eq!(panics::take(), Vec::<String>::new());
        relay.set(None);
        if status.code == StatusCode::ReplicaDiverged {
            // It left its chain, as it must; it comes back as one that served last.
            rejoin(&cluster).await;
        }
        let item = UpdateItem {
            chain_version: cluster.version(),
            ..item
        };
        retry(&cluster, &item).await;
    }
    assert!(relay.changed() >= 60);
    is_sound(&cluster, &[1, 2], &kept).await;
    assert_eq!(cluster.contents(1), cluster.contents(2));
}

/// Makes an update whose first attempt may still be running.
async fn retry(cluster: &Cluster, item: &UpdateItem) {
    let limit = Duration::from_secs(10);
    loop {
        let answer = cluster.update(1, item.clone(), &PAYLOAD, limit).await;
        match answer {
            Ok(_) => return,
            Err(status) => assert_eq!(status.code, StatusCode::ChannelBusy, "{status}"),
        }
        cluster.env.sleep(Duration::from_millis(2)).await;
    }
}

/// A reply to a forward that differs from the true one.
fn unlike(hostile: &Hostile, body: &[u8]) -> Vec<u8> {
    let reply: Result<ForwardReply, _> = codec::decode_body(body);
    loop {
        let changed = match (&reply, hostile.below(3)) {
            (Ok(reply), 0 | 1) => hostile.nonsense(reply, 300),
            _ => hostile.damaged(body),
        };
        // A chain version is not compared: it changes while a reply is on its way.
        let same = match (&reply, codec::decode_body::<ForwardReply>(&changed)) {
            (Ok(reply), Ok(changed)) => {
                let chain_version = reply.chain_version;
                *reply
                    == ForwardReply {
                        chain_version,
                        ..changed
                    }
            }
            _ => changed == body,
        };
        if !same {
            return changed;
        }
    }
}

async fn rejoin(cluster: &Cluster) {
    use super::cluster::LastServing;
    use types::target::LocalState;
    cluster.set_chain(&[(1, LastServing), (2, LastServing)]);
    for id in [1, 2] {
        cluster.wait_chain(id).await;
        cluster.wait_local(id, LocalState::Online).await;
    }
    cluster.set_chain(&[(1, Serving), (2, Offline)]);
    cluster.wait_local(1, LocalState::UpToDate).await;
    cluster.wait_local(2, LocalState::Online).await;
    cluster.set_chain(&[(1, Serving), (2, Syncing)]);
    cluster.wait_local(2, LocalState::UpToDate).await;
    cluster.set_chain(&[(1, Serving), (2, Serving)]);
    for id in [1, 2] {
        cluster.wait_chain(id).await;
        cluster.wait_local(id, LocalState::UpToDate).await;
    }
}
