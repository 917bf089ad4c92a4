//! Which slots are taken. Pure: files, durability and readers are the business of `slots`.
//!
//! The fullest group with a free slot is filled first, and in it the lowest slot, so that groups become
//! empty and can be given back, and files grow no further than needed.
//!
//! Invariant: `by_free` of a class holds exactly its groups with a free slot, and `used_bytes` is the sum over
//! all taken slots. `check` proves both.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::{GroupId, Position, SLOTS_PER_GROUP, SizeClass, SlotIndex};

const HALF: u16 = SLOTS_PER_GROUP / 2;

/// An empty group is kept for the next chunk of its class if its file has no more bytes than this: it is worth the making of a
/// file, but not much space.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// The taken slots of one disk.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    classes: BTreeMap<SizeClass, Class>,
    used_bytes: u64,
}

#[derive(Debug, Default)]
struct Class {
    groups: BTreeMap<u32, Group>,
    /// (free slots, number) of each group with a free slot: the first one is the fullest.
    by_free: BTreeSet<(u16, u32)>,
    /// Above every number given out since the start, so wider than they are.
    next_number: u64,
}

#[derive(Debug, Default)]
struct Group {
    taken: [u64; 4],
    taken_count: u16,
    /// How far the file is known to reach.
    file_bytes: u64,
    /// How far it reaches whatever happens.
    durable_bytes: u64,
}

impl Group {
    fn free_count(&self) -> u16 {
        SLOTS_PER_GROUP - self.taken_count
    }

    fn is_taken(&self, slot: SlotIndex) -> bool {
        self.taken[usize::from(slot.0 / 64)] >> (slot.0 % 64) & 1 == 1
    }

    fn flip(&mut self, slot: SlotIndex) {
        self.taken[usize::from(slot.0 / 64)] ^= 1 << (slot.0 % 64);
    }

    fn lowest_free(&self) -> Option<SlotIndex> {
        (0..=u8::MAX)
            .map(SlotIndex)
            .find(|&slot| !self.is_taken(slot))
    }
}

/// What became of a group by giving a slot back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    InUse,
    /// Half of its slots have just become free.
    HalfEmpty,
    Empty,
}

impl Allocator {
    /// Makes a group known, with no slot taken. That its file reaches so far may be lost with the power, until it is synced.
    pub(crate) fn add_group(&mut self, group: GroupId, file_bytes: u64) {
        let class = self.classes.entry(group.class).or_default();
        class.next_number = class.next_number.max(u64::from(group.number) + 1);
        let added = Group {
            file_bytes,
            ..Group::default()
        };
        class.by_free.insert((added.free_count(), group.number));
        let before = class.groups.insert(group.number, added);
        assert!(before.is_none(), "group {group} was added twice");
    }

    /// A name for a new group; `None` when all numbers are used up.
    pub(crate) fn new_group(&mut self, class: SizeClass) -> Option<GroupId> {
        let entry = self.classes.entry(class).or_default();
        let number = u32::try_from(entry.next_number).ok()?;
        entry.next_number += 1;
        Some(GroupId { class, number })
    }

    /// Takes a slot; `None` when the groups of the class are full.
    pub(crate) fn take(&mut self, class: SizeClass) -> Option<Position> {
        let entry = self.classes.get_mut(&class)?;
        let &(_, number) = entry.by_free.first()?;
        let group = GroupId { class, number };
        let slot = entry.groups.get(&number)?.lowest_free()?;
        let position = Position { group, slot };
        let taken = self.take_at(position);
        assert!(taken, "slot {position} was free");
        Some(position)
    }

