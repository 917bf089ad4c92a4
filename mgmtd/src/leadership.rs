//! Whether this member leads, as far as that is certain.
//!
//! A leader that is cut off does not learn that another was elected. So it asks a majority again and again, and leads
//! only while the *start* of the last question that was answered with yes is not older than a bound, which is at most
//! the margin of leases.
//!
//! Why this is safe: when the question began at `q` and was answered by a majority, no other leader had been elected at
//! `q`, for its majority would share a member with ours that had already turned away. Everything this member grants is
//! granted before `q + bound`, so every lease it grants ends before `q + margin + lease`. A new leader begins after `q` and
//! changes no chain for lease + margin unless all alive nodes have reported to it (protocol M6).

use std::{sync::Arc, time::Duration};

use common::{
    env::{Env, Instant},
    shutdown::ShutdownSignal,
    sync::Mutex,
};
use tokio::sync::watch;

use crate::raft::{Member, Term};

/// The pause after a question that was not answered with yes.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    bound: Duration,
    confirmed: Arc<Mutex<Option<Confirmed>>>,
    /// The term in which this member leads; told to those who wait.
    term: watch::Sender<Option<Term>>,
}

#[derive(Clone, Copy, Debug)]
struct Confirmed {
    term: Term,
    /// When the question began.
    asked: Instant,
}

impl Leadership {
    /// Not leading yet.
    pub(crate) fn new(bound: Duration) -> Self {
        Self {
            bound,
            confirmed: Arc::default(),
            term: watch::Sender::new(None),
        }
    }

    /// The term in which this member leads at `now`.
    pub(crate) fn at(&self, now: Instant) -> Option<Term> {
        let confirmed = (*self.confirmed.lock())?;
        (now < confirmed.asked + self.bound).then_some(confirmed.term)
    }

    /// The term, and each change of it. A term that is seen here may have run out: `at` decides.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    /// A majority said at or after `asked` that this member leads.
    pub(crate) fn confirm(&self, term: Term, asked: Instant) {
        *self.confirmed.lock() = Some(Confirmed { term, asked });
        self.tell(Some(term));
    }

    /// This member does not lead any more.
    pub(crate) fn lose(&self) {
        *self.confirmed.lock() = None;
        self.tell(None);
    }

    fn tell(&self, new: Option<Term>) {
        self.term.send_if_modified(|term| {
            let changed = *term != new;
            *term = new;
            changed
        });
    }
}

/// Keeps asking while this member believes that it leads; until shutdown.
pub(crate) async fn keep(
    env: Env,
    member: Arc<Member>,
    leadership: Leadership,
    mut shutdown: ShutdownSignal,
) {
    // A question that fails leaves time for another one before the bound is over.
    let pause = leadership.bound * 2 / 5;
    while !shutdown.is_triggered() {
        let changed = member.role_changes();
        let asked = env.now();
        let answer = if member.believes_to_lead() {
            env.timeout(leadership.bound, member.confirm())
                .await
                .ok()
                .flatten()
        } else {
            None
        };
        let now = env.now();
        match answer {
            Some(term) => {
                if leadership.at(now) != Some(term) {
                    tracing::info!(term = term.0, "this manager leads");
                }
                leadership.confirm(term, asked);
            }
            None if leadership.at(now).is_none() || !member.believes_to_lead() => leadership.lose(),
            None => {}
        }
        let unanswered = answer.is_none() && member.believes_to_lead();
        let pause = if unanswered { ASK_AGAIN_AFTER } else { pause };
        tokio::select! {
            () = changed => {}
            () = env.sleep(pause) => {}
            () = shutdown.wait() => {}
        }
    }
    leadership.lose();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leadership_runs_out_a_bound_after_the_question_began() {
        let env = Env::seeded(1);
        let margin = Duration::from_millis(500);
        let leadership = Leadership::new(margin);
        let asked = env.now();
        assert_eq!(leadership.at(asked), None);
        leadership.confirm(Term(3), asked);
        assert_eq!(
            leadership.at(asked + margin - Duration::from_millis(1)),
            Some(Term(3))
        );
        assert_eq!(leadership.at(asked + margin), None);
        assert_eq!(*leadership.subscribe().borrow(), Some(Term(3)));
        leadership.lose();
        assert_eq!(leadership.at(asked), None);
    }
}
