//! create: makes a file, or opens the one that is there.
//!
//! Two creates of different names in one directory commute: each reads the directory's inode, which neither
//! writes, and its own name.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    dentry::Dentry,
    inode::{FileKind, Inode, InodeData},
    layout::Layout,
    rpc::meta::{Create, CreateReply, CreateRequest},
    version::TruncateVersion,
};

use super::{Context, Operation, open, shown};
use crate::{
    chain_picker,
    error::MetaError,
    permission::{self, Access},
    resolve, store,
};

#[async_trait]
impl Operation for Create {
    const RECORDED: bool = true;
    const MAKES_INODE: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &CreateRequest,
    ) -> Result<CreateReply, MetaError> {
        let CreateRequest { parent, name, .. } = request;
        resolve::check_name(name)?;
        let mode = ReadMode::Serializable;
        let directory = resolve::directory(txn, ctx.identity(), *parent, mode).await?;
        if let Some(dentry) = store::dentry::load(txn, *parent, name, mode).await? {
            return existing(txn, ctx, request, &dentry).await;
        }
        permission::check(ctx.identity(), &directory, Access::WRITE)?;
        let inode = make(ctx, request, &directory)?;
        let dentry = Dentry {
            inode: inode.id,
            kind: FileKind::File,
        };
        store::inode::store(txn, &inode);
        store::dentry::store(txn, *parent, name, &dentry);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        store::counters::count(txn, inode.id, 1);
        if let Some(session) = request.session {
            open::store_session(txn, ctx, inode.id, session);
        }
        Ok(CreateReply {
            inode,
            created: true,
        })
    }
}

/// The name is there already.
async fn existing(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    request: &CreateRequest,
    dentry: &Dentry,
) -> Result<CreateReply, MetaError> {
    if request.exclusive {
        let parent = request.parent;
        return Err(MetaError::Exists { parent });
    }
    let inode = store::inode::require(txn, dentry.inode, ReadMode::Serializable).await?;
    match inode.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(MetaError::IsDirectory { inode: inode.id }),
        // The caller saw no name here, or he would have followed it: let him walk the path again.
        FileKind::Symlink => return Err(MetaError::Stale { inode: inode.id }),
    }
    match request.session {
        Some(session) => {
            permission::check(ctx.identity(), &inode, Access::WRITE)?;
            open::begin_session(txn, ctx, &inode, session).await?;
        }
        None => open::check_read(ctx.identity(), &inode)?,
    }
    Ok(CreateReply {
        inode: shown(txn, inode).await?,
        created: false,
    })
}

fn make(ctx: &Context<'_>, request: &CreateRequest, directory: &Inode) -> Result<Inode, MetaError> {
    let owner = permission::of_new(ctx.identity(), directory, FileKind::File, request.mode);
    Ok(Inode {
        id: ctx.fresh,
        uid: owner.uid,
        gid: owner.gid,
        mode: owner.mode,
        nlink: 1,
        times: ctx.new_times(),
        data: InodeData::File {
            length: 0,
            truncate_version: TruncateVersion(0),
            layout: pick_layout(ctx, request, directory)?,
            truncating: None,
        },
    })
}

fn pick_layout(
    ctx: &Context<'_>,
    request: &CreateRequest,
    directory: &Inode,
) -> Result<Layout, MetaError> {
    if let Some(layout) = &request.layout {
        if chain_picker::is_usable(&ctx.routing, layout) {
            return Ok(layout.clone());
        }
        return Err(MetaError::InvalidArgument {
            reason: "the layout does not fit a chain table",
        });
    }
    let inherited = match &directory.data {
        InodeData::Directory { layout, .. } => layout.as_ref(),
        InodeData::File { .. } | InodeData::Symlink { .. } => None,
    };
    let picked = ctx.picker.pick(&ctx.routing, inherited, ctx.seed);
    picked.ok_or(MetaError::NoChains)
}
