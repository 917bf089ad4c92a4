//! The transport on TCP. The one-sided bulk model is emulated by framing: a request brings its sources' bytes along,
//! a push is a frame of its own whose payload is read from the socket straight into the caller's buffer.
//!
//! | file | what |
//! | --- | --- |
//! | `link` | one connection: the queue of frames to write, the writer task, the end of it all |
//! | `reader` | frames off a socket, bounded in size and time |
//! | `client` | calls waiting for replies, destinations |
//! | `server` | listening, handshake, admission of requests |
//!
//! Kernel buffers are left to autotuning: setting them would cap them at `net.core.{r,w}mem_max`, which is less.
//! Keepalive and the user timeout find a peer whose machine is gone, without a timer of ours.

use std::{io, sync::Arc, time::Duration};

use common::env::Env;
use tokio::net::TcpStream;

use crate::{config::NetConfig, frame::FrameError, metrics};

mod client;
mod link;
mod reader;
mod server;

pub(crate) use client::connect;
pub(crate) use server::listen;

/// A silent machine is asked for a sign of life after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// How often it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How many questions stay unanswered before the connection breaks.
const KEEPALIVE_COUNT: u32 = 5;
/// What every part of the transport needs.
#[derive(Clone)]
pub(crate) struct TcpContext {
    pub(crate) env: Env,
    pub(crate) config: Arc<NetConfig>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    #[error("the peer closed the connection")]
    PeerClosed,
    #[error("the peer closed the connection in the middle of a frame")]
    Cut,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer said no Hello within {ms} ms")]
    Handshake { ms: u64 },
    #[error("the peer sent nothing in the middle of a frame for {ms} ms")]
    ReadStalled { ms: u64 },
    #[error("the peer read nothing for {ms} ms")]
    WriteStalled { ms: u64 },
    #[error(
        "the peer speaks protocol versions {min} to {max}, this release {} to {}",
        crate::frame::VERSION_MIN,
        crate::frame::VERSION_MAX
    )]
    Version { min: u16, max: u16 },
    #[error("the peer refused: {reason}")]
    Refused { reason: String },
    #[error("closed on this side")]
    Local,
}

impl CloseReason {
    /// The reason in metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Cut => "cut",
            Self::Frame(_) => "malformed",
            Self::Io(_) => "io",
            Self::Handshake { .. } => "handshake_timeout",
            Self::ReadStalled { .. } => "read_stalled",
            Self::WriteStalled { .. } => "write_stalled",
            Self::Version { .. } => "version",
            Self::Refused { .. } => "refused",
            Self::Local => "local",
        }
    }

    /// Whether an operator should hear of it.
    fn is_suspicious(&self) -> bool {
        match self {
            Self::PeerClosed | Self::Local | Self::Refused { .. } | Self::Io(_) => false,
            Self::Cut
            | Self::Frame(_)
            | Self::Handshake { .. }
            | Self::ReadStalled { .. }
            | Self::WriteStalled { .. }
            | Self::Version { .. } => true,
        }
    }
}

/// Counts and logs the end of a connection.
fn record_close(env: &Env, peer: &str, reason: &CloseReason) {
    metrics::closed(reason.label());
    if !reason.is_suspicious() {
        tracing::debug!(peer, %reason, "connection closed");
    } else if let Some(suppressed) = link::admit_log_line(env) {
        tracing::warn!(peer, %reason, suppressed, "connection closed");
    }
}

/// Small frames leave at once; dead machines are found out.
fn prepare_socket(context: &TcpContext, stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    // A peer that takes nothing for now (its server is at a bound) counts as silent here as well, so this must not
    // be shorter than what is granted to it.
    let stall = u32::try_from(context.config.stall_ms_max).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, stall)?;
    Ok(())
}

#[cfg(test)]
mod tests;
