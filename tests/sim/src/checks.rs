//! The rules a run must obey, one file for each.

pub mod chain_invariants;
pub mod linearizable;
pub mod replicas_equal;
