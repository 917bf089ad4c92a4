//! Frames off a socket. Waiting for a frame may take for ever; once it has begun, the peer must keep sending.
//!
//! How much is read ahead is the lane's choice. On the bulk lane nothing is: a header is read alone, and payload
//! goes from the socket straight to where it belongs. On the calls lane up to `AHEAD` bytes are read at once,
//! so that many small frames cost one system call; what was read ahead of a payload is copied, the rest is not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::env::Env;
use tokio::{io::AsyncReadExt, net::tcp::OwnedReadHalf};

use super::{CloseReason, TcpContext};
use crate::{
    config::NetConfig,
    frame::{HEADER_LENGTH, Header, Lane},
};

/// Bytes read at once on the calls lane: what a writer puts into one call at most when payloads have 4 KiB.
const AHEAD: usize = 64 << 10;

/// Payload that nobody waits for is read in pieces of this size.
const SKIP_PIECE: usize = 16 << 10;

pub(super) struct FrameReader {
    env: Env,
    config: Arc<NetConfig>,
    socket: OwnedReadHalf,
    /// Bytes read ahead stand in `staged[start..end]`.
    staged: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameReader {
    /// Reads nothing ahead until a lane is set: what follows a Hello may be payload.
    pub(super) fn new(context: &TcpContext, socket: OwnedReadHalf) -> Self {
        Self {
            env: context.env.clone(),
            config: context.config.clone(),
            socket,
            staged: vec![0; HEADER_LENGTH],
            start: 0,
            end: 0,
        }
    }

    pub(super) fn set_lane(&mut self, lane: Lane) {
        let capacity = match lane {
            Lane::Calls => AHEAD,
            Lane::Bulk => HEADER_LENGTH,
        };
        self.staged.resize(capacity.max(self.end), 0);
    }

    /// The next header, held against the limits.
    pub(super) async fn header(&mut self) -> Result<Header, CloseReason> {
        if self.start == self.end {
            (self.start, self.end) = (0, self.socket.read(&mut self.staged).await?);
            if self.end == 0 {
                return Err(CloseReason::PeerClosed);
            }
        }
        while self.end - self.start < HEADER_LENGTH {
            if self.staged.len() - self.start < HEADER_LENGTH {
                self.staged.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let into = &mut self.staged[self.end..];
            self.end += read(&self.env, &mut self.socket, into, self.config.stall()).await?;
        }
        let mut bytes = [0; HEADER_LENGTH];
        bytes.copy_from_slice(&self.staged[self.start..self.start + HEADER_LENGTH]);
        self.start += HEADER_LENGTH;
        let header = Header::decode(&bytes)?;
        header.check(&self.config)?;
        Ok(header)
    }

    /// `length` bytes of body and table. The caller has checked the length.
    pub(super) async fn bytes(&mut self, length: usize) -> Result<Bytes, CloseReason> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes).await?;
        Ok(bytes.into())
    }

    /// Fills `into` from the stream.
    pub(super) async fn fill(&mut self, into: &mut [u8]) -> Result<(), CloseReason> {
        let mut filled = into.len().min(self.end - self.start);
        into[..filled].copy_from_slice(&self.staged[self.start..self.start + filled]);
        self.start += filled;
        let stall = self.config.stall();
        while filled < into.len() {
            filled += read(&self.env, &mut self.socket, &mut into[filled..], stall).await?;
        }
        Ok(())
    }

    /// Reads over `length` bytes.
    pub(super) async fn skip(&mut self, mut length: u64) -> Result<(), CloseReason> {
        let mut piece = vec![0; SKIP_PIECE];
        while length > 0 {
            let now = usize::try_from(length).map_or(SKIP_PIECE, |rest| rest.min(SKIP_PIECE));
            self.fill(&mut piece[..now]).await?;
            length -= now as u64;
        }
        Ok(())
    }
}

/// Reads some bytes of a frame that has begun.
async fn read(
    env: &Env,
    socket: &mut OwnedReadHalf,
    into: &mut [u8],
    stall: Duration,
) -> Result<usize, CloseReason> {
    match env.timeout(stall, socket.read(into)).await {
        Ok(Ok(0)) => Err(CloseReason::Cut),
        Ok(Ok(count)) => Ok(count),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(CloseReason::ReadStalled {
            ms: u64::try_from(stall.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}
