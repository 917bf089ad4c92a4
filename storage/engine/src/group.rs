//! Where chunks lie: size classes, groups of 256 slots, and positions in them.
//!
//! A slot has a power of two of bytes, 64 KiB to 64 MiB. A group is a file of 256 slots of one class; the
//! slot with index `i` starts at byte `i * slot size`.

use std::fmt;

/// Slots in a group.
pub(crate) const SLOTS_PER_GROUP: u16 = 256;

/// The unit of checksums, and of writing: every write starts at a block and is filled up with zeros to the
/// end of one. A power of two, and a multiple of the device's logical block.
pub const BLOCK_BYTES: u32 = 4096;

/// What reads, writes and their memory are aligned to.
pub(crate) const DEVICE_BLOCK_BYTES: u32 = 4096;

const SMALLEST_SLOT_LOG2: u32 = 16;

/// One of the eleven sizes of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(u8);

impl SizeClass {
    /// How many there are: 64 KiB, 128 KiB, ... 64 MiB.
    pub const COUNT: u8 = 11;

    /// All of them, smallest first.
    pub fn all() -> impl Iterator<Item = SizeClass> {
        (0..Self::COUNT).map(SizeClass)
    }

    /// The class with this index.
    pub fn from_index(index: u8) -> Option<Self> {
        (index < Self::COUNT).then_some(Self(index))
    }

    /// The smallest class whose slots hold `length` bytes; `None` above 64 MiB.
    pub fn holding(length: u32) -> Option<Self> {
        Self::all().find(|class| class.slot_bytes() >= length)
    }

    /// Position in the order of sizes.
    pub fn index(self) -> u8 {
        self.0
    }

    /// Bytes in a slot.
    pub fn slot_bytes(self) -> u32 {
        1 << (SMALLEST_SLOT_LOG2 + u32::from(self.0))
    }
}

/// As directories are called: `64k` to `64m`.
impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot_bytes() >> 10 {
            kib @ ..1024 => write!(f, "{kib}k"),
            kib => write!(f, "{}m", kib >> 10),
        }
    }
}

/// A group file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    /// The size of its slots.
    pub class: SizeClass,
    /// Counts the groups of the class.
    pub number: u32,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08}", self.class, self.number)
    }
}

/// Which slot of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(pub u8);

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The group.
    pub group: GroupId,
    /// The slot in it.
    pub slot: SlotIndex,
}

impl Position {
    /// Where the slot starts in the group's file.
    pub fn offset(self) -> u64 {
        u64::from(self.slot.0) * u64::from(self.group.class.slot_bytes())
    }

    /// Where it ends.
    pub fn end(self) -> u64 {
        self.offset() + u64::from(self.group.class.slot_bytes())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.slot.0)
    }
}

/// The blocks that `length` bytes take.
pub(crate) fn block_count(length: u32) -> u32 {
    length.div_ceil(BLOCK_BYTES)
}

/// `length` filled up to whole blocks.
pub(crate) fn round_up(length: u32) -> u32 {
    block_count(length) * BLOCK_BYTES
}

/// `length` cut to whole blocks.
pub(crate) fn round_down(length: u32) -> u32 {
    length - length % BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_class_that_holds_a_length_is_taken() {
        let class = |length| SizeClass::holding(length).map(|class| class.to_string());
        assert_eq!(class(1).as_deref(), Some("64k"));
        assert_eq!(class(65_536).as_deref(), Some("64k"));
        assert_eq!(class(65_537).as_deref(), Some("128k"));
        assert_eq!(class(1 << 20).as_deref(), Some("1m"));
        assert_eq!(class(64 << 20).as_deref(), Some("64m"));
        assert_eq!(class((64 << 20) + 1), None);
    }

    #[test]
    fn slots_of_a_group_lie_side_by_side() {
        let class = SizeClass::holding(100_000).unwrap();
        let group = GroupId { class, number: 7 };
        let slot = Position {
            group,
            slot: SlotIndex(255),
        };
        assert_eq!((slot.offset(), slot.end()), (255 << 17, 256 << 17));
        assert_eq!(slot.to_string(), "128k/00000007.255");
    }
}
