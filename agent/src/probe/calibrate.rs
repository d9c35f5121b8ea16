//! Facts that BTF does not have, found by trying: where system calls keep their arguments, and which loads the verifier
//! accepts.

use std::os::{
    fd::{AsRawFd, OwnedFd},
    unix::net::UnixStream,
};

use agent_ebpf::abi::{Calibration, Offsets};
use aya::programs::RawTracePoint;

use super::{
    Attachment, ProbeError,
    load::{attach, load, mapped, reason, small_object},
    mapped::Mapped,
    plan,
};

/// Finds out which typed loads this kernel takes: loads from addresses that are cast (since 6.2), and loads of the current
/// task's fields (since 5.11). Distributions backport both, so they are tried. Notes the result in `offsets`.
///
/// # Errors
/// If not all are taken: the kernel's reason.
pub fn typed_loads(offsets: &mut Offsets) -> Result<(), String> {
    let all = Offsets {
        typed_task: 1,
        ..*offsets
    };
    let none = Offsets {
        typed_task: 0,
        word_type: 0,
        ..*offsets
    };
    let of_the_task = Offsets { typed_task: 1, ..none };
    let with_casts = if all.word_type == 0 || all.read_only_cast == 0 {
        Err("the kernel has no bpf_rdonly_cast".to_owned())
    } else {
        takes(&all)
    };
    *offsets = if with_casts.is_ok() {
        all
    } else if takes(&of_the_task).is_ok() {
        of_the_task
    } else {
        none
    };
    with_casts
}

/// Lets the verifier judge the loads that programs with these offsets make.
fn takes(offsets: &Offsets) -> Result<(), String> {
    let mut programs = small_object(offsets).map_err(|error| reason(&error))?;
    let program = programs.program_mut("typed_walk").ok_or("it is not in the object")?;
    <&mut RawTracePoint>::try_from(program)
        .and_then(RawTracePoint::load)
        .map_err(|error| reason(&error))
}

/// Measures where system calls keep their arguments, by a call of our own that a program watches.
pub fn calibrate(offsets: &mut Offsets) -> Result<(), ProbeError> {
    const PROGRAM: Attachment = plan::raw("calibrate", "sys_enter", None);
    let mut programs = small_object(offsets)?;
    let (socket, _other) = UnixStream::pair().map_err(|source| ProbeError::Map {
        map: "CALIBRATION",
        source,
    })?;
    let socket: OwnedFd = socket.into();
    let memory: Mapped<Calibration> = mapped(&mut programs, "CALIBRATION", 1)?;
    let question = Calibration {
        // SAFETY: gettid(2) takes no arguments and always succeeds.
        tid: unsafe { libc::gettid() } as u32,
        syscall: libc::SYS_getpeername as u32,
        fd: socket.as_raw_fd() as u32,
        ..Calibration::default()
    };
    memory.set(0, 0, question);
    let attached = load(&mut programs, &PROGRAM).and_then(|()| attach(&mut programs, &PROGRAM));
    attached.map_err(|error| ProbeError::Program {
        program: PROGRAM.program,
        reason: reason(&error),
    })?;
    let mut length: libc::socklen_t = 0;
    // SAFETY: the length is 0, so the kernel writes nothing to the address. It writes the length, which is ours.
    unsafe {
        libc::getpeername(
            socket.as_raw_fd(),
            std::ptr::NonNull::dangling().as_ptr(),
            &raw mut length,
        )
    };
    let answer = memory.get(0).ok_or(ProbeError::Calibration)?;
    if answer.stack_to_regs == 0 || answer.socket_file_ops == 0 {
        return Err(ProbeError::Calibration);
    }
    offsets.stack_to_regs = u32::try_from(answer.stack_to_regs).map_err(|_| ProbeError::Calibration)?;
    offsets.socket_file_ops = answer.socket_file_ops;
    Ok(())
}
