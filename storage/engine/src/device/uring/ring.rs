//! The thread that owns the ring of one disk.
//!
//! Each turn submits what waits in the queue. A turn that finds the queue empty arms the read of the eventfd and lets
//! the kernel wait for at least one completion; callers wake the thread only then. Short transfers are continued
//! where they stopped.
//!
//! The thread never spins. Waiting 10 to 200 microseconds for callers to come back (yielding or not), or letting the
//! kernel collect completions, gave no more reads of 4 KiB on two cores and took up to 3 microseconds more of
//! processor time for each: it takes the core from the callers it waits for.
//!
//! Invariant: an operation in flight stands in `InFlight` and owns its memory and its file until its completion
//! was seen. Should the thread ever end before that, the memory is leaked rather than freed under the kernel.

use std::{
    fmt, io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, mpsc::SyncSender},
};

use common::{
    buf::{RegisteredBuf, SharedBuf},
    sync::Mutex,
};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::registered::{Registered, Slot};
use crate::device::{closed, files::OpenFile};

/// One I/O, with everything it needs to its end.
pub(super) struct Operation {
    file: Arc<OpenFile>,
    offset: u64,
    /// Bytes transferred so far.
    done: usize,
    file_slot: Option<Slot>,
    region_slot: Option<Slot>,
    kind: Kind,
    _permit: OwnedSemaphorePermit,
}

/// Whether a write is durable when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    Yes,
    No,
}

impl Durable {
    fn flags(self) -> i32 {
        match self {
            Self::Yes => libc::RWF_DSYNC,
            Self::No => 0,
        }
    }
}

enum Kind {
    Read(RegisteredBuf, oneshot::Sender<io::Result<RegisteredBuf>>),
    Write(SharedBuf, Durable, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
}

impl Operation {
    pub(super) fn read(
        file: Arc<OpenFile>,
        offset: u64,
        buf: RegisteredBuf,
        sender: oneshot::Sender<io::Result<RegisteredBuf>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(file, offset, Kind::Read(buf, sender), permit)
    }

    pub(super) fn write(
        file: Arc<OpenFile>,
        offset: u64,
        (data, durable): (SharedBuf, Durable),
        sender: oneshot::Sender<io::Result<()>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(file, offset, Kind::Write(data, durable, sender), permit)
    }

    pub(super) fn sync(
        file: Arc<OpenFile>,
        sender: oneshot::Sender<io::Result<()>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(file, 0, Kind::Sync(sender), permit)
    }

    fn new(file: Arc<OpenFile>, offset: u64, kind: Kind, permit: OwnedSemaphorePermit) -> Self {
        Self {
            file,
            offset,
            done: 0,
            file_slot: None,
            region_slot: None,
            kind,
            _permit: permit,
        }
    }

    /// Looks for the slots of the file and the region; they are in use until the operation is over.
    fn take_slots(&mut self, registered: &mut Registered, ring: &IoUring) {
        self.file_slot = registered.take_file(ring, &self.file);
        self.region_slot = match &self.kind {
            Kind::Read(buf, _) => registered.take_region(ring, &buf.region()),
            Kind::Write(data, ..) => registered.take_region(ring, &data.region()),
            Kind::Sync(_) => None,
        };
    }

    /// What is left to do, as the kernel wants it.
    fn entry(&mut self) -> squeue::Entry {
        let (fd, flags) = match self.file_slot {
            Some(slot) => (types::Fd(slot.file()), squeue::Flags::FIXED_FILE),
            None => (types::Fd(self.file.as_raw_fd()), squeue::Flags::empty()),
        };
        let offset = self.offset + self.done as u64;
        let entry = match &mut self.kind {
            Kind::Read(buf, _) => {
                let rest = &mut buf[self.done..];
                let (start, length) = (rest.as_mut_ptr(), transfer_length(rest.len()));
                match self.region_slot {
                    Some(slot) => opcode::ReadFixed::new(fd, start, length, slot.buffer())
                        .offset(offset)
                        .build(),
                    None => opcode::Read::new(fd, start, length).offset(offset).build(),
                }
            }
            Kind::Write(data, durable, _) => {
                let (rest, durable) = (&data[self.done..], durable.flags());
                let (start, length) = (rest.as_ptr(), transfer_length(rest.len()));
                match self.region_slot {
                    Some(slot) => opcode::WriteFixed::new(fd, start, length, slot.buffer())
                        .offset(offset)
                        .rw_flags(durable)
                        .build(),
                    None => opcode::Write::new(fd, start, length)
                        .offset(offset)
                        .rw_flags(durable)
                        .build(),
                }
            }
            Kind::Sync(_) => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        };
        entry.flags(flags)
    }

