//! The files a development cluster is made of: `cluster.toml` and one `config.toml` for each service.
//!
//! Written once, then the user's: an edited file is never overwritten. Only what differs from the
//! defaults is written down, so that better defaults of a later release take effect.

use std::{fs, path::Path};

use anyhow::Context as _;
use client::ClusterConfig;
use toml::{Table, Value};

use super::{
    paths::Paths,
    state::{Service, ServiceKind, State},
};

/// Writes the files that are missing.
pub(crate) fn write_missing(paths: &Paths, state: &State) -> anyhow::Result<()> {
    let managers = managers(state);
    let cluster = paths.cluster();
    if !cluster.exists() {
        let config = ClusterConfig {
            mgmtd: managers
                .iter()
                .map(|(_, address)| address.clone())
                .collect(),
        };
        config
            .save(&cluster)
            .with_context(|| format!("cannot write {}", cluster.display()))?;
    }
    for service in &state.services {
        if service.kind != ServiceKind::Mount && !service.config.exists() {
            let data = paths.data(&service.name);
            let text = text(service, &data, &managers);
            write(&service.config, &text)?;
        }
    }
    Ok(())
}

/// Node id and address of each manager.
fn managers(state: &State) -> Vec<(u32, String)> {
    let managers = state
        .services
        .iter()
        .filter(|s| s.kind == ServiceKind::Mgmtd);
    managers
        .filter_map(|service| Some((service.node?, service.address.clone())))
        .collect()
}

fn text(service: &Service, data: &Path, managers: &[(u32, String)]) -> String {
    let word = service.kind.word();
    let mut table = Table::new();
    let mut set = |key: &str, value: Value| drop(table.insert(key.to_owned(), value));
    set(
        "node_id",
        i64::from(service.node.unwrap_or_default()).into(),
    );
    set("listen", service.address.clone().into());
    set("admin_listen", service.admin_address.clone().into());
    set("data", data.display().to_string().into());
    if service.kind == ServiceKind::Mgmtd {
        let members: Table = managers
            .iter()
            .map(|(node, address)| (node.to_string(), address.clone().into()))
            .collect();
        set("members", members.into());
    } else {
        let addresses: Vec<Value> = managers
            .iter()
            .map(|(_, address)| address.clone().into())
            .collect();
        set("mgmtd", addresses.into());
    }
    format!(
        "# {}, made by `penstock dev up`. Yours to edit; takes effect at the next start.\n\
         # All keys with their meaning: penstock {word} --print-config\n{table}",
        service.name
    )
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the directory {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(kind: ServiceKind) -> String {
        let service = Service {
            name: format!("{}-1", kind.word()),
            kind,
            node: Some(1),
            address: "127.0.0.1:7001".to_owned(),
            admin_address: "127.0.0.1:7002".to_owned(),
            config: "c".into(),
            log: "l".into(),
            process: None,
        };
        text(
            &service,
            Path::new("/d"),
            &[(201, "127.0.0.1:7003".to_owned())],
        )
    }

    #[test]
    fn each_role_understands_the_file_made_for_it() {
        let text = config_of(ServiceKind::Mgmtd);
        common::config::parse::<mgmtd::MgmtdConfig>(&text).expect(&text);
        let text = config_of(ServiceKind::Meta);
        common::config::parse::<meta::MetaConfig>(&text).expect(&text);
        let text = config_of(ServiceKind::Storage);
        common::config::parse::<storage::StorageConfig>(&text).expect(&text);
    }
}
