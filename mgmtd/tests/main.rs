//! Managers in one process, on the in-memory network and mostly with paused time.
#![allow(
    clippy::unwrap_used,
    reason = "what fails in a helper fails the test that called it"
)]

mod cluster;
mod failover;
mod group;
mod hostile;
mod requests;
