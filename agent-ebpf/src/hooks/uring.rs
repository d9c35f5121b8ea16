//! Place in user memory of the bytes that an io_uring moves.
//!
//! A request of an io_uring is carried out in the thread that submits it, or later, when its socket is ready or a worker
//! takes it. The event of the socket does not name it. In the first case it is the last request that the thread has
//! submitted; else the one that is known to wait for this socket, which is forgotten once it completes. Without a
//! request, or with several that wait, the content of the bytes is a gap.

use agent_ebpf::{abi::Direction, slot::Slot};
use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{map, raw_tracepoint},
    maps::{Array, LruHashMap},
    programs::RawTracePointContext,
};

use super::{buffers::Buffers, is_target};
use crate::{
    copy::Source,
    kernel::{half_word, is_missing, offset, word},
    maps::{Marks, is_marked, mark, unix_user},
    socket::Socket,
};

/// Operations: `enum io_uring_op`, include/uapi/linux/io_uring.h.
mod operation {
    pub const READV: u8 = 1;
    pub const WRITEV: u8 = 2;
    pub const READ_FIXED: u8 = 4;
    pub const WRITE_FIXED: u8 = 5;
    pub const SENDMSG: u8 = 9;
    pub const RECVMSG: u8 = 10;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;
    pub const SEND_ZC: u8 = 47;
}

/// `REQ_F_BUFFER_SELECT`: the kernel chooses the buffer.
const BUFFER_SELECT: u32 = 1 << 5;
/// `IORING_RECVSEND_BUNDLE` and `IORING_SEND_VECTORIZED`: the bytes lie in several buffers.
const SEVERAL_BUFFERS: u32 = 1 << 4 | 1 << 5;

/// Marks of processes that have an io_uring, by [`unix_user`].
#[map]
static RING_USERS: Array<Marks> = Array::with_max_entries(16, 0);

/// The request that each thread has submitted last, by thread id.
#[map]
static SUBMITTED: LruHashMap<u32, Slot<u64>> = LruHashMap::with_max_entries(1024, 0);

/// Requests that wait, by address of the file and direction (the lowest bit). [`SEVERAL`]: more than one, which is for
/// good: nothing tells how many are left.
#[map]
static WAITING: LruHashMap<u64, Slot<u64>> = LruHashMap::with_max_entries(16_384, 0);

/// Entry of [`WAITING`] that names no request, because several wait.
const SEVERAL: u64 = 1;

/// A `struct io_kiocb`.
#[derive(Clone, Copy)]
struct Request(u64);

impl Request {
    /// Returns the request that a tracepoint of io_uring is about.
    #[inline(always)]
    fn of(ctx: &RawTracePointContext, argument: usize) -> Self {
        // SAFETY: the kernel passes more words.
        Self(unsafe { *ctx.as_ptr().cast::<u64>().add(argument) })
    }

    #[inline(always)]
    fn operation(self) -> u8 {
        // The operation is the lowest byte of a word that other fields share.
        half_word(self.0 + offset!(request_operation) as u64).unwrap_or(0) as u8
    }

    /// Returns the direction in which the request moves bytes; `None` if it moves none, or not as a stream.
    #[inline(always)]
    fn direction(self) -> Option<Direction> {
        use operation::{READ, READ_FIXED, READV, RECV, RECVMSG, SEND, SEND_ZC, SENDMSG, WRITE, WRITE_FIXED, WRITEV};
        match self.operation() {
            READ | READ_FIXED | READV | RECV | RECVMSG => Some(Direction::Read),
            WRITE | WRITE_FIXED | WRITEV | SEND | SEND_ZC | SENDMSG => Some(Direction::Write),
            _ => None,
        }
    }

    /// Returns the key of the request in [`WAITING`].
    #[inline(always)]
    fn key(self) -> Option<u64> {
        let file = word(self.0 + offset!(request_file) as u64)?;
        Some(file | self.direction()? as u64)
    }

    /// Returns the place of the bytes that the request has just moved. `is_fresh`: it is carried out within its
    /// submission. Later, an array of buffers may not be there any more: the kernel has copied it.
    #[inline(always)]
    fn buffers(self, is_fresh: bool) -> Buffers {
        use operation::{READ, READ_FIXED, READV, RECV, SEND, SEND_ZC, WRITE, WRITE_FIXED, WRITEV};
        let operation = self.operation();
        let (source, address) = match operation {
            SEND | RECV | SEND_ZC => {
                let flags = half_word(self.0 + offset!(request_message_flags) as u64).unwrap_or(SEVERAL_BUFFERS);
                if flags & SEVERAL_BUFFERS != 0 {
                    return Buffers::NOWHERE;
                }
                (Source::Buffer, offset!(request_buffer))
            }
            READ | READ_FIXED | WRITE | WRITE_FIXED => (Source::Buffer, offset!(request_address)),
            READV | WRITEV if is_fresh && !self.selects() => (Source::Vector, offset!(request_address)),
            operation::SENDMSG | operation::RECVMSG if is_fresh && !self.selects() => {
                let header = word(self.0 + offset!(request_buffer) as u64).unwrap_or(0);
                return Buffers::message(header);
            }
            _ => return Buffers::NOWHERE,
        };
        let Some(address) = word(self.0 + address as u64) else {
            return Buffers::NOWHERE;
        };
        let count = half_word(self.0 + offset!(request_length) as u64).unwrap_or(0) as u64;
        Buffers { source, address, count }
    }

