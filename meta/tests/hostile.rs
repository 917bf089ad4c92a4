//! Requests that make no sense, to every method of a metadata server: none harms it, and what was there before stays.

use std::{sync::Arc, time::Duration};

use common::{buf::BufPool, panics, shutdown::Shutdown};
use kv::mem::MemKv;
use net::{
    Bulk, Endpoint, MemNetwork, NetConfig, Transports,
    hostile::{Case, Hostile, Victim, assault, peak_memory},
};
use types::{
    id::{ClientId, InodeId, RequestId, SessionId},
    layout::Layout,
    rpc::{
        Caller,
        meta::{
            AttrChange, Close, CloseRequest, Create, CreateRequest, GetAttr, Hold, InodeRequest,
            LengthReport, Link, LinkRequest, Lookup, Mkdir, MkdirRequest, Open, OpenRequest,
            ReadDir, ReadDirRequest, Rename, RenameMode, RenameRequest, Rmdir, SetAttr,
            SetAttrRequest, SetTime, StatFs, Symlink, SymlinkRequest, Sync, SyncRequest, Unlink,
            UnlinkRequest,
        },
    },
    status::StatusCode,
    user::Identity,
    version::TruncateVersion,
};

use crate::{
    check::check,
    support::{CHUNK_SIZE, ROOT, World, create, named, set_attr},
};

/// A server that believed what is announced would hold gigabytes.
const GROWTH_MAX: u64 = 1 << 30;

/// Requests about a directory of a stranger, its entries and their inodes.
struct Place {
    directory: InodeId,
    file: InodeId,
    session: SessionId,
    layout: Layout,
}

fn cases(place: &Place) -> Vec<Case> {
    let mut cases = file_cases(place);
    let directory = place.directory;
    let hold = Some(Hold {
        inode: place.file,
        session: place.session,
    });
    cases.extend([
        Case::of::<Lookup>(named(directory, "file")),
        Case::of::<Mkdir>(MkdirRequest {
            parent: directory,
            name: b"inner".to_vec(),
            mode: 0o755,
        }),
        Case::of::<Symlink>(SymlinkRequest {
            parent: directory,
            name: b"link".to_vec(),
            target: b"somewhere/else".to_vec(),
        }),
        Case::of::<Link>(LinkRequest {
            inode: place.file,
            parent: directory,
            name: b"second".to_vec(),
        }),
        Case::of::<Rename>(RenameRequest {
            parent: directory,
            name: b"second".to_vec(),
            new_parent: directory,
            new_name: b"third".to_vec(),
            mode: RenameMode::Exchange,
            hold,
        }),
        Case::of::<ReadDir>(ReadDirRequest {
            inode: directory,
            after: b"a".to_vec(),
            limit: 100,
            attributes: true,
        }),
        Case::of::<StatFs>(()),
        Case::of::<Unlink>(UnlinkRequest {
            parent: directory,
            name: b"third".to_vec(),
            hold,
        }),
        Case::of::<Rmdir>(named(directory, "inner")),
    ]);
    cases
}

fn file_cases(place: &Place) -> Vec<Case> {
    let report = Some(LengthReport {
        end: 70_000,
        truncate_version: TruncateVersion(0),
    });
    let inode = place.file;
    vec![
        Case::of::<Create>(CreateRequest {
            layout: Some(place.layout.clone()),
            session: Some(place.session),
            ..create(place.directory, "other")
        }),
        Case::of::<GetAttr>(InodeRequest { inode }),
        Case::of::<Open>(OpenRequest {
            inode,
            read: true,
            session: Some(place.session),
        }),
        Case::of::<Sync>(SyncRequest {
            inode,
            session: Some(place.session),
            length: report,
            durable: true,
        }),
        Case::of::<SetAttr>(SetAttrRequest {
            inode,
            change: AttrChange {
                mode: Some(0o600),
                uid: Some(7),
                gid: Some(8),
                length: Some(100_000),
                atime: Some(SetTime::At(5)),
                mtime: Some(SetTime::Now),
            },
            session: Some(place.session),
        }),
        Case::of::<Close>(CloseRequest {
            inode,
            session: place.session,
            length: report,
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn nonsense_at_every_method_leaves_the_store_in_order_and_others_files_as_they_are() {
    panics::watch();
    let before = peak_memory();
    let world = World::on(MemKv::new()).await;
    let kept = world.mkdir(ROOT, "kept").await;
    let file = world.file(kept, "file").await;
    let directory = world.mkdir(ROOT, "strangers").await;
    let given = AttrChange {
        uid: Some(5000),
        ..AttrChange::default()
    };
    let (root, stranger) = (Identity::root(), stranger());
    let given = world.set_attr(&root, set_attr(directory, given));
    given.await.unwrap();
    let made = world.run_as::<Create>(&stranger, create(directory, "file"));
    let place = Place {
        directory,
        file: made.await.unwrap().inode.id,
        session: world.session(),
        layout: file.layout().unwrap().clone(),
    };
    assert_eq!(place.layout.chunk_size, CHUNK_SIZE);
    let end = Shutdown::new();
    let transports = Transports::with_mem(MemNetwork::new());
    let buffers = BufPool::new(1 << 20);
    let endpoint = Endpoint::new(&world.env, transports, buffers, NetConfig::default());
    let routes = Arc::new(meta::service::router(&world.namespace));
    let served = endpoint.serve("mem://meta", routes, end.signal()).await;
    drop(served.unwrap());
    let hostile = Hostile::new(4);
    for request in [1, 1 << 20, u64::MAX / 2] {
        let caller = Caller {
            client: ClientId(13),
            request: RequestId(request),
            identity: stranger.clone(),
        };
        let victim = Victim {
            env: &world.env,
            endpoint: &endpoint,
            address: "mem://meta",
            caller: &caller,
            limit: Duration::from_secs(2),
        };
        let tally = assault(&victim, &cases(&place), &hostile, &|_| Bulk::default()).await;
        assert!(tally.served > 50, "{tally:?}");
        assert!(
            tally.refused.contains_key(&StatusCode::Malformed),
            "{tally:?}"
        );
    }
    assert_eq!(panics::take(), Vec::<String>::new());
    check(&*world.kv).await;
    assert_eq!(world.lookup(kept, "file").await, Ok(file));
    world.file(kept, "another").await;
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

fn stranger() -> Identity {
    Identity {
        uid: 5000,
        gid: 5000,
        groups: vec![6000],
    }
}