    /// Takes this slot; false when it is taken or its group unknown.
    pub(crate) fn take_at(&mut self, position: Position) -> bool {
        let Position { group, slot } = position;
        let Some(class) = self.classes.get_mut(&group.class) else {
            return false;
        };
        let Some(entry) = class.groups.get_mut(&group.number) else {
            return false;
        };
        if entry.is_taken(slot) {
            return false;
        }
        class.by_free.remove(&(entry.free_count(), group.number));
        entry.flip(slot);
        entry.taken_count += 1;
        if entry.free_count() > 0 {
            class.by_free.insert((entry.free_count(), group.number));
        }
        self.used_bytes += u64::from(group.class.slot_bytes());
        true
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, position: Position) -> Released {
        let Position { group, slot } = position;
        let class = self.classes.get_mut(&group.class);
        let entry = class.and_then(|class| {
            let entry = class.groups.get_mut(&group.number)?;
            Some((&mut class.by_free, entry))
        });
        let (by_free, entry) = entry.expect("a taken slot lies in a known group");
        assert!(entry.is_taken(slot), "slot {position} was taken");
        by_free.remove(&(entry.free_count(), group.number));
        entry.flip(slot);
        entry.taken_count -= 1;
        by_free.insert((entry.free_count(), group.number));
        self.used_bytes -= u64::from(group.class.slot_bytes());
        match entry.taken_count {
            0 => Released::Empty,
            HALF => Released::HalfEmpty,
            _ => Released::InUse,
        }
    }

    /// How far the file of a group reaches.
    pub(crate) fn file_bytes(&self, group: GroupId) -> Option<u64> {
        let entry = self.classes.get(&group.class)?.groups.get(&group.number)?;
        Some(entry.file_bytes)
    }

    /// Notes that the file of a group has grown.
    pub(crate) fn set_file_bytes(&mut self, group: GroupId, bytes: u64) {
        let class = self.classes.get_mut(&group.class);
        if let Some(entry) = class.and_then(|class| class.groups.get_mut(&group.number)) {
            entry.file_bytes = entry.file_bytes.max(bytes);
        }
    }

    /// How far the file of a group reaches whatever happens.
    pub(crate) fn durable_bytes(&self, group: GroupId) -> Option<u64> {
        let entry = self.classes.get(&group.class)?.groups.get(&group.number)?;
        Some(entry.durable_bytes)
    }

    /// Notes that a group that reached so far was synced.
    pub(crate) fn set_durable_bytes(&mut self, group: GroupId, bytes: u64) {
        let class = self.classes.get_mut(&group.class);
        if let Some(entry) = class.and_then(|class| class.groups.get_mut(&group.number)) {
            entry.durable_bytes = entry.durable_bytes.max(bytes);
        }
    }

    /// Groups of which at most half is taken, emptiest first, whose chunks fit into the free slots of the class's other
    /// groups that are in use.
    ///
    /// At least half of what is emptied becomes free space, so no more than one byte is copied for each byte given back.
    pub(crate) fn worth_emptying(&self) -> Vec<GroupId> {
        let mut worth = Vec::new();
        for (&class, entry) in &self.classes {
            let in_use = entry.by_free.range(..(SLOTS_PER_GROUP, 0));
            let mut free_elsewhere: u32 = in_use.clone().map(|&(free, _)| u32::from(free)).sum();
            let mut moved: u32 = 0;
            for &(free, number) in in_use.rev() {
                let taken = SLOTS_PER_GROUP - free;
                free_elsewhere -= u32::from(free);
                moved += u32::from(taken);
                if taken > HALF || moved > free_elsewhere {
                    break;
                }
                worth.push(GroupId { class, number });
            }
        }
        worth
    }

    /// Takes a slot in a group that is in use, and not one of these; `None` when there is none. One that the group's file
    /// has space for comes first: the file system may be full, and this is to make room.
    pub(crate) fn take_outside(
        &mut self,
        class: SizeClass,
        groups: &BTreeSet<GroupId>,
    ) -> Option<Position> {
        let entry = self.classes.get(&class)?;
        let in_use = entry.by_free.range(..(SLOTS_PER_GROUP, 0));
        let in_use = in_use.map(|&(_, number)| GroupId { class, number });
        let mut free = in_use
            .filter(|group| !groups.contains(group))
            .filter_map(|group| {
                let state = entry.groups.get(&group.number)?;
                let slot = state.lowest_free()?;
                Some((Position { group, slot }, state.file_bytes))
            })
            .peekable();
        let (fullest, _) = *free.peek()?;
        let there = free.find(|(position, file_bytes)| position.end() <= *file_bytes);
        let position = there.map_or(fullest, |(position, _)| position);
        self.take_at(position).then_some(position)
    }

