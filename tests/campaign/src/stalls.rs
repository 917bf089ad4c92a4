//! How long users waited although the cluster could have served them.
//!
//! `Ground` says at each moment what was broken and who should have been served all the same; users tell each success. A
//! stall is the time between two successes of one user, as far as it should have been served. Its clock starts anew with
//! each further thing that breaks: two accidents in a row are two stalls, not one long one.

use std::{collections::BTreeMap, time::Duration};

use crate::host::Host;

/// Shorter gaps are no stalls.
const GAP_MIN: Duration = Duration::from_millis(400);

/// Whether a user should be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Nobody promises that.
    NotDue,
    /// A majority of managers and a replica of each chain can be reached.
    Due,
    /// As `Due`, but two replicas of a chain cannot reach each other while the managers see both: writes wait (W8).
    Split,
}

/// From here on the world was like this.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    /// Something broke at this moment.
    pub(crate) broke: bool,
    /// What happened, and what is broken.
    pub(crate) what: String,
    /// How many things are broken.
    pub(crate) broken: usize,
    /// By user; who is not named is `NotDue`.
    pub(crate) service: BTreeMap<Host, Service>,
}

impl Moment {
    fn of(&self, user: Host) -> Service {
        self.service.get(&user).copied().unwrap_or(Service::NotDue)
    }
}

/// Time in which a user had no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) user: Host,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// One time in which a user waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    pub(crate) user: Host,
    pub(crate) from: Duration,
    pub(crate) length: Duration,
    pub(crate) what: String,
    /// How many things were broken at most.
    pub(crate) broken: usize,
    pub(crate) service: Service,
}

/// Finds the gaps of users.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// The last success of those who are at work.
    last: BTreeMap<Host, Duration>,
    found: Vec<Gap>,
    pub(crate) successes: u64,
    pub(crate) refusals: u64,
}

impl Gaps {
    /// The user begins to work.
    pub(crate) fn begin(&mut self, user: Host, at: Duration) {
        self.last.insert(user, at);
    }

    /// Something that the user asked for was done.
    pub(crate) fn success(&mut self, user: Host, at: Duration) {
        self.successes += 1;
        self.close(user, at);
        self.last.insert(user, at);
    }

    /// The user was told why not: no success, but an answer.
    pub(crate) fn refused(&mut self, user: Host, at: Duration) {
        self.refusals += 1;
        self.close(user, at);
        self.last.insert(user, at);
    }

    /// The user rests.
    pub(crate) fn end(&mut self, user: Host, at: Duration) {
        self.close(user, at);
        self.last.remove(&user);
    }

    fn close(&mut self, user: Host, to: Duration) {
        if let Some(from) = self.last.get(&user).copied()
            && to.saturating_sub(from) >= GAP_MIN
        {
            self.found.push(Gap { user, from, to });
        }
    }

    /// Those that were found since the last call.
    pub(crate) fn take(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.found)
    }
}

/// The stalls in a gap. `moments` are in order.
pub(crate) fn stalls(gap: Gap, moments: &[Moment]) -> Vec<Stall> {
    let mut found = Vec::new();
    let first = moments.partition_point(|moment| moment.at <= gap.from);
    let Some(mut moment) = first.checked_sub(1).map(|index| &moments[index]) else {
        return found;
    };
    let begin = |moment: &Moment, from: Duration| Stall {
        user: gap.user,
        from,
        length: Duration::ZERO,
        what: moment.what.clone(),
        broken: moment.broken,
        service: moment.of(gap.user),
    };
    let mut stall = begin(moment, gap.from);
    let mut end = |stall: &Stall, to: Duration| {
        let length = to.saturating_sub(stall.from);
        if stall.service != Service::NotDue && length >= GAP_MIN {
            found.push(Stall {
                length,
                ..stall.clone()
            });
        }
    };
    for next in moments[first..].iter().take_while(|next| next.at < gap.to) {
        moment = next;
        if moment.broke || moment.of(gap.user) != stall.service {
            end(&stall, moment.at);
            stall = begin(moment, moment.at);
        } else {
            stall.broken = stall.broken.max(moment.broken);
        }
    }
    end(&stall, gap.to);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Host = Host::Client(1);

    fn moment(at: u64, broke: bool, service: Service) -> Moment {
        Moment {
            at: Duration::from_secs(at),
            broke,
            what: format!("at {at}"),
            broken: usize::from(broke),
            service: [(USER, service)].into(),
        }
    }

    fn lengths(from: u64, to: u64, moments: &[Moment]) -> Vec<(u64, u64)> {
        let gap = Gap {
            user: USER,
            from: Duration::from_secs(from),
            to: Duration::from_secs(to),
        };
        let found = stalls(gap, moments).into_iter();
        found
            .map(|stall| (stall.from.as_secs(), stall.length.as_secs()))
            .collect()
    }

    #[test]
    fn only_time_in_which_service_was_due_counts() {
        let moments = [
            moment(0, false, Service::Due),
            moment(10, true, Service::NotDue),
            moment(15, false, Service::Due),
        ];
        assert_eq!(lengths(9, 18, &moments), [(9, 1), (15, 3)]);
        assert_eq!(lengths(11, 14, &moments), []);
    }

    #[test]
    fn what_breaks_later_starts_the_clock_anew_and_what_is_mended_does_not() {
        let moments = [
            moment(0, true, Service::Due),
            moment(3, true, Service::Due),
            moment(5, false, Service::Due),
        ];
        assert_eq!(lengths(1, 9, &moments), [(1, 2), (3, 6)]);
    }

    #[test]
    fn somebody_else_is_not_served_by_promise() {
        let gap = Gap {
            user: Host::Client(2),
            from: Duration::from_secs(1),
            to: Duration::from_secs(9),
        };
        assert_eq!(stalls(gap, &[moment(0, false, Service::Due)]), []);
    }

    #[test]
    fn gaps_lie_between_successes_of_one_user() {
        let seconds = Duration::from_secs;
        let mut gaps = Gaps::default();
        gaps.begin(USER, seconds(1));
        gaps.success(Host::Client(2), seconds(2));
        gaps.success(USER, seconds(4));
        gaps.end(USER, seconds(4));
        gaps.begin(USER, seconds(9));
        gaps.end(USER, seconds(10));
        let found: Vec<_> = gaps.take().iter().map(|gap| (gap.from, gap.to)).collect();
        assert_eq!(found, [(seconds(1), seconds(4)), (seconds(9), seconds(10))]);
        assert_eq!(gaps.successes, 2);
    }
}
