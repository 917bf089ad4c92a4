//! A whole cluster in one process, with everything that can go wrong drawn from one seed.
//!
//! What runs is what runs in production: managers, storage nodes, engines and clients, on a network, disks and a clock of
//! the simulation's own. A run has a phase in which things break (`faults`) while clients work (`load`), then
//! everything is made whole and the cluster must come back. What the clients saw and what the disks hold must obey
//! `docs/design/replication.md`: one file in `checks` for each rule.
//!
//! `tests/campaign` takes clients (`load`), their `history` and the `checks` from here to judge real processes.

// Without it a seed does not fix which of several ready branches goes first. Documentation is made without it.
#[cfg(not(any(tokio_unstable, doc, doctest)))]
compile_error!(
    "the simulation needs `--cfg tokio_unstable`, which .cargo/config.toml sets: RUSTFLAGS in the environment replaces that"
);

pub mod checks;
pub mod event_log;
pub mod history;
pub mod load;
pub mod notes;
pub mod run;
pub mod scenario;

mod context;
mod faults;
mod host;
mod linearize;
mod manager;
mod panics;
mod slow_device;
mod world;

pub use run::{MISTAKES, Report, run, run_with};
pub use scenario::Scenario;
