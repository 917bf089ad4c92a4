//! The local state of a target as a function of what mgmtd decided (protocol C5, C6).
//!
//! | local | public | step |
//! | --- | --- | --- |
//! | Offline | Serving, Syncing, Waiting | stay: mgmtd must see this target dead first, so that it is resynced |
//! | Offline | LastServing, Offline | reopen, then Online |
//! | Online | Serving | commit every pending version, then UpToDate |
//! | Online | LastServing | stay |
//! | Online | Syncing, Waiting, Offline, each after Waiting or Offline; Syncing as before | stay |
//! | Online | Syncing, Waiting, Offline otherwise, or when maps were missed | reopen, then Online |
//! | UpToDate | Serving, or Syncing as before | stay |
//! | UpToDate | Syncing after anything else, Waiting, LastServing, Offline | reopen, then Online |
//!
//! What a target knows of clients' channels (W2) is true of its own data. A resync from another replica may take some of
//! that away: so it is forgotten first, which reopening does. A target that served last but not first, and one whose
//! resync was broken off, have something to forget.

use types::target::{LocalState, PublicState};

/// What a target does about a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Stay,
    /// Go Offline, wait for changes under way to end, read the records again, go Online.
    Reopen,
    /// Commit every pending version under the new chain version, then go UpToDate.
    Settle,
}

/// The step from `local`, when the public state was `before` (`None`: maps were missed) and is `public` now.
pub(crate) fn step(local: LocalState, before: Option<PublicState>, public: PublicState) -> Step {
    match (local, public) {
        (LocalState::Offline, PublicState::LastServing | PublicState::Offline)
        | (
            LocalState::UpToDate,
            PublicState::Waiting | PublicState::LastServing | PublicState::Offline,
        ) => Step::Reopen,
        (LocalState::UpToDate, PublicState::Syncing) if before != Some(PublicState::Syncing) => {
            Step::Reopen
        }
        (LocalState::Online, PublicState::Serving) => Step::Settle,
        (
            LocalState::Online,
            PublicState::Syncing | PublicState::Waiting | PublicState::Offline,
        ) if !is_clean(before, public) => Step::Reopen,
        (
            LocalState::Offline,
            PublicState::Serving | PublicState::Syncing | PublicState::Waiting,
        )
        | (
            LocalState::Online,
            PublicState::Syncing
            | PublicState::Waiting
            | PublicState::LastServing
            | PublicState::Offline,
        )
        | (LocalState::UpToDate, PublicState::Serving | PublicState::Syncing) => Step::Stay,
    }
}

/// Whether a target that is Online knows nothing of channels that its next resync could make untrue.
fn is_clean(before: Option<PublicState>, public: PublicState) -> bool {
    match before {
        Some(PublicState::Waiting | PublicState::Offline) => true,
        Some(PublicState::Syncing) => public == PublicState::Syncing,
        Some(PublicState::Serving | PublicState::LastServing) | None => false,
    }
}

/// Whether a target that is not on its disk may be made there: only while no data of it can exist, or
/// while it holds nothing that counts. A lost disk must never pass for an empty one.
pub(crate) fn may_create(was_created: bool, public: PublicState) -> bool {
    match public {
        PublicState::Offline | PublicState::Waiting => true,
        PublicState::Serving | PublicState::Syncing | PublicState::LastServing => !was_created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_target_is_seen_dead_before_it_comes_back() {
        for before in PublicState::ALL {
            for public in [
                PublicState::Serving,
                PublicState::Syncing,
                PublicState::Waiting,
            ] {
                assert_eq!(step(LocalState::Offline, Some(before), public), Step::Stay);
            }
            for public in [PublicState::Offline, PublicState::LastServing] {
                assert_eq!(
                    step(LocalState::Offline, Some(before), public),
                    Step::Reopen
                );
            }
        }
    }

    #[test]
    fn up_to_date_holds_only_while_serving_or_finishing_a_sync() {
        for before in PublicState::ALL {
            for public in PublicState::ALL {
                let stays = public == PublicState::Serving
                    || (public == PublicState::Syncing && before == PublicState::Syncing);
                let expected = if stays { Step::Stay } else { Step::Reopen };
                assert_eq!(step(LocalState::UpToDate, Some(before), public), expected);
            }
        }
    }

    #[test]
    fn serving_begins_with_settling() {
        for before in PublicState::ALL.map(Some).into_iter().chain([None]) {
            let step = |public| step(LocalState::Online, before, public);
            assert_eq!(step(PublicState::Serving), Step::Settle);
            assert_eq!(step(PublicState::LastServing), Step::Stay);
        }
    }

    #[test]
    fn a_resync_begins_with_an_empty_table_of_channels() {
        let (waiting, offline) = (PublicState::Waiting, PublicState::Offline);
        let syncing = PublicState::Syncing;
        let step = |before, public| step(LocalState::Online, before, public);
        for public in [waiting, offline, syncing] {
            for before in [waiting, offline] {
                assert_eq!(step(Some(before), public), Step::Stay);
            }
            for before in [Some(PublicState::LastServing), None] {
                assert_eq!(step(before, public), Step::Reopen);
            }
        }
        assert_eq!(step(Some(syncing), syncing), Step::Stay);
        for public in [waiting, offline] {
            assert_eq!(step(Some(syncing), public), Step::Reopen);
        }
    }

    #[test]
    fn a_lost_target_is_not_made_anew_while_it_counts() {
        for public in PublicState::ALL {
            assert!(may_create(false, public));
            let harmless = matches!(public, PublicState::Offline | PublicState::Waiting);
            assert_eq!(may_create(true, public), harmless);
        }
    }
}
