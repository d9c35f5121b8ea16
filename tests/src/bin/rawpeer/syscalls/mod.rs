//! System calls, each made by its number: a library would sometimes choose another one.

mod ways;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use libc::{c_int, c_long};

pub use ways::{Address, Duplicate, Receiving, Sending};

/// A system call's error number.
#[derive(Clone, Copy, Debug)]
pub struct Errno(pub i32);

/// Listens; returns the socket and its address, with the chosen port in place of port 0.
pub fn listen(address: &Address, backlog: usize) -> Result<(RawFd, String), Errno> {
    let fd = socket(address, 0)?;
    let (bytes, length) = raw(address);
    call(libc::SYS_bind, [fd as usize, bytes.as_ptr() as usize, length])?;
    call(libc::SYS_listen, [fd as usize, backlog])?;
    let (address, prefix) = match address {
        Address::Ip(address) => (address, ""),
        Address::Multipath(address) => (address, "mptcp:"),
        Address::Unix(_) => return Ok((fd, String::new())),
    };
    let (mut bound, mut length) = ([0u8; 128], 128u32);
    let pointers = [bound.as_mut_ptr() as usize, ptr::from_mut(&mut length) as usize];
    call(libc::SYS_getsockname, [fd as usize, pointers[0], pointers[1]])?;
    let port = u16::from_be_bytes([bound[2], bound[3]]);
    Ok((fd, format!("{prefix}{}", SocketAddr::new(address.ip(), port))))
}

/// Returns a socket that connects by its first write (TCP Fast Open), with the result of that write.
pub fn connect_by_sending(address: &Address, bytes: &[u8]) -> Result<(RawFd, Result<usize, Errno>), Errno> {
    let fd = socket(address, 0)?;
    let (to, length) = raw(address);
    let (buffer, flags) = (bytes.as_ptr() as usize, libc::MSG_FASTOPEN as usize);
    let sent = call(
        libc::SYS_sendto,
        [fd as usize, buffer, bytes.len(), flags, to.as_ptr() as usize, length],
    );
    Ok((fd, sent))
}

/// Returns a socket whose connect(2) returns at once, because its first write carries the SYN if the server is known to
/// allow it (`TCP_FASTOPEN_CONNECT`).
pub fn connect_late(address: &Address) -> Result<(RawFd, Result<usize, Errno>), Errno> {
    let fd = socket(address, 0)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1i32.to_ne_bytes())?;
    let (bytes, length) = raw(address);
    Ok((
        fd,
        call(libc::SYS_connect, [fd as usize, bytes.as_ptr() as usize, length]),
    ))
}

/// Lets a listener accept data with SYNs.
pub fn fast_open(listener: RawFd) -> Result<usize, Errno> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16i32.to_ne_bytes())
}

/// Lets the kernel encrypt sent bytes and decrypt received ones, with fixed keys: TLS 1.2, AES-128-GCM (`struct
/// tls12_crypto_info_aes_gcm_128`).
pub fn kernel_tls(fd: RawFd) -> Result<usize, Errno> {
    const SOL_TLS: c_int = 282;
    const TCP_ULP: c_int = 31;
    const TLS_TX: c_int = 1;
    const TLS_RX: c_int = 2;
    const TLS_1_2: u16 = 0x0303;
    const AES_GCM_128: u16 = 51;
    set_option(fd, libc::IPPROTO_TCP, TCP_ULP, b"tls")?;
    let mut keys = [TLS_1_2.to_ne_bytes(), AES_GCM_128.to_ne_bytes()].concat();
    // Initialisation vector, key, salt, record number.
    keys.extend([7; 8 + 16 + 4 + 8]);
    set_option(fd, SOL_TLS, TLS_TX, &keys)?;
    set_option(fd, SOL_TLS, TLS_RX, &keys)
}

