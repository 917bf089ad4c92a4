//! Whether the target that is to be filled can be reached (protocol S1, W9).
//!
//! Every write of the chain waits for its syncing target. When that answers the manager but not its predecessor, only the
//! predecessor knows. So it asks now and then while the target is syncing; when nothing comes back for a while it says so
//! with its heartbeats, and the manager counts the target as Offline for as long as it is said. Nothing acknowledged
//! depends on a target that does not serve: its predecessor holds everything.
//!
//! | the target | what the predecessor does |
//! | --- | --- |
//! | syncing, answers | asks again soon |
//! | syncing, no answer for `ANSWER_LIMIT`; or a change was not made for an attempt's whole time | says that it is cut off |
//! | cut off | after a pause, longer each time: asks again, and takes it back once it answers |
//! | filled | the next pause is the first one again |

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{env::Instant, shutdown::ShutdownSignal};
use futures::future::join_all;
use types::{
    id::TargetId,
    rpc::storage::{ListChunks, ListChunksRequest},
    status::{Status, StatusCode},
    target::{LocalState, PublicState},
    version::ChainVersion,
};

use crate::{
    node::Node,
    replica::role::address_of,
    target::{Target, View, driver::FIRST_CHUNK},
};

/// Without any answer for so long a target is cut off. Like a lease with its margin: a dead node is found out as soon.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// One question is given up after this long, since it may be lost.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A connection that was refused is tried again after this long.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// A target that was cut off is not asked before, so that it cannot hold up the chain again at once.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(40);

/// What a target knows of the way to those it fills.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Who is cut off, and when each is asked again. Several may be: another is filled meanwhile.
    lost: BTreeMap<TargetId, Instant>,
    /// The pauses of those that were lost since they were filled last.
    pauses: BTreeMap<TargetId, Duration>,
}

impl Reach {
    /// The targets that are cut off.
    pub(crate) fn lost(&self) -> Vec<TargetId> {
        self.lost.keys().copied().collect()
    }

    /// `target` does not answer; true when that is news.
    pub(crate) fn lose(&mut self, target: TargetId, now: Instant) -> bool {
        if self.lost.contains_key(&target) {
            return false;
        }
        let before = self.pauses.get(&target);
        let pause = before.map_or(PAUSE_MIN, |before| (*before * 2).min(PAUSE_MAX));
        self.pauses.insert(target, pause);
        self.lost.insert(target, now + pause);
        true
    }

    /// Those whose pause is over: they are asked again.
    fn due(&self, now: Instant) -> Vec<TargetId> {
        let due = self.lost.iter().filter(|(_, until)| now >= **until);
        due.map(|(target, _)| *target).collect()
    }

    fn found(&mut self, target: TargetId) {
        self.lost.remove(&target);
    }

    /// `target` was filled to its end.
    pub(crate) fn filled(&mut self, target: TargetId) {
        self.pauses.remove(&target);
    }
}

/// Whether `target` is the one of its chain that fills others.
pub(super) fn fills(target: &Target, view: &View) -> bool {
    view.local == LocalState::UpToDate
        && view.public(target.id) == PublicState::Serving
        && view.chain.last_serving() == Some(target.id)
}

/// Asks the successor of `target` whenever it is syncing, until shutdown.
pub(crate) async fn watch(node: Arc<Node>, target: Arc<Target>, mut end: ShutdownSignal) {
    let mut views = target.subscribe();
    loop {
        let view = views.borrow_and_update().clone();
        let again = tokio::select! {
            again = look(&node, &target, &view) => again,
            () = end.wait() => return,
        };
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = node.env.sleep(ASK_EVERY), if again => {}
            () = end.wait() => return,
        }
    }
}

/// One look; true when there is something to look at again soon.
async fn look(node: &Node, target: &Target, view: &View) -> bool {
    let fills = fills(target, view);
    let (lost, due) = {
        let reach = target.reach.lock();
        (reach.lost(), reach.due(node.env.now()))
    };
    let returning = due.into_iter().map(|lost| async move {
        let back = answers(node, target, lost).await.is_ok();
        back.then_some(lost)
    });
    let successor = super::to_fill(target, view).filter(|successor| !lost.contains(successor));
    let asked = async {
        if let Some(successor) = successor
            && let Err(status) = answers(node, target, successor).await
            && super::to_fill(target, &target.view()) == Some(successor)
        {
            give_up(node, target, successor, &status);
        }
    };
    let (back, ()) = futures::join!(join_all(returning.collect::<Vec<_>>()), asked);
    // Who fills nobody any more says nothing of anybody either.
    let forgotten: Vec<TargetId> = if fills {
        back.into_iter().flatten().collect()
    } else {
        lost.clone()
    };
    for successor in &forgotten {
        tracing::info!(
            target = target.id.0,
            successor = successor.0,
            "cut off no more"
        );
        target.reach.lock().found(*successor);
        node.report_soon();
    }
    fills && (successor.is_some() || !target.reach.lock().lost.is_empty())
}

