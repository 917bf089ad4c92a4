//! What goes wrong with a disk while its node runs.

use engine::device::faulty::{Fault, Faults};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing new fits; the log has its space.
    Full,
    /// Every read is an error.
    Unreadable,
    /// Every read returns a flipped bit.
    Rotten,
    /// Every write is an error.
    Unwritable,
    /// Every write stops after its first block.
    Short,
    /// Every sync is an error.
    Unsynced,
    /// Nothing that begins ends.
    Hung,
}

impl Trouble {
    pub(super) const ALL: [Trouble; 7] = [
        Trouble::Full,
        Trouble::Unreadable,
        Trouble::Rotten,
        Trouble::Unwritable,
        Trouble::Short,
        Trouble::Unsynced,
        Trouble::Hung,
    ];

    /// Whether the disk stays out of service until its node is started again (E10).
    pub(super) fn needs_restart(self) -> bool {
        match self {
            Trouble::Full | Trouble::Unreadable | Trouble::Rotten => false,
            Trouble::Unwritable | Trouble::Short | Trouble::Unsynced | Trouble::Hung => true,
        }
    }

    /// A disk without trouble.
    pub(super) fn none() -> Faults {
        Faults::default()
    }

    pub(super) fn faults(self) -> Faults {
        let none = Faults::default();
        match self {
            Trouble::Full => Faults {
                reserve: Fault::Error(ENOSPC),
                available_bytes: Some(0),
                spare_log: true,
                ..none
            },
            Trouble::Unreadable => Faults {
                read: Fault::Error(EIO),
                ..none
            },
            Trouble::Rotten => Faults {
                read: Fault::FlipBit,
                ..none
            },
            Trouble::Unwritable => Faults {
                write: Fault::Error(EIO),
                ..none
            },
            Trouble::Short => Faults {
                write: Fault::Short,
                ..none
            },
            Trouble::Unsynced => Faults {
                sync: Fault::Error(EIO),
                ..none
            },
            Trouble::Hung => Faults {
                read: Fault::Hang,
                write: Fault::Hang,
                sync: Fault::Hang,
                reserve: Fault::Hang,
                ..none
            },
        }
    }
}
