//! The hosts of a campaign: each a network namespace with an address of its own.

use std::fmt;

/// One host. Its name is that of its namespace, its service and its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Manager(u8),
    Storage(u8),
    Meta,
    /// Where the file system is mounted.
    Mount,
    /// A process that uses chunks without a mount.
    Client(u8),
}

/// Members of the manager group.
pub(crate) const MANAGERS: u8 = 3;
/// Storage nodes: one more than a chain has replicas, so that nodes differ in the chains they serve.
pub(crate) const STORAGE: u8 = 4;
/// Clients.
pub(crate) const CLIENTS: u8 = 6;

impl Host {
    pub(crate) fn managers() -> impl Iterator<Item = Self> {
        (1..=MANAGERS).map(Self::Manager)
    }

    pub(crate) fn storage() -> impl Iterator<Item = Self> {
        (1..=STORAGE).map(Self::Storage)
    }

    /// Those that run a service: managers, metadata, storage.
    pub(crate) fn servers() -> impl Iterator<Item = Self> {
        Self::managers().chain([Self::Meta]).chain(Self::storage())
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let users = [Self::Mount]
            .into_iter()
            .chain((1..=CLIENTS).map(Self::Client));
        Self::servers().chain(users)
    }

    /// The id of its service in the cluster, with `penstock dev`'s offsets: unique over all kinds.
    pub(crate) fn node(self) -> u32 {
        match self {
            Self::Storage(number) | Self::Client(number) => u32::from(number),
            Self::Meta | Self::Mount => 101,
            Self::Manager(number) => 200 + u32::from(number),
        }
    }

    /// The last two bytes of its addresses on both layers.
    fn place(self) -> (u8, u8) {
        match self {
            Self::Manager(number) => (1, number),
            Self::Storage(number) => (2, number),
            Self::Meta => (3, 1),
            Self::Mount => (4, 1),
            Self::Client(number) => (5, number),
        }
    }

    pub(crate) fn ip(self) -> String {
        let (kind, number) = self.place();
        format!("10.77.{kind}.{number}")
    }

    pub(crate) fn mac(self) -> String {
        let (kind, number) = self.place();
        format!("02:00:00:00:{kind:02x}:{number:02x}")
    }

    /// Where its service is reached.
    pub(crate) fn address(self) -> String {
        format!("{}:7400", self.ip())
    }

    /// Where its service tells how it is.
    pub(crate) fn admin_address(self) -> String {
        format!("{}:7401", self.ip())
    }

    /// The word for its role on the command line.
    pub(crate) fn role(self) -> &'static str {
        match self {
            Self::Manager(_) => "mgmtd",
            Self::Storage(_) => "storage",
            Self::Meta => "meta",
            Self::Mount => "mount",
            Self::Client(_) => "client",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager(number) | Self::Storage(number) | Self::Client(number) => {
                write!(f, "{}-{number}", self.role())
            }
            Self::Meta => f.write_str("meta-1"),
            Self::Mount => f.write_str("mount"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_host_has_names_and_addresses_of_its_own() {
        let count = Host::all().count();
        for distinct in [Host::ip, Host::mac, |host: Host| host.to_string()] {
            let all: BTreeSet<String> = Host::all().map(distinct).collect();
            assert_eq!(all.len(), count, "{all:?}");
        }
        let nodes: BTreeSet<u32> = Host::servers().map(Host::node).collect();
        assert_eq!(nodes.len(), Host::servers().count());
    }
}
