//! The ring of one disk: whoever has an operation gives it to the kernel, one task takes what the kernel has done.
//!
//! No thread of its own: an operation that had to wake one, which then wakes the caller, spent a fifth of the device's
//! time asleep between the three. The task waits until the ring's descriptor is readable, as a socket does, on
//! the threads that run the callers; it takes a bite, lets those it told go on, and takes the next, so the
//! device has work again before all of it is dealt with. Operations that come meanwhile are gathered: each
//! submission is one exit to the host on a virtual machine.
//!
//! Nothing spins. Waiting 10 to 200 microseconds for callers to come back gave no more reads of 4 KiB on two cores and
//! took up to 3 microseconds more of processor time for each: it takes the core from the callers it waits for.
//!
//! Invariant: an operation in flight stands in `InFlight` and owns its memory and its file until its completion
//! was seen. Should the ring end before that, the memory is leaked rather than freed under the kernel.

use std::{
    fmt,
    future::poll_fn,
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    task::Poll,
};

use common::{
    buf::{RegisteredBuf, SharedBuf},
    sync::Mutex,
};
use io_uring::{IoUring, opcode, squeue, types};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, oneshot},
};

use super::registered::{Registered, Slot};
use crate::device::{closed, files::OpenFile};

/// Completions taken before those who were told have their turn.
const BITE: usize = 32;

/// Operations gathered at most while somebody is about to submit.
const GATHERED_MAX: usize = 8;

/// How often the kernel may refuse a submission for want of memory.
const REFUSALS_MAX: u32 = 1000;

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

/// See the module's text.
pub(super) struct Ring {
    waiting: Mutex<Waiting>,
    kernel: Mutex<Kernel>,
    /// The ring's, which lives as long as `kernel`.
    fd: RawFd,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.lock().operations.len();
        f.debug_struct("Ring").field("waiting", &waiting).finish()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

/// What nobody has given to the kernel yet.
#[derive(Default)]
struct Waiting {
    operations: Vec<Operation>,
    /// The reaper submits soon, after those it has told have had their turn.
    gathering: bool,
    closed: bool,
}

impl Ring {
    /// # Errors
    /// When the kernel has no io_uring or does not allow it.
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        let ring = IoUring::new((depth + 1).next_power_of_two())?;
        Ok(Self {
            waiting: Mutex::default(),
            fd: ring.as_raw_fd(),
            kernel: Mutex::new(Kernel {
                registered: Registered::new(&ring),
                ring,
                in_flight: InFlight::new(depth),
                spare: Vec::new(),
            }),
        })
    }

    /// Submits an operation, or leaves it to whoever submits just now or soon.
    pub(super) fn push(&self, operation: Operation) -> io::Result<()> {
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(closed());
            }
            waiting.operations.push(operation);
            if waiting.gathering && waiting.operations.len() < GATHERED_MAX {
                return Ok(());
            }
        }
        self.submit();
        Ok(())
    }

    /// Gives to the kernel what waits, unless another thread does: that one looks again after it.
    fn submit(&self) {
        while let Some(mut kernel) = self.kernel.try_lock() {
            let submitted = kernel.submit(&self.waiting);
            drop(kernel);
            if let Err(error) = submitted {
                return self.fail(&error);
            }
            if self.waiting.lock().operations.is_empty() {
                return;
            }
        }
    }

    /// Takes completions, a bite at most; returns how many there were.
    fn reap(&self) -> usize {
        let (reaped, result) = self.kernel.lock().reap(BITE);
        if let Err(error) = result {
            self.fail(&error);
        }
        reaped
    }

    fn set_gathering(&self, gathering: bool) {
        self.waiting.lock().gathering = gathering;
    }

    /// Takes no more operations; those that wait are told.
    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "the ring of a disk is out of use");
        let operations = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.operations)
        };
        drop(operations);
    }

    /// Makes the ring let go of files that nobody uses.
    pub(super) fn release_files(&self) {
        self.with_kernel(|kernel| kernel.registered.release_files(&kernel.ring));
    }

    /// Makes the ring let go of memory that was freed.
    fn release_regions(&self) {
        self.with_kernel(|kernel| kernel.registered.release_regions(&kernel.ring));
    }

    /// Whoever found the lock taken meanwhile has left its operation to this.
    fn with_kernel(&self, work: impl FnOnce(&mut Kernel)) {
        work(&mut self.kernel.lock());
        self.submit();
    }

    /// Takes no more operations, and blocks until all there are, are over.
    pub(super) fn close(&self) {
        {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            waiting.gathering = false;
        }
        let mut kernel = self.kernel.lock();
        let mut drained = kernel.submit(&self.waiting);
        while drained.is_ok() && !kernel.in_flight.is_empty() {
            drained = kernel.wait();
        }
        drop(kernel);
        if let Err(error) = drained {
            self.fail(&error);
        }
    }
}

/// The ring's descriptor among those the runtime waits for.
pub(super) fn completions(ring: Arc<Ring>) -> io::Result<AsyncFd<Arc<Ring>>> {
    // SAFETY: the descriptor is open and the same for as long as the ring that is held here.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(registered?)
}

