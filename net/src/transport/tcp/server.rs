//! The serving side of tcp: listening, the handshake, the admission of requests.
//!
//! Admission bounds what a peer can make a server hold: requests on its connection, payload over all connections.
//! A connection at its bound is not read any further. Payload memory is waited for only a short while
//! (`admission_ms_max`); then the request's payload is read over and it is answered Overloaded. Without that, servers
//! that forward to each other could wait for each other's memory until their deadlines.
//!
//! Shutdown: 1. the port is closed; 2. every peer is told Goodbye and not read any more; 3. requests under way are
//! answered, for at most `drain_ms_max`; 4. connections close.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    buf::{BUF_ALIGN, BufPool, SharedBuf},
    env::Task,
    shutdown::{Shutdown, ShutdownSignal},
    sync::Mutex,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use types::{
    codec,
    status::{Status, StatusCode},
};

use super::{
    CloseReason, TcpContext,
    client::hello_frame,
    link::{self, Link, OutFrame},
    prepare_socket,
    reader::FrameReader,
    record_close,
};
use crate::{
    buf::RemoteBuf,
    config::NetConfig,
    endpoint::{ServeError, Server},
    frame::{self, BulkTable, FLAG_FAILED, FrameError, GOODBYE_BYTES_MAX, Header, Hello, Kind},
    metrics,
    rpc::server::Dispatch,
    transport::{Arrived, BulkAccess, ReplyTo, check_reply, unreachable},
};

/// Payload memory is counted in units of this many bytes.
const PAYLOAD_UNIT: u64 = 1024;

/// Requests up to this size need no payload memory.
const SMALL_REQUEST: u64 = 64 << 10;

/// The pause after a failed accept (out of descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens at `host:port`.
///
/// # Errors
/// See `ServeError`.
pub(crate) async fn listen(
    context: TcpContext,
    host: &str,
    buffers: BufPool,
    dispatch: Dispatch,
    shutdown: ShutdownSignal,
) -> Result<Server, ServeError> {
    let address = host.to_owned();
    let listener = TcpListener::bind(host).await;
    let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = match bound {
        Ok((local, listener)) => (local.to_string(), listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(ServeError::AddressInUse { address });
        }
        Err(source) => return Err(ServeError::Listen { address, source }),
    };
    let kill = Shutdown::new();
    let config = &context.config;
    let server = Arc::new(TcpServer {
        payload_room: Arc::new(Semaphore::new(
            payload_units(config.server_payload_bytes_max.into()) as usize,
        )),
        buffers,
        dispatch,
        connections: Mutex::default(),
        next_connection: AtomicU64::new(0),
        context: context.clone(),
    });
    let keep = kill.clone();
    let task = context.env.spawn("tcp-server", async move {
        // The signal fires when its last sender is gone, and a `Server` may be dropped.
        let killed = keep.signal();
        accept_until(&server, listener, shutdown, killed.clone()).await;
        server.stop(killed).await;
    });
    Ok(Server::new(address, kill, task))
}

fn payload_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAYLOAD_UNIT)).unwrap_or(u32::MAX)
}

struct TcpServer {
    context: TcpContext,
    buffers: BufPool,
    dispatch: Dispatch,
    payload_room: Arc<Semaphore>,
    connections: Mutex<BTreeMap<u64, Entry>>,
    next_connection: AtomicU64,
}

/// A connection, from its first byte on.
struct Entry {
    task: Task<()>,
    /// Set when the handshake is done.
    peer: Option<Arc<Peer>>,
}

/// A connection after its handshake.
struct Peer {
    link: Link,
    outstanding: Arc<Semaphore>,
}

