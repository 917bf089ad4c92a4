//! The supplementary groups of the process behind a request. The kernel sends user and group only; the rest stands
//! in `/proc/<pid>/status`, and is remembered briefly because a program makes many calls in a row.

use std::{collections::BTreeMap, time::Duration};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use types::user::Identity;

/// How long an answer is believed. A process that changes its groups has the old ones for so long.
const BELIEVED: Duration = Duration::from_secs(1);
/// Processes remembered; beyond it all are forgotten, which costs one read each.
const REMEMBERED_MAX: usize = 1024;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<BTreeMap<Asker, (Instant, Vec<u32>)>>);

/// Who a cached answer is for: a process that became another user asks anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Asker {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl Groups {
    /// The identity behind a request.
    pub(crate) fn identity(&self, env: &Env, uid: u32, gid: u32, pid: u32) -> Identity {
        // The superuser needs no groups; pid 0 is the kernel, or a process of another pid namespace.
        let groups = match (uid, pid) {
            (0, _) | (_, 0) => Vec::new(),
            _ => self.of(env, Asker { pid, uid, gid }),
        };
        Identity { uid, gid, groups }
    }

    fn of(&self, env: &Env, asker: Asker) -> Vec<u32> {
        let now = env.now();
        if let Some((read, groups)) = self.0.lock().get(&asker)
            && now.saturating_duration_since(*read) < BELIEVED
        {
            return groups.clone();
        }
        // A process that is gone has no groups any more: its last requests go without.
        let path = format!("/proc/{}/status", asker.pid);
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let groups = parse(&status);
        let mut remembered = self.0.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(asker, (now, groups.clone()));
        groups
    }
}

/// The numbers of the line `Groups:`.
fn parse(status: &str) -> Vec<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|group| group.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_kernel_is_understood() {
        let status = "Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nVmPeak:\t1 kB\n";
        assert_eq!(parse(status), [4, 24, 1000]);
        assert!(parse("Groups:\t \n").is_empty());
        assert!(parse("").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_superuser_and_the_kernel_are_not_looked_up() {
        let (env, groups) = (Env::seeded(1), Groups::default());
        assert!(groups.identity(&env, 0, 0, 1).groups.is_empty());
        assert!(groups.identity(&env, 5, 5, 0).groups.is_empty());
        assert!(groups.0.lock().is_empty());
        let nobody = groups.identity(&env, 5, 6, u32::MAX);
        assert_eq!((nobody.uid, nobody.gid), (5, 6));
        assert_eq!(groups.0.lock().len(), 1);
    }
}
