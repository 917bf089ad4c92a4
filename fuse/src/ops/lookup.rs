//! lookup: a name in a directory.

use types::{
    id::InodeId,
    inode::Inode,
    rpc::meta::{Lookup, NameRequest},
    status::Status,
    user::Identity,
};

use crate::core::Core;

impl Core {
    /// The inode a name leads to. The caller counts it once it is told to the kernel.
    pub(crate) async fn lookup(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
    ) -> Result<Inode, Status> {
        let inode = self
            .ask::<Lookup>(who, &NameRequest { parent, name })
            .await?;
        self.freshen(who, inode).await
    }
}
