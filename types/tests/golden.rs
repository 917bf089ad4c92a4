//! Golden bytes: a change here is a change of a format that other releases read.

use std::{collections::BTreeMap, fmt::Write as _};

use types::{
    chain::{Chain, ChainTable, ChainTarget},
    checksum::Checksum,
    chunk::{ChunkId, ChunkMeta, PendingMeta, Update, UpdateTag},
    codec::{Versioned, decode, decode_body, encode, encode_body},
    dentry::Dentry,
    id::{
        BootId, ChainId, ChainTableId, ChannelId, ChannelSeq, ClientId, DiskIndex, InodeId, NodeId,
        RequestId, SessionId, TargetId,
    },
    inode::{FileKind, Inode, InodeData, Times, TruncateIntent},
    layout::Layout,
    node::{Node, NodeKind, NodeStatus},
    routing::RoutingInfo,
    routing_delta::{Changes, RoutingDelta},
    rpc::{BulkIndex, Caller, mgmtd, operator, storage},
    session::FileSession,
    status::{Detail, Status, StatusCode},
    target::{LocalState, PublicState, Target},
    user::Identity,
    version::{
        ChainTableVersion, ChainVersion, ChunkVersion, HeartbeatNumber, RoutingVersion,
        TruncateVersion,
    },
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[track_caller]
fn persisted<T: Versioned + PartialEq + std::fmt::Debug>(value: &T, golden: &str) {
    let bytes = encode(value);
    assert_eq!(hex(&bytes), golden);
    assert_eq!(&decode::<T>(&bytes).unwrap(), value);
}

#[track_caller]
fn on_the_wire<T>(value: &T, golden: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = encode_body(value);
    assert_eq!(hex(&bytes), golden);
    assert_eq!(&decode_body::<T>(&bytes).unwrap(), value);
}

fn layout() -> Layout {
    Layout {
        table: ChainTableId(1),
        table_version: ChainTableVersion(2),
        chunk_size: 1 << 20,
        stripe_size: 4,
        base: 3,
        seed: 0x0102,
    }
}

fn tag() -> UpdateTag {
    UpdateTag {
        client: ClientId(0x55),
        channel: ChannelId(6),
        seq: ChannelSeq(7),
    }
}

fn inode(data: InodeData) -> Inode {
    let times = Times {
        atime_ns: 1,
        mtime_ns: 2,
        ctime_ns: 3,
        btime_ns: 4,
    };
    Inode {
        id: InodeId(300),
        uid: 10,
        gid: 20,
        mode: 0o644,
        nlink: 1,
        times,
        data,
    }
}

#[test]
fn inodes() {
    persisted(
        &inode(InodeData::File {
            length: 5,
            truncate_version: TruncateVersion(6),
            layout: layout(),
            truncating: Some(TruncateIntent { length: 9 }),
        }),
        "0100ac020a14a40301010203040005060102808040040382020109",
    );
    persisted(
        &inode(InodeData::Directory {
            parent: InodeId(1),
            layout: None,
        }),
        "0100ac020a14a4030101020304010100",
    );
    persisted(
        &inode(InodeData::Symlink {
            target: b"a/b".to_vec(),
        }),
        "0100ac020a14a40301010203040203612f62",
    );
}

#[test]
fn dentries_and_sessions() {
    persisted(
        &Dentry {
            inode: InodeId(300),
            kind: FileKind::Symlink,
        },
        "0100ac0202",
    );
    persisted(
        &FileSession {
            id: SessionId(1),
            inode: InodeId(2),
            client: ClientId(3),
            opened_ns: 4,
        },
        "010001020304",
    );
}

#[test]
fn routing() {
    let chain = Chain {
        id: ChainId(1),
        version: ChainVersion(2),
        targets: vec![
            ChainTarget {
                id: TargetId(11),
                state: PublicState::Serving,
            },
            ChainTarget {
                id: TargetId(12),
                state: PublicState::Offline,
            },
        ],
        preferred: vec![TargetId(12), TargetId(11)],
    };
    let node = Node {
        id: NodeId(1),
        kind: NodeKind::Storage,
        addresses: vec!["h:1".to_owned()],
        tags: vec![],
        status: NodeStatus::Alive,
    };
    let target = Target {
        id: TargetId(11),
        node: NodeId(1),
        disk: DiskIndex(0),
        chain: ChainId(1),
        created: true,
    };
    let table = ChainTable {
        id: ChainTableId(1),
        version: ChainTableVersion(1),
        chains: vec![ChainId(1)],
    };
    persisted(
        &RoutingInfo {
            version: RoutingVersion(9),
            nodes: BTreeMap::from([(node.id, node)]),
            targets: BTreeMap::from([(target.id, target)]),
            chains: BTreeMap::from([(chain.id, chain)]),
            tables: BTreeMap::from([((table.id, table.version), table)]),
        },
        "010009010101000103683a310000010b0b0100010101010102020b000c04020c0b01010101010101",
    );
}

#[test]
fn storage_messages() {
    let chunk = ChunkId {
        inode: InodeId(300),
        index: 2,
    };
    on_the_wire(
        &storage::UpdateRequest {
            updates: vec![storage::UpdateItem {
                chain: ChainId(1),
                chain_version: ChainVersion(2),
                chunk,
                chunk_size: 1 << 20,
                update: Update::Write {
                    offset: 4096,
                    length: 8192,
                },
                payload: Some(BulkIndex(0)),
                checksum: Checksum(0xe306_9283),
                tag: tag(),
            }],
        },
        "010102ac02028080400080208040010083a59a980e550607",
    );
    on_the_wire(
        &storage::ForwardRequest {
            chain: ChainId(1),
            chain_version: ChainVersion(2),
            from: TargetId(11),
            chunk,
            chunk_size: 1 << 20,
            update_version: ChunkVersion(4),
            kind: storage::ForwardKind::Replace { length: 5 },
            payload: None,
            checksum: Checksum(6),
            tag: None,
        },
        "01020bac0202808040040105000600",
    );
    on_the_wire(
        &storage::AdoptChannelsRequest {
            chain: ChainId(1),
            chain_version: ChainVersion(2),
            target: TargetId(11),
            channels: vec![storage::ChannelDone {
                tag: tag(),
                chunk,
                done: storage::UpdateDone {
                    length: 5,
                    commit_version: ChunkVersion(4),
                    chain_version: ChainVersion(2),
                    checksum: Checksum(6),
                },
            }],
        },
        "01020b01550607ac020205040206",
    );
}

#[test]
fn reads_and_chunks() {
    let chunk = ChunkId {
        inode: InodeId(300),
        index: 2,
    };
    on_the_wire(
        &storage::ReadRequest {
            reads: vec![storage::ReadItem {
                chain: ChainId(1),
                chain_version: ChainVersion(2),
                target: TargetId(11),
                chunk,
                offset: 1,
                length: 2,
                destination: BulkIndex(0),
                destination_offset: 3,
            }],
            mode: storage::ReadMode::Linearizable,
        },
        "0101020bac02020102000300",
    );
    on_the_wire(
        &ChunkMeta {
            id: chunk,
            exists: true,
            length: 100,
            commit_version: ChunkVersion(3),
            chain_version: ChainVersion(2),
            checksum: Checksum(7),
            tag: Some(tag()),
            pending: Some(PendingMeta {
                update_version: ChunkVersion(4),
                exists: false,
                length: 0,
                chain_version: ChainVersion(2),
                checksum: Checksum(0),
                tag: None,
            }),
        },
        "ac020201640302070155060701040000020000",
    );
}

#[test]
fn manager_messages_and_status() {
    on_the_wire(
        &mgmtd::Heartbeat {
            node: NodeId(1),
            kind: NodeKind::Storage,
            boot: BootId(2),
            number: HeartbeatNumber(3),
            addresses: vec!["h:1".to_owned()],
            tags: vec![],
            disks: vec![mgmtd::DiskReport {
                disk: DiskIndex(0),
                capacity_bytes: 1000,
                used_bytes: 10,
                failure: None,
            }],
            targets: vec![mgmtd::TargetReport {
                target: TargetId(11),
                chain_version: ChainVersion(1),
                state: LocalState::UpToDate,
                used_bytes: 10,
            }],
            routing_version: RoutingVersion(5),
            resyncs: vec![mgmtd::ResyncReport {
                target: TargetId(12),
                done_chunks: 1,
                total_chunks: 2,
                done_bytes: 3,
                total_bytes: 4,
                sent_chunks: 5,
                sent_bytes: 6,
                bytes_per_second: 7,
                seconds_left: Some(8),
                left_chunks: 9,
            }],
            cut_off: vec![TargetId(13)],
        },
        "010002030103683a31000100e8070a00010b01000a05010c01020304050607010809010d",
    );
    on_the_wire(
        &Caller {
            client: ClientId(1),
            request: RequestId(2),
            identity: Identity {
                uid: 3,
                gid: 4,
                groups: vec![5],
            },
        },
        "010203040105",
    );
    on_the_wire(
        &Status::new(StatusCode::ChainVersionMismatch, "old")
            .with_detail(Detail::Routing(RoutingVersion(9))),
        "c801036f6c640109",
    );
}

#[test]
fn operators_actions() {
    on_the_wire(
        &operator::AppendTableRequest {
            table: ChainTableId(1),
            chains: vec![ChainId(2), ChainId(300)],
        },
        "010202ac02",
    );
    on_the_wire(
        &operator::AddTargetRequest {
            chain: ChainId(1),
            node: NodeId(300),
            disk: DiskIndex(2),
        },
        "01ac0202",
    );
    on_the_wire(
        &operator::AddTargetReply {
            target: TargetId(300),
            version: ChainVersion(4),
        },
        "ac0204",
    );
    on_the_wire(
        &operator::RemoveTargetRequest {
            target: TargetId(11),
            copies: operator::CopiesPolicy::AllowFewer,
        },
        "0b01",
    );
    on_the_wire(
        &operator::SetPreferredRequest {
            chain: ChainId(1),
            order: vec![TargetId(12), TargetId(11)],
        },
        "01020c0b",
    );
    on_the_wire(&operator::RotateChainRequest { chain: ChainId(1) }, "01");
    on_the_wire(
        &operator::RotateChainReply {
            target: Some(TargetId(11)),
            version: ChainVersion(5),
        },
        "010b05",
    );
    on_the_wire(
        &operator::ForceLastServingRequest {
            chain: ChainId(1),
            target: TargetId(12),
            loss: operator::LossPolicy::Accept,
        },
        "010c01",
    );
    on_the_wire(
        &operator::Loss {
            chain: ChainId(1),
            version: ChainVersion(9),
            target: TargetId(12),
            left: Some(ChainVersion(5)),
            given_up: vec![(TargetId(11), NodeId(3), DiskIndex(0))],
            tables: vec![(ChainTableId(1), ChainTableVersion(2))],
        },
        "01090c0105010b0300010102",
    );
}

#[test]
fn the_manager_group_and_what_a_node_is_told() {
    on_the_wire(
        &mgmtd::HeartbeatReply {
            lease_ms: 2000,
            routing_version: RoutingVersion(5),
            step_down: vec![mgmtd::StepDown {
                target: TargetId(11),
                chain_version: ChainVersion(3),
            }],
        },
        "d00f05010b03",
    );
    on_the_wire(
        &mgmtd::ManagersReply {
            leader: Some(NodeId(201)),
            members: vec![(NodeId(201), "a:1".to_owned())],
            learners: vec![(NodeId(202), "b:1".to_owned())],
        },
        "01c90101c90103613a3101ca0103623a31",
    );
    on_the_wire(
        &mgmtd::AddManagerRequest {
            id: NodeId(202),
            address: "b:1".to_owned(),
        },
        "ca0103623a31",
    );
    on_the_wire(&mgmtd::RemoveManagerRequest { id: NodeId(202) }, "ca01");
}

#[test]
fn what_changed_in_a_map() {
    let target = Target {
        id: TargetId(11),
        node: NodeId(1),
        disk: DiskIndex(0),
        chain: ChainId(1),
        created: true,
    };
    let delta = RoutingDelta {
        from: RoutingVersion(8),
        to: RoutingVersion(9),
        targets: Changes {
            put: vec![(target.id, target)],
            gone: vec![TargetId(10)],
        },
        ..RoutingDelta::default()
    };
    on_the_wire(
        &mgmtd::RoutingNews::Delta(delta),
        "0208090000010b0b01000101010a00000000",
    );
    on_the_wire(&mgmtd::RoutingNews::Nothing, "00");
}
