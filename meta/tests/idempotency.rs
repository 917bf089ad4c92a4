//! Retries: the same request twice changes things once and is answered alike (protocol N2), also when the
//! store did not say whether a commit took place.

use std::time::Duration;

use meta::{ops::Operation, prune};
use types::{
    rpc::{
        Caller,
        meta::{
            AttrChange, Create, Link, LinkRequest, Mkdir, MkdirRequest, Rename, RenameMode, Rmdir,
            SetAttr, Symlink, SymlinkRequest, Unlink,
        },
    },
    status::StatusCode,
    user::Identity,
};

use crate::{
    check::{check, scan},
    flaky::FlakyKv,
    support::{ROOT, World, code, create, named, rename, set_attr, unlink},
};

/// Runs a request twice as a retry; both answers must be alike.
async fn twice<M>(world: &World, request: M::Request) -> M::Response
where
    M: Operation,
    M::Response: PartialEq + std::fmt::Debug,
{
    let caller = world.caller(&Identity::root());
    let run = || {
        world
            .namespace
            .run::<M>(&caller, world.deadline(), &request)
    };
    let first = run().await.unwrap();
    assert_eq!(run().await.as_ref(), Ok(&first));
    first
}

#[tokio::test(start_paused = true)]
async fn every_recorded_operation_answers_a_retry_alike() {
    let world = World::new().await;
    let mkdir = MkdirRequest {
        parent: ROOT,
        name: b"dir".to_vec(),
        mode: 0o755,
    };
    let dir = twice::<Mkdir>(&world, mkdir).await.id;
    let mut exclusive = create(dir, "file");
    exclusive.exclusive = true;
    let made = twice::<Create>(&world, exclusive).await;
    assert!(made.created);
    let symlink = SymlinkRequest {
        parent: dir,
        name: b"symlink".to_vec(),
        target: b"x".to_vec(),
    };
    twice::<Symlink>(&world, symlink).await;
    let link = LinkRequest {
        inode: made.inode.id,
        parent: dir,
        name: b"link".to_vec(),
    };
    assert_eq!(twice::<Link>(&world, link).await.nlink, 2);
    let moved = rename((dir, "file"), (dir, "moved"), RenameMode::NoReplace);
    twice::<Rename>(&world, moved).await;
    let exchange = rename((dir, "moved"), (dir, "symlink"), RenameMode::Exchange);
    twice::<Rename>(&world, exchange).await;
    let file = world.lookup(dir, "symlink").await.unwrap();
    assert_eq!(file.id, made.inode.id, "exchanged once, not back again");
    let change = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    twice::<SetAttr>(&world, set_attr(file.id, change)).await;
    for name in ["moved", "symlink", "link"] {
        twice::<Unlink>(&world, unlink(dir, name)).await;
    }
    twice::<Rmdir>(&world, named(ROOT, "dir")).await;
    assert_eq!(world.names(ROOT).await, [""; 0]);
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let world = World::new().await;
    let caller = world.caller(&Identity::root());
    let request = unlink(ROOT, "file");
    let run = || {
        world
            .namespace
            .run::<Unlink>(&caller, world.deadline(), &request)
    };
    assert_eq!(run().await.map_err(code), Err(StatusCode::NotFound));
    world.file(ROOT, "file").await;
    assert_eq!(run().await.map_err(code), Ok(()));
    world.file(ROOT, "file").await;
    assert_eq!(run().await.map_err(code), Ok(()));
    assert_eq!(world.names(ROOT).await, ["file"]);
}

#[tokio::test]
async fn another_client_with_the_same_number_is_another_request() {
    let world = World::new().await;
    let caller = world.caller(&Identity::root());
    let other = Caller {
        client: types::id::ClientId(5),
        ..caller.clone()
    };
    let request = MkdirRequest {
        parent: ROOT,
        name: b"dir".to_vec(),
        mode: 0o755,
    };
    let run = |caller: Caller| {
        let (world, request) = (&world, &request);
        async move {
            let namespace = &world.namespace;
            namespace
                .run::<Mkdir>(&caller, world.deadline(), request)
                .await
        }
    };
    assert!(run(caller).await.is_ok());
    assert_eq!(run(other).await.map_err(code), Err(StatusCode::Exists));
}

#[tokio::test(start_paused = true)]
async fn commits_of_unknown_outcome_take_effect_once() {
    let kv = FlakyKv::new();
    let world = World::on(kv.clone()).await;
    kv.set(30, 20);
    let dir = world.mkdir(ROOT, "dir").await;
    for number in 0..200 {
        let name = format!("f{number}");
        let mut exclusive = create(dir, &name);
        exclusive.exclusive = true;
        assert!(world.create(exclusive).await.unwrap().created, "{name}");
        match number % 3 {
            0 => assert_eq!(world.unlink(dir, &name).await, Ok(())),
            1 => {
                let to = format!("g{number}");
                let moved = world.rename((dir, &name), (dir, &to), RenameMode::NoReplace);
                assert_eq!(moved.await, Ok(()));
            }
            _ => {
                let inode = world.lookup(dir, &name).await.unwrap().id;
                let (session, opened) = world.open(inode).await.unwrap();
                let report = crate::support::report(10, &opened);
                let closed = world.close(inode, session, Some(report)).await.unwrap();
                assert_eq!(closed.length(), 10);
                assert_eq!(world.truncate(inode, 3).await.unwrap().length(), 3);
            }
        }
    }
    assert!(kv.injected() > 200);
    assert_eq!(world.names(dir).await.len(), 133);
    world.collector().collect().await;
    world.env.sleep(Duration::from_secs(60)).await;
    world.collector().collect().await;
    kv.set(0, 0);
    check(&*world.kv).await;
    assert_eq!(scan(&*world.kv, b"GCQU").await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn stored_results_are_forgotten_after_half_an_hour() {
    let world = World::new().await;
    let mut pruner = prune::ResultPruner::new(world.namespace.clone());
    world.mkdir(ROOT, "old").await;
    world.env.sleep(prune::RESULT_KEPT / 2).await;
    world.mkdir(ROOT, "young").await;
    assert_eq!(pruner.prune().await, Ok(0));
    world
        .env
        .sleep(prune::RESULT_KEPT / 2 + Duration::from_secs(1))
        .await;
    assert_eq!(pruner.prune().await, Ok(1));
    assert_eq!(scan(&*world.kv, b"IDEM").await.len(), 1);
    check(&*world.kv).await;
}
