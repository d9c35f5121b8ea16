//! Reads of the kernel's own structs, by offsets that user space took from this kernel's BTF.

use core::ffi::c_void;

use agent_ebpf::abi::{Counter, Offsets, READ_ONLY_CAST};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task,
    generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
};

use crate::counters::count;

/// Facts about this kernel. The agent fills them in before loading; to the verifier they are constants.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNKNOWN;

macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::known(&$crate::kernel::offsets().$field)
    };
}
pub(crate) use offset;

/// Returns the offsets, for [`offset!`].
#[inline(always)]
pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

/// Reads a value for [`offset!`] at run time, because the agent fills it in after compilation.
#[inline(always)]
pub fn known<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid.
    unsafe { (&raw const *value).read_volatile() }
}

/// Reads a value at a kernel address; returns `None` (counted) if that faults. A helper call, about 20 ns.
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

/// Reads the word of a field at a kernel address: by a load where the kernel allows it ([`cast`]), else as [`read`]. A
/// load that faults gives 0 and is not counted.
#[inline(always)]
pub fn word(address: u64) -> Option<u64> {
    if offset!(word_type) == 0 {
        return read(address);
    }
    // SAFETY: the address comes from a cast.
    Some(unsafe { typed(cast(address)) })
}

/// Reads half a word, as [`word`].
#[inline(always)]
pub fn half_word(address: u64) -> Option<u32> {
    if offset!(word_type) == 0 {
        return read(address);
    }
    // SAFETY: the address comes from a cast.
    Some(unsafe { typed(cast(address)) })
}

/// Turns an address into a pointer that the verifier lets the program load from: to a struct that begins with a word.
/// The processor executes no call.
///
/// The kernel's `bpf_rdonly_cast` (since 6.2,
/// <https://github.com/torvalds/linux/commit/a35b9af4ec2c7f69286ef861fd2074a577e354cb>). aya does not support kernel
/// functions, so the agent replaces the number of this helper, which does not exist, by the function's id.
#[inline(always)]
fn cast(address: u64) -> u64 {
    // SAFETY: only called after the agent has put in a function that takes these arguments.
    let cast: unsafe extern "C" fn(u64, u32) -> u64 = unsafe { core::mem::transmute(READ_ONLY_CAST as usize) };
    // SAFETY: the function touches no memory.
    unsafe { cast(address, offset!(word_type)) }
}

/// Returns the user address that a process passed to a system call, for `bpf_probe_read_user`.
#[cfg(not(bpf_target_arch = "aarch64"))]
#[inline(always)]
pub fn user(address: u64) -> *const c_void {
    address as *const c_void
}

/// Returns the user address that a process passed to a system call, without its highest byte. Processes may keep a tag
/// there, which system calls ignore and the helper does not
/// (<https://docs.kernel.org/arch/arm64/tagged-address-abi.html>).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn user(address: u64) -> *const c_void {
    (address & (u64::MAX >> 8)) as *const c_void
}

/// Address of the current `task_struct`.
#[derive(Clone, Copy)]
pub struct Task(u64);

impl Task {
    /// Returns the current task. No cheaper way than a helper call exists.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helpers have no preconditions.
        Self(unsafe {
            if offset!(typed_task) == 1 {
                bpf_get_current_task_btf() as u64
            } else {
                bpf_get_current_task()
            }
        })
    }

    /// Returns the ids of the current thread: process id in the upper half, thread id in the lower. Where the kernel takes
    /// typed loads, these cost less than the helper call.
    #[inline(always)]
    pub fn ids(self) -> u64 {
        if offset!(typed_task) == 0 || is_missing!(task_pid) || is_missing!(task_tgid) {
            return bpf_get_current_pid_tgid();
        }
        // SAFETY: fields of the current task.
        let (process, thread): (u32, u32) = unsafe {
            (
                typed(self.field(offset!(task_tgid))),
                typed(self.field(offset!(task_pid))),
            )
        };
        (process as u64) << 32 | thread as u64
    }

    /// Returns the address of the field at an offset.
    #[inline(always)]
    pub fn field(self, offset: u32) -> u64 {
        self.0 + offset as u64
    }

    /// Returns whether the thread is in a 32-bit system call, whose numbers and pointers are others. For the family `sock`,
    /// as [`Task::sleeps`].
    #[inline(always)]
    pub fn is_compat(self) -> bool {
        is_compat(self)
    }

    /// Returns how often the thread has gone to sleep; always 0 if this kernel lacks the field. For the family `sock`,
    /// whose kernels take typed loads.
    #[inline(always)]
    pub fn sleeps(self) -> u64 {
        if is_missing!(task_sleeps) {
            return 0;
        }
        // SAFETY: a field of the current task.
        unsafe { typed(self.field(offset!(task_sleeps))) }
    }
}

