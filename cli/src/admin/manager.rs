//! `admin manager list`, `add` and `remove`.

use std::time::Duration;

use serde::Serialize;
use types::{
    id::NodeId,
    rpc::mgmtd::{
        AddManager, AddManagerRequest, GetManagers, ManagersReply, RemoveManager,
        RemoveManagerRequest,
    },
};

use super::word;
use crate::{
    args::{ManagerAddArgs, ManagerRemoveArgs},
    cluster::Cluster,
    out,
};

/// A new manager copies the whole log before it gets its vote.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// What a member does in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Leader,
    Follower,
    /// Copies the log, without a vote.
    Learner,
}

/// One manager. The JSON form is a contract.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ManagerLine {
    id: NodeId,
    address: String,
    part: Part,
}

/// Lists the group.
pub(super) async fn list(cluster: &Cluster, json: bool) -> anyhow::Result<()> {
    say(lines(cluster.ask::<GetManagers>(&()).await?), json)
}

fn lines(group: ManagersReply) -> Vec<ManagerLine> {
    let leader = group.leader;
    let voters = group.members.into_iter().map(|(id, address)| {
        let part = if Some(id) == leader {
            Part::Leader
        } else {
            Part::Follower
        };
        ManagerLine { id, address, part }
    });
    let learners = group.learners.into_iter().map(|(id, address)| ManagerLine {
        id,
        address,
        part: Part::Learner,
    });
    voters.chain(learners).collect()
}

fn say(lines: Vec<ManagerLine>, json: bool) -> anyhow::Result<()> {
    if json {
        return out::json(&lines);
    }
    let rows = lines.into_iter().map(|line| {
        let part = word(&line.part);
        vec![line.id.to_string(), line.address, part]
    });
    out::table(&["ID", "ADDRESS", "PART"], rows.collect());
    Ok(())
}

/// Adds a manager, and lists the group as it is then.
pub(super) async fn add(
    cluster: &Cluster,
    args: &ManagerAddArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = AddManagerRequest {
        id: NodeId(args.id),
        address: args.address.clone(),
    };
    if !json {
        out::say(&format!(
            "manager {} copies the log, for up to {} s",
            request.id,
            CHANGE_LIMIT.as_secs()
        ));
    }
    let deadline = cluster.now() + CHANGE_LIMIT;
    cluster.change::<AddManager>(&request, deadline).await?;
    list(cluster, json).await
}

/// Removes a manager, and lists the group as it is then.
pub(super) async fn remove(
    cluster: &Cluster,
    args: &ManagerRemoveArgs,
    json: bool,
) -> anyhow::Result<()> {
    let request = RemoveManagerRequest {
        id: NodeId(args.id),
    };
    let deadline = cluster.now() + CHANGE_LIMIT;
    cluster.change::<RemoveManager>(&request, deadline).await?;
    list(cluster, json).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_stays_as_it_is() {
        let lines = lines(ManagersReply {
            leader: Some(NodeId(202)),
            members: vec![
                (NodeId(201), "a:1".to_owned()),
                (NodeId(202), "b:1".to_owned()),
            ],
            learners: vec![(NodeId(204), "d:1".to_owned())],
        });
        let json = serde_json::to_string(&lines).unwrap();
        assert_eq!(
            json,
            r#"[{"id":201,"address":"a:1","part":"follower"},{"id":202,"address":"b:1","part":"leader"},{"id":204,"address":"d:1","part":"learner"}]"#
        );
    }
}
