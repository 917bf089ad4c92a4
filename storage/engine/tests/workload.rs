//! What tests of crashes and faults let an engine do: written scripts of a few steps, and endless random lives. Both
//! keep the history of what was asked for and answered.

use std::time::Duration;

use common::env::Env;
use engine::{BLOCK_BYTES, Change, Engine, EngineError, ReadVersion};
use types::{chunk::Update, version::ChunkVersion};

use crate::{
    history::{History, State},
    support::{CHAIN_VERSION, SMALL, key, pattern, random_change, request, write_at},
};

/// Chunks of one disk.
pub(crate) const CHUNKS: u32 = 5;
/// Chunks are this long at most: two size classes, and little to copy.
pub(crate) const LIMIT: u32 = 80 << 10;

const BLOCK: u32 = BLOCK_BYTES;

/// One step of one chunk's script.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Writes this many bytes at this offset.
    Write(u32, u32),
    /// Writes this many bytes behind the end.
    Append(u32),
    Extend(u32),
    Truncate(u32),
    /// Replaces all by this many bytes.
    Replace(u32),
    Remove,
    /// Commits what the steps before made. Without it they replace each other.
    Commit,
    Discard,
    Drop,
    Sync,
    /// Moves what is committed to another slot.
    Relocate,
    /// Lets time pass, in milliseconds, so that what the engine does in the background is done.
    Pause(u64),
}

/// A written workload: the steps of some chunks, all at the same time.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) chunks: Vec<Vec<Step>>,
}

/// Small workloads that together hold every kind of change next to every other.
pub(crate) fn scripts() -> Vec<Script> {
    let script = |name, chunks| Script { name, chunks };
    vec![
        script("small_overwrites", vec![small_overwrites()]),
        script("unaligned_overwrites", vec![unaligned_overwrites()]),
        script("appends", vec![appends()]),
        script("cuts", vec![cuts()]),
        script("replacements", vec![replacements()]),
        script("pending_versions", vec![pending_versions()]),
        script(
            "side_by_side",
            vec![
                small_overwrites(),
                unaligned_overwrites(),
                appends(),
                cuts(),
                replacements(),
            ],
        ),
        script("moved", vec![moved()]),
        script("moved_side_by_side", vec![moved(), appends(), moved()]),
        script("one_block_over_and_over", vec![one_block(), one_block()]),
    ]
}

/// Each step committed.
fn committed(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let pairs = steps.into_iter().map(|step| [step, Step::Commit]);
    pairs.flatten().collect()
}

fn small_overwrites() -> Vec<Step> {
    let mut steps = committed([Step::Replace(6 * BLOCK)]);
    let places = [0, 3, 1, 3, 2, 5, 0, 3];
    steps.extend(committed(places.map(|at| Step::Write(at * SMALL, SMALL))));
    steps.push(Step::Pause(500));
    let places = [3, 4, 4, 0];
    steps.extend(committed(places.map(|at| Step::Write(at * SMALL, SMALL))));
    steps
}

fn unaligned_overwrites() -> Vec<Step> {
    let mut steps = committed([Step::Replace(3 * BLOCK + 77)]);
    let places = [
        (5, 10),
        (BLOCK - 3, 6),
        (SMALL - 1, SMALL + 2),
        (3 * BLOCK, 77),
        (3 * BLOCK + 70, 100),
        (1, 2 * BLOCK),
        (7, 3),
    ];
    steps.extend(committed(
        places.map(|(offset, length)| Step::Write(offset, length)),
    ));
    steps.push(Step::Pause(500));
    steps.extend(committed([Step::Write(6, 10), Step::Write(2 * BLOCK, 9)]));
    steps
}

fn appends() -> Vec<Step> {
    committed([
        Step::Append(100),
        Step::Append(BLOCK - 100),
        Step::Append(BLOCK),
        Step::Append(3),
        Step::Write(5, 20),
        Step::Append(SMALL),
        Step::Write(6 * BLOCK + 9, 50),
        Step::Append(60_000 - 6 * BLOCK),
        // Into the next size class.
        Step::Append(10_000),
        Step::Append(3),
    ])
}

fn cuts() -> Vec<Step> {
    let mut steps = committed([
        Step::Replace(70_000),
        Step::Write(BLOCK + 10, 100),
        Step::Truncate(BLOCK + 50),
        Step::Extend(2 * BLOCK + 1),
        Step::Write(2 * BLOCK, 1),
        Step::Truncate(2 * BLOCK),
        Step::Write(0, SMALL),
        Step::Truncate(SMALL - 1),
        Step::Extend(66_000),
        Step::Write(65_536, 10),
    ]);
    steps.push(Step::Pause(500));
    steps.extend(committed([Step::Truncate(0), Step::Extend(10)]));
    steps
}

