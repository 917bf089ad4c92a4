//! The limits of FoundationDB. Every implementation keeps them, so that what works on one works on all.

use std::time::Duration;

/// The longest key.
pub const KEY_BYTES_MAX: usize = 10_000;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = 100_000;
/// All keys and values written and all conflict ranges of one transaction together.
pub const TRANSACTION_BYTES_MAX: usize = 10_000_000;
/// How long a transaction may live, from its first read on. Later reads and the commit say `TooOld`.
pub const TRANSACTION_AGE_MAX: Duration = Duration::from_secs(5);
/// A page of a range read ends after about this many bytes, whatever its limit of items.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