    /// Takes note of a completion; true when the operation is over.
    fn advance(&mut self, transferred: usize) -> io::Result<bool> {
        let length = match &self.kind {
            Kind::Read(buf, _) => buf.len(),
            Kind::Write(data, ..) => data.len(),
            Kind::Sync(_) => return Ok(true),
        };
        if transferred == 0 {
            return Err(match &self.kind {
                Kind::Read(..) => io::ErrorKind::UnexpectedEof.into(),
                Kind::Write(..) | Kind::Sync(_) => io::ErrorKind::WriteZero.into(),
            });
        }
        self.done += transferred;
        Ok(self.done >= length)
    }

    /// Tells the caller, if it is still there.
    fn finish(self, result: io::Result<()>) {
        // A caller that went away wants no answer.
        match self.kind {
            Kind::Read(buf, sender) => drop(sender.send(result.map(|()| buf))),
            Kind::Write(_, _, sender) | Kind::Sync(sender) => drop(sender.send(result)),
        }
    }
}

/// The kernel takes less than 2 GiB at a time; what is above comes as a continuation.
fn transfer_length(length: usize) -> u32 {
    const TRANSFER_BYTES_MAX: u32 = 1 << 30;
    u32::try_from(length).map_or(TRANSFER_BYTES_MAX, |length| length.min(TRANSFER_BYTES_MAX))
}

/// What waits for the thread.
pub(super) struct Submissions {
    queue: Mutex<Queue>,
    wake: OwnedFd,
}

impl fmt::Debug for Submissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.queue.lock().operations.len();
        f.debug_struct("Submissions")
            .field("waiting", &waiting)
            .finish()
    }
}

#[derive(Default)]
struct Queue {
    operations: Vec<Operation>,
    /// Who waits until files that nobody uses are let go of.
    releases: Vec<oneshot::Sender<()>>,
    closing: bool,
    /// The thread is, or soon will be, waiting in the kernel and has seen all that stands here.
    asleep: bool,
}

impl Submissions {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    pub(super) fn push(&self, operation: Operation) -> io::Result<()> {
        let asleep = {
            let mut queue = self.queue.lock();
            if queue.closing {
                return Err(closed());
            }
            queue.operations.push(operation);
            std::mem::take(&mut queue.asleep)
        };
        // An awake thread looks here before it sleeps, and one wake-up is enough for all that come until then.
        if asleep { self.wake() } else { Ok(()) }
    }

    /// Makes the ring let go of files that nobody uses. The answer ends when it has, also when it had ended before.
    pub(super) fn release_files(&self) -> io::Result<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if queue.closing {
                return Err(closed());
            }
            queue.releases.push(sender);
        }
        self.wake()?;
        Ok(receiver)
    }

    /// Ends the thread after what is in flight and what waits.
    pub(super) fn close(&self) {
        self.queue.lock().closing = true;
        if let Err(error) = self.wake() {
            tracing::error!(%error, "cannot wake the I/O thread of a disk");
        }
    }

    #[allow(
        clippy::host_endian_bytes,
        reason = "an eventfd counts in the host's byte order; the bytes never leave the machine"
    )]
    fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Operations the kernel has, by their index.
struct InFlight {
    slots: ManuallyDrop<Vec<Option<Operation>>>,
    free: Vec<usize>,
}

impl InFlight {
    fn new(depth: u32) -> Self {
        let depth = depth as usize;
        Self {
            slots: ManuallyDrop::new((0..depth).map(|_| None).collect()),
            free: (0..depth).rev().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.is_empty() {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.slots) };
        }
    }
}

const WAKE: u64 = u64::MAX;

struct Loop<'a> {
    ring: IoUring,
    registered: Registered,
    submissions: &'a Submissions,
    in_flight: InFlight,
    /// Where the kernel puts the eventfd's counter. In a box, so that it stays where it is.
    wake_buf: Box<[u8; 8]>,
    wake_armed: bool,
}

/// The thread's work. Reports on `started` whether there is a ring.
pub(super) fn run(submissions: &Submissions, depth: u32, started: &SyncSender<io::Result<()>>) {
    // The channel has room for its one message.
    let ring = match build_ring(depth) {
        Ok(ring) => {
            drop(started.send(Ok(())));
            ring
        }
        Err(error) => return drop(started.send(Err(error))),
    };
    let mut state = Loop {
        registered: Registered::new(&ring),
        ring,
        submissions,
        in_flight: InFlight::new(depth),
        wake_buf: Box::new([0; 8]),
        wake_armed: false,
    };
    if let Err(error) = state.turn_until_closed() {
        tracing::error!(%error, "the I/O thread of a disk ends");
        // Who waits in the queue, and who comes, is told.
        let mut queue = submissions.queue.lock();
        queue.closing = true;
        queue.operations.clear();
        queue.releases.clear();
        // The armed read may still write here.
        if state.wake_armed {
            Box::leak(std::mem::take(&mut state.wake_buf));
        }
    }
}

fn build_ring(depth: u32) -> io::Result<IoUring> {
    let entries = (depth + 1).next_power_of_two();
    let tuned = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries);
    // Kernels before 6.1 do not know these flags.
    tuned.or_else(|_| IoUring::new(entries))
}

