//! Who may do what, through the operations (the rules themselves are tested in `permission`).

use types::{
    rpc::meta::{
        AttrChange, Create, Lookup, Mkdir, MkdirRequest, Open, OpenRequest, ReadDir,
        ReadDirRequest, Rename, RenameMode, Rmdir, SetTime, Unlink,
    },
    status::StatusCode,
    user::Identity,
};

use crate::support::{ROOT, World, create, named, rename, report, set_attr, unlink, user};

const ALICE: u32 = 10;
const BOB: u32 = 20;

/// A directory of Alice's with this mode, and a file of hers in it.
async fn alices(mode: u32) -> (World, types::id::InodeId, types::id::InodeId) {
    let world = World::new().await;
    let open = AttrChange {
        mode: Some(0o1777),
        ..AttrChange::default()
    };
    let who = Identity::root();
    world.set_attr(&who, set_attr(ROOT, open)).await.unwrap();
    let dir = world.mkdir_as(&user(ALICE), ROOT, "dir", 0o777).await;
    let file = world
        .run_as::<Create>(&user(ALICE), create(dir, "file"))
        .await
        .unwrap();
    let change = AttrChange {
        mode: Some(mode),
        ..AttrChange::default()
    };
    world
        .set_attr(&user(ALICE), set_attr(dir, change))
        .await
        .unwrap();
    (world, dir, file.inode.id)
}

#[tokio::test]
async fn without_search_permission_nothing_is_found() {
    let (world, dir, _) = alices(0o744).await;
    let bob = user(BOB);
    let denied = Some(StatusCode::AccessDenied);
    let lookup = world.run_as::<Lookup>(&bob, named(dir, "file")).await;
    assert_eq!(lookup.err(), denied);
    let missing = world.run_as::<Lookup>(&bob, named(dir, "none")).await;
    assert_eq!(missing.err(), denied);
    let unlinked = world.run_as::<Unlink>(&bob, unlink(dir, "file")).await;
    assert_eq!(unlinked.err(), denied);
    let list = ReadDirRequest {
        inode: dir,
        after: Vec::new(),
        limit: 10,
        attributes: false,
    };
    assert!(world.run_as::<ReadDir>(&bob, list).await.is_ok());
}

#[tokio::test]
async fn without_write_permission_names_stay() {
    let (world, dir, _) = alices(0o755).await;
    let bob = user(BOB);
    let denied = Some(StatusCode::AccessDenied);
    let create_new = world.run_as::<Create>(&bob, create(dir, "new")).await;
    assert_eq!(create_new.err(), denied);
    let unlinked = world.run_as::<Unlink>(&bob, unlink(dir, "file")).await;
    assert_eq!(unlinked.err(), denied);
    let renamed = world
        .run_as::<Rename>(
            &bob,
            rename((dir, "file"), (ROOT, "mine"), RenameMode::Replace),
        )
        .await;
    assert_eq!(renamed.err(), denied);
    // What exists is told before what is forbidden, as Linux does.
    let mkdir = MkdirRequest {
        parent: dir,
        name: b"file".to_vec(),
        mode: 0o755,
    };
    let exists = world.run_as::<Mkdir>(&bob, mkdir).await;
    assert_eq!(exists.err(), Some(StatusCode::Exists));
}

#[tokio::test]
async fn in_a_sticky_directory_others_names_stay() {
    let (world, dir, _) = alices(0o1777).await;
    let bob = user(BOB);
    let denied = Some(StatusCode::NotPermitted);
    let unlinked = world.run_as::<Unlink>(&bob, unlink(dir, "file")).await;
    assert_eq!(unlinked.err(), denied);
    // The root directory is sticky too, and "dir" belongs to Alice.
    let removed = world.run_as::<Rmdir>(&bob, named(ROOT, "dir")).await;
    assert_eq!(removed.err(), denied);
    let own = world.run_as::<Create>(&bob, create(dir, "own")).await;
    assert!(own.is_ok());
    let over = world
        .run_as::<Rename>(
            &bob,
            rename((dir, "own"), (dir, "file"), RenameMode::Replace),
        )
        .await;
    assert_eq!(over.err(), denied);
    let own = world.run_as::<Unlink>(&bob, unlink(dir, "own")).await;
    assert_eq!(own, Ok(()));
}

#[tokio::test]
async fn opening_needs_the_bits_of_the_file() {
    let (world, _, file) = alices(0o755).await;
    let open = |read, write: bool| OpenRequest {
        inode: file,
        read,
        session: write.then(|| world.session()),
    };
    let bob = user(BOB);
    assert!(world.run_as::<Open>(&bob, open(true, false)).await.is_ok());
    let write = world.run_as::<Open>(&bob, open(false, true)).await;
    assert_eq!(write.err(), Some(StatusCode::AccessDenied));
    let alice = user(ALICE);
    assert!(world.run_as::<Open>(&alice, open(true, true)).await.is_ok());
    let change = async |mode| {
        let change = AttrChange {
            mode: Some(mode),
            ..AttrChange::default()
        };
        let changed = world.set_attr(&alice, set_attr(file, change)).await;
        changed.unwrap();
    };
    // A program that may be run but not read is opened to be run.
    change(0o711).await;
    assert!(world.run_as::<Open>(&bob, open(true, false)).await.is_ok());
    change(0o700).await;
    let read = world.run_as::<Open>(&bob, open(true, false)).await;
    assert_eq!(read.err(), Some(StatusCode::AccessDenied));
}

