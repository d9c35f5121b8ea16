//! Loading and attaching. Programs are loaded one by one: one that the verifier refuses costs its feature, not the
//! agent.

use std::{
    borrow::Cow,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use agent_ebpf::abi::{CPU_LIMIT, Calibration, Control, HINT_SLOTS, MARKS, Offsets, PID_LIMIT, READ_ONLY_CAST};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError, RawTracePoint, TracePoint, trace_point::TracePointError},
};

use super::{
    Attachment, Hook, PLAN, Probe, Shared, When,
    btf::{Btf, BtfError},
    lost::{Lost, WITHHELD, Withheld},
    mapped::Mapped,
    offsets::{Found, offsets},
    plan,
    ring::Ring,
    skipped::Skipped,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spoor-ebpf"));

/// Code of an instruction that calls: `BPF_JMP | BPF_CALL`.
const BPF_CALL: u8 = 0x85;
/// Kind of the functions of the kernel that have no number of a helper: `BPF_PSEUDO_KFUNC_CALL`.
const KERNEL_FUNCTION: u8 = 2;

/// The program that all programs of system calls end in.
pub const REPORTER: &str = "report_call";

/// Entries of `TARGETS` and `THREADS`: one for [`MARKS`] ids, for all that a kernel can give. `kernel.pid_max` is no
/// bound: it may be raised while the agent runs.
const PROCESS_MARKS: u32 = PID_LIMIT.div_ceil(MARKS as u32);

/// Sizes of what the kernel holds for the agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of the ring of records, bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Connections that are known at one time.
    pub connections: u32,
    /// For tests.
    pub withheld: Withheld,
}

/// The command line's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            connections: 65_536,
            withheld: Withheld::default(),
        }
    }
}

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No field offsets.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object, or its maps.
    #[error("cannot create the eBPF maps: {0}. This needs root, or CAP_BPF with CAP_PERFMON")]
    Object(#[from] EbpfError),
    /// A program that all depends on.
    #[error("cannot load or attach the eBPF program {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's words.
        reason: String,
    },
    /// A map that is not as it must be.
    #[error("cannot map the eBPF map {map} into memory: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The facts that are measured at start.
    #[error(
        "cannot find where this kernel keeps the arguments of system calls, although its BTF has all fields that are \
         needed: nothing can be traced on it; report it, with `uname -r`"
    )]
    Calibration,
    /// Fields without which no socket is found.
    #[error("this kernel's BTF has no {}: nothing can be traced on it; report it, with `uname -r`", .missing.join(", "))]
    Fields {
        /// `struct.member` of each.
        missing: Vec<String>,
    },
}