impl Loop<'_> {
    fn turn_until_closed(&mut self) -> io::Result<()> {
        // Changes places with the queue, so that neither grows anew.
        let mut operations = Vec::new();
        loop {
            let (releases, closing) = {
                let mut queue = self.submissions.queue.lock();
                std::mem::swap(&mut queue.operations, &mut operations);
                // Submitting takes microseconds for each; who comes meanwhile is seen without a wake-up.
                queue.asleep = operations.is_empty();
                (std::mem::take(&mut queue.releases), queue.closing)
            };
            // Closing comes with a wake-up of its own, so an armed read completes.
            if closing && operations.is_empty() && self.in_flight.is_empty() && !self.wake_armed {
                return Ok(());
            }
            let idle = operations.is_empty();
            for operation in operations.drain(..) {
                self.start(operation)?;
            }
            if !releases.is_empty() {
                self.registered.release_files(&self.ring);
                drop(releases);
            }
            if idle {
                self.wait(closing)?;
            } else {
                // Permits bound how many come before a completion must be seen, so the next turns get to wait.
                ignore_transient(self.ring.submit())?;
            }
            self.complete()?;
        }
    }

    /// Submits what is left and sleeps until something completes or a caller comes.
    fn wait(&mut self, closing: bool) -> io::Result<()> {
        if !self.wake_armed && !closing {
            self.arm_wake()?;
        }
        self.registered.release_regions(&self.ring);
        ignore_transient(self.ring.submit_and_wait(1))?;
        self.submissions.queue.lock().asleep = false;
        Ok(())
    }

    fn arm_wake(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.submissions.wake.as_raw_fd());
        let entry = opcode::Read::new(fd, self.wake_buf.as_mut_ptr(), 8)
            .build()
            .user_data(WAKE);
        self.push(&entry)?;
        self.wake_armed = true;
        Ok(())
    }

    fn start(&mut self, mut operation: Operation) -> io::Result<()> {
        operation.take_slots(&mut self.registered, &self.ring);
        // Permits bound the operations, so there is a slot.
        let index = self.in_flight.free.pop();
        let index = index.ok_or_else(|| io::Error::other("more operations than permits"))?;
        let entry = self.in_flight.slots[index].insert(operation).entry();
        self.push(&entry.user_data(index as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: memory and file of the entry are owned by `in_flight` (or are `wake_buf` and the eventfd) until
        // its completion is handled; should the loop end before, they are leaked.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // The ring has more entries than there are operations.
        pushed.map_err(|_| io::Error::other("the submission queue is full"))
    }

    fn complete(&mut self) -> io::Result<()> {
        // A completion that starts the rest of its operation needs the ring, so none of its views lasts longer.
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return Ok(());
            };
            if entry.user_data() == WAKE {
                self.wake_armed = false;
            } else {
                self.complete_operation(entry.user_data(), entry.result())?;
            }
        }
    }

    fn complete_operation(&mut self, user_data: u64, result: i32) -> io::Result<()> {
        let index = usize::try_from(user_data).unwrap_or(usize::MAX);
        let slot = self.in_flight.slots.get_mut(index);
        let Some(operation) = slot.and_then(Option::as_mut) else {
            return Err(io::Error::other("completion of an unknown operation"));
        };
        let outcome = match usize::try_from(result) {
            Ok(transferred) => operation.advance(transferred),
            Err(_) => {
                let error = io::Error::from_raw_os_error(-result);
                if is_transient(&error) {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        };
        if matches!(outcome, Ok(false)) {
            let entry = operation.entry().user_data(user_data);
            return self.push(&entry);
        }
        if let Some(operation) = self.in_flight.slots[index].take() {
            self.in_flight.free.push(index);
            let (file, region) = (operation.file_slot, operation.region_slot);
            operation.finish(outcome.map(|_| ()));
            // After the operation gave up its file, so that the last user of a removed one is seen.
            self.registered.done(&self.ring, file, region);
        }
        Ok(())
    }
}

/// What could not be submitted now stays in the ring and goes with the next turn.
fn ignore_transient(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Err(error) if !is_transient(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
    )
}

#[cfg(test)]
mod tests {
    use common::buf::BufPool;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let file = Arc::new(OpenFile::new(tempfile::tempfile().unwrap()));
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.try_acquire_owned().unwrap();
        let (sender, receiver) = oneshot::channel();
        let data = BufPool::new(0).allocate(8192).freeze();
        let mut operation = Operation::write(file, 65_536, (data, Durable::No), sender, permit);
        assert!(!operation.advance(4096).unwrap());
        assert_eq!(operation.done, 4096);
        assert!(operation.advance(4096).unwrap());
        assert!(operation.advance(0).is_err());
        operation.finish(Ok(()));
        assert!(receiver.blocking_recv().unwrap().is_ok());
    }
}
