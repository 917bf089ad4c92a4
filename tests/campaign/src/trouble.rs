//! Breaks and mends what a scene says, and tells the ground.

use common::env::Instant;
use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    ground::Ground,
    host::Host,
    scene::{Fault, Kind, Victim},
};

/// A fault that is on.
struct Broken {
    number: u32,
    kind: Kind,
    /// In place of the leader.
    host: Host,
    until: Instant,
}

/// Counts faults over all scenes.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) count: u32,
}

impl Trouble {
    /// Plays a scene to its end. What was killed is started again by then, what was cut is whole.
    ///
    /// # Errors
    /// When something cannot be broken or mended: that is this program's or the system's fault.
    pub(crate) async fn play(
        &mut self,
        cluster: &mut Cluster,
        ground: &Ground,
        scene: &[Fault],
    ) -> Result<(), String> {
        let env = cluster.env.clone();
        let begun = env.now();
        let mut broken: Vec<Broken> = Vec::new();
        let mut faults = scene.iter().peekable();
        loop {
            let next = faults.peek().map(|fault| begun + fault.at);
            let due = broken.iter().map(|fault| fault.until).min();
            let Some(at) = next.into_iter().chain(due).min() else {
                return Ok(());
            };
            env.sleep_until(at).await;
            let (over, on) = broken.into_iter().partition(|fault| fault.until <= at);
            broken = on;
            let over: Vec<Broken> = over;
            for fault in over {
                mend(cluster, ground, &fault)?;
            }
            if let Some(fault) = faults.next_if(|fault| begun + fault.at <= at) {
                broken.push(self.start(cluster, ground, fault).await?);
            }
        }
    }

    async fn start(
        &mut self,
        cluster: &mut Cluster,
        ground: &Ground,
        fault: &Fault,
    ) -> Result<Broken, String> {
        self.count += 1;
        let host = match fault.kind {
            Kind::Kill(victim) | Kind::Hang(victim) | Kind::Unplug(victim) => match victim {
                Victim::Host(host) => host,
                Victim::Leader => cluster.leader().await?,
            },
            Kind::Mute(host) | Kind::Deafen(host) | Kind::Fill(host) => host,
            Kind::Split(host, _) | Kind::LeaveBehind(host, _) => host,
            // Everyone; who is not used.
            Kind::KillAllStorage | Kind::KillAll => Host::Meta,
        };
        let text = match fault.kind {
            Kind::Kill(_) => Kind::Kill(Victim::Host(host)).to_string(),
            Kind::Hang(_) => Kind::Hang(Victim::Host(host)).to_string(),
            Kind::Unplug(_) => Kind::Unplug(Victim::Host(host)).to_string(),
            kind => kind.to_string(),
        };
        let leads = matches!(
            fault.kind,
            Kind::Kill(Victim::Leader) | Kind::Hang(Victim::Leader) | Kind::Unplug(Victim::Leader)
        );
        let text = if leads {
            format!("{text}, the leader")
        } else {
            text
        };
        ground.say(format_args!(
            "{text}, for {:.1} s",
            fault.lasts.as_secs_f64()
        ));
        if matches!(fault.kind, Kind::Split(..)) {
            ground.set_split(true);
        }
        // Known before it happens, so that nobody is said to be there who is not.
        ground.broke(self.count, &text, not_counted_on(fault.kind, host));
        break_it(cluster, ground, fault.kind, host)?;
        Ok(Broken {
            number: self.count,
            kind: fault.kind,
            host,
            until: cluster.env.now() + fault.lasts,
        })
    }
}

/// Whom nobody can rely on while this is broken. Who is only full is there for reads, and refuses writes.
fn not_counted_on(kind: Kind, host: Host) -> Vec<Host> {
    match kind {
        Kind::Kill(_) | Kind::Hang(_) | Kind::Unplug(_) | Kind::Mute(_) | Kind::Deafen(_) => {
            vec![host]
        }
        Kind::Fill(_) => vec![host],
        Kind::Split(one, other) | Kind::LeaveBehind(one, other) => vec![one, other],
        Kind::KillAllStorage => Host::storage().collect(),
        Kind::KillAll => Host::servers().collect(),
    }
}

fn victims(kind: Kind, host: Host) -> Vec<Host> {
    match kind {
        Kind::KillAllStorage => Host::storage().collect(),
        Kind::KillAll => Host::servers().collect(),
        _ => vec![host],
    }
}

