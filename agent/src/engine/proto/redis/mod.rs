//! Redis: RESP2 and RESP3, as seen by somebody who only listens.
//!
//! [`Redis`] is fed with both halves of one connection, in pieces of any size with gaps between them, and says which commands
//! there were and how they were answered. `frames` takes values apart, `command` reads commands and `answer` replies,
//! `connection` finds the reply of each command, `keys` counts keys, and [`structure`] says which bytes are no data.
//!
//! Keys and values are passed over: the name of a command, the number of its keys and the first word of an error are all that
//! is kept. A reply is followed to its end, however deep it is nested.
//!
//! The client may stop waiting for replies one by one. Then the connection is given up, and says for what:
//!
//! - `SUBSCRIBE` and its like, and `MONITOR`: the server sends messages that no command asked for. RESP3 tells them apart
//!   from replies (`>`), but confirms a subscription by such a message, once a channel; RESP2 does not.
//! - `SYNC` and `PSYNC`: the server sends a file, then commands.
//! - `CLIENT REPLY OFF` and `SKIP`: the server sends nothing.
//!
//! Messages of RESP3 that nothing asked for (`CLIENT TRACKING`) are passed over.

mod answer;
mod command;
mod connection;
mod frames;
mod kept;
mod keys;
mod modules;
pub mod structure;

#[cfg(test)]
mod tests;

pub use connection::Redis;
pub use structure::Conversation;

use super::{Cause, Piece};

/// A command, without its keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The name; `None`: it was not captured whole, or is longer than 64 bytes.
    pub name: Option<CommandName>,
    /// How many keys it has, if that is known of a command of this name.
    pub keys: Option<u64>,
}

/// The name of a command. Clients may send any word as one, so only those of a list are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandName {
    /// A command that Redis has or a module that comes with it, in upper case.
    Known(&'static str),
    /// Any other.
    Other,
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A reply of any type but an error. Errors inside of it, as `EXEC` has them, are replies of other commands.
    Reply,
    /// An error: its first word (`WRONGTYPE`), if that is one in capital letters.
    Error(Option<Box<str>>),
}

/// Describes exchanges that were lost for other reasons than missing bytes.
pub(super) fn unreadable(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Malformed => Some("malformed Redis"),
        Cause::Unsolicited => Some("Redis replies without a command"),
        Cause::TooManyPending => Some("too many pipelined Redis commands"),
        // The first two have no meaning here, gaps show as exchanges that are missed; the others are told with the protocol.
        Cause::Doubtful | Cause::HeadTooLarge | Cause::Gap | Cause::OtherProtocol | Cause::Upgrade => None,
    }
}