#[tokio::test]
async fn ftruncate_through_a_session_needs_no_permission() {
    let (world, _, file) = alices(0o755).await;
    let alice = user(ALICE);
    let session = world.session();
    let open = OpenRequest {
        inode: file,
        read: false,
        session: Some(session),
    };
    world.run_as::<Open>(&alice, open).await.unwrap();
    let change = |mode, length| AttrChange {
        mode,
        length,
        ..AttrChange::default()
    };
    let closed = set_attr(file, change(Some(0o400), None));
    world.set_attr(&alice, closed).await.unwrap();
    let mut request = set_attr(file, change(None, Some(5)));
    let denied = world.set_attr(&alice, request.clone()).await;
    assert_eq!(denied.err(), Some(StatusCode::AccessDenied));
    request.session = Some(session);
    let cut = world.set_attr(&alice, request.clone()).await.unwrap();
    assert_eq!(cut.length(), 5);
    request.session = Some(world.session());
    let unknown = world.set_attr(&alice, request).await;
    assert_eq!(unknown.err(), Some(StatusCode::AccessDenied));
}

#[tokio::test]
async fn times_need_ownership_and_the_present_only_the_right_to_write() {
    let (world, dir, file) = alices(0o777).await;
    let (alice, bob) = (user(ALICE), user(BOB));
    let times = |atime, mtime| AttrChange {
        atime,
        mtime,
        ..AttrChange::default()
    };
    let now = Some(SetTime::Now);
    let at = Some(SetTime::At(7));
    for (change, of_dir, of_file) in [
        (times(now, now), None, Some(StatusCode::AccessDenied)),
        (
            times(at, at),
            Some(StatusCode::NotPermitted),
            Some(StatusCode::NotPermitted),
        ),
        (
            times(now, None),
            Some(StatusCode::NotPermitted),
            Some(StatusCode::NotPermitted),
        ),
    ] {
        let result = world.set_attr(&bob, set_attr(dir, change.clone())).await;
        assert_eq!(result.err(), of_dir);
        let result = world.set_attr(&bob, set_attr(file, change.clone())).await;
        assert_eq!(result.err(), of_file);
        assert!(world.set_attr(&alice, set_attr(file, change)).await.is_ok());
    }
}

#[tokio::test]
async fn writing_and_chown_take_the_set_id_bits() {
    let (world, _, file) = alices(0o755).await;
    let alice = user(ALICE);
    let set_id = AttrChange {
        mode: Some(0o6755),
        ..AttrChange::default()
    };
    let set = set_attr(file, set_id);
    let inode = world.set_attr(&alice, set.clone()).await.unwrap();
    assert_eq!(inode.mode, 0o6755);
    let chown = AttrChange {
        gid: Some(ALICE),
        ..AttrChange::default()
    };
    let inode = world.set_attr(&alice, set_attr(file, chown)).await.unwrap();
    assert_eq!(inode.mode, 0o755);
    world.set_attr(&alice, set).await.unwrap();
    let session = world.session();
    let open = OpenRequest {
        inode: file,
        read: false,
        session: Some(session),
    };
    let opened = world.run_as::<Open>(&alice, open).await.unwrap();
    let close = types::rpc::meta::CloseRequest {
        inode: file,
        session,
        length: Some(report(3, &opened)),
    };
    let closed = world
        .run_as::<types::rpc::meta::Close>(&alice, close)
        .await
        .unwrap();
    assert_eq!(closed.mode, 0o755);
}

#[tokio::test]
async fn moving_a_directory_elsewhere_needs_the_right_to_change_it() {
    let (world, dir, _) = alices(0o777).await;
    let bob = user(BOB);
    let below = world.mkdir_as(&user(ALICE), dir, "below", 0o755).await;
    let elsewhere = world.mkdir_as(&bob, ROOT, "bobs", 0o777).await;
    let to = rename((dir, "below"), (elsewhere, "x"), RenameMode::Replace);
    let moved = world.run_as::<Rename>(&bob, to).await;
    assert_eq!(moved.err(), Some(StatusCode::AccessDenied));
    let here = rename((dir, "below"), (dir, "renamed"), RenameMode::Replace);
    assert_eq!(world.run_as::<Rename>(&bob, here).await, Ok(()));
    assert_eq!(world.lookup(dir, "renamed").await.unwrap().id, below);
}