/// Registers that the kernel saved when the current thread entered its system call. For the family `sock`, as
/// [`Task::sleeps`].
#[derive(Clone, Copy)]
pub struct Registers(u64);

/// Offset of the result of the system call in `struct pt_regs`: `ax`, as [`ARGUMENTS`].
#[cfg(not(bpf_target_arch = "aarch64"))]
const RESULT: u64 = 80;

/// Offset of the result of the system call in `struct pt_regs`: x0, as [`ARGUMENTS`].
#[cfg(bpf_target_arch = "aarch64")]
const RESULT: u64 = 0;

/// Offset of the number of the system call in `struct pt_regs`: `orig_ax`, as [`ARGUMENTS`].
#[cfg(not(bpf_target_arch = "aarch64"))]
const NUMBER: u64 = 120;

/// Offset of the number of the system call in `struct pt_regs`: `syscallno`, as [`ARGUMENTS`].
#[cfg(bpf_target_arch = "aarch64")]
const NUMBER: u64 = 280;

/// Offset of the fifth argument in `struct pt_regs`: r8.
#[cfg(not(bpf_target_arch = "aarch64"))]
const FIFTH: u64 = 72;

/// Offset of the fifth argument in `struct pt_regs`: x4.
#[cfg(bpf_target_arch = "aarch64")]
const FIFTH: u64 = 32;

impl Registers {
    /// Returns the registers of the system call that the current thread is in; `None` if it is in none, or in a 32-bit
    /// one.
    ///
    /// A thread runs in the kernel without a call, and moves bytes, too: for an io_uring, before it returns to the program
    /// from *any* call or interrupt, and in the io_uring's own threads. The registers are then those of a call that is
    /// over, or of the program's code, and may name any descriptor.
    #[inline(always)]
    pub fn of(task: Task) -> Option<Self> {
        if is_compat(task) {
            return None;
        }
        // SAFETY: the helper takes the current task, and the verifier knows the type of its result.
        let registers = Self(unsafe { bpf_task_pt_regs(task.0 as *mut _) } as u64);
        registers.is_in_call().then_some(registers)
    }

    /// Returns whether the call that the registers are of is under way. `ax` is `-ENOSYS` until the call has its result, as
    /// no call that moves bytes has, and 0 in threads of an io_uring; an interrupt has the program's own value and no number
    /// (<https://github.com/torvalds/linux/blob/v6.12/arch/x86/entry/entry_64.S>, `copy_thread` in
    /// <https://github.com/torvalds/linux/blob/v6.12/arch/x86/kernel/process.c>).
    #[cfg(not(bpf_target_arch = "aarch64"))]
    #[inline(always)]
    fn is_in_call(self) -> bool {
        const NONE: u32 = u32::MAX;
        const ENOSYS: i64 = 38;
        // SAFETY: a field of `struct pt_regs`.
        let result: i64 = unsafe { typed(self.0 + RESULT) };
        result == -ENOSYS && self.number() != NONE
    }

    /// Returns whether the call that the registers are of is under way. x0 has the first argument until it has the result;
    /// an interrupt has no number (`NO_SYSCALL`). The registers of an io_uring's threads are all 0, which is the number of
    /// io_setup(2) (`copy_thread` in <https://github.com/torvalds/linux/blob/v6.12/arch/arm64/kernel/process.c>).
    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn is_in_call(self) -> bool {
        const NONE: u32 = u32::MAX;
        const IO_SETUP: u32 = 0;
        // SAFETY: a field of `struct pt_regs`.
        let result: u64 = unsafe { typed(self.0 + RESULT) };
        result == self.arguments().first() && !matches!(self.number(), NONE | IO_SETUP)
    }

    /// Returns the number of the system call.
    #[inline(always)]
    pub fn number(self) -> u32 {
        // SAFETY: a field of `struct pt_regs`.
        unsafe { typed(self.0 + NUMBER) }
    }

    /// Returns the first to fourth argument.
    #[inline(always)]
    pub fn arguments(self) -> Args {
        // SAFETY: as above. The saved registers do not change during the call, so the compiler may leave out loads that
        // are not used.
        Args(ARGUMENTS.map(|at| unsafe { ((self.0 + at) as *const u64).read() }))
    }

    /// Returns the fifth argument.
    #[inline(always)]
    pub fn fifth(self) -> u64 {
        // SAFETY: as above.
        unsafe { typed(self.0 + FIFTH) }
    }
}

