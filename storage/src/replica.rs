//! The decisions of a replica: pure functions of the chain, what is known about the chunk, and the request.
//! No I/O, no clock, no lock. The drivers (`write`, `follow`, `read`, `resync`) ask here and then act.
//!
//! | question | asked by | answered in |
//! | --- | --- | --- |
//! | may this target do that now? | every handler | `role` |
//! | has this update been seen before? | head | `dedup` |
//! | what to do at an update's turn? | head | `update` |
//! | what to do with a predecessor's change? | successor | `forward` |
//! | do two replicas hold the same? | predecessor | `commit` |
//! | which version may be read? | reader's target | `read` |
//! | what does a syncing successor lack? | predecessor | `sync` |

pub(crate) mod commit;
pub(crate) mod dedup;
pub(crate) mod forward;
pub(crate) mod read;
pub(crate) mod role;
pub(crate) mod sync;
pub(crate) mod update;
