//! One connection, as both sides have it: a bounded queue of frames, the task that writes them, and its end.
//!
//! Invariant: frames are written whole and in the order they were queued. That is what makes a reply follow the
//! pushes before it. The queue is bounded by frames and by payload bytes; whoever sends waits for room.
//! The writer gathers what is queued into one vectored write, so a payload goes from its buffer to the socket
//! without a copy, and many small frames cost one system call.
//!
//! Closing a link aborts its tasks; the socket closes with them.

use std::{io::IoSlice, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    buf::SharedBuf,
    env::{Env, Instant, Task},
    sync::Mutex,
};
use tokio::{
    io::AsyncWriteExt,
    net::tcp::OwnedWriteHalf,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};

use super::{CloseReason, TcpContext, record_close};
use crate::frame::{HEADER_LENGTH, Header};

/// Slices in one write, as far as it pays.
const SLICES_MAX: usize = 64;

/// Frames taken from the queue at once.
const FRAMES_AT_ONCE: usize = 32;

/// A frame to be written.
pub(super) struct OutFrame {
    header: [u8; HEADER_LENGTH],
    body: Bytes,
    payload: Vec<SharedBuf>,
    _room: Option<OwnedSemaphorePermit>,
    written: Option<oneshot::Sender<()>>,
}

impl OutFrame {
    pub(super) fn new(header: &Header, body: Bytes, payload: Vec<SharedBuf>) -> Self {
        Self {
            header: header.encode(),
            body,
            payload,
            _room: None,
            written: None,
        }
    }

    /// Reports when the frame has been handed to the kernel.
    pub(super) fn on_written(mut self, written: oneshot::Sender<()>) -> Self {
        self.written = Some(written);
        self
    }

    /// The n-th part, `None` behind the last. A part may be empty.
    fn part(&self, index: usize) -> Option<&[u8]> {
        match index {
            0 => Some(&self.header),
            1 => Some(&self.body),
            _ => self.payload.get(index - 2).map(|payload| &payload[..]),
        }
    }

    fn payload_length(&self) -> usize {
        self.payload.iter().map(|payload| payload.len()).sum()
    }
}

/// The link is closed.
#[derive(Clone, Debug)]
pub(super) struct Closed(pub(super) Arc<str>);

pub(super) struct Link {
    pub(super) env: Env,
    pub(super) peer: Arc<str>,
    queue: mpsc::Sender<OutFrame>,
    room: Arc<Semaphore>,
    room_max: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: Option<Arc<str>>,
    tasks: Vec<Task<()>>,
}

impl Link {
    /// A link whose frames come out of the receiver: give it to `write_frames`.
    pub(super) fn new(context: &TcpContext, peer: Arc<str>) -> (Self, mpsc::Receiver<OutFrame>) {
        let config = &context.config;
        let (queue, frames) = mpsc::channel(config.queue_frames_max.max(1) as usize);
        let link = Self {
            env: context.env.clone(),
            peer,
            queue,
            room: Arc::new(Semaphore::new(config.queue_bytes_max as usize)),
            room_max: config.queue_bytes_max,
            state: Mutex::default(),
        };
        (link, frames)
    }

    /// Queues a frame, waiting for room.
    pub(super) async fn send(&self, mut frame: OutFrame) -> Result<(), Closed> {
        let length = frame.payload_length();
        if length > 0 {
            // A frame above the bound takes all of it, so it goes alone.
            let wanted = u32::try_from(length).map_or(self.room_max, |l| l.min(self.room_max));
            let room = self.room.clone().acquire_many_owned(wanted).await;
            frame._room = Some(room.map_err(|_| self.closed())?);
        }
        self.queue.send(frame).await.map_err(|_| self.closed())
    }

    /// Queues a frame without payload if there is room right now.
    pub(super) fn try_send(&self, frame: OutFrame) {
        if self.queue.try_send(frame).is_err() {
            tracing::trace!(peer = %self.peer, "no room for a farewell");
        }
    }

