//! The calling side of a tcp connection.
//!
//! Who owns a destination: the table of waiting calls, except while the reader fills it with a push; then the
//! reader. A call that ends early (deadline, dropped future) takes its entry out of the table: what the reader
//! holds at that moment is freed when the push has been read, and a later push finds no entry and is read over.
//! So bytes of one call never reach a buffer of another, and a buffer that came back is not written to any more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    buf::{RegisteredBuf, SharedBuf},
    env::{Env, Instant},
    sync::Mutex,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot},
};
use types::{
    codec,
    status::{Status, StatusCode},
};

use super::{
    CloseReason, TcpContext,
    link::{self, Link, OutFrame},
    prepare_socket,
    reader::FrameReader,
};
use crate::{
    config::NetConfig,
    frame::{
        self, FLAG_FAILED, FrameError, HELLO_LENGTH, Header, Hello, Kind, Lane, VERSION_MAX,
        VERSION_MIN,
    },
    transport::{Connection, Outgoing, RawReply, unreachable},
};

/// Connects to `host:port` (resolved now) and says Hello.
///
/// # Errors
/// Unreachable, or Unsupported when there is no common protocol version.
pub(crate) async fn connect(
    context: TcpContext,
    host: &str,
    lane: Lane,
) -> Result<Arc<dyn Connection>, Status> {
    let limit = Duration::from_millis(context.config.connect_ms_max);
    let stream = match context.env.timeout(limit, TcpStream::connect(host)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(format!("cannot connect to {host}: {error}"))),
        Err(_) => {
            let ms = limit.as_millis();
            return Err(unreachable(format!("{host} did not answer within {ms} ms")));
        }
    };
    let failed = |reason: CloseReason| {
        let code = match reason {
            CloseReason::Version { .. } | CloseReason::Refused { .. } => StatusCode::Unsupported,
            _ => StatusCode::Unreachable,
        };
        Status::new(code, format!("{host}: {reason}"))
    };
    prepare_socket(&context, &stream).map_err(|error| failed(error.into()))?;
    let (read_half, mut write_half) = stream.into_split();
    let mut reader = FrameReader::new(&context, read_half);
    let greeting = greet(&mut reader, &mut write_half, lane);
    let hello = match context.env.timeout(limit, greeting).await {
        Ok(hello) => hello.map_err(failed)?,
        Err(_) => {
            let ms = context.config.connect_ms_max;
            return Err(failed(CloseReason::Handshake { ms }));
        }
    };
    reader.set_lane(lane);
    let (link, frames) = Link::new(&context, host.into());
    let shared = Arc::new(Shared {
        link,
        table: Mutex::new(Some(Table::default())),
        retired: AtomicBool::new(false),
    });
    let (reading, writing) = (shared.clone(), shared.clone());
    let (env, stall) = (context.env.clone(), context.config.stall());
    shared
        .link
        .adopt(context.env.spawn("tcp-client-writer", async move {
            let reason = link::write_frames(&env, write_half, frames, stall).await;
            writing.close(&reason);
        }));
    shared
        .link
        .adopt(context.env.spawn("tcp-client-reader", async move {
            let reason = read_replies(&reading, &mut reader).await;
            reading.close(&reason);
        }));
    let outstanding = hello.outstanding_max.min(context.config.outstanding_max);
    Ok(Arc::new(TcpConnection {
        env: context.env,
        config: context.config,
        shared,
        outstanding: Semaphore::new(outstanding.max(1) as usize),
        next_request: AtomicU64::new(1),
    }))
}

