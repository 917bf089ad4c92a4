//! What may be found of each chunk after an engine has ended in the middle of its work.
//!
//! A chunk's history is the list of its states, the last one asked for or answered at the end. An answer that
//! promises durability drops all states before its own: what is found later must be one of those that are left. So
//! each acknowledged update is there, and the one under way is there as a whole or not at all.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use common::sync::Mutex;
use engine::{Change, Engine, EngineError, ReadVersion, SyncPolicy};
use types::{checksum::Checksum, chunk::UpdateTag};

use crate::support::{TARGET, changed, key};

/// One version of a chunk. No content: it was removed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) number: u32,
    pub(crate) content: Option<Arc<Vec<u8>>>,
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            None => write!(f, "{} (removed)", self.number),
            Some(content) => {
                let (length, checksum) = (content.len(), Checksum::of(content));
                write!(f, "{} ({length} bytes, {checksum:?})", self.number)
            }
        }
    }
}

/// What the record of a chunk says; nothing at all for a chunk that was never heard of, or dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) committed: Option<Version>,
    pub(crate) pending: Option<Version>,
}

impl State {
    pub(crate) fn content(&self) -> Option<&[u8]> {
        let committed = self.committed.as_ref()?;
        committed.content.as_ref().map(|content| &content[..])
    }

    pub(crate) fn length(&self) -> u32 {
        self.content().map_or(0, |content| content.len() as u32)
    }

    /// The version that the next update makes.
    pub(crate) fn next_version(&self) -> u32 {
        1 + self.committed.as_ref().map_or(0, |version| version.number)
    }

    /// After an update.
    pub(crate) fn updated(&self, change: Change, payload: &[u8]) -> Self {
        let content = changed(self.content(), change, payload);
        Self {
            committed: self.committed.clone(),
            pending: Some(Version {
                number: self.next_version(),
                content: content.map(Arc::new),
            }),
        }
    }

    /// After a commit of what is pending.
    pub(crate) fn committed(&self) -> Self {
        Self {
            committed: self.pending.clone().or_else(|| self.committed.clone()),
            pending: None,
        }
    }

    /// After a discard of what is pending.
    pub(crate) fn discarded(&self) -> Self {
        Self {
            committed: self.committed.clone(),
            pending: None,
        }
    }

    /// Reads all that the engine knows of a chunk.
    pub(crate) async fn find(engine: &Engine, index: u32) -> Self {
        let Some(meta) = engine.get(key(index)).unwrap() else {
            return Self::default();
        };
        let mut state = Self::default();
        if meta.commit_version.0 > 0 {
            let said = (meta.exists, meta.length, meta.checksum);
            let content = content(engine, index, ReadVersion::Committed, said).await;
            check_tag(index, meta.commit_version.0, meta.tag);
            state.committed = Some(Version {
                number: meta.commit_version.0,
                content,
            });
        }
        if let Some(pending) = meta.pending {
            let said = (pending.exists, pending.length, pending.checksum);
            let content = content(engine, index, ReadVersion::Pending, said).await;
            check_tag(index, pending.update_version.0, pending.tag);
            state.pending = Some(Version {
                number: pending.update_version.0,
                content,
            });
        }
        state
    }
}

/// The bytes of a version, of which its record says existence, length and checksum.
async fn content(
    engine: &Engine,
    index: u32,
    version: ReadVersion,
    (exists, length, checksum): (bool, u32, Checksum),
) -> Option<Arc<Vec<u8>>> {
    match engine.read(key(index), version, 0, u32::MAX).await {
        Ok(read) => {
            assert!(exists, "chunk {index}: a removed version has content");
            assert_eq!(read.data.len(), length as usize, "chunk {index}");
            assert_eq!(Checksum::of(&read.data), checksum, "chunk {index}");
            assert_eq!(read.checksum, checksum, "chunk {index}");
            Some(Arc::new(read.data.to_vec()))
        }
        Err(EngineError::NotFound { .. }) => {
            assert!(!exists, "chunk {index}: {version:?} has no content");
            None
        }
        Err(error) => panic!("chunk {index}, {version:?}: {error}"),
    }
}

/// The table of channels has what was committed. Every update here is of one channel, and is numbered like its version.
fn check_channel(engine: &Engine, found: &State, index: u32) {
    let Some(committed) = &found.committed else {
        return;
    };
    let channels = engine.channels(TARGET).unwrap();
    let known = channels.first().map_or(0, |channel| channel.tag.seq.0);
    assert!(
        known >= u64::from(committed.number),
        "chunk {index}: {channels:?}"
    );
}

