//! Frames of any kind and content over a connection, to a server and to a caller: neither panics, the server serves others on, the
//! caller has an answer by its deadline.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::{Input, frames};

fuzz_target!(
    init: {
        penstock_fuzz::write_seeds(frames::seeds());
    },
    |data: &[u8]| {
        let mut input = Input(data);
        if let Some(mode) = input.byte() {
            frames::run(mode, &mut input);
        }
    }
);
