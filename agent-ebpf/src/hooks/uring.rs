//! Place in user memory of the bytes that an io_uring moves.
//!
//! The event of a socket does not name the request that moves its bytes. A request is carried out where it is submitted;
//! or in a worker, or once those that it is linked to are complete; or again, when its socket is ready. In the first two
//! cases the thread has just *begun* it; in the last one it is the request that *waits* for this socket and direction.
//! Without such a request, or with several that wait, the content of the bytes is a gap, which is counted.
//!
//! The programs at requests take time of all processes with an io_uring, so they are attached once a target has one.
//! [`note_ring`] tells the agent.
//!
//! Some requests end without an event, such as those whose completion nobody wants. So a request may be gone that still
//! seems to wait: it counts as long as its memory has this file and direction.

use agent_ebpf::{
    abi::{Counter, Direction, Kind, Unseen, UnseenCause},
    slot::Slot,
};
use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::bpf_get_current_pid_tgid,
    macros::{map, raw_tracepoint},
    maps::{Array, LruHashMap},
    programs::RawTracePointContext,
};

use super::{buffers::Buffers, is_target, sock::with_file};
use crate::{
    copy::Source,
    counters::count,
    kernel::{Task, half_word, is_missing, offset, word},
    maps::{Marks, is_marked, mark, unix_user},
    socket::{Socket, inode},
    submit,
};

/// Operations that move bytes of streams: `enum io_uring_op`, include/uapi/linux/io_uring.h, as of 6.19. `RECV_ZC` (58)
/// leaves them in memory that the network card has filled, and makes no event of a socket; `SPLICE` (30) moves them
/// without user memory.
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
    pub const SENDMSG_ZC: u8 = 48;
    pub const READ_MULTISHOT: u8 = 49;
    pub const READV_FIXED: u8 = 60;
    pub const WRITEV_FIXED: u8 = 61;
}

/// `REQ_F_BUFFER_SELECT`: the kernel chooses the buffer.
const BUFFER_SELECT: u32 = 1 << 5;
/// `REQ_F_CQE_SKIP`: the completion of the request is no event.
const SILENT: u32 = 1 << 6;
/// `REQ_F_LINK` and `REQ_F_HARDLINK`: the next request waits for this one.
const LINKS: u32 = 1 << 2 | 1 << 3;
/// `REQ_F_IO_DRAIN` and `REQ_F_FORCE_ASYNC`: the request is not carried out within its submission.
const DEFERRED: u32 = 1 << 1 | 1 << 4;
/// `IORING_RECVSEND_POLL_FIRST`: the request waits for its socket before it is tried.
const POLL_FIRST: u32 = 1;
/// `IORING_RECV_MULTISHOT`: the request goes on when it has received.
const MULTISHOT: u32 = 1 << 1;
/// `IORING_RECVSEND_BUNDLE` and `IORING_SEND_VECTORIZED`: the bytes lie in several buffers.
const SEVERAL_BUFFERS: u32 = 1 << 4 | 1 << 5;
/// `ITER_UBUF` (include/linux/uio.h), of kernels that keep the iterator of a receive or send: 6.10 and newer.
const ONE_BUFFER: u32 = 0;

/// Marks of processes that have an io_uring, by [`unix_user`].
#[map]
static RING_USERS: Array<Marks> = Array::with_max_entries(16, 0);

/// The request that each thread has begun last, with [`MOVED`] and [`LATER`], by thread id.
#[map]
static BEGUN: LruHashMap<u32, Slot<u64>> = LruHashMap::with_max_entries(8192, 0);

/// Flag in [`BEGUN`]: the request has moved bytes. It moves no others, unless it is one that goes on.
const MOVED: u64 = 1;
/// Flag in [`BEGUN`]: the request may be carried out after its submission.
const LATER: u64 = 2;
/// All flags in [`BEGUN`]: a request has an aligned address.
const FLAGS: u64 = MOVED | LATER;

