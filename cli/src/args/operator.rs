//! The verbs by which an operator changes a cluster: chains, tables, targets, managers.

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TargetVerb {
    /// List all of them.
    List,
    /// Add a target to a chain: one more copy, on a disk of a node that the chain does not use yet.
    Add(TargetAddArgs),
    /// Remove a target that is offline from its chain, for good.
    Remove(TargetRemoveArgs),
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
The target enters its chain offline, at the end. Its node makes it, the chain fills it in the background, and then it
serves; `penstock admin chain list` shows `syncing`, then `serving`. Nothing pauses meanwhile.

How a lost disk is replaced: add a target on another node, wait until it serves, remove the old one.

Example:
  penstock admin target add --chain 4 --node 7 --disk 0")]
pub(crate) struct TargetAddArgs {
    /// The chain; see `penstock admin chain list`.
    #[arg(long, value_name = "ID")]
    pub(crate) chain: u32,
    /// The storage node; see `penstock admin node list`.
    #[arg(long, value_name = "ID")]
    pub(crate) node: u32,
    /// Its disk, counted from 0 in the order of its configuration.
    #[arg(long, value_name = "INDEX")]
    pub(crate) disk: u8,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Only a target that is offline can go: its node is stopped, or its disk is out of service. What lies on the disk
stays there and is not used again; an empty directory in its place gives the space back.

A chain remembers how many copies it was made with. While fewer targets serve, removing one is refused, because the
chain might stay so; --fewer-copies says that this is meant, and the chain is meant to have fewer from then on.

Examples:
  penstock admin target remove 12
  penstock admin target remove 12 --fewer-copies")]
pub(crate) struct TargetRemoveArgs {
    /// The target; see `penstock admin target list`.
    pub(crate) target: u64,
    /// The chain may have fewer copies from now on.
    #[arg(long)]
    pub(crate) fewer_copies: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChainVerb {
    /// List all of them.
    List,
    /// Show the targets of one, or of all, with how far a resync is and when it may end.
    Show {
        /// The chain; all when left out.
        id: Option<u32>,
    },
    /// Make chains over the storage nodes that run, and append a table version with them.
    Create(ChainCreateArgs),
    /// Set the order that a chain's targets should have, head first.
    Order(ChainOrderArgs),
    /// Take one step towards that order.
    Rotate(ChainRotateArgs),
    /// Make a chain that nobody serves go on with a target that may lack acknowledged writes.
    ForceLastServing(ForceArgs),
    /// What was given up by that so far.
    Losses,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Each chain gets its targets on distinct nodes, each disk about equally many. New files use the new table version;
files that exist keep their chains.

Example:
  penstock admin chain create --count 12 --copies 3")]
pub(crate) struct ChainCreateArgs {
    /// How many chains.
    #[arg(long, value_name = "N")]
    pub(crate) count: u32,
    /// How many targets each.
    #[arg(long, value_name = "N")]
    pub(crate) copies: u32,
    /// The table to append to; made when missing.
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub(crate) table: u32,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Nothing moves by this alone: `penstock admin chain rotate` takes the steps.

Example:
  penstock admin chain order 4 12 10 11     target 12 shall be the head, then 10, then 11")]
pub(crate) struct ChainOrderArgs {
    /// The chain.
    pub(crate) chain: u32,
    /// All of its targets, head first.
    #[arg(required = true)]
    pub(crate) targets: Vec<u64>,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
A step takes one target out of service, the first that stands too early. The chain goes on without it, refills it
with what it missed, and it serves again as the last one. Run the command again, once all serve, until it says that the
order is right. Refused while fewer targets serve than the chain is meant to have.

Example:
  penstock admin chain rotate 4")]
pub(crate) struct ChainRotateArgs {
    /// The chain.
    pub(crate) chain: u32,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
When all targets of a chain have died, those that served last hold every acknowledged write, and the chain waits for one
of them. Start their nodes first: then nothing is lost. Only when they will never return, choose the target that
lacks least. Without --accept-loss the command is refused and says what may be lost.

After it, `penstock admin chain losses` lists what was given up. Also forgotten is which of the last updates the
chosen target had carried out: a client that still repeats one of them may carry it out again.

Example:
  penstock admin chain force-last-serving 4 12                  what would it cost?
  penstock admin chain force-last-serving 4 12 --accept-loss    do it")]
pub(crate) struct ForceArgs {
    /// The chain.
    pub(crate) chain: u32,
    /// The target it shall go on with.
    pub(crate) target: u64,
    /// Acknowledged writes may be lost.
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TableVerb {
    /// List all versions of all tables.
    List,
    /// Append a version: from now on new files use exactly these chains.
    Append(TableAppendArgs),
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Files remember the version they were made with, so a chain that the new version leaves out keeps its data and gets no
new files. The order counts: a file's chunks go over neighbours in the table.

Example:
  penstock admin table append 1 2 3 5       table 1 consists of chains 2, 3 and 5 from now on")]
pub(crate) struct TableAppendArgs {
    /// The table.
    pub(crate) table: u32,
    /// Its chains, in order.
    #[arg(required = true)]
    pub(crate) chains: Vec<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ManagerVerb {
    /// List the members of the manager group.
    List,
    /// Add a manager that runs and waits to join.
    Add(ManagerAddArgs),
    /// Remove a manager from the group, for good.
    Remove(ManagerRemoveArgs),
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
First start the new manager: `penstock mgmtd --config FILE`, with a `node_id` that no node has, a `listen` address that
the other managers reach, an empty `data` directory, and `join = true`. Then add it. It copies the log first and gets
its vote when it has nearly all of it.

Managers decide by majority: 3 survive the loss of one, 5 of two; 2 and 4 are no better than 1 and 3. To replace a
manager, add the new one before the old one is removed. A single manager that shall become three must listen
on an address that others reach, or be named with one in its own `members`.

Running processes learn of the new manager by themselves. Add its address to `mgmtd` in the configurations and
cluster files, for those that start later.

Example:
  penstock admin manager add 204 host4:7400")]
pub(crate) struct ManagerAddArgs {
    /// Its node id.
    pub(crate) id: u32,
    /// Where it listens.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
The group goes on with the others; removing the leader is a pause of a second or two. Refused when fewer than a
majority of the others are alive. Stop the removed process afterwards: it serves nobody any more, and its /healthz says
so. Take its address out of `mgmtd` in the configurations and cluster files.

Example:
  penstock admin manager remove 203")]
pub(crate) struct ManagerRemoveArgs {
    /// Its node id; see `penstock admin manager list`.
    pub(crate) id: u32,
}
