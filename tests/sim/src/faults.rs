//! What breaks, and when: drawn from the seed, one thing after the other, each mended by itself after a while.

mod disks;

use std::{collections::BTreeMap, time::Duration};

use common::env::Instant;
use net::{Gone, LinkFaults};
use types::{id::ChainId, target::PublicState::Serving, version::ChainVersion};

use self::disks::Trouble;
use crate::{
    host::{End, Host},
    load, manager,
    world::World,
};

/// The longest time a host stays away, or a link stays cut.
const AWAY_MAX: Duration = Duration::from_secs(9);

/// How long a node whose disk may be replaced is kept waiting for the managers' word that nothing else is missing.
const CERTAIN_LIMIT: Duration = Duration::from_secs(1);

/// What will be mended, and when.
enum Mend {
    Host(usize),
    /// The disk of a host; by a restart, when it cannot be otherwise.
    Disk(usize, Trouble),
    Manager(usize),
    Links,
}

/// Trouble of one run.
pub(crate) struct Faults {
    due: Vec<(Instant, Mend)>,
    /// What the chains of a disk were at when it was replaced by an empty one.
    replaced_at: BTreeMap<ChainId, ChainVersion>,
    /// How many there were.
    pub(crate) count: u32,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            due: Vec::new(),
            replaced_at: BTreeMap::new(),
            count: 0,
        }
    }

    /// Breaks things for as long as the scenario says.
    ///
    /// # Errors
    /// When something does not start again.
    pub(crate) async fn run(&mut self, world: &mut World) -> Result<(), String> {
        let end = world.context.env.now() + world.scenario.trouble;
        world.context.network.set_faults(world.scenario.links);
        let mut next = world.context.env.now() + self.pause(world);
        while world.context.env.now() < end {
            let due = self.due.iter().map(|(at, _)| *at).min();
            let at = due.unwrap_or(end).min(next).min(end);
            world.context.env.sleep_until(at).await;
            self.mend_due(world).await?;
            if world.context.env.now() >= next {
                self.one(world).await?;
                next = world.context.env.now() + self.pause(world);
            }
        }
        Ok(())
    }

    /// Makes everything whole.
    ///
    /// # Errors
    /// When something does not start again.
    pub(crate) async fn heal(&mut self, world: &mut World) -> Result<(), String> {
        world
            .context
            .log
            .add(format_args!("everything is made whole"));
        world.context.network.set_faults(LinkFaults::default());
        world.context.network.join();
        for (_, mend) in std::mem::take(&mut self.due) {
            if matches!(mend, Mend::Disk(..)) {
                self.mend(world, &mend).await?;
            }
        }
        for index in 0..world.managers.len() {
            self.mend(world, &Mend::Manager(index)).await?;
        }
        for index in 0..world.hosts.len() {
            self.mend(world, &Mend::Host(index)).await?;
        }
        Ok(())
    }

    fn pause(&self, world: &World) -> Duration {
        let mean = world.scenario.trouble_every.as_micros() as u64;
        Duration::from_micros(world.context.env.random_below(2 * mean))
    }

    fn away(&self, world: &World) -> Instant {
        // Short absences, which no lease notices, as often as long ones.
        let longest = if world.context.env.random_below(2) == 0 {
            AWAY_MAX
        } else {
            AWAY_MAX / 10
        };
        let micros = longest.as_micros() as u64;
        world.context.env.now() + Duration::from_micros(world.context.env.random_below(micros))
    }

    async fn mend_due(&mut self, world: &mut World) -> Result<(), String> {
        let now = world.context.env.now();
        let (due, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.due = later;
        let due: Vec<(Instant, Mend)> = due;
        for (_, mend) in due {
            self.mend(world, &mend).await?;
        }
        Ok(())
    }

    async fn mend(&mut self, world: &mut World, mend: &Mend) -> Result<(), String> {
        match *mend {
            Mend::Host(index) => {
                if !world.hosts[index].is_running() {
                    world
                        .context
                        .log
                        .add(format_args!("storage {} starts", index + 1));
                    world.hosts[index].start().await?;
                }
            }
            Mend::Disk(index, trouble) => {
                world
                    .context
                    .log
                    .add(format_args!("disk {} is mended: {trouble:?}", index + 1));
                let host = &mut world.hosts[index];
                host.set_disk_faults(Trouble::none());
                if trouble.needs_restart() && host.is_running() {
                    host.end(End::PowerLost, Gone::Reset);
                    host.start().await?;
                }
            }
            Mend::Manager(index) => {
                if !world.managers[index].is_running() {
                    world
                        .context
                        .log
                        .add(format_args!("manager {index} starts"));
                    world.managers[index].start().await?;
                }
            }
            Mend::Links => {
                world.context.log.add(format_args!("links are whole"));
                world.context.network.join();
            }
        }
        Ok(())
    }

    /// One more thing breaks.
    async fn one(&mut self, world: &mut World) -> Result<(), String> {
        self.count += 1;
        match world.context.env.random_below(16) {
            0..6 => {
                let index = pick(world, world.hosts.len());
                self.end_host(world, index);
            }
            6 => {
                for index in 0..world.hosts.len() {
                    self.end_host(world, index);
                }
            }
            7 | 8 => {
                let index = pick(world, world.managers.len());
                world.context.log.add(format_args!("manager {index} ends"));
                let gone = gone(world);
                world.managers[index].end(gone).await;
                self.due.push((self.away(world), Mend::Manager(index)));
            }
            9 => self.leave_behind(world),
            10 | 11 => self.cut(world),
            12 => self.replace_disk(world).await?,
            _ => self.trouble_disk(world),
        }
        Ok(())
    }

    fn trouble_disk(&mut self, world: &World) {
        let trouble = Trouble::ALL[pick(world, Trouble::ALL.len())];
        let index = pick(world, world.hosts.len());
        world
            .context
            .log
            .add(format_args!("disk {}: {trouble:?}", index + 1));
        world.hosts[index].set_disk_faults(trouble.faults());
        self.due
            .push((self.away(world), Mend::Disk(index, trouble)));
    }

    /// A node comes back at once with an empty disk. Only while every target of its chains serves, and each has changed since
    /// its last such loss: what is acknowledged must have another holder.
    async fn replace_disk(&mut self, world: &mut World) -> Result<(), String> {
        let index = pick(world, world.hosts.len());
        let Some(map) = world.fresh_map(CERTAIN_LIMIT).await else {
            return Ok(());
        };
        let node = world.hosts[index].id();
        let mine = |chain: &types::chain::Chain| {
            let nodes = chain
                .targets
                .iter()
                .filter_map(|target| map.targets.get(&target.id));
            nodes.map(|target| target.node.0).any(|id| id == node)
        };
        let chains = map.chains.values().filter(|chain| mine(chain));
        let replaceable = chains.clone().all(|chain| {
            let others = chain.targets.len() > 1;
            let whole = chain.targets.iter().all(|target| target.state == Serving);
            let before = self.replaced_at.get(&chain.id);
            others && whole && before.is_none_or(|before| chain.version > *before)
        });
        if !replaceable || !world.hosts[index].is_running() {
            return Ok(());
        }
        let versions = chains.map(|chain| (chain.id, chain.version));
        self.replaced_at.extend(versions);
        world
            .context
            .log
            .add(format_args!("disk {} is replaced", index + 1));
        let gone = gone(world);
        world.hosts[index].end(End::DiskLost, gone);
        world.hosts[index].start().await
    }

    fn end_host(&mut self, world: &mut World, index: usize) {
        if !world.hosts[index].is_running() {
            return;
        }
        let how = if world.context.env.random_below(3) == 0 {
            End::Killed
        } else {
            End::PowerLost
        };
        let gone = gone(world);
        world.context.log.add(format_args!(
            "storage {} ends: {how:?}, {gone:?}",
            index + 1
        ));
        world.hosts[index].end(how, gone);
        self.due.push((self.away(world), Mend::Host(index)));
    }

    /// One storage node and one client lose the managers, and the node its neighbours, but not each other: only the lease keeps
    /// the node from answering a client whose map is as old as its own.
    fn leave_behind(&mut self, world: &World) {
        let client = load::name(1 + pick(world, world.clients.len()) as u32);
        let hosts: Vec<&str> = world.hosts.iter().filter_map(Host::name).collect();
        if hosts.is_empty() {
            return;
        }
        let node = hosts[pick(world, hosts.len())];
        world
            .context
            .log
            .add(format_args!("{node} and {client} are left behind"));
        let managers = (0..world.scenario.managers).map(manager::name);
        let managers: Vec<String> = managers.collect();
        let managers = managers.iter().map(String::as_str);
        let neighbours = hosts.iter().copied().filter(|host| *host != node);
        let links = managers.clone().map(|manager| (client.as_str(), manager));
        for (one, other) in managers
            .chain(neighbours)
            .map(|other| (node, other))
            .chain(links)
        {
            world.context.network.cut(one, other);
            world.context.network.cut(other, one);
        }
        self.due.push((self.away(world), Mend::Links));
    }

    /// Cuts one direction between two, or everything from or to one.
    fn cut(&mut self, world: &World) {
        let names = world.names();
        let one = &names[pick(world, names.len())];
        let way = world.context.env.random_below(4);
        for other in &names {
            let chosen = world.context.env.random_below(names.len() as u64) == 0;
            if other == one || (way >= 2 && !chosen) {
                continue;
            }
            world
                .context
                .log
                .add(format_args!("cut between {one} and {other}, way {way}"));
            if way != 1 {
                world.context.network.cut(one, other);
            }
            if way != 0 {
                world.context.network.cut(other, one);
            }
        }
        self.due.push((self.away(world), Mend::Links));
    }
}

fn pick(world: &World, count: usize) -> usize {
    usize::try_from(world.context.env.random_below(count as u64)).unwrap_or(0)
}

fn gone(world: &World) -> Gone {
    if world.context.env.random_below(2) == 0 {
        Gone::Silent
    } else {
        Gone::Reset
    }
}