/// Requests that wait for a direction of a socket; 0 in a place that is free. With [`SEVERAL`] in a place, more wait than
/// there are places, and nothing tells when they end. An entry without [`SEVERAL`] is removed with its last request:
/// those of sockets that are gone would evict those of idle connections.
#[map]
static WAITING: LruHashMap<Key, [Slot<u64>; PLACES]> = LruHashMap::with_max_entries(16_384, 0);

/// Places of an entry of [`WAITING`].
const PLACES: usize = 4;

/// Stands for requests that are not known one by one.
const SEVERAL: u64 = 1;

/// Direction of a socket: address of its file, with the direction as lowest bit, and inode number. Files have the
/// addresses of earlier ones.
type Key = [u64; 2];

#[inline(always)]
fn key(file: u64, direction: Direction) -> Option<Key> {
    Some([file | direction as u64, inode(file)?])
}

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
        use operation::{
            READ, READ_FIXED, READ_MULTISHOT, READV, READV_FIXED, RECV, RECVMSG, SEND, SEND_ZC, SENDMSG, SENDMSG_ZC,
            WRITE, WRITE_FIXED, WRITEV, WRITEV_FIXED,
        };
        match self.operation() {
            READ | READ_FIXED | READ_MULTISHOT | READV | READV_FIXED | RECV | RECVMSG => Some(Direction::Read),
            WRITE | WRITE_FIXED | WRITEV | WRITEV_FIXED | SEND | SEND_ZC | SENDMSG | SENDMSG_ZC => {
                Some(Direction::Write)
            }
            _ => None,
        }
    }

    /// Returns the key of the request in [`WAITING`]; `None` before it has its file.
    #[inline(always)]
    fn key(self) -> Option<Key> {
        let file = word(self.0 + offset!(request_file) as u64)?;
        if file == 0 {
            return None;
        }
        key(file, self.direction()?)
    }

    /// Returns whether the request moves bytes of this file in this direction. Not by a comparison of keys that may be
    /// absent: the compiler makes arithmetic of that, with a pointer as the absent one, which verifiers refuse.
    #[inline(always)]
    fn is_on(self, [place, _]: Key) -> bool {
        match (word(self.0 + offset!(request_file) as u64), self.direction()) {
            (Some(file), Some(own)) => file | own as u64 == place,
            _ => false,
        }
    }

    /// Returns whether the request goes on when it has moved bytes.
    #[inline(always)]
    fn goes_on(self) -> bool {
        match self.operation() {
            operation::READ_MULTISHOT => true,
            operation::RECV | operation::RECVMSG => self.has_message_flags(MULTISHOT),
            _ => false,
        }
    }

    #[inline(always)]
    fn has(self, flags: u32) -> bool {
        half_word(self.0 + offset!(request_flags) as u64).is_none_or(|set| set & flags != 0)
    }

    /// Returns the place of the bytes that the request has just moved. `is_fresh`: it is carried out within its
    /// submission. Later, an array of buffers may not be there any more: the kernel has copied it.
    #[inline(always)]
    fn buffers(self, is_fresh: bool, bytes: u64) -> Buffers {
        use operation::{
            READ, READ_FIXED, READ_MULTISHOT, READV, READV_FIXED, RECV, RECVMSG, SEND, SEND_ZC, SENDMSG, SENDMSG_ZC,
            WRITE, WRITE_FIXED, WRITEV, WRITEV_FIXED,
        };
        let is_selected = self.has(BUFFER_SELECT);
        match self.operation() {
            SEND | RECV | SEND_ZC if self.has_message_flags(SEVERAL_BUFFERS) => Buffers::NOWHERE,
            SEND | RECV if is_selected => self.selected(bytes),
            SEND | RECV | SEND_ZC => self.given(Source::Buffer, offset!(request_buffer)),
            READ | READ_FIXED | READ_MULTISHOT | WRITE | WRITE_FIXED => {
                self.given(Source::Buffer, offset!(request_address))
            }
            READV | WRITEV | READV_FIXED | WRITEV_FIXED if is_fresh && !is_selected => {
                self.given(Source::Vector, offset!(request_address))
            }
            SENDMSG | SENDMSG_ZC | RECVMSG if is_fresh && !is_selected && !self.has_message_flags(POLL_FIRST) => {
                Buffers::message(word(self.0 + offset!(request_buffer) as u64).unwrap_or(0))
            }
            _ => Buffers::NOWHERE,
        }
    }

    /// Returns whether the flags of a request that sends or receives have one of these.
    #[inline(always)]
    fn has_message_flags(self, flags: u32) -> bool {
        half_word(self.0 + offset!(request_message_flags) as u64).is_none_or(|set| set & flags != 0)
    }

    /// Returns the buffer, or the array of buffers, whose address the request has in this field.
    #[inline(always)]
    fn given(self, source: Source, field: u32) -> Buffers {
        let Some(address) = word(self.0 + field as u64) else {
            return Buffers::NOWHERE;
        };
        let count = half_word(self.0 + offset!(request_length) as u64).unwrap_or(0) as u64;
        Buffers { source, address, count }
    }

    /// Returns the buffer that the kernel has chosen for a send or a receive. Since 6.18 only the iterator has it
    /// (`io_recv_buf_select`, io_uring/net.c), which has gone on by the bytes that were moved.
    #[inline(always)]
    fn selected(self, bytes: u64) -> Buffers {
        let message = match word(self.0 + offset!(request_data) as u64) {
            // Before 6.10.
            Some(0) => return self.given(Source::Buffer, offset!(request_buffer)),
            Some(message) => message,
            None => return Buffers::NOWHERE,
        };
        let kind = half_word(message + offset!(message_kind) as u64).map(|kind| kind & u8::MAX as u32);
        let start = word(message + offset!(message_buffer) as u64);
        let moved = word(message + offset!(message_moved) as u64);
        match (kind, start, moved) {
            (Some(ONE_BUFFER), Some(start), Some(moved)) if moved >= bytes => Buffers {
                source: Source::Buffer,
                address: start + moved - bytes,
                count: bytes,
            },
            _ => Buffers::NOWHERE,
        }
    }
}