fn set_option(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> Result<usize, Errno> {
    let place = [fd as usize, level as usize, name as usize];
    let value = [value.as_ptr() as usize, value.len()];
    call(libc::SYS_setsockopt, [place[0], place[1], place[2], value[0], value[1]])
}

/// Number of words of a processor mask: room for 1,024 processors.
pub const PROCESSOR_WORDS: usize = 16;

/// Returns the processors that this thread may run on.
pub fn processors() -> Result<[u64; PROCESSOR_WORDS], Errno> {
    let mut mask = [0; PROCESSOR_WORDS];
    let address = mask.as_mut_ptr() as usize;
    call(libc::SYS_sched_getaffinity, [0, size_of_val(&mask), address])?;
    Ok(mask)
}

/// Lets this thread run on these processors only.
pub fn run_on(mask: &[u64; PROCESSOR_WORDS]) -> Result<usize, Errno> {
    let address = mask.as_ptr() as usize;
    call(libc::SYS_sched_setaffinity, [0, size_of_val(mask), address])
}

/// Returns the thread's own id.
pub fn thread_id() -> i32 {
    call(libc::SYS_gettid, []).map_or(0, |id| id as i32)
}

/// Returns whether a thread of this process is in read(2).
pub fn reads_a_socket(thread: i32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
    call.is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_read)))
}

/// Makes a descriptor name the file of another one (dup2).
pub fn replace(fd: RawFd, by: RawFd) -> Result<usize, Errno> {
    dup2(by as usize, fd as usize)
}

#[cfg(target_arch = "x86_64")]
fn dup2(from: usize, to: usize) -> Result<usize, Errno> {
    call(libc::SYS_dup2, [from, to])
}

/// Calls dup3(2) as a C library does where dup2(2) does not exist.
#[cfg(not(target_arch = "x86_64"))]
fn dup2(from: usize, to: usize) -> Result<usize, Errno> {
    call(libc::SYS_dup3, [from, to, 0])
}

/// Moves bytes from one socket to another through a pipe.
pub fn splice_through(from: RawFd, to: RawFd, bytes: usize) -> Result<usize, Errno> {
    let [reader, writer] = pipe()?;
    let mut left = bytes;
    while left > 0 {
        let mut moved = call(libc::SYS_splice, [from as usize, 0, writer, 0, left, 0])?;
        if moved == 0 {
            break;
        }
        left -= moved;
        while moved > 0 {
            moved -= call(libc::SYS_splice, [reader, 0, to as usize, 0, moved, 0])?;
        }
    }
    close(reader as RawFd)?;
    close(writer as RawFd)?;
    Ok(bytes - left)
}

/// Connects. Returns the socket in any case.
pub fn connect(
    address: &Address,
    local: Option<&Address>,
    nonblocking: bool,
) -> Result<(RawFd, Result<usize, Errno>), Errno> {
    let fd = socket(address, if nonblocking { libc::SOCK_NONBLOCK } else { 0 })?;
    if let Some(local) = local {
        let (bytes, length) = raw(local);
        call(libc::SYS_bind, [fd as usize, bytes.as_ptr() as usize, length])?;
    }
    let (bytes, length) = raw(address);
    Ok((
        fd,
        call(libc::SYS_connect, [fd as usize, bytes.as_ptr() as usize, length]),
    ))
}

/// Accepts one connection, by accept4(2) or accept(2).
pub fn accept(listener: RawFd, with_flags: bool) -> Result<RawFd, Errno> {
    let number = if with_flags {
        libc::SYS_accept4
    } else {
        libc::SYS_accept
    };
    Ok(call(number, [listener as usize, 0, 0, 0])? as RawFd)
}

/// Tag in the highest byte of the address of all buffers.
static TAG: AtomicUsize = AtomicUsize::new(0);

/// Adds a tag to the highest byte of addresses, which some processors (64-bit ARM) ignore.
#[cfg(target_arch = "aarch64")]
pub fn tag_addresses() -> Result<usize, Errno> {
    // <https://docs.kernel.org/arch/arm64/tagged-address-abi.html>
    const PR_SET_TAGGED_ADDR_CTRL: usize = 55;
    const PR_TAGGED_ADDR_ENABLE: usize = 1;
    let allowed = call(
        libc::SYS_prctl,
        [PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE, 0, 0, 0],
    )?;
    TAG.store(0x2a << 56, Ordering::Relaxed);
    Ok(allowed)
}

/// Fails: this processor has no such addresses.
#[cfg(not(target_arch = "aarch64"))]
pub fn tag_addresses() -> Result<usize, Errno> {
    Err(Errno(libc::ENOTSUP))
}

/// Removes the tag from further addresses.
pub fn untag_addresses() -> usize {
    TAG.swap(0, Ordering::Relaxed)
}

/// Returns an address as system calls get it.
fn given(address: usize) -> usize {
    address | TAG.load(Ordering::Relaxed)
}

