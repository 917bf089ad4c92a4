//! The clients: each does one thing after the other and writes down what it saw.

use std::time::Duration;

use client::{MgmtdClient, RoutingCache, StorageClient, StorageOptions};
use common::{
    buf::BufPool,
    env::{Env, Task},
    shutdown::{Shutdown, ShutdownSignal},
};
use net::Endpoint;
use types::{
    id::{ChainTableId, ClientId, InodeId},
    layout::Layout,
    status::{Status, StatusCode},
    version::ChainTableVersion,
};

use crate::{
    context::Context,
    history::{Action, CELL_BYTES, CELLS, Outcome, ROW_BYTES, cell_bytes, row_of},
    notes::Notes,
};

/// The table that holds all chains.
pub const TABLE: ChainTableId = ChainTableId(1);
/// Of all chunks.
const CHUNK_SIZE: u32 = 64 << 10;

/// The longest pauses between two operations of a client: half of them are short, so that operations come in bursts.
const PAUSES_MAX: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(3)];

/// Where the chunks are.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Of `TABLE`.
    pub version: ChainTableVersion,
    /// How many there are in it.
    pub chains: u32,
    /// How many chunks clients share.
    pub chunks: u32,
    /// The file of chunk 0; each chunk is the only one of a file of its own.
    pub first_inode: u64,
}

impl Placement {
    fn layout(self, chunk: u32) -> Layout {
        Layout {
            table: TABLE,
            table_version: self.version,
            chunk_size: CHUNK_SIZE,
            stripe_size: 1,
            base: chunk % self.chains,
            seed: 0,
        }
    }
}

/// One client process.
#[derive(Clone, Debug)]
pub struct SimClient {
    env: Env,
    notes: Notes,
    number: u32,
    placement: Placement,
    buffers: BufPool,
    storage: StorageClient,
    /// Ends the watch that a simulated client has of its own.
    _shutdown: Option<Shutdown>,
}

/// How a process sees the cluster.
pub(crate) fn view_of(context: &Context, endpoint: Endpoint) -> (MgmtdClient, RoutingCache) {
    let id = ClientId(context.env.random_u128());
    let mgmtd = MgmtdClient::new(&context.env, endpoint, context.managers.clone(), id);
    let routing = RoutingCache::new(&context.env, mgmtd.clone());
    (mgmtd, routing)
}

/// What clients are called on the network.
pub(crate) fn name(number: u32) -> String {
    format!("client-{number}")
}

impl SimClient {
    /// A client of the simulation's network.
    pub(crate) fn simulated(context: &Context, number: u32, placement: Placement) -> Self {
        let endpoint = context.endpoint(&name(number));
        let (_, routing) = view_of(context, endpoint.clone());
        let shutdown = Shutdown::new();
        drop(routing.start(shutdown.signal()));
        let (env, options) = (&context.env, StorageOptions::default());
        let id = ClientId(env.random_u128());
        let buffers = endpoint.buffers().clone();
        let storage = StorageClient::new(env, endpoint, routing, id, options);
        Self {
            _shutdown: Some(shutdown),
            ..Self::new(env, (storage, buffers), context.notes(), number, placement)
        }
    }

    /// A client that works through `storage` and writes down what it does.
    pub fn new(
        env: &Env,
        (storage, buffers): (StorageClient, BufPool),
        notes: Notes,
        number: u32,
        placement: Placement,
    ) -> Self {
        Self {
            env: env.clone(),
            notes,
            number,
            placement,
            buffers,
            storage,
            _shutdown: None,
        }
    }

    /// Works until told to stop, or so many operations are done.
    pub(crate) fn start(self, operations: u32, mut stop: ShutdownSignal) -> Task<()> {
        let env = self.env.clone();
        env.clone().spawn("sim-client", async move {
            for _ in 0..operations {
                let longest = PAUSES_MAX[self.below(2) as usize];
                let pause = env.random_below(longest.as_micros() as u64);
                let told = env.timeout(Duration::from_micros(pause), stop.wait());
                if told.await.is_ok() {
                    return;
                }
                let chunk = self.below(self.placement.chunks);
                let action = self.draw();
                // What it came to stands in the history.
                let _written_down = self.run(chunk, action).await;
            }
        })
    }

    fn below(&self, limit: u32) -> u32 {
        u32::try_from(self.env.random_below(u64::from(limit))).unwrap_or(0)
    }

    /// What to do next.
    pub fn draw(&self) -> Action {
        let cells = CELLS as u32;
        match self.below(20) {
            0 => Action::Truncate {
                cells: self.below(cells) as usize,
            },
            1..10 => {
                let first = self.below(cells);
                let count = 1 + self.below(cells - first);
                self.write(first as usize, count as usize)
            }
            _ => Action::Read,
        }
    }

    /// A write of a number that was never written.
    pub fn write(&self, first: usize, count: usize) -> Action {
        Action::Write {
            first,
            count,
            value: self.notes.history.new_value(),
        }
    }

    /// Does one thing and writes it down.
    ///
    /// # Errors
    /// When it did not succeed for the whole time an operation has.
    pub async fn run(&self, chunk: u32, action: Action) -> Result<Outcome, Status> {
        let number = self.number;
        self.notes.log.add(format_args!(
            "client {number} begins {action:?} of chunk {chunk}"
        ));
        let begun = self.notes.history.begin(number, chunk, action);
        let done = self.perform(chunk, action).await;
        let outcome = match &done {
            Ok(outcome) => *outcome,
            Err(_) => Outcome::Unknown,
        };
        self.notes.history.end(&begun, outcome);
        let code = done.as_ref().err().map(|status| status.code);
        self.notes.log.add(format_args!(
            "client {number} ends {action:?} of chunk {chunk}: {outcome:?} {code:?}"
        ));
        done
    }

    async fn perform(&self, chunk: u32, action: Action) -> Result<Outcome, Status> {
        let layout = self.placement.layout(chunk);
        let inode = InodeId(self.placement.first_inode + u64::from(chunk));
        match action {
            Action::Write {
                first,
                count,
                value,
            } => {
                let bytes = cell_bytes(value).repeat(count);
                let data = self.buffers.copy_from(&bytes).freeze();
                let offset = (first * CELL_BYTES) as u64;
                self.storage.write(inode, &layout, offset, data).await?;
                Ok(Outcome::Done)
            }
            Action::Truncate { cells } => {
                let length = (cells * CELL_BYTES) as u32;
                let id = types::chunk::ChunkId { inode, index: 0 };
                self.storage.truncate_chunk(&layout, id, length).await?;
                Ok(Outcome::Done)
            }
            Action::Read => {
                let buf = self.buffers.allocate(ROW_BYTES);
                let (read, buf) = self.storage.read(inode, &layout, 0, buf).await;
                read?;
                match row_of(&buf) {
                    Ok(row) => Ok(Outcome::Saw(row)),
                    Err(error) => {
                        let text = format!("client {} read chunk {chunk}: {error}", self.number);
                        self.notes.violated([text.clone()]);
                        Err(Status::new(StatusCode::Internal, text))
                    }
                }
            }
        }
    }
}
