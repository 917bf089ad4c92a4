//! Chains of whole replicas in one process: the real service, drivers and engines, a network in memory, and
//! a manager that is the test itself (it hands out maps).

mod batches;
mod cluster;
mod damage;
mod failure;
mod membership;
mod reading;
mod resyncing;
mod scrubbing;
mod storm;
mod writing;
