//! rename, with the flags of renameat2(2).

use fuser::RenameFlags;
use types::{
    id::InodeId,
    rpc::meta::{Rename, RenameMode, RenameRequest},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::core::Core;

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parent: InodeId,
    pub(crate) name: Vec<u8>,
}

impl Core {
    pub(crate) async fn rename(
        &self,
        who: &Identity,
        from: Place,
        to: Place,
        flags: RenameFlags,
    ) -> Result<(), Status> {
        let mode = mode(flags)?;
        let hold = match mode {
            RenameMode::Replace => self.hold(who, to.parent, &to.name).await,
            RenameMode::NoReplace | RenameMode::Exchange => None,
        };
        let request = RenameRequest {
            parent: from.parent,
            name: from.name,
            new_parent: to.parent,
            new_name: to.name,
            mode,
            hold,
        };
        let result = self.ask::<Rename>(who, &request).await;
        self.unhold(who, hold).await;
        result
    }
}

fn mode(flags: RenameFlags) -> Result<RenameMode, Status> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        let message = format!("rename with flags {flags}");
        Err(Status::new(StatusCode::InvalidArgument, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_cannot_be_kept_are_refused() {
        let exchange = RenameFlags::RENAME_EXCHANGE;
        let no_replace = RenameFlags::RENAME_NOREPLACE;
        assert_eq!(mode(RenameFlags::empty()), Ok(RenameMode::Replace));
        assert_eq!(mode(no_replace), Ok(RenameMode::NoReplace));
        assert_eq!(mode(exchange), Ok(RenameMode::Exchange));
        for flags in [exchange | no_replace, RenameFlags::RENAME_WHITEOUT] {
            assert_eq!(mode(flags).unwrap_err().code, StatusCode::InvalidArgument);
        }
    }
}