fn break_it(cluster: &mut Cluster, ground: &Ground, kind: Kind, host: Host) -> Result<(), String> {
    match kind {
        Kind::Kill(_) | Kind::KillAllStorage | Kind::KillAll => {
            let victims = victims(kind, host);
            // All at the same moment; then their ends are waited for.
            for victim in &victims {
                cluster.service(*victim)?.signal(Signal::KILL)?;
            }
            for victim in victims {
                cluster.service(victim)?.kill()?;
            }
            Ok(())
        }
        Kind::Hang(_) => cluster.service(host)?.signal(Signal::STOP),
        Kind::Unplug(_) => cluster.network.unplug(host),
        Kind::Fill(_) => {
            let disk = cluster.disks.get(&host);
            let disk = disk.ok_or_else(|| format!("{host} has no disk"))?;
            let taken = disk.fill()?;
            cluster.filled.insert(host);
            ground.say(format_args!("the last {} MiB are taken", taken >> 20));
            Ok(())
        }
        Kind::Mute(_) | Kind::Deafen(_) | Kind::Split(..) | Kind::LeaveBehind(..) => {
            for (from, to) in links(kind) {
                cluster.network.cut(from, &to)?;
            }
            Ok(())
        }
    }
}

fn mend(cluster: &mut Cluster, ground: &Ground, fault: &Broken) -> Result<(), String> {
    let (kind, host) = (fault.kind, fault.host);
    let text = match kind {
        Kind::Kill(_) => format!("{host} started again"),
        Kind::KillAllStorage | Kind::KillAll => "all started again".to_owned(),
        Kind::Hang(_) => format!("{host} goes on"),
        Kind::Unplug(_) => format!("{host} plugged in"),
        Kind::Fill(_) => format!("the disk of {host} has space again"),
        _ => format!("no more: {kind}"),
    };
    match kind {
        Kind::Kill(_) | Kind::KillAllStorage | Kind::KillAll => {
            for victim in victims(kind, host) {
                cluster.service(victim)?.start()?;
            }
        }
        Kind::Hang(_) => cluster.service(host)?.signal(Signal::CONT)?,
        Kind::Unplug(_) => cluster.network.plug(host)?,
        Kind::Fill(_) => {
            if let Some(disk) = cluster.disks.get(&host) {
                disk.free()?;
            }
        }
        Kind::Mute(_) | Kind::Deafen(_) | Kind::Split(..) | Kind::LeaveBehind(..) => {
            for (from, to) in links(kind) {
                cluster.network.join(from, &to)?;
            }
        }
    }
    ground.say(format_args!("{text}"));
    if matches!(kind, Kind::Split(..)) {
        ground.set_split(false);
    }
    ground.mended(fault.number, &text);
    Ok(())
}

/// The directions that a fault of the network cuts.
fn links(kind: Kind) -> Vec<(Host, Vec<Host>)> {
    let everyone_but = |host: Host| Host::all().filter(move |other| *other != host);
    let both = |one: Host, others: Vec<Host>| {
        let back = others
            .clone()
            .into_iter()
            .map(move |other| (other, vec![one]));
        back.chain([(one, others)])
    };
    match kind {
        Kind::Mute(host) => vec![(host, everyone_but(host).collect())],
        Kind::Deafen(host) => everyone_but(host)
            .map(|other| (other, vec![host]))
            .collect(),
        Kind::Split(one, other) => both(one, vec![other]).collect(),
        Kind::LeaveBehind(node, client) => {
            let neighbours = Host::storage().filter(|other| *other != node);
            let cut = Host::managers().chain(neighbours).collect();
            both(node, cut)
                .chain(both(client, Host::managers().collect()))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_go_in_the_directions_that_are_meant() {
        let (node, other, client) = (Host::Storage(1), Host::Storage(2), Host::Client(3));
        assert_eq!(links(Kind::Mute(node)).len(), 1);
        assert!(
            links(Kind::Deafen(node))
                .iter()
                .all(|(_, to)| *to == [node])
        );
        let split = links(Kind::Split(node, other));
        assert!(split.contains(&(node, vec![other])) && split.contains(&(other, vec![node])));
        let behind = links(Kind::LeaveBehind(node, client));
        let reach =
            |from: Host, to: Host| !behind.iter().any(|(f, t)| *f == from && t.contains(&to));
        assert!(reach(node, client) && reach(client, node) && reach(client, other));
        for manager in Host::managers() {
            assert!(!reach(node, manager) && !reach(manager, client));
        }
    }
}