/// Exchanges Hellos.
async fn greet(
    reader: &mut FrameReader,
    socket: &mut tokio::net::tcp::OwnedWriteHalf,
    lane: Lane,
) -> Result<Hello, CloseReason> {
    use tokio::io::AsyncWriteExt;
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        lane,
        outstanding_max: 0,
    };
    socket.write_all(&hello_frame(&hello)).await?;
    let header = reader.header().await?;
    let body = reader.bytes(header.body_and_table_length()).await?;
    if frame::body_checksum(&body) != header.body_checksum {
        return Err(FrameError::BodyChecksum.into());
    }
    match header.kind {
        Kind::Hello => {}
        Kind::Goodbye => {
            let reason = String::from_utf8_lossy(&body).into_owned();
            return Err(CloseReason::Refused { reason });
        }
        Kind::Request | Kind::Reply | Kind::Push => {
            let what = "the first frame is no Hello";
            return Err(FrameError::Inconsistent { what }.into());
        }
    }
    let hello = Hello::decode(&body)?;
    match hello.agree() {
        Some(_) => Ok(hello),
        None => Err(CloseReason::Version {
            min: hello.version_min,
            max: hello.version_max,
        }),
    }
}

/// The bytes of a Hello.
pub(super) fn hello_frame(hello: &Hello) -> Vec<u8> {
    let body = hello.encode();
    let mut header = Header::new(Kind::Hello);
    header.body_length = u32::from(HELLO_LENGTH);
    header.body_checksum = frame::body_checksum(&body);
    let mut bytes = header.encode().to_vec();
    bytes.extend(body);
    bytes
}

/// A call that waits for its reply.
struct Call {
    destinations: Vec<Destination>,
    done: oneshot::Sender<RawReply>,
}

struct Destination {
    length: usize,
    /// `None` while the reader fills it.
    buf: Option<RegisteredBuf>,
}

impl Call {
    /// The destinations, if none is in the reader's hands.
    fn into_parts(self) -> (Vec<RegisteredBuf>, oneshot::Sender<RawReply>) {
        let buffers: Option<Vec<_>> = self.destinations.into_iter().map(|one| one.buf).collect();
        (buffers.unwrap_or_default(), self.done)
    }
}

/// The calls under way.
#[derive(Default)]
struct Table {
    /// By request id.
    calls: BTreeMap<u64, Call>,
    /// Since when nothing was heard although something was asked.
    unanswered_since: Option<Instant>,
}

struct Shared {
    link: Link,
    /// `None` once the connection is closed.
    table: Mutex<Option<Table>>,
    /// The server said Goodbye, or does not answer: calls under way go on, new ones get a new connection.
    retired: AtomicBool,
}

impl Shared {
    fn take(&self, id: u64) -> Option<Call> {
        self.table.lock().as_mut()?.calls.remove(&id)
    }

    /// Ends the connection and every call on it.
    fn close(&self, reason: &CloseReason) {
        self.link.close(reason);
        let table = self.table.lock().take().unwrap_or_default();
        for (_, call) in table.calls {
            let (destinations, done) = call.into_parts();
            let result = Err(self.broken());
            // The caller gave up in the meantime: nobody is told.
            let _gone = done
                .send(RawReply {
                    result,
                    destinations,
                })
                .is_err();
        }
    }

    fn broken(&self) -> Status {
        let link::Closed(reason) = self.link.closed();
        unreachable(format!("{}: {reason}", self.link.peer))
    }

    /// Takes a destination out of the table to read a push into it; `None` when nobody waits for it any more.
    fn lend(&self, header: &Header) -> Result<Option<RegisteredBuf>, FrameError> {
        let mut table = self.table.lock();
        let Some(table) = table.as_mut() else {
            return Ok(None);
        };
        table.unanswered_since = None;
        let Some(call) = table.calls.get_mut(&header.request_id) else {
            return Ok(None);
        };
        let Some(destination) = call.destinations.get_mut(usize::from(header.bulk_index)) else {
            let what = "a push for a destination that the call does not have";
            return Err(FrameError::Inconsistent { what });
        };
        let end = header.bulk_offset.checked_add(header.payload_length);
        if end.is_none_or(|end| end > destination.length as u64) {
            let what = "a push leaves its destination";
            return Err(FrameError::Inconsistent { what });
        }
        Ok(destination.buf.take())
    }

    /// Puts a destination back.
    fn give_back(&self, header: &Header, buf: RegisteredBuf) {
        let mut table = self.table.lock();
        let call = table
            .as_mut()
            .and_then(|table| table.calls.get_mut(&header.request_id));
        if let Some(call) = call
            && let Some(destination) = call.destinations.get_mut(usize::from(header.bulk_index))
        {
            destination.buf = Some(buf);
        }
    }

