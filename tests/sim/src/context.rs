//! What everyone in a run shares: clock and chance, the network, and the notes of what happened.

use common::{buf::BufPool, env::Env};
use net::{Endpoint, MemNetwork, NetConfig, Transports};

use crate::{event_log::EventLog, history::History, notes::Notes};

/// Free buffers a simulated process keeps.
const BUFFER_BYTES: usize = 1 << 20;

/// Cheap to clone; clones are the same run.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) network: MemNetwork,
    /// Where the managers listen.
    pub(crate) managers: Vec<String>,
    pub(crate) log: EventLog,
    pub(crate) history: History,
    notes: Notes,
}

impl Context {
    pub(crate) fn new(env: &Env, managers: Vec<String>) -> Self {
        let notes = Notes::new(env);
        Self {
            env: env.clone(),
            network: MemNetwork::new(),
            managers,
            log: notes.log.clone(),
            history: notes.history.clone(),
            notes,
        }
    }

    /// The same run as seen by a process whose clock counts so many microseconds in each second of it.
    pub(crate) fn with_drift(&self, micros_per_second: u32) -> Self {
        Self {
            env: self.env.with_drift(micros_per_second),
            ..self.clone()
        }
    }

    /// The place of a process on the network.
    pub(crate) fn endpoint(&self, name: &str) -> Endpoint {
        let transports = Transports::with_mem(self.network.at(name));
        let buffers = BufPool::new(BUFFER_BYTES);
        Endpoint::new(&self.env, transports, buffers, NetConfig::default())
    }

    /// Rules were broken, each with what shows it.
    pub(crate) fn violated(&self, violations: impl IntoIterator<Item = String>) {
        self.notes.violated(violations);
    }

    pub(crate) fn take_violations(&self) -> Vec<String> {
        self.notes.take_violations()
    }

    /// Where clients write down what they do.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.clone()
    }
}
