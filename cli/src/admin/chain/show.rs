//! `admin chain show`: the targets of chains, and how far a target is that is being refilled.

use std::collections::BTreeMap;

use anyhow::bail;
use serde::Serialize;
use types::{
    chain::Chain,
    id::{ChainId, DiskIndex, NodeId, TargetId},
    routing::RoutingInfo,
    rpc::mgmtd::{GetSpace, ResyncReport, SpaceReply},
    target::{LocalState, PublicState},
    version::ChainVersion,
};

use crate::{admin::word, cluster::Cluster, out};

/// One chain. The JSON form is a contract.
#[derive(Debug, Serialize)]
struct ChainView {
    id: ChainId,
    version: ChainVersion,
    /// Head first.
    targets: Vec<TargetView>,
}

/// One target of a chain.
#[derive(Debug, Serialize)]
struct TargetView {
    id: TargetId,
    node: Option<NodeId>,
    disk: Option<DiskIndex>,
    state: PublicState,
    /// What the node reported last; none when it has not reported to this manager.
    local_state: Option<LocalState>,
    /// The one that would refill it cannot reach it, so it has to stay out.
    cut_off: bool,
    /// While it is being refilled and the node that does so has reported.
    resync: Option<ResyncView>,
}

/// How far a resync is. Totals are estimates.
#[derive(Debug, Serialize)]
pub(crate) struct ResyncView {
    done_chunks: u64,
    total_chunks: u64,
    done_bytes: u64,
    total_bytes: u64,
    sent_chunks: u64,
    sent_bytes: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
    left_chunks: u64,
}

impl From<&ResyncReport> for ResyncView {
    fn from(report: &ResyncReport) -> Self {
        Self {
            done_chunks: report.done_chunks,
            total_chunks: report.total_chunks,
            done_bytes: report.done_bytes,
            total_bytes: report.total_bytes,
            sent_chunks: report.sent_chunks,
            sent_bytes: report.sent_bytes,
            bytes_per_second: report.bytes_per_second,
            seconds_left: report.seconds_left,
            left_chunks: report.left_chunks,
        }
    }
}

impl ResyncView {
    /// For people: how much of it is done and when it may end.
    pub(crate) fn short(&self) -> String {
        let percent = self.done_bytes.saturating_mul(100) / self.total_bytes.max(1);
        let end = match self.seconds_left {
            _ if self.left_chunks > 0 && self.done_bytes == self.total_bytes => {
                "waits for the chunks that were passed over".to_owned()
            }
            Some(seconds) => format!("about {} left", duration(seconds)),
            None => "no estimate yet".to_owned(),
        };
        format!("{percent} %, {end}")
    }

    /// The whole line for people.
    fn line(&self) -> String {
        let mut line = format!(
            "{}: {} of {} equal, {} of {} chunks; {} chunks sent ({}), {}/s",
            self.short(),
            out::bytes(self.done_bytes),
            out::bytes(self.total_bytes),
            self.done_chunks,
            self.total_chunks,
            self.sent_chunks,
            out::bytes(self.sent_bytes),
            out::bytes(self.bytes_per_second),
        );
        if self.left_chunks > 0 {
            line.push_str(&format!(
                "; {} chunks could not be read or sent, see the log of the node before it in the chain",
                self.left_chunks
            ));
        }
        line
    }
}

/// Shows one chain or all.
pub(crate) async fn run(cluster: &Cluster, id: Option<ChainId>, json: bool) -> anyhow::Result<()> {
    let routing = cluster.routing().await?;
    let space = cluster.ask::<GetSpace>(&()).await?;
    let chains = views(&routing, &space, id);
    if let (Some(id), true) = (id, chains.is_empty()) {
        bail!("there is no chain {id}; `penstock admin chain list` shows all");
    }
    if json {
        return out::json(&chains);
    }
    chains.iter().for_each(print);
    Ok(())
}

fn views(routing: &RoutingInfo, space: &SpaceReply, id: Option<ChainId>) -> Vec<ChainView> {
    let local: BTreeMap<TargetId, LocalState> = space.targets.iter().copied().collect();
    let resyncs = by_target(space);
    let wanted = routing
        .chains
        .values()
        .filter(|chain| id.is_none_or(|id| chain.id == id));
    let view = |chain: &Chain| ChainView {
        id: chain.id,
        version: chain.version,
        targets: chain
            .targets
            .iter()
            .map(|target| {
                let entry = routing.targets.get(&target.id);
                TargetView {
                    id: target.id,
                    node: entry.map(|entry| entry.node),
                    disk: entry.map(|entry| entry.disk),
                    state: target.state,
                    local_state: local.get(&target.id).copied(),
                    cut_off: space.cut_off.contains(&target.id),
                    resync: resyncs
                        .get(&target.id)
                        .filter(|_| target.state == PublicState::Syncing)
                        .map(|report| ResyncView::from(*report)),
                }
            })
            .collect(),
    };
    wanted.map(view).collect()
}

