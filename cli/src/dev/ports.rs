//! Ports for the services of a new cluster, chosen once and kept.
//!
//! They are taken from below the range the kernel draws the ports of outgoing connections from:
//! otherwise, while a service is down, some connection might sit on its port.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;
use common::env::Env;

const FIRST: u16 = 17_000;
const COUNT: u16 = 13_000;
/// So many draws that only a machine without free ports fails.
const DRAWS_MAX: u32 = 2_000;

/// `count` ports of the loopback interface that nobody listens on.
pub(crate) fn pick(env: &Env, count: usize) -> anyhow::Result<Vec<u16>> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held: Vec<(u16, TcpListener)> = Vec::with_capacity(count);
    for _ in 0..DRAWS_MAX {
        if held.len() == count {
            break;
        }
        let drawn = u16::try_from(env.random_below(u64::from(COUNT))).unwrap_or_default();
        let port = FIRST + drawn;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        bail!(
            "cannot find {count} free ports in {FIRST}..{}",
            FIRST + COUNT
        );
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_free_and_distinct() {
        let ports = pick(&Env::real(), 20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
