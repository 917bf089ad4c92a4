//! When a read is sent to a second replica as well, and how often that may be (protocol D5).
//!
//! A read is late when it outlasts the 95th percentile of the recent ones of its size. The budget is counted in ranges: each one
//! that is read earns a small part of a second one. So hedging cannot double the load of a cluster that is slow
//! because of its load.

use std::time::Duration;

use common::sync::Mutex;

/// Sizes that are told apart: what is slow for 4 KiB is quick for 1 MiB.
const SIZES: [usize; 2] = [64 << 10, 1 << 20];
/// Reads that count as recent, of each size.
const RECENT: usize = 256;
/// The percentile is found anew after so many reads.
const RENEW_EVERY: usize = 16;
/// Fewer reads than this say nothing.
const RECENT_MIN: usize = 32;
/// How long a read may last while nothing is known of others.
const DELAY_UNKNOWN: Duration = Duration::from_millis(100);
/// Whatever the others took: a second replica is asked long before the first is given up.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// What one second range costs; a range that is read earns `percent`.
const COST: u64 = 100;
/// Second ranges that a client may ask for before it has earned any.
const FIRST: u64 = 10;
/// Second ranges that can be saved up: one full request.
const SAVED_MAX: u64 = 64;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Hedging {
    percent: u64,
    delay_min: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    recent: [Recent; SIZES.len() + 1],
    credit: u64,
}

/// How long the last reads took.
#[derive(Clone, Debug, Default)]
struct Recent {
    /// A ring; its oldest entry stands at `next` once it is full.
    took: Vec<Duration>,
    next: usize,
    unseen: usize,
    p95: Option<Duration>,
}

impl Recent {
    fn add(&mut self, took: Duration) {
        if self.took.len() < RECENT {
            self.took.push(took);
        } else {
            self.took[self.next] = took;
            self.next = (self.next + 1) % RECENT;
        }
        self.unseen += 1;
        if self.unseen >= RENEW_EVERY && self.took.len() >= RECENT_MIN {
            self.unseen = 0;
            let mut sorted = self.took.clone();
            let place = sorted.len() * 95 / 100;
            let (_, p95, _) = sorted.select_nth_unstable(place);
            self.p95 = Some(*p95);
        }
    }
}

impl Hedging {
    /// `percent` of all ranges may be read twice; 0 for none. None is before `delay_min` is over.
    pub(super) fn new(percent: u32, delay_min: Duration) -> Self {
        Self {
            percent: u64::from(percent),
            delay_min,
            state: Mutex::new(State {
                recent: std::array::from_fn(|_| Recent::default()),
                credit: FIRST * COST,
            }),
        }
    }

    /// A request for `ranges` begins: how long it may last before it is late; `None` when there is no hedging.
    pub(super) fn begin(&self, ranges: usize, bytes: usize) -> Option<Duration> {
        if self.percent == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let earned = self.percent * ranges as u64;
        state.credit = (state.credit + earned).min(SAVED_MAX * COST);
        let p95 = state.recent[size_of(bytes)].p95;
        let delay = p95.map_or(DELAY_UNKNOWN, |p95| p95.min(DELAY_MAX));
        Some(delay.max(self.delay_min))
    }

    /// Takes from the budget what a second read of `ranges` costs; false when it is not there.
    pub(super) fn spend(&self, ranges: usize) -> bool {
        let cost = COST * ranges as u64;
        let mut state = self.state.lock();
        let enough = state.credit >= cost;
        if enough {
            state.credit -= cost;
        }
        enough
    }

    /// The first replica took so long, or at least so long if it was left.
    pub(super) fn took(&self, bytes: usize, took: Duration) {
        self.state.lock().recent[size_of(bytes)].add(took);
    }
}

fn size_of(bytes: usize) -> usize {
    SIZES
        .iter()
        .position(|size| bytes <= *size)
        .unwrap_or(SIZES.len())
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_read_is_late_after_the_p95_of_recent_ones_of_its_size() {
        let hedging = Hedging::new(5, MS);
        assert_eq!(hedging.begin(1, 4096), Some(DELAY_UNKNOWN));
        for n in 0..RECENT {
            let slow = n % 10 == 0;
            hedging.took(4096, if slow { 40 * MS } else { 2 * MS });
            hedging.took(1 << 20, 30 * MS);
        }
        assert_eq!(hedging.begin(1, 4096), Some(40 * MS));
        assert_eq!(hedging.begin(1, 1 << 20), Some(30 * MS));
        // What was long ago does not count.
        for _ in 0..RECENT {
            hedging.took(4096, 3 * MS);
        }
        assert_eq!(hedging.begin(1, 4096), Some(3 * MS));
    }

    #[test]
    fn the_delay_has_bounds() {
        let hedging = Hedging::new(5, 7 * MS);
        for _ in 0..RECENT {
            hedging.took(1, MS / 10);
            hedging.took(1 << 30, 3000 * MS);
        }
        assert_eq!(hedging.begin(1, 1), Some(7 * MS));
        assert_eq!(hedging.begin(1, 1 << 30), Some(DELAY_MAX));
        assert_eq!(Hedging::new(0, MS).begin(1, 1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn over_any_run_of_reads_the_budget_is_kept() {
        let env = Env::seeded(11);
        let hedging = Hedging::new(5, MS);
        let (mut read, mut second) = (0, 0);
        for _ in 0..2000 {
            let ranges = 1 + env.random_below(SAVED_MAX);
            read += ranges;
            assert!(hedging.begin(ranges as usize, 1).is_some());
            // Nine of ten are late.
            if env.random_below(10) > 0 && hedging.spend(ranges as usize) {
                second += ranges;
            }
            assert!(second * 100 <= read * 5 + FIRST * COST);
        }
        assert!(second * 100 > read * 4, "{second} of {read}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let hedging = Hedging::new(5, MS);
        for _ in 0..100_000 {
            hedging.begin(1, 1);
        }
        let spent = (0..100_000).filter(|_| hedging.spend(1)).count();
        assert_eq!(spent as u64, SAVED_MAX);
    }
}
