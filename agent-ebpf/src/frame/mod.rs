//! Framing that is certain: the distance from a message's first byte to the next message.
//!
//! It errs towards "unknown": where two peers could read a head in two ways, it says nothing about the body.

pub mod chunk;
pub mod head;