fn replacements() -> Vec<Step> {
    let mut steps = committed([
        Step::Replace(10_000),
        Step::Write(SMALL, SMALL),
        Step::Replace(9000),
        Step::Write(0, SMALL),
        Step::Remove,
        Step::Write(100, 100),
        Step::Write(0, SMALL),
    ]);
    steps.push(Step::Drop);
    steps.extend(committed([Step::Append(SMALL), Step::Write(7, 7)]));
    steps.push(Step::Sync);
    steps.extend(committed([Step::Remove, Step::Append(5)]));
    steps
}

fn pending_versions() -> Vec<Step> {
    let mut steps = committed([Step::Replace(2 * BLOCK), Step::Write(0, SMALL)]);
    steps.extend([
        Step::Write(SMALL, SMALL),
        Step::Write(0, SMALL),
        Step::Discard,
        Step::Write(10, 20),
        Step::Append(BLOCK),
        Step::Commit,
        Step::Sync,
        Step::Write(BLOCK, SMALL),
        Step::Pause(500),
        Step::Remove,
        Step::Write(5, 5),
        Step::Commit,
        Step::Append(10),
        Step::Discard,
        Step::Append(10),
        Step::Drop,
        Step::Write(0, 3),
    ]);
    steps
}

fn moved() -> Vec<Step> {
    let mut steps = committed([Step::Replace(3 * BLOCK + 5), Step::Relocate]);
    steps.extend(committed([
        Step::Write(SMALL, SMALL),
        Step::Relocate,
        Step::Append(BLOCK),
        Step::Relocate,
        Step::Append(70_000),
    ]));
    steps.extend([
        Step::Relocate,
        Step::Relocate,
        Step::Write(10, 20),
        // Something is pending: nothing happens.
        Step::Relocate,
        Step::Discard,
        Step::Relocate,
        Step::Sync,
        Step::Relocate,
        Step::Write(0, SMALL),
        Step::Commit,
        Step::Pause(500),
        Step::Relocate,
        Step::Truncate(BLOCK + 3),
        Step::Commit,
        Step::Relocate,
        Step::Remove,
        Step::Commit,
        Step::Relocate,
    ]);
    steps
}

fn one_block() -> Vec<Step> {
    let writes = (0..16).map(|at| Step::Write(at % 3 * 100, SMALL - 300));
    let mut steps = committed([Step::Append(2 * BLOCK)]);
    steps.extend(committed(writes));
    steps
}

/// How work on a chunk ended before its time.
pub(crate) type Ended = Result<(), EngineError>;

/// Runs a script; ends early with the first error.
pub(crate) async fn follow(
    env: &Env,
    engine: &Engine,
    script: &Script,
    history: &History,
) -> Ended {
    let workers = (0..).zip(&script.chunks).map(|(index, steps)| async move {
        let worker = Worker {
            env,
            engine,
            history,
            index,
        };
        for (&step, seed) in steps.iter().zip(0..) {
            worker.step(step, seed).await?;
        }
        Ok(())
    });
    let ended = futures::future::join_all(workers).await;
    ended.into_iter().collect()
}

/// Random updates, commits and all the rest of all chunks, without an end but an error.
pub(crate) async fn live(env: &Env, engine: &Engine, history: &History) -> EngineError {
    let workers = (0..CHUNKS).map(|index| async move {
        let worker = Worker {
            env,
            engine,
            history,
            index,
        };
        loop {
            if let Err(error) = worker.random_step().await {
                return error;
            }
        }
    });
    futures::future::select_all(workers.map(Box::pin)).await.0
}

/// Whether an error says that nothing has changed and the disk goes on.
pub(crate) fn is_refusal(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::NoSpace { .. }
            | EngineError::ReadFailed { .. }
            | EngineError::ChunkCorrupt { .. }
    )
}

/// Works on one chunk, one thing after the other.
pub(crate) struct Worker<'a> {
    pub(crate) env: &'a Env,
    pub(crate) engine: &'a Engine,
    pub(crate) history: &'a History,
    pub(crate) index: u32,
}

