//! The one reader of the ring of records: how it sleeps and wakes.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Duration,
};

use aya::maps::Map;

use super::{ProbeError, Shared, records::Records};

/// The ring of records.
///
/// Records are submitted without a wake-up, which would cost the sender 12 µs. A reader that expects more looks again
/// after a short while; one that has seen nothing for a time says so in shared memory, and the next record wakes it.
/// The wait is edge-triggered: records that lie there do not end it, only a wake-up does.
pub struct Ring {
    records: Records,
    bytes: u32,
    epoll: OwnedFd,
    waker: Waker,
}

/// Upper bound on the time from a program's check whether the reader sleeps to its record: far longer than an interrupt.
const SETTLE: Duration = Duration::from_millis(50);

/// Ends the reader's wait from another thread.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Creates a waker that no ring waits for yet.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two numbers and touches no memory.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        // SAFETY: the call has just returned it.
        let event = unsafe { owned(event) }?;
        Ok(Self(Arc::new(event)))
    }

    /// Ends the present wait, or the next one.
    pub fn wake(&self) {
        let one = 1u64;
        // A full counter refuses the write: a wake-up is pending then.
        // SAFETY: the kernel reads the eight bytes of `one`, which lives until the call returns.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

impl Ring {
    pub(super) fn new(map: Map, bytes: u32) -> Result<Self, ProbeError> {
        let map_error = |source| ProbeError::Map { map: "EVENTS", source };
        let records = Records::new(map, bytes).map_err(map_error)?;
        // SAFETY: epoll_create1(2) takes a number and touches no memory.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        // SAFETY: the call has just returned it.
        let epoll = unsafe { owned(epoll) }.map_err(map_error)?;
        let waker = Waker::new().map_err(map_error)?;
        add(&epoll, records.as_raw_fd()).map_err(map_error)?;
        add(&epoll, waker.0.as_raw_fd()).map_err(map_error)?;
        Ok(Self {
            records,
            bytes,
            epoll,
            waker,
        })
    }

    /// Returns the size of the ring in bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Returns a handle that ends the wait.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Hands the records that are there to `take`, at most `most`. Returns their number.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        while taken < most
            && let Some(record) = self.records.next()
        {
            take(record);
            taken += 1;
        }
        self.records.give_back();
        taken
    }

    /// Sleeps for at most `period` while records are expected.
    pub fn pause(&self, period: Duration) {
        self.wait(period);
    }

    /// Sleeps until a record comes, [`Waker::wake`] is called, or `longest` is over. Takes no record.
    pub fn sleep(&mut self, shared: &Shared, longest: Duration) {
        shared.reader_sleeps(true);
        // A record that was submitted before the word was set wakes no reader, but lies in the ring. Without the fence,
        // the look at the ring may come before the word is set.
        fence(Ordering::SeqCst);
        // A program that looked for the word before may submit after: the second look finds that.
        let settled = longest.min(SETTLE);
        if !self.has_records() && !self.wait(settled) && !self.has_records() {
            self.wait(longest.saturating_sub(settled));
        }
        shared.reader_sleeps(false);
    }

    /// Returns whether a record waits. poll(2) reports also records that wake no reader.
    fn has_records(&self) -> bool {
        let mut ask = libc::pollfd {
            fd: self.records.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // An error counts as yes: the next turn finds out.
        // SAFETY: the kernel reads and writes one entry, and `ask` is one.
        unsafe { libc::poll(&raw mut ask, 1, 0) != 0 }
    }

    /// Waits for at most `longest`. Returns whether something else ended the wait.
    fn wait(&self, longest: Duration) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // Rounded up: a wait that ends just before its time would be followed by a useless one.
        let milliseconds = longest.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        // An interrupted wait is as good as an ended one.
        // SAFETY: the kernel writes at most two events, and the array has room for two.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 2, milliseconds) != 0 }
    }
}

/// Owns the descriptor that a system call returned.
///
/// # Safety
/// The descriptor must be new: nobody else may close it. A negative one is the call's error in `errno`.
unsafe fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by this function's contract nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn add(epoll: &OwnedFd, fd: RawFd) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: fd as u64,
    };
    // SAFETY: the kernel reads `event`, which lives until the call returns. A descriptor that is not open is an error.
    if unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
