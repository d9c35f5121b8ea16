//! The walk from a file descriptor to the kernel's socket.

use crate::kernel::{Task, is_missing, offset, read, typed, word};

/// A socket as found by a file descriptor.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Socket {
    /// Address of `struct sock`: the connection's key.
    pub sock: u64,
    /// Address of `struct file`.
    pub file: u64,
}

/// Returns the size and the address of the task's table of descriptors.
#[inline(always)]
fn descriptors(task: Task) -> Option<(u32, u64)> {
    if offset!(typed_task) == 1 {
        // SAFETY: fields of the current task, of its files, of their table.
        unsafe {
            let files: u64 = typed(task.field(offset!(task_files)));
            if files == 0 {
                return None;
            }
            let table: u64 = typed(files + offset!(files_fdt) as u64);
            if table == 0 {
                return None;
            }
            return Some((
                typed(table + offset!(fdt_max_fds) as u64),
                typed(table + offset!(fdt_fd) as u64),
            ));
        }
    }
    let files: u64 = read(task.field(offset!(task_files)))?;
    let table: u64 = read(files + offset!(files_fdt) as u64)?;
    Some((
        read(table + offset!(fdt_max_fds) as u64)?,
        read(table + offset!(fdt_fd) as u64)?,
    ))
}

/// Returns the file that a descriptor of the current task names. Not cached: close, dup2 or another thread may change
/// it at any time, and the walk is always right.
#[inline(always)]
pub fn file(task: Task, fd: u32) -> Option<u64> {
    let (size, slots) = descriptors(task)?;
    if fd >= size {
        return None;
    }
    let file = word(slots + fd as u64 * 8)?;
    (file != 0).then_some(file)
}

/// Upper bound of the distance between two fields that one read covers: a helper call costs the same for 8 bytes as for
/// 64.
const WINDOW_BYTES: usize = 64;

/// Returns `f_op` of a file, and `private_data` if it lies near, as it does from about Linux 6.9 on.
#[inline(always)]
fn operations_and_private(file: u64) -> Option<(u64, Option<u64>)> {
    let (operations, private) = (offset!(file_op), offset!(file_private));
    let distance = private.wrapping_sub(operations) as usize;
    if offset!(word_type) != 0 || distance > WINDOW_BYTES - 8 {
        return Some((word(file + operations as u64)?, None));
    }
    let window: [u64; WINDOW_BYTES / 8] = read(file + operations as u64)?;
    Some((window[0], Some(window[(distance / 8) & (WINDOW_BYTES / 8 - 1)])))
}

/// Returns the socket that a descriptor of the current task names; `None` if it names something else.
#[inline(always)]
pub fn socket(task: Task, fd: u32) -> Option<Socket> {
    let file = file(task, fd)?;
    let (operations, socket) = operations_and_private(file)?;
    if operations != offset!(socket_file_ops) {
        return None;
    }
    let socket = match socket {
        Some(socket) => socket,
        None => word(file + offset!(file_private) as u64)?,
    };
    let sock = word(socket + offset!(socket_sk) as u64)?;
    (sock != 0).then_some(Socket { sock, file })
}

/// Returns the inode number of a file; 0 for all if this kernel lacks the field.
#[inline(always)]
pub fn inode(file: u64) -> Option<u64> {
    if is_missing!(inode_ino) {
        return Some(0);
    }
    let inode = word(file + offset!(file_inode) as u64)?;
    word(inode + offset!(inode_ino) as u64)
}
