//! Processes as the kernel shows them: alive or not, their memory, their processor time.

use std::{fs, time::Duration};

/// Clock ticks in a second, as /proc counts them on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Whether a process runs (a corpse does not).
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// Bytes of memory a process holds alone or its share of what it shares.
pub fn memory_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = pss.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or_default()
        * 1024
}

/// Processor time a process has used.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
    // User and system time are fields 14 and 15; after the name the count starts at 3.
    let ticks: u64 = fields
        .map(|fields| {
            fields
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u64>().ok())
                .sum()
        })
        .unwrap_or_default();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_has_memory() {
        let me = std::process::id();
        assert!(is_alive(me));
        assert!(memory_bytes(me) > 100_000);
        assert!(!is_alive(u32::MAX));
    }
}