/// Sends buffers by one system call (`sendmmsg`: one message for each).
pub fn send(fd: RawFd, how: Sending, buffers: &[&[u8]]) -> Result<usize, Errno> {
    let whole = buffers.concat();
    let mut vectors: Vec<libc::iovec> = buffers
        .iter()
        .map(|buffer| libc::iovec {
            iov_base: given(buffer.as_ptr() as usize) as *mut _,
            iov_len: buffer.len(),
        })
        .collect();
    let (socket, start, count) = (fd as usize, vectors.as_mut_ptr(), vectors.len());
    let bytes = [socket, given(whole.as_ptr() as usize), whole.len()];
    match how {
        Sending::Write => call(libc::SYS_write, bytes),
        Sending::SendTo => call(libc::SYS_sendto, [bytes[0], bytes[1], bytes[2], 0, 0, 0]),
        Sending::More | Sending::Urgent => {
            let urgent = matches!(how, Sending::Urgent);
            let flags = if urgent { libc::MSG_OOB } else { libc::MSG_MORE } as usize;
            call(libc::SYS_sendto, [bytes[0], bytes[1], bytes[2], flags, 0, 0])
        }
        Sending::ZeroCopy => zero_copy(fd, &whole),
        Sending::WriteV => call(libc::SYS_writev, [socket, given(start as usize), count]),
        Sending::PWriteV2 => call(
            libc::SYS_pwritev2,
            [socket, given(start as usize), count, usize::MAX, usize::MAX, 0],
        ),
        Sending::SendMsg => {
            let message = message(start, count);
            call(libc::SYS_sendmsg, [socket, given(ptr::from_ref(&message) as usize), 0])
        }
        Sending::SendMMsg => {
            let mut messages = messages(&mut vectors);
            let sent = call(
                libc::SYS_sendmmsg,
                [socket, given(messages.as_mut_ptr() as usize), messages.len(), 0],
            )?;
            Ok(messages.iter().take(sent).map(|message| message.msg_len as usize).sum())
        }
        Sending::SendFile => {
            let file = call(libc::SYS_memfd_create, [c"raw".as_ptr() as usize, 0])?;
            call(libc::SYS_write, [file, bytes[1], bytes[2]])?;
            let mut offset: i64 = 0;
            let sent = call(
                libc::SYS_sendfile,
                [socket, file, ptr::from_mut(&mut offset) as usize, whole.len()],
            );
            close(file as RawFd)?;
            sent
        }
        Sending::Splice => {
            let [reader, writer] = pipe()?;
            call(libc::SYS_write, [writer, bytes[1], bytes[2]])?;
            let sent = call(libc::SYS_splice, [reader, 0, socket, 0, whole.len(), 0]);
            close(reader as RawFd)?;
            close(writer as RawFd)?;
            sent
        }
    }
}

/// Receives into buffers of these sizes by one system call; returns the number of bytes.
pub fn receive(fd: RawFd, how: Receiving, sizes: &[usize]) -> Result<usize, Errno> {
    let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![0; size]).collect();
    let mut whole = vec![0u8; sizes.iter().sum()];
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: given(buffer.as_mut_ptr() as usize) as *mut _,
            iov_len: buffer.len(),
        })
        .collect();
    let (socket, start, count) = (fd as usize, vectors.as_mut_ptr(), vectors.len());
    let (bytes, length) = (given(whole.as_mut_ptr() as usize), whole.len());
    let flagged = |flags: c_int| call(libc::SYS_recvfrom, [socket, bytes, length, flags as usize, 0, 0]);
    match how {
        Receiving::Read => call(libc::SYS_read, [socket, bytes, length]),
        Receiving::RecvFrom => flagged(0),
        Receiving::Peek => flagged(libc::MSG_PEEK),
        Receiving::Truncate => flagged(libc::MSG_TRUNC),
        Receiving::TruncateMessage => {
            let mut message = message(start, count);
            let flags = libc::MSG_TRUNC as usize;
            call(
                libc::SYS_recvmsg,
                [socket, given(ptr::from_mut(&mut message) as usize), flags],
            )
        }
        Receiving::WaitAll => flagged(libc::MSG_WAITALL),
        Receiving::DontWait => flagged(libc::MSG_DONTWAIT),
        Receiving::ReadV => call(libc::SYS_readv, [socket, given(start as usize), count]),
        Receiving::PReadV2 => call(
            libc::SYS_preadv2,
            [socket, given(start as usize), count, usize::MAX, usize::MAX, 0],
        ),
        Receiving::RecvMsg => {
            let mut message = message(start, count);
            call(
                libc::SYS_recvmsg,
                [socket, given(ptr::from_mut(&mut message) as usize), 0],
            )
        }
        Receiving::RecvMMsg => {
            let mut messages = messages(&mut vectors);
            let pointer = given(messages.as_mut_ptr() as usize);
            let flags = libc::MSG_WAITFORONE as usize;
            let received = call(libc::SYS_recvmmsg, [socket, pointer, messages.len(), flags, 0])?;
            Ok(messages
                .iter()
                .take(received)
                .map(|message| message.msg_len as usize)
                .sum())
        }
        Receiving::Splice => {
            let [reader, writer] = pipe()?;
            let received = call(libc::SYS_splice, [socket, 0, writer, 0, length, 0]);
            close(reader as RawFd)?;
            close(writer as RawFd)?;
            received
        }
    }
}