    /// Forgets the empty groups, except a small one of each class, and names them.
    pub(crate) fn retire_empty(&mut self) -> Vec<GroupId> {
        let mut retired = Vec::new();
        for (&class, entry) in &mut self.classes {
            let empty = entry.by_free.range((SLOTS_PER_GROUP, 0)..);
            let mut empty: Vec<u32> = empty.map(|&(_, number)| number).collect();
            let is_small = |number| {
                let group: Option<&Group> = entry.groups.get(number);
                group.is_some_and(|group| group.file_bytes <= KEPT_BYTES_MAX)
            };
            if let Some(kept) = empty.iter().position(is_small) {
                empty.remove(kept);
            }
            for number in empty {
                entry.by_free.remove(&(SLOTS_PER_GROUP, number));
                entry.groups.remove(&number);
                retired.push(GroupId { class, number });
            }
        }
        retired
    }

    /// Bytes of all taken slots.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn is_taken(&self, position: Position) -> bool {
        self.classes
            .get(&position.group.class)
            .and_then(|class| class.groups.get(&position.group.number))
            .is_some_and(|group| group.is_taken(position.slot))
    }

    /// How many slots are taken, and how many groups there are.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let groups = self
            .classes
            .values()
            .flat_map(|class| class.groups.values());
        groups.fold((0, 0), |(slots, groups), group| {
            (slots + u64::from(group.taken_count), groups + 1)
        })
    }

    /// The invariants above, as a list of what is wrong.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
        let mut used_bytes = 0;
        for (class, entry) in &self.classes {
            let mut by_free = BTreeSet::new();
            for (&number, group) in &entry.groups {
                let taken: u32 = group.taken.iter().map(|word| word.count_ones()).sum();
                if taken != u32::from(group.taken_count) {
                    problems.push(format!("group {class}/{number} counts its slots wrongly"));
                }
                if group.free_count() > 0 {
                    by_free.insert((group.free_count(), number));
                }
                used_bytes += u64::from(taken) * u64::from(class.slot_bytes());
            }
            if by_free != entry.by_free {
                problems.push(format!("class {class} orders its groups wrongly"));
            }
        }
        if used_bytes != self.used_bytes {
            problems.push(format!(
                "{} bytes counted as used, {used_bytes} are",
                self.used_bytes
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> SizeClass {
        SizeClass::from_index(0).unwrap()
    }

    fn group(number: u32) -> GroupId {
        let class = class();
        GroupId { class, number }
    }

    fn healthy(allocator: &Allocator) {
        let mut problems = Vec::new();
        allocator.check(&mut problems);
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn the_fullest_group_is_filled_first() {
        let mut allocator = Allocator::default();
        for number in [0, 1] {
            allocator.add_group(group(number), 0);
        }
        let in_second = Position {
            group: GroupId {
                class: class(),
                number: 1,
            },
            slot: SlotIndex(3),
        };
        assert!(allocator.take_at(in_second) && !allocator.take_at(in_second));
        let next = allocator.take(class()).unwrap();
        assert_eq!((next.group.number, next.slot), (1, SlotIndex(0)));
        healthy(&allocator);
    }

    #[test]
    fn a_full_group_gives_nothing_and_one_empty_group_is_kept() {
        let mut allocator = Allocator::default();
        for _ in 0..3 {
            let group = allocator.new_group(class()).unwrap();
            allocator.add_group(group, 0);
        }
        let taken: Vec<Position> = std::iter::from_fn(|| allocator.take(class())).collect();
        assert_eq!(taken.len(), 3 * 256);
        assert_eq!(allocator.used_bytes(), 3 << 24);
        let empties = taken
            .iter()
            .filter(|&&position| allocator.release(position) == Released::Empty);
        assert_eq!(empties.count(), 3);
        assert_eq!(allocator.retire_empty().len(), 2);
        assert_eq!(allocator.retire_empty().len(), 0);
        assert_eq!(allocator.new_group(class()).unwrap().number, 3);
        healthy(&allocator);
    }

    #[test]
    fn a_large_empty_group_is_not_kept() {
        let mut allocator = Allocator::default();
        for (number, file_bytes) in [(0, KEPT_BYTES_MAX + 1), (1, KEPT_BYTES_MAX), (2, 0)] {
            allocator.add_group(group(number), file_bytes);
        }
        assert_eq!(allocator.retire_empty(), [group(0), group(2)]);
        allocator.set_file_bytes(group(1), KEPT_BYTES_MAX + 1);
        assert_eq!(allocator.retire_empty(), [group(1)]);
        healthy(&allocator);
    }

    #[test]
    fn no_number_of_a_group_is_given_out_twice() {
        let mut allocator = Allocator::default();
        allocator.add_group(group(u32::MAX - 1), 0);
        assert_eq!(allocator.new_group(class()), Some(group(u32::MAX)));
        assert_eq!(allocator.new_group(class()), None);
    }

    #[test]
    fn groups_are_worth_emptying_when_the_others_have_room() {
        let fill = |counts: &[u16]| {
            let mut allocator = Allocator::default();
            for (number, &count) in (0..).zip(counts) {
                allocator.add_group(group(number), 0);
                for slot in (0..=u8::MAX).take(count.into()).map(SlotIndex) {
                    let group = group(number);
                    assert!(allocator.take_at(Position { group, slot }));
                }
            }
            allocator
        };
        let worth = |counts: &[u16]| -> Vec<u32> {
            let worth = fill(counts).worth_emptying().into_iter();
            worth.map(|group| group.number).collect()
        };
        // One group alone, full groups, and room only in an empty group.
        for counts in [
            &[3][..],
            &[256, 256],
            &[128, 0],
            &[129, 129, 129],
            &[256, 1],
        ] {
            assert_eq!(worth(counts), [] as [u32; 0], "{counts:?}");
        }
        assert_eq!(worth(&[128, 128]), [1]);
        assert_eq!(worth(&[200, 57, 256]), [] as [u32; 0]);
        assert_eq!(worth(&[200, 56, 256]), [1]);
        assert_eq!(worth(&[60, 200, 50, 110, 0]), [2, 0]);
        let mut allocator = fill(&[60, 200, 50, 110, 0]);
        let leaving: BTreeSet<GroupId> = [group(2), group(0)].into();
        for _ in 0..110 {
            let position = allocator.take_outside(class(), &leaving).unwrap();
            assert!([1, 3].contains(&position.group.number));
        }
        assert_eq!(
            allocator
                .take_outside(class(), &leaving)
                .unwrap()
                .group
                .number,
            3
        );
        // A group whose file has space comes before a fuller one that would have to grow.
        let mut allocator = fill(&[60, 200, 50, 110, 0]);
        allocator.set_file_bytes(group(3), 1 << 24);
        let position = allocator.take_outside(class(), &leaving).unwrap();
        assert_eq!((position.group.number, position.slot), (3, SlotIndex(110)));
        healthy(&allocator);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_slot_is_handed_out_twice(steps in prop::collection::vec((any::<bool>(), 0..1000_usize), 1..600)) {
            let mut allocator = Allocator::default();
            let mut held: Vec<Position> = Vec::new();
            for (take, pick) in steps {
                if take || held.is_empty() {
                    let position = allocator.take(class()).unwrap_or_else(|| {
                        let group = allocator.new_group(class()).unwrap();
                        allocator.add_group(group, 0);
                        allocator.take(class()).unwrap()
                    });
                    prop_assert!(!held.contains(&position));
                    held.push(position);
                } else {
                    let position = held.swap_remove(pick % held.len());
                    allocator.release(position);
                }
                allocator.retire_empty();
            }
            healthy(&allocator);
            prop_assert_eq!(allocator.counts().0, held.len() as u64);
        }
    }
}