/// TRACE_EVENT(io_uring_create, TP_PROTO(int fd, void *ctx, …)): a process has made an io_uring.
#[raw_tracepoint(tracepoint = "io_uring_create")]
pub fn uring_create(_ctx: RawTracePointContext) -> u32 {
    if is_target() {
        note_ring(bpf_get_current_pid_tgid());
    }
    0
}

/// Notes that the process of a thread has an io_uring, and reports it once.
#[inline(always)]
fn note_ring(id: u64) {
    let user = unix_user((id >> 32) as u32);
    if is_marked(&RING_USERS, user) {
        return;
    }
    let submitted = submit::submit(Unseen {
        header: submit::header(Kind::Unseen, 0, 0),
        cause: UnseenCause::Requests as u32,
        pad: 0,
    });
    // Else the next bytes tell.
    if submitted {
        mark(&RING_USERS, user, true);
    }
}

/// TRACE_EVENT(io_uring_submit_req, TP_PROTO(struct io_kiocb *req)): before the request is carried out. Its file is not
/// known yet.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
pub fn uring_submit(ctx: RawTracePointContext) -> u32 {
    if !is_target() {
        return 0;
    }
    let id = bpf_get_current_pid_tgid();
    mark(&RING_USERS, unix_user((id >> 32) as u32), true);
    let request = Request::of(&ctx, 0);
    let before = Request(begun(id as u32) & !FLAGS);
    let waits_for_another = before.0 != 0 && before.has(LINKS);
    let later = if waits_for_another || request.has(DEFERRED) {
        LATER
    } else {
        0
    };
    begin(id as u32, request, later);
    0
}

