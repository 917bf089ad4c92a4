//! The names of this crate's metrics.

use metrics::{counter, gauge};
use types::version::RoutingVersion;

/// Changes of chains that this leader put into the log.
pub(crate) fn chains_changed(count: usize) {
    counter!("penstock_mgmtd_chain_changes_total").increment(count as u64);
}

/// The part this member plays, and the version of its state.
pub(crate) fn state(leads: bool, version: RoutingVersion) {
    gauge!("penstock_mgmtd_leader").set(if leads { 1.0 } else { 0.0 });
    // Exact up to 2^53 changes.
    gauge!("penstock_mgmtd_routing_version").set(version.0 as f64);
}
