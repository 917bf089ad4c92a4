//! Strangers at the ports: random bytes, frames that announce 4 GiB, other protocols, silence.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use tests::{cluster::Cluster, process};

const READ_LIMIT: Duration = Duration::from_secs(10);
/// A server that believed the announcement would hold at least this much more.
const GROWTH_LIMIT: u64 = 256 << 20;

#[test]
fn strangers_at_every_port_change_nothing() {
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let path = cluster.mount().join("kept");
    fs::write(&path, "kept").expect("a file can be written");
    let services = cluster.services();
    for service in &services {
        let before = service.pid.map(process::memory_bytes);
        let mut addresses = vec![service.admin_address.as_str()];
        if service.kind != "mount" {
            addresses.push(&service.address);
        }
        for address in addresses {
            for message in messages() {
                send(address, &message);
            }
            // One that says nothing at all.
            drop(TcpStream::connect(address).expect("the port is open"));
        }
        let after = service.pid.map(process::memory_bytes);
        let growth = after
            .unwrap_or_default()
            .saturating_sub(before.unwrap_or_default());
        assert!(
            growth < GROWTH_LIMIT,
            "{} grew by {growth} bytes",
            service.name
        );
    }
    for (now, before) in cluster.services().iter().zip(&services) {
        let (now, before) = ((&now.state, now.pid), (&before.state, before.pid));
        assert_eq!(now, before, "the same processes are still well");
    }
    assert_eq!(fs::read_to_string(&path).expect("it can be read"), "kept");
    fs::write(&path, "changed").expect("a file can be written");
}

fn messages() -> Vec<Vec<u8>> {
    let mut rng = SmallRng::seed_from_u64(14);
    let mut random = vec![0; 64 * 1024];
    rng.fill_bytes(&mut random);
    let mut messages = vec![
        random,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 4096],
    ];
    // Every kind of frame, announcing a body, then a payload, of 4 GiB, with checksums that fit.
    for kind in 0..=6 {
        messages.push(frame(kind, u32::MAX, 0));
        messages.push(frame(kind, 0, 1 << 32));
    }
    messages
}

/// A header as docs/format/wire.md draws it, and some bytes after it.
fn frame(kind: u8, body_length: u32, payload_length: u64) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(b"PNST");
    bytes[4] = 1;
    bytes[5] = kind;
    bytes[8] = 1;
    bytes[28..32].copy_from_slice(&body_length.to_le_bytes());
    bytes[32..40].copy_from_slice(&payload_length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
    bytes.resize(1024, 7);
    bytes
}

/// Sends and waits for the server to hang up or to answer. It may hang up in the middle of what we send.
fn send(address: &str, message: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the port is open");
    stream
        .set_read_timeout(Some(READ_LIMIT))
        .expect("a socket takes a timeout");
    if stream.write_all(message).is_ok() {
        let mut answer = [0; 4096];
        let ended = stream.read(&mut answer);
        let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{address} neither answers nor hangs up");
    }
}
