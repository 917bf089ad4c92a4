//! What the cluster manager is asked.

use serde::{Deserialize, Serialize};

use crate::{
    id::{BootId, ChainId, ChainTableId, ClientId, DiskIndex, NodeId, TargetId},
    node::NodeKind,
    routing::RoutingInfo,
    routing_delta::RoutingDelta,
    rpc::{
        methods,
        operator::{
            AddTargetReply, AddTargetRequest, AppendTableRequest, ForceLastServingRequest, Loss,
            RemoveTargetRequest, RotateChainReply, RotateChainRequest, SetPreferredRequest,
        },
    },
    session::ClientSession,
    target::LocalState,
    version::{ChainTableVersion, ChainVersion, HeartbeatNumber, RoutingVersion},
};

methods! { Mgmtd:
    /// A node is alive, and how its targets are. Renews the lease.
    SendHeartbeat = 1, "mgmtd.heartbeat", Heartbeat => HeartbeatReply;
    /// The routing map, at once or when it is newer than the caller's (a watch by long poll).
    WatchRouting = 2, "mgmtd.watch_routing", WatchRoutingRequest => WatchRoutingReply;
    /// Opens or renews a client's session.
    ExtendClientSession = 3, "mgmtd.extend_client_session", ClientSession => ();
    /// The clients whose sessions have not expired.
    ListClientSessions = 4, "mgmtd.list_client_sessions", () => Vec<ClientSession>;
    /// Creates chains over the alive storage nodes and appends a table version with them.
    CreateChains = 5, "mgmtd.create_chains", CreateChainsRequest => CreateChainsReply;
    /// Space of all storage nodes together.
    GetSpace = 6, "mgmtd.get_space", () => SpaceReply;
    /// Who leads and who belongs to the manager group; any member answers.
    GetManagers = 7, "mgmtd.get_managers", () => ManagersReply;
    /// Ends a client's session at once.
    EndClientSession = 8, "mgmtd.end_client_session", ClientId => ();
    /// Appends a version to a chain table.
    AppendTable = 9, "mgmtd.append_table", AppendTableRequest => ChainTableVersion;
    /// Adds a target to a chain, at its end.
    AddTarget = 10, "mgmtd.add_target", AddTargetRequest => AddTargetReply;
    /// Removes an Offline target from its chain.
    RemoveTarget = 11, "mgmtd.remove_target", RemoveTargetRequest => ();
    /// Sets the order that a chain's targets should have.
    SetPreferred = 12, "mgmtd.set_preferred", SetPreferredRequest => ();
    /// Takes one step towards that order.
    RotateChain = 13, "mgmtd.rotate_chain", RotateChainRequest => RotateChainReply;
    /// Makes a chain go on with a target that may lack acknowledged writes.
    ForceLastServing = 14, "mgmtd.force_last_serving", ForceLastServingRequest => Loss;
    /// What forced changes gave up so far, oldest first.
    ListLosses = 15, "mgmtd.list_losses", () => Vec<Loss>;
    /// Adds a member to the manager group.
    AddManager = 16, "mgmtd.add_manager", AddManagerRequest => ();
    /// Removes one.
    RemoveManager = 17, "mgmtd.remove_manager", RemoveManagerRequest => ();
    /// As `WatchRouting`, for a caller that keeps its map: only what changed since, when the manager remembers.
    FollowRouting = 18, "mgmtd.follow_routing", WatchRoutingRequest => RoutingNews;
}

/// Sent every 500 ms (protocol M3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// What it does.
    pub kind: NodeKind,
    /// Which start of the process.
    pub boot: BootId,
    /// Strictly rising within one boot.
    pub number: HeartbeatNumber,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Failure domains.
    pub tags: Vec<String>,
    /// Its disks.
    pub disks: Vec<DiskReport>,
    /// Its targets.
    pub targets: Vec<TargetReport>,
    /// The map it works by.
    pub routing_version: RoutingVersion,
    /// The resyncs that its targets drive.
    pub resyncs: Vec<ResyncReport>,
    /// Targets that one of its targets would refill and cannot reach. They count as Offline while they do not serve.
    pub cut_off: Vec<TargetId>,
}

