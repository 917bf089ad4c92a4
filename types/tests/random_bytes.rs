//! Decoders meet whatever a network or a disk gives them.

use proptest::prelude::*;
use types::{
    codec::{DecodeError, decode, decode_body, encode},
    dentry::Dentry,
    id::InodeId,
    inode::{FileKind, Inode},
    routing::RoutingInfo,
    rpc::{meta, mgmtd, operator, storage},
};

proptest! {
    #[test]
    fn random_bytes_never_panic_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _inode = decode::<Inode>(&bytes);
        let _routing = decode_body::<RoutingInfo>(&bytes);
        let _update = decode_body::<storage::UpdateRequest>(&bytes);
        let _forward = decode_body::<storage::ForwardRequest>(&bytes);
        let _read = decode_body::<storage::ReadRequest>(&bytes);
        let _news = decode_body::<mgmtd::RoutingNews>(&bytes);
        let _append = decode_body::<operator::AppendTableRequest>(&bytes);
        let _order = decode_body::<operator::SetPreferredRequest>(&bytes);
        let _loss = decode_body::<operator::Loss>(&bytes);
        let _managers = decode_body::<mgmtd::ManagersReply>(&bytes);
        let _heartbeat = decode_body::<mgmtd::Heartbeat>(&bytes);
        let _create = decode_body::<meta::CreateRequest>(&bytes);
        let _page = decode_body::<meta::ReadDirReply>(&bytes);
    }

    #[test]
    fn a_dentry_reads_back(inode in any::<u64>(), directory in any::<bool>()) {
        let kind = if directory { FileKind::Directory } else { FileKind::File };
        let dentry = Dentry { inode: InodeId(inode), kind };
        prop_assert_eq!(decode::<Dentry>(&encode(&dentry)), Ok(dentry));
    }
}

#[test]
fn an_encoding_of_another_version_is_named() {
    let mut bytes = encode(&Dentry {
        inode: InodeId(1),
        kind: FileKind::File,
    });
    bytes[0] = 9;
    assert_eq!(
        decode::<Dentry>(&bytes),
        Err(DecodeError::Version {
            found: 9,
            expected: 1
        })
    );
    assert_eq!(
        decode::<Dentry>(&bytes[..1]),
        Err(DecodeError::Truncated { length: 1 })
    );
}

#[test]
fn bytes_that_follow_are_refused() {
    let mut bytes = encode(&Dentry {
        inode: InodeId(1),
        kind: FileKind::File,
    });
    bytes.push(0);
    assert!(matches!(
        decode::<Dentry>(&bytes),
        Err(DecodeError::Body { .. })
    ));
}
