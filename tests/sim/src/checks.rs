//! The rules a run must obey, one file for each.

pub(crate) mod chain_invariants;
pub(crate) mod linearizable;
pub(crate) mod replicas_equal;
