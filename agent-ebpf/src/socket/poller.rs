//! Which thread waits for the connections of a server.
//!
//! A thread that itself waits for its connections is an event loop: it works for several requests. For a worker another
//! thread waits, which takes a connection out of its epoll set soon after it has handed it on. No program of the family `sock`
//! sees epoll_wait(2), but a set knows who waits for it.

use agent_ebpf::slot::Slot;
use aya_ebpf::{macros::map, maps::Array};

use super::Connection;
use crate::kernel::{half_word, is_missing, offset, word};

/// Ids of processes of which a thread was seen to wait for the connections of another, by their lowest bits. Processes whose
/// ids share a slot take it from each other: each is then seen anew.
#[map]
static POLLED_USERS: Array<[Slot<u32>; USERS_EACH]> = Array::with_max_entries(USER_PAGES, 0);

const USER_PAGES: u32 = 16;
const USERS_EACH: usize = 1024;

/// Returns the slot of a process in [`POLLED_USERS`].
#[inline(always)]
fn user(tgid: u32) -> Option<&'static Slot<u32>> {
    let users = POLLED_USERS.get(tgid / USERS_EACH as u32 % USER_PAGES)?;
    Some(&users[tgid as usize % USERS_EACH])
}

/// Forgets what was seen of a process: its id belongs to another one, or it runs another program.
#[inline(always)]
pub fn forget_poller(tgid: u32) {
    if let Some(user) = user(tgid)
        && user.get() == tgid
    {
        user.set(0);
    }
}

/// Returns whether another thread of the process has been seen to wait for epoll on a connection that the current thread
/// serves. `file`: that of the connection. `thread`: ids of the current thread.
#[inline(always)]
pub fn is_polled(connection: &Connection, file: u64, thread: u64) -> bool {
    if is_missing!(file_epoll) || is_missing!(epitem_link) {
        return false;
    }
    let tgid = (thread >> 32) as u32;
    let user = user(tgid);
    if user.is_some_and(|user| user.get() == tgid) {
        return true;
    }
    if let Some(set) = set(file) {
        connection.set.set(set);
    }
    let set = connection.set.get();
    if set == 0 {
        return false;
    }
    let is_polled = waiter(set).is_some_and(|(process, waiter)| process == tgid && waiter != thread as u32);
    if let Some(user) = user
        && is_polled
    {
        user.set(tgid);
    }
    is_polled
}

/// Returns the address of the first epoll set that watches a file; `None` if none does. On the way are the list, its first
/// element, and the element's set.
#[inline(always)]
fn set(file: u64) -> Option<u64> {
    let list = pointer(file + offset!(file_epoll) as u64)?;
    let item = pointer(list)? - offset!(epitem_link) as u64;
    pointer(item + offset!(epitem_set) as u64)
}

/// Returns process id and thread id of the first thread that waits for an epoll set. A set that is freed by now gives any
/// numbers: they are rarely those of a process with such a thread.
#[inline(always)]
fn waiter(set: u64) -> Option<(u32, u32)> {
    let waiters = set + offset!(set_waiters) as u64;
    let first = pointer(waiters)?;
    if first == waiters {
        return None;
    }
    let entry = first - offset!(waiter_link) as u64;
    let task = pointer(entry + offset!(waiter_task) as u64)?;
    Some((
        half_word(task + offset!(task_tgid) as u64)?,
        half_word(task + offset!(task_pid) as u64)?,
    ))
}

/// Reads a pointer; `None` if it is null.
#[inline(always)]
fn pointer(address: u64) -> Option<u64> {
    word(address).filter(|&pointer| pointer != 0)
}