/// TRACE_EVENT(io_uring_file_get, TP_PROTO(struct io_kiocb *req, int fd)): the request is carried out for the first time.
/// Does not fire for a registered file.
#[raw_tracepoint(tracepoint = "io_uring_file_get")]
pub fn uring_file(ctx: RawTracePointContext) -> u32 {
    if !is_target() {
        return 0;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let request = Request::of(&ctx, 0);
    if begun(tid) & !FLAGS != request.0 {
        begin(tid, request, LATER);
    }
    0
}

/// Notes the request that the thread begins. The one before waits, unless it has moved its bytes, or was refused and so
/// is noted, or is complete: not each wait has an event.
#[inline(always)]
fn begin(tid: u32, request: Request, later: u64) {
    let before = begun(tid);
    if before != 0 && before & MOVED == 0 && before & !FLAGS != request.0 {
        note_waiting(Request(before & !FLAGS));
    }
    let entry = request.0 | later;
    match begun_slot(tid) {
        // Cheaper than an insertion.
        Some(slot) => slot.set(entry),
        None => {
            let _ = BEGUN.insert(&tid, &Slot::new(entry), 0);
        }
    }
}

/// TRACE_EVENT(io_uring_poll_arm, TP_PROTO(struct io_kiocb *req, …)): the socket is not ready.
#[raw_tracepoint(tracepoint = "io_uring_poll_arm")]
pub fn uring_poll(ctx: RawTracePointContext) -> u32 {
    waits(Request::of(&ctx, 0))
}

/// TRACE_EVENT(io_uring_queue_async_work, TP_PROTO(struct io_kiocb *req, …)): a worker takes the request.
#[raw_tracepoint(tracepoint = "io_uring_queue_async_work")]
pub fn uring_worker(ctx: RawTracePointContext) -> u32 {
    waits(Request::of(&ctx, 0))
}

#[inline(always)]
fn waits(request: Request) -> u32 {
    if is_target() {
        forget_begun(request);
        note_waiting(request);
    }
    0
}

#[inline(always)]
fn note_waiting(request: Request) {
    let Some(key) = request.key() else { return };
    // Until it is found there: other programs insert and remove the entry (`forget_waiting`), or take the same place.
    for _ in 0..ATTEMPTS {
        let Some(places) = waiting(key) else {
            let entry = [request.0, 0, 0, 0].map(Slot::new);
            match WAITING.insert(&key, &entry, BPF_NOEXIST as u64) {
                Ok(()) => return,
                Err(_) => continue,
            }
        };
        let mut free = PLACES;
        for (place, slot) in places.iter().enumerate() {
            match slot.get() {
                known if known == request.0 => return,
                known if is_waiting(known, key) => {}
                _ => free = place,
            }
        }
        match places.get(free) {
            Some(slot) => slot.set(request.0),
            None => return places[0].set(SEVERAL),
        }
    }
}

/// Upper bound of the times that [`note_waiting`] looks: it notes the request, finds that the entry was removed, and finds
/// the request in a new one.
const ATTEMPTS: u32 = 3;

/// Notes that a request does not wait any more.
#[inline(always)]
fn forget_waiting(request: Request, key: Key) {
    let Some(places) = waiting(key) else { return };
    let mut is_free = true;
    for slot in places {
        let one = slot.get();
        if one == request.0 {
            slot.set(0);
        } else if is_waiting(one, key) {
            is_free = false;
        }
    }
    if !is_free {
        return;
    }
    let _ = WAITING.remove(&key);
    // Another program may have taken a place meanwhile. It finds its request gone, or the request is found here. The memory
    // may be another entry's by now, whose requests are on another file.
    for slot in places {
        let one = slot.get();
        if one != SEVERAL && is_waiting(one, key) {
            note_waiting(Request(one));
        }
    }
}

/// Returns whether what is in a place stands for a request that waits.
#[inline(always)]
fn is_waiting(one: u64, key: Key) -> bool {
    one == SEVERAL || one != 0 && Request(one).is_on(key)
}

/// Returns the only request that waits; [`SEVERAL`] if there are more; 0 if there is none.
#[inline(always)]
fn only_waiting(key: Key) -> u64 {
    let Some(places) = waiting(key) else { return 0 };
    let mut found = 0;
    for slot in places {
        let one = slot.get();
        if is_waiting(one, key) {
            found = if found == 0 { one } else { SEVERAL };
        }
    }
    found
}

/// Notes that a socket has refused to move bytes. A request of an io_uring then waits.
#[inline(always)]
pub fn note_refused(task: Task, sock: u64, direction: Direction, result: i32) {
    const EAGAIN: i32 = -11;
    if result != EAGAIN {
        return;
    }
    let id = task.ids();
    if !has_ring(id) {
        return;
    }
    if let Some(slot) = begun_slot(id as u32)
        && slot.get() != 0
        && let Some(socket) = with_file(sock)
        && let Some(key) = key(socket.file, direction)
    {
        let request = Request(slot.get() & !FLAGS);
        if request.is_on(key) {
            slot.set(0);
            note_waiting(request);
        }
    }
}

/// TRACE_EVENT(io_uring_complete, TP_PROTO(struct io_ring_ctx *ctx, void *req, …)).
#[raw_tracepoint(tracepoint = "io_uring_complete")]
pub fn uring_complete(ctx: RawTracePointContext) -> u32 {
    let request = Request::of(&ctx, 1);
    // A completion of a request that goes on has none.
    if request.0 == 0 || !is_target() && !is_thread_of_kernel() {
        return 0;
    }
    forget_begun(request);
    if let Some(key) = request.key() {
        forget_waiting(request, key);
    }
    0
}

/// Returns whether the current thread is one of the kernel, without a process. Such a thread ends the requests of a ring
/// that is closed, whose process may have ended.
#[inline(always)]
fn is_thread_of_kernel() -> bool {
    !is_missing!(task_mm) && word(Task::current().field(offset!(task_mm))) == Some(0)
}

/// Forgets the thread's last request, if it is this one.
#[inline(always)]
fn forget_begun(request: Request) {
    if let Some(slot) = begun_slot(bpf_get_current_pid_tgid() as u32)
        && slot.get() & !FLAGS == request.0
    {
        slot.set(0);
    }
}

#[inline(always)]
fn begun_slot(tid: u32) -> Option<&'static Slot<u64>> {
    // SAFETY: memory of a map lives longer than the programs that use it, and its values are slots.
    unsafe { BEGUN.get(&tid) }
}

