//! `dev status`: what runs, what does not, and why.

use std::path::Path;

use common::{
    env::Env,
    health::{self, Health},
};
use serde::Serialize;

use super::{
    paths::Paths,
    state::{Service, ServiceKind, State},
};
use crate::{mount_table, out};

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ServiceState {
    Running,
    NotReady,
    Dead,
}

/// One line of the answer. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    kind: ServiceKind,
    /// Its id in the cluster.
    node: Option<u32>,
    pid: Option<u32>,
    address: String,
    admin_address: String,
    state: ServiceState,
    /// Why it is not running.
    reason: Option<String>,
}

/// Runs the command. Takes no lock: looking is allowed while others act.
pub(crate) async fn run(env: &Env, dir: &Path, json: bool) -> anyhow::Result<()> {
    let paths = Paths::open(dir)?;
    let state = State::require(&paths)?;
    let lines = state.services.iter().map(|service| line(env, service));
    let lines = futures::future::join_all(lines).await;
    if json {
        return out::json(&lines);
    }
    let rows = lines.into_iter().map(row).collect();
    out::table(&["NAME", "PID", "ADDRESS", "STATE", "WHY"], rows);
    Ok(())
}

async fn line(env: &Env, service: &Service) -> Line {
    let (state, reason) = look(env, service).await;
    Line {
        name: service.name.clone(),
        kind: service.kind,
        node: service.node,
        pid: service.running().map(|process| process.pid),
        address: service.address.clone(),
        admin_address: service.admin_address.clone(),
        state,
        reason,
    }
}

async fn look(env: &Env, service: &Service) -> (ServiceState, Option<String>) {
    if service.process.is_none() {
        return (ServiceState::Dead, Some("not started".to_owned()));
    }
    if service.running().is_none() {
        let reason = format!("ended; its log is {}", service.log.display());
        return (ServiceState::Dead, Some(reason));
    }
    match health::ask(env, &service.admin_address).await {
        Health::NotReady(reason) | Health::Silent(reason) => (ServiceState::NotReady, Some(reason)),
        Health::Ready if service.kind == ServiceKind::Mount && !is_mounted(service) => {
            let reason = format!("nothing is mounted at {}", service.address);
            (ServiceState::NotReady, Some(reason))
        }
        Health::Ready => (ServiceState::Running, None),
    }
}

fn is_mounted(service: &Service) -> bool {
    mount_table::mounted_at(Path::new(&service.address)).is_ok_and(|entry| entry.is_some())
}

fn row(line: Line) -> Vec<String> {
    let state = match line.state {
        ServiceState::Running => "running",
        ServiceState::NotReady => "not ready",
        ServiceState::Dead => "dead",
    };
    vec![
        line.name,
        line.pid
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        line.address,
        state.to_owned(),
        line.reason.unwrap_or_default(),
    ]
}
