//! Loading and attaching of single programs: one that the verifier refuses costs its feature, not the agent.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use agent_ebpf::abi::{MARKS, Offsets, PID_LIMIT, READ_ONLY_CAST};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{Program, ProgramError, RawTracePoint, TracePoint, trace_point::TracePointError},
};

use super::{
    Attachment, Family, Hook, ProbeError, When,
    lost::{Lost, WITHHELD, Withheld},
    mapped::{Mapped, Shareable},
    plan,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spoor-ebpf"));

/// Code of an instruction that calls: `BPF_JMP | BPF_CALL`.
const BPF_CALL: u8 = 0x85;
/// Kind of the functions of the kernel that have no number of a helper: `BPF_PSEUDO_KFUNC_CALL`.
const KERNEL_FUNCTION: u8 = 2;

/// Entries of `TARGETS` and `THREADS`: one for [`MARKS`] ids, for all that a kernel can give. `kernel.pid_max` is no bound:
/// it may be raised while the agent runs.
pub(super) const PROCESS_MARKS: u32 = PID_LIMIT.div_ceil(MARKS as u32);

/// Sizes of the kernel's maps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of the ring of records, in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Upper bound on the connections that are known at one time.
    pub connections: u32,
    /// Family of hooks that the user chose; `None`: the best that this kernel takes.
    pub hooks: Option<Family>,
    /// Programs and fields to do without, for tests.
    pub withheld: Withheld,
}

/// The command line's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            connections: 65_536,
            hooks: None,
            withheld: Withheld::default(),
        }
    }
}

impl Attachment {
    /// Takes the error for success if this kernel lacks the system call, and may.
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

    /// Returns the loss that the program's absence costs; an error, if nothing works without it.
    pub(super) fn without(&self, reason: String) -> Result<Lost, ProbeError> {
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

/// Handle that attaches the programs that are not needed at the start.
#[derive(Clone)]
pub struct Later {
    pub(super) programs: Arc<Mutex<Ebpf>>,
    pub(super) family: Family,
}

impl Later {
    /// Attaches the programs that are needed from `when` on, and returns those that the kernel refuses now. Programs that it
    /// refused at the start stay out, and are not logged again. Takes some 10 ms: the kernel waits for all processors.
    pub fn attach(&self, when: When) -> Vec<Lost> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = plan(self.family).filter(|attachment| attachment.when == when);
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

/// Loads the program that the programs of a family end in, and puts it into the map by which they call it.
pub(super) fn install_reporter(
    programs: &mut Ebpf,
    family: Family,
    withheld: &Withheld,
) -> Result<ProgramArray<MapData>, ProbeError> {
    let reporter = family.reporter();
    let refused = |reason: String| ProbeError::Program {
        program: reporter,
        reason,
    };
    if withheld.has_program(reporter) {
        return Err(refused(WITHHELD.to_owned()));
    }
    let map = take(programs, family.reporters_map())?;
    let mut next = ProgramArray::try_from(map).map_err(|error| refused(reason(&error)))?;
    let program = programs
        .program_mut(reporter)
        .ok_or_else(|| refused("it is not in the object".to_owned()))?;
    let loaded = match family {
        Family::Sock => <&mut RawTracePoint>::try_from(&mut *program).and_then(RawTracePoint::load),
        Family::Syscall => <&mut TracePoint>::try_from(&mut *program).and_then(TracePoint::load),
    };
    loaded.map_err(|error| refused(reason(&error)))?;
    let fd = program.fd().map_err(|error| refused(reason(&error)))?;
    next.set(0, fd, 0).map_err(|error| refused(reason(&error)))?;
    Ok(next)
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

/// Words of the verifier on a program that calls functions and ends in another program, as most of ours do. It takes them on
/// x86-64 since 5.10 (<https://github.com/torvalds/linux/blob/v5.10/kernel/bpf/verifier.c>, `allow_tail_call_in_subprogs`), on
/// 64-bit ARM since 6.0 (<https://github.com/torvalds/linux/blob/v6.0/arch/arm64/net/bpf_jit_comp.c>,
/// `bpf_jit_supports_subprog_tailcalls`).
const NO_TAIL_CALLS: &str = "tail_calls are not allowed";

/// Returns the error with its causes, in one line. The verifier writes thousands of lines: its first one is kept, and its
/// verdict, which is the last but for statistics.
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

/// Returns a loader that does not read the kernel's BTF, which takes 30 MiB: the programs have no relocations against it.
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

pub(super) fn mapped<T: Shareable>(
    programs: &mut Ebpf,
    name: &'static str,
    entries: u32,
) -> Result<Mapped<T>, ProbeError> {
    let map = take(programs, name)?;
    Mapped::new(map, entries).map_err(|source| ProbeError::Map { map: name, source })
}

fn bytes_of(offsets: &Offsets) -> &[u8] {
    // SAFETY: `Offsets` is `repr(C)`, of integers without padding, so all its bytes are initialised.
    unsafe { std::slice::from_raw_parts((&raw const *offsets).cast(), size_of::<Offsets>()) }
}

/// Returns the object, with calls of the helper [`READ_ONLY_CAST`], which no kernel has, replaced by calls of the kernel's
/// function.
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

/// Returns the instruction that calls a function of the given kind.
fn call(kind: u8, number: i32) -> [u8; 8] {
    let [a, b, c, d] = number.to_ne_bytes();
    [BPF_CALL, kind << 4, 0, 0, a, b, c, d]
}

/// Creates the maps, in the sizes that the settings ask for.
pub(super) fn object(offsets: &Offsets, settings: &Settings) -> Result<Ebpf, EbpfError> {
    loader()
        .override_global("OFFSETS", bytes_of(offsets), true)
        .map_max_entries("EVENTS", settings.ring_bytes)
        .map_max_entries("CONNECTIONS", settings.connections)
        .map_max_entries("TARGETS", PROCESS_MARKS)
        .map_max_entries("THREADS", PROCESS_MARKS)
        .load(&code(offsets))
}

/// Creates the maps as small as can be, to try programs.
pub(super) fn small_object(offsets: &Offsets) -> Result<Ebpf, EbpfError> {
    loader()
        .override_global("OFFSETS", bytes_of(offsets), true)
        .map_max_entries("EVENTS", 4096)
        .map_max_entries("CONNECTIONS", 1)
        .map_max_entries("TARGETS", 1)
        .map_max_entries("THREADS", 1)
        .load(&code(offsets))
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

    /// An error like aya's: its text contains its source's.
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
