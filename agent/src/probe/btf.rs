//! Offsets of struct members of the running kernel, read from its BTF.
//!
//! Format: <https://docs.kernel.org/bpf/btf.html>. rustc writes no CO-RE relocations, so the programs get these numbers
//! as constants.

use std::ffi::CStr;

/// Reason why there are no offsets.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel has no BTF, or this process may not read it.
    #[error(
        "cannot read {path}: {source}. The kernel must be built with CONFIG_DEBUG_INFO_BTF (all current distributions' are)"
    )]
    Unreadable {
        /// The file.
        path: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The file does not follow the format.
    #[error("the kernel's BTF is malformed at byte {0}")]
    Malformed(usize),
}

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Upper bound on the anonymous members that are searched for one name: one that holds itself would have no end.
const MOST_ANONYMOUS: u32 = 1000;

/// The running kernel's types.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Byte offset of each type; ids count from 1.
    types: Vec<u32>,
}

impl Btf {
    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is malformed.
    pub fn of_kernel() -> Result<Self, BtfError> {
        let bytes = std::fs::read(PATH).map_err(|source| BtfError::Unreadable { path: PATH, source })?;
        Self::parse(bytes)
    }

    /// Indexes the types in these bytes.
    ///
    /// # Errors
    /// If the bytes are no BTF, or end within a type.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let word = |at: usize| word(&bytes, at);
        if word(0)? as u16 != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let header = word(4)? as usize;
        let first = header + word(8)? as usize;
        let end = first + word(12)? as usize;
        let strings = header + word(16)? as usize;
        let mut types = Vec::new();
        let mut at = first;
        while at < end {
            let info = word(at + 4)?;
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            types.push(at as u32);
            at += 12
                + match kind {
                    kind::INT | kind::VAR | kind::DECL_TAG => 4,
                    kind::ARRAY => 12,
                    kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * members,
                    kind::ENUM | kind::FUNC_PROTO => 8 * members,
                    _ => 0,
                };
        }
        Ok(Self { strings, types, bytes })
    }

    /// Returns the byte offset of a member, which may lie in an anonymous struct or union, or behind dots in a named one
    /// (`ns.inum`). `None`: this kernel has no such struct or member, or the member is a bit field within a byte.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let mut at = self.place(structure)?;
        let mut bits = 0;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let (offset, member) = self.member(at, name, &mut { MOST_ANONYMOUS })?;
            bits = offset.checked_add(bits)?;
            if names.peek().is_some() {
                at = self.aggregate(member)?;
            }
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Returns the type id of the function of this name.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.id(kind::FUNC, name)
    }

    /// Returns the type id of the struct of this name.
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.id(kind::STRUCT, name)
    }

    /// Returns whether there is a typedef of this name.
    pub fn has_typedef(&self, name: &str) -> bool {
        self.id(kind::TYPEDEF, name).is_some()
    }

    /// Returns the byte offset of the struct of this name in the file.
    fn place(&self, name: &str) -> Option<usize> {
        let index = self.structure(name)? as usize - 1;
        Some(*self.types.get(index)? as usize)
    }

    /// Searches the struct, function or typedef of this name among some 100,000 types, and returns its id. A map of all would take
    /// megabytes, for the dozen that are asked for.
    fn id(&self, kind: u32, wanted: &str) -> Option<u32> {
        let index = self.types.iter().map(|&at| at as usize).position(|at| {
            let is_kind = word(&self.bytes, at + 4).is_ok_and(|info| info >> 24 & 0x1f == kind);
            is_kind && word(&self.bytes, at).is_ok_and(|name| self.is_string(name, wanted))
        })?;
        u32::try_from(index + 1).ok()
    }

    fn is_string(&self, at: u32, text: &str) -> bool {
        let rest = self.bytes.get(self.strings + at as usize..).unwrap_or_default();
        rest.strip_prefix(text.as_bytes())
            .is_some_and(|end| end.first() == Some(&0))
    }

    /// Returns the bit offset and type id of a member. `left`: anonymous members that may still be searched.
    fn member(&self, at: usize, wanted: &str, left: &mut u32) -> Option<(u32, u32)> {
        let info = word(&self.bytes, at + 4).ok()?;
        let bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let entry = at + 12 + 12 * index;
            let name = string(&self.bytes, self.strings + word(&self.bytes, entry).ok()? as usize).ok()?;
            let member = word(&self.bytes, entry + 4).ok()?;
            let offset = word(&self.bytes, entry + 8).ok()?;
            let offset = if bitfields { offset & 0x00ff_ffff } else { offset };
            if name == wanted {
                return Some((offset, member));
            }
            if name.is_empty()
                && let Some(inner) = self.aggregate(member)
                && *left > 0
            {
                *left -= 1;
                let Some((more, found)) = self.member(inner, wanted, left) else {
                    continue;
                };
                return Some((offset.checked_add(more)?, found));
            }
        }
        None
    }

    /// Returns the byte offset in the file of the struct or union with this id, behind typedefs and qualifiers.
    fn aggregate(&self, mut id: u32) -> Option<usize> {
        for _ in 0..8 {
            let at = *self.types.get((id as usize).checked_sub(1)?)? as usize;
            match word(&self.bytes, at + 4).ok()? >> 24 & 0x1f {
                kind::STRUCT | kind::UNION => return Some(at),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::TYPE_TAG => id = word(&self.bytes, at + 8).ok()?,
                _ => return None,
            }
        }
        None
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(BtfError::Malformed(at))?;
    Ok(u32::from_ne_bytes(bytes))
}

