//! The position in a listing: between the kernel's numbers and the server's cursor, which is a name.
//!
//! Entry 0 is `.`, entry 1 is `..`, the others follow in the order of their names. The kernel asks for "from entry n
//! on" and usually goes forward, or back a little because it read more than its caller took. One page is kept, and an
//! answer never crosses its end, so that a little back is always still there. For a far jump the start of each page
//! is remembered; what was added or removed meanwhile may then be seen or not, as POSIX allows.

use types::{
    id::InodeId,
    rpc::meta::{ReadDirEntry, ReadDirReply, ReadDirRequest},
};

/// Entries of the first page, so that a small directory or a first glance is quick, and of each later one.
const PAGE_FIRST: u32 = 256;
const PAGE_LATER: u32 = 1024;
/// `.` and `..`.
pub(crate) const DOTS: u64 = 2;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct DirStream {
    pub(crate) inode: InodeId,
    /// Where each page seen so far starts, in order: entry number and the name before it.
    starts: Vec<PageStart>,
    page: Option<Page>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PageStart {
    first: u64,
    after: Vec<u8>,
}

#[derive(Debug)]
struct Page {
    first: u64,
    attributes: bool,
    reply: ReadDirReply,
}

/// What a stream needs next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Fetch this page and pass it to `accept`.
    Fetch(ReadDirRequest),
    /// The entries asked for are there: `entries` has them. Empty at the end of the directory.
    Ready,
}

impl DirStream {
    /// At the start of a directory.
    pub(crate) fn new(inode: InodeId) -> Self {
        Self {
            inode,
            starts: vec![PageStart {
                first: DOTS,
                after: Vec::new(),
            }],
            page: None,
        }
    }

    /// Starts again, with what is there now (rewinddir).
    pub(crate) fn rewind(&mut self) {
        *self = Self::new(self.inode);
    }

    /// What to do to have entry `number` (not a dot), with attributes or without.
    pub(crate) fn step(&mut self, number: u64, attributes: bool) -> Step {
        if let Some(page) = &self.page {
            let end = page.end();
            let enough = page.attributes || !attributes;
            if enough && (page.first..end).contains(&number) {
                return Step::Ready;
            }
            if number >= end && !page.reply.more {
                return Step::Ready;
            }
        }
        let start = self.start_of(number);
        let limit = if start.first == DOTS {
            PAGE_FIRST
        } else {
            PAGE_LATER
        };
        Step::Fetch(ReadDirRequest {
            inode: self.inode,
            after: start.after,
            limit,
            attributes,
        })
    }

    /// Takes the page that `step` asked for. Returns false when it brought nothing new, which ends the listing.
    pub(crate) fn accept(&mut self, request: &ReadDirRequest, reply: ReadDirReply) -> bool {
        let known = self
            .starts
            .iter()
            .position(|start| start.after == request.after);
        let Some(known) = known else { return false };
        let page = Page {
            first: self.starts[known].first,
            attributes: request.attributes,
            reply,
        };
        let last = page.reply.entries.last();
        let progress = last.is_some();
        let next = last.filter(|_| page.reply.more).map(|last| PageStart {
            first: page.end(),
            after: last.name.clone(),
        });
        if self.starts.get(known + 1) != next.as_ref() {
            // New, or the directory changed since: later starts are of another listing.
            self.starts.truncate(known + 1);
            self.starts.extend(next);
        }
        self.page = Some(page);
        progress
    }

    /// The entries from `number` to the end of the page, once `step` said that they are there.
    pub(crate) fn entries(&self, number: u64) -> &[ReadDirEntry] {
        let Some(page) = &self.page else { return &[] };
        let skip = number.checked_sub(page.first);
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| page.reply.entries.get(skip..))
            .unwrap_or_default()
    }

    /// The directory above, once a page is there.
    pub(crate) fn parent(&self) -> Option<InodeId> {
        self.page.as_ref().map(|page| page.reply.parent)
    }

    /// The last page start at or before an entry.
    fn start_of(&self, number: u64) -> PageStart {
        let next = self.starts.partition_point(|start| start.first <= number);
        self.starts[next.saturating_sub(1)].clone()
    }
}

