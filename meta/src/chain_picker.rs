//! Which chains a new file lies on.
//!
//! Files start at neighbouring places of the table in turn, so that small files spread evenly; a random
//! seed orders each file's stripe, so that files which start together do not march in step.

use std::sync::atomic::{AtomicU32, Ordering};

use types::{
    id::ChainTableId,
    layout::{Layout, STRIPE_SIZE_MAX},
    routing::RoutingInfo,
};

/// The table that files go to unless a layout says otherwise.
pub const DEFAULT_TABLE: ChainTableId = ChainTableId(1);

/// Makes layouts.
#[derive(Debug)]
pub struct ChainPicker {
    chunk_size: u32,
    stripe_size: u32,
    next_base: AtomicU32,
}

impl ChainPicker {
    /// Files get chunks of this size and spread over this many chains, when there are as many.
    pub fn new(chunk_size: u32, stripe_size: u32, first_base: u32) -> Self {
        Self {
            chunk_size,
            stripe_size,
            next_base: AtomicU32::new(first_base),
        }
    }

    /// A layout for a new file: like `inherited` where that says something, on the newest version of its
    /// table. `None` when the table is missing or empty.
    pub fn pick(
        &self,
        routing: &RoutingInfo,
        inherited: Option<&Layout>,
        seed: u64,
    ) -> Option<Layout> {
        let table = inherited.map_or(DEFAULT_TABLE, |layout| layout.table);
        let table = routing.newest_table(table)?;
        let count = u32::try_from(table.chains.len()).ok().filter(|n| *n > 0)?;
        let wanted = inherited.map_or(self.stripe_size, |layout| layout.stripe_size);
        Some(Layout {
            table: table.id,
            table_version: table.version,
            chunk_size: inherited.map_or(self.chunk_size, |layout| layout.chunk_size),
            stripe_size: wanted.clamp(1, count.min(STRIPE_SIZE_MAX)),
            base: self.next_base.fetch_add(1, Ordering::Relaxed) % count,
            seed,
        })
    }
}

/// Whether a layout that a client brings can be used: its numbers make sense and its table exists.
pub fn is_usable(routing: &RoutingInfo, layout: &Layout) -> bool {
    let table = routing.tables.get(&(layout.table, layout.table_version));
    layout.is_valid()
        && table.is_some_and(|table| {
            let count = table.chains.len();
            layout.stripe_size as usize <= count && (layout.base as usize) < count
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use types::{chain::ChainTable, id::ChainId, version::ChainTableVersion};

    use super::*;

    fn routing(chains: &[u32]) -> RoutingInfo {
        let mut tables = BTreeMap::new();
        for version in 1..=chains.len() {
            let version = u32::try_from(version).unwrap();
            let table = ChainTable {
                id: DEFAULT_TABLE,
                version: ChainTableVersion(version),
                chains: (1..=chains[version as usize - 1]).map(ChainId).collect(),
            };
            tables.insert((table.id, table.version), table);
        }
        RoutingInfo {
            tables,
            ..RoutingInfo::default()
        }
    }

    #[test]
    fn files_start_in_turn_on_the_newest_table() {
        let picker = ChainPicker::new(1 << 20, 16, 2);
        let routing = routing(&[1, 3]);
        let layouts: Vec<_> = (0..4)
            .map(|seed| picker.pick(&routing, None, seed).unwrap())
            .collect();
        let bases: Vec<_> = layouts.iter().map(|layout| layout.base).collect();
        assert_eq!(bases, [2, 0, 1, 2]);
        for layout in &layouts {
            assert_eq!(layout.table_version, ChainTableVersion(2));
            assert_eq!((layout.stripe_size, layout.chunk_size), (3, 1 << 20));
            assert!(is_usable(&routing, layout));
        }
    }

    #[test]
    fn without_chains_there_is_no_layout() {
        let picker = ChainPicker::new(1 << 20, 16, 0);
        assert_eq!(picker.pick(&routing(&[]), None, 0), None);
        assert_eq!(picker.pick(&routing(&[0]), None, 0), None);
    }

    #[test]
    fn a_layout_from_outside_must_fit_its_table() {
        let routing = routing(&[3]);
        let picker = ChainPicker::new(1 << 20, 2, 0);
        let good = picker.pick(&routing, None, 9).unwrap();
        let inherited = picker.pick(&routing, Some(&good), 10).unwrap();
        assert_eq!(inherited.stripe_size, 2);
        let mut bad = good.clone();
        bad.stripe_size = 4;
        assert!(!is_usable(&routing, &bad));
        bad = good.clone();
        bad.table_version = ChainTableVersion(9);
        assert!(!is_usable(&routing, &bad));
        bad = good;
        bad.chunk_size = 3;
        assert!(!is_usable(&routing, &bad));
    }
}