/// Returns whether the current system call is a 32-bit one: `TS_COMPAT`
/// (<https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/thread_info.h#L233>).
#[cfg(not(bpf_target_arch = "aarch64"))]
#[inline(always)]
fn is_compat(task: Task) -> bool {
    const COMPAT: u32 = 2;
    // SAFETY: a field of the current task.
    unsafe { typed::<u32>(task.field(offset!(thread_status))) & COMPAT != 0 }
}

/// Returns whether the current process is a 32-bit one: `_TIF_32BIT`
/// (<https://github.com/torvalds/linux/blob/v6.12/arch/arm64/include/asm/thread_info.h#L80>).
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn is_compat(task: Task) -> bool {
    const COMPAT: u64 = 1 << 22;
    // SAFETY: a field of the current task.
    unsafe { typed::<u64>(task.field(offset!(thread_status))) & COMPAT != 0 }
}

/// First to fourth argument of the system call that the current thread is in.
#[derive(Clone, Copy)]
pub struct Args([u64; 4]);

/// Offsets of the arguments in `struct pt_regs`, in bytes: di, si, dx, r10
/// (<https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/ptrace.h#L103>).
#[cfg(not(bpf_target_arch = "aarch64"))]
const ARGUMENTS: [u64; 4] = [112, 104, 96, 56];

/// Offsets of the arguments in `struct pt_regs`, in bytes: `orig_x0`, because x0 holds the result at the exit, and x1
/// to x3 (<https://github.com/torvalds/linux/blob/v6.12/arch/arm64/include/asm/ptrace.h#L145>).
#[cfg(bpf_target_arch = "aarch64")]
const ARGUMENTS: [u64; 4] = [272, 8, 16, 24];

impl Args {
    /// Reads the arguments from the registers that the kernel saved at the call's entry.
    #[inline(always)]
    pub fn of(task: Task) -> Option<Self> {
        if offset!(typed_task) == 1 {
            // SAFETY: the helper takes the current task, and the verifier knows the type of its result. The saved
            // registers do not change during the call, so the compiler may leave out loads that are not used.
            return Some(unsafe {
                let registers = bpf_task_pt_regs(task.0 as *mut _) as u64;
                Self(ARGUMENTS.map(|at| ((registers + at) as *const u64).read()))
            });
        }
        let stack: u64 = read(task.field(offset!(task_stack)))?;
        Self::read(stack + offset!(stack_to_regs) as u64)
    }

    /// Reads all four by one helper call: they lie near each other.
    #[cfg(not(bpf_target_arch = "aarch64"))]
    #[inline(always)]
    fn read(registers: u64) -> Option<Self> {
        let [fourth, _, _, _, _, third, second, first] = read::<[u64; 8]>(registers + ARGUMENTS[3])?;
        Some(Self([first, second, third, fourth]))
    }

    /// Reads them by two helper calls: the first lies far from the others.
    #[cfg(bpf_target_arch = "aarch64")]
    #[inline(always)]
    fn read(registers: u64) -> Option<Self> {
        let first = read(registers + ARGUMENTS[0])?;
        let [second, third, fourth] = read::<[u64; 3]>(registers + ARGUMENTS[1])?;
        Some(Self([first, second, third, fourth]))
    }

    /// Returns the first argument, often a file descriptor.
    #[inline(always)]
    pub fn first(&self) -> u64 {
        self.0[0]
    }

    /// Returns the second argument.
    #[inline(always)]
    pub fn second(&self) -> u64 {
        self.0[1]
    }

    /// Returns the third argument.
    #[inline(always)]
    pub fn third(&self) -> u64 {
        self.0[2]
    }

    /// Returns the fourth argument.
    #[inline(always)]
    pub fn fourth(&self) -> u64 {
        self.0[3]
    }
}

/// Loads a field of a struct whose type the verifier knows. A plain load, where [`read`] is a helper call of 20 ns.
///
/// # Safety
/// `address` must come from `bpf_get_current_task_btf` by such loads and constant offsets, or from [`cast`].
#[inline(always)]
pub unsafe fn typed<T>(address: u64) -> T {
    // SAFETY: guaranteed by the caller; the kernel handles a fault.
    unsafe { (address as *const T).read_volatile() }
}

/// Tests whether this kernel lacks a field.
macro_rules! is_missing {
    ($field:ident) => {
        $crate::kernel::offset!($field) == agent_ebpf::abi::Offsets::MISSING
    };
}
pub(crate) use is_missing;
