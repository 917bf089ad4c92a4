//! Which keys each operation reads for conflict and which it writes (protocol N1). Written down in
//! `docs/design/metadata.md`; what commutes follows from it.

use std::sync::{Arc, atomic::AtomicBool};

use kv::{ConflictSets, KeyRange};
use meta::{
    chain_picker::ChainPicker,
    ops::{Context, Operation},
    store::{
        counters::count_key,
        dentry, directory_times,
        garbage::{Entry, Garbage},
        idempotency::{age_key, record_key},
        inode, session, unreported,
    },
};
use types::{
    id::{ClientId, InodeId, RequestId, SessionId},
    rpc::{
        Caller,
        meta::{
            AttrChange, Close, CloseRequest, Create, GetAttr, InodeRequest, Link, LinkRequest,
            Lookup, Mkdir, MkdirRequest, Open, OpenRequest, ReadDir, ReadDirRequest, Rename,
            RenameMode, Rmdir, SetAttr, StatFs, Symlink, SymlinkRequest, Sync, SyncRequest, Unlink,
        },
    },
    user::Identity,
};

use crate::support::{ROOT, World, create, named, rename, report, routing, set_attr, unlink};

const FRESH: InodeId = InodeId(0x7000);
const NOW_NS: u64 = 99;

fn keys<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Vec<KeyRange> {
    let mut ranges: Vec<_> = keys.into_iter().map(KeyRange::single).collect();
    ranges.sort();
    ranges
}

/// The conflict sets of one run, without a commit. Fails when the operation does.
async fn sets<M: Operation>(world: &World, request: M::Request) -> ConflictSets {
    let caller = Caller {
        client: ClientId(1),
        request: RequestId(2),
        identity: Identity::root(),
    };
    let picker = ChainPicker::new(1 << 20, 1, 0);
    let ctx = Context {
        caller: &caller,
        now_ns: NOW_NS,
        fresh: FRESH,
        seed: 0,
        routing: Arc::new(routing()),
        picker: &picker,
        asked: None,
        queued: AtomicBool::new(false),
    };
    let mut txn = world.kv.begin();
    M::run(&mut *txn, &ctx, &request).await.unwrap();
    txn.conflicts()
}

#[track_caller]
fn expect(sets: &ConflictSets, reads: &[&[u8]], writes: &[&[u8]]) {
    assert_eq!(sets.reads, keys(reads.iter().copied()), "reads");
    assert_eq!(sets.writes, keys(writes.iter().copied()), "writes");
}

fn garbage(inode: InodeId) -> Vec<u8> {
    let entry = Entry {
        queued_ns: NOW_NS,
        inode,
        garbage: Garbage::Remove,
    };
    entry.key()
}

#[tokio::test]
async fn who_only_looks_conflicts_with_nobody() {
    let world = World::new().await;
    world.file(ROOT, "a").await;
    let list = ReadDirRequest {
        inode: ROOT,
        after: Vec::new(),
        limit: 10,
        attributes: true,
    };
    let nothing = ConflictSets::default();
    assert_eq!(sets::<Lookup>(&world, named(ROOT, "a")).await, nothing);
    assert_eq!(
        sets::<GetAttr>(&world, InodeRequest { inode: ROOT }).await,
        nothing
    );
    assert_eq!(sets::<ReadDir>(&world, list).await, nothing);
    assert_eq!(sets::<StatFs>(&world, ()).await, nothing);
    let open = OpenRequest {
        inode: ROOT,
        read: true,
        session: None,
    };
    assert_eq!(sets::<Open>(&world, open).await, nothing);
    let sync = SyncRequest {
        inode: ROOT,
        session: None,
        length: None,
        durable: true,
    };
    assert_eq!(sets::<Sync>(&world, sync).await, nothing);
}

#[tokio::test]
async fn makers_of_names_read_their_directory_and_write_beside_it() {
    let world = World::new().await;
    let reads: [&[u8]; 2] = [&inode::key(ROOT), &dentry::key(ROOT, b"new")];
    let writes: [&[u8]; 4] = [
        &inode::key(FRESH),
        &dentry::key(ROOT, b"new"),
        &directory_times::key(ROOT),
        &count_key(FRESH),
    ];
    let request = create(ROOT, "new");
    expect(
        &sets::<Create>(&world, request.clone()).await,
        &reads,
        &writes,
    );
    let mkdir = MkdirRequest {
        parent: ROOT,
        name: b"new".to_vec(),
        mode: 0o755,
    };
    expect(&sets::<Mkdir>(&world, mkdir).await, &reads, &writes);
    let symlink = SymlinkRequest {
        parent: ROOT,
        name: b"new".to_vec(),
        target: b"x".to_vec(),
    };
    expect(&sets::<Symlink>(&world, symlink).await, &reads, &writes);
    let mut with_session = request;
    with_session.session = Some(SessionId(8));
    let own = session::key(FRESH, SessionId(8));
    let writes_session = [&writes[..], &[&own]].concat();
    expect(
        &sets::<Create>(&world, with_session).await,
        &reads,
        &writes_session,
    );
}

#[tokio::test]
async fn link_also_changes_its_inode() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await.id;
    let request = LinkRequest {
        inode: file,
        parent: ROOT,
        name: b"b".to_vec(),
    };
    expect(
        &sets::<Link>(&world, request).await,
        &[
            &inode::key(ROOT),
            &inode::key(file),
            &dentry::key(ROOT, b"b"),
        ],
        &[
            &inode::key(file),
            &dentry::key(ROOT, b"b"),
            &directory_times::key(ROOT),
        ],
    );
}