/// Sends without a copy.
fn zero_copy(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1i32.to_ne_bytes())?;
    // The kernel reads the memory until the other end has received it.
    let bytes = Box::leak(Box::<[u8]>::from(bytes));
    let flags = libc::MSG_ZEROCOPY as usize;
    call(
        libc::SYS_sendto,
        [fd as usize, bytes.as_ptr() as usize, bytes.len(), flags, 0, 0],
    )
}

/// Waits for the notification that the kernel no longer needs the memory.
pub fn memory_is_free(fd: RawFd) -> Result<usize, Errno> {
    let mut control = [0u8; 128];
    loop {
        let mut message = message(ptr::null_mut(), 0);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
        let flags = libc::MSG_ERRQUEUE as usize;
        match call(
            libc::SYS_recvmsg,
            [fd as usize, ptr::from_mut(&mut message) as usize, flags],
        ) {
            Ok(received) => return Ok(received),
            // The acknowledgement has not arrived yet.
            Err(Errno(libc::EAGAIN)) => std::thread::yield_now(),
            Err(errno) => return Err(errno),
        }
    }
}

/// Shuts down sending, receiving, or both.
pub fn shutdown(fd: RawFd, how: libc::c_int) -> Result<usize, Errno> {
    call(libc::SYS_shutdown, [fd as usize, how as usize])
}

/// Lets the close reset the connection.
pub fn reset_on_close(fd: RawFd) -> Result<usize, Errno> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let option = [libc::SOL_SOCKET as usize, libc::SO_LINGER as usize];
    let value = [ptr::from_ref(&linger) as usize, size_of::<libc::linger>()];
    call(
        libc::SYS_setsockopt,
        [fd as usize, option[0], option[1], value[0], value[1]],
    )
}

/// Closes a descriptor.
pub fn close(fd: RawFd) -> Result<usize, Errno> {
    call(libc::SYS_close, [fd as usize])
}

/// Closes a descriptor by close_range(2).
pub fn close_range(fd: RawFd) -> Result<usize, Errno> {
    call(libc::SYS_close_range, [fd as usize, fd as usize, 0])
}

/// Returns a second descriptor.
pub fn duplicate(fd: RawFd, how: Duplicate) -> Result<RawFd, Errno> {
    /// Lowest descriptor, far from those that the kernel chooses.
    const FREE: usize = 700;
    let fd = fd as usize;
    let new = match how {
        Duplicate::Dup => call(libc::SYS_dup, [fd]),
        Duplicate::Dup2 => dup2(fd, FREE),
        Duplicate::Dup3 => call(libc::SYS_dup3, [fd, FREE + 1, 0]),
        Duplicate::Fcntl => call(libc::SYS_fcntl, [fd, libc::F_DUPFD_CLOEXEC as usize, FREE + 2]),
    };
    Ok(new? as RawFd)
}

