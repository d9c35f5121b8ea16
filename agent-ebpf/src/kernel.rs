//! Reading the kernel's own structs, by offsets that user space took from this kernel's BTF.

use core::ffi::c_void;

use agent_ebpf::abi::{Counter, Offsets};
use aya_ebpf::helpers::{
    bpf_get_current_task,
    generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
};

use crate::maps::count;

/// Filled in before the programs are loaded; a constant to the verifier.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNKNOWN;

macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::known(&$crate::kernel::offsets().$field)
    };
}
pub(crate) use offset;

/// The offsets, for [`offset!`].
#[inline(always)]
pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// The value, for [`offset!`]: read when the program runs, for it is put in after compilation.
#[inline(always)]
pub fn known<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid.
    unsafe { (&raw const *value).read_volatile() }
}

/// Reads a value at an address of the kernel; `None` (counted) if that faults.
#[inline(always)]
pub fn read<T>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination has the size that is passed; the helper survives any source address.
    let result =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    if result != 0 {
        count(Counter::KernelFault, 1);
        return None;
    }
    // SAFETY: the helper filled it.
    Some(unsafe { value.assume_init() })
}

/// The memory that a process gave a system call by this address, to be read by `bpf_probe_read_user`.
#[cfg(not(bpf_target_arch = "aarch64"))]
#[inline(always)]
pub fn user(address: u64) -> *const c_void {
    address as *const c_void
}

/// As above: the highest byte is not the address's; system calls pass over what processes keep there, the helper does not
/// (<https://docs.kernel.org/arch/arm64/tagged-address-abi.html>).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn user(address: u64) -> *const c_void {
    (address & (u64::MAX >> 8)) as *const c_void
}

/// Address of the current `task_struct`.
#[inline(always)]
pub fn task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// The arguments of the system call that the current thread is in: the first to the fourth.
#[derive(Clone, Copy)]
pub struct Args([u64; 4]);

/// Where `struct pt_regs` keeps the arguments, in bytes from its begin: di, si, dx, r10
/// (<https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/ptrace.h#L103>).
#[cfg(not(bpf_target_arch = "aarch64"))]
const ARGUMENTS: [u64; 4] = [112, 104, 96, 56];

/// As above: `orig_x0`, for x0 holds the result by then, and x1 to x3
/// (<https://github.com/torvalds/linux/blob/v6.12/arch/arm64/include/asm/ptrace.h#L145>).
#[cfg(bpf_target_arch = "aarch64")]
const ARGUMENTS: [u64; 4] = [272, 8, 16, 24];

impl Args {
    /// Reads them from the registers that were saved at the call's entry.
    #[inline(always)]
    pub fn saved() -> Option<Self> {
        if offset!(typed_task) == 1 {
            // SAFETY: the helper takes the current task, and its result has a type as that has.
            return Some(unsafe {
                let registers = bpf_task_pt_regs(bpf_get_current_task_btf()) as u64;
                let word = |at: u64| typed::<u64>(registers + at);
                Self(ARGUMENTS.map(word))
            });
        }
        Self::read(stack()? + offset!(stack_to_regs) as u64)
    }

    /// By one helper call: they lie near each other.
    #[cfg(not(bpf_target_arch = "aarch64"))]
    #[inline(always)]
    fn read(registers: u64) -> Option<Self> {
        let [fourth, _, _, _, _, third, second, first] = read::<[u64; 8]>(registers + ARGUMENTS[3])?;
        Some(Self([first, second, third, fourth]))
    }

    /// By two helper calls: the first is far from the others.
    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn read(registers: u64) -> Option<Self> {
        let first = read(registers + ARGUMENTS[0])?;
        let [second, third, fourth] = read::<[u64; 3]>(registers + ARGUMENTS[1])?;
        Some(Self([first, second, third, fourth]))
    }

