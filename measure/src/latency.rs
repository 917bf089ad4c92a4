//! How long operations took, in bounded memory: counts per range of nanoseconds, 64 ranges for each power of two, so
//! that a percentile is right within 1.6 per cent.

use std::time::Duration;

/// Ranges of one power of two, as a power of two.
const RANGE_BITS: u32 = 6;
const RANGES: u64 = 1 << RANGE_BITS;
/// Powers of two told apart above the first, which has one range for each nanosecond: up to some hours.
const POWERS: u32 = 38;
const COUNTS: usize = (POWERS as usize + 1) << RANGE_BITS;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; COUNTS],
            total: 0,
        }
    }
}

impl Latencies {
    /// Counts one operation.
    pub fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[range(nanos)] += 1;
        self.total += 1;
    }

    /// Counts those of another as well.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The microseconds within which this part of the operations (0 to 1) were done; `None` when there were none.
    pub fn microseconds(&self, part: f64) -> Option<f64> {
        let mut left = self.total as f64 * part;
        for (range, &count) in (0..).zip(&self.counts) {
            left -= count as f64;
            if count > 0 && left <= 0.0 {
                return Some(upper(range) as f64 / 1000.0);
            }
        }
        None
    }
}

/// The range of a number of nanoseconds.
fn range(nanos: u64) -> usize {
    if nanos < RANGES {
        return usize::try_from(nanos).unwrap_or(0);
    }
    let power = u64::from(nanos.ilog2() - RANGE_BITS);
    let range = (power + 1) * RANGES + (nanos >> power) - RANGES;
    usize::try_from(range).map_or(COUNTS - 1, |range| range.min(COUNTS - 1))
}

/// The last number of nanoseconds in a range.
fn upper(range: u64) -> u64 {
    if range < RANGES {
        return range;
    }
    let power = range / RANGES - 1;
    ((range % RANGES + RANGES + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_in_its_range() {
        for power in 0..40 {
            for nanos in [(1_u64 << power) - 1, 1 << power, (1 << power) * 5 / 4 + 3] {
                let range = range(nanos) as u64;
                assert!(nanos <= upper(range), "{nanos}");
                assert!(range == 0 || nanos > upper(range - 1), "{nanos}");
                assert!(upper(range) - nanos <= nanos / RANGES, "{nanos}");
            }
        }
        assert_eq!(range(u64::MAX), COUNTS - 1);
    }

    #[test]
    fn percentiles_of_what_was_counted() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.microseconds(0.5), None);
        for micros in 1..=100 {
            let mut one = Latencies::default();
            one.add(Duration::from_micros(micros));
            latencies.merge(&one);
        }
        let half = latencies.microseconds(0.5).unwrap();
        let most = latencies.microseconds(0.99).unwrap();
        assert!((50.0..51.0).contains(&half), "{half}");
        assert!((99.0..101.0).contains(&most), "{most}");
    }
}