#[tokio::test]
async fn unlink_reads_the_sessions_of_what_loses_its_last_name() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await.id;
    let found = sets::<Unlink>(&world, unlink(ROOT, "a")).await;
    let mut reads = keys([
        &inode::key(ROOT)[..],
        &inode::key(file),
        &dentry::key(ROOT, b"a"),
    ]);
    reads.push(session::range(file));
    reads.sort();
    assert_eq!(found.reads, reads);
    let writes = keys([
        &inode::key(file)[..],
        &dentry::key(ROOT, b"a"),
        &directory_times::key(ROOT),
        &garbage(file),
    ]);
    assert_eq!(found.writes, writes);
}

#[tokio::test]
async fn rmdir_reads_all_names_of_the_directory() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let found = sets::<Rmdir>(&world, named(ROOT, "dir")).await;
    let mut reads = keys([
        &inode::key(ROOT)[..],
        &inode::key(dir),
        &dentry::key(ROOT, b"dir"),
    ]);
    reads.push(dentry::range(dir));
    reads.sort();
    assert_eq!(found.reads, reads);
    let writes = keys([
        &inode::key(dir)[..],
        &dentry::key(ROOT, b"dir"),
        &directory_times::key(ROOT),
        &directory_times::key(dir),
        &count_key(dir),
    ]);
    assert_eq!(found.writes, writes);
}

#[tokio::test]
async fn a_renamed_file_reads_no_ancestors() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let below = world.mkdir(dir, "below").await;
    let file = world.file(ROOT, "a").await.id;
    let request = rename((ROOT, "a"), (below, "b"), RenameMode::Replace);
    expect(
        &sets::<Rename>(&world, request).await,
        &[
            &inode::key(ROOT),
            &inode::key(below),
            &inode::key(file),
            &dentry::key(ROOT, b"a"),
            &dentry::key(below, b"b"),
        ],
        &[
            &inode::key(file),
            &dentry::key(ROOT, b"a"),
            &dentry::key(below, b"b"),
            &directory_times::key(ROOT),
            &directory_times::key(below),
        ],
    );
}

#[tokio::test]
async fn a_moved_directory_reads_all_ancestors_of_its_new_place() {
    let world = World::new().await;
    let dir = world.mkdir(ROOT, "dir").await;
    let below = world.mkdir(dir, "below").await;
    let moved = world.mkdir(ROOT, "moved").await;
    let request = rename((ROOT, "moved"), (below, "b"), RenameMode::Replace);
    expect(
        &sets::<Rename>(&world, request).await,
        &[
            &inode::key(ROOT),
            &inode::key(dir),
            &inode::key(below),
            &inode::key(moved),
            &dentry::key(ROOT, b"moved"),
            &dentry::key(below, b"b"),
        ],
        &[
            &inode::key(moved),
            &dentry::key(ROOT, b"moved"),
            &dentry::key(below, b"b"),
            &directory_times::key(ROOT),
            &directory_times::key(below),
        ],
    );
}

#[tokio::test]
async fn open_close_and_sync_touch_the_file_and_their_session() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await;
    let id = SessionId(8);
    let open = OpenRequest {
        inode: file.id,
        read: true,
        session: Some(id),
    };
    let own = session::key(file.id, id);
    expect(
        &sets::<Open>(&world, open).await,
        &[&inode::key(file.id)],
        &[&own],
    );
    let sync = SyncRequest {
        inode: file.id,
        session: Some(id),
        length: Some(report(7, &file)),
        durable: false,
    };
    let file_key = inode::key(file.id);
    expect(
        &sets::<Sync>(&world, sync).await,
        &[&file_key],
        &[&file_key],
    );

    let (id, _) = world.open(file.id).await.unwrap();
    let own = session::key(file.id, id);
    let mut close = CloseRequest {
        inode: file.id,
        session: id,
        length: None,
    };
    let mark = unreported::key(file.id);
    let reads: [&[u8]; 3] = [&file_key, &own, &mark];
    expect(&sets::<Close>(&world, close.clone()).await, &reads, &[&own]);
    close.length = Some(report(7, &file));
    expect(
        &sets::<Close>(&world, close).await,
        &reads,
        &[&own, &file_key],
    );
}

#[tokio::test]
async fn chmod_writes_only_the_inode_and_truncate_reads_sessions() {
    let world = World::new().await;
    let file = world.file(ROOT, "a").await.id;
    let file_key = inode::key(file);
    let chmod = AttrChange {
        mode: Some(0o600),
        ..AttrChange::default()
    };
    let found = sets::<SetAttr>(&world, set_attr(file, chmod)).await;
    expect(&found, &[&file_key], &[&file_key]);
    let grow = AttrChange {
        length: Some(5),
        ..AttrChange::default()
    };
    let found = sets::<SetAttr>(&world, set_attr(file, grow)).await;
    let mut reads = keys([&file_key[..], &unreported::key(file)]);
    reads.push(session::range(file));
    reads.sort();
    assert_eq!(found.reads, reads);
    assert_eq!(found.writes, keys([&file_key[..]]));
}

#[tokio::test]
async fn a_stored_result_adds_its_own_two_keys() {
    let world = World::new().await;
    let caller = Caller {
        client: ClientId(1),
        request: RequestId(2),
        identity: Identity::root(),
    };
    let mut txn = world.kv.begin();
    let replayed = meta::store::idempotency::replay::<Unlink>(&mut *txn, &caller).await;
    assert_eq!(replayed, Ok(None));
    meta::store::idempotency::record::<Unlink>(&mut *txn, &caller, NOW_NS, &());
    let record = record_key(caller.client, caller.request);
    let by_age = age_key(NOW_NS, caller.client, caller.request);
    expect(&txn.conflicts(), &[&record], &[&record, &by_age]);
}