/// A control message with one descriptor, in the layout of `struct cmsghdr` on 64 bits.
#[repr(C)]
struct Passed {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

const PASSED_BYTES: usize = size_of::<Passed>() - size_of::<c_int>();

/// Sends a descriptor, with one byte.
pub fn send_fd(via: RawFd, fd: RawFd) -> Result<usize, Errno> {
    let mut passed = Passed {
        length: PASSED_BYTES,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd,
        padding: 0,
    };
    pass(via, libc::SYS_sendmsg, &mut passed)
}

/// Receives a descriptor, with one byte.
pub fn receive_fd(via: RawFd) -> Result<RawFd, Errno> {
    let mut passed = Passed {
        length: 0,
        level: 0,
        kind: 0,
        fd: -1,
        padding: 0,
    };
    pass(via, libc::SYS_recvmsg, &mut passed)?;
    Ok(passed.fd)
}

fn pass(via: RawFd, number: c_long, passed: &mut Passed) -> Result<usize, Errno> {
    let mut byte = [0u8; 1];
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut message = message(&raw mut vector, 1);
    message.msg_control = ptr::from_mut(passed).cast();
    message.msg_controllen = size_of::<Passed>() as _;
    call(number, [via as usize, ptr::from_mut(&mut message) as usize, 0])
}

/// Forks; returns 0 in the child. The process has one thread, so the child inherits no taken lock.
pub fn fork() -> Result<i32, Errno> {
    // Newer architectures have no fork(2).
    Ok(call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0])? as i32)
}

/// Waits for a child; returns its wait status.
pub fn reap(child: usize) -> Result<i32, Errno> {
    let mut status: c_int = 0;
    call(libc::SYS_wait4, [child, ptr::from_mut(&mut status) as usize, 0, 0])?;
    Ok(status)
}

/// Exits without the exit handlers that the parent registered.
pub fn exit(code: i32) -> ! {
    let _ = call(libc::SYS_exit_group, [code as usize]);
    std::process::abort()
}

fn socket(address: &Address, flags: c_int) -> Result<RawFd, Errno> {
    let family = match address {
        Address::Ip(SocketAddr::V4(_)) | Address::Multipath(SocketAddr::V4(_)) => libc::AF_INET,
        Address::Ip(SocketAddr::V6(_)) | Address::Multipath(SocketAddr::V6(_)) => libc::AF_INET6,
        Address::Unix(_) => libc::AF_UNIX,
    };
    let protocol = match address {
        Address::Multipath(_) => libc::IPPROTO_MPTCP,
        Address::Ip(_) | Address::Unix(_) => 0,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    Ok(call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize])? as RawFd)
}

/// Returns an address as `struct sockaddr_*`, and its length.
fn raw(address: &Address) -> (Vec<u8>, usize) {
    let mut bytes = Vec::with_capacity(128);
    match address {
        Address::Unix(path) => {
            bytes.extend((libc::AF_UNIX as u16).to_ne_bytes());
            bytes.extend(path.as_bytes());
            bytes.push(0);
        }
        Address::Ip(address) | Address::Multipath(address) => {
            let family = if address.is_ipv4() {
                libc::AF_INET
            } else {
                libc::AF_INET6
            };
            bytes.extend((family as u16).to_ne_bytes());
            bytes.extend(address.port().to_be_bytes());
            match address.ip() {
                IpAddr::V4(address) => {
                    bytes.extend(address.octets());
                    bytes.extend([0; 8]);
                }
                IpAddr::V6(address) => {
                    bytes.extend([0; 4]);
                    bytes.extend(address.octets());
                    bytes.extend([0; 4]);
                }
            }
        }
    }
    let length = bytes.len();
    (bytes, length)
}

fn message(vectors: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: plain data, for which zeros are a value. Some C libraries pad it, and the kernel reads the padding.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = given(vectors as usize) as *mut _;
    message.msg_iovlen = count as _;
    message
}

/// Returns a message for each buffer.
fn messages(vectors: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    vectors
        .iter_mut()
        .map(|vector| libc::mmsghdr {
            msg_hdr: message(ptr::from_mut(vector), 1),
            msg_len: 0,
        })
        .collect()
}

fn pipe() -> Result<[usize; 2], Errno> {
    let mut ends: [c_int; 2] = [0; 2];
    call(libc::SYS_pipe2, [ends.as_mut_ptr() as usize, 0])?;
    Ok(ends.map(|end| end as usize))
}

/// Makes a system call; missing arguments are 0.
fn call<const N: usize>(number: c_long, given: [usize; N]) -> Result<usize, Errno> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&given);
    let [a, b, c, d, e, f] = all;
    // SAFETY: all callers are in this file, and each gives this call's arguments: numbers, and addresses of buffers that
    // live across it and are as long as it is told.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result >= 0 {
        return Ok(result as usize);
    }
    Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
}
