//! The local state of a target as a function of what mgmtd decided (protocol C5, C6).
//!
//! | local | public | step |
//! | --- | --- | --- |
//! | Offline | Serving, Syncing, Waiting | stay: mgmtd must see this target dead first, so that it is resynced |
//! | Offline | LastServing, Offline | reopen, then Online |
//! | Online | Serving | commit every pending version, then UpToDate |
//! | Online | anything else | stay |
//! | UpToDate | Serving, or Syncing as before | stay |
//! | UpToDate | Syncing after anything else, Waiting, LastServing, Offline | reopen, then Online |

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

/// The step from `local`, when the public state was `before` and is `public` now.
pub(crate) fn step(local: LocalState, before: PublicState, public: PublicState) -> Step {
    match (local, public) {
        (LocalState::Offline, PublicState::LastServing | PublicState::Offline)
        | (
            LocalState::UpToDate,
            PublicState::Waiting | PublicState::LastServing | PublicState::Offline,
        ) => Step::Reopen,
        (LocalState::UpToDate, PublicState::Syncing) if before != PublicState::Syncing => {
            Step::Reopen
        }
        (LocalState::Online, PublicState::Serving) => Step::Settle,
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
                assert_eq!(step(LocalState::Offline, before, public), Step::Stay);
            }
            for public in [PublicState::Offline, PublicState::LastServing] {
                assert_eq!(step(LocalState::Offline, before, public), Step::Reopen);
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
                assert_eq!(step(LocalState::UpToDate, before, public), expected);
            }
        }
    }

    #[test]
    fn serving_begins_with_settling() {
        for before in PublicState::ALL {
            for public in PublicState::ALL {
                let expected = match public {
                    PublicState::Serving => Step::Settle,
                    _ => Step::Stay,
                };
                assert_eq!(step(LocalState::Online, before, public), expected);
            }
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
