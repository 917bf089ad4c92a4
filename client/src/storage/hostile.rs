//! Nodes that answer nonsense, and maps that make none: an error by the deadline, never a panic, and no bytes that were not written.

use std::{sync::Arc, time::Duration};

use common::{env::Instant, panics};
use net::hostile::{Hostile, Method, Relay, peak_memory};
use serde::{Serialize, de::DeserializeOwned};
use types::{
    codec,
    rpc::{
        Rpc,
        storage::{QueryChunks, QueryChunksReply, QueryLastChunk, ReadChunks, UpdateChunks},
    },
    status::StatusCode,
    version::RoutingVersion,
};

use super::tests::{CHUNK, Fixture, INODE, NODES, map, pattern};

const ROUNDS: u64 = 150;
/// How long an operation may take in these tests.
const LIMIT: Duration = Duration::from_secs(2);
/// A client that believed what is announced would hold gigabytes.
const GROWTH_MAX: u64 = 512 << 20;

/// A reply of a method, distorted.
fn distorted<M: Rpc>(hostile: &Hostile, body: &[u8]) -> Vec<u8>
where
    M::Response: Serialize + DeserializeOwned,
{
    let rate = [30, 100, 300][usize::try_from(hostile.below(3)).unwrap()];
    match (codec::decode_body::<M::Response>(body), hostile.below(4)) {
        (Ok(reply), 1..) => hostile.nonsense(&reply, rate),
        _ => hostile.damaged(body),
    }
}

fn lie(hostile: &Hostile, method: Method, body: &[u8]) -> Vec<u8> {
    if method == Method::of::<UpdateChunks>() {
        distorted::<UpdateChunks>(hostile, body)
    } else if method == Method::of::<ReadChunks>() {
        distorted::<ReadChunks>(hostile, body)
    } else if method == Method::of::<QueryLastChunk>() {
        distorted::<QueryLastChunk>(hostile, body)
    } else {
        distorted::<QueryChunks>(hostile, body)
    }
}

/// A fixture whose nodes are reached through relays.
async fn relayed() -> (Fixture, Vec<Arc<Relay>>) {
    let fixture = Fixture::new(LIMIT).await;
    let mut newer = map(2, 1);
    let mut relays = Vec::new();
    for id in 1..=NODES {
        let relay = Relay::new(fixture.endpoint.clone(), &format!("mem://n{id}"));
        let address = format!("mem://relay{id}");
        let signal = fixture.shutdown.signal();
        let served = fixture
            .endpoint
            .serve(&address, relay.clone(), signal)
            .await;
        drop(served.unwrap());
        let node = newer.nodes.values_mut().find(|node| node.id.0 == id);
        node.unwrap().addresses = vec![address];
        relays.push(relay);
    }
    fixture.routing.offer(newer);
    (fixture, relays)
}

async fn in_time<T>(fixture: &Fixture, work: impl Future<Output = T>) -> T {
    let deadline: Instant = fixture.env.now() + LIMIT + Duration::from_secs(1);
    let done = fixture.env.timeout_at(deadline, work).await;
    let done = done.expect("an operation ends by its deadline");
    assert_eq!(panics::take(), Vec::<String>::new());
    done
}