async fn accept_until(
    server: &Arc<TcpServer>,
    listener: TcpListener,
    mut shutdown: ShutdownSignal,
    mut killed: ShutdownSignal,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
            () = killed.wait() => return,
        };
        match accepted {
            Ok((stream, peer)) => server.start(stream, peer.to_string().into()),
            Err(error) => {
                if link::admit_log_line(&server.context.env).is_some() {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                server.context.env.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl TcpServer {
    /// Takes a connection in, unless there are too many.
    fn start(self: &Arc<Self>, stream: TcpStream, peer: Arc<str>) {
        let mut connections = self.connections.lock();
        let max = self.context.config.connections_max;
        if connections.len() >= max as usize {
            let reason = FrameError::TooLarge {
                what: "a number of connections",
                found: u64::from(max) + 1,
                max: u64::from(max),
            };
            record_close(&self.context.env, &peer, &reason.into());
            return;
        }
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let server = self.clone();
        metrics::connection_opened();
        let task = self.context.env.spawn("tcp-server-connection", async move {
            let open = Open(server, id);
            open.0.run(id, stream, peer).await;
        });
        connections.insert(id, Entry { task, peer: None });
    }

    /// A connection from handshake to end.
    async fn run(self: &Arc<Self>, id: u64, stream: TcpStream, peer: Arc<str>) {
        let (read_half, mut write_half) = stream.into_split();
        let mut reader = FrameReader::new(&self.context, read_half);
        let ms = self.context.config.handshake_ms_max;
        let greeting = self.greet(&mut reader, &mut write_half);
        let limit = Duration::from_millis(ms);
        let greeted = match self.context.env.timeout(limit, greeting).await {
            Ok(greeted) => greeted,
            Err(_) => Err(CloseReason::Handshake { ms }),
        };
        let hello = match greeted {
            Ok(hello) => hello,
            Err(reason) => {
                record_close(&self.context.env, &peer, &reason);
                return;
            }
        };
        reader.set_lane(hello.lane);
        let (link, frames) = Link::new(&self.context, peer);
        let outstanding = self.context.config.outstanding_max as usize;
        let peer = Arc::new(Peer {
            link,
            outstanding: Arc::new(Semaphore::new(outstanding)),
        });
        let (server, writing) = (self.clone(), peer.clone());
        let (env, stall) = (self.context.env.clone(), self.context.config.stall());
        peer.link
            .adopt(self.context.env.spawn("tcp-server-writer", async move {
                let reason = link::write_frames(&env, write_half, frames, stall).await;
                writing.link.close(&reason);
                server.end_reader(id);
            }));
        if let Some(entry) = self.connections.lock().get_mut(&id) {
            entry.peer = Some(peer.clone());
        }
        let reason = self.read_requests(&peer, &mut reader).await;
        peer.link.close(&reason);
    }

    /// Ends the task that reads a connection.
    fn end_reader(&self, id: u64) {
        if let Some(entry) = self.connections.lock().get(&id) {
            entry.task.abort();
        }
    }

    /// Hears a Hello and answers with the version to use.
    async fn greet(
        &self,
        reader: &mut FrameReader,
        socket: &mut OwnedWriteHalf,
    ) -> Result<Hello, CloseReason> {
        prepare_socket(&self.context, socket.as_ref())?;
        let header = reader.header().await?;
        if header.kind != Kind::Hello {
            let what = "the first frame is no Hello";
            return Err(FrameError::Inconsistent { what }.into());
        }
        let body = reader.bytes(header.body_and_table_length()).await?;
        if frame::body_checksum(&body) != header.body_checksum {
            return Err(FrameError::BodyChecksum.into());
        }
        let hello = Hello::decode(&body)?;
        let Some(version) = hello.agree() else {
            let (min, max) = (hello.version_min, hello.version_max);
            let text = format!(
                "this server speaks protocol versions {} to {}, the client {min} to {max}",
                frame::VERSION_MIN,
                frame::VERSION_MAX
            );
            let (header, body) = goodbye(&text);
            socket
                .write_all(&[&header.encode(), &body[..]].concat())
                .await?;
            return Err(CloseReason::Version { min, max });
        };
        let answer = Hello {
            version_min: version,
            version_max: version,
            lane: hello.lane,
            outstanding_max: self.context.config.outstanding_max,
        };
        socket.write_all(&hello_frame(&answer)).await?;
        Ok(hello)
    }

    async fn read_requests(&self, peer: &Arc<Peer>, reader: &mut FrameReader) -> CloseReason {
        loop {
            if let Err(reason) = self.read_request(peer, reader).await {
                return reason;
            }
        }
    }

    async fn read_request(
        &self,
        peer: &Arc<Peer>,
        reader: &mut FrameReader,
    ) -> Result<(), CloseReason> {
        let header = reader.header().await?;
        if header.kind != Kind::Request {
            let what = "a frame that only servers send";
            return Err(FrameError::Inconsistent { what }.into());
        }
        let arrived = self.context.env.now();
        let deadline = arrived + Duration::from_millis(header.deadline_ms.into());
        let outstanding = peer.outstanding.clone().acquire_owned().await;
        let reply_to = Box::new(TcpReply {
            peer: peer.clone(),
            config: self.context.config.clone(),
            request_id: header.request_id,
            _outstanding: outstanding.map_err(|_| CloseReason::Local)?,
        });
        let Some(room) = self.admit(&header).await else {
            let body_and_table = header.body_and_table_length() as u64;
            reader.skip(body_and_table + header.payload_length).await?;
            let message = "too much payload is under way in this server";
            let status = Status::new(StatusCode::Overloaded, message);
            reply_to.send(Err(status)).await;
            return Ok(());
        };
        let bytes = reader.bytes(header.body_and_table_length()).await?;
        let (body, table) = BulkTable::split(&header, bytes)?;
        let mut sources = Vec::with_capacity(table.sources.len());
        for source in table.sources {
            let mut buf = self.buffers.allocate(source.length() as usize);
            reader.fill(&mut buf).await?;
            sources.push(buf.freeze());
        }
        let bulk = TcpBulk {
            peer: peer.clone(),
            config: self.context.config.clone(),
            request_id: header.request_id,
            sources,
            destinations: table.destinations,
        };
        self.dispatch.accept(Arrived {
            service: header.service,
            method: header.method,
            method_version: header.method_version,
            deadline,
            peer: peer.link.peer.clone(),
            body,
            bulk: Box::new(bulk),
            reply_to,
            admission: Box::new(room),
        });
        Ok(())
    }

    /// Room for what a request brings along; `None` when there is none for too long. Small requests need none:
    /// their number is bounded, and they must not wait behind payload.
    async fn admit(&self, header: &Header) -> Option<Option<OwnedSemaphorePermit>> {
        let buffers = u64::from(header.source_count) * BUF_ALIGN as u64;
        let body_and_table = header.body_and_table_length() as u64;
        let bytes = body_and_table + header.payload_length.max(buffers);
        if bytes <= SMALL_REQUEST {
            return Some(None);
        }
        let max = u64::from(self.context.config.server_payload_bytes_max);
        let units = payload_units(bytes.min(max));
        let room = self.payload_room.clone().acquire_many_owned(units);
        let limit = Duration::from_millis(self.context.config.admission_ms_max);
        match self.context.env.timeout(limit, room).await {
            Ok(Ok(room)) => Some(Some(room)),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Ends every connection, in order (see the module's text) or, when killed, at once.
    async fn stop(&self, mut killed: ShutdownSignal) {
        let peers: Vec<Arc<Peer>> = {
            let connections = self.connections.lock();
            for entry in connections.values() {
                entry.task.abort();
            }
            connections
                .values()
                .filter_map(|entry| entry.peer.clone())
                .collect()
        };
        if !killed.is_triggered() {
            for peer in &peers {
                let (header, body) = goodbye("the server is stopping");
                peer.link.try_send(OutFrame::new(&header, body, Vec::new()));
            }
            let limit = Duration::from_millis(self.context.config.drain_ms_max);
            let drained = futures::future::join_all(peers.iter().map(|peer| self.drain(peer)));
            tokio::select! {
                done = self.context.env.timeout(limit, drained) => {
                    if done.is_err() {
                        tracing::warn!("requests under way did not end before the server stopped");
                    }
                }
                () = killed.wait() => {}
            }
        }
        for peer in &peers {
            peer.link.close(&CloseReason::Local);
        }
    }

    /// Waits until every request of a connection is answered and the answers are with the kernel.
    async fn drain(&self, peer: &Peer) {
        let all = peer
            .outstanding
            .acquire_many(self.context.config.outstanding_max)
            .await;
        let (written, receiver) = oneshot::channel();
        let (header, body) = goodbye("the server has stopped");
        let frame = OutFrame::new(&header, body, Vec::new()).on_written(written);
        if all.is_ok() && peer.link.send(frame).await.is_ok() {
            // An error means that the writer is gone: nothing is left to wait for.
            let _gone = receiver.await.is_err();
        }
    }
}

/// Takes a connection off the list when its task ends, also when it is aborted.
struct Open(Arc<TcpServer>, u64);

impl Drop for Open {
    fn drop(&mut self) {
        metrics::connection_closed();
        self.0.connections.lock().remove(&self.1);
    }
}

pub(super) fn goodbye(reason: &str) -> (Header, Bytes) {
    let body = Bytes::copy_from_slice(&reason.as_bytes()[..reason.len().min(GOODBYE_BYTES_MAX)]);
    let mut header = Header::new(Kind::Goodbye);
    header.body_length = u32::try_from(body.len()).unwrap_or(0);
    header.body_checksum = frame::body_checksum(&body);
    (header, body)
}

struct TcpBulk {
    peer: Arc<Peer>,
    config: Arc<NetConfig>,
    request_id: u64,
    sources: Vec<SharedBuf>,
    destinations: Vec<RemoteBuf>,
}

#[async_trait]
impl BulkAccess for TcpBulk {
    fn source_length(&self, index: usize) -> Option<usize> {
        self.sources.get(index).map(|source| source.len())
    }

    fn destination_length(&self, index: usize) -> Option<usize> {
        self.destinations
            .get(index)
            .map(|buf| buf.length() as usize)
    }

    async fn pull(&self, index: usize) -> Result<SharedBuf, Status> {
        Ok(self.sources[index].clone())
    }

    async fn push(&self, index: usize, offset: usize, data: SharedBuf) -> Result<(), Status> {
        let mut header = Header::new(Kind::Push);
        header.request_id = self.request_id;
        // The key of a destination is its position.
        header.bulk_index = u16::try_from(index).unwrap_or(u16::MAX);
        header.bulk_offset = offset as u64;
        header.payload_length = data.len() as u64;
        header.check(&self.config).map_err(|error| {
            let message = format!("push to {}: {error}", self.peer.link.peer);
            Status::new(StatusCode::InvalidArgument, message)
        })?;
        let frame = OutFrame::new(&header, Bytes::new(), vec![data]);
        let sent = self.peer.link.send(frame).await;
        sent.map_err(|link::Closed(reason)| {
            unreachable(format!("{}: {reason}", self.peer.link.peer))
        })
    }
}

struct TcpReply {
    peer: Arc<Peer>,
    config: Arc<NetConfig>,
    request_id: u64,
    /// Given back when the reply is queued, so that a server which waits for all of them loses none.
    _outstanding: OwnedSemaphorePermit,
}

impl TcpReply {
    async fn send(&self, result: Result<Vec<u8>, Status>) {
        let mut header = Header::new(Kind::Reply);
        header.request_id = self.request_id;
        let body = check_reply(&self.config, result).unwrap_or_else(|status| {
            header.flags = FLAG_FAILED;
            codec::encode_body(&status)
        });
        header.body_length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        header.body_checksum = frame::body_checksum(&body);
        let frame = OutFrame::new(&header, body.into(), Vec::new());
        if let Err(link::Closed(reason)) = self.peer.link.send(frame).await {
            tracing::debug!(peer = %self.peer.link.peer, %reason, "a reply was lost");
        }
    }
}

#[async_trait]
impl ReplyTo for TcpReply {
    async fn reply(self: Box<Self>, result: Result<Vec<u8>, Status>) {
        self.send(result).await;
    }
}