/// The resyncs that were reported, by the target that is filled.
pub(crate) fn by_target(space: &SpaceReply) -> BTreeMap<TargetId, &ResyncReport> {
    let resyncs = space.resyncs.iter();
    resyncs.map(|report| (report.target, report)).collect()
}

fn print(chain: &ChainView) {
    out::say(&format!(
        "chain {}, version {}, head first:",
        chain.id, chain.version
    ));
    for target in &chain.targets {
        let place = match (target.node, target.disk) {
            (Some(node), Some(disk)) => format!("node {node}, disk {disk}"),
            _ => "nowhere".to_owned(),
        };
        let reported = target
            .local_state
            .map_or_else(|| "nothing".to_owned(), |state| word(&state));
        out::say(&format!(
            "  target {} on {place}: {}, reported {reported}",
            target.id,
            word(&target.state)
        ));
        if target.cut_off {
            out::say(
                "    the node that would refill it cannot reach it: look at the network between the two",
            );
        }
        if let Some(resync) = &target.resync {
            out::say(&format!("    resync {}", resync.line()));
        }
    }
}

/// Whole minutes from one minute on: it is an estimate.
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use types::{chain::ChainTarget, target::Target};

    use super::*;

    fn cluster() -> (RoutingInfo, SpaceReply) {
        let mut routing = RoutingInfo::default();
        let states = [PublicState::Serving, PublicState::Syncing];
        let targets = (11..).zip(states).map(|(id, state)| ChainTarget {
            id: TargetId(id),
            state,
        });
        let chain = Chain {
            id: ChainId(1),
            version: ChainVersion(4),
            targets: targets.collect(),
            preferred: vec![],
        };
        for id in [11, 12] {
            let target = Target {
                id: TargetId(id),
                node: NodeId(id as u32 - 10),
                disk: DiskIndex(0),
                chain: chain.id,
                created: true,
            };
            routing.targets.insert(target.id, target);
        }
        routing.chains.insert(chain.id, chain);
        let space = SpaceReply {
            targets: vec![(TargetId(11), LocalState::UpToDate)],
            resyncs: vec![ResyncReport {
                target: TargetId(12),
                done_chunks: 3,
                total_chunks: 12,
                done_bytes: 3 << 20,
                total_bytes: 12 << 20,
                sent_chunks: 2,
                sent_bytes: 2 << 20,
                bytes_per_second: 1 << 20,
                seconds_left: Some(4000),
                left_chunks: 0,
            }],
            ..SpaceReply::default()
        };
        (routing, space)
    }

    #[test]
    fn the_json_form_stays_as_it_is() {
        let (routing, space) = cluster();
        let json = serde_json::to_string(&views(&routing, &space, None)).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"[{"id":1,"version":4,"targets":["#,
                r#"{"id":11,"node":1,"disk":0,"state":"serving","local_state":"up_to_date","#,
                r#""cut_off":false,"resync":null},"#,
                r#"{"id":12,"node":2,"disk":0,"state":"syncing","local_state":null,"cut_off":false,"#,
                r#""resync":{"done_chunks":3,"total_chunks":12,"done_bytes":3145728,"#,
                r#""total_bytes":12582912,"sent_chunks":2,"sent_bytes":2097152,"#,
                r#""bytes_per_second":1048576,"seconds_left":4000,"left_chunks":0}}]}]"#
            )
        );
        assert_eq!(views(&routing, &space, Some(ChainId(1))).len(), 1);
        assert!(views(&routing, &space, Some(ChainId(2))).is_empty());
    }

    #[test]
    fn a_line_says_how_far_it_is_and_what_it_waits_for() {
        let (_, mut space) = cluster();
        let line = ResyncView::from(&space.resyncs[0]).line();
        for part in [
            "25 %",
            "3.0 MiB of 12.0 MiB",
            "1.0 MiB/s",
            "about 1 h 6 min",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        space.resyncs[0].done_bytes = space.resyncs[0].total_bytes;
        space.resyncs[0].left_chunks = 2;
        let line = ResyncView::from(&space.resyncs[0]).line();
        assert!(line.contains("waits for the chunks"), "{line}");
        assert!(line.contains("2 chunks could not be read"), "{line}");
    }

    #[test]
    fn estimates_are_short() {
        assert_eq!(
            [59, 60, 3599, 3600, 90_000].map(duration),
            ["59 s", "1 min", "59 min", "1 h 0 min", "25 h 0 min"]
        );
    }
}
