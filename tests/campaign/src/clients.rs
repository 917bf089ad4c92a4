//! Users of chunks: each in a host of its own, doing one thing after the other and writing it down, as in the simulation.

use std::{thread::JoinHandle, time::Duration};

use client::{Client, ClientOptions, ClusterConfig};
use common::{
    env::Env,
    shutdown::{Shutdown, ShutdownSignal},
};
use sim::{
    history::{Action, CELLS, Outcome, Row},
    load::{Placement, SimClient},
    notes::Notes,
};
use tokio::sync::{mpsc, oneshot};
use types::{
    status::{Status, StatusCode},
    version::ChainTableVersion,
};

use crate::{
    cluster::{CHAINS, managers},
    ground::Ground,
    host::{CLIENTS, Host},
    network,
};

/// The longest pause between two operations of a client.
const PAUSE_MAX: Duration = Duration::from_millis(30);
/// After a refusal by a full disk, which nothing but time cures.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Far from what metadata servers give to files: chunks of the campaign are of files that nobody has made.
const FIRST_INODE: u64 = 1 << 40;

/// What clients do for a while: chunks of their own, so that each history is short enough to be judged.
#[derive(Clone)]
pub(crate) struct Round {
    pub(crate) notes: Notes,
    pub(crate) first_chunk: u32,
    pub(crate) chunks: u32,
    pub(crate) version: ChainTableVersion,
}

/// A client is told what to do next.
enum Order {
    /// Work until the signal, then answer.
    Work(Round, ShutdownSignal, oneshot::Sender<()>),
    /// Prove a chunk (see `SimClient`), tell what it holds then.
    Prove(Round, u32, oneshot::Sender<Result<Row, String>>),
    /// Tell what a chunk holds.
    Read(Round, u32, oneshot::Sender<Result<Row, String>>),
}

/// All of them.
pub(crate) struct Clients {
    orders: Vec<mpsc::Sender<Order>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// Clients at work.
pub(crate) struct Working {
    stop: Shutdown,
    rests: Vec<oneshot::Receiver<()>>,
}

impl Clients {
    /// Starts them, in their hosts.
    ///
    /// # Errors
    /// When the system has no threads.
    pub(crate) fn start(env: &Env, ground: &Ground) -> Result<Self, String> {
        let (mut orders, mut threads) = (Vec::new(), Vec::new());
        for number in 1..=CLIENTS {
            let (sender, receiver) = mpsc::channel(1);
            let (env, ground) = (env.clone(), ground.clone());
            let name = Host::Client(number).to_string();
            let thread = env.clone().spawn_thread(&name, move || {
                network::enter(Host::Client(number))?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
                runtime.block_on(live(&env, &ground, number, receiver))
            });
            threads.push(thread.map_err(|error| format!("no thread for a client: {error}"))?);
            orders.push(sender);
        }
        Ok(Self { orders, threads })
    }

    /// All of them work at a round.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) async fn work(&self, round: &Round) -> Result<Working, String> {
        let stop = Shutdown::new();
        let mut rests = Vec::new();
        for orders in &self.orders {
            let (sender, rest) = oneshot::channel();
            let order = Order::Work(round.clone(), stop.signal(), sender);
            send(orders, order).await?;
            rests.push(rest);
        }
        Ok(Working { stop, rests })
    }

    /// Every chunk of a round gives what is there, takes a write and gives it back. Tells what they hold then.
    ///
    /// # Errors
    /// When one does not.
    pub(crate) async fn prove(&self, round: &Round) -> Result<Vec<Row>, String> {
        self.each(round, Order::Prove).await
    }

    /// What every chunk of a round holds.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) async fn read(&self, round: &Round) -> Result<Vec<Row>, String> {
        self.each(round, Order::Read).await
    }

    async fn each(
        &self,
        round: &Round,
        order: fn(Round, u32, oneshot::Sender<Result<Row, String>>) -> Order,
    ) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        for (index, chunk) in (round.first_chunk..)
            .take(round.chunks as usize)
            .enumerate()
        {
            let (sender, answer) = oneshot::channel();
            let orders = &self.orders[index % self.orders.len()];
            send(orders, order(round.clone(), chunk, sender)).await?;
            rows.push(answer.await.map_err(|_| ended())??);
        }
        Ok(rows)
    }

    /// Lets all of them end.
    ///
    /// # Errors
    /// What one has met.
    pub(crate) fn end(self) -> Result<(), String> {
        drop(self.orders);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| "a client panicked".to_owned())??;
        }
        Ok(())
    }
}