impl Worker<'_> {
    async fn step(&self, step: Step, seed: u64) -> Ended {
        let state = self.history.current(self.index);
        let bytes = |length| pattern(seed << 8 | u64::from(self.index), length);
        let write = |offset, length| {
            let payload = bytes(length);
            (write_at(offset, &payload), payload)
        };
        let plain = |update| (Change::Update(update), Vec::new());
        let (change, payload) = match step {
            Step::Commit => return self.commit().await,
            Step::Discard => return self.discard().await,
            Step::Drop => return self.drop_chunk().await,
            Step::Sync => return self.sync().await,
            Step::Relocate => return self.relocate().await,
            Step::Pause(milliseconds) => {
                self.env.sleep(Duration::from_millis(milliseconds)).await;
                return Ok(());
            }
            Step::Write(offset, length) => write(offset, length),
            Step::Append(length) => write(state.length(), length),
            Step::Replace(length) => (Change::Replace { length }, bytes(length)),
            Step::Extend(length) => plain(Update::Extend { length }),
            Step::Truncate(length) => plain(Update::Truncate { length }),
            Step::Remove => plain(Update::Remove),
        };
        self.update(change, &payload).await
    }

    pub(crate) async fn random_step(&self) -> Ended {
        match self.env.random_below(40) {
            0 => self.discard().await,
            1 => self.drop_chunk().await,
            2 => self.sync().await,
            3 | 4 => {
                let pause = Duration::from_millis(self.env.random_below(300));
                self.env.sleep(pause).await;
                Ok(())
            }
            5..9 => self.read().await,
            9..12 => {
                // It is moved to another slot meanwhile.
                let (changed, moved) = futures::join!(self.random_change(), self.relocate());
                changed.and(moved)
            }
            _ => self.random_change().await,
        }
    }

    async fn random_change(&self) -> Ended {
        let length = self.history.current(self.index).length();
        let (change, payload) = random_change(self.env, LIMIT, length);
        self.update(change, &payload).await?;
        if self.env.random_below(5) > 0 {
            self.commit().await?;
        }
        Ok(())
    }

    pub(crate) async fn update(&self, change: Change, payload: &[u8]) -> Ended {
        let state = self.history.current(self.index);
        let version = state.next_version();
        let updated = state.updated(change, payload);
        self.history.ask(self.index, updated);
        let request = request(key(self.index), version, change, payload);
        let answer = self.engine.update(request).await.map(drop);
        self.answered(answer)
    }

    pub(crate) async fn commit(&self) -> Ended {
        let state = self.history.current(self.index);
        let Some(version) = &state.pending else {
            return Ok(());
        };
        let version = ChunkVersion(version.number);
        self.history.ask(self.index, state.committed());
        self.engine
            .commit(key(self.index), version, CHAIN_VERSION)
            .await?;
        // Nobody waits for it: until it is durable the version may be found pending as well.
        self.history.answer_without_promise(self.index);
        Ok(())
    }

    /// Changes nothing that anyone could see.
    async fn relocate(&self) -> Ended {
        let moved = self.engine.relocate(key(self.index)).await;
        moved.map(drop)
    }

    async fn discard(&self) -> Ended {
        let state = self.history.current(self.index);
        if state.pending.is_none() {
            return self.engine.discard_pending(key(self.index)).await;
        }
        self.history.ask(self.index, state.discarded());
        let answer = self.engine.discard_pending(key(self.index)).await;
        self.answered(answer)
    }

    async fn drop_chunk(&self) -> Ended {
        let state = self.history.current(self.index);
        if state == State::default() {
            return self.engine.drop_chunk(key(self.index)).await;
        }
        self.history.ask(self.index, State::default());
        let answer = self.engine.drop_chunk(key(self.index)).await;
        self.answered(answer)
    }

    async fn sync(&self) -> Ended {
        let answered = self.history.answered();
        self.engine.sync().await?;
        self.history.synced(&answered);
        Ok(())
    }

    /// Reads a part of what is committed, or pending.
    async fn read(&self) -> Ended {
        let state = self.history.current(self.index);
        let (version, expected) = if self.env.random_below(2) == 0 {
            (ReadVersion::Committed, state.committed)
        } else {
            (ReadVersion::Pending, state.pending.or(state.committed))
        };
        let offset = self.env.random_below(u64::from(LIMIT) / 2) as u32;
        let length = self.env.random_below(u64::from(LIMIT)) as u32;
        let read = self
            .engine
            .read(key(self.index), version, offset, length)
            .await;
        let expected = expected.and_then(|version| version.content);
        match (read, expected) {
            (Ok(read), Some(expected)) => {
                let end = expected.len().min((offset + length) as usize);
                let start = end.min(offset as usize);
                assert_eq!(read.chunk_length as usize, expected.len());
                assert!(read.data[..] == expected[start..end], "other bytes");
                Ok(())
            }
            (Err(EngineError::NotFound { .. }), None) => Ok(()),
            (Ok(_), None) => panic!("chunk {}: what does not exist was read", self.index),
            (Err(error), _) => Err(error),
        }
    }

    fn answered(&self, answer: Ended) -> Ended {
        match &answer {
            Ok(()) => self.history.answer(self.index),
            Err(error) if is_refusal(error) => self.history.refuse(self.index),
            // Whether it happened will be seen when the disk is opened again.
            Err(_) => {}
        }
        answer
    }
}
