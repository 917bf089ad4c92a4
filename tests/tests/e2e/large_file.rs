//! A file much larger than a chunk, over all chains.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
};

use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use tests::{cluster::Cluster, run, wait};

const MIB: usize = 1 << 20;
const FILE_MIB: usize = 256;

#[test]
fn a_large_file_reads_back_equal() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let path = cluster.mount().join("large");
    let begin = wait::now();
    let written = write(&path);
    let write_seconds = wait::now().duration_since(begin).as_secs_f64();
    cluster.remount();
    let begin = wait::now();
    assert_eq!(
        read(&path),
        (FILE_MIB * MIB, written),
        "length and checksum"
    );
    let read_seconds = wait::now().duration_since(begin).as_secs_f64();
    run::note(&format!(
        "{FILE_MIB} MiB written in {write_seconds:.1} s, read in {read_seconds:.1} s"
    ));
}

fn write(path: &Path) -> u32 {
    let mut file = File::create(path).expect("a file can be made");
    let mut rng = SmallRng::seed_from_u64(13);
    let mut piece = vec![0; MIB];
    let mut checksum = 0;
    for _ in 0..FILE_MIB {
        rng.fill_bytes(&mut piece);
        checksum = crc32c::crc32c_append(checksum, &piece);
        file.write_all(&piece).expect("it can be written");
    }
    file.sync_all().expect("it can be synced");
    checksum
}

fn read(path: &Path) -> (usize, u32) {
    let mut file = File::open(path).expect("the file is there");
    let mut piece = vec![0; MIB];
    let (mut length, mut checksum) = (0, 0);
    loop {
        let count = file.read(&mut piece).expect("it can be read");
        if count == 0 {
            return (length, checksum);
        }
        length += count;
        checksum = crc32c::crc32c_append(checksum, &piece[..count]);
    }
}
