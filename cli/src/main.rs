//! The one binary `penstock`.

fn main() {}
