//! A storage node with its disk: started, killed, cut from power, started again.
//!
//! Each start listens under a name of its own, as a process that moved to another address would: what the one before it
//! still has under way can then be silenced for good.

use std::{sync::Arc, time::Duration};

use common::shutdown::Shutdown;
use engine::{
    Engine, EngineConfig, ScrubBudget,
    device::{
        faulty::{Faults, FaultyDevice},
        mem::{MemDevice, PowerSwitch},
    },
    meta_store::mem::MemStore,
};
use net::Gone;
use storage::{OpenedDisk, RunningStorage, StorageConfig};

use crate::{context::Context, scenario::Scenario, slow_device::SlowDevice};

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `kill -9`: what was written to the disk stays, synced or not.
    Killed,
    /// What was not synced is lost, torn or reordered.
    PowerLost,
    /// Everything on the disk is lost.
    DiskLost,
}

pub(crate) struct Host {
    context: Context,
    id: u32,
    starts: u32,
    power: Arc<PowerSwitch>,
    device: MemDevice,
    store: MemStore,
    disk_latency_max: Duration,
    capacity_bytes: u64,
    running: Option<Running>,
}

struct Running {
    name: String,
    engine: Engine,
    disk: Arc<FaultyDevice>,
    shutdown: Shutdown,
    node: RunningStorage,
}

impl Host {
    pub(crate) fn new(context: Context, id: u32, scenario: &Scenario) -> Self {
        let power = PowerSwitch::lasting();
        Self {
            id,
            starts: 0,
            device: MemDevice::new(&context.env, power.clone()),
            store: MemStore::new(power.clone()),
            power,
            disk_latency_max: scenario.disk_latency_max,
            capacity_bytes: scenario.disk_bytes,
            running: None,
            context,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The name it listens at; `None` when it does not run.
    pub(crate) fn name(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.name.as_str())
    }

    /// Why it is not ready.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let Some(running) = &self.running else {
            return Some(format!("storage {} does not run", self.id));
        };
        let reasons = running.node.readiness().reasons();
        (!reasons.is_empty()).then(|| format!("{}: {reasons:?}", running.name))
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// From now on, until it is started again.
    pub(crate) fn set_disk_faults(&self, faults: Faults) {
        if let Some(running) = &self.running {
            running.disk.set(faults);
        }
    }

    /// The engine of its disk.
    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.running.as_ref().map(|running| &running.engine)
    }

    /// Opens the disk and serves it.
    ///
    /// # Errors
    /// When the disk does not open: after whatever happened to it, it must.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        self.starts += 1;
        let name = format!("storage-{}-{}", self.id, self.starts);
        let (env, endpoint) = (&self.context.env, self.context.endpoint(&name));
        let buffers = endpoint.buffers().clone();
        let config = EngineConfig {
            preallocate_bytes: 1 << 20,
            log_bytes: 1 << 20,
            small_update_bytes: 8 << 10,
            reserve_bytes: 0,
            capacity_bytes: self.capacity_bytes,
            ..EngineConfig::default()
        };
        let power = self.power.clone();
        let device = SlowDevice::new(env, self.device.clone(), power, self.disk_latency_max);
        let device = FaultyDevice::new(Arc::new(device));
        let (disk, store) = (device.clone(), Arc::new(self.store.clone()));
        let opened = Engine::open_on(env, device, store, config, buffers).await;
        let engine =
            opened.map_err(|error| format!("the disk of {name} does not open: {error}"))?;
        let checked = whole(&engine).await;
        checked.map_err(|error| format!("the disk of {name} after opening: {error}"))?;
        let config = StorageConfig {
            node_id: self.id,
            listen: format!("mem://{name}"),
            mgmtd: self.context.managers.clone(),
            ..StorageConfig::default()
        };
        let opened = OpenedDisk {
            dir: name.clone().into(),
            engine: Ok(engine.clone()),
        };
        let shutdown = Shutdown::new();
        let served = storage::serve_on(
            config,
            env.clone(),
            endpoint,
            vec![opened],
            shutdown.clone(),
        );
        let node = served
            .await
            .map_err(|error| format!("{name} does not start: {error}"))?;
        self.running = Some(Running {
            name,
            engine,
            disk,
            shutdown,
            node,
        });
        Ok(())
    }

    /// Ends the process; what it has under way leads to nothing any more.
    pub(crate) fn end(&mut self, how: End, gone: Gone) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.context.network.remove(&running.name, gone);
        running.shutdown.trigger();
        self.power.cut();
        self.power = PowerSwitch::lasting();
        let env = &self.context.env;
        let power = &self.power;
        (self.device, self.store) = match how {
            End::Killed => (
                self.device.kill(power.clone()),
                self.store.kill(env, power.clone()),
            ),
            End::PowerLost => (
                self.device.crash(env, power.clone()),
                self.store.crash(env, power.clone()),
            ),
            End::DiskLost => (
                MemDevice::new(env, power.clone()),
                MemStore::new(power.clone()),
            ),
        };
    }
}

/// Records, slots and every stored byte of a disk are as they were written (E6).
async fn whole(engine: &Engine) -> Result<(), String> {
    engine.check().map_err(|broken| format!("{broken:?}"))?;
    let everything = ScrubBudget {
        slot_bytes: u64::MAX,
        chunks: u64::MAX,
    };
    let mut after = None;
    loop {
        let scrubbed = engine.scrub(after, everything).await;
        let scrubbed = scrubbed.map_err(|error| error.to_string())?;
        if !scrubbed.damages.is_empty() {
            return Err(format!("{:?}", scrubbed.damages));
        }
        after = scrubbed.next;
        if after.is_none() {
            return Ok(());
        }
    }
}
