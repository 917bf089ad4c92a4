//! The services of a cluster: their plan, their start, and waiting until they are ready.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Child,
    time::Duration,
};

use anyhow::{Context as _, bail};
use common::{
    env::{Env, Instant},
    health::{self, Health},
};

use super::{
    paths::Paths,
    ports, process,
    state::{Service, ServiceKind, Shape, State},
};
use crate::out;

/// How often a starting service is asked.
const POLL: Duration = Duration::from_millis(25);
/// A service that is not ready after this time is talked about.
const PATIENCE: Duration = Duration::from_secs(2);
/// So much of a log is shown when its service has died.
const LOG_LINES: usize = 5;
const LOG_BYTES_MAX: u64 = 16 * 1024;

/// Node ids are unique over all kinds; these offsets keep them telling: node 2 is storage-2.
const META_NODES: u32 = 100;
const MGMTD_NODES: u32 = 200;

/// The services of a new cluster, with ports.
pub(crate) fn plan(
    env: &Env,
    paths: &Paths,
    shape: &Shape,
    mount: &Path,
) -> anyhow::Result<Vec<Service>> {
    let mut wanted = Vec::new();
    for (kind, count, offset) in [
        (ServiceKind::Mgmtd, shape.mgmtd, MGMTD_NODES),
        (ServiceKind::Meta, shape.meta, META_NODES),
        (ServiceKind::Storage, shape.storage, 0),
    ] {
        wanted.extend((1..=count).map(|n| (kind, format!("{}-{n}", kind.word()), offset + n)));
    }
    let mut ports = ports::pick(env, wanted.len() * 2 + 1)?.into_iter();
    let mut address = || {
        let port = ports.next().context("a port for each service was picked")?;
        anyhow::Ok(format!("127.0.0.1:{port}"))
    };
    let mut services = Vec::new();
    for (kind, name, node) in wanted {
        services.push(Service {
            kind,
            node: Some(node),
            address: address()?,
            admin_address: address()?,
            config: paths.config(&name),
            log: paths.log(&name),
            name,
            process: None,
        });
    }
    services.push(Service {
        name: "mount".to_owned(),
        kind: ServiceKind::Mount,
        node: None,
        address: mount.display().to_string(),
        admin_address: address()?,
        config: paths.cluster(),
        log: paths.log("mount"),
        process: None,
    });
    Ok(services)
}

/// A service that was started by this command.
#[derive(Debug)]
pub(crate) struct Started {
    /// Where in its log this start begins.
    log_start: u64,
    /// Kept to the end of this command.
    _child: Child,
}

/// Starts a service that is not running and writes its process down.
pub(crate) fn start(paths: &Paths, state: &mut State, index: usize) -> anyhow::Result<Started> {
    let service = &mut state.services[index];
    let config = service.config.display().to_string();
    let args = match service.kind {
        ServiceKind::Mount => vec![
            "mount",
            service.address.as_str(),
            "--cluster",
            config.as_str(),
            "--foreground",
            "--admin-listen",
            service.admin_address.as_str(),
        ],
        kind => vec![kind.word(), "--config", config.as_str()],
    };
    let log_start = service.log.metadata().map_or(0, |metadata| metadata.len());
    let (process, child) =
        process::spawn(&args, &service.log).with_context(|| format!("start {}", service.name))?;
    service.process = process;
    state.save(paths)?;
    Ok(Started {
        log_start,
        _child: child,
    })
}

/// Waits until a service says that it is ready. Says why not when it takes long, dies or never is.
pub(crate) async fn wait_ready(
    env: &Env,
    service: &Service,
    started: Option<&Started>,
    deadline: Instant,
) -> anyhow::Result<()> {
    let patient_until = env.now() + PATIENCE;
    let mut told = String::new();
    loop {
        if service.running().is_none() {
            let log_start = started.map_or(0, |started| started.log_start);
            bail!("{}", obituary(service, log_start));
        }
        let reason = match health::ask(env, &service.admin_address).await {
            Health::Ready => return Ok(()),
            Health::NotReady(reason) | Health::Silent(reason) => reason,
        };
        let now = env.now();
        if now >= deadline {
            bail!(
                "{} is not ready: {reason}; its log is {}",
                service.name,
                service.log.display()
            );
        }
        if now >= patient_until && reason != told {
            out::say(&format!("  {:<12} waits: {reason}", service.name));
            told = reason;
        }
        env.sleep(POLL).await;
    }
}

fn obituary(service: &Service, log_start: u64) -> String {
    let tail = log_tail(&service.log, log_start).unwrap_or_default();
    let log = service.log.display();
    if tail.is_empty() {
        return format!("{} ended and left nothing in its log {log}", service.name);
    }
    format!(
        "{} ended; the end of its log {log}:\n    {}",
        service.name,
        tail.join("\n    ")
    )
}

/// The last lines after `start`.
fn log_tail(path: &Path, start: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(LOG_BYTES_MAX)),
    ))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::args::{KvBackend, Transport};

    #[test]
    fn a_plan_gives_each_service_its_own_names_ids_and_ports() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::open(dir.path()).unwrap();
        let shape = Shape {
            storage: 3,
            replicas: 3,
            meta: 1,
            mgmtd: 3,
            chains: 6,
            transport: Transport::Tcp,
            kv: KvBackend::Embedded,
        };
        let services = plan(&Env::real(), &paths, &shape, Path::new("/m")).unwrap();
        let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "mgmtd-1",
                "mgmtd-2",
                "mgmtd-3",
                "meta-1",
                "storage-1",
                "storage-2",
                "storage-3",
                "mount"
            ]
        );
        let nodes: BTreeSet<u32> = services.iter().filter_map(|s| s.node).collect();
        assert_eq!(nodes.len(), 7);
        let addresses: BTreeSet<&str> = services
            .iter()
            .flat_map(|s| [s.address.as_str(), s.admin_address.as_str()])
            .collect();
        assert_eq!(addresses.len(), 16);
    }

    #[test]
    fn the_tail_of_a_log_starts_with_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, "old\n1\n2\n3\n4\n5\n6\n").unwrap();
        assert_eq!(log_tail(&path, 4).unwrap(), ["2", "3", "4", "5", "6"]);
        std::fs::write(&path, "old\nnew\n").unwrap();
        assert_eq!(log_tail(&path, 4).unwrap(), ["new"]);
    }
}
