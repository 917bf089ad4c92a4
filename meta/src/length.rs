//! The rules of a file's length (protocol L2 to L5), pure.
//!
//! A length is exact when no write session exists, else a lower bound. Reports only raise it, and only at
//! the truncate version that the writer saw; only a truncate lowers it.

use types::{
    layout::{FILE_LENGTH_MAX, Layout},
    rpc::{meta::LengthReport, storage::LastChunk},
    version::TruncateVersion,
};

/// What becomes of a writer's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file's length is now this.
    Length(u64),
    /// The report belongs to content that was truncated since.
    Stale,
    /// No file is that long.
    TooLarge,
}

/// Judges a report against the file as it is.
pub fn judge(length: u64, current: TruncateVersion, report: LengthReport) -> Verdict {
    if report.end > FILE_LENGTH_MAX {
        Verdict::TooLarge
    } else if report.truncate_version == current {
        Verdict::Length(length.max(report.end))
    } else {
        Verdict::Stale
    }
}

/// How a length is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is that long already.
    Nothing,
    /// One transaction: there are no bytes behind the end.
    Grow,
    /// Chunks must be cut: an intent, the work, the new length.
    Cut,
}

/// How to get from `length` to `wanted`. Where the length is only a lower bound there may be bytes behind it,
/// which must not come back: then even a longer length is cut to.
pub fn plan(length: u64, exact: bool, wanted: u64) -> Plan {
    if !exact || wanted < length {
        Plan::Cut
    } else if wanted > length {
        Plan::Grow
    } else {
        Plan::Nothing
    }
}

/// What a truncate does to chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Chunks from here on are removed; `None` when no chunk can be there.
    pub remove_from: Option<u32>,
    /// This chunk is cut to this many bytes.
    pub boundary: Option<(u32, u32)>,
}

/// The cut that makes a file at most `length` long.
pub fn cut(length: u64, layout: &Layout) -> Cut {
    let chunk_size = u64::from(layout.chunk_size);
    let inside =
        u32::try_from(length % chunk_size).expect("less than a chunk size, which is a u32");
    let boundary = u32::try_from(length / chunk_size)
        .ok()
        .filter(|_| inside > 0)
        .map(|index| (index, inside));
    Cut {
        remove_from: u32::try_from(length.div_ceil(chunk_size)).ok(),
        boundary,
    }
}

/// The length of a file whose last chunk is this.
pub fn from_last_chunk(last: Option<&LastChunk>, layout: &Layout) -> u64 {
    last.map_or(0, |last| {
        u64::from(last.index) * u64::from(layout.chunk_size) + u64::from(last.length)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::{id::ChainTableId, layout::CHUNK_SIZE_MIN, version::ChainTableVersion};

    use super::*;

    fn layout(chunk_size: u32) -> Layout {
        Layout {
            table: ChainTableId(1),
            table_version: ChainTableVersion(1),
            chunk_size,
            stripe_size: 1,
            base: 0,
            seed: 0,
        }
    }

    fn report(end: u64, version: u64) -> LengthReport {
        LengthReport {
            end,
            truncate_version: TruncateVersion(version),
        }
    }

    #[test]
    fn reports_raise_the_length_at_an_equal_version_only() {
        let current = TruncateVersion(3);
        assert_eq!(judge(10, current, report(12, 3)), Verdict::Length(12));
        assert_eq!(judge(10, current, report(8, 3)), Verdict::Length(10));
        assert_eq!(judge(10, current, report(12, 2)), Verdict::Stale);
        assert_eq!(judge(10, current, report(12, 4)), Verdict::Stale);
        assert_eq!(judge(10, current, report(u64::MAX, 3)), Verdict::TooLarge);
    }

    #[test]
    fn a_lower_bound_is_always_cut() {
        for (length, wanted, plan_when_exact) in [
            (5, 5, Plan::Nothing),
            (5, 6, Plan::Grow),
            (5, 4, Plan::Cut),
            (0, 0, Plan::Nothing),
        ] {
            assert_eq!(plan(length, true, wanted), plan_when_exact);
            assert_eq!(plan(length, false, wanted), Plan::Cut);
        }
    }

    #[test]
    fn cuts_at_the_edges_of_what_indexes_can_name() {
        let smallest = layout(CHUNK_SIZE_MIN);
        let all = Cut {
            remove_from: Some(0),
            boundary: None,
        };
        assert_eq!(cut(0, &smallest), all);
        let nothing = Cut {
            remove_from: None,
            boundary: None,
        };
        assert_eq!(cut(FILE_LENGTH_MAX, &smallest), nothing);
        let last = cut(FILE_LENGTH_MAX - 1, &smallest);
        assert_eq!(last.boundary, Some((u32::MAX, CHUNK_SIZE_MIN - 1)));
        assert_eq!(last.remove_from, None);
    }

    proptest! {
        #[test]
        fn a_cut_leaves_exactly_the_bytes_before_the_length(length in 0_u64..1 << 20, shift in 0_u32..3) {
            let layout = layout(CHUNK_SIZE_MIN << shift);
            let size = u64::from(layout.chunk_size);
            let cut = cut(length, &layout);
            let kept: u64 = (0..cut.remove_from.unwrap())
                .map(|index| match cut.boundary {
                    Some((boundary, inside)) if boundary == index => u64::from(inside),
                    _ => size,
                })
                .sum();
            prop_assert_eq!(kept, length);
            if length > 0 {
                let index = u32::try_from((length - 1) / size).unwrap();
                let inside = u32::try_from((length - 1) % size).unwrap() + 1;
                let last = LastChunk { index, length: inside };
                prop_assert_eq!(from_last_chunk(Some(&last), &layout), length);
            }
        }
    }
}