    /// Returns whether the kernel chooses the buffer when there are bytes.
    #[inline(always)]
    fn selects(self) -> bool {
        half_word(self.0 + offset!(request_flags) as u64).is_none_or(|flags| flags & BUFFER_SELECT != 0)
    }
}

/// TRACE_EVENT(io_uring_submit_req, TP_PROTO(struct io_kiocb *req)): before the request is carried out. Its file is not
/// known yet.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
pub fn uring_submit(ctx: RawTracePointContext) -> u32 {
    if is_target() {
        let id = bpf_get_current_pid_tgid();
        mark(&RING_USERS, unix_user((id >> 32) as u32), true);
        let _ = SUBMITTED.insert(&(id as u32), &Slot::new(Request::of(&ctx, 0).0), 0);
    }
    0
}

/// TRACE_EVENT(io_uring_poll_arm, TP_PROTO(struct io_kiocb *req, …)): the socket is not ready.
#[raw_tracepoint(tracepoint = "io_uring_poll_arm")]
pub fn uring_poll(ctx: RawTracePointContext) -> u32 {
    note_waiting(Request::of(&ctx, 0))
}

/// TRACE_EVENT(io_uring_queue_async_work, TP_PROTO(struct io_kiocb *req, …)): a worker takes the request.
#[raw_tracepoint(tracepoint = "io_uring_queue_async_work")]
pub fn uring_worker(ctx: RawTracePointContext) -> u32 {
    note_waiting(Request::of(&ctx, 0))
}

#[inline(always)]
fn note_waiting(request: Request) -> u32 {
    if !is_target() {
        return 0;
    }
    forget_submitted(request);
    let Some(key) = request.key() else { return 0 };
    let now = match waiting(key) {
        0 => request.0,
        before if before == request.0 => return 0,
        _ => SEVERAL,
    };
    let _ = WAITING.insert(&key, &Slot::new(now), 0);
    0
}

/// TRACE_EVENT(io_uring_complete, TP_PROTO(struct io_ring_ctx *ctx, void *req, …)).
#[raw_tracepoint(tracepoint = "io_uring_complete")]
pub fn uring_complete(ctx: RawTracePointContext) -> u32 {
    let request = Request::of(&ctx, 1);
    // A completion of a request that goes on has none.
    if request.0 == 0 || !is_target() {
        return 0;
    }
    forget_submitted(request);
    if let Some(key) = request.key()
        && waiting(key) != SEVERAL
    {
        let _ = WAITING.remove(&key);
    }
    0
}

/// Forgets the thread's last request, if it is this one: it is not carried out within its submission, or that is over.
#[inline(always)]
fn forget_submitted(request: Request) {
    let tid = bpf_get_current_pid_tgid() as u32;
    if submitted(tid) == request.0 {
        let _ = SUBMITTED.remove(&tid);
    }
}

/// Returns the entry of [`SUBMITTED`]; 0: none.
#[inline(always)]
fn submitted(tid: u32) -> u64 {
    // SAFETY: memory of a map lives longer than the programs that use it, and its values are slots.
    unsafe { SUBMITTED.get(&tid) }.map_or(0, Slot::get)
}

/// Returns the entry of [`WAITING`]; 0: none.
#[inline(always)]
fn waiting(key: u64) -> u64 {
    // SAFETY: as above.
    unsafe { WAITING.get(&key) }.map_or(0, Slot::get)
}

/// Returns the place of the bytes that an io_uring of the current process has moved on a socket.
#[inline(always)]
pub fn of_request(socket: &Socket, direction: Direction) -> Buffers {
    let id = bpf_get_current_pid_tgid();
    if is_missing!(request_operation) || !is_marked(&RING_USERS, unix_user((id >> 32) as u32)) {
        return Buffers::NOWHERE;
    }
    let key = socket.file | direction as u64;
    let fresh = Request(submitted(id as u32));
    if fresh.0 != 0 && fresh.key() == Some(key) {
        return fresh.buffers(true);
    }
    let late = Request(waiting(key));
    if late.0 == 0 || late.0 == SEVERAL || late.key() != Some(key) {
        return Buffers::NOWHERE;
    }
    late.buffers(false)
}
