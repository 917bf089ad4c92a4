//! Write sessions and lengths (protocol L1 to L4, M7).

use std::time::Duration;

use meta::prune::SessionPruner;
use types::{
    id::{InodeId, SessionId},
    inode::Inode,
    rpc::meta::{LengthReport, Sync, SyncRequest},
    status::StatusCode,
    user::Identity,
};

use crate::{
    check::{check, scan},
    support::{CLIENT, ROOT, World, create, report, truncate_version},
};

async fn sync(
    world: &World,
    inode: InodeId,
    session: SessionId,
    length: LengthReport,
) -> Result<Inode, StatusCode> {
    let request = SyncRequest {
        inode,
        session: Some(session),
        length: Some(length),
        durable: false,
    };
    world.run::<Sync>(request).await
}

#[tokio::test]
async fn reports_raise_the_length_and_never_lower_it() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    let (session, opened) = world.open(file.id).await.unwrap();
    let synced = sync(&world, file.id, session, report(100, &opened)).await;
    assert_eq!(synced.unwrap().length(), 100);
    let lower = sync(&world, file.id, session, report(40, &opened)).await;
    assert_eq!(lower.unwrap().length(), 100);
    let closed = world
        .close(file.id, session, Some(report(120, &opened)))
        .await
        .unwrap();
    assert_eq!(closed.length(), 120);
    assert_eq!(scan(&*world.kv, b"INOS").await.len(), 0);
    let too_long = sync(&world, file.id, session, report(u64::MAX, &opened)).await;
    assert_eq!(too_long, Err(StatusCode::FileTooLarge));
    check(&*world.kv).await;
}

#[tokio::test(start_paused = true)]
async fn only_a_close_that_wrote_changes_the_times() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    let pause = async || world.env.sleep(Duration::from_secs(1)).await;
    let (session, opened) = world.open(file.id).await.unwrap();
    pause().await;
    let closed = world.close(file.id, session, None).await.unwrap();
    assert_eq!(closed, file);
    let (session, _) = world.open(file.id).await.unwrap();
    pause().await;
    let length = Some(report(5, &opened));
    let written = world.close(file.id, session, length).await.unwrap();
    assert_eq!(written.times.mtime_ns, world.env.wall().0);
    assert_eq!(written.times.ctime_ns, world.env.wall().0);
    // A retry whose first answer was lost.
    pause().await;
    let again = world.close(file.id, session, length).await.unwrap();
    assert_eq!(again, written);
}

#[tokio::test]
async fn create_opens_at_once_what_it_made_or_found() {
    let world = World::new().await;
    for created in [true, false] {
        let session = world.session();
        let mut request = create(ROOT, "a");
        request.session = Some(session);
        let reply = world.create(request).await.unwrap();
        assert_eq!(reply.created, created);
        let length = Some(report(9, &reply.inode));
        let closed = world.close(reply.inode.id, session, length).await.unwrap();
        assert_eq!(closed.length(), 9);
    }
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_report_from_before_a_truncate_is_refused_and_the_chains_are_asked_at_the_end() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    let layout = file.layout().unwrap().clone();
    let (session, opened) = world.open(file.id).await.unwrap();
    let (other, _) = world.open(file.id).await.unwrap();
    world.chunks.write(file.id, &layout, 200_000);
    let cut = world.truncate(file.id, 1000).await.unwrap();
    assert!(truncate_version(&cut) > truncate_version(&opened));
    assert_eq!(world.chunks.bytes_of(file.id), 1000);
    let stale = sync(&world, file.id, session, report(200_000, &opened)).await;
    assert_eq!(stale, Err(StatusCode::TruncateVersionMismatch));
    // It writes on without having looked at the file again.
    world.chunks.write(file.id, &layout, 3000);
    let length = Some(report(200_000, &opened));
    let closed = world.close(file.id, session, length).await.unwrap();
    assert_eq!(
        closed.length(),
        1000,
        "a lower bound while `other` has it open"
    );
    let closed = world.close(file.id, other, None).await.unwrap();
    assert_eq!(closed.length(), 3000);
    assert_eq!(scan(&*world.kv, b"UNRP").await.len(), 0);
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_close_waits_for_chains_that_must_be_asked() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    let (session, opened) = world.open(file.id).await.unwrap();
    world.truncate(file.id, 10).await.unwrap();
    world.chunks.set_broken(true);
    let length = Some(report(10, &opened));
    let failed = world.close(file.id, session, length).await;
    assert_eq!(failed, Err(StatusCode::Unreachable));
    assert_eq!(
        scan(&*world.kv, b"INOS").await.len(),
        1,
        "it can be closed later"
    );
    world.chunks.set_broken(false);
    let closed = world.close(file.id, session, length).await.unwrap();
    assert_eq!(closed.length(), 10);
    check(&*world.kv).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_of_clients_that_are_gone_end_and_the_chains_say_the_length() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    world.open(file.id).await.unwrap();
    let layout = file.layout().unwrap();
    world.chunks.write(file.id, layout, 70_000);
    let mut pruner = SessionPruner::new(world.namespace.clone());
    *world.cluster.clients.lock() = vec![CLIENT];
    let seconds = async |seconds| world.env.sleep(Duration::from_secs(seconds)).await;
    pruner.prune().await.unwrap();
    seconds(100).await;
    pruner.prune().await.unwrap();
    assert_eq!(scan(&*world.kv, b"INOS").await.len(), 1, "it lives");
    // Missing for a moment, for example from the list of a new leader.
    world.cluster.clients.lock().clear();
    pruner.prune().await.unwrap();
    seconds(59).await;
    world.cluster.clients.lock().push(CLIENT);
    pruner.prune().await.unwrap();
    world.cluster.clients.lock().clear();
    seconds(59).await;
    pruner.prune().await.unwrap();
    assert_eq!(scan(&*world.kv, b"INOS").await.len(), 1, "it came back");
    seconds(60).await;
    pruner.prune().await.unwrap();
    assert_eq!(scan(&*world.kv, b"INOS").await.len(), 0);
    assert_eq!(world.get(file.id).await.unwrap().length(), 70_000);
    check(&*world.kv).await;
}

#[tokio::test]
async fn fsync_waits_for_the_store_and_works_on_directories() {
    let world = World::new().await;
    let caller = world.caller(&Identity::root());
    let request = SyncRequest {
        inode: ROOT,
        session: None,
        length: None,
        durable: true,
    };
    let synced = world
        .namespace
        .sync(&caller, world.deadline(), &request)
        .await
        .unwrap();
    assert_eq!(synced.id, ROOT);
}
