//! What will break, and when: scenes, drawn from the seed. After each everything is made whole.
//!
//! Kinds come like cards of a shuffled deck, so that every kind comes up once before one comes up again. In some scenes a
//! second thing breaks while the first is broken. It is never more than the protocol says that data survives: a majority
//! of managers stays, except when everything is killed at once, which nothing acknowledged is lost by.

use std::{fmt, time::Duration};

use common::env::Env;

use crate::host::{CLIENTS, Host, MANAGERS};

/// Things that break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Killed, and started again.
    Kill(Victim),
    /// Hung (SIGSTOP), and let go on.
    Hang(Victim),
    /// The cable is out.
    Unplug(Victim),
    /// What it sends is lost.
    Mute(Host),
    /// What is sent to it is lost.
    Deafen(Host),
    /// The two cannot reach each other, everyone else can reach both.
    Split(Host, Host),
    /// A storage node and a client reach each other and no manager, the node no other storage node.
    LeaveBehind(Host, Host),
    /// The disk is full.
    Fill(Host),
    KillAllStorage,
    KillAll,
}

/// To whom it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Host(Host),
    /// Whoever leads the managers then.
    Leader,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Leader => f.write_str("the leading manager"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victim) => write!(f, "{victim} killed"),
            Self::Hang(victim) => write!(f, "{victim} hangs"),
            Self::Unplug(victim) => write!(f, "{victim} unplugged"),
            Self::Mute(host) => write!(f, "{host} sends in vain"),
            Self::Deafen(host) => write!(f, "{host} receives nothing"),
            Self::Split(one, other) => write!(f, "{one} and {other} cannot reach each other"),
            Self::LeaveBehind(node, client) => write!(f, "{node} and {client} are left behind"),
            Self::Fill(host) => write!(f, "the disk of {host} is full"),
            Self::KillAllStorage => f.write_str("all storage nodes killed"),
            Self::KillAll => f.write_str("all servers killed"),
        }
    }
}

/// One thing that breaks, counted from the beginning of its scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
}

/// Cards of the deck: every kind of trouble by itself.
const DECK: usize = 16;

/// Draws scenes.
pub(crate) struct Scenes {
    /// Only its chance is used.
    env: Env,
    deck: Vec<usize>,
}

impl Scenes {
    pub(crate) fn new(chance: Env) -> Self {
        Self {
            env: chance,
            deck: Vec::new(),
        }
    }

    /// The next one, in the order in which things break.
    pub(crate) fn draw(&mut self) -> Vec<Fault> {
        if self.deck.is_empty() {
            self.deck = (0..DECK).collect();
        }
        let place = self.below(self.deck.len() as u64);
        let card = self.deck.swap_remove(place);
        let storage = self.storage(None);
        let kind = self.kind(card, storage);
        let mut scene = vec![Fault {
            kind,
            at: Duration::ZERO,
            lasts: self.lasts(kind),
        }];
        let everything = matches!(kind, Kind::KillAll | Kind::KillAllStorage);
        if !everything && self.below(3) == 0 {
            let kind = self.second(kind, storage);
            scene.push(Fault {
                kind,
                at: self.between(0, 4000),
                lasts: self.lasts(kind),
            });
        }
        scene
    }

    fn kind(&self, card: usize, storage: Host) -> Kind {
        let host = Victim::Host(storage);
        match card {
            0 | 1 => Kind::Kill(host),
            2 => Kind::Hang(host),
            3 => Kind::Unplug(host),
            4 => Kind::Mute(storage),
            5 => Kind::Deafen(storage),
            6 => Kind::Split(storage, self.storage(Some(storage))),
            7 => {
                let client = 1 + self.below(u64::from(CLIENTS));
                Kind::LeaveBehind(storage, Host::Client(u8::try_from(client).unwrap_or(1)))
            }
            8 => Kind::Fill(storage),
            9 => Kind::Kill(Victim::Leader),
            10 => Kind::Hang(Victim::Leader),
            11 => Kind::Unplug(Victim::Leader),
            12 => Kind::Kill(Victim::Host(Host::Meta)),
            13 => {
                let manager = 1 + self.below(u64::from(MANAGERS));
                let manager = Host::Manager(u8::try_from(manager).unwrap_or(1));
                Kind::Kill(Victim::Host(manager))
            }
            14 => Kind::KillAllStorage,
            _ => Kind::KillAll,
        }
    }