/// The space of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Which disk.
    pub disk: DiskIndex,
    /// Bytes that chunks may take in all.
    pub capacity_bytes: u64,
    /// Bytes that chunks take.
    pub used_bytes: u64,
    /// Why it is out of service, when it is.
    pub failure: Option<String>,
}

/// One target's state as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// Which target.
    pub target: TargetId,
    /// The chain version the node works by; a report with an old one is ignored.
    pub chain_version: ChainVersion,
    /// The state.
    pub state: LocalState,
    /// Bytes its chunks take.
    pub used_bytes: u64,
}

/// How far the resync of a target is, told by the node that drives it. Totals are estimates: chunks come and go meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncReport {
    /// The target that is filled.
    pub target: TargetId,
    /// Chunks that are equal now.
    pub done_chunks: u64,
    /// Chunks of the target that fills.
    pub total_chunks: u64,
    /// The space that the chunks take which are equal now.
    pub done_bytes: u64,
    /// The space that all chunks take.
    pub total_bytes: u64,
    /// Chunks that were sent; the others were equal before.
    pub sent_chunks: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes sent in a second, lately.
    pub bytes_per_second: u64,
    /// Estimated by what became equal lately; `None` when nothing did.
    pub seconds_left: Option<u64>,
    /// Chunks that were passed over because they could not be read or sent. They are tried again at the end.
    pub left_chunks: u64,
}

/// Renews the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Milliseconds of lease, counted by the node from when it *sent* the heartbeat (protocol M4).
    pub lease_ms: u64,
    /// The manager's newest map; a node with an older one fetches it.
    pub routing_version: RoutingVersion,
    /// Targets of the node that an operator wants out of service for a moment.
    pub step_down: Vec<StepDown>,
}

/// The node takes a target out of service by itself, so that nobody reads from it any more before the others go on without
/// it, and reports it Offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDown {
    /// Which target.
    pub target: TargetId,
    /// Only while its chain is at this version.
    pub chain_version: ChainVersion,
}

/// Asks for the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRoutingRequest {
    /// The map the caller has; 0 for none.
    pub known: RoutingVersion,
    /// How long to wait for a newer one; 0 answers at once.
    pub wait_ms: u64,
}

/// The map, when it is newer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRoutingReply {
    /// `None` when nothing newer came up in time.
    pub routing: Option<RoutingInfo>,
}

/// What is new for a caller that keeps its map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutingNews {
    /// Nothing came up in time.
    Nothing,
    /// The whole map.
    Whole(RoutingInfo),
    /// What changed since the caller's map.
    Delta(RoutingDelta),
}

/// Asks for chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateChainsRequest {
    /// The table to append a version to; made when missing.
    pub table: ChainTableId,
    /// How many chains.
    pub count: u32,
    /// How many targets each, on distinct nodes.
    pub replicas: u32,
}

/// The chains made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateChainsReply {
    /// Their ids, in table order.
    pub chains: Vec<ChainId>,
    /// The table's new version.
    pub version: ChainTableVersion,
}

/// Raw space of the alive storage nodes; usable space is this divided by the replica count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReply {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes taken.
    pub used_bytes: u64,
    /// Targets per chain; at least 1.
    pub replicas: u32,
    /// Per disk.
    pub disks: Vec<DiskSpace>,
    /// The last local state reported of each target.
    pub targets: Vec<(TargetId, LocalState)>,
    /// The resyncs under way, as far as their nodes have reported them.
    pub resyncs: Vec<ResyncReport>,
    /// Targets that cannot be reached by the one which would refill them.
    pub cut_off: Vec<TargetId>,
}

/// The space of one disk of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// The node.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskIndex,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes taken.
    pub used_bytes: u64,
    /// Why it is out of service, when it is.
    pub failure: Option<String>,
}

/// The manager group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagersReply {
    /// The leader, when one is known.
    pub leader: Option<NodeId>,
    /// Every member that votes, with its address.
    pub members: Vec<(NodeId, String)>,
    /// Those who only copy the log: they are being added.
    pub learners: Vec<(NodeId, String)>,
}

/// Asks that a manager, which runs and waits to join, becomes a member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddManagerRequest {
    /// Its node id.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
}

/// Asks that a manager leaves the group for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveManagerRequest {
    /// Its node id.
    pub id: NodeId,
}
