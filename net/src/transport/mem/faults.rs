//! What goes wrong on a network in memory: requests and replies that are late, lost or come twice, connections that end, and
//! directions in which nothing passes. Everything is drawn from the caller's `Env`, so a seed repeats it.
//!
//! What is lost is lost without a word, as with a cable that was pulled: the caller waits until its deadline.

use std::{collections::BTreeSet, time::Duration};

use common::env::Env;

const THOUSAND: u64 = 1000;

/// How often, of a thousand requests or replies, something happens to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    /// Each way takes up to this time.
    pub delay_max: Duration,
    /// It does not arrive.
    pub lost: u16,
    /// A request arrives twice.
    pub doubled: u16,
    /// The connection ends: the caller learns at once that it may have arrived or not.
    pub reset: u16,
}

/// What a host that goes leaves to its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Silence.
    Silent,
    /// The end of their connections.
    Reset,
}

/// The way there or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    Request,
    Reply,
}

/// How a way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    ArrivesTwice,
    Lost,
    Reset,
}

/// The state of a network's links.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) links: LinkFaults,
    /// From, to.
    pub(super) cut: BTreeSet<(String, String)>,
    pub(super) gone: BTreeSet<String>,
}

impl Faults {
    /// Decides about one way. Draws nothing when nothing can go wrong.
    pub(super) fn draw(&self, env: &Env, (from, to): (&str, &str), leg: Leg) -> (Fate, Duration) {
        if !self.cut.is_empty() && self.cut.contains(&(from.to_owned(), to.to_owned())) {
            return (Fate::Lost, Duration::ZERO);
        }
        if self.gone.contains(from) || self.gone.contains(to) {
            return (Fate::Lost, Duration::ZERO);
        }
        let links = self.links;
        let micros = u64::try_from(links.delay_max.as_micros()).unwrap_or(u64::MAX);
        let delay = Duration::from_micros(env.random_below(micros));
        let [lost, doubled, reset] = [links.lost, links.doubled, links.reset].map(u64::from);
        if lost + doubled + reset == 0 {
            return (Fate::Arrives, delay);
        }
        let drawn = env.random_below(THOUSAND);
        let fate = if drawn < lost {
            Fate::Lost
        } else if drawn < lost + reset {
            Fate::Reset
        } else if drawn < lost + reset + doubled && leg == Leg::Request {
            Fate::ArrivesTwice
        } else {
            Fate::Arrives
        };
        (fate, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, faults: &Faults, leg: Leg) -> Vec<(Fate, Duration)> {
        let env = Env::seeded(seed);
        let draws = (0..10_000).map(|_| faults.draw(&env, ("a", "b"), leg));
        draws.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_fixes_what_happens_and_rates_are_kept() {
        let faults = Faults {
            links: LinkFaults {
                delay_max: Duration::from_millis(5),
                lost: 100,
                doubled: 200,
                reset: 50,
            },
            ..Faults::default()
        };
        let drawn = fates(7, &faults, Leg::Request);
        assert_eq!(drawn, fates(7, &faults, Leg::Request));
        assert_ne!(drawn, fates(8, &faults, Leg::Request));
        let count = |wanted| drawn.iter().filter(|(fate, _)| *fate == wanted).count();
        assert!((900..1100).contains(&count(Fate::Lost)));
        assert!((1800..2200).contains(&count(Fate::ArrivesTwice)));
        assert!((400..600).contains(&count(Fate::Reset)));
        assert!(
            drawn
                .iter()
                .all(|(_, delay)| *delay < Duration::from_millis(5))
        );
        let replies = fates(7, &faults, Leg::Reply);
        assert!(replies.iter().all(|(fate, _)| *fate != Fate::ArrivesTwice));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_one_direction_of_one_link() {
        let env = Env::seeded(1);
        let faults = Faults {
            cut: [("a".to_owned(), "b".to_owned())].into(),
            ..Faults::default()
        };
        let fate = |link| faults.draw(&env, link, Leg::Request).0;
        assert_eq!(fate(("a", "b")), Fate::Lost);
        assert_eq!([fate(("b", "a")), fate(("a", "c"))], [Fate::Arrives; 2]);
    }
}