fn string(bytes: &[u8], at: usize) -> Result<&str, BtfError> {
    let rest = bytes.get(at..).ok_or(BtfError::Malformed(at))?;
    let text = CStr::from_bytes_until_nul(rest).map_err(|_| BtfError::Malformed(at))?;
    text.to_str().map_err(|_| BtfError::Malformed(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF of `struct outer { int a; struct { int b; }; ns ns; }; typedef struct ns { int inum; } ns;`
    fn example() -> Vec<u8> {
        let mut types: Vec<u32> = vec![19, 1 << 24, 4, 32]; // 1: int
        types.extend([1, 4 << 24 | 3, 12, 7, 1, 0, 0, 3, 32, 11, 4, 64]); // 2: outer
        types.extend([0, 4 << 24 | 1, 4, 9, 1, 0]); // 3: anonymous
        types.extend([11, 8 << 24, 5]); // 4: typedef ns
        types.extend([11, 4 << 24 | 1, 4, 14, 1, 0]); // 5: ns
        file(&types)
    }

    fn file(types: &[u32]) -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0ns\0inum\0int\0";
        let mut bytes = Vec::new();
        for word in [
            MAGIC as u32 | 1 << 16,
            24,
            0,
            types.len() as u32 * 4,
            types.len() as u32 * 4,
            strings.len() as u32,
        ] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_wherever_they_lie() {
        let btf = Btf::parse(example()).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "b"), Some(4));
        assert_eq!(btf.offset("outer", "ns.inum"), Some(8));
        assert_eq!(btf.offset("outer", "c"), None);
        assert_eq!(btf.offset("inner", "a"), None);
        assert!(btf.has_typedef("ns") && !btf.has_typedef("outer"));
    }

    #[test]
    fn a_structure_that_holds_itself_has_an_end() {
        let itself = [1, 4 << 24 | 2, 4, 0, 1, 0, 0, 1, 0];
        assert_eq!(Btf::parse(file(&itself)).unwrap().offset("outer", "a"), None);
        // A member far beyond what an offset can say.
        let nested = [1, 4 << 24 | 1, 4, 0, 2, u32::MAX, 0, 4 << 24 | 1, 4, 7, 0, 8];
        assert_eq!(Btf::parse(file(&nested)).unwrap().offset("outer", "a"), None);
    }

    #[test]
    fn a_cut_off_file_is_an_error() {
        let bytes = example();
        assert!(Btf::parse(bytes[..40].to_vec()).is_err());
        assert!(Btf::parse(vec![0; 64]).is_err());
    }
}
