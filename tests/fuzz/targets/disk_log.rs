//! Opens a disk whose log is any bytes: as they are, or as the entries of a batch whose checksums are right, on top of
//! a target and a record that are any bytes too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::{Disk, Input, run};

fuzz_target!(|data: &[u8]| {
    run(async {
        let mut input = Input(data);
        let disk = Disk::new().await;
        let (Some(mode), Some(slots)) = (input.byte(), input.byte()) else {
            return;
        };
        disk.put_group(mode >> 6, slots % 8).await;
        // Chain 1.
        disk.put_record_of(b'T', 0, &[1, 0, 1]).await;
        if mode & 1 == 0 {
            disk.put_log(input.0).await;
        } else {
            if mode & 2 != 0
                && let (Some(record), Some(sums)) = (input.string(), input.string())
            {
                disk.put_record_of(b'C', 0, record).await;
                disk.put_record_of(b'S', 0, sums).await;
            }
            let mut entries = Vec::new();
            while let Some(entry) = input.string() {
                entries.push(entry);
            }
            disk.put_batch(&entries, mode >> 2 & 7).await;
        }
        disk.survive().await;
    });
});
