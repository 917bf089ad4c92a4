//! Decides where the bytes of a new version go. Pure, except that room behind the committed bytes is claimed here.
//!
//! | what changes | where it goes |
//! | --- | --- |
//! | nothing, or only the end is cut within the size class | nowhere |
//! | few blocks, in the slot of the committed content | the log |
//! | bytes are added behind the committed ones | behind them in the slot; the last old block, if partial, into the log |
//! | anything else | a new slot, with what stays; through the log when it is small |

use std::ops::Range;

use super::Shape;
use crate::{
    group::{BLOCK_BYTES, SizeClass, block_count, round_up},
    slots::Slot,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// There are no bytes.
    Empty,
    /// The old bytes serve as they are.
    Same,
    /// The head of the old bytes.
    Cut,
    /// These blocks into the log.
    Log(Range<u32>),
    /// From this block on behind the old bytes; claimed.
    Append(u32),
    /// All into a new slot.
    Copy,
}

impl Plan {
    /// `old` is the length of the committed content and its slot.
    pub(super) fn of(shape: &Shape, old: Option<(u32, &Slot)>, small_update_bytes: u32) -> Self {
        if shape.length == 0 {
            return Self::Empty;
        }
        let Some((old_length, slot)) = old else {
            return Self::Copy;
        };
        if SizeClass::holding(shape.length) != Some(slot.position().group.class) {
            return Self::Copy;
        }
        if shape.payload.is_none() && shape.kept == shape.length {
            return if shape.length == old_length {
                Self::Same
            } else {
                Self::Cut
            };
        }
        if shape.kept < old_length {
            return Self::Copy;
        }
        let changed = changed_blocks(shape, old_length);
        if (changed.end - changed.start) * BLOCK_BYTES <= small_update_bytes {
            return Self::Log(changed);
        }
        let from = block_count(old_length);
        let behind = shape
            .payload
            .as_ref()
            .is_none_or(|payload| payload.start >= old_length);
        let claimed = behind
            && shape.length > from * BLOCK_BYTES
            && slot.claim(from * BLOCK_BYTES, round_up(shape.length));
        if claimed {
            Self::Append(from)
        } else {
            Self::Copy
        }
    }
}

/// The blocks that change when nothing is cut: those of the payload, and those of zeros before it.
fn changed_blocks(shape: &Shape, old_length: u32) -> Range<u32> {
    let (start, end) = match &shape.payload {
        Some(payload) => (payload.start.min(old_length), payload.end),
        None => (old_length, shape.length),
    };
    start / BLOCK_BYTES..block_count(end)
}

/// The old blocks of which bytes stay when all is copied: those before the payload, and those after it. The second
/// range starts at or behind the end of the first.
pub(super) fn kept_blocks(shape: &Shape) -> [Range<u32>; 2] {
    let end = block_count(shape.kept);
    let Some(payload) = &shape.payload else {
        return [0..end, end..end];
    };
    let before = block_count(payload.start.min(shape.kept));
    if payload.end >= shape.kept {
        return [0..before, before..before];
    }
    let after = (payload.end / BLOCK_BYTES).max(before);
    [0..before, after..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u32 = BLOCK_BYTES;

    fn shape(kept: u32, payload: Option<Range<u32>>) -> Shape {
        let length = payload
            .as_ref()
            .map_or(kept, |payload| payload.end.max(kept));
        Shape {
            exists: true,
            length,
            kept,
            payload,
            hashed: None,
        }
    }

    #[test]
    fn only_what_changes_goes_into_the_log() {
        let changed = |kept, payload| changed_blocks(&shape(kept, payload), kept);
        assert_eq!(changed(10 * B, Some(2 * B..3 * B)), 2..3);
        assert_eq!(changed(10 * B, Some(2 * B + 1..3 * B + 1)), 2..4);
        assert_eq!(changed(10 * B + 5, Some(10 * B + 5..10 * B + 9)), 10..11);
        assert_eq!(changed(10 * B + 5, Some(12 * B..12 * B + 9)), 10..13);
        assert_eq!(changed(10 * B, Some(12 * B..12 * B + 9)), 10..13);
    }

    #[test]
    fn only_blocks_of_which_bytes_stay_are_read() {
        let ranges = |kept, payload| kept_blocks(&shape(kept, payload));
        assert_eq!(ranges(10 * B, None), [0..10, 10..10]);
        assert_eq!(ranges(10 * B, Some(2 * B..4 * B)), [0..2, 4..10]);
        assert_eq!(ranges(10 * B, Some(2 * B + 1..4 * B + 1)), [0..3, 4..10]);
        assert_eq!(ranges(10 * B, Some(2 * B + 1..2 * B + 9)), [0..3, 3..10]);
        assert_eq!(ranges(10 * B, Some(0..10 * B)), [0..0, 0..0]);
        assert_eq!(ranges(10 * B, Some(8 * B..12 * B)), [0..8, 8..8]);
        let within_the_last = ranges(10 * B - 5, Some(9 * B + 1..10 * B - 7));
        assert_eq!(within_the_last, [0..10, 10..10]);
        assert_eq!(ranges(3, Some(9 * B..10 * B)), [0..1, 1..1]);
    }

    /// For all small shapes: each old byte that stays lies in a block that is read.
    #[test]
    fn every_byte_that_stays_is_read() {
        let edges = [0, 1, B - 1, B, B + 1, 2 * B, 3 * B - 1, 3 * B];
        for kept in edges {
            for start in edges {
                for end in edges.into_iter().filter(|&end| end > start) {
                    let shape = shape(kept, Some(start..end));
                    let [before, after] = kept_blocks(&shape);
                    assert!(before.end <= after.start && after.end <= block_count(kept));
                    for byte in edges.into_iter().filter(|&byte| byte < kept) {
                        let stays = byte < start || byte >= end;
                        let block = byte / B;
                        let read = before.contains(&block) || after.contains(&block);
                        assert!(read || !stays, "{kept} {start}..{end}: byte {byte}");
                        assert!(shape.keeps_part_of(block) || !stays);
                    }
                }
            }
        }
    }
}
