//! rename: POSIX, NOREPLACE, EXCHANGE, and no circles.

use types::{
    inode::InodeData,
    rpc::meta::{
        Link, LinkRequest,
        RenameMode::{Exchange, NoReplace, Replace},
    },
    status::StatusCode,
};

use crate::{
    check::check,
    support::{ROOT, World},
};

#[tokio::test]
async fn a_file_moves_and_replaces() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let a = world.file(ROOT, "a").await.id;
    let b = world.file(dir, "b").await.id;
    assert_eq!(
        world.rename((ROOT, "a"), (ROOT, "a2"), Replace).await,
        Ok(())
    );
    assert_eq!(
        world.rename((ROOT, "a2"), (dir, "b"), Replace).await,
        Ok(())
    );
    assert_eq!(world.lookup(dir, "b").await.unwrap().id, a);
    assert_eq!(world.get(b).await.unwrap().nlink, 0);
    assert_eq!(world.names(ROOT).await, ["dir"]);
    let missing = world.rename((ROOT, "a"), (ROOT, "c"), Replace).await;
    assert_eq!(missing, Err(StatusCode::NotFound));
    check(&*world.kv).await;
}

#[tokio::test]
async fn two_names_of_one_file_stay_both() {
    let world = World::new().await;
    let inode = world.file(ROOT, "a").await.id;
    let link = LinkRequest {
        inode,
        parent: ROOT,
        name: b"b".to_vec(),
    };
    world.run::<Link>(link).await.unwrap();
    for mode in [Replace, Exchange] {
        assert_eq!(world.rename((ROOT, "a"), (ROOT, "b"), mode).await, Ok(()));
        assert_eq!(world.rename((ROOT, "a"), (ROOT, "a"), mode).await, Ok(()));
    }
    let refused = world.rename((ROOT, "a"), (ROOT, "b"), NoReplace).await;
    assert_eq!(refused, Err(StatusCode::Exists));
    assert_eq!(world.names(ROOT).await, ["a", "b"]);
    assert_eq!(world.get(inode).await.unwrap().nlink, 2);
    check(&*world.kv).await;
}

#[tokio::test]
async fn kinds_must_match_and_replaced_directories_be_empty() {
    let world = World::new().await;
    let full = world.mkdir(ROOT, "full").await;
    world.file(full, "x").await;
    let empty = world.mkdir(ROOT, "empty").await;
    world.file(ROOT, "file").await;
    let rename = async |from, to| world.rename((ROOT, from), (ROOT, to), Replace).await;
    assert_eq!(rename("file", "empty").await, Err(StatusCode::IsDirectory));
    assert_eq!(rename("empty", "file").await, Err(StatusCode::NotDirectory));
    assert_eq!(rename("empty", "full").await, Err(StatusCode::NotEmpty));
    assert_eq!(rename("full", "empty").await, Ok(()));
    assert_eq!(world.get(empty).await, Err(StatusCode::Stale));
    assert_eq!(world.lookup(ROOT, "empty").await.unwrap().id, full);
    check(&*world.kv).await;
}

#[tokio::test]
async fn noreplace_leaves_what_is_there() {
    let world = World::new().await;
    world.file(ROOT, "a").await;
    world.file(ROOT, "b").await;
    let refused = world.rename((ROOT, "a"), (ROOT, "b"), NoReplace).await;
    assert_eq!(refused, Err(StatusCode::Exists));
    assert_eq!(
        world.rename((ROOT, "a"), (ROOT, "c"), NoReplace).await,
        Ok(())
    );
    assert_eq!(world.names(ROOT).await, ["b", "c"]);
}

#[tokio::test]
async fn exchange_swaps_files_and_directories() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let below = world.mkdir(dir, "below").await;
    let file = world.file(ROOT, "file").await.id;
    let missing = world.rename((ROOT, "file"), (ROOT, "none"), Exchange).await;
    assert_eq!(missing, Err(StatusCode::NotFound));
    let swapped = world.rename((ROOT, "file"), (dir, "below"), Exchange).await;
    assert_eq!(swapped, Ok(()));
    assert_eq!(world.lookup(dir, "below").await.unwrap().id, file);
    let moved = world.lookup(ROOT, "file").await.unwrap();
    assert_eq!(moved.id, below);
    let InodeData::Directory { parent, .. } = moved.data else {
        panic!("the directory became something else");
    };
    assert_eq!(parent, ROOT);
    check(&*world.kv).await;
}

#[tokio::test]
async fn a_directory_never_comes_to_lie_under_itself() {
    let world = World::new().await;
    let a = world.mkdir(ROOT, "a").await;
    let b = world.mkdir(a, "b").await;
    let c = world.mkdir(b, "c").await;
    let circles = [
        ((ROOT, "a"), (a, "x")),
        ((ROOT, "a"), (b, "x")),
        ((ROOT, "a"), (c, "x")),
    ];
    for (from, to) in circles {
        for mode in [Replace, NoReplace] {
            let result = world.rename(from, to, mode).await;
            assert_eq!(result, Err(StatusCode::InvalidArgument));
        }
    }
    for (from, to) in [((ROOT, "a"), (b, "c")), ((b, "c"), (ROOT, "a"))] {
        let result = world.rename(from, to, Exchange).await;
        assert_eq!(result, Err(StatusCode::InvalidArgument));
    }
    let over_ancestor = world.rename((b, "c"), (ROOT, "a"), Replace).await;
    assert_eq!(over_ancestor, Err(StatusCode::NotEmpty));
    assert_eq!(world.rename((b, "c"), (ROOT, "c"), Replace).await, Ok(()));
    assert_eq!(world.rename((ROOT, "a"), (c, "a"), Replace).await, Ok(()));
    check(&*world.kv).await;
}