    /// Ties a task to the link: it ends when the link closes.
    pub(super) fn adopt(&self, task: Task<()>) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            task.abort();
        } else {
            state.tasks.push(task);
        }
    }

    /// Closes the link, for the first reason given. Returns whether this was the first.
    pub(super) fn close(&self, reason: &CloseReason) -> bool {
        let tasks = {
            let mut state = self.state.lock();
            if state.closed.is_some() {
                return false;
            }
            state.closed = Some(reason.to_string().into());
            std::mem::take(&mut state.tasks)
        };
        self.room.close();
        record_close(&self.env, &self.peer, reason);
        for task in tasks {
            task.abort();
        }
        true
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().closed.is_none()
    }

    /// Why the link is closed.
    pub(super) fn closed(&self) -> Closed {
        let reason = self.state.lock().closed.clone();
        Closed(reason.unwrap_or_else(|| "the connection is closing".into()))
    }
}

/// Writes queued frames until the queue's senders are gone or the socket fails.
pub(super) async fn write_frames(
    env: &Env,
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::Receiver<OutFrame>,
    stall: Duration,
) -> CloseReason {
    let mut frames = Vec::with_capacity(FRAMES_AT_ONCE);
    let mut last = 0;
    while queue.recv_many(&mut frames, FRAMES_AT_ONCE).await > 0 {
        // Under load, those who are about to queue a frame get the chance to: one write for many frames is
        // what makes small frames cheap. A lone frame leaves at once.
        if last > 1 && frames.len() < FRAMES_AT_ONCE {
            tokio::task::yield_now().await;
            while frames.len() < FRAMES_AT_ONCE
                && let Ok(frame) = queue.try_recv()
            {
                frames.push(frame);
            }
        }
        last = frames.len();
        if let Err(reason) = write_all(env, &mut socket, &frames, stall).await {
            return reason;
        }
        for written in frames.drain(..).filter_map(|frame| frame.written) {
            // Nobody waits any more: then nobody needs to know.
            let _gone = written.send(()).is_err();
        }
    }
    CloseReason::Local
}

/// Where writing stands in a batch of frames.
#[derive(Clone, Copy, Default)]
struct Cursor {
    frame: usize,
    part: usize,
    offset: usize,
}

async fn write_all(
    env: &Env,
    socket: &mut OwnedWriteHalf,
    frames: &[OutFrame],
    stall: Duration,
) -> Result<(), CloseReason> {
    let mut cursor = Cursor::default();
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = gather(frames, cursor, &mut slices);
        if count == 0 {
            return Ok(());
        }
        let writing = socket.write_vectored(&slices[..count]);
        let written = match env.timeout(stall, writing).await {
            Ok(written) => written?,
            Err(_) => {
                let ms = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
                return Err(CloseReason::WriteStalled { ms });
            }
        };
        if written == 0 {
            return Err(CloseReason::Io(std::io::ErrorKind::WriteZero.into()));
        }
        cursor = advance(frames, cursor, written);
    }
}

/// Fills `slices` with what is to be written from `cursor` on; returns how many there are.
fn gather<'a>(
    frames: &'a [OutFrame],
    mut cursor: Cursor,
    slices: &mut [IoSlice<'a>; SLICES_MAX],
) -> usize {
    let mut count = 0;
    while let Some(frame) = frames.get(cursor.frame) {
        while let Some(part) = frame.part(cursor.part) {
            let rest = &part[cursor.offset..];
            if !rest.is_empty() {
                if count == SLICES_MAX {
                    return count;
                }
                slices[count] = IoSlice::new(rest);
                count += 1;
            }
            cursor.part += 1;
            cursor.offset = 0;
        }
        cursor = Cursor {
            frame: cursor.frame + 1,
            ..Cursor::default()
        };
    }
    count
}

fn advance(frames: &[OutFrame], mut cursor: Cursor, mut written: usize) -> Cursor {
    while let Some(frame) = frames.get(cursor.frame) {
        while let Some(part) = frame.part(cursor.part) {
            let rest = part.len() - cursor.offset;
            if written < rest {
                cursor.offset += written;
                return cursor;
            }
            written -= rest;
            cursor.part += 1;
            cursor.offset = 0;
        }
        cursor = Cursor {
            frame: cursor.frame + 1,
            ..Cursor::default()
        };
    }
    cursor
}

/// One line a second about closed connections is enough; returns how many were left out before this one.
pub(super) fn admit_log_line(env: &Env) -> Option<u64> {
    const PAUSE: Duration = Duration::from_secs(1);
    static LAST: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));
    let now = env.now();
    let mut last = LAST.lock();
    match last.0 {
        Some(then) if now.saturating_duration_since(then) < PAUSE => {
            last.1 += 1;
            None
        }
        _ => {
            let suppressed = last.1;
            *last = (Some(now), 0);
            Some(suppressed)
        }
    }
}
