//! One trait for every task that runs in the background, so that each has a name, a state one can list,
//! and an orderly end (after garage's `background::Worker`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    env::{Env, Task},
    shutdown::ShutdownSignal,
    sync::Mutex,
};

/// What a step of background work asks for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is more to do: step again at once.
    Again,
    /// Nothing to do for this long.
    Wait(Duration),
    /// The work is over.
    Done,
}

/// A background task as a sequence of short steps.
pub trait Worker: Send + 'static {
    /// The name in logs, metrics and listings, for example `garbage-collector`.
    fn name(&self) -> &'static str;
    /// Which one it is, where a process has several of a name: its disk, for example. Part of its name in listings.
    fn instance(&self) -> Option<String> {
        None
    }
    /// Does one bounded piece of work. Errors are the worker's own to log and to wait out.
    fn step(&mut self) -> impl Future<Output = Next> + Send;
    /// One line for people: what it is doing and how far it is.
    fn status(&self) -> String;
}

/// A worker as seen from outside.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkerStatus {
    /// Steps done so far.
    pub steps: u64,
    /// The worker's own words.
    pub status: String,
    /// False once it has ended.
    pub running: bool,
}

/// All workers of a process.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    statuses: Arc<Mutex<BTreeMap<String, WorkerStatus>>>,
}

impl Workers {
    /// Starts a worker; it ends at shutdown after the step it is in.
    pub fn start<W: Worker>(
        &self,
        env: &Env,
        mut shutdown: ShutdownSignal,
        mut worker: W,
    ) -> Task<()> {
        let statuses = self.statuses.clone();
        let timer = env.clone();
        let listed = match worker.instance() {
            None => worker.name().to_owned(),
            Some(instance) => format!("{}-{instance}", worker.name()),
        };
        env.spawn(worker.name(), async move {
            loop {
                let next = worker.step().await;
                let running = next != Next::Done && !shutdown.is_triggered();
                {
                    let mut statuses = statuses.lock();
                    let entry = statuses.entry(listed.clone()).or_default();
                    entry.steps += 1;
                    entry.status = worker.status();
                    entry.running = running;
                }
                let pause = match next {
                    _ if !running => break,
                    Next::Again | Next::Done => Duration::ZERO,
                    Next::Wait(pause) => pause,
                };
                tokio::select! {
                    () = timer.sleep(pause) => {}
                    () = shutdown.wait() => {}
                }
            }
        })
    }

    /// Every worker started so far, by name.
    pub fn list(&self) -> BTreeMap<String, WorkerStatus> {
        self.statuses.lock().clone()
    }

    /// One line for each worker, for people.
    pub fn page(&self) -> String {
        let line = |(name, worker): (String, WorkerStatus)| {
            let ended = if worker.running { "" } else { " (ended)" };
            format!("{name}{ended}: {}\n", worker.status)
        };
        self.list().into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;

    struct Countdown(u32);

    impl Worker for Countdown {
        fn name(&self) -> &'static str {
            "countdown"
        }

        async fn step(&mut self) -> Next {
            self.0 -= 1;
            if self.0 == 0 {
                Next::Done
            } else {
                Next::Wait(Duration::from_millis(1))
            }
        }

        fn status(&self) -> String {
            format!("{} left", self.0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_steps_until_done_and_shows_its_status() {
        let (env, workers, shutdown) = (Env::seeded(1), Workers::default(), Shutdown::new());
        let task = workers.start(&env, shutdown.signal(), Countdown(3));
        task.join().await;
        let status = &workers.list()["countdown"];
        assert_eq!(
            (status.steps, status.status.as_str(), status.running),
            (3, "0 left", false)
        );
        assert_eq!(workers.page(), "countdown (ended): 0 left\n");
    }
}
