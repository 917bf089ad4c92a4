//! A member of the manager group: started, silenced and stopped, started again over its directory.

use std::{collections::BTreeMap, path::PathBuf};

use common::shutdown::Shutdown;
use mgmtd::{MgmtdConfig, RunningMgmtd};
use net::Gone;

use crate::context::Context;

/// Node ids of managers start here.
const FIRST_ID: u32 = 201;

pub(crate) struct Manager {
    context: Context,
    index: u32,
    data: PathBuf,
    running: Option<(RunningMgmtd, Shutdown)>,
}

/// What a manager is called on the network.
pub(crate) fn name(index: u32) -> String {
    format!("manager-{index}")
}

/// Where the managers of a group listen.
pub(crate) fn addresses(group: u32) -> Vec<String> {
    (0..group)
        .map(|index| format!("mem://{}", name(index)))
        .collect()
}

impl Manager {
    pub(crate) fn new(context: &Context, index: u32, data: PathBuf) -> Self {
        Self {
            context: context.clone(),
            index,
            data,
            running: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) async fn start(&mut self) -> Result<(), String> {
        let name = name(self.index);
        self.context.network.bring_back(&name);
        let members = (FIRST_ID..).map(|id| id.to_string());
        let members: BTreeMap<_, _> = members.zip(self.context.managers.clone()).collect();
        let config = MgmtdConfig {
            node_id: FIRST_ID + self.index,
            listen: format!("mem://{name}"),
            members: if members.len() == 1 {
                BTreeMap::new()
            } else {
                members
            },
            data: self.data.clone(),
            ..MgmtdConfig::default()
        };
        let (env, endpoint) = (self.context.env.clone(), self.context.endpoint(&name));
        let shutdown = Shutdown::new();
        let served = mgmtd::serve_on(config, env, endpoint, shutdown.clone()).await;
        let running = served.map_err(|error| format!("{name} does not start: {error}"))?;
        self.running = Some((running, shutdown));
        Ok(())
    }

    /// Nobody hears of it from now on; then it ends. What its log holds stays: every append is one whole write.
    pub(crate) async fn end(&mut self, gone: Gone) {
        if let Some((running, shutdown)) = self.running.take() {
            self.context.network.remove(&name(self.index), gone);
            shutdown.trigger();
            running.join().await;
        }
    }
}
