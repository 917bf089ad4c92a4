//! Several reads or writes in one call of a client: they share requests, and each is an operation of its own.

use client::{RangeRead, RangeWritten, ReadRange, WriteRange};
use types::{id::InodeId, layout::Layout};

use super::{FIRST_INODE, SimClient};
use crate::history::{Action, CELL_BYTES, CELLS, Outcome, ROW_BYTES, cell_bytes};

impl SimClient {
    /// Reads or writes some chunks, perhaps one of them twice.
    pub(super) async fn burst(&self) {
        let count = 2 + self.below(3);
        let chunks: Vec<u32> = (0..count)
            .map(|_| self.below(self.placement.chunks))
            .collect();
        let layouts: Vec<Layout> = chunks
            .iter()
            .map(|chunk| self.placement.layout(*chunk))
            .collect();
        if self.below(2) == 0 {
            self.read_many(&chunks, &layouts).await;
        } else {
            self.write_many(&chunks, &layouts).await;
        }
    }

    async fn read_many(&self, chunks: &[u32], layouts: &[Layout]) {
        let action = Action::Read;
        let begun: Vec<_> = chunks
            .iter()
            .map(|chunk| self.begin(*chunk, action))
            .collect();
        let ranges = chunks.iter().zip(layouts).map(|(chunk, layout)| ReadRange {
            inode: inode(*chunk),
            layout,
            offset: 0,
            buf: self.buffers.allocate(ROW_BYTES),
        });
        let mut reads = self.storage.read_many(ranges.collect());
        while let Some(RangeRead { index, result, buf }) = reads.next().await {
            let chunk = chunks[index];
            let done = result.and_then(|()| self.saw(chunk, &buf));
            self.end(&begun[index], chunk, action, &done);
        }
    }

    async fn write_many(&self, chunks: &[u32], layouts: &[Layout]) {
        let (mut actions, mut begun, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        for (chunk, layout) in chunks.iter().zip(layouts) {
            let first = self.below(CELLS as u32);
            let count = 1 + self.below(CELLS as u32 - first);
            let value = self.context.history.new_value();
            let action = Action::Write {
                first: first as usize,
                count: count as usize,
                value,
            };
            let bytes = cell_bytes(value).repeat(count as usize);
            ranges.push(WriteRange {
                inode: inode(*chunk),
                layout,
                offset: u64::from(first) * CELL_BYTES as u64,
                data: self.buffers.copy_from(&bytes).freeze(),
            });
            begun.push(self.begin(*chunk, action));
            actions.push(action);
        }
        let mut writes = self.storage.write_many(ranges);
        while let Some(RangeWritten { index, result }) = writes.next().await {
            let done = result.map(|()| Outcome::Done);
            self.end(&begun[index], chunks[index], actions[index], &done);
        }
    }
}

fn inode(chunk: u32) -> InodeId {
    InodeId(FIRST_INODE + u64::from(chunk))
}