/// Exactly-once stands on the tags that are found with the versions.
fn check_tag(index: u32, version: u32, tag: Option<UpdateTag>) {
    let seq = tag.map(|tag| tag.seq.0);
    assert_eq!(seq, Some(u64::from(version)), "chunk {index}");
}

#[derive(Default)]
struct Chunk {
    /// What may be found, oldest first, with its place in the chunk's whole history.
    states: Vec<(u64, State)>,
    asked: bool,
}

/// The histories of all chunks of one disk. Clones are the same.
#[derive(Clone)]
pub(crate) struct History {
    policy: SyncPolicy,
    chunks: Arc<Mutex<BTreeMap<u32, Chunk>>>,
    /// What was asked for and answered so far, commits and reads aside.
    answers: Arc<AtomicU64>,
}

impl History {
    pub(crate) fn new(policy: SyncPolicy, chunks: u32) -> Self {
        let chunk = || Chunk {
            states: vec![(0, State::default())],
            asked: false,
        };
        let chunks = (0..chunks).map(|index| (index, chunk()));
        Self {
            policy,
            chunks: Arc::new(Mutex::new(chunks.collect())),
            answers: Arc::default(),
        }
    }

    pub(crate) fn chunk_count(&self) -> u32 {
        self.chunks.lock().len() as u32
    }

    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// The state that everything answered so far made.
    pub(crate) fn current(&self, index: u32) -> State {
        let chunks = self.chunks.lock();
        let chunk = &chunks[&index];
        assert!(!chunk.asked, "chunk {index}: one thing at a time");
        chunk.states.last().expect("never empty").1.clone()
    }

    /// `state` was asked for: from now on it may be found.
    pub(crate) fn ask(&self, index: u32, state: State) {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.get_mut(&index).expect("all are there");
        let place = chunk.states.last().expect("never empty").0 + 1;
        chunk.states.push((place, state));
        chunk.asked = true;
    }

    /// The answer came, and promises that the state is durable.
    pub(crate) fn answer(&self, index: u32) {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.get_mut(&index).expect("all are there");
        chunk.asked = false;
        if self.policy == SyncPolicy::Always {
            chunk.states.drain(..chunk.states.len() - 1);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer came, and promises nothing about crashes.
    pub(crate) fn answer_without_promise(&self, index: u32) {
        let mut chunks = self.chunks.lock();
        chunks.get_mut(&index).expect("all are there").asked = false;
    }

    /// The answer came, and says that nothing has changed.
    pub(crate) fn refuse(&self, index: u32) {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.get_mut(&index).expect("all are there");
        chunk.asked = false;
        chunk.states.pop();
    }

    /// What a sync that is asked for now promises.
    pub(crate) fn answered(&self) -> BTreeMap<u32, u64> {
        let chunks = self.chunks.lock();
        let last = |chunk: &Chunk| {
            let behind = 1 + usize::from(chunk.asked);
            chunk.states[chunk.states.len() - behind].0
        };
        chunks
            .iter()
            .map(|(&index, chunk)| (index, last(chunk)))
            .collect()
    }

    /// The sync was answered.
    pub(crate) fn synced(&self, answered: &BTreeMap<u32, u64>) {
        let mut chunks = self.chunks.lock();
        for (index, chunk) in chunks.iter_mut() {
            chunk.states.retain(|(place, _)| *place >= answered[index]);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Compares all chunks with what may be found, and goes on from what was; returns how many have something
    /// pending.
    pub(crate) async fn compare(&self, engine: &Engine) -> u32 {
        let indexes: Vec<u32> = self.chunks.lock().keys().copied().collect();
        let mut pending = 0;
        for index in indexes {
            let found = State::find(engine, index).await;
            check_channel(engine, &found, index);
            pending += u32::from(found.pending.is_some());
            let mut chunks = self.chunks.lock();
            let chunk = chunks.get_mut(&index).expect("all are there");
            let allowed = chunk.states.iter().any(|(_, state)| *state == found);
            assert!(
                allowed,
                "chunk {index}: found {found:?}\nallowed: {:?}",
                chunk.states
            );
            chunk.states = vec![(0, found)];
            chunk.asked = false;
        }
        pending
    }
}
