//! Work that goes on after its request was answered, so that the end of the mount can wait for it.

use std::{future::Future, sync::Arc};

use common::env::Env;
use tokio::sync::watch;

/// Counts what is under way.
#[derive(Clone, Debug)]
pub(crate) struct Background(Arc<watch::Sender<usize>>);

impl Default for Background {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

/// Counted until dropped, also when its task panics.
struct Counted(Background);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

impl Background {
    /// Runs `work` on its own.
    pub(crate) fn start(
        &self,
        env: &Env,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.send_modify(|count| *count += 1);
        let counted = Counted(self.clone());
        let _task = env.spawn(name, async move {
            work.await;
            drop(counted);
        });
    }

    /// Returns once nothing is under way.
    pub(crate) async fn idle(&self) {
        let mut counts = self.0.subscribe();
        // An error means that the sender is gone, which cannot be while it is borrowed here.
        let _gone = counts.wait_for(|count| *count == 0).await.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_all_work() {
        let (env, background) = (Env::seeded(1), Background::default());
        background.idle().await;
        for seconds in [3, 5, 1] {
            let timer = env.clone();
            background.start(&env, "test", async move {
                timer.sleep(Duration::from_secs(seconds)).await;
            });
        }
        let started = env.now();
        background.idle().await;
        assert!(env.now() - started >= Duration::from_secs(5));
    }
}
