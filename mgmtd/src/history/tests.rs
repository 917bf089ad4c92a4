//! Random histories, and the limits of memory.

use std::sync::Arc;

use common::env::Env;

use super::*;
use crate::action::tests::{Fixture, random_step};

/// For random sequences of commands, published one by one or several at once: what leads from any of the maps to any later one
/// makes exactly that one; for maps that were not published there is none.
#[test]
fn a_delta_makes_the_whole_map_from_any_map_before_it() {
    let env = Env::seeded(17);
    let (mut deltas, mut wholes) = (0, 0);
    for _ in 0..60 {
        let mut fixture = Fixture::new(3);
        let mut history = History::default();
        let mut published = fixture.routing();
        let mut all = vec![published.clone()];
        for _ in 0..30 {
            random_step(&env, &mut fixture);
            let now = fixture.routing();
            if now.version > all.last().unwrap().version {
                all.push(now.clone());
            }
            if now.version > published.version && env.random_below(3) > 0 {
                history.note(&published, &now);
                published = now;
            }
        }
        for (index, known) in all.iter().enumerate() {
            for now in all[index + 1..].iter() {
                match history.since(known.version, now) {
                    Some(delta) => {
                        deltas += 1;
                        assert_eq!(known.after(&delta).as_ref(), Some(&**now));
                        // A subscriber that is as new already stays where it is.
                        assert_eq!(now.after(&delta), None);
                    }
                    None => wholes += 1,
                }
            }
        }
    }
    assert!(deltas > 1000 && wholes > 1000, "{deltas} {wholes}");
}

fn map(version: u64, tables: std::ops::Range<u32>) -> Arc<RoutingInfo> {
    let table = |id| types::chain::ChainTable {
        id: ChainTableId(id),
        version: ChainTableVersion(1),
        chains: Vec::new(),
    };
    Arc::new(RoutingInfo {
        version: RoutingVersion(version),
        tables: tables
            .map(|id| ((ChainTableId(id), ChainTableVersion(1)), table(id)))
            .collect(),
        ..RoutingInfo::default()
    })
}

#[test]
fn what_is_too_long_ago_is_not_remembered() {
    let mut history = History::default();
    let mut last = map(1, 0..10);
    // Each step replaces all entries.
    let step = u32::try_from(KEYS_MAX / 4).unwrap();
    for version in 2..=9_u32 {
        let next = map(u64::from(version), version * step..version * step + step);
        history.note(&last, &next);
        last = next;
        assert!(history.keys <= KEYS_MAX);
    }
    assert!(history.steps.len() < 4);
    assert_eq!(history.since(RoutingVersion(1), &last), None);
}

#[test]
fn a_gap_in_what_was_published_forgets_what_was_before() {
    let mut history = History::default();
    history.note(&map(1, 0..9), &map(2, 0..10));
    let now = map(2, 0..10);
    assert!(history.since(RoutingVersion(1), &now).is_some());
    // A snapshot took this member further.
    history.note(&map(5, 0..11), &map(6, 0..12));
    let now = map(6, 0..12);
    assert_eq!(history.since(RoutingVersion(1), &now), None);
    assert_eq!(history.since(RoutingVersion(2), &now), None);
    assert!(history.since(RoutingVersion(5), &now).is_some());
}
