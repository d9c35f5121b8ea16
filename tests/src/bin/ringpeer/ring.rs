//! An io_uring with the operations of a socket.

use std::{
    alloc::{Layout, alloc_zeroed, handle_alloc_error},
    collections::{BTreeSet, HashMap},
    io,
    os::fd::RawFd,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::Result;
use io_uring::{
    IoUring, cqueue, opcode,
    squeue::{Entry, Flags},
    types,
};

/// Choice of the operations that move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// recv and send.
    Receive,
    /// recv and send that wait for the socket before they try.
    PollFirst,
    /// recv and send, submitted by a thread of the kernel that looks for requests, and sleeps after that time.
    Polled(Duration),
    /// read and write.
    Read,
    /// recv that goes on, into buffers that the kernel chooses, and send. The thread takes completions when it asks.
    Multishot,
    /// read that goes on, into buffers that the kernel chooses, and write.
    MultishotRead,
    /// recv and send, each linked to a request that does nothing.
    Linked,
    /// recv and send, in workers of the ring.
    Worker,
    /// recv and send. Until a request is complete, the thread looks at its sockets by recv(2): requests are carried out
    /// where such a call ends.
    Peeking,
    /// recv and send. Until a request is complete, the thread runs code of its own, with the descriptor of a socket where
    /// a system call has its first argument: requests are carried out where an interrupt ends.
    Computing,
    /// recv and send. On a new call, two more recv are cancelled before its first request is sent.
    Cancelling,
    /// recv and send. The completion of the recv of a message's first byte is left out: that of a request that is linked
    /// to it tells.
    Silent,
    /// recv, and sendmsg without a copy, of two buffers.
    ZeroCopy,
}

/// Rounds over all sockets before a thread that [`Way::Peeking`] or [`Way::Computing`] sleeps.
const ROUNDS: u32 = 200;

/// `IORING_RECVSEND_POLL_FIRST`.
const POLL_FIRST: u16 = 1;
/// Entries of the ring.
const ENTRIES: u32 = 256;
/// Size of a provided buffer.
const BUFFER_BYTES: usize = 4096;
/// Number of provided buffers.
const BUFFERS: u16 = 32;
/// The group of the provided buffers.
const GROUP: u16 = 0;

/// Token of a request whose completion is of no interest.
const NOTHING: u64 = u64::MAX;
/// Token of a request that is cancelled.
const CANCELLED: u64 = NOTHING - 1;

/// A ring.
pub struct Ring {
    way: Way,
    ring: IoUring,
    provided: Option<Provided>,
    /// Sockets that have received.
    sockets: BTreeSet<RawFd>,
    /// Tokens of receives of one byte whose completion is left out.
    silent: BTreeSet<u64>,
    /// Memory of requests that are cancelled.
    decoy: Box<[u8; 1]>,
    /// Messages that are sent without a copy, by token.
    messages: HashMap<u64, Message>,
}

/// A message that is sent without a copy.
struct Message {
    /// The header has its address.
    _parts: Box<[libc::iovec; 2]>,
    header: Box<libc::msghdr>,
    /// How many bytes were sent. Their memory stays until the kernel tells that it is done with it.
    sent: i32,
}

