//! The blocks of some content: their checksums, and which of them lie in the log instead of the slot. Pure.
//!
//! One function, `patched`, makes the blocks of a new version out of those of the committed one. It works on whatever
//! says where a block lies, so that an update in memory and its replay after a crash cannot differ.

use types::checksum::Checksum;

/// Where the blocks of a patch lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places<P> {
    /// Where they lay before.
    Kept,
    /// In the slot.
    Slot,
    /// In the log, one place for each block.
    Log(Vec<P>),
}

/// Neighbouring blocks that change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch<P> {
    /// The first of them.
    pub(crate) first: u32,
    /// Their checksums.
    pub(crate) sums: Vec<Checksum>,
    pub(crate) places: Places<P>,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocks<P> {
    /// One for each block; the last one covers what is left of the content.
    pub(crate) sums: Box<[Checksum]>,
    /// The blocks that lie in the log, in order. What the slot holds in their place is never read.
    pub(crate) overlay: Vec<(u32, P)>,
}

impl<P: Clone> Blocks<P> {
    /// Blocks that all lie in the slot.
    pub(crate) fn in_slot(sums: impl Into<Box<[Checksum]>>) -> Self {
        Self {
            sums: sums.into(),
            overlay: Vec::new(),
        }
    }

    /// The first `keep` blocks, patched. A patch may add blocks, but leaves no gap.
    ///
    /// # Errors
    /// What is wrong, when a patch that was read from a disk does not fit.
    pub(crate) fn patched(&self, keep: u32, patches: &[Patch<P>]) -> Result<Self, &'static str> {
        let keep = keep as usize;
        if keep > self.sums.len() {
            return Err("keeps blocks that are not there");
        }
        let mut sums = self.sums[..keep].to_vec();
        let mut overlay: Vec<(u32, P)> = self.overlay.clone();
        overlay.retain(|(block, _)| (*block as usize) < keep);
        for patch in patches {
            let first = patch.first as usize;
            if first > sums.len() || patch.sums.is_empty() {
                return Err("a patch leaves a gap");
            }
            let end = first + patch.sums.len();
            if end > sums.len() {
                sums.resize(end, Checksum::default());
            }
            sums[first..end].copy_from_slice(&patch.sums);
            let covered = |block: u32| (first..end).contains(&(block as usize));
            match &patch.places {
                Places::Kept => {}
                Places::Slot => overlay.retain(|(block, _)| !covered(*block)),
                Places::Log(places) => {
                    if places.len() != patch.sums.len() {
                        return Err("a patch has more blocks than places");
                    }
                    let from = overlay.partition_point(|(block, _)| (*block as usize) < first);
                    let to = overlay.partition_point(|(block, _)| (*block as usize) < end);
                    overlay.splice(from..to, (patch.first..).zip(places.iter().cloned()));
                }
            }
        }
        Ok(Self {
            sums: sums.into(),
            overlay,
        })
    }

    /// The same with other places.
    pub(crate) fn map<Q, E>(
        &self,
        mut place: impl FnMut(&P) -> Result<Q, E>,
    ) -> Result<Blocks<Q>, E> {
        let overlay = self.overlay.iter();
        Ok(Blocks {
            sums: self.sums.clone(),
            overlay: overlay
                .map(|(block, old)| Ok((*block, place(old)?)))
                .collect::<Result<_, E>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(values: &[u32]) -> Vec<Checksum> {
        values.iter().copied().map(Checksum).collect()
    }

    fn patch(first: u32, values: &[u32], places: Places<char>) -> Patch<char> {
        Patch {
            first,
            sums: sums(values),
            places,
        }
    }

    #[test]
    fn patches_replace_and_add_blocks() {
        let base = Blocks::<char>::in_slot(sums(&[1, 2, 3, 4]));
        let logged = base
            .patched(4, &[patch(1, &[20, 30], Places::Log(vec!['a', 'b']))])
            .unwrap();
        assert_eq!(logged.sums[..], sums(&[1, 20, 30, 4]));
        assert_eq!(logged.overlay, [(1, 'a'), (2, 'b')]);
        let again = logged
            .patched(
                4,
                &[
                    patch(2, &[31], Places::Log(vec!['c'])),
                    patch(4, &[50, 60], Places::Slot),
                ],
            )
            .unwrap();
        assert_eq!(again.sums[..], sums(&[1, 20, 31, 4, 50, 60]));
        assert_eq!(again.overlay, [(1, 'a'), (2, 'c')]);
        let cut = again.patched(2, &[patch(1, &[21], Places::Kept)]).unwrap();
        assert_eq!(cut.sums[..], sums(&[1, 21]));
        assert_eq!(cut.overlay, [(1, 'a')]);
        let in_slot = again
            .patched(6, &[patch(0, &[7, 8], Places::Slot)])
            .unwrap();
        assert_eq!(in_slot.overlay, [(2, 'c')]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let base = Blocks::<char>::in_slot(sums(&[1, 2]));
        assert!(base.patched(3, &[]).is_err());
        assert!(base.patched(2, &[patch(3, &[1], Places::Slot)]).is_err());
        assert!(base.patched(2, &[patch(0, &[], Places::Slot)]).is_err());
        let short = patch(0, &[1, 2], Places::Log(vec!['a']));
        assert!(base.patched(2, &[short]).is_err());
    }
}
