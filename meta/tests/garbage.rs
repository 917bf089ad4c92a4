//! Unlinked files: their data goes when nobody needs it any more, and not before (protocol N6).

use std::time::Duration;

use common::{shutdown::Shutdown, worker::Worker};
use meta::gc::{Collector, Patience};
use types::{
    id::{InodeId, SessionId},
    rpc::meta::{Hold, Rename, RenameMode, Unlink},
    status::StatusCode,
};

use crate::{
    check::{check, scan},
    support::{ROOT, World, rename, report, unlink},
};

/// A file of one chunk.
async fn file(world: &World, name: &str) -> InodeId {
    let file = world.file(ROOT, name).await;
    world.chunks.write(file.id, file.layout().unwrap(), 100);
    file.id
}

async fn is_gone(world: &World, inode: InodeId) -> bool {
    let gone = world.get(inode).await == Err(StatusCode::Stale);
    assert_eq!(gone, world.chunks.bytes_of(inode) == 0);
    gone
}

#[tokio::test]
async fn an_unlinked_file_is_collected() {
    let world = World::new().await;
    let unlinked = file(&world, "a").await;
    let replaced = file(&world, "b").await;
    let kept = file(&world, "c").await;
    world.unlink(ROOT, "a").await.unwrap();
    let moved = world.rename((ROOT, "c"), (ROOT, "b"), RenameMode::Replace);
    moved.await.unwrap();
    check(&*world.kv).await;
    world.collector().collect().await;
    assert!(is_gone(&world, unlinked).await);
    assert!(is_gone(&world, replaced).await);
    assert!(!is_gone(&world, kept).await);
    assert_eq!(scan(&*world.kv, b"GCQU").await.len(), 0);
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_file_open_for_writing_stays_until_its_last_close() {
    let world = World::new().await;
    let inode = file(&world, "a").await;
    let (first, opened) = world.open(inode).await.unwrap();
    let (second, _) = world.open(inode).await.unwrap();
    world.unlink(ROOT, "a").await.unwrap();
    let mut collector = world.collector();
    for (session, length) in [(first, Some(report(500, &opened))), (second, None)] {
        collector.collect().await;
        let unlinked = world.get(inode).await.unwrap();
        assert_eq!(unlinked.nlink, 0);
        check(&*world.kv).await;
        // Through /proc/self/fd it can even be opened once more.
        let (third, _) = world.open(inode).await.unwrap();
        world.close(inode, third, None).await.unwrap();
        world.close(inode, session, length).await.unwrap();
    }
    assert_eq!(world.open(inode).await.err(), Some(StatusCode::Stale));
    collector.collect().await;
    assert!(is_gone(&world, inode).await);
    let late = world.close(inode, second, None).await;
    assert_eq!(late, Err(StatusCode::Stale));
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_reader_holds_what_it_unlinks_or_replaces() {
    let world = World::new().await;
    let (unlinked, replaced) = (file(&world, "a").await, file(&world, "b").await);
    file(&world, "c").await;
    let hold = |inode, session| Some(Hold { inode, session });
    let mut request = unlink(ROOT, "a");
    request.hold = hold(unlinked, SessionId(1));
    world.run::<Unlink>(request).await.unwrap();
    let mut request = rename((ROOT, "c"), (ROOT, "b"), RenameMode::Replace);
    request.hold = hold(replaced, SessionId(2));
    world.run::<Rename>(request).await.unwrap();
    let mut collector = world.collector();
    for (inode, session) in [(unlinked, SessionId(1)), (replaced, SessionId(2))] {
        collector.collect().await;
        assert!(!is_gone(&world, inode).await);
        world.close(inode, session, None).await.unwrap();
        collector.collect().await;
        assert!(is_gone(&world, inode).await);
    }
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_hold_of_another_file_or_one_with_more_names_stores_nothing() {
    let world = World::new().await;
    file(&world, "a").await;
    let linked = file(&world, "b").await;
    let link = types::rpc::meta::LinkRequest {
        inode: linked,
        parent: ROOT,
        name: b"c".to_vec(),
    };
    world.run::<types::rpc::meta::Link>(link).await.unwrap();
    for name in ["a", "b"] {
        let mut request = unlink(ROOT, name);
        request.hold = Some(Hold {
            inode: linked,
            session: SessionId(3),
        });
        world.run::<Unlink>(request).await.unwrap();
    }
    assert_eq!(scan(&*world.kv, b"INOS").await.len(), 0);
    check(&*world.kv).await;
}

#[tokio::test(start_paused = true)]
async fn storage_that_is_away_delays_the_collection() {
    let world = World::new().await;
    let inode = file(&world, "a").await;
    world.unlink(ROOT, "a").await.unwrap();
    world.chunks.set_broken(true);
    let mut collector = world.collector();
    let wait = collector.collect().await;
    assert!(wait < Duration::from_secs(1), "{wait:?}");
    assert!(
        collector.status().contains("storage is away"),
        "{}",
        collector.status()
    );
    for _ in 0..20 {
        let wait = collector.collect().await;
        world.env.sleep(wait).await;
    }
    assert_eq!(world.get(inode).await.unwrap().nlink, 0);
    world.chunks.set_broken(false);
    world.env.sleep(Duration::from_secs(30)).await;
    collector.collect().await;
    assert!(is_gone(&world, inode).await);
    assert_eq!(collector.status(), "1 collected, 0 in the queue");
}

#[tokio::test(start_paused = true)]
async fn readers_elsewhere_get_a_grace_and_the_collector_wakes_by_itself() {
    let world = World::new().await;
    let shutdown = Shutdown::new();
    let patience = Patience {
        grace: Duration::from_secs(2),
        scan: Duration::from_secs(3600),
    };
    let collector = Collector::new(world.namespace.clone(), patience, shutdown.signal());
    let workers = common::worker::Workers::default();
    let task = workers.start(&world.env, shutdown.signal(), collector);
    // By now it waits for an hour.
    world.env.sleep(Duration::from_millis(10)).await;
    let inode = file(&world, "a").await;
    world.unlink(ROOT, "a").await.unwrap();
    world.env.sleep(Duration::from_millis(1900)).await;
    assert!(!is_gone(&world, inode).await);
    world.env.sleep(Duration::from_millis(200)).await;
    assert!(is_gone(&world, inode).await);
    shutdown.trigger();
    task.join().await;
}

#[tokio::test]
async fn many_files_are_collected_in_one_go() {
    let world = World::new().await;
    for number in 0..1000 {
        let name = format!("{number}");
        file(&world, &name).await;
        world.unlink(ROOT, &name).await.unwrap();
    }
    assert_eq!(world.chunks.count(), 1000);
    world.collector().collect().await;
    assert_eq!(world.chunks.count(), 0);
    assert_eq!(scan(&*world.kv, b"INOD").await.len(), 1);
    check(&*world.kv).await;
}
