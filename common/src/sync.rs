//! The locks everyone uses. They never poison: a panic stops the process or its task, and the state
//! that a panicking holder left behind is checked by the `check()` of its owner, not by the lock.

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
