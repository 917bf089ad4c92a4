//! Passing a change on to the successor (protocol W7 to W9), for as long as it takes: the successor may die,
//! the map may change, until there is an answer, no successor, or no time.

use std::time::Duration;

use common::{backoff::Backoff, buf::SharedBuf, env::Instant};
use engine::ReadVersion;
use net::Bulk;
use types::{
    chain::ChainTarget,
    checksum::Checksum,
    rpc::{
        BulkIndex,
        storage::{ForwardKind, ForwardReply, ForwardRequest, ForwardUpdate},
    },
    status::{Detail, Status, StatusCode},
    target::{LocalState, PublicState},
    version::ChainVersion,
};

use crate::{
    change::Change,
    metrics,
    node::Node,
    replica::{
        commit::{Failure, classify},
        role::address_of,
    },
    target::{Target, View},
};

/// One attempt is given up after this long, so that a hung successor is asked anew under the newest map.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How passing on ended.
#[derive(Debug)]
pub(crate) enum Passed {
    /// The successor and all behind it have committed.
    Done(ForwardReply),
    /// There is no successor: this target is the tail.
    Tail,
    /// What is sent depends on the pending version here: call again when it is there.
    Later,
    /// It failed. `Failure::Final` codes come only when the successor surely does not hold the change.
    Failed(Status),
}

/// One change on its way to the successor.
pub(crate) struct PassOn<'a> {
    node: &'a Node,
    target: &'a Target,
    change: &'a Change,
    deadline: Instant,
    /// The successor said that versions are missing there.
    needs_whole: bool,
    content: Option<(SharedBuf, Checksum)>,
    /// The successor may hold the change.
    pub(crate) maybe_made: bool,
    /// The chain version under which the successor said that it is done.
    pub(crate) done_under: Option<ChainVersion>,
}

enum Attempt {
    Done(ForwardReply),
    Failed(Status),
    /// The successor is another one now; the old one may have made the change.
    Moved,
}

impl<'a> PassOn<'a> {
    pub(crate) fn new(
        node: &'a Node,
        target: &'a Target,
        change: &'a Change,
        deadline: Instant,
    ) -> Self {
        Self {
            node,
            target,
            change,
            deadline,
            // A version settled later has no payload: what is pending is all there is.
            needs_whole: matches!(change.kind, ForwardKind::Replace { .. }),
            content: None,
            maybe_made: false,
            done_under: None,
        }
    }

