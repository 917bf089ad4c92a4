//! Names: what POSIX says each operation answers.

use types::{
    id::InodeId,
    inode::{FileKind, InodeData},
    rpc::meta::{
        Link, LinkRequest, Mkdir, MkdirRequest, Open, OpenRequest, ReadDir, ReadDirRequest, Rmdir,
        SetTime, Symlink, SymlinkRequest,
    },
    status::StatusCode,
    user::Identity,
};

use crate::{
    check::check,
    support::{ROOT, World, create, named, set_attr},
};

#[tokio::test]
async fn a_new_namespace_has_a_root_of_its_own() {
    let world = World::new().await;
    let root = world.get(ROOT).await.unwrap();
    assert_eq!(
        (root.uid, root.gid, root.mode, root.nlink),
        (0, 0, 0o755, 1)
    );
    let InodeData::Directory { parent, .. } = root.data else {
        panic!("the root is no directory");
    };
    assert_eq!(parent, ROOT);
    assert_eq!(world.names(ROOT).await, [""; 0]);
    meta::bootstrap::ensure_root(&world.env, &*world.kv)
        .await
        .unwrap();
    check(&*world.kv).await;
}

#[tokio::test]
async fn created_names_lead_to_their_inodes() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let file = world.file(dir, "file").await;
    assert_eq!(world.lookup(dir, "file").await, Ok(file.clone()));
    assert_eq!(world.get(file.id).await, Ok(file.clone()));
    assert_eq!((file.nlink, file.mode, file.length()), (1, 0o644, 0));
    assert_eq!(file.layout().unwrap().stripe_size, 3);
    let again = world.create(create(dir, "file")).await.unwrap();
    assert_eq!((again.created, again.inode), (false, file));
    assert_eq!(world.names(dir).await, ["file"]);
    assert_eq!(world.list(dir).await.unwrap().parent, ROOT);
    check(&*world.kv).await;
}

#[tokio::test]
async fn creating_over_something_else_fails() {
    let world = World::new().await;
    world.mkdir(ROOT, "dir").await;
    let file = world.file(ROOT, "file").await.id;
    let exclusive = |name| {
        let mut request = create(ROOT, name);
        request.exclusive = true;
        request
    };
    for name in ["dir", "file"] {
        let result = world.create(exclusive(name)).await;
        assert_eq!(result, Err(StatusCode::Exists));
        let mkdir = MkdirRequest {
            parent: ROOT,
            name: name.into(),
            mode: 0o755,
        };
        assert_eq!(world.run::<Mkdir>(mkdir).await, Err(StatusCode::Exists));
    }
    let over_directory = world.create(create(ROOT, "dir")).await;
    assert_eq!(over_directory, Err(StatusCode::IsDirectory));
    let below_file = world.create(create(file, "x")).await;
    assert_eq!(below_file, Err(StatusCode::NotDirectory));
    let nowhere = world.create(create(InodeId(999), "x")).await;
    assert_eq!(nowhere, Err(StatusCode::Stale));
    assert_eq!(world.lookup(ROOT, "x").await, Err(StatusCode::NotFound));
    assert_eq!(world.lookup(file, "x").await, Err(StatusCode::NotDirectory));
    check(&*world.kv).await;
}

#[tokio::test]
async fn names_that_linux_refuses_are_refused() {
    let world = World::new().await;
    let long = "x".repeat(256);
    for (name, expected) in [
        (long.as_str(), StatusCode::NameTooLong),
        ("", StatusCode::InvalidArgument),
        (".", StatusCode::InvalidArgument),
        ("..", StatusCode::InvalidArgument),
        ("a/b", StatusCode::InvalidArgument),
    ] {
        assert_eq!(world.create(create(ROOT, name)).await, Err(expected));
        assert_eq!(world.lookup(ROOT, name).await, Err(expected));
        assert_eq!(world.unlink(ROOT, name).await, Err(expected));
        let rmdir = world.run::<Rmdir>(named(ROOT, name)).await;
        assert_eq!(rmdir, Err(expected));
    }
    world.file(ROOT, &"y".repeat(255)).await;
}

