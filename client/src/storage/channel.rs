//! Exactly-once channels (protocol W2): a channel has one update outstanding, and its sequence numbers rise by one.
//!
//! An update takes a channel, keeps its number and its content over all retries, and gives the channel back when its
//! outcome is known. A channel whose last outcome is unknown is retired: an old copy of that update may still be on
//! its way, and nothing new may be mistaken for it. Channels in use are few, because the one used last is used next.

use std::fmt;

use common::sync::Mutex;
use tokio::sync::Semaphore;
use types::{
    chunk::UpdateTag,
    id::{ChannelId, ChannelSeq, ClientId},
    status::{Status, StatusCode},
};

use crate::metrics;

/// Updates under way per client. A server remembers the last result of each channel, so this bounds its memory.
pub(crate) const CHANNELS_MAX: usize = 1024;

/// The channels of a client.
pub(crate) struct ChannelPool {
    /// One permit per channel that may be in use.
    permits: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Used last, taken first.
    channels: Vec<Channel>,
    /// The first id that was never used; `None` when all were.
    fresh: Option<u16>,
}

/// A lane and the number of its next update.
#[derive(Debug)]
struct Channel {
    id: ChannelId,
    next: ChannelSeq,
}

impl Default for ChannelPool {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(CHANNELS_MAX),
            idle: Mutex::new(Idle {
                channels: Vec::new(),
                fresh: Some(0),
            }),
        }
    }
}

impl fmt::Debug for ChannelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_use = CHANNELS_MAX - self.permits.available_permits();
        write!(f, "ChannelPool({in_use} in use)")
    }
}

impl ChannelPool {
    /// Takes a channel for one update; waits while all are in use.
    ///
    /// # Errors
    /// When every id there is was retired: the client must be started anew.
    pub(crate) async fn take(&self) -> Result<ChannelLease<'_>, Status> {
        let mut leases = self.take_many(1).await?;
        leases.pop().ok_or_else(used_up)
    }

    /// Takes channels for so many updates, all at once: of two that each held some and waited for more, none would
    /// ever go on. At most `CHANNELS_MAX`.
    ///
    /// # Errors
    /// As `take`.
    pub(crate) async fn take_many(&self, count: usize) -> Result<Vec<ChannelLease<'_>>, Status> {
        let wanted = u32::try_from(count.min(CHANNELS_MAX)).unwrap_or(u32::MAX);
        // The semaphore is never closed; if it were, the leases would just not be counted.
        let mut permits = self.permits.acquire_many(wanted).await.ok();
        let mut idle = self.idle.lock();
        let leases = (0..wanted).map(|_| {
            let channel = match idle.channels.pop() {
                Some(channel) => channel,
                None => idle.make()?,
            };
            Ok(ChannelLease {
                pool: self,
                channel: Some(channel),
                _permit: permits.as_mut().and_then(|permits| permits.split(1)),
            })
        });
        leases.collect()
    }
}

fn used_up() -> Status {
    Status::new(
        StatusCode::Internal,
        "every exactly-once channel of this client was retired",
    )
}

impl Idle {
    fn make(&mut self) -> Result<Channel, Status> {
        let id = self.fresh.ok_or_else(used_up)?;
        self.fresh = id.checked_add(1);
        Ok(Channel {
            id: ChannelId(id),
            next: ChannelSeq(1),
        })
    }
}

/// A channel held for one update. Dropping it without `finish` retires the channel.
pub(crate) struct ChannelLease<'a> {
    pool: &'a ChannelPool,
    channel: Option<Channel>,
    _permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl ChannelLease<'_> {
    /// What the update is sent under, the same in every retry.
    pub(crate) fn tag(&self, client: ClientId) -> UpdateTag {
        let channel = self
            .channel
            .as_ref()
            .expect("taken only by finish and drop");
        UpdateTag {
            client,
            channel: channel.id,
            seq: channel.next,
        }
    }

    /// Gives the channel back: the update's outcome is known.
    pub(crate) fn finish(mut self) {
        if let Some(mut channel) = self.channel.take() {
            channel.next = ChannelSeq(channel.next.0 + 1);
            self.pool.idle.lock().channels.push(channel);
        }
    }
}

impl Drop for ChannelLease<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            metrics::retired_channel();
            tracing::debug!(
                channel = channel.id.0,
                "retired: the outcome of its update is unknown"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientId = ClientId(9);

    async fn flat(pool: &ChannelPool) -> (ChannelLease<'_>, (u16, u64)) {
        let lease = pool.take().await.unwrap();
        let tag = lease.tag(CLIENT);
        (lease, (tag.channel.0, tag.seq.0))
    }

    #[tokio::test]
    async fn numbers_of_a_channel_rise_by_one_with_each_finished_update() {
        let pool = ChannelPool::default();
        for seq in 1..5 {
            let (lease, tag) = flat(&pool).await;
            assert_eq!(tag, (0, seq));
            assert_eq!(lease.tag(CLIENT), lease.tag(CLIENT));
            lease.finish();
        }
    }

    #[tokio::test]
    async fn a_channel_is_never_held_twice() {
        let pool = ChannelPool::default();
        let (first, a) = flat(&pool).await;
        let (second, b) = flat(&pool).await;
        assert_eq!((a, b), ((0, 1), (1, 1)));
        first.finish();
        second.finish();
    }

    #[tokio::test]
    async fn a_channel_with_an_unknown_outcome_is_never_used_again() {
        let pool = ChannelPool::default();
        let (lease, tag) = flat(&pool).await;
        assert_eq!(tag, (0, 1));
        drop(lease);
        let (lease, tag) = flat(&pool).await;
        assert_eq!(tag, (1, 1));
        lease.finish();
        assert_eq!(pool.permits.available_permits(), CHANNELS_MAX);
    }

    #[tokio::test]
    async fn updates_beyond_the_bound_wait_for_a_channel() {
        let pool = ChannelPool::default();
        let mut leases = Vec::new();
        for _ in 0..CHANNELS_MAX {
            leases.push(pool.take().await.unwrap());
        }
        let waiting = futures::FutureExt::now_or_never(pool.take());
        assert!(waiting.is_none());
        leases.pop().unwrap().finish();
        let (_, tag) = flat(&pool).await;
        assert_eq!(tag, (u16::try_from(CHANNELS_MAX - 1).unwrap(), 2));
    }

    /// Each of two takes more than half: had they taken them one by one, both would wait for ever.
    #[tokio::test]
    async fn channels_of_a_batch_are_taken_at_once() {
        let pool = ChannelPool::default();
        let most = CHANNELS_MAX * 3 / 4;
        let first = pool.take_many(most).await.unwrap();
        let tags: std::collections::BTreeSet<u16> = first
            .iter()
            .map(|lease| lease.tag(CLIENT).channel.0)
            .collect();
        assert_eq!(tags.len(), most);
        let mut second = Box::pin(pool.take_many(most));
        assert!(futures::poll!(&mut second).is_pending());
        for lease in first {
            lease.finish();
        }
        assert_eq!(second.await.unwrap().len(), most);
        assert_eq!(pool.permits.available_permits(), CHANNELS_MAX);
    }

    #[tokio::test]
    async fn running_out_of_ids_is_an_error_and_not_a_reuse() {
        let pool = ChannelPool::default();
        pool.idle.lock().fresh = Some(u16::MAX);
        drop(pool.take().await.unwrap());
        assert!(pool.take().await.is_err());
    }
}