    fn complete(&self, header: &Header, body: Bytes) {
        let call = {
            let mut table = self.table.lock();
            let Some(table) = table.as_mut() else {
                return;
            };
            table.unanswered_since = None;
            table.calls.remove(&header.request_id)
        };
        let Some(call) = call else {
            return;
        };
        let result = if header.flags & FLAG_FAILED == 0 {
            Ok(body)
        } else {
            Err(codec::decode_body(&body).unwrap_or_else(|error| {
                let message = format!("{}: status of a reply: {error}", self.link.peer);
                Status::new(StatusCode::Malformed, message)
            }))
        };
        let (destinations, done) = call.into_parts();
        // The caller gave up in the meantime: nobody is told.
        let _gone = done
            .send(RawReply {
                result,
                destinations,
            })
            .is_err();
    }
}

/// Reads frames until the connection fails.
async fn read_replies(shared: &Shared, reader: &mut FrameReader) -> CloseReason {
    loop {
        if let Err(reason) = read_reply(shared, reader).await {
            return reason;
        }
    }
}

async fn read_reply(shared: &Shared, reader: &mut FrameReader) -> Result<(), CloseReason> {
    let header = reader.header().await?;
    let body = reader.bytes(header.body_and_table_length()).await?;
    if frame::body_checksum(&body) != header.body_checksum {
        return Err(FrameError::BodyChecksum.into());
    }
    match header.kind {
        Kind::Reply => shared.complete(&header, body),
        Kind::Push => match shared.lend(&header)? {
            Some(mut buf) => {
                // `lend` checked the range, so these fit usize.
                let range = push_range(&header)?;
                reader.fill(&mut buf[range]).await?;
                shared.give_back(&header, buf);
            }
            None => reader.skip(header.payload_length).await?,
        },
        Kind::Goodbye => {
            let reason = String::from_utf8_lossy(&body);
            tracing::debug!(peer = %shared.link.peer, %reason, "the peer says goodbye");
            shared.retired.store(true, Ordering::Release);
        }
        Kind::Hello | Kind::Request => {
            let what = "a frame that only clients send";
            return Err(FrameError::Inconsistent { what }.into());
        }
    }
    Ok(())
}

fn push_range(header: &Header) -> Result<std::ops::Range<usize>, FrameError> {
    let what = "a push leaves its destination";
    let start = usize::try_from(header.bulk_offset);
    let length = usize::try_from(header.payload_length);
    match (start, length) {
        (Ok(start), Ok(length)) => Ok(start..start + length),
        _ => Err(FrameError::Inconsistent { what }),
    }
}

struct TcpConnection {
    env: Env,
    config: Arc<NetConfig>,
    shared: Arc<Shared>,
    outstanding: Semaphore,
    next_request: AtomicU64,
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.shared.close(&CloseReason::Local);
    }
}

/// Takes a call out of the table when its future ends, however that comes. A caller that does not wait for the answer any
/// more, often because it has heard elsewhere that the peer is gone, is as good a reason for doubt as a missed deadline.
struct CallGuard<'a> {
    connection: &'a TcpConnection,
    id: u64,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if self.connection.shared.take(self.id).is_some() {
            self.connection.doubt();
        }
    }
}