impl Message {
    fn new(bytes: &[u8]) -> Self {
        let (first, second) = bytes.split_at(bytes.len().min(20));
        let mut parts = Box::new([first, second].map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        // SAFETY: zeros are a header of an empty message.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len();
        Self {
            _parts: parts,
            header,
            sent: 0,
        }
    }
}

/// Completion of a request.
pub struct Completion {
    /// The number that the request was submitted with.
    pub token: u64,
    /// Result of the operation, or `-errno`.
    pub result: i32,
    /// Whether the request goes on.
    pub goes_on: bool,
    buffer: Option<u16>,
}

impl Ring {
    pub fn new(way: Way) -> Result<Self> {
        let mut builder = IoUring::builder();
        match way {
            Way::Receive | Way::Read | Way::PollFirst | Way::MultishotRead => {}
            Way::Linked | Way::Worker | Way::Peeking | Way::Computing | Way::Cancelling => {}
            Way::Silent | Way::ZeroCopy => {}
            Way::Polled(sleeps_after) => {
                builder.setup_sqpoll(u32::try_from(sleeps_after.as_millis())?);
            }
            Way::Multishot => {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
        }
        let ring = builder.build(ENTRIES)?;
        let provided = match way {
            Way::Multishot | Way::MultishotRead => Some(Provided::register(&ring)?),
            _ => None,
        };
        Ok(Self {
            way,
            ring,
            provided,
            sockets: BTreeSet::new(),
            silent: BTreeSet::new(),
            decoy: Box::default(),
            messages: HashMap::new(),
        })
    }

    /// Submits all requests, waits for one, and returns those that are complete.
    pub fn wait(&mut self) -> Result<Vec<Completion>> {
        match self.way {
            Way::Peeking => self.pass_time(peek)?,
            Way::Computing => self.pass_time(compute)?,
            _ => {}
        }
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        let (silent, messages) = (&mut self.silent, &mut self.messages);
        let completion = |entry: cqueue::Entry| {
            let token = entry.user_data();
            let goes_on = cqueue::more(entry.flags());
            let mut result = entry.result();
            if let Some(message) = messages.get_mut(&token) {
                if goes_on {
                    message.sent = result;
                    return None;
                }
                // An error has no completion but the first.
                result = if cqueue::notif(entry.flags()) {
                    message.sent
                } else {
                    result
                };
                messages.remove(&token);
            }
            // The request that is linked to such a receive moves nothing itself.
            result += i32::from(silent.remove(&token) && result == 0);
            let buffer = cqueue::buffer_select(entry.flags());
            (token < CANCELLED).then_some(Completion {
                token,
                result,
                goes_on,
                buffer,
            })
        };
        Ok(self.ring.completion().filter_map(completion).collect())
    }

    /// Submits all requests, and does something with each socket until one is complete.
    fn pass_time(&mut self, work: fn(RawFd)) -> Result<()> {
        self.ring.submit()?;
        for _ in 0..ROUNDS {
            for &socket in &self.sockets {
                if !self.ring.completion().is_empty() {
                    return Ok(());
                }
                work(socket);
            }
        }
        Ok(())
    }

    pub fn accept(&mut self, token: u64, listener: RawFd) -> Result<()> {
        let entry = opcode::Accept::new(types::Fd(listener), std::ptr::null_mut(), std::ptr::null_mut());
        self.push(entry.build().user_data(token))
    }

    pub fn connect(&mut self, token: u64, socket: RawFd, address: &libc::sockaddr_in) -> Result<()> {
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let entry = opcode::Connect::new(types::Fd(socket), std::ptr::from_ref(address).cast(), length);
        self.push(entry.build().user_data(token))
    }

    /// Receives into the buffer, or into a provided one.
    pub fn receive(&mut self, token: u64, socket: RawFd, buffer: &mut [u8]) -> Result<()> {
        self.sockets.insert(socket);
        if self.way == Way::Silent && buffer.len() == 1 {
            return self.receive_silently(token, socket, buffer);
        }
        let (socket, length) = (types::Fd(socket), u32::try_from(buffer.len())?);
        let entry = match self.way {
            Way::Read => opcode::Read::new(socket, buffer.as_mut_ptr(), length).build(),
            Way::Multishot => opcode::RecvMulti::new(socket, GROUP).build(),
            Way::MultishotRead => opcode::ReadMulti::new(socket, 0, GROUP).build(),
            Way::PollFirst => {
                let entry = opcode::Recv::new(socket, buffer.as_mut_ptr(), length);
                entry.ioprio(POLL_FIRST).build()
            }
            _ => opcode::Recv::new(socket, buffer.as_mut_ptr(), length).build(),
        };
        self.push_flagged(entry.user_data(token))
    }

    /// Prepares a socket of a call that is connected.
    pub fn connected(&mut self, socket: RawFd) -> Result<()> {
        if self.way != Way::Cancelling {
            return Ok(());
        }
        for _ in 0..2 {
            let entry = opcode::Recv::new(types::Fd(socket), self.decoy.as_mut_ptr(), 1);
            self.push(entry.build().user_data(CANCELLED))?;
        }
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::user_data(CANCELLED).all());
        self.push(cancel.build().user_data(NOTHING))
    }

    /// Returns how many bytes of a buffer the next receive may fill. `is_new`: nothing of the message is there.
    pub fn most(&self, buffer: usize, is_new: bool) -> usize {
        if self.way == Way::Silent && is_new { 1 } else { buffer }
    }

    /// Receives a byte. Its own completion is left out.
    fn receive_silently(&mut self, token: u64, socket: RawFd, buffer: &mut [u8]) -> Result<()> {
        self.silent.insert(token);
        let entry = opcode::Recv::new(types::Fd(socket), buffer.as_mut_ptr(), 1).flags(libc::MSG_WAITALL);
        let flags = Flags::IO_LINK | Flags::SKIP_SUCCESS;
        self.push(entry.build().flags(flags).user_data(NOTHING))?;
        self.push(opcode::Nop::new().build().user_data(token))
    }