impl Working {
    /// Lets them finish what they do.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.stop.trigger();
        for rest in self.rests {
            rest.await.map_err(|_| ended())?;
        }
        Ok(())
    }
}

fn ended() -> String {
    "a client has ended".to_owned()
}

async fn send(orders: &mpsc::Sender<Order>, order: Order) -> Result<(), String> {
    orders.send(order).await.map_err(|_| ended())
}

/// One client, from its connection to its end.
async fn live(
    env: &Env,
    ground: &Ground,
    number: u8,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), String> {
    let shutdown = Shutdown::new();
    let config = ClusterConfig { mgmtd: managers() };
    let connected = Client::connect(env, config, ClientOptions::default(), shutdown.signal());
    let client = connected.await;
    let client = client.map_err(|status| format!("client {number} cannot connect: {status}"))?;
    let at = |round: &Round| {
        let placement = Placement {
            version: round.version,
            chains: CHAINS,
            chunks: round.chunks,
            first_inode: FIRST_INODE,
        };
        let parts = (client.storage.clone(), client.endpoint.buffers().clone());
        SimClient::new(
            env,
            parts,
            round.notes.clone(),
            u32::from(number),
            placement,
        )
    };
    while let Some(order) = orders.recv().await {
        // Who asked may have gone: then nobody wants to know.
        let _heard = match order {
            Order::Work(round, stop, rest) => {
                let user = Host::Client(number);
                ground.user_begins(user);
                work(env, ground, user, (&at(&round), &round), stop).await;
                ground.user_ends(user);
                rest.send(()).is_ok()
            }
            Order::Prove(round, chunk, answer) => {
                answer.send(prove(&at(&round), chunk).await).is_ok()
            }
            Order::Read(round, chunk, answer) => {
                answer.send(read(&at(&round), chunk).await).is_ok()
            }
        };
    }
    client.end_session().await;
    shutdown.trigger();
    Ok(())
}

async fn work(
    env: &Env,
    ground: &Ground,
    user: Host,
    (client, round): (&SimClient, &Round),
    mut stop: ShutdownSignal,
) {
    loop {
        let pause = Duration::from_micros(env.random_below(PAUSE_MAX.as_micros() as u64));
        if env.timeout(pause, stop.wait()).await.is_ok() {
            return;
        }
        let chunk = u32::try_from(env.random_below(u64::from(round.chunks))).unwrap_or(0);
        let action = client.draw();
        match client.run(round.first_chunk + chunk, action).await {
            Ok(_) => ground.success(user),
            Err(status) if status.code == StatusCode::NoSpace => {
                ground.refused(user);
                env.sleep(FULL_PAUSE).await;
            }
            Err(status) => round.notes.violated([format!(
                "{user}: {action:?} failed although nothing was away for that long: {status}"
            )]),
        }
    }
}

/// With these writes nothing is under way or pending any more (W11), so replicas have to be equal after it.
async fn prove(client: &SimClient, chunk: u32) -> Result<Row, String> {
    let failed = |action: Action| {
        move |status: Status| format!("{action:?} of chunk {chunk} in a whole cluster: {status}")
    };
    let action = client.write(0, CELLS);
    read(client, chunk).await?;
    client.run(chunk, action).await.map_err(failed(action))?;
    read(client, chunk).await
}

async fn read(client: &SimClient, chunk: u32) -> Result<Row, String> {
    match client.run(chunk, Action::Read).await {
        Ok(Outcome::Saw(row)) => Ok(row),
        Ok(other) => Err(format!("a read of chunk {chunk} came to {other:?}")),
        Err(status) => Err(format!(
            "chunk {chunk} cannot be read in a whole cluster: {status}"
        )),
    }
}