/// Returns the entry of [`BEGUN`]; 0: none.
#[inline(always)]
fn begun(tid: u32) -> u64 {
    begun_slot(tid).map_or(0, Slot::get)
}

#[inline(always)]
fn waiting(key: Key) -> Option<&'static [Slot<u64>; PLACES]> {
    // SAFETY: as above.
    unsafe { WAITING.get(&key) }
}

/// Returns whether the process of a thread has an io_uring, and the fields of its requests are known.
#[inline(always)]
pub fn has_ring(id: u64) -> bool {
    !is_missing!(request_operation) && is_marked(&RING_USERS, unix_user((id >> 32) as u32))
}

/// Returns the place of the bytes that an io_uring of the current process has moved on a socket.
#[inline(always)]
pub fn of_request(socket: &Socket, direction: Direction, bytes: u64) -> Buffers {
    let id = bpf_get_current_pid_tgid();
    note_ring(id);
    let buffers = match key(socket.file, direction) {
        Some(key) if has_ring(id) => moved_by_request(id as u32, key, bytes),
        _ => None,
    };
    match buffers {
        Some(buffers) => buffers,
        None => {
            count(Counter::UnknownRequest, bytes);
            Buffers::NOWHERE
        }
    }
}

/// Returns the place of the bytes; `None` if it is not known which request has moved them.
#[inline(always)]
fn moved_by_request(tid: u32, key: Key, bytes: u64) -> Option<Buffers> {
    if let Some(slot) = begun_slot(tid) {
        let entry = slot.get();
        let request = Request(entry & !FLAGS);
        if request.0 != 0 && request.is_on(key) && (entry & MOVED == 0 || request.goes_on()) {
            slot.set(entry | MOVED);
            return Some(request.buffers(entry & FLAGS == 0, bytes));
        }
    }
    let request = match only_waiting(key) {
        0 | SEVERAL => return None,
        one => Request(one),
    };
    // Nothing tells when it is complete. If it moves a part of its bytes and waits again, that is an event.
    if request.has(SILENT) && !request.goes_on() {
        forget_waiting(request, key);
    }
    Some(request.buffers(false, bytes))
}
