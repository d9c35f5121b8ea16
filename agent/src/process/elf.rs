//! What an executable's ELF file says about its language: read with bounds, since it may be anyone's file.

use std::{fs::File, os::unix::fs::FileExt};

use memchr::memmem::Finder;
use object::{
    Endianness,
    elf::{FileHeader64, NoteHeader64, PF_W, PT_LOAD, PT_NOTE, ProgramHeader64, SectionHeader64},
    pod,
};
use serde::{Deserialize, Serialize};

/// More headers than any real binary has; the rest of a crafted file is not looked at.
const MAX_HEADERS: usize = 256;
/// Most bytes that are searched for a marker.
const SEARCH_BYTES: u64 = 64 << 20;
/// Searched in steps of this size.
const STEP_BYTES: usize = 1 << 20;
/// The name of tokio's worker threads, in every program that has its runtime (tokio, `runtime/builder.rs`).
const TOKIO: &[u8] = b"tokio-runtime-worker";
/// Where the standard library's sources were when it was built: in every panic message's location.
const RUSTC: &[u8] = b"/rustc/";

/// What was found in an executable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binary {
    pub(super) is_32_bit: bool,
    pub(super) is_go: bool,
    /// As Go writes it: `go1.26.1`.
    pub(super) go_version: Option<String>,
    pub(super) is_rust: bool,
    pub(super) has_tokio: bool,
}

/// ELF class of a file: is it a 32-bit program?
fn is_32_bit(file: &File) -> bool {
    let mut ident = [0; 5];
    file.read_exact_at(&mut ident, 0).is_ok() && ident == *b"\x7fELF\x01"
}

/// Looks for what needs no search: the class, and Go's marks, which survive stripping.
pub(super) fn headers(file: &File) -> Binary {
    let mut binary = Binary {
        is_32_bit: is_32_bit(file),
        ..Binary::default()
    };
    let Some(elf) = Elf::read(file) else {
        return binary;
    };
    if let Some(section) = elf.section(file, b".go.buildinfo") {
        binary.is_go = true;
        binary.go_version = go_version(file, section);
    }
    binary.is_go = binary.is_go || elf.section(file, b".note.go.buildid").is_some() || elf.has_go_note(file);
    binary
}

/// Searches the read-only data for Rust's and tokio's marks: up to 64 MiB, so once an executable. `alive` is called before
/// each step.
pub(super) fn search(file: &File, binary: &mut Binary, alive: &mut dyn FnMut()) {
    let Some(elf) = Elf::read(file) else {
        return;
    };
    let ranges = match elf.section(file, b".rodata") {
        Some(range) => vec![range],
        None => elf.read_only_segments(),
    };
    let (tokio, rustc) = (Finder::new(TOKIO), Finder::new(RUSTC));
    let mut budget = SEARCH_BYTES;
    let mut step = vec![0; STEP_BYTES];
    for (mut offset, length) in ranges {
        let end = offset.saturating_add(length.min(budget));
        budget = budget.saturating_sub(length);
        while offset < end && !binary.has_tokio {
            alive();
            let wanted = usize::try_from(end - offset).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            let Ok(count @ 1..) = file.read_at(&mut step[..wanted], offset) else {
                break;
            };
            binary.has_tokio = tokio.find(&step[..count]).is_some();
            binary.is_rust |= binary.has_tokio || rustc.find(&step[..count]).is_some();
            // A mark may lie across two steps.
            let overlap = if offset + (count as u64) < end {
                (TOKIO.len() - 1).min(count - 1)
            } else {
                0
            };
            offset += (count - overlap) as u64;
        }
    }
}

struct Elf {
    endian: Endianness,
    segments: Vec<ProgramHeader64<Endianness>>,
    sections: Vec<SectionHeader64<Endianness>>,
    /// Index of the section that holds the names.
    names: usize,
}

impl Elf {
    fn read(file: &File) -> Option<Self> {
        let bytes = bytes_at(file, 0, size_of::<FileHeader64<Endianness>>())?;
        let (header, _) = pod::from_bytes::<FileHeader64<Endianness>>(&bytes).ok()?;
        let ident = header.e_ident;
        if ident.magic != *b"\x7fELF" || ident.class != 2 {
            return None;
        }
        let endian = if ident.data == 2 {
            Endianness::Big
        } else {
            Endianness::Little
        };
        Some(Self {
            endian,
            segments: table(file, header.e_phoff.get(endian), header.e_phnum.get(endian)),
            sections: table(file, header.e_shoff.get(endian), header.e_shnum.get(endian)),
            names: header.e_shstrndx.get(endian).into(),
        })
    }

    /// Offset and length in the file of the section with this name.
    fn section(&self, file: &File, name: &[u8]) -> Option<(u64, u64)> {
        let names = self.sections.get(self.names)?;
        let length = names.sh_size.get(self.endian).min(64 << 10) as usize;
        let names = bytes_at(file, names.sh_offset.get(self.endian), length)?;
        let section = self.sections.iter().find(|section| {
            let start = section.sh_name.get(self.endian) as usize;
            let rest = names.get(start..).unwrap_or_default();
            rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        })?;
        Some((section.sh_offset.get(self.endian), section.sh_size.get(self.endian)))
    }

