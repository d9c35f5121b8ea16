//! Replaces the bytes of one connection, as the structure of its protocol says.
//!
//! The structure sees each byte once, in the order of the stream, and the gaps between them. Bytes that came already, and bytes of
//! a connection whose protocol is not known, are filled.

use super::standin::{FILL, Key, Word};
use crate::{
    engine::proto::{
        Half,
        detect::FirstBytes,
        structure::{Marks, Named, Structure},
    },
    record::{Direction, Rest, Role},
};

/// A connection whose bytes are replaced.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    /// No byte of it is older than the recording.
    from_birth: bool,
    read: Way,
    written: Way,
    /// `None`: the protocol is not known yet.
    structure: Option<Structure>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Way {
    /// Stream offset of the next byte.
    next: u64,
    /// The word that the next byte may belong to.
    word: Word,
}

/// The place of a segment in its stream.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The direction.
    pub direction: Direction,
    /// Stream offset of its first byte.
    pub offset: u64,
    /// Stream offset behind the last byte that was moved, captured or not.
    pub end: u64,
    /// Whether the bytes begin with the first byte of a system call.
    pub begins_call: bool,
    /// The moved bytes behind the captured ones.
    pub rest: Rest,
}

impl Connection {
    /// Creates a connection of which only the role is known, or not even that.
    pub fn new(role: Role, key: &Key) -> Self {
        let way = || Way {
            next: 0,
            word: key.word(),
        };
        Self {
            role,
            from_birth: false,
            read: way(),
            written: way(),
            structure: None,
        }
    }

    /// Returns the role, and whether the connection's birth was seen.
    pub fn ends(&self) -> (Role, bool) {
        (self.role, self.from_birth)
    }

    /// Takes these from the stream onto which a TLS library encrypts this one.
    pub fn take_ends(&mut self, (role, from_birth): (Role, bool)) {
        if role != Role::Unknown {
            self.role = role;
        }
        self.from_birth = from_birth;
    }

    /// Takes the description: the role, the bytes read and written before, and whether the connection's birth was seen.
    pub fn describe(&mut self, role: Role, read: u64, written: u64, from_birth: bool) {
        if role != Role::Unknown {
            self.role = role;
        }
        self.read.next = read;
        self.written.next = written;
        self.from_birth = from_birth && self.is_unused();
        if self.from_birth {
            self.structure = None;
        }
    }

    /// Returns which end it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Replaces the captured bytes of a segment.
    pub fn segment(&mut self, place: &Place, bytes: &mut [u8], key: &Key, named: &Named) {
        let direction = place.direction;
        let next = self.way(direction).next;
        // Repeated bytes: Core skips them.
        let repeated = next.saturating_sub(place.offset).min(bytes.len() as u64) as usize;
        let (known, bytes) = bytes.split_at_mut(repeated);
        known.fill(FILL);
        let begins_call = place.begins_call && known.is_empty();
        if self.structure.is_none() {
            self.detect(place, begins_call, bytes);
        }
        self.gap(direction, place.offset.saturating_sub(next));
        let mut marks = Marks::default();
        let half = self.half(direction);
        if let Some(structure) = &mut self.structure {
            structure.bytes(named, half, begins_call, bytes, &mut marks);
        }
        let reached = place.offset.max(next).saturating_add(bytes.len() as u64);
        let way = self.way(direction);
        way.word.replace(bytes, &marks, key);
        way.next = reached;
        if place.rest == Rest::Gap && place.end > reached {
            way.next = place.end;
            self.gap(direction, place.end - reached);
        }
    }

    /// Looks for the protocol, and for the role if it is not known, as Core does.
    fn detect(&mut self, place: &Place, begins_call: bool, bytes: &[u8]) {
        let opening = FirstBytes {
            bytes,
            begins_call,
            from_birth: self.from_birth && self.is_unused() && place.offset == 0,
            at_server: match self.role {
                Role::Unknown => None,
                Role::Client => Some(false),
                Role::Server => Some(true),
            },
            sent: place.direction == Direction::Write,
        };
        if let Some((structure, at_server)) = Structure::detect(&opening) {
            self.structure = Some(structure);
            self.role = if at_server { Role::Server } else { Role::Client };
        }
    }

    /// Passes over `n` bytes that were not captured.
    fn gap(&mut self, direction: Direction, n: u64) {
        let half = self.half(direction);
        if let Some(structure) = self.structure.as_mut().filter(|_| n > 0) {
            structure.gap(half, n);
        }
    }

    fn half(&self, direction: Direction) -> Half {
        if (direction == Direction::Write) == (self.role == Role::Client) {
            Half::Request
        } else {
            Half::Response
        }
    }

    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.written,
        }
    }

    /// Returns whether no byte has passed.
    fn is_unused(&self) -> bool {
        self.read.next == 0 && self.written.next == 0
    }
}
