//! ELF files of executables: word size and language marks. Reads are bounded, since the file may be anyone's.

use std::{fs::File, os::unix::fs::FileExt};

use memchr::memmem::Finder;
use object::{
    Endianness,
    elf::{FileHeader64, NoteHeader64, PF_W, PT_LOAD, PT_NOTE, ProgramHeader64, SectionHeader64},
    pod,
};
use serde::{Deserialize, Serialize};

use crate::runtimes::Marks;

/// More headers than any real binary has; the rest of a crafted file is not looked at.
const MAX_HEADERS: usize = 256;
/// Upper bound on bytes that are searched for a mark.
const SEARCH_BYTES: u64 = 64 << 20;
/// Size of one step of a search.
const STEP_BYTES: usize = 1 << 20;
/// The name of tokio's worker threads, in every program that has its runtime (tokio, `runtime/builder.rs`).
const TOKIO: &[u8] = b"tokio-runtime-worker";
/// Directory of the standard library's sources when it was built: part of every panic message's location.
const RUSTC: &[u8] = b"/rustc/";

/// Word size and marks of an executable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binary {
    pub(super) is_32_bit: bool,
    pub(super) marks: Marks,
}

/// Returns true if the file is a 32-bit ELF file.
fn is_32_bit(file: &File) -> bool {
    let mut ident = [0; 5];
    file.read_exact_at(&mut ident, 0).is_ok() && ident == *b"\x7fELF\x01"
}

/// Reads what needs no search: the class, and Go's marks, which survive stripping.
pub(super) fn headers(file: &File) -> Binary {
    Binary {
        is_32_bit: is_32_bit(file),
        marks: Elf::read(file).and_then(|elf| elf.go_marks(file)).unwrap_or_default(),
    }
}

/// Searches the read-only data for Rust's and tokio's marks, unless the headers told the language. Reads up to 64 MiB,
/// so it is done once for each executable. Calls `alive` before each step.
pub(super) fn search(file: &File, binary: &mut Binary, alive: &mut dyn FnMut()) {
    let Some(elf) = Elf::read(file).filter(|_| binary.marks == Marks::None) else {
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
        while offset < end && binary.marks != Marks::Tokio {
            alive();
            let wanted = usize::try_from(end - offset).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            let Some(Ok(count @ 1..)) = step.get_mut(..wanted).map(|step| file.read_at(step, offset)) else {
                break;
            };
            let found = step.get(..count).unwrap_or_default();
            if tokio.find(found).is_some() {
                binary.marks = Marks::Tokio;
            } else if rustc.find(found).is_some() {
                binary.marks = Marks::Rust;
            }
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

    /// Returns Go's marks, if the file has any.
    fn go_marks(&self, file: &File) -> Option<Marks> {
        if let Some(section) = self.section(file, b".go.buildinfo") {
            let version = go_version(file, section);
            return Some(Marks::Go { version });
        }
        let is_go = self.section(file, b".note.go.buildid").is_some() || self.has_go_note(file);
        is_go.then_some(Marks::Go { version: None })
    }

    /// Returns the offset and length in the file of the section with this name.
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

    /// Returns true if there is a note with Go's build id, which stays when the section table is stripped.
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

/// Reads the headers of a table; none if the file is shorter than the table claims to be.
fn table<T: pod::Pod + Clone>(file: &File, offset: u64, count: u16) -> Vec<T> {
    let count = usize::from(count).min(MAX_HEADERS);
    let Some(bytes) = bytes_at(file, offset, count * size_of::<T>()) else {
        return Vec::new();
    };
    pod::slice_from_bytes::<T>(&bytes, count).map_or_else(|()| Vec::new(), |(headers, _)| headers.to_vec())
}

/// Reads the version from the header of `.go.buildinfo` (Go, `debug/buildinfo`): 14 bytes of magic, pointer size,
/// flags; since Go 1.18 flag 2 says that the version follows at offset 32, with its length as a varint.
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
        assert_eq!(found(&elf(PT_NOTE, &go)).marks, Marks::Go { version: None });
        assert_eq!(found(&elf(PT_NOTE, &note(b"GNU\0"))).marks, Marks::None);
    }

    #[test]
    fn marks_are_found_across_steps() {
        for start in [0, STEP_BYTES - 5, STEP_BYTES - TOKIO.len() + 1, 3 * STEP_BYTES] {
            let mut data = vec![b'x'; start];
            data.extend_from_slice(TOKIO);
            let binary = found(&elf(PT_LOAD, &data));
            assert_eq!(binary.marks, Marks::Tokio, "at {start}");
        }
        let binary = found(&elf(PT_LOAD, b"xx/rustc/abc/library"));
        assert_eq!(binary.marks, Marks::Rust);
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
        assert!(matches!(binary.marks, Marks::Rust | Marks::Tokio) && !binary.is_32_bit);
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
        assert!(matches!(binary.marks, Marks::Go { version: Some(version) } if version.starts_with("go1.")));
    }
}