/// Gives memory back to the system that loading the programs took and does not need again.
pub fn give_back_memory() {
    // SAFETY: the allocator's own function takes no pointer and may be called at any time, by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

impl Probe {
    /// Loads and attaches all programs. No process is a target yet.
    pub fn load(settings: Settings) -> Result<Self, ProbeError> {
        let btf = Btf::of_kernel()?;
        let Found {
            mut offsets,
            mut lost,
            essential,
        } = offsets(&btf, &settings.withheld.fields);
        drop(btf);
        if !essential.is_empty() {
            return Err(ProbeError::Fields { missing: essential });
        }
        if let Err(reason) = typed_loads(&mut offsets) {
            tracing::debug!("typed loads are refused, helpers read instead: {reason}");
        }
        calibrate(&mut offsets)?;

        let mut programs = object(&offsets, &settings)?;
        let shared = Shared {
            targets: mapped(&mut programs, "TARGETS", PROCESS_MARKS)?,
            ports: mapped(&mut programs, "PORTS", 65536 / MARKS as u32)?,
            control: mapped(&mut programs, "CONTROL", 1)?,
            hints: mapped(&mut programs, "HINTS", HINT_SLOTS)?,
            counters: mapped(&mut programs, "COUNTERS", CPU_LIMIT)?,
        };
        // SAFETY: a field of the entry.
        shared.control.set(
            0,
            |entry: *mut Control| unsafe { (&raw mut (*entry).agent_tgid).cast() },
            std::process::id(),
        );
        let ring = Ring::new(take(&mut programs, "EVENTS")?)?;
        let next = install_reporter(&mut programs, &settings.withheld)?;
        for attachment in PLAN {
            let result = if settings.withheld.has_program(attachment.program) {
                Err(WITHHELD.to_owned())
            } else {
                let started = start(&mut programs, attachment).or_else(|error| attachment.unless_unknown(error));
                started.map_err(|error| reason(&error))
            };
            if let Err(reason) = result {
                lost.push(attachment.without(reason)?);
            }
        }
        lost.iter().for_each(Lost::tell);
        Ok(Self {
            ring,
            shared,
            lost,
            skipped: Skipped::of(&programs),
            programs: Arc::new(Mutex::new(programs)),
            _next: next,
        })
    }
}

impl Attachment {
    /// Forgives that this kernel does not have a system call that it need not have.
    pub(super) fn unless_unknown(&self, error: ProgramError) -> Result<(), ProgramError> {
        match &error {
            ProgramError::TracePointError(TracePointError::FileError { io_error, .. })
                if self.may_be_unknown && io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// What is lost when this is refused; an error, if nothing works without the program.
    fn without(&self, reason: String) -> Result<Lost, ProbeError> {
        let Attachment { program, feature, .. } = *self;
        let Some(feature) = feature else {
            return Err(ProbeError::Program { program, reason });
        };
        Ok(Lost {
            what: program.to_owned(),
            feature,
            reason,
        })
    }
}

/// Programs that are attached later.
#[derive(Clone)]
pub struct Later(pub(super) Arc<Mutex<Ebpf>>);

impl Later {
    /// Attaches what is to be attached then. Takes some 10 ms: the kernel waits for all processors. Those that were
    /// refused at the start stay out, and are not told again.
    pub fn attach(&self, when: When) -> Vec<Lost> {
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = PLAN.iter().filter(|attachment| attachment.when == when);
        let mut lost = Vec::new();
        for attachment in wanted {
            if !is_loaded(&programs, attachment.program) {
                continue;
            }
            if let Err(error) = attach(&mut programs, attachment)
                && let Ok(without) = attachment.without(reason(&error))
            {
                without.tell();
                lost.push(without);
            }
        }
        lost
    }
}

fn is_loaded(programs: &Ebpf, name: &str) -> bool {
    programs.program(name).is_some_and(|program| program.fd().is_ok())
}

/// Loads the program that all programs of system calls end in, and puts it where they find it.
pub(super) fn install_reporter(programs: &mut Ebpf, withheld: &Withheld) -> Result<ProgramArray<MapData>, ProbeError> {
    let refused = |reason: String| ProbeError::Program {
        program: REPORTER,
        reason,
    };
    if withheld.has_program(REPORTER) {
        return Err(refused(WITHHELD.to_owned()));
    }
    let map = take(programs, "NEXT")?;
    let mut next = ProgramArray::try_from(map).map_err(|error| refused(reason(&error)))?;
    let program = programs
        .program_mut(REPORTER)
        .ok_or_else(|| refused("it is not in the object".to_owned()))?;
    let program: &mut TracePoint = program
        .try_into()
        .map_err(|error: ProgramError| refused(reason(&error)))?;
    program.load().map_err(|error| refused(reason(&error)))?;
    let fd = program.fd().map_err(|error| refused(reason(&error)))?;
    next.set(0, fd, 0).map_err(|error| refused(reason(&error)))?;
    Ok(next)
}

/// Loads a program, and attaches it unless that is for later.
fn start(programs: &mut Ebpf, attachment: &Attachment) -> Result<(), ProgramError> {
    load(programs, attachment)?;
    match attachment.when {
        When::Always => attach(programs, attachment),
        When::UnixHttp => Ok(()),
    }
}

pub(super) fn load(programs: &mut Ebpf, attachment: &Attachment) -> Result<(), ProgramError> {
    let program = program(programs, attachment)?;
    match attachment.hook {
        Hook::Syscall(_) => <&mut TracePoint>::try_from(program)?.load(),
        Hook::Raw(_) => <&mut RawTracePoint>::try_from(program)?.load(),
    }
}

pub(super) fn attach(programs: &mut Ebpf, attachment: &Attachment) -> Result<(), ProgramError> {
    let program = program(programs, attachment)?;
    match attachment.hook {
        Hook::Syscall(name) => {
            <&mut TracePoint>::try_from(program)?.attach("syscalls", name)?;
        }
        Hook::Raw(name) => {
            <&mut RawTracePoint>::try_from(program)?.attach(name)?;
        }
    }
    Ok(())
}

fn program<'a>(programs: &'a mut Ebpf, attachment: &Attachment) -> Result<&'a mut Program, ProgramError> {
    programs
        .program_mut(attachment.program)
        .ok_or_else(|| ProgramError::InvalidName {
            name: attachment.program.to_owned(),
        })
}

/// What the verifier says of a program with functions that ends in another one, as most of ours do. It takes them on
/// x86-64 since 5.10 (<https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/verifier.c>,
/// `allow_tail_call_in_subprogs`), on 64-bit ARM since 6.0
/// (<https://github.com/torvalds/linux/blob/v6.0/arch/arm64/net/bpf_jit_comp.c>, `bpf_jit_supports_subprog_tailcalls`).
const NO_TAIL_CALLS: &str = "tail_calls are not allowed";

/// The error with all that led to it. The verifier writes thousands of lines: its verdict is the last that says
/// something.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Some say their source's words themselves.
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = error.source();
    }
    if text.contains(NO_TAIL_CALLS) {
        return "this kernel lets no program that calls functions end in another program. On 64-bit ARM this needs Linux \
                6.0 or newer: upgrade the kernel"
            .to_owned();
    }
    let says_something = |line: &&str| {
        let line = line.trim();
        let is_statistics = ["processed ", "verification time", "stack depth"]
            .iter()
            .any(|start| line.starts_with(start));
        !line.is_empty() && !is_statistics
    };
    tracing::debug!(text, "refused by the kernel");
    let mut lines = text.lines().filter(says_something);
    let first = lines.next().unwrap_or_default().trim();
    match lines.next_back() {
        Some(last) => format!("{first} … {}", last.trim()),
        None => first.to_owned(),
    }
}