#[tokio::test(start_paused = true)]
async fn nodes_that_answer_nonsense_cost_an_error_and_never_bytes_that_nobody_wrote() {
    panics::watch();
    let before = peak_memory();
    let (fixture, relays) = relayed().await;
    let content = pattern(CHUNK as usize + 5000);
    fixture.write(0, &content).await.unwrap();
    let hostile = Hostile::new(5);
    let (mut failed, mut served) = (0, 0);
    for round in 0..ROUNDS {
        for relay in &relays {
            let drawn = hostile.clone();
            relay.set(Some(Arc::new(move |method, body| {
                Ok(lie(&drawn, method, &body))
            })));
        }
        let offset = hostile.below(3000);
        let buf = fixture.pool.allocate_zeroed(CHUNK as usize);
        let reading = fixture.client.read(INODE, &fixture.layout, offset, buf);
        let (result, buf) = in_time(&fixture, reading).await;
        assert_eq!(buf.len(), CHUNK as usize);
        match result {
            Ok(()) => {
                served += 1;
                let expected = &content[usize::try_from(offset).unwrap()..];
                // A node can only make believe that a chunk is shorter, or not there.
                let same = |(read, written): (&u8, &u8)| read == written || *read == 0;
                assert!(buf.iter().zip(expected).all(same), "round {round}");
            }
            Err(status) => {
                failed += 1;
                assert!(!status.message.is_empty());
            }
        }
        let writing = fixture.write(CHUNK.into(), &content[CHUNK as usize..]);
        let _written = in_time(&fixture, writing).await;
        let asking = fixture.client.last_chunk(INODE, &fixture.layout);
        let _last = in_time(&fixture, asking).await;
    }
    assert!(
        failed > 10 && served > 10,
        "{failed} failed, {served} served"
    );
    for relay in &relays {
        relay.set(None);
    }
    assert_eq!(fixture.read(0, content.len()).await, content);
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lists_nothing_and_says_there_is_more_is_not_asked_for_ever() {
    let (fixture, relays) = relayed().await;
    for relay in &relays {
        relay.set(Some(Arc::new(|_, _| {
            Ok(codec::encode_body(&QueryChunksReply {
                indices: Vec::new(),
                next: Some(7),
            }))
        })));
    }
    let removing = fixture.client.remove_chunks(INODE, &fixture.layout, 0);
    let refused = in_time(&fixture, removing).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::Malformed, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_it_placed_less_than_its_chunk_holds_is_not_believed() {
    let (fixture, relays) = relayed().await;
    fixture.write(0, &pattern(9000)).await.unwrap();
    for relay in &relays {
        relay.set(Some(Arc::new(|_, body| {
            let mut reply: types::rpc::storage::ReadReply = codec::decode_body(&body).unwrap();
            if let Some(Ok(done)) = reply.results.first_mut() {
                done.length = 0;
                done.checksum = types::checksum::Checksum::of(&[]);
            }
            Ok(codec::encode_body(&reply))
        })));
    }
    let buf = fixture.pool.allocate_zeroed(9000);
    let reading = fixture.client.read(INODE, &fixture.layout, 0, buf);
    let (result, _) = in_time(&fixture, reading).await;
    assert_eq!(result.unwrap_err().code, StatusCode::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_map_that_makes_no_sense_is_an_error_and_the_next_one_is_taken() {
    panics::watch();
    let before = peak_memory();
    let fixture = Fixture::new(LIMIT).await;
    let content = pattern(5000);
    fixture.write(0, &content).await.unwrap();
    let hostile = Hostile::new(9);
    let mut taken = 0;
    for version in 2..ROUNDS + 2 {
        let rate = [5, 20, 100][usize::try_from(hostile.below(3)).unwrap()];
        let body = hostile.nonsense(&map(version, 1), rate);
        let Ok(mut nonsense) = codec::decode_body::<types::routing::RoutingInfo>(&body) else {
            continue;
        };
        nonsense.version = RoutingVersion(version);
        fixture.routing.offer(nonsense);
        fixture.routing.offer(map(1, 2));
        assert_eq!(fixture.routing.current().version, RoutingVersion(version));
        taken += 1;
        let buf = fixture.pool.allocate_zeroed(5000);
        let reading = fixture.client.read(INODE, &fixture.layout, 0, buf);
        let (result, buf) = in_time(&fixture, reading).await;
        // The fake nodes look at no version: whoever is found has the bytes.
        assert!(result.is_err() || buf[..] == content[..] || buf.iter().all(|byte| *byte == 0));
        let _written = in_time(&fixture, fixture.write(0, &content)).await;
        let asking = fixture.client.last_chunk(INODE, &fixture.layout);
        let _last = in_time(&fixture, asking).await;
        let removing = fixture.client.remove_chunks(INODE, &fixture.layout, 1000);
        let _removed = in_time(&fixture, removing).await;
    }
    assert!(taken > ROUNDS / 2, "{taken}");
    fixture.routing.offer(map(ROUNDS + 100, 1));
    fixture.write(0, &content).await.unwrap();
    assert_eq!(fixture.read(0, content.len()).await, content);
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}
