//! Truncate: reading after it never sees old bytes, whoever crashes on the way (protocol L5).

use std::time::Duration;

use meta::{ops::Operation, store::inode};
use types::{
    inode::{Inode, InodeData},
    rpc::meta::{AttrChange, SetAttr},
    status::StatusCode,
    user::Identity,
};

use crate::{
    check::{check, scan},
    support::{CHUNK_SIZE, ROOT, World, code, create, report, set_attr, truncate_version},
};

const CHUNK: u64 = CHUNK_SIZE as u64;

/// A closed file of this length, with its bytes in chunks.
async fn written(world: &World, name: &str, length: u64) -> Inode {
    let session = world.session();
    let mut request = create(ROOT, name);
    request.session = Some(session);
    let file = world.create(request).await.unwrap().inode;
    world.chunks.write(file.id, file.layout().unwrap(), length);
    let length = Some(report(length, &file));
    world.close(file.id, session, length).await.unwrap()
}

fn length(length: u64) -> AttrChange {
    AttrChange {
        length: Some(length),
        ..AttrChange::default()
    }
}

/// The first step of a truncate, as if the server had died after it.
async fn begin(world: &World, file: &Inode, to: u64) {
    let caller = world.caller(&Identity::root());
    let begun = world
        .namespace
        .run::<SetAttr>(&caller, world.deadline(), &set_attr(file.id, length(to)))
        .await
        .unwrap();
    assert!(is_pending(&begun));
}

fn is_pending(inode: &Inode) -> bool {
    match inode.data {
        InodeData::File { truncating, .. } => truncating.is_some(),
        _ => false,
    }
}

#[tokio::test]
async fn shrinking_removes_chunks_and_cuts_the_boundary() {
    let world = World::new().await;
    for (from, to) in [
        (5 * CHUNK + 7, 2 * CHUNK + 100),
        (5 * CHUNK, 2 * CHUNK),
        (CHUNK, CHUNK - 1),
        (3 * CHUNK, 0),
    ] {
        let file = written(&world, "file", from).await;
        let cut = world.truncate(file.id, to).await.unwrap();
        assert_eq!((cut.length(), is_pending(&cut)), (to, false));
        assert!(truncate_version(&cut) > truncate_version(&file));
        assert_eq!(world.chunks.bytes_of(file.id), to);
        world.unlink(ROOT, "file").await.unwrap();
    }
    check(&*world.kv).await;
    assert_eq!(
        scan(&*world.kv, b"GCQU").await.len(),
        4,
        "only the unlinked"
    );
}

#[tokio::test]
async fn growing_touches_no_chunk_when_the_length_is_exact() {
    let world = World::new().await;
    let file = written(&world, "file", 100).await;
    world.chunks.set_broken(true);
    let grown = world.truncate(file.id, 10 * CHUNK).await.unwrap();
    assert_eq!(grown.length(), 10 * CHUNK);
    let same = world.truncate(file.id, 10 * CHUNK).await.unwrap();
    assert_eq!(truncate_version(&same), truncate_version(&grown));
    let too_long = world.truncate(file.id, 1 << 60).await;
    assert_eq!(too_long, Err(StatusCode::FileTooLarge));
}

#[tokio::test]
async fn bytes_that_nobody_reported_do_not_come_back() {
    let world = World::new().await;
    let file = world.file(ROOT, "file").await;
    let (session, _) = world.open(file.id).await.unwrap();
    world
        .chunks
        .write(file.id, file.layout().unwrap(), 5 * CHUNK);
    // The stored length is 0: by that this grows the file.
    let cut = world.truncate(file.id, CHUNK).await.unwrap();
    assert_eq!(cut.length(), CHUNK);
    assert_eq!(world.chunks.bytes_of(file.id), CHUNK);
    world.close(file.id, session, None).await.unwrap();
    check(&*world.kv).await;
}

