//! Reading the kernel's own structs, by offsets that user space took from this kernel's BTF.

use core::ffi::c_void;

use agent_ebpf::abi::{Counter, Offsets, READ_ONLY_CAST};
use aya_ebpf::helpers::{
    bpf_get_current_task,
    generated::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs},
};

use crate::counters::count;

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

/// The word at an address of the kernel that is a field's: a load where the kernel lets a program make one ([`cast`]), else
/// as by [`read`]. A load that faults gives 0, and is not counted.
#[inline(always)]
pub fn word(address: u64) -> Option<u64> {
    if offset!(word_type) == 0 {
        return read(address);
    }
    // SAFETY: the address comes from a cast.
    Some(unsafe { typed(cast(address)) })
}

/// The half of a word, as [`word`].
#[inline(always)]
pub fn half_word(address: u64) -> Option<u32> {
    if offset!(word_type) == 0 {
        return read(address);
    }
    // SAFETY: as above.
    Some(unsafe { typed(cast(address)) })
}

/// Makes an address one of a struct that begins with a word, in the verifier's eyes: then it may be loaded from. The call
/// is no instruction to the processor.
///
/// The kernel's `bpf_rdonly_cast` (since 6.2,
/// <https://github.com/torvalds/linux/commit/a35b9af4ec2c7f69286ef861fd2074a577e354cb>). aya knows no functions of the
/// kernel, so the agent puts its number in the place of this helper's, which is none.
#[inline(always)]
fn cast(address: u64) -> u64 {
    // SAFETY: not called unless the agent has put a function there that takes these arguments.
    let cast: unsafe extern "C" fn(u64, u32) -> u64 = unsafe { core::mem::transmute(READ_ONLY_CAST as usize) };
    // SAFETY: it touches no memory.
    unsafe { cast(address, offset!(word_type)) }
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

/// The current `task_struct`, by its address.
#[derive(Clone, Copy)]
pub struct Task(u64);

impl Task {
    /// Asks the kernel, which knows no cheaper way than a call.
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

    /// Address of the field at an offset.
    #[inline(always)]
    pub fn field(self, offset: u32) -> u64 {
        self.0 + offset as u64
    }
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
    pub fn of(task: Task) -> Option<Self> {
        if offset!(typed_task) == 1 {
            // SAFETY: the helper takes the current task, and its result has a type as that has. Nobody writes the words
            // meanwhile, so those that are not asked for need not be loaded.
            return Some(unsafe {
                let registers = bpf_task_pt_regs(task.0 as *mut _) as u64;
                Self(ARGUMENTS.map(|at| ((registers + at) as *const u64).read()))
            });
        }
        let stack: u64 = read(task.field(offset!(task_stack)))?;
        Self::read(stack + offset!(stack_to_regs) as u64)
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

/// A field of a struct that the verifier knows by its type: a load, where [`read`] is a call of 20 ns.
///
/// # Safety
/// `address` must come from `bpf_get_current_task_btf` by such loads and constant offsets, or from [`cast`].
#[inline(always)]
pub unsafe fn typed<T>(address: u64) -> T {
    // SAFETY: the caller's; the kernel handles a fault.
    unsafe { (address as *const T).read_volatile() }
}

/// Whether this kernel has no such field.
macro_rules! is_missing {
    ($field:ident) => {
        $crate::kernel::offset!($field) == agent_ebpf::abi::Offsets::MISSING
    };
}
pub(crate) use is_missing;