/// Says that the syncing successor cannot be reached.
pub(crate) fn give_up(node: &Node, target: &Target, successor: TargetId, why: &Status) {
    if target.reach.lock().lose(successor, node.env.now()) {
        tracing::error!(
            target = target.id.0,
            successor = successor.0,
            status = %why,
            "the target that is filled does not answer: it has to leave the chain, whose writes wait for it"
        );
        node.report_soon();
    }
}

/// Whether anything comes back from the node of `successor`, be it a refusal.
async fn answers(node: &Node, target: &Target, successor: TargetId) -> Result<(), Status> {
    let request = ListChunksRequest {
        chain: target.chain,
        // No chain is at this version, so it is refused at once.
        chain_version: ChainVersion(0),
        target: successor,
        from: FIRST_CHUNK,
        limit: 1,
    };
    let deadline = node.env.now() + ANSWER_LIMIT;
    loop {
        let until = deadline.min(node.env.now() + ATTEMPT_LIMIT);
        let asked = match address_of(&node.routing.current(), successor) {
            Ok(address) => {
                let (endpoint, caller) = (&node.endpoint, node.caller());
                let asked = endpoint.ask::<ListChunks>(&address, &caller, &request, until);
                asked.await.map(drop)
            }
            // The map has forgotten it: the manager knows.
            Err(_) => return Ok(()),
        };
        match asked {
            Err(status) if !is_answer(status.code) => {
                if node.env.now() >= deadline {
                    return Err(status);
                }
            }
            _ => return Ok(()),
        }
        node.env.sleep(REFUSED_PAUSE).await;
    }
}

/// Whether a failure came from the other side.
fn is_answer(code: StatusCode) -> bool {
    !matches!(
        code,
        StatusCode::Unreachable | StatusCode::DeadlineExceeded | StatusCode::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_lost_again_and_again_is_asked_less_and_less_until_it_was_filled() {
        let now = Env::seeded(1).now();
        let mut reach = Reach::default();
        let lose = |reach: &mut Reach, target| {
            assert!(reach.lose(target, now) && !reach.lose(target, now));
            let pauses = [5, 10, 20, 40].map(Duration::from_secs);
            let is_due = |reach: &Reach, at| reach.due(at).contains(&target);
            let pause = pauses.into_iter().find(|pause| is_due(reach, now + *pause));
            let pause = pause.unwrap();
            assert!(!is_due(reach, now + pause - Duration::from_millis(1)));
            assert_eq!(reach.lost(), [target]);
            reach.found(target);
            pause.as_secs()
        };
        let (one, other) = (TargetId(3), TargetId(4));
        assert_eq!([5, 10, 20, 40, 40], [(); 5].map(|()| lose(&mut reach, one)));
        reach.filled(other);
        assert_eq!(lose(&mut reach, one), 40);
        reach.filled(one);
        assert_eq!(lose(&mut reach, one), 5);
        assert_eq!(lose(&mut reach, other), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_lost_stays_so_while_another_is() {
        let now = Env::seeded(1).now();
        let mut reach = Reach::default();
        let (one, other) = (TargetId(3), TargetId(4));
        assert!(reach.lose(one, now) && reach.lose(other, now));
        assert_eq!(reach.lost(), [one, other]);
        reach.found(other);
        assert_eq!(reach.lost(), [one]);
        assert!(!reach.lose(one, now));
    }

    #[test]
    fn a_refusal_is_an_answer() {
        for code in [StatusCode::Unreachable, StatusCode::DeadlineExceeded] {
            assert!(!is_answer(code));
        }
        for code in [
            StatusCode::ChainVersionMismatch,
            StatusCode::UnknownTarget,
            StatusCode::LeaseExpired,
            StatusCode::Overloaded,
        ] {
            assert!(is_answer(code));
        }
    }
}
