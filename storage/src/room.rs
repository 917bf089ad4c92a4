//! Room for changes that wait for someone behind them in the chain.
//!
//! A change holds memory (and a place on a connection) here until the next replica has answered. Chains go in
//! all directions, so nodes full of waiting changes could wait for each other in a circle. What prevents it:
//! changes are classed by how many replicas are behind this one, each class has room of its own, and all of
//! it together is less than what the network layer grants. A change for which its class has no room is
//! refused at once and comes again. A tail waits for nobody and always goes on; so then does the class
//! before it, and so on up to the heads.

use common::sync::Mutex;
use types::status::{Status, StatusCode};

/// Classes: one replica behind, two, three and more.
const CLASSES: usize = 3;
/// Payload that one class holds; one change is always let in.
const CLASS_BYTES_MAX: usize = 128 << 20;
/// Changes that one class holds. Below a third of what a connection carries at once.
const CLASS_CHANGES_MAX: usize = 320;
/// What the network layer must grant: all classes, and as much again for tails.
pub(crate) const SERVER_BYTES: usize = (CLASSES + 1) * CLASS_BYTES_MAX;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Room {
    classes: Mutex<[Held; CLASSES]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    changes: usize,
    bytes: usize,
}

/// A place in a class; `None` inside for a tail.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    room: &'a Room,
    class: Option<usize>,
    bytes: usize,
}

impl Room {
    /// Takes room for a change of `bytes` that `behind` replicas have to make after this one.
    ///
    /// # Errors
    /// Overloaded: nothing was done.
    pub(crate) fn take(&self, behind: usize, bytes: usize) -> Result<Place<'_>, Status> {
        let class = behind.checked_sub(1).map(|class| class.min(CLASSES - 1));
        if let Some(class) = class {
            let held = &mut self.classes.lock()[class];
            let fits = held.changes < CLASS_CHANGES_MAX && held.bytes + bytes <= CLASS_BYTES_MAX;
            if held.changes > 0 && !fits {
                let why = format!("{} changes wait for the next replica", held.changes);
                return Err(Status::new(StatusCode::Overloaded, why));
            }
            held.changes += 1;
            held.bytes += bytes;
        }
        Ok(Place {
            room: self,
            class,
            bytes,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(class) = self.class {
            let held = &mut self.room.classes.lock()[class];
            held.changes -= 1;
            held.bytes -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_class_refuses_and_the_others_do_not() {
        let room = Room::default();
        let places: Vec<_> = (0..CLASS_CHANGES_MAX)
            .map(|_| room.take(1, 1).unwrap())
            .collect();
        assert_eq!(room.take(1, 1).unwrap_err().code, StatusCode::Overloaded);
        assert!(room.take(2, 1).is_ok() && room.take(0, 1).is_ok());
        drop(places);
        let _big = room.take(1, CLASS_BYTES_MAX).unwrap();
        assert!(room.take(1, 1).is_err());
        assert!(room.take(0, CLASS_BYTES_MAX).is_ok());
    }

    #[test]
    fn one_change_is_always_let_in() {
        let room = Room::default();
        let huge = room.take(9, CLASS_BYTES_MAX * 2).unwrap();
        assert!(room.take(3, 0).is_err());
        drop(huge);
        assert!(room.take(3, 0).is_ok());
    }
}