    /// What breaks beside `first`: never a second manager, never the same node.
    fn second(&self, first: Kind, storage: Host) -> Kind {
        let other = match first {
            Kind::Split(one, other) => self.storage_except(&[one, other]),
            _ => self.storage(Some(storage)),
        };
        let manager_is_broken = matches!(
            first,
            Kind::Kill(Victim::Leader | Victim::Host(Host::Manager(_)))
                | Kind::Hang(Victim::Leader)
                | Kind::Unplug(Victim::Leader)
        );
        let other = Victim::Host(other);
        match self.below(5) {
            0 | 1 => Kind::Kill(other),
            2 => Kind::Hang(other),
            3 => Kind::Unplug(other),
            _ if manager_is_broken => Kind::Kill(other),
            _ => Kind::Kill(Victim::Leader),
        }
    }

    fn lasts(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Hang(_) => self.between(1000, 6000),
            // Some absences are so short that no lease notices.
            Kind::Kill(_) if self.below(3) == 0 => self.between(100, 1000),
            Kind::KillAll | Kind::KillAllStorage => self.between(200, 4000),
            _ => self.between(1000, 8000),
        }
    }

    fn storage(&self, except: Option<Host>) -> Host {
        self.storage_except(except.as_slice())
    }

    fn storage_except(&self, except: &[Host]) -> Host {
        let others: Vec<Host> = Host::storage()
            .filter(|host| !except.contains(host))
            .collect();
        others[self.below(others.len() as u64)]
    }

    fn between(&self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(low_ms + self.env.random_below(high_ms - low_ms))
    }

    fn below(&self, limit: u64) -> usize {
        usize::try_from(self.env.random_below(limit)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(seed: u64, count: usize) -> Vec<Vec<Fault>> {
        let mut scenes = Scenes::new(Env::seeded(seed));
        (0..count).map(|_| scenes.draw()).collect()
    }

    #[tokio::test]
    async fn a_seed_fixes_what_breaks() {
        assert_eq!(scenes(7, 50), scenes(7, 50));
        assert_ne!(scenes(7, 50), scenes(8, 50));
    }

    #[tokio::test]
    async fn every_kind_comes_up_once_in_a_deck() {
        for deck in scenes(3, 4 * DECK).chunks(DECK) {
            let count =
                |is: fn(&Kind) -> bool| deck.iter().filter(|scene| is(&scene[0].kind)).count();
            assert_eq!(count(|kind| matches!(kind, Kind::Fill(_))), 1);
            assert_eq!(count(|kind| matches!(kind, Kind::KillAll)), 1);
            assert_eq!(count(|kind| matches!(kind, Kind::Kill(_))), 5);
            assert_eq!(count(|kind| matches!(kind, Kind::Hang(_))), 2);
        }
    }

    #[tokio::test]
    async fn a_majority_of_managers_stays() {
        let is_manager = |fault: &Fault| {
            matches!(
                fault.kind,
                Kind::Kill(Victim::Leader | Victim::Host(Host::Manager(_)))
                    | Kind::Hang(Victim::Leader)
                    | Kind::Unplug(Victim::Leader)
            )
        };
        for scene in scenes(5, 500) {
            let managers = scene.iter().filter(|fault| is_manager(fault)).count();
            assert!(managers <= 1 && scene.len() <= 2, "{scene:?}");
        }
    }
}
