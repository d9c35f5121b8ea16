//! What the fuzz targets share: how an input is taken apart.
//!
//! Inputs are read from front to back, a few bytes for each step, so that a mutation of one step leaves the others as
//! they are.

use arbitrary::Unstructured;

/// A byte; 0 when the input is used up.
pub fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or(0)
}

/// A number of 16 bits; 0 when the input is used up.
pub fn short(input: &mut Unstructured<'_>) -> u16 {
    u16::from(byte(input)) << 8 | u16::from(byte(input))
}

/// Up to 255 bytes behind a byte that says how many, fewer at the input's end. A length of 255 takes all that is left.
pub fn text<'a>(input: &mut Unstructured<'a>) -> &'a [u8] {
    let length = match usize::from(byte(input)) {
        255 => input.len(),
        length => length.min(input.len()),
    };
    input.bytes(length).unwrap_or_default()
}

/// A number that is small, at an edge, or anything.
pub fn number(input: &mut Unstructured<'_>) -> u64 {
    match byte(input) {
        small @ 0..=199 => u64::from(small),
        200..=230 => u64::from(short(input)),
        231 => u64::MAX,
        232 => u64::MAX - 1,
        233 => i64::MAX as u64,
        234 => 1 << 32,
        _ => input.arbitrary().unwrap_or(0),
    }
}

pub mod events;
