//! Reads a body of any bytes as one of the messages: what is read holds no more than was sent, and encodes to what reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::messages;

fuzz_target!(
    init: {
        penstock_fuzz::write_seeds(messages::seeds());
    },
    |data: &[u8]| {
        if let Some((&which, body)) = data.split_first() {
            messages::read(which, body);
        }
    }
);
