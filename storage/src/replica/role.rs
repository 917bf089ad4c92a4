//! What a target may do in its chain now (protocol W1, W8, D1, M4).
//!
//! Every check takes the chain as this node knows it, and requires the other side to know the same
//! version of it. A side that is behind fetches a newer map; nobody acts on a guess.

use types::{
    chain::Chain,
    id::TargetId,
    routing::RoutingInfo,
    status::{Detail, Status, StatusCode},
    target::{LocalState, PublicState},
    version::{ChainVersion, RoutingVersion},
};

/// Where a target stands: what its node knows about the chain and about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) target: TargetId,
    pub(crate) chain: &'a Chain,
    pub(crate) local: LocalState,
    pub(crate) lease_valid: bool,
}

/// Why a target does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the lease of this node has run out: it has not heard from the manager lately")]
    LeaseExpired,
    #[error("the request was made for chain version {theirs}, the target is at {mine}")]
    ChainVersion {
        mine: ChainVersion,
        theirs: ChainVersion,
    },
    #[error("target {target} is not open here")]
    NotOpen { target: TargetId },
    #[error("target {target} is not the head of its chain")]
    NotHead { target: TargetId },
    #[error("target {target} is {state:?} and does not serve")]
    NotServing {
        target: TargetId,
        state: PublicState,
    },
    #[error("target {target} is {state:?} and is not being refilled")]
    NotSyncing {
        target: TargetId,
        state: PublicState,
    },
    #[error("target {target} is not the last one that serves")]
    NotLast { target: TargetId },
    #[error("target {from} does not come directly before target {target}")]
    NotPredecessor { from: TargetId, target: TargetId },
}

impl Refusal {
    /// The answer on the wire. It carries the version of the map it is based on, so that a stale peer refreshes.
    pub(crate) fn status(self, routing: RoutingVersion) -> Status {
        let code = match self {
            Self::LeaseExpired => StatusCode::LeaseExpired,
            Self::ChainVersion { .. } => StatusCode::ChainVersionMismatch,
            Self::NotOpen { .. } => StatusCode::UnknownTarget,
            Self::NotHead { .. }
            | Self::NotServing { .. }
            | Self::NotSyncing { .. }
            | Self::NotLast { .. }
            | Self::NotPredecessor { .. } => StatusCode::WrongRole,
        };
        Status::new(code, self.to_string()).with_detail(Detail::Routing(routing))
    }
}

impl Standing<'_> {
    fn base(&self, requested: ChainVersion) -> Result<PublicState, Refusal> {
        let target = self.target;
        if !self.lease_valid {
            return Err(Refusal::LeaseExpired);
        }
        if self.chain.version != requested {
            return Err(Refusal::ChainVersion {
                mine: self.chain.version,
                theirs: requested,
            });
        }
        if !self.local.is_alive() {
            return Err(Refusal::NotOpen { target });
        }
        self.chain
            .state_of(target)
            .ok_or(Refusal::NotOpen { target })
    }

    /// Whether reads are answered here (D1). A target serves only once it has settled what it held
    /// before, which is when it calls itself up to date.
    pub(crate) fn check_serving(&self, requested: ChainVersion) -> Result<(), Refusal> {
        let target = self.target;
        let state = self.base(requested)?;
        if state != PublicState::Serving {
            return Err(Refusal::NotServing { target, state });
        }
        if self.local != LocalState::UpToDate {
            return Err(Refusal::NotOpen { target });
        }
        Ok(())
    }

    /// Whether a client's update is taken here (W1).
    pub(crate) fn check_head(&self, requested: ChainVersion) -> Result<(), Refusal> {
        self.check_serving(requested)?;
        if self.chain.head() != Some(self.target) {
            return Err(Refusal::NotHead {
                target: self.target,
            });
        }
        Ok(())
    }

    /// Whether this target decides what is committed (D2).
    pub(crate) fn check_last_serving(&self, requested: ChainVersion) -> Result<(), Refusal> {
        self.check_serving(requested)?;
        if self.is_last_serving() {
            Ok(())
        } else {
            Err(Refusal::NotLast {
                target: self.target,
            })
        }
    }

    /// Whether this target is being refilled (S2, S5).
    pub(crate) fn check_syncing(&self, requested: ChainVersion) -> Result<(), Refusal> {
        match self.base(requested)? {
            PublicState::Syncing => Ok(()),
            state => Err(Refusal::NotSyncing {
                target: self.target,
                state,
            }),
        }
    }

    /// Whether a change from `from` is taken here (W8).
    pub(crate) fn check_follower(
        &self,
        from: TargetId,
        requested: ChainVersion,
    ) -> Result<PublicState, Refusal> {
        let target = self.target;
        let state = self.base(requested)?;
        match state {
            PublicState::Serving if self.local != LocalState::UpToDate => {
                return Err(Refusal::NotOpen { target });
            }
            PublicState::Serving | PublicState::Syncing => {}
            PublicState::Waiting | PublicState::LastServing | PublicState::Offline => {
                return Err(Refusal::NotServing { target, state });
            }
        }
        let before = self.chain.predecessor(target);
        if before.is_none_or(|before| before.id != from || before.state != PublicState::Serving) {
            return Err(Refusal::NotPredecessor { from, target });
        }
        Ok(state)
    }

    /// Whether this target, and no other, is the last one that serves.
    pub(crate) fn is_last_serving(&self) -> bool {
        self.chain.last_serving() == Some(self.target)
    }
}

