//! One signal that everybody of a process hears: stop taking work, finish what is under way, end.

use std::sync::Arc;

use tokio::sync::watch;

/// The side that asks for the end. Clones ask for the same end.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

/// The side that waits for it.
#[derive(Clone, Debug)]
pub struct ShutdownSignal(watch::Receiver<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown nobody has asked for yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    /// Asks for the end. Idempotent.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// A signal to wait on.
    pub fn signal(&self) -> ShutdownSignal {
        ShutdownSignal(self.0.subscribe())
    }
}

impl ShutdownSignal {
    /// True once the end was asked for.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the end was asked for, also when the asking side is gone.
    pub async fn wait(&mut self) {
        // An error means that the sender is gone, which is an end as well.
        let _gone = self.0.wait_for(|asked| *asked).await.is_err();
    }
}

/// Returns on SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn termination() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_taken_late_still_fires() {
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let mut signal = shutdown.signal();
        signal.wait().await;
        assert!(signal.is_triggered());
    }
}
