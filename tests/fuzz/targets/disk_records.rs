//! Opens a disk whose records are any bytes: targets, chunks, checksums, and where the log begins.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::{Disk, Input, run};

fuzz_target!(|data: &[u8]| {
    run(async {
        let mut input = Input(data);
        let disk = Disk::new().await;
        let (Some(class), Some(slots)) = (input.byte(), input.byte()) else {
            return;
        };
        disk.put_group(class % 4, slots % 8).await;
        while let (Some(which), Some(value)) = (input.byte(), input.string()) {
            match which % 16 {
                0 => disk.put_record(b"L".to_vec(), value.to_vec()).await,
                1 => disk.put_record(value.to_vec(), b"\x02\x00".to_vec()).await,
                2 | 3 => disk.put_record_of(b'T', which >> 4, value).await,
                4..8 => disk.put_record_of(b'S', which >> 4, value).await,
                _ => disk.put_record_of(b'C', which >> 4, value).await,
            }
        }
        disk.survive().await;
    });
});
