//! Framing that is certain: from a message's first byte to where the next one begins.
//!
//! Advice that errs towards "unknown": where two peers could read a head in two ways, nothing is said of its body.

pub mod chunk;
pub mod head;