#[async_trait]
impl Connection for TcpConnection {
    async fn call(&self, mut request: Outgoing) -> RawReply {
        let deadline = request.deadline;
        let destinations = std::mem::take(&mut request.bulk.destinations);
        let Ok(permit) = self
            .env
            .timeout_at(deadline, self.outstanding.acquire())
            .await
        else {
            return self.late(destinations);
        };
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let now = self.env.now();
        let frame = match request_frame(&self.config, id, request, &destinations, now) {
            Ok(frame) => frame,
            Err(error) => {
                let message = format!("request to {}: {error}", self.shared.link.peer);
                return RawReply {
                    result: Err(Status::new(StatusCode::InvalidArgument, message)),
                    destinations,
                };
            }
        };
        let receiver = match self.register(id, destinations, now) {
            Ok(receiver) => receiver,
            Err(destinations) => {
                return RawReply {
                    result: Err(self.shared.broken()),
                    destinations,
                };
            }
        };
        let _guard = CallGuard {
            connection: self,
            id,
        };
        let exchange = async {
            // When the link is closed, the receiver is told so as well.
            let _closed = self.shared.link.send(frame).await.is_err();
            receiver.await
        };
        let outcome = self.env.timeout_at(deadline, exchange).await;
        drop(permit);
        match outcome {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => RawReply {
                result: Err(self.shared.broken()),
                destinations: Vec::new(),
            },
            Err(_) => {
                let call = self.shared.take(id);
                self.doubt();
                self.late(call.map(|call| call.into_parts().0).unwrap_or_default())
            }
        }
    }

    fn is_open(&self) -> bool {
        self.shared.link.is_open() && !self.shared.retired.load(Ordering::Acquire)
    }
}

impl TcpConnection {
    fn late(&self, destinations: Vec<RegisteredBuf>) -> RawReply {
        let message = format!("{} did not answer in time", self.shared.link.peer);
        RawReply {
            result: Err(Status::new(StatusCode::DeadlineExceeded, message)),
            destinations,
        }
    }

    /// After a call without an answer: when the peer has been silent for too long, its machine may be gone, which the
    /// kernel takes a while to tell. The next call gets a new connection, which either works or fails at once.
    fn doubt(&self) {
        let longest = Duration::from_millis(self.config.connect_ms_max);
        let table = self.shared.table.lock();
        let since = table.as_ref().and_then(|table| table.unanswered_since);
        if since.is_some_and(|since| self.env.now().saturating_duration_since(since) >= longest) {
            self.shared.retired.store(true, Ordering::Release);
        }
    }

    /// Enters a call into the table; gives the buffers back when the connection is closed.
    fn register(
        &self,
        id: u64,
        destinations: Vec<RegisteredBuf>,
        now: Instant,
    ) -> Result<oneshot::Receiver<RawReply>, Vec<RegisteredBuf>> {
        let mut table = self.shared.table.lock();
        let Some(table) = table.as_mut() else {
            return Err(destinations);
        };
        let (done, receiver) = oneshot::channel();
        let destinations = destinations.into_iter().map(|buf| Destination {
            length: buf.len(),
            buf: Some(buf),
        });
        let destinations = destinations.collect();
        table.calls.insert(id, Call { destinations, done });
        table.unanswered_since.get_or_insert(now);
        Ok(receiver)
    }
}

/// A request as a frame, within the limits.
fn request_frame(
    config: &NetConfig,
    id: u64,
    request: Outgoing,
    destinations: &[RegisteredBuf],
    now: Instant,
) -> Result<OutFrame, FrameError> {
    let sources: Vec<SharedBuf> = request.bulk.sources;
    let mut body = request.body;
    let too_many = |_| FrameError::TooLarge {
        what: "a bulk table",
        found: (sources.len() + destinations.len()) as u64,
        max: u64::from(config.buffers_max),
    };
    let mut header = Header::new(Kind::Request);
    header.request_id = id;
    header.service = request.service;
    header.method = request.method;
    header.method_version = request.method_version;
    header.source_count = u16::try_from(sources.len()).map_err(too_many)?;
    header.destination_count = u16::try_from(destinations.len()).map_err(too_many)?;
    header.body_length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    header.payload_length = sources.iter().map(|source| source.len() as u64).sum();
    header.deadline_ms = remaining_ms(request.deadline, now);
    header.check(config)?;
    frame::append_table(&mut body, &sources, destinations)?;
    header.body_checksum = frame::body_checksum(&body);
    Ok(OutFrame::new(&header, body.into(), sources))
}

/// Time left, rounded up, so that a deadline under a millisecond is not a missed one.
fn remaining_ms(deadline: Instant, now: Instant) -> u32 {
    let left = deadline.saturating_duration_since(now);
    u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}
