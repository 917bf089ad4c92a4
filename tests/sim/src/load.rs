//! The clients: each does one thing after the other, or now and then several at once (`burst`), and writes down what it
//! saw.

mod burst;

use std::time::Duration;

use client::{MgmtdClient, RoutingCache, StorageClient, StorageOptions};
use common::{
    buf::BufPool,
    env::Task,
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
    history::{Action, Begun, CELL_BYTES, CELLS, Outcome, ROW_BYTES, cell_bytes, row_of},
};

/// The table that holds all chains.
pub(crate) const TABLE: ChainTableId = ChainTableId(1);
/// Of all chunks.
const CHUNK_SIZE: u32 = 64 << 10;
/// The file of the first chunk; each chunk is the only one of a file of its own.
const FIRST_INODE: u64 = 1000;

/// The longest pauses between two operations of a client: half of them are short, so that operations come in bursts.
const PAUSES_MAX: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(3)];

/// Where the chunks are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) version: ChainTableVersion,
    pub(crate) chains: u32,
    pub(crate) chunks: u32,
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
#[derive(Clone)]
pub(crate) struct SimClient {
    context: Context,
    number: u32,
    placement: Placement,
    buffers: BufPool,
    storage: StorageClient,
    _shutdown: Shutdown,
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
    pub(crate) fn new(context: &Context, number: u32, placement: Placement) -> Self {
        let endpoint = context.endpoint(&name(number));
        let (_, routing) = view_of(context, endpoint.clone());
        let shutdown = Shutdown::new();
        drop(routing.start(shutdown.signal()));
        let env = &context.env;
        let mut options = StorageOptions::default();
        if number.is_multiple_of(2) {
            // Every read that is late at all goes to a second replica.
            options.hedge_percent = 100;
            options.hedge_delay_min = Duration::from_millis(1);
        }
        let id = ClientId(env.random_u128());
        Self {
            context: context.clone(),
            number,
            placement,
            buffers: endpoint.buffers().clone(),
            storage: StorageClient::new(env, endpoint, routing, id, options),
            _shutdown: shutdown,
        }
    }

    /// Works until told to stop, or so many operations are done.
    pub(crate) fn start(self, operations: u32, mut stop: ShutdownSignal) -> Task<()> {
        let env = self.context.env.clone();
        env.clone().spawn("sim-client", async move {
            for _ in 0..operations {
                let longest = PAUSES_MAX[self.below(2) as usize];
                let pause = env.random_below(longest.as_micros() as u64);
                let told = env.timeout(Duration::from_micros(pause), stop.wait());
                if told.await.is_ok() {
                    return;
                }
                if self.below(4) == 0 {
                    self.burst().await;
                    continue;
                }
                let chunk = self.below(self.placement.chunks);
                let action = self.draw();
                // What it came to stands in the history.
                let _written_down = self.run(chunk, action).await;
            }
        })
    }

    fn below(&self, limit: u32) -> u32 {
        u32::try_from(self.context.env.random_below(u64::from(limit))).unwrap_or(0)
    }

    fn draw(&self) -> Action {
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
    pub(crate) fn write(&self, first: usize, count: usize) -> Action {
        Action::Write {
            first,
            count,
            value: self.context.history.new_value(),
        }
    }

    /// Does one thing and writes it down.
    ///
    /// # Errors
    /// When it did not succeed for the whole time an operation has.
    pub(crate) async fn run(&self, chunk: u32, action: Action) -> Result<(), Status> {
        let begun = self.begin(chunk, action);
        let done = self.perform(chunk, action).await;
        self.end(&begun, chunk, action, &done);
        done.map(|_| ())
    }

    fn begin(&self, chunk: u32, action: Action) -> Begun {
        let number = self.number;
        self.context.log.add(format_args!(
            "client {number} begins {action:?} of chunk {chunk}"
        ));
        self.context.history.begin(number, chunk, action)
    }

    fn end(&self, begun: &Begun, chunk: u32, action: Action, done: &Result<Outcome, Status>) {
        let number = self.number;
        let outcome = match done {
            Ok(outcome) => *outcome,
            Err(_) => Outcome::Unknown,
        };
        self.context.history.end(begun, outcome);
        let code = done.as_ref().err().map(|status| status.code);
        self.context.log.add(format_args!(
            "client {number} ends {action:?} of chunk {chunk}: {outcome:?} {code:?}"
        ));
    }

    async fn perform(&self, chunk: u32, action: Action) -> Result<Outcome, Status> {
        let layout = self.placement.layout(chunk);
        let inode = InodeId(FIRST_INODE + u64::from(chunk));
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
                self.saw(chunk, &buf)
            }
        }
    }

    /// What a read found.
    fn saw(&self, chunk: u32, bytes: &[u8]) -> Result<Outcome, Status> {
        match row_of(bytes) {
            Ok(row) => Ok(Outcome::Saw(row)),
            Err(error) => {
                let text = format!("client {} read chunk {chunk}: {error}", self.number);
                self.context.violated([text.clone()]);
                Err(Status::new(StatusCode::Internal, text))
            }
        }
    }
}
