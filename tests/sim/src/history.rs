//! What the clients did and saw, in the order in which it happened.
//!
//! A chunk is a row of cells, each of which holds one number. Every number is written once, so a read says exactly
//! which writes it saw. The bytes of a cell follow from its number: a cell that mixes two is torn.

use std::sync::Arc;

use common::sync::Mutex;

/// Cells of a chunk.
pub const CELLS: usize = 4;
/// No multiple of a block, so that writes touch parts of blocks.
pub const CELL_BYTES: usize = 5000;
/// Bytes of a chunk that are used.
pub const ROW_BYTES: usize = CELLS * CELL_BYTES;

/// The numbers in the cells of a chunk; 0 where there was never one.
pub type Row = [u64; CELLS];

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The same number into some cells that lie side by side.
    Write {
        first: usize,
        count: usize,
        value: u64,
    },
    /// Nothing from this cell on.
    Truncate {
        cells: usize,
    },
    Read,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Saw(Row),
    /// It may have happened, or happen later.
    Unknown,
}

/// One operation of a client.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub client: u32,
    pub chunk: u32,
    pub action: Action,
    pub outcome: Outcome,
    /// Its place among all beginnings and ends.
    pub begun: u64,
    /// `None` when it may end any time later.
    pub ended: Option<u64>,
}

/// The operations of all clients. Clones are the same history.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    next_value: u64,
    operations: Vec<Operation>,
}

/// An operation that has begun.
#[derive(Debug)]
pub struct Begun(usize);

impl History {
    /// A number that was never written.
    pub fn new_value(&self) -> u64 {
        let mut inner = self.0.lock();
        inner.next_value += 1;
        inner.next_value
    }

    pub fn begin(&self, client: u32, chunk: u32, action: Action) -> Begun {
        let mut inner = self.0.lock();
        inner.clock += 1;
        let begun = inner.clock;
        inner.operations.push(Operation {
            client,
            chunk,
            action,
            outcome: Outcome::Unknown,
            begun,
            ended: None,
        });
        Begun(inner.operations.len() - 1)
    }

    pub fn end(&self, begun: &Begun, outcome: Outcome) {
        let mut inner = self.0.lock();
        inner.clock += 1;
        let clock = inner.clock;
        let operation = &mut inner.operations[begun.0];
        operation.outcome = outcome;
        operation.ended = (outcome != Outcome::Unknown).then_some(clock);
    }

    /// What was done to one chunk, except reads that saw nothing.
    pub fn of_chunk(&self, chunk: u32) -> Vec<Operation> {
        let inner = self.0.lock();
        let of_chunk = inner.operations.iter().filter(|operation| {
            let blind = operation.action == Action::Read && operation.outcome == Outcome::Unknown;
            operation.chunk == chunk && !blind
        });
        of_chunk.copied().collect()
    }

    /// All operations, and those among them that ended well.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.0.lock();
        let well = inner
            .operations
            .iter()
            .filter(|operation| operation.ended.is_some());
        (inner.operations.len(), well.count())
    }
}

/// The bytes of a cell with this number.
pub fn cell_bytes(value: u64) -> Vec<u8> {
    let mut state = value;
    let mut bytes = Vec::with_capacity(CELL_BYTES + 8);
    while bytes.len() < CELL_BYTES {
        bytes.extend(state.to_le_bytes());
        if value != 0 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        }
    }
    bytes.truncate(CELL_BYTES);
    bytes
}

/// The numbers in the cells of a chunk's first bytes.
///
/// # Errors
/// Which cell holds what no write has written.
pub fn row_of(bytes: &[u8]) -> Result<Row, String> {
    let mut row = [0; CELLS];
    for (index, (cell, value)) in bytes.chunks(CELL_BYTES).zip(&mut row).enumerate() {
        let mut first = [0; 8];
        first.copy_from_slice(&cell[..8]);
        *value = u64::from_le_bytes(first);
        if let Some(at) = cell
            .iter()
            .zip(cell_bytes(*value))
            .position(|(a, b)| *a != b)
        {
            return Err(format!(
                "cell {index} begins with {value} but differs at byte {at}"
            ));
        }
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_back_and_a_torn_cell_is_seen() {
        let mut bytes: Vec<u8> = [7, 0, 9, 1].into_iter().flat_map(cell_bytes).collect();
        assert_eq!(row_of(&bytes), Ok([7, 0, 9, 1]));
        bytes[2 * CELL_BYTES + 4000] ^= 1;
        assert!(row_of(&bytes).is_err());
    }
}