#[tokio::test]
async fn a_symlink_keeps_its_target() {
    let world = World::new().await;
    let symlink = |target: Vec<u8>| SymlinkRequest {
        parent: ROOT,
        name: b"link".to_vec(),
        target,
    };
    for (target, expected) in [
        (Vec::new(), StatusCode::InvalidArgument),
        (b"a\0b".to_vec(), StatusCode::InvalidArgument),
        (vec![b'x'; 4096], StatusCode::NameTooLong),
    ] {
        let result = world.run::<Symlink>(symlink(target)).await;
        assert_eq!(result, Err(expected));
    }
    let target = vec![b'x'; 4095];
    let made = world.run::<Symlink>(symlink(target.clone())).await.unwrap();
    assert_eq!((made.mode, made.length()), (0o777, 4095));
    assert_eq!(made.data, InodeData::Symlink { target });
    assert_eq!(world.lookup(ROOT, "link").await, Ok(made.clone()));
    // Whoever wanted to make a file there walks the path again, through the link.
    let over = world.create(create(ROOT, "link")).await;
    assert_eq!(over, Err(StatusCode::Stale));
    world.unlink(ROOT, "link").await.unwrap();
    assert_eq!(world.get(made.id).await, Err(StatusCode::Stale));
    check(&*world.kv).await;
}

#[tokio::test]
async fn links_count_and_the_last_one_counts() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await.id;
    let dir = world.mkdir(ROOT, "dir").await;
    let link = |inode, parent, name: &str| LinkRequest {
        inode,
        parent,
        name: name.into(),
    };
    let linked = world.run::<Link>(link(file, dir, "b")).await.unwrap();
    assert_eq!(linked.nlink, 2);
    for (request, expected) in [
        (link(file, dir, "b"), StatusCode::Exists),
        (link(dir, ROOT, "c"), StatusCode::NotPermitted),
        (link(InodeId(999), ROOT, "c"), StatusCode::Stale),
        (link(file, file, "c"), StatusCode::NotDirectory),
    ] {
        assert_eq!(world.run::<Link>(request).await, Err(expected));
    }
    world.unlink(ROOT, "a").await.unwrap();
    assert_eq!(world.get(file).await.unwrap().nlink, 1);
    world.unlink(dir, "b").await.unwrap();
    assert_eq!(world.get(file).await.unwrap().nlink, 0);
    let late = world.run::<Link>(link(file, ROOT, "c")).await;
    assert_eq!(late, Err(StatusCode::NotFound));
    check(&*world.kv).await;
}

#[tokio::test]
async fn directories_and_files_are_removed_by_their_own_calls() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    world.file(ROOT, "file").await;
    world.mkdir(dir, "below").await;
    let rmdir = async |parent, name| world.run::<Rmdir>(named(parent, name)).await;
    assert_eq!(
        world.unlink(ROOT, "dir").await,
        Err(StatusCode::IsDirectory)
    );
    assert_eq!(rmdir(ROOT, "file").await, Err(StatusCode::NotDirectory));
    assert_eq!(rmdir(ROOT, "none").await, Err(StatusCode::NotFound));
    assert_eq!(world.unlink(ROOT, "none").await, Err(StatusCode::NotFound));
    assert_eq!(rmdir(ROOT, "dir").await, Err(StatusCode::NotEmpty));
    assert_eq!(rmdir(dir, "below").await, Ok(()));
    assert_eq!(rmdir(ROOT, "dir").await, Ok(()));
    assert_eq!(world.get(dir).await, Err(StatusCode::Stale));
    let gone = world.create(create(dir, "x")).await;
    assert_eq!(gone, Err(StatusCode::Stale));
    check(&*world.kv).await;
}

#[tokio::test]
async fn opening_checks_the_kind() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    assert_eq!(world.open(dir).await, Err(StatusCode::IsDirectory));
    let read = OpenRequest {
        inode: dir,
        read: true,
        session: None,
    };
    let opened = world.run::<Open>(read).await.unwrap();
    assert_eq!(opened.kind(), FileKind::Directory);
    assert_eq!(world.open(InodeId(999)).await, Err(StatusCode::Stale));
    assert_eq!(world.truncate(dir, 0).await, Err(StatusCode::IsDirectory));
}

