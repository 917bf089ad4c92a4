//! The admin port of every process: `/metrics` for Prometheus, `/healthz` for people and probes.
//!
//! `/healthz` answers 200 and `ready`, or 503 and one line per reason why the process is not ready.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, routing::get};

use crate::{
    env::{Env, Task},
    metrics,
    shutdown::ShutdownSignal,
    sync::Mutex,
};

/// How often the samples of histograms are put together: until then each takes memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Why a process is not ready yet: part -> reason. Ready when empty. Each change is logged.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// `part` is not ready, because of `reason`.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let old = self.0.lock().insert(part, reason.clone());
        if old.as_ref() != Some(&reason) {
            tracing::info!(part, reason, "not ready");
        }
    }

    /// `part` is ready.
    pub fn ready(&self, part: &'static str) {
        if self.0.lock().remove(part).is_some() {
            tracing::info!(part, "ready");
        }
    }

    /// The parts that are not ready, with their reasons.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.0.lock().clone()
    }
}

/// Serves the admin port until shutdown; returns the address in use. `extra` adds pages of the role.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    env: &Env,
    listen: SocketAddr,
    readiness: Readiness,
    extra: Router,
    mut shutdown: ShutdownSignal,
) -> io::Result<(SocketAddr, Task<()>)> {
    let recorder = metrics::install();
    let kept = recorder.clone();
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = extra
        .route(
            "/metrics",
            get(move || std::future::ready(recorder.render())),
        )
        .route(
            "/healthz",
            get(move || std::future::ready(health(&readiness))),
        );
    let clock = env.clone();
    let task = env.spawn("admin-http", async move {
        let upkeep = async {
            loop {
                clock.sleep(UPKEEP_EVERY).await;
                kept.run_upkeep();
            }
        };
        let serving = axum::serve(listener, router)
            .with_graceful_shutdown(async move { shutdown.wait().await });
        let served = tokio::select! {
            served = serving.into_future() => served,
            () = upkeep => Ok(()),
        };
        if let Err(error) = served {
            tracing::error!(%error, "the admin port stopped");
        }
    });
    Ok((address, task))
}

fn health(readiness: &Readiness) -> (StatusCode, String) {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let lines = reasons
        .iter()
        .map(|(part, reason)| format!("{part}: {reason}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}