/// Where a target's node listens.
pub(crate) fn address_of(routing: &RoutingInfo, target: TargetId) -> Result<String, Status> {
    routing
        .node_of(target)
        .and_then(|node| node.addresses.first().cloned())
        .ok_or_else(|| {
            Status::new(
                StatusCode::UnknownTarget,
                format!("the map names no address for target {target}"),
            )
            .with_detail(Detail::Routing(routing.version))
        })
}

#[cfg(test)]
mod tests {
    use types::{chain::ChainTarget, id::ChainId};

    use super::*;

    const VERSION: ChainVersion = ChainVersion(7);

    fn chain(states: &[PublicState]) -> Chain {
        let targets = (1..)
            .zip(states)
            .map(|(id, &state)| ChainTarget {
                id: TargetId(id),
                state,
            })
            .collect();
        Chain {
            id: ChainId(1),
            version: VERSION,
            targets,
            preferred: vec![],
        }
    }

    fn standing(chain: &Chain, target: u64, local: LocalState) -> Standing<'_> {
        Standing {
            target: TargetId(target),
            chain,
            local,
            lease_valid: true,
        }
    }

    #[test]
    fn without_a_lease_nothing_is_answered() {
        let chain = chain(&[PublicState::Serving]);
        let standing = Standing {
            lease_valid: false,
            ..standing(&chain, 1, LocalState::UpToDate)
        };
        assert_eq!(standing.check_serving(VERSION), Err(Refusal::LeaseExpired));
        assert_eq!(standing.check_head(VERSION), Err(Refusal::LeaseExpired));
        assert_eq!(
            standing.check_follower(TargetId(9), VERSION),
            Err(Refusal::LeaseExpired)
        );
    }

    #[test]
    fn any_other_chain_version_is_refused_with_ones_own() {
        let chain = chain(&[PublicState::Serving]);
        let standing = standing(&chain, 1, LocalState::UpToDate);
        for theirs in [ChainVersion(6), ChainVersion(8)] {
            let refusal = standing.check_head(theirs).unwrap_err();
            assert_eq!(
                refusal,
                Refusal::ChainVersion {
                    mine: VERSION,
                    theirs
                }
            );
            let status = refusal.status(RoutingVersion(40));
            assert_eq!(status.code, StatusCode::ChainVersionMismatch);
            assert_eq!(status.detail, Detail::Routing(RoutingVersion(40)));
        }
    }

    /// Every chain of up to three targets, every target of it, every local state: exactly the right
    /// ones answer.
    #[test]
    fn roles_follow_the_public_and_the_local_state() {
        let mut chains: Vec<Vec<PublicState>> = vec![vec![]];
        for _ in 0..3 {
            let longer: Vec<Vec<PublicState>> = chains
                .iter()
                .flat_map(|c| PublicState::ALL.map(|s| [c.clone(), vec![s]].concat()))
                .collect();
            chains.extend(longer);
            chains.sort_unstable();
            chains.dedup();
        }
        let mut seen = 0;
        for states in chains.iter().filter(|c| !c.is_empty()) {
            let chain = chain(states);
            for (index, &state) in states.iter().enumerate() {
                for local in LocalState::ALL {
                    seen += 1;
                    let me = standing(&chain, index as u64 + 1, local);
                    let serves = state == PublicState::Serving && local == LocalState::UpToDate;
                    assert_eq!(me.check_serving(VERSION).is_ok(), serves);
                    assert_eq!(me.check_head(VERSION).is_ok(), serves && index == 0);
                    let last = states[index + 1..]
                        .iter()
                        .all(|&s| s != PublicState::Serving);
                    assert_eq!(me.check_last_serving(VERSION).is_ok(), serves && last);
                    let syncs = state == PublicState::Syncing && local.is_alive();
                    assert_eq!(me.check_syncing(VERSION).is_ok(), syncs);
                    let takes = serves || (state == PublicState::Syncing && local.is_alive());
                    let behind = index > 0 && states[index - 1] == PublicState::Serving;
                    let from = TargetId(index as u64);
                    assert_eq!(
                        me.check_follower(from, VERSION).is_ok(),
                        takes && behind,
                        "{states:?} {index} {local:?}"
                    );
                    assert!(me.check_follower(TargetId(99), VERSION).is_err());
                }
            }
        }
        assert!(seen > 1000, "{seen}");
    }
}
