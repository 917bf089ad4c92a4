//! getattr, setattr, fallocate.

use types::{
    id::InodeId,
    inode::Inode,
    rpc::meta::{AttrChange, GetAttr, InodeRequest, SetAttr, SetAttrRequest},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{core::Core, exchange::Durable};

impl Core {
    pub(crate) async fn get_attr(&self, who: &Identity, inode: InodeId) -> Result<Inode, Status> {
        match self.files.get(inode) {
            Some(file) if file.has_writers() => self.settled(who, &file).await,
            Some(file) => self.fetch(who, &file).await,
            None => self.ask::<GetAttr>(who, &InodeRequest { inode }).await,
        }
    }

    /// Changes attributes. `handle` is the open file it was asked through, if any.
    pub(crate) async fn set_attr(
        &self,
        who: &Identity,
        inode: InodeId,
        change: AttrChange,
        handle: Option<u64>,
    ) -> Result<Inode, Status> {
        if change == AttrChange::default() {
            return self.get_attr(who, inode).await;
        }
        let handle = handle.and_then(|handle| self.handles.file(handle).ok());
        let truncate = change.length.is_some();
        let request = SetAttrRequest {
            inode,
            change,
            session: handle.and_then(|handle| handle.session),
        };
        let Some(file) = self.files.get(inode) else {
            return self.ask::<SetAttr>(who, &request).await;
        };
        // A truncate waits for the writes under way and keeps later ones out until it is done.
        let _alone = match truncate {
            true => Some(file.order.write().await),
            false => None,
        };
        let _turn = file.exchange.lock().await;
        // First, so that a time set now is not overwritten by a report of earlier writes, and so that a truncate
        // knows how much there is to cut.
        self.report(&file, Durable::No).await?;
        let inode = self.ask::<SetAttr>(who, &request).await?;
        match truncate {
            true => file.truncated(&inode),
            false => file.learn(&inode),
        }
        Ok(inode)
    }

    /// fallocate: only making the file longer; space itself is not reserved.
    pub(crate) async fn allocate(
        &self,
        who: &Identity,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Status> {
        if mode != 0 {
            return Err(Status::new(
                StatusCode::NotSupported,
                format!("fallocate with mode {mode:#x}"),
            ));
        }
        let file = self.handles.file(handle)?.file.clone();
        let end = offset.checked_add(length).ok_or_else(|| {
            Status::new(StatusCode::FileTooLarge, "the range ends beyond all files")
        })?;
        if self.settled(who, &file).await?.length() >= end {
            return Ok(());
        }
        let change = AttrChange {
            length: Some(end),
            ..AttrChange::default()
        };
        let changed = self.set_attr(who, file.inode, change, Some(handle)).await;
        changed.map(|_inode| ())
    }
}
