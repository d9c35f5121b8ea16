//! Captured parts of a segment behind the first one.

use agent_ebpf::abi;

/// Bytes of a stream without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice<'a> {
    /// Stream offset of the first byte.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Further slices of a segment, checked when the record was decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slices<'a> {
    /// From the next slice to the end of the last one.
    bytes: &'a [u8],
    /// Added to the offsets in the record, modulo 2⁶⁴.
    shift: u64,
}

impl<'a> Slices<'a> {
    /// Finds `left` slices behind the first `captured` bytes of `rest`. `None`: the record is cut off, or the slices are
    /// not in the order of the stream or reach behind the call's end.
    pub(super) fn decode(left: u8, rest: &'a [u8], captured: usize, from: u64, end: u64) -> Option<Self> {
        if left == 0 {
            return Some(Self::default());
        }
        let bytes = rest.get(captured.next_multiple_of(8)..)?;
        let mut behind = Self { bytes, shift: 0 };
        let mut reached = from;
        for _ in 0..left {
            let slice = behind.next()?;
            if slice.offset < reached {
                return None;
            }
            reached = slice.offset.checked_add(slice.bytes.len() as u64)?;
        }
        let all = bytes.len() - behind.bytes.len();
        (reached <= end).then_some(Self {
            bytes: bytes.get(..all)?,
            shift: 0,
        })
    }

    /// Moves the slices to other offsets: adds `by`, modulo 2⁶⁴.
    pub fn shift(&mut self, by: u64) {
        self.shift = self.shift.wrapping_add(by);
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = Slice<'a>;

    fn next(&mut self) -> Option<Slice<'a>> {
        if self.bytes.is_empty() {
            return None;
        }
        let (slice, rest) = abi::split::<abi::Slice>(self.bytes)?;
        let length = slice.bytes as usize;
        let bytes = rest.get(..length)?;
        // The last slice may end with the record, before the next multiple of eight.
        self.bytes = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
        Some(Slice {
            offset: slice.offset.wrapping_add(self.shift),
            bytes,
        })
    }
}
