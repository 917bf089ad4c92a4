//! What a campaign came to.

use std::{fmt, time::Duration};

use crate::stalls::{Service, Stall};

/// The longest time a user may have to wait for the cluster.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// Stalls that are shown.
const WORST: usize = 5;
/// Stalls that begin this close to each other are the same one, seen by several users.
const SAME: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) scenes: u32,
    pub(crate) faults: u32,
    /// Operations on chunks, and those that ended well.
    pub(crate) operations: (usize, usize),
    pub(crate) chunks: u32,
    pub(crate) undecided: u32,
    /// What users got, and what full disks refused.
    pub(crate) counts: (u64, u64),
    pub(crate) files: usize,
    pub(crate) replicas: usize,
    /// The longest time from the end of a scene until everything was whole.
    pub(crate) repair: Duration,
    pub(crate) reopened: u32,
    pub(crate) stalls: Vec<Stall>,
    pub(crate) wrong: Vec<String>,
}

impl Report {
    /// Nothing was lost, wrong, or too slow.
    pub(crate) fn is_good(&self) -> bool {
        self.wrong.is_empty() && self.undecided == 0 && self.longest() <= STALL_LIMIT
    }

    fn longest(&self) -> Duration {
        self.worst(|stall| stall.service == Service::Due)
            .first()
            .map_or(Duration::ZERO, |stall| stall.length)
    }

    /// Longest first, each once.
    fn worst(&self, wanted: impl Fn(&Stall) -> bool) -> Vec<&Stall> {
        let mut worst: Vec<&Stall> = Vec::new();
        let mut all: Vec<&Stall> = self.stalls.iter().filter(|stall| wanted(stall)).collect();
        all.sort_by_key(|stall| std::cmp::Reverse(stall.length));
        for stall in all {
            let same = |other: &&Stall| {
                let apart = other.from.max(stall.from) - other.from.min(stall.from);
                apart < SAME
            };
            if !worst.iter().any(same) {
                worst.push(stall);
            }
        }
        worst.truncate(WORST);
        worst
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "campaign with seed {}: {} s, {} faults in {} scenes",
            self.seed,
            self.elapsed.as_secs(),
            self.faults,
            self.scenes
        )?;
        writeln!(
            f,
            "  chunks    {} operations, {} ended well; {} histories, {} too tangled to judge",
            self.operations.0, self.operations.1, self.chunks, self.undecided
        )?;
        writeln!(
            f,
            "  users     {} successes, {} refusals by full disks, {} files at the end",
            self.counts.0, self.counts.1, self.files
        )?;
        writeln!(
            f,
            "  replicas  {} compared on stopped disks; {} full disks had to be opened again",
            self.replicas, self.reopened
        )?;
        writeln!(
            f,
            "  repair    at most {:.1} s from the last mend until every target served",
            self.repair.as_secs_f64()
        )?;
        for (title, due) in [
            ("stalls, the worst", Service::Due),
            (
                "not counted: two replicas could not reach each other",
                Service::Split,
            ),
        ] {
            let worst = self.worst(|stall| stall.service == due);
            if !worst.is_empty() {
                writeln!(f, "  {title}")?;
            }
            for stall in worst {
                let seconds = stall.length.as_secs_f64();
                let (from, what) = (stall.from.as_secs_f64(), &stall.what);
                writeln!(
                    f,
                    "    {seconds:5.2} s  {} at {from:.1} s: {what}",
                    stall.user
                )?;
            }
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        let (wrong, longest) = (self.wrong.len(), self.longest().as_secs_f64());
        write!(
            f,
            "longest stall {longest:.2} s (limit {} s), {wrong} things wrong: {}",
            STALL_LIMIT.as_secs(),
            if self.is_good() { "good" } else { "FAILED" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn stall(from: u64, length_ms: u64, service: Service) -> Stall {
        Stall {
            user: Host::Client(1),
            from: Duration::from_secs(from),
            length: Duration::from_millis(length_ms),
            what: format!("trouble at {from}"),
            broken: 1,
            service,
        }
    }

    #[test]
    fn the_longest_stall_that_counts_decides() {
        let mut report = Report {
            stalls: vec![
                stall(10, 3000, Service::Due),
                stall(10, 3100, Service::Due),
                stall(30, 9000, Service::Split),
            ],
            ..Report::default()
        };
        assert!(report.is_good());
        let text = report.to_string();
        assert!(text.contains("longest stall 3.10 s"), "{text}");
        assert_eq!(text.matches("trouble at 10").count(), 1, "{text}");
        report.stalls.push(stall(50, 5001, Service::Due));
        assert!(!report.is_good());
    }

    #[test]
    fn one_wrong_thing_is_a_failure() {
        let report = Report {
            wrong: vec!["a byte".to_owned()],
            ..Report::default()
        };
        assert!(!report.is_good() && report.to_string().contains("WRONG: a byte"));
    }
}