#[tokio::test]
async fn a_long_directory_is_listed_in_pages_while_it_changes() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    for number in 0..50 {
        world.file(dir, &format!("{number:03}")).await;
    }
    let mut seen = Vec::new();
    let mut after = Vec::new();
    loop {
        let request = ReadDirRequest {
            inode: dir,
            after: after.clone(),
            limit: 7,
            attributes: seen.len() % 2 == 0,
        };
        let with_inodes = request.attributes;
        let page = world.run::<ReadDir>(request).await.unwrap();
        assert!(page.entries.len() <= 7);
        for entry in &page.entries {
            assert_eq!(entry.inode.is_some(), with_inodes);
            seen.push(String::from_utf8(entry.name.clone()).unwrap());
        }
        if !page.more {
            break;
        }
        after = page.entries.last().unwrap().name.clone();
        // What was listed already may go; what lies ahead may come.
        world.unlink(dir, seen.last().unwrap()).await.unwrap();
        world.file(dir, &format!("{}x", seen.last().unwrap())).await;
    }
    let originals: Vec<_> = seen.iter().filter(|name| name.len() == 3).collect();
    let expected: Vec<_> = (0..50).map(|number| format!("{number:03}")).collect();
    assert!(originals.into_iter().eq(&expected));
    let file = world.file(ROOT, "file").await.id;
    assert_eq!(world.list(file).await, Err(StatusCode::NotDirectory));
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_directory_change_its_times_only() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let made = world.get(dir).await.unwrap().times;
    let pause = async || {
        world.env.sleep(std::time::Duration::from_secs(1)).await;
        world.env.wall().0
    };
    let created_at = pause().await;
    world.file(dir, "file").await;
    let times = world.get(dir).await.unwrap().times;
    assert_eq!((times.mtime_ns, times.ctime_ns), (created_at, created_at));
    assert_eq!(
        (times.atime_ns, times.btime_ns),
        (made.atime_ns, made.btime_ns)
    );
    // utimensat beats what was before, and loses to what comes after.
    let set_at = pause().await;
    let change = types::rpc::meta::AttrChange {
        mtime: Some(SetTime::At(5)),
        ..Default::default()
    };
    let set = world
        .set_attr(&Identity::root(), set_attr(dir, change))
        .await
        .unwrap();
    assert_eq!((set.times.mtime_ns, set.times.ctime_ns), (5, set_at));
    assert_eq!(world.get(dir).await.unwrap(), set);
    let removed_at = pause().await;
    world.unlink(dir, "file").await.unwrap();
    assert_eq!(world.get(dir).await.unwrap().times.mtime_ns, removed_at);
    assert_eq!(world.lookup(ROOT, "dir").await, world.get(dir).await);
}

#[tokio::test]
async fn without_chains_files_cannot_be_made_but_directories_can() {
    let world = World::new().await;
    *world.cluster.routing.lock() = Default::default();
    let result = world.create(create(ROOT, "file")).await;
    assert_eq!(result, Err(StatusCode::NoChains));
    world.mkdir(ROOT, "dir").await;
    check(&*world.kv).await;
}

#[tokio::test]
async fn statfs_counts_usable_bytes_and_inodes() {
    let world = World::new().await;
    *world.cluster.space.lock() = types::rpc::mgmtd::SpaceReply {
        capacity_bytes: 3000,
        used_bytes: 600,
        replicas: 3,
        ..Default::default()
    };
    world.file(ROOT, "file").await;
    world.mkdir(ROOT, "dir").await;
    world.run::<Rmdir>(named(ROOT, "dir")).await.unwrap();
    let caller = world.caller(&Identity::root());
    let reply = world
        .namespace
        .stat_fs(&caller, world.deadline())
        .await
        .unwrap();
    assert_eq!((reply.capacity_bytes, reply.free_bytes), (1000, 800));
    assert_eq!(reply.inode_count, 2);
}
