//! The plain tree: what POSIX says, without any store.

use std::collections::BTreeMap;

use types::{
    id::InodeId,
    inode::FileKind,
    rpc::meta::RenameMode,
    status::StatusCode::{self, Exists, IsDirectory, NotDirectory, NotEmpty, NotFound, Stale},
};

/// Something with an inode.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: FileKind,
    pub(crate) nlink: u32,
    /// Where the last write or truncate left the end.
    pub(crate) length: u64,
    /// How many sessions there are.
    pub(crate) holders: i32,
    pub(crate) names: BTreeMap<String, InodeId>,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Plain {
    root: InodeId,
    nodes: BTreeMap<InodeId, Node>,
}

type Answer<T> = Result<T, StatusCode>;
type At<'a> = (InodeId, &'a str);

impl Plain {
    pub(crate) fn new(root: InodeId) -> Self {
        let nodes = BTreeMap::from([(root, new_node(FileKind::Directory))]);
        Self { root, nodes }
    }

    pub(crate) fn nodes(&self) -> &BTreeMap<InodeId, Node> {
        &self.nodes
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Everything with a name, of one kind when that is given.
    pub(crate) fn named(&self, kind: Option<FileKind>) -> Vec<InodeId> {
        let named = self.nodes.iter().filter(|(_, node)| node.nlink > 0);
        named
            .filter(|(_, node)| kind.is_none_or(|kind| kind == node.kind))
            .map(|(inode, _)| *inode)
            .collect()
    }

    /// Some file that is there without a name.
    pub(crate) fn nameless(&self) -> Option<InodeId> {
        let found = self.nodes.iter().find(|(_, node)| node.nlink == 0);
        found.map(|(inode, _)| *inode)
    }

    pub(crate) fn is_nameless(&self, inode: InodeId) -> bool {
        self.nodes.get(&inode).is_some_and(|node| node.nlink == 0)
    }

    pub(crate) fn length(&self, inode: InodeId) -> u64 {
        self.nodes[&inode].length
    }

    pub(crate) fn find(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        self.nodes.get(&parent)?.names.get(name).copied()
    }

    /// The names in what may be a directory.
    pub(crate) fn names_of(&self, inode: InodeId) -> Vec<String> {
        let node = self.nodes.get(&inode);
        node.map_or(Vec::new(), |node| node.names.keys().cloned().collect())
    }

    fn directory(&self, inode: InodeId) -> Answer<&Node> {
        let node = self.nodes.get(&inode).ok_or(Stale)?;
        match node.kind {
            FileKind::Directory => Ok(node),
            FileKind::File | FileKind::Symlink => Err(NotDirectory),
        }
    }

    fn names(&mut self, inode: InodeId) -> &mut BTreeMap<String, InodeId> {
        &mut self.nodes.get_mut(&inode).unwrap().names
    }

    fn kind(&self, inode: InodeId) -> FileKind {
        self.nodes[&inode].kind
    }

    pub(crate) fn lookup(&self, parent: InodeId, name: &str) -> Answer<InodeId> {
        let directory = self.directory(parent)?;
        directory.names.get(name).copied().ok_or(NotFound)
    }

    fn free(&self, parent: InodeId, name: &str) -> Answer<()> {
        match self.lookup(parent, name) {
            Ok(_) => Err(Exists),
            Err(NotFound) => Ok(()),
            Err(code) => Err(code),
        }
    }

    pub(crate) fn make(
        &mut self,
        parent: InodeId,
        name: &str,
        kind: FileKind,
        made: Option<InodeId>,
    ) -> Answer<InodeId> {
        self.free(parent, name)?;
        let inode = made.expect("it should have been made");
        assert!(self.nodes.insert(inode, new_node(kind)).is_none());
        self.names(parent).insert(name.to_owned(), inode);
        Ok(inode)
    }

    pub(crate) fn create(
        &mut self,
        parent: InodeId,
        name: &str,
        exclusive: bool,
        made: Option<InodeId>,
    ) -> Answer<(InodeId, bool)> {
        match self.lookup(parent, name) {
            Ok(_) if exclusive => Err(Exists),
            Ok(inode) => match self.kind(inode) {
                FileKind::File => Ok((inode, false)),
                FileKind::Directory => Err(IsDirectory),
                FileKind::Symlink => Err(Stale),
            },
            Err(NotFound) => {
                let inode = self.make(parent, name, FileKind::File, made)?;
                Ok((inode, true))
            }
            Err(code) => Err(code),
        }
    }

    pub(crate) fn link(&mut self, inode: InodeId, parent: InodeId, name: &str) -> Answer<u32> {
        if self.nodes.get(&inode).ok_or(Stale)?.kind == FileKind::Directory {
            return Err(StatusCode::NotPermitted);
        }
        self.free(parent, name)?;
        self.names(parent).insert(name.to_owned(), inode);
        let node = self.nodes.get_mut(&inode).unwrap();
        node.nlink += 1;
        Ok(node.nlink)
    }

    fn drop_name(&mut self, inode: InodeId) {
        let node = self.nodes.get_mut(&inode).unwrap();
        node.nlink -= 1;
        if node.nlink == 0 && node.kind == FileKind::Symlink {
            self.nodes.remove(&inode);
        }
    }

    pub(crate) fn unlink(&mut self, parent: InodeId, name: &str) -> Answer<()> {
        let inode = self.lookup(parent, name)?;
        if self.kind(inode) == FileKind::Directory {
            return Err(IsDirectory);
        }
        self.names(parent).remove(name);
        self.drop_name(inode);
        Ok(())
    }

    fn remove_empty(&mut self, inode: InodeId) -> Answer<()> {
        if !self.nodes[&inode].names.is_empty() {
            return Err(NotEmpty);
        }
        self.nodes.remove(&inode);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, parent: InodeId, name: &str) -> Answer<()> {
        let inode = self.lookup(parent, name)?;
        if self.kind(inode) != FileKind::Directory {
            return Err(NotDirectory);
        }
        self.remove_empty(inode)?;
        self.names(parent).remove(name);
        Ok(())
    }

    /// Whether `below` is `above` or lies under it.
    fn is_below(&self, below: InodeId, above: InodeId) -> bool {
        below == above
            || self.nodes[&above]
                .names
                .values()
                .any(|inode| self.is_below(below, *inode))
    }

    pub(crate) fn rename(&mut self, from: At<'_>, to: At<'_>, mode: RenameMode) -> Answer<()> {
        let old = self.lookup(from.0, from.1)?;
        let new = match self.lookup(to.0, to.1) {
            Ok(new) => Some(new),
            Err(NotFound) => None,
            Err(code) => return Err(code),
        };
        let circle = |plain: &Self, into, moved| {
            let bad = from.0 != to.0
                && plain.kind(moved) == FileKind::Directory
                && plain.is_below(into, moved);
            match bad {
                true => Err(StatusCode::InvalidArgument),
                false => Ok(()),
            }
        };
        match (mode, new) {
            (RenameMode::NoReplace, Some(_)) => return Err(Exists),
            (RenameMode::Exchange, None) => return Err(NotFound),
            (_, Some(new)) if new == old => return Ok(()),
            (RenameMode::Exchange, Some(new)) => {
                circle(self, to.0, old)?;
                circle(self, from.0, new)?;
                self.names(from.0).insert(from.1.to_owned(), new);
            }
            (RenameMode::Replace, Some(new)) => {
                circle(self, to.0, old)?;
                match [old, new].map(|inode| self.kind(inode) == FileKind::Directory) {
                    [true, false] => return Err(NotDirectory),
                    [false, true] => return Err(IsDirectory),
                    [true, true] => self.remove_empty(new)?,
                    [false, false] => self.drop_name(new),
                }
                self.names(from.0).remove(from.1);
            }
            (RenameMode::Replace | RenameMode::NoReplace, None) => {
                circle(self, to.0, old)?;
                self.names(from.0).remove(from.1);
            }
        }
        self.names(to.0).insert(to.1.to_owned(), old);
        Ok(())
    }

    pub(crate) fn open(&self, inode: InodeId) -> Answer<()> {
        let node = self.nodes.get(&inode).ok_or(Stale)?;
        match node.kind {
            FileKind::Directory => Err(IsDirectory),
            FileKind::Symlink => Err(StatusCode::InvalidArgument),
            FileKind::File if node.nlink == 0 && node.holders == 0 => Err(Stale),
            FileKind::File => Ok(()),
        }
    }

    pub(crate) fn hold(&mut self, inode: InodeId, change: i32) {
        self.nodes.get_mut(&inode).unwrap().holders += change;
    }

    pub(crate) fn write(&mut self, inode: InodeId, end: u64) {
        let length = &mut self.nodes.get_mut(&inode).unwrap().length;
        *length = (*length).max(end);
    }

    pub(crate) fn truncate(&mut self, inode: InodeId, length: u64) -> Answer<u64> {
        let node = self.nodes.get_mut(&inode).ok_or(Stale)?;
        match node.kind {
            FileKind::Directory => Err(IsDirectory),
            FileKind::Symlink => Err(StatusCode::InvalidArgument),
            FileKind::File => {
                node.length = length;
                Ok(length)
            }
        }
    }

    /// What has neither names nor holders goes.
    pub(crate) fn collect(&mut self) {
        let root = self.root;
        self.nodes
            .retain(|inode, node| *inode == root || node.nlink > 0 || node.holders > 0);
    }
}

fn new_node(kind: FileKind) -> Node {
    Node {
        kind,
        nlink: 1,
        length: 0,
        holders: 0,
        names: BTreeMap::new(),
    }
}