    pub fn send(&mut self, token: u64, socket: RawFd, bytes: &[u8]) -> Result<()> {
        let (socket, length) = (types::Fd(socket), u32::try_from(bytes.len())?);
        let entry = match self.way {
            Way::Read | Way::MultishotRead => opcode::Write::new(socket, bytes.as_ptr(), length).build(),
            Way::ZeroCopy => {
                let message = self.messages.entry(token).insert_entry(Message::new(bytes));
                opcode::SendMsgZc::new(socket, &raw const *message.get().header).build()
            }
            _ => opcode::Send::new(socket, bytes.as_ptr(), length).build(),
        };
        self.push_flagged(entry.user_data(token))
    }

    /// Adds the bytes of a receive to `input`.
    pub fn received(&mut self, completion: &Completion, buffer: &[u8], input: &mut Vec<u8>) {
        let bytes = usize::try_from(completion.result).unwrap_or(0);
        match (&mut self.provided, completion.buffer) {
            (Some(provided), Some(number)) => {
                input.extend_from_slice(&provided.buffer(number)[..bytes]);
                provided.provide(number);
            }
            _ => input.extend_from_slice(&buffer[..bytes]),
        }
    }

    /// Submits a request that moves bytes.
    fn push_flagged(&mut self, entry: Entry) -> Result<()> {
        match self.way {
            Way::Linked => {
                self.push(entry.flags(Flags::IO_LINK))?;
                self.push(opcode::Nop::new().build().user_data(NOTHING))
            }
            Way::Worker => self.push(entry.flags(Flags::ASYNC)),
            _ => self.push(entry),
        }
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        // SAFETY: the buffers of a connection live until its last request is complete, and the provided ones for good.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// Looks at what a socket has received, without taking it. The buffer has another request.
fn peek(socket: RawFd) {
    let mut decoy = *b"GET /500/1/decoy HTTP/1.1\r\nHost: ring\r\n\r\n";
    // SAFETY: the buffer is as long as is said. One byte at most is written.
    unsafe {
        libc::recv(
            socket,
            decoy.as_mut_ptr().cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        );
    }
}

/// Counts, while the register of a first argument has the descriptor.
#[cfg(target_arch = "x86_64")]
fn compute(socket: RawFd) {
    const TURNS: u64 = 20_000;
    // SAFETY: the code changes the register that it says.
    unsafe {
        std::arch::asm!(
            "2: dec {turns}",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            in("rdi") i64::from(socket),
        );
    }
}

/// Counts, while the register of a first argument has the descriptor.
#[cfg(target_arch = "aarch64")]
fn compute(socket: RawFd) {
    const TURNS: u64 = 20_000;
    // SAFETY: the code changes the register that it says.
    unsafe {
        std::arch::asm!(
            "2: subs {turns}, {turns}, #1",
            "b.ne 2b",
            turns = inout(reg) TURNS => _,
            in("x0") i64::from(socket),
        );
    }
}

/// Buffers that the kernel chooses from.
struct Provided {
    entries: NonNull<types::BufRingEntry>,
    memory: Vec<u8>,
    tail: u16,
}

impl Provided {
    fn register(ring: &IoUring) -> Result<Self> {
        const PAGE: usize = 4096;
        let layout = Layout::from_size_align(usize::from(BUFFERS) * size_of::<types::BufRingEntry>(), PAGE)?;
        // SAFETY: the layout has a size.
        let entries = unsafe { alloc_zeroed(layout) }.cast();
        let entries = NonNull::new(entries).unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: the memory is never freed.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0)?;
        }
        let mut provided = Self {
            entries,
            memory: vec![0; usize::from(BUFFERS) * BUFFER_BYTES],
            tail: 0,
        };
        (0..BUFFERS).for_each(|number| provided.provide(number));
        Ok(provided)
    }

    fn buffer(&self, number: u16) -> &[u8] {
        &self.memory[usize::from(number) * BUFFER_BYTES..][..BUFFER_BYTES]
    }

    fn provide(&mut self, number: u16) {
        let address = self.buffer(number).as_ptr() as u64;
        // SAFETY: there are as many entries, and the kernel reads those below the tail only.
        let entry = unsafe { self.entries.add(usize::from(self.tail % BUFFERS)).as_mut() };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned, and the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(types::BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
