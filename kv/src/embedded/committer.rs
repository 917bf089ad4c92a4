//! The one thread that writes: takes the transactions that wait, judges them one after the other, writes
//! those that pass as one batch, shows the result to new transactions, and answers.
//!
//! Nobody is answered, and nothing is shown, before the batch is with the operating system (or on stable
//! storage, by policy). While a batch is written the next group gathers in the queue.

use std::{io, sync::Arc};

use common::env::Env;
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared, View,
    config::SyncPolicy,
    engine::{Durability, Latest, write_failure},
    rotator,
    space::Room,
};
use crate::{
    error::KvError,
    group::{Changes, CommitRequest, Group},
    metrics,
    resolver::{ENTRIES_MAX, Resolver},
    transaction::CommitVersion,
};

/// Transactions that may wait; more wait outside.
pub(super) const JOBS_MAX: usize = 1024;
/// Transactions in a batch.
const GROUP_MAX: usize = 256;
/// A batch that has grown to this is written before more is added to it.
const GROUP_BYTES_MAX: usize = 8 << 20;

type Reply = oneshot::Sender<Result<CommitVersion, KvError>>;

/// A transaction that waits, and who asked.
pub(super) struct Job {
    pub(super) request: CommitRequest,
    pub(super) reply: Reply,
}

/// Starts the thread. It ends, and says so by `done`, when the queue was closed and is empty.
pub(super) fn start(
    env: &Env,
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Job>,
    done: oneshot::Sender<()>,
) -> io::Result<()> {
    env.spawn_thread("kv-commit", move || {
        let version = shared.view.lock().version;
        let mut committer = Committer {
            resolver: Resolver::new(version, ENTRIES_MAX),
            version,
            shared,
        };
        let mut waiting = Vec::new();
        while jobs.blocking_recv_many(&mut waiting, GROUP_MAX) > 0 {
            committer.run(waiting.drain(..));
        }
        drop(committer);
        // Nobody may be waiting, which is fine.
        let _nobody = done.send(()).is_err();
    })?;
    Ok(())
}

struct Committer {
    shared: Arc<Shared>,
    resolver: Resolver,
    /// The last one given out.
    version: CommitVersion,
}

/// A group that was judged.
struct Judged {
    changes: Changes,
    accepted: Vec<(CommitVersion, Reply)>,
}

impl Drop for Committer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "the committer panicked (see the log)".to_owned();
            self.shared.failure.set(reason);
        }
    }
}

impl Committer {
    fn run(&mut self, jobs: impl Iterator<Item = Job>) {
        let mut jobs = jobs.peekable();
        while jobs.peek().is_some() {
            if let Some(judged) = self.judge(&mut jobs) {
                self.write(judged);
            }
            self.resolver.advance(self.shared.env.now(), self.version);
        }
    }

    /// Takes a group off `jobs` and answers those that must not commit; `None` when all were answered.
    fn judge(&mut self, jobs: &mut impl Iterator<Item = Job>) -> Option<Judged> {
        let view = self.shared.view.lock().clone();
        let base = Latest {
            engine: &self.shared.engine,
            snapshot: &view.snapshot,
        };
        let mut group = Group::new(&base);
        let mut accepted = Vec::new();
        let room = self.shared.space.room();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(Job { request, reply }) = jobs.next()
        {
            bytes += request.writes.bytes();
            let version = CommitVersion(self.version.0 + 1);
            let verdict = admissible(&self.shared, room, &request)
                .and_then(|()| group.admit(&mut self.resolver, version, &request));
            match verdict {
                Ok(()) => {
                    self.version = version;
                    accepted.push((version, reply));
                }
                Err(error @ KvError::Io { .. }) | Err(error @ KvError::Corrupt { .. }) => {
                    // The group may hold a part of this transaction: nothing of it is written.
                    answer(reply, Err(error.clone()));
                    for (_version, reply) in accepted {
                        answer(reply, Err(error.clone()));
                    }
                    return None;
                }
                Err(error) => {
                    metrics::count_refusal(&error);
                    answer(reply, Err(error));
                }
            }
        }
        (!accepted.is_empty()).then(|| Judged {
            changes: group.into_changes(),
            accepted,
        })
    }

    fn write(&mut self, judged: Judged) {
        let durability = match self.shared.config.sync {
            SyncPolicy::Always => Durability::StableStorage,
            SyncPolicy::Interval(_) => Durability::OperatingSystem,
        };
        let written = self
            .shared
            .engine
            .write(judged.changes, self.version, durability);
        if let Err(error) = written {
            let free_bytes = self.shared.space.room().free_bytes();
            let reason = write_failure("write the journal", &error, free_bytes);
            self.shared.failure.set(reason);
            self.shared.sync.wake();
            for (_version, reply) in judged.accepted {
                answer(reply, Err(KvError::CommitUnknown));
            }
            return;
        }
        let view = Arc::new(View {
            snapshot: self.shared.engine.snapshot(),
            version: self.version,
        });
        // The old view goes after the lock: freeing a snapshot may take a while.
        let old = std::mem::replace(&mut *self.shared.view.lock(), view);
        self.shared.sync.committed(self.version, durability);
        metrics::count_group(judged.accepted.len());
        for (version, reply) in judged.accepted {
            answer(reply, Ok(version));
        }
        drop(old);
        if let Err(error) = self.shared.rotation.written(&self.shared.engine) {
            rotator::stop(&self.shared, &error);
        }
    }
}

fn admissible(shared: &Shared, room: Room, request: &CommitRequest) -> Result<(), KvError> {
    shared.failure.check()?;
    if !room.admits(&request.writes) {
        return Err(KvError::Full);
    }
    Ok(())
}

fn answer(reply: Reply, result: Result<CommitVersion, KvError>) {
    // The caller may have gone away; its transaction stands all the same.
    let _gone = reply.send(result).is_err();
}