    /// The first argument, often a file descriptor.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        self.0[0]
    }

    /// The second argument.
    #[inline(always)]
    pub fn second(&self) -> u64 {
        self.0[1]
    }

    /// The third argument.
    #[inline(always)]
    pub fn third(&self) -> u64 {
        self.0[2]
    }

    /// The fourth argument.
    #[inline(always)]
    pub fn fourth(&self) -> u64 {
        self.0[3]
    }
}

/// A socket as found by a file descriptor.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Socket {
    /// Address of `struct sock`: the connection's key.
    pub sock: u64,
    /// Address of `struct file`.
    pub file: u64,
}

/// A field of a struct that the verifier knows by its type: a load, where [`read`] is a call of 20 ns.
///
/// # Safety
/// `address` must come from `bpf_get_current_task_btf` by such loads and constant offsets.
#[inline(always)]
unsafe fn typed<T>(address: u64) -> T {
    // SAFETY: the caller's; the kernel handles a fault.
    unsafe { (address as *const T).read_volatile() }
}

/// Where the current task's kernel stack begins.
#[inline(always)]
fn stack() -> Option<u64> {
    read(task() + offset!(task_stack) as u64)
}

/// How many descriptors the current task's table has, and where it is.
#[inline(always)]
fn descriptors() -> Option<(u32, u64)> {
    if offset!(typed_task) == 1 {
        // SAFETY: fields of the current task, of its files, of their table.
        unsafe {
            let files: u64 = typed(bpf_get_current_task_btf() as u64 + offset!(task_files) as u64);
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
    let files: u64 = read(task() + offset!(task_files) as u64)?;
    let table: u64 = read(files + offset!(files_fdt) as u64)?;
    Some((
        read(table + offset!(fdt_max_fds) as u64)?,
        read(table + offset!(fdt_fd) as u64)?,
    ))
}

/// The file that a descriptor of the current thread names. No cache: a descriptor may name another file at any time
/// (close, dup2, another thread), and the walk is always right.
#[inline(always)]
pub fn file(fd: u32) -> Option<u64> {
    let (size, slots) = descriptors()?;
    if fd >= size {
        return None;
    }
    let file: u64 = read(slots + fd as u64 * 8)?;
    (file != 0).then_some(file)
}

/// Most bytes between two fields that are read at once: a read costs the same for eight bytes as for 64.
const WINDOW_BYTES: usize = 64;

/// `f_op` of a file, and `private_data` if it lies near: it does from Linux 6.9 or so on.
#[inline(always)]
fn operations_and_private(file: u64) -> Option<(u64, Option<u64>)> {
    let (operations, private) = (offset!(file_op), offset!(file_private));
    let distance = private.wrapping_sub(operations) as usize;
    if distance > WINDOW_BYTES - 8 {
        return Some((read(file + operations as u64)?, None));
    }
    let window: [u64; WINDOW_BYTES / 8] = read(file + operations as u64)?;
    Some((window[0], Some(window[(distance / 8) & (WINDOW_BYTES / 8 - 1)])))
}

/// The socket that a descriptor of the current thread names; `None` if it names something else.
#[inline(always)]
pub fn socket(fd: u32) -> Option<Socket> {
    let file = file(fd)?;
    let (operations, socket) = operations_and_private(file)?;
    if operations != offset!(socket_file_ops) {
        return None;
    }
    let socket = match socket {
        Some(socket) => socket,
        None => read(file + offset!(file_private) as u64)?,
    };
    let sock: u64 = read(socket + offset!(socket_sk) as u64)?;
    (sock != 0).then_some(Socket { sock, file })
}

/// Whether this kernel has no such field.
macro_rules! is_missing {
    ($field:ident) => {
        $crate::kernel::offset!($field) == agent_ebpf::abi::Offsets::MISSING
    };
}
pub(crate) use is_missing;

/// Inode number of a file; 0 for all, if this kernel does not tell.
#[inline(always)]
pub fn inode(file: u64) -> Option<u64> {
    if is_missing!(inode_ino) {
        return Some(0);
    }
    let inode: u64 = read(file + offset!(file_inode) as u64)?;
    read(inode + offset!(inode_ino) as u64)
}
