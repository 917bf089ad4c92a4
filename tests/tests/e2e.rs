//! Real clusters of real processes. Each test states what a user may rely on.

mod bench;
mod build;
mod copy;
mod crash;
mod databases;
mod idle;
mod large_file;
mod lifecycle;
mod servers;

/// Not a test of its own: what probers run in.
#[test]
fn prober_process() {
    tests::prober::process();
}