/// The task that takes what the kernel has done.
pub(super) async fn reap(completions: AsyncFd<Arc<Ring>>) {
    let ring = completions.get_ref();
    // An error means that the runtime ends.
    while let Ok(mut ready) = completions.readable().await {
        ready.clear_ready();
        loop {
            let reaped = ring.reap();
            if reaped > 1 {
                ring.set_gathering(true);
                others_first().await;
                ring.set_gathering(false);
            }
            ring.submit();
            if reaped < BITE {
                break;
            }
        }
        ring.release_regions();
    }
}

/// Goes to the end of the queue of tasks. Not as `yield_now` of tokio does it, which comes back only after a look at all
/// descriptors: operations that were gathered would wait for that.
async fn others_first() {
    let mut first = true;
    poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
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

/// The kernel's side of a ring.
struct Kernel {
    ring: IoUring,
    registered: Registered,
    in_flight: InFlight,
    /// Changes places with the operations that wait, so that neither grows anew.
    spare: Vec<Operation>,
}

impl Kernel {
    fn submit(&mut self, waiting: &Mutex<Waiting>) -> io::Result<()> {
        let mut operations = std::mem::take(&mut self.spare);
        std::mem::swap(&mut waiting.lock().operations, &mut operations);
        for operation in operations.drain(..) {
            self.start(operation)?;
        }
        self.spare = operations;
        self.enter()
    }

    /// Makes the kernel take all entries.
    fn enter(&mut self) -> io::Result<()> {
        let mut refusals = 0;
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error) if is_transient(&error) && refusals < REFUSALS_MAX => {
                    refusals += 1;
                    std::thread::yield_now();
                }
                entered => drop(entered?),
            }
        }
        Ok(())
    }

    /// Blocks until at least one operation is over.
    fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if !is_transient(&error) => Err(error),
            _ => self.reap(usize::MAX).1,
        }
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
        // SAFETY: memory and file of the entry are owned by `in_flight` until its completion is handled; should the
        // ring end before, they are leaked.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // The ring has more entries than there are operations.
        pushed.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Deals with completions, `limit` at most; returns how many there were.
    fn reap(&mut self, limit: usize) -> (usize, io::Result<()>) {
        let mut reaped = 0;
        // A completion that starts the rest of its operation needs the ring, so none of its views lasts longer.
        while reaped < limit {
            let Some(entry) = self.ring.completion().next() else {
                break;
            };
            reaped += 1;
            let completed = self.complete(entry.user_data(), entry.result());
            if completed.is_err() {
                return (reaped, completed);
            }
        }
        (reaped, self.enter())
    }

    fn complete(&mut self, user_data: u64, result: i32) -> io::Result<()> {
        let index = usize::try_from(user_data).unwrap_or(usize::MAX);
        let slot = self.in_flight.slots.get_mut(index);
        let Some(operation) = slot.and_then(Option::as_mut) else {
            return Err(io::Error::other("completion of an unknown operation"));
        };
        let outcome = match usize::try_from(result) {
            Ok(transferred) => operation.advance(transferred),
            // Anything else may be the one report of a failed write-back, and is never tried again (E10).
            Err(_) => match io::Error::from_raw_os_error(-result) {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
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

/// What a submission may be refused for, for now.
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

    fn write(length: usize) -> (Operation, oneshot::Receiver<io::Result<()>>) {
        let file = Arc::new(OpenFile::new(tempfile::tempfile().unwrap()));
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.try_acquire_owned().unwrap();
        let (sender, receiver) = oneshot::channel();
        let data = BufPool::new(0).allocate(length).freeze();
        let operation = Operation::write(file, 65_536, (data, Durable::No), sender, permit);
        (operation, receiver)
    }

    #[test]
    fn an_operation_that_comes_during_housekeeping_is_submitted_after_it() {
        let ring = Ring::new(8).unwrap();
        let (operation, mut receiver) = write(4096);
        ring.with_kernel(|_| ring.push(operation).unwrap());
        assert!(ring.waiting.lock().operations.is_empty());
        assert!(!ring.kernel.lock().in_flight.is_empty());
        ring.close();
        assert!(receiver.try_recv().unwrap().is_ok());
        assert!(ring.push(write(4096).0).is_err());
    }

    #[test]
    fn what_is_gathered_is_submitted_when_it_is_enough() {
        let ring = Ring::new(16).unwrap();
        ring.set_gathering(true);
        let operations: Vec<_> = (0..GATHERED_MAX).map(|_| write(4096)).collect();
        let mut receivers = Vec::new();
        for (operation, receiver) in operations {
            assert!(ring.kernel.lock().in_flight.is_empty());
            ring.push(operation).unwrap();
            receivers.push(receiver);
        }
        assert!(!ring.kernel.lock().in_flight.is_empty());
        ring.close();
        assert!(
            receivers
                .iter_mut()
                .all(|receiver| receiver.try_recv().unwrap().is_ok())
        );
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let (mut operation, receiver) = write(8192);
        assert!(!operation.advance(4096).unwrap());
        assert_eq!(operation.done, 4096);
        assert!(operation.advance(4096).unwrap());
        assert!(operation.advance(0).is_err());
        operation.finish(Ok(()));
        assert!(receiver.blocking_recv().unwrap().is_ok());
    }
}