/// A loader that does not read the kernel's BTF: the programs have no relocations against it, and it takes 30 MiB.
fn loader<'a>() -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

pub(super) fn take(programs: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, ProbeError> {
    programs.take_map(name).ok_or(ProbeError::Map {
        map: name,
        source: io::ErrorKind::NotFound.into(),
    })
}

fn mapped<T>(programs: &mut Ebpf, name: &'static str, entries: u32) -> Result<Mapped<T>, ProbeError> {
    let map = take(programs, name)?;
    Mapped::new(map, entries).map_err(|source| ProbeError::Map { map: name, source })
}

fn bytes_of(offsets: &Offsets) -> &[u8] {
    // SAFETY: the ABI's structs are plain data without padding.
    unsafe { std::slice::from_raw_parts((&raw const *offsets).cast(), size_of::<Offsets>()) }
}

/// Finds out which typed loads this kernel takes, or its words why not all of them: loads from addresses that are cast
/// (since 6.2), and those of the current task's fields (since 5.11). The version does not tell: it is tried.
pub(super) fn typed_loads(offsets: &mut Offsets) -> Result<(), String> {
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

/// Whether the verifier takes the loads that programs with these offsets make.
fn takes(offsets: &Offsets) -> Result<(), String> {
    let mut programs = small_object(offsets).map_err(|error| reason(&error))?;
    let program = programs.program_mut("typed_walk").ok_or("it is not in the object")?;
    <&mut RawTracePoint>::try_from(program)
        .and_then(|program| program.load())
        .map_err(|error| reason(&error))
}

/// The object with the number of the kernel's function in the place of the helper [`READ_ONLY_CAST`], which no kernel
/// has.
fn code(offsets: &Offsets) -> Cow<'static, [u8]> {
    if offsets.word_type == 0 {
        return OBJECT.into();
    }
    let mut code = OBJECT.to_vec();
    let wanted = call(0, READ_ONLY_CAST);
    let (instructions, _) = code.as_chunks_mut();
    for instruction in instructions.iter_mut().filter(|instruction| **instruction == wanted) {
        *instruction = call(KERNEL_FUNCTION, offsets.read_only_cast as i32);
    }
    code.into()
}

/// The instruction that calls a function of such a kind.
fn call(kind: u8, number: i32) -> [u8; 8] {
    let [a, b, c, d] = number.to_ne_bytes();
    [BPF_CALL, kind << 4, 0, 0, a, b, c, d]
}

/// The object with the maps of an agent that has such settings.
pub(super) fn object(offsets: &Offsets, settings: &Settings) -> Result<Ebpf, EbpfError> {
    loader()
        .override_global("OFFSETS", bytes_of(offsets), true)
        .map_max_entries("EVENTS", settings.ring_bytes)
        .map_max_entries("CONNECTIONS", settings.connections)
        .map_max_entries("TARGETS", PROCESS_MARKS)
        .map_max_entries("THREADS", PROCESS_MARKS)
        .load(&code(offsets))
}

/// The object with maps that are as small as can be.
pub(super) fn small_object(offsets: &Offsets) -> Result<Ebpf, EbpfError> {
    loader()
        .override_global("OFFSETS", bytes_of(offsets), true)
        .map_max_entries("EVENTS", 4096)
        .map_max_entries("CONNECTIONS", 1)
        .map_max_entries("TARGETS", 1)
        .map_max_entries("THREADS", 1)
        .load(&code(offsets))
}

/// Measures what BTF does not tell, by a system call of our own that a program watches.
pub(super) fn calibrate(offsets: &mut Offsets) -> Result<(), ProbeError> {
    const PROGRAM: Attachment = plan::raw("calibrate", "sys_enter", None);
    let mut programs = small_object(offsets)?;
    let (socket, _other) = std::os::unix::net::UnixStream::pair().map_err(|source| ProbeError::Map {
        map: "CALIBRATION",
        source,
    })?;
    let socket: OwnedFd = socket.into();
    let memory: Mapped<Calibration> = mapped(&mut programs, "CALIBRATION", 1)?;
    let question = Calibration {
        // SAFETY: gettid has no preconditions.
        tid: unsafe { libc::gettid() } as u32,
        syscall: libc::SYS_getpeername as u32,
        fd: socket.as_raw_fd() as u32,
        ..Calibration::default()
    };
    memory.set(0, |entry| entry, question);
    let attached = load(&mut programs, &PROGRAM).and_then(|()| attach(&mut programs, &PROGRAM));
    attached.map_err(|error| ProbeError::Program {
        program: PROGRAM.program,
        reason: reason(&error),
    })?;
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of 0 nothing is written to the address.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_become_calls_of_the_kernels_function() {
        let calls = |code: &[u8], wanted: [u8; 8]| code.as_chunks().0.iter().filter(|one| **one == wanted).count();
        let placeholder = call(0, READ_ONLY_CAST);
        let offsets = Offsets {
            word_type: 157,
            read_only_cast: 65_504,
            ..Offsets::UNKNOWN
        };
        let patched = code(&offsets);
        let casts = calls(OBJECT, placeholder);
        assert!(casts > 0);
        assert_eq!(calls(&patched, call(KERNEL_FUNCTION, 65_504)), casts);
        assert_eq!(calls(&patched, placeholder), 0);
        assert_eq!(*code(&Offsets::UNKNOWN), *OBJECT);
    }

    #[test]
    fn a_kernel_that_is_too_old_for_its_processor_is_told_as_such() {
        let told = |words: &str| reason(&io::Error::other(words.to_owned()));
        let old = told("tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls\nprocessed 9 insns");
        assert!(old.contains("Linux 6.0"), "{old}");
        assert_eq!(told("invalid mem access 'scalar'"), "invalid mem access 'scalar'");
    }

    /// As aya's: it says its source's words itself.
    #[derive(Debug, thiserror::Error)]
    #[error("the BPF_PROG_LOAD syscall returned {source}. Verifier output: {log}")]
    struct Refused {
        source: io::Error,
        log: &'static str,
    }

    #[test]
    fn the_verifiers_verdict_is_told() {
        let error = Refused {
            source: io::Error::from_raw_os_error(libc::EACCES),
            log: "0: (bf) r6 = r1\nR6 invalid\nverification time 9 usec\nstack depth 8\nprocessed 9 insns\n",
        };
        assert_eq!(
            reason(&error),
            "the BPF_PROG_LOAD syscall returned Permission denied (os error 13). Verifier output: 0: (bf) r6 = r1 … \
             R6 invalid"
        );
    }
}
