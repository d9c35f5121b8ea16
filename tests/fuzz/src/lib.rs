//! Reading of inputs, shared by the fuzz targets.
//!
//! Inputs are read from front to back, a few bytes for each step, so that a mutation of one step leaves the others as
//! they are.

use arbitrary::Unstructured;

/// Reads a byte; 0 when the input is used up.
pub fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or(0)
}

/// Reads a number of 16 bits; 0 when the input is used up.
pub fn short(input: &mut Unstructured<'_>) -> u16 {
    u16::from(byte(input)) << 8 | u16::from(byte(input))
}

/// Reads a byte with a length and that many bytes, fewer at the input's end. A length of 255 takes the rest.
pub fn text<'a>(input: &mut Unstructured<'a>) -> &'a [u8] {
    let length = match usize::from(byte(input)) {
        255 => input.len(),
        length => length.min(input.len()),
    };
    input.bytes(length).unwrap_or_default()
}

/// Reads a number that is small, at an edge, or arbitrary.
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
pub mod story;