    /// Passes the change on. With `pending_is_here` the answer is never `Later`, and `Tail` is final: the
    /// pending version was visible before the map was looked at, so a resync that starts under a newer map
    /// sees it.
    pub(crate) async fn run(&mut self, pending_is_here: bool) -> Passed {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let view = self.target.view();
            if !takes_part(self.target, &view) {
                let message = format!("target {} left its chain meanwhile", self.target.id);
                return Passed::Failed(Status::new(StatusCode::Unreachable, message));
            }
            let Some(next) = view.chain.successor(self.target.id) else {
                return if pending_is_here {
                    Passed::Tail
                } else {
                    Passed::Later
                };
            };
            let whole =
                (self.needs_whole || next.state == PublicState::Syncing) && !self.change.is_whole();
            if whole && !pending_is_here {
                return Passed::Later;
            }
            let status = match self.attempt(&view, next, whole).await {
                Attempt::Done(reply) => {
                    self.maybe_made = true;
                    self.done_under = Some(view.chain.version);
                    return Passed::Done(reply);
                }
                Attempt::Moved => {
                    self.maybe_made = true;
                    continue;
                }
                Attempt::Failed(status) => status,
            };
            if self.node.env.makes_mistake("acknowledge-early") && pending_is_here {
                return Passed::Tail;
            }
            if let Some(passed) = self.judge(&status, whole) {
                return passed;
            }
            if self.node.env.now() >= self.deadline {
                let message = format!("not passed on to target {}: {status}", next.id);
                return Passed::Failed(Status::new(StatusCode::DeadlineExceeded, message));
            }
            self.pause(&view, &status, &mut backoff).await;
        }
    }

    /// Draws conclusions from a failed attempt; the end of it, or `None` to try again.
    fn judge(&mut self, status: &Status, whole: bool) -> Option<Passed> {
        metrics::pass_on_failed(status.code);
        tracing::debug!(chunk = %self.change.chunk, %status, "not passed on yet");
        match classify(status.code) {
            Failure::Final if self.maybe_made => {
                let message = format!("not finished: {status}");
                let unclear = Status::new(StatusCode::Unreachable, message);
                return Some(Passed::Failed(unclear));
            }
            Failure::Final => return Some(Passed::Failed(status.clone())),
            Failure::NotMade => {}
            // Said only when neither the successor nor anyone behind it has made this version.
            Failure::NeedsWhole => self.needs_whole |= !whole,
            Failure::Unknown => self.maybe_made = true,
        }
        None
    }

    /// Waits a little, or for a new view; asks for the map that the successor knows.
    async fn pause(&self, view: &View, status: &Status, backoff: &mut Backoff) {
        let env = &self.node.env;
        let until = (env.now() + backoff.next_delay(env)).min(self.deadline);
        let mut views = self.target.subscribe();
        let moved = views.wait_for(|now| now.chain.version != view.chain.version);
        let waited = async {
            if let Detail::Routing(theirs) = status.detail
                && theirs > view.routing
            {
                self.node.routing.refresh(view.routing, until).await;
            }
            env.sleep_until(until).await;
        };
        tokio::select! {
            _ = moved => {}
            () = waited => {}
        }
    }

    async fn attempt(&mut self, view: &View, next: ChainTarget, whole: bool) -> Attempt {
        match self.prepare(view, next, whole).await {
            Ok((address, request, payload)) => self.send(next, &address, &request, payload).await,
            Err(status) => Attempt::Failed(status),
        }
    }

    async fn prepare(
        &mut self,
        view: &View,
        next: ChainTarget,
        whole: bool,
    ) -> Result<(String, ForwardRequest, Option<SharedBuf>), Status> {
        let address = address_of(&self.node.routing.current(), next.id)?;
        let change = self.change;
        let (kind, payload, checksum) = if whole {
            let (content, checksum) = self.pending_content().await?;
            let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
            (ForwardKind::Replace { length }, Some(content), checksum)
        } else {
            let payload = change.payload.as_ref();
            let payload = payload.map(|hashed| hashed.bytes().clone());
            (change.kind.clone(), payload, change.checksum)
        };
        let request = ForwardRequest {
            chain: self.target.chain,
            chain_version: view.chain.version,
            from: self.target.id,
            chunk: change.chunk,
            chunk_size: change.chunk_size,
            update_version: change.update_version,
            kind,
            payload: payload.as_ref().map(|_| BulkIndex(0)),
            checksum,
            tag: change.tag,
        };
        Ok((address, request, payload))
    }

    /// The whole pending version, read once.
    async fn pending_content(&mut self) -> Result<(SharedBuf, Checksum), Status> {
        if let Some(content) = &self.content {
            return Ok(content.clone());
        }
        let engine = self.target.disk.engine()?;
        let key = self.target.key(self.change.chunk);
        let read = engine.read(key, ReadVersion::Pending, 0, u32::MAX);
        let out = read.await?;
        if out.version != self.change.update_version {
            let message = format!("chunk {}: version {} is pending", key.chunk, out.version);
            return Err(Status::new(StatusCode::Internal, message));
        }
        Ok(self.content.insert((out.data, out.checksum)).clone())
    }

    async fn send(
        &self,
        next: ChainTarget,
        address: &str,
        request: &ForwardRequest,
        payload: Option<SharedBuf>,
    ) -> Attempt {
        let caller = self.node.caller();
        let until = (self.node.env.now() + ATTEMPT_LIMIT).min(self.deadline);
        let bulk = Bulk {
            sources: payload.into_iter().collect(),
            ..Bulk::default()
        };
        let call = self
            .node
            .endpoint
            .call::<ForwardUpdate>(address, &caller, request, bulk, until);
        let mut views = self.target.subscribe();
        let moved = views.wait_for(|view| {
            let successor = view.chain.successor(self.target.id);
            !takes_part(self.target, view) || successor.map(|s| s.id) != Some(next.id)
        });
        tokio::select! {
            reply = call => match reply.result {
                Ok(reply) => Attempt::Done(reply),
                Err(status) => Attempt::Failed(status),
            },
            _ = moved => Attempt::Moved,
        }
    }
}

/// Whether the target still takes changes in its chain.
fn takes_part(target: &Target, view: &View) -> bool {
    let public = view.public(target.id);
    let in_chain = matches!(public, PublicState::Serving | PublicState::Syncing);
    in_chain && view.local != LocalState::Offline
}