impl Page {
    fn end(&self) -> u64 {
        self.first + self.reply.entries.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use types::{dentry::Dentry, inode::FileKind};

    use super::*;

    /// A server with these many names, `00000` and so on.
    struct Server {
        count: usize,
        fetched: usize,
    }

    impl Server {
        fn read(&mut self, request: &ReadDirRequest) -> ReadDirReply {
            self.fetched += 1;
            let limit = request.limit as usize;
            let all = (0..self.count).map(|i| format!("{i:05}").into_bytes());
            let names: Vec<_> = all.filter(|name| *name > request.after).collect();
            let entries = names.iter().take(limit).map(|name| ReadDirEntry {
                name: name.clone(),
                dentry: Dentry {
                    inode: InodeId(9),
                    kind: FileKind::File,
                },
                inode: None,
            });
            ReadDirReply {
                entries: entries.collect(),
                more: names.len() > limit,
                parent: InodeId(1),
            }
        }

        /// The names from `number` on that are there without another page.
        fn get(&mut self, stream: &mut DirStream, number: u64, attributes: bool) -> Vec<String> {
            while let Step::Fetch(request) = stream.step(number, attributes) {
                let reply = self.read(&request);
                if !stream.accept(&request, reply) {
                    break;
                }
            }
            let entries = stream.entries(number).iter();
            entries
                .map(|entry| String::from_utf8(entry.name.clone()).unwrap())
                .collect()
        }
    }

    fn server(count: usize) -> (Server, DirStream) {
        (Server { count, fetched: 0 }, DirStream::new(InodeId(2)))
    }

    #[test]
    fn every_name_is_listed_once_over_all_pages() {
        let (mut server, mut stream) = server(5000);
        let (mut number, mut seen) = (DOTS, Vec::new());
        loop {
            // The kernel takes a few at a time.
            let some = server.get(&mut stream, number, false);
            if some.is_empty() {
                break;
            }
            let taken = some.len().min(7);
            number += taken as u64;
            seen.extend(some.into_iter().take(taken));
        }
        let all: Vec<_> = (0..5000).map(|i| format!("{i:05}")).collect();
        assert_eq!(seen, all);
        assert_eq!(server.fetched, 6);
    }

    #[test]
    fn going_back_a_little_fetches_nothing() {
        let (mut server, mut stream) = server(100);
        server.get(&mut stream, DOTS, false);
        assert_eq!(server.get(&mut stream, 40, false)[0], "00038");
        assert_eq!(server.get(&mut stream, 12, false)[0], "00010");
        assert_eq!(server.fetched, 1);
        assert_eq!(stream.parent(), Some(InodeId(1)));
    }

    #[test]
    fn a_jump_finds_its_page() {
        let (mut server, mut stream) = server(5000);
        assert_eq!(server.get(&mut stream, 4002, false)[0], "04000");
        assert_eq!(server.get(&mut stream, 302, false)[0], "00300");
        assert_eq!(server.get(&mut stream, 4002, false)[0], "04000");
        assert!(server.get(&mut stream, 5002, false).is_empty());
        assert!(server.get(&mut stream, u64::MAX, false).is_empty());
    }

    #[test]
    fn a_directory_that_shrinks_meanwhile_still_ends() {
        let (mut server, mut stream) = server(5000);
        assert_eq!(server.get(&mut stream, 4002, false)[0], "04000");
        server.count = 100;
        assert!(server.get(&mut stream, 302, false).is_empty());
        assert!(server.get(&mut stream, 4002, false).is_empty());
        assert_eq!(server.get(&mut stream, 50, false)[0], "00048");
    }

    #[test]
    fn attributes_are_fetched_when_they_are_missing() {
        let (mut server, mut stream) = server(10);
        server.get(&mut stream, DOTS, false);
        server.get(&mut stream, DOTS, true);
        assert_eq!(server.fetched, 2);
        server.get(&mut stream, DOTS, false);
        assert_eq!(server.fetched, 2);
    }

    #[test]
    fn an_empty_directory_ends_at_once() {
        let (mut server, mut stream) = server(0);
        assert!(server.get(&mut stream, DOTS, true).is_empty());
        assert!(server.get(&mut stream, DOTS, true).is_empty());
        stream.rewind();
        server.count = 1;
        assert_eq!(server.get(&mut stream, DOTS, true), ["00000"]);
    }
}