#[tokio::test(start_paused = true)]
async fn a_truncate_that_a_crash_cut_short_is_finished_by_the_collector() {
    let world = World::new().await;
    let file = written(&world, "file", 3 * CHUNK).await;
    begin(&world, &file, 10).await;
    let before = world.get(file.id).await.unwrap();
    assert_eq!((before.length(), is_pending(&before)), (3 * CHUNK, false));
    check(&*world.kv).await;
    let mut collector = world.collector();
    collector.collect().await;
    assert_eq!(
        world.chunks.bytes_of(file.id),
        3 * CHUNK,
        "left to who began it"
    );
    world.env.sleep(Duration::from_secs(10)).await;
    collector.collect().await;
    assert_eq!(world.chunks.bytes_of(file.id), 10);
    assert_eq!(world.get(file.id).await.unwrap().length(), 10);
    assert_eq!(scan(&*world.kv, b"GCQU").await.len(), 0);
    check(&*world.kv).await;
}

#[tokio::test]
async fn who_needs_the_file_finishes_the_truncate_first() {
    let world = World::new().await;
    let file = written(&world, "opened", 3 * CHUNK).await;
    begin(&world, &file, 10).await;
    let (_, opened) = world.open(file.id).await.unwrap();
    assert_eq!(opened.length(), 10);
    assert_eq!(world.chunks.bytes_of(file.id), 10);

    let file = written(&world, "created", 3 * CHUNK).await;
    begin(&world, &file, 20).await;
    let mut request = create(ROOT, "created");
    request.session = Some(world.session());
    let reply = world.create(request).await.unwrap();
    assert_eq!((reply.created, reply.inode.length()), (false, 20));

    let file = written(&world, "truncated", 3 * CHUNK).await;
    begin(&world, &file, 30).await;
    let again = world.truncate(file.id, 40).await.unwrap();
    assert_eq!(again.length(), 40);
    assert_eq!(world.chunks.bytes_of(file.id), 30);

    let file = written(&world, "reported", 3 * CHUNK).await;
    let (session, opened) = world.open(file.id).await.unwrap();
    begin(&world, &file, 50).await;
    let length = Some(report(3 * CHUNK, &opened));
    let closed = world.close(file.id, session, length).await.unwrap();
    assert_eq!(closed.length(), 50);
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_retried_truncate_is_finished_and_not_begun_again() {
    let world = World::new().await;
    let file = written(&world, "file", 3 * CHUNK).await;
    let caller = world.caller(&Identity::root());
    let request = set_attr(file.id, length(10));
    world.chunks.set_broken(true);
    let run = || {
        world
            .namespace
            .set_attr(&caller, world.deadline(), &request)
    };
    assert_eq!(run().await.map_err(code), Err(StatusCode::Unreachable));
    world.chunks.set_broken(false);
    let cut = run().await.unwrap();
    assert_eq!((cut.length(), is_pending(&cut)), (10, false));
    let again = run().await.unwrap();
    assert_eq!(truncate_version(&again), truncate_version(&cut));
    assert_eq!(scan(&*world.kv, b"GCQU").await.len(), 0);
    check(&*world.kv).await;
}

#[tokio::test]
async fn the_version_seen_while_a_truncate_is_under_way_is_refused_afterwards() {
    let world = World::new().await;
    let file = written(&world, "file", 3 * CHUNK).await;
    let (session, _) = world.open(file.id).await.unwrap();
    begin(&world, &file, 10).await;
    let seen = world.get(file.id).await.unwrap();
    let sync = types::rpc::meta::SyncRequest {
        inode: file.id,
        session: Some(session),
        length: Some(report(3 * CHUNK, &seen)),
        durable: false,
    };
    let result = world.run::<types::rpc::meta::Sync>(sync).await;
    assert_eq!(result, Err(StatusCode::TruncateVersionMismatch));
    assert_eq!(world.get(file.id).await.unwrap().length(), 10);
}

#[tokio::test]
async fn an_intent_stays_until_storage_did_its_part() {
    let world = World::new().await;
    let file = written(&world, "file", 3 * CHUNK).await;
    world.chunks.set_broken(true);
    let result = world.truncate(file.id, 0).await;
    assert_eq!(result, Err(StatusCode::Unreachable));
    let stored = inode::load(&mut *world.kv.begin(), file.id, kv::ReadMode::Snapshot).await;
    assert!(is_pending(&stored.unwrap().unwrap()));
    assert_eq!(
        world.open(file.id).await.err(),
        Some(StatusCode::Unreachable)
    );
    world.chunks.set_broken(false);
    assert_eq!(world.open(file.id).await.unwrap().1.length(), 0);
    const { assert!(SetAttr::RECORDED) };
}