    fn read_only_segments(&self) -> Vec<(u64, u64)> {
        let read_only = self.segments.iter().filter(|segment| {
            segment.p_type.get(self.endian) == PT_LOAD && segment.p_flags.get(self.endian) & PF_W == 0
        });
        read_only
            .map(|segment| (segment.p_offset.get(self.endian), segment.p_filesz.get(self.endian)))
            .collect()
    }

    /// The note with Go's build id, which is left when the section table is not.
    fn has_go_note(&self, file: &File) -> bool {
        let mut notes = self
            .segments
            .iter()
            .filter(|segment| segment.p_type.get(self.endian) == PT_NOTE);
        notes.any(|segment| {
            let length = segment.p_filesz.get(self.endian).min(16 << 10) as usize;
            let Some(bytes) = bytes_at(file, segment.p_offset.get(self.endian), length) else {
                return false;
            };
            let mut rest = bytes.as_slice();
            while let Ok((note, tail)) = pod::from_bytes::<NoteHeader64<Endianness>>(rest) {
                let name = note.n_namesz.get(self.endian) as usize;
                if name == 4 && tail.starts_with(b"Go\0\0") {
                    return true;
                }
                let description = note.n_descsz.get(self.endian) as usize;
                let skipped = name.next_multiple_of(4).saturating_add(description.next_multiple_of(4));
                match tail.get(skipped..) {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            false
        })
    }
}

/// The headers of a table, none if the file is shorter than it says.
fn table<T: pod::Pod + Clone>(file: &File, offset: u64, count: u16) -> Vec<T> {
    let count = usize::from(count).min(MAX_HEADERS);
    let Some(bytes) = bytes_at(file, offset, count * size_of::<T>()) else {
        return Vec::new();
    };
    pod::slice_from_bytes::<T>(&bytes, count).map_or_else(|()| Vec::new(), |(headers, _)| headers.to_vec())
}

/// The header of `.go.buildinfo` (Go, `debug/buildinfo`): 14 bytes of magic, pointer size, flags; since Go 1.18 flag 2
/// says that the version follows at offset 32, with its length as a varint.
fn go_version(file: &File, (offset, length): (u64, u64)) -> Option<String> {
    let bytes = bytes_at(file, offset, length.min(128) as usize)?;
    if !bytes.starts_with(b"\xff Go buildinf:") || bytes.get(15)? & 2 == 0 {
        return None;
    }
    let length = *bytes.get(32).filter(|&&length| length < 0x80)?;
    let version = bytes.get(33..33 + usize::from(length))?;
    // "go1.26.1 X:experiment" says more than the version.
    let version = std::str::from_utf8(version).ok()?.split(' ').next()?;
    version.starts_with("go").then(|| version.to_owned())
}

fn bytes_at(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A 64-bit ELF file with one read-only segment that holds `data`, or one note segment, and no sections.
    fn elf(segment_type: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&segment_type.to_le_bytes());
        bytes[68..72].copy_from_slice(&4u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&120u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn found(bytes: &[u8]) -> Binary {
        let file = file(bytes);
        let mut binary = headers(&file);
        search(&file, &mut binary, &mut || {});
        binary
    }

    #[test]
    fn a_go_note_is_found_without_sections() {
        let note = |name: &[u8; 4]| {
            [
                &4u32.to_le_bytes()[..],
                &3u32.to_le_bytes(),
                &4u32.to_le_bytes(),
                name,
                b"abc\0",
            ]
            .concat()
        };
        let go = [note(b"GNU\0"), note(b"Go\0\0")].concat();
        assert!(found(&elf(PT_NOTE, &go)).is_go);
        assert!(!found(&elf(PT_NOTE, &note(b"GNU\0"))).is_go);
    }

    #[test]
    fn marks_are_found_across_steps() {
        for start in [0, STEP_BYTES - 5, STEP_BYTES - TOKIO.len() + 1, 3 * STEP_BYTES] {
            let mut data = vec![b'x'; start];
            data.extend_from_slice(TOKIO);
            let binary = found(&elf(PT_LOAD, &data));
            assert!(binary.has_tokio && binary.is_rust, "at {start}");
        }
        let binary = found(&elf(PT_LOAD, b"xx/rustc/abc/library"));
        assert!(binary.is_rust && !binary.has_tokio);
        assert_eq!(found(&elf(PT_LOAD, b"tokio-runtime-worke")), Binary::default());
    }

    #[test]
    fn any_bytes_are_only_bytes() {
        let whole = elf(PT_NOTE, &[0xff; 64]);
        for length in 0..whole.len() {
            found(&whole[..length]);
        }
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] = 0xff;
            found(&changed);
        }
        assert!(found(b"\x7fELF\x01\x01").is_32_bit);
    }

    #[test]
    fn this_test_is_a_rust_program() {
        let file = File::open("/proc/self/exe").unwrap();
        let mut binary = headers(&file);
        search(&file, &mut binary, &mut || {});
        assert!(binary.is_rust && !binary.is_go && !binary.is_32_bit);
    }

    #[test]
    fn a_stripped_go_program_tells_its_version() {
        // The toolchain's own programs are Go programs; where there is none, there is nothing to test.
        let Some(path) = ["/usr/local/go/bin/gofmt", "/usr/lib/go/bin/gofmt"]
            .iter()
            .find(|path| Path::new(path).exists())
        else {
            return;
        };
        let binary = headers(&File::open(path).unwrap());
        assert!(binary.is_go);
        assert!(binary.go_version.unwrap().starts_with("go1."));
    }
}
