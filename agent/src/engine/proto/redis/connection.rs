//! Both halves of one connection: which reply answers which command.

use agent_ebpf::abi::{IGNORED, Mode as KernelMode};
use smallvec::SmallVec;

use super::{
    Cause, Piece,
    answer::{Answers, Heard, Shape},
    command::{Commands, Effect, Found, Turn},
};
use crate::engine::{
    execution::Stamp,
    proto::{Ahead, Call, Data, Event, Half, Reply, held::Held, opaque},
};

/// Most commands that wait for their replies. Clients pipeline thousands.
pub(super) const MAX_PENDING: u32 = 4096;

/// A connection on which nothing passed for so long has no command on the way: each that does not block is answered in less.
const QUIET_NS: u64 = 1_000_000_000;

/// Longest time by which the record of a reply may come before that of its command, which another thread sent.
const MAX_LEAD_NS: u64 = 100_000_000;

/// A passive parser of both halves of one connection. It is fed with what was captured, says what it found, and does nothing
/// else: no clock, no IO.
///
/// ```text
///            from birth                          not from birth
///                │                                      │
///                ▼  gap in framing, malformed, unasked  ▼
///           Following ──────────────────────────► Searching
///            │     ▲                                    │
///            │     └─ a call that begins like a command ┘
///            ▼        behind a second of silence
///          Opaque  (not Redis, subscribed, …)
/// ```
///
/// Clients that share a connection between threads are common, so a command of which nobody knows may be on the way at any
/// time, and the replies behind it would be taken for those of other commands for ever. Only silence rules that out.
#[derive(Debug)]
pub struct Redis {
    mode: Mode,
    /// No command was read yet: the first bytes decide what the connection is.
    is_undecided: bool,
    /// The bytes were seen at the server's end: there, a command is read before its reply is written.
    at_server: bool,
    commands: Commands,
    answers: Answers,
    /// How many commands wait for their replies: the last one is exchange `next_exchange - 1`.
    pending: u32,
    next_exchange: u64,
    /// The commands that may change what the connection carries.
    turns: SmallVec<[(u64, Turn); 1]>,
    /// Replies that came before the record of their command.
    held: Held,
    /// Bytes that passed while no boundary was known, since [`Redis::take_unsynchronised`].
    unsynchronised_bytes: u64,
}

/// Treatment of the bytes that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Both halves are followed byte by byte.
    Following,
    /// No boundary is known. The time is that of the last byte; `None`: nothing was seen yet.
    Searching(Option<u64>),
    /// Nothing is looked at any more.
    Opaque,
}

impl Redis {
    /// Creates a parser. `from_birth`: the first byte that is fed is the first of the connection; else no boundary is
    /// known yet.
    pub fn new(from_birth: bool, at_server: bool) -> Self {
        Self {
            mode: if from_birth {
                Mode::Following
            } else {
                Mode::Searching(None)
            },
            is_undecided: from_birth,
            at_server,
            commands: Commands::new(),
            answers: Answers::new(),
            pending: 0,
            next_exchange: 0,
            turns: SmallVec::new(),
            held: Held::default(),
            unsynchronised_bytes: 0,
        }
    }

    /// Takes what comes next in the stream of one half. At the client's end, a reply may come before its command.
    pub fn feed(&mut self, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        if piece.is_empty() {
            return;
        }
        if half == Half::Request
            && let Some(held) = self.held.first()
            && piece.stamp.time_ns.saturating_sub(held.stamp.time_ns) > MAX_LEAD_NS
        {
            let held = held.stamp;
            self.lose(Cause::Unsolicited, held, out);
        }
        match (self.mode, half) {
            (Mode::Opaque, _) => {}
            (Mode::Searching(last_ns), _) => self.search(last_ns, half, piece, out),
            (Mode::Following, Half::Request) => {
                self.follow_commands(piece, out);
                self.release(out);
            }
            (Mode::Following, Half::Response) if self.held.is_empty() => self.follow_answers(piece, false, out),
            (Mode::Following, Half::Response) => self.hold(piece, out),
        }
    }

    /// Returns the calls that later events may name.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let begun = self.commands.first().into_iter().chain(self.answers.first());
        begun.chain(self.held.stamps())
    }

    /// Takes the end of a half. Replies that wait for their command get none.
    pub fn end(&mut self, half: Half, stamp: Stamp, out: &mut Vec<Event>) {
        if half == Half::Request && !self.held.is_empty() {
            self.lose(Cause::Unsolicited, stamp, out);
        }
    }

    /// Returns the next boundary of a half: the end of a string that nobody needs. What begins there is not known to the
    /// kernel programs.
    pub fn ahead(&self, half: Half) -> Ahead {
        let until = match self.mode {
            Mode::Opaque => {
                return Ahead {
                    until: IGNORED,
                    mode: KernelMode::Ignored,
                    exchange: 0,
                };
            }
            Mode::Searching(_) => 0,
            Mode::Following => match half {
                Half::Request => self.commands.skip_until(),
                Half::Response => self.answers.skip_until(),
            },
        };
        Ahead {
            until,
            mode: KernelMode::Unknown,
            exchange: self.next_exchange,
        }
    }

    /// Returns the stream offset below which all bytes of a half are of a string, so that a gap of them hides nothing. 0: nothing
    /// is known. `u64::MAX`: nothing that comes matters any more.
    pub fn body_until(&self, half: Half) -> u64 {
        match (self.mode, half) {
            (Mode::Opaque, _) => u64::MAX,
            (_, Half::Request) => self.commands.body_until(),
            (_, Half::Response) => self.answers.body_until(),
        }
    }

    /// Returns whether boundaries of both halves are known.
    pub fn is_synchronised(&self) -> bool {
        self.mode == Mode::Following
    }

    /// Returns how many commands were told whose reply is not complete.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    fn follow_commands(&mut self, mut piece: Piece<'_>, out: &mut Vec<Event>) {
        while !piece.is_empty() && self.mode == Mode::Following {
            match self.commands.next(&mut piece) {
                Ok(None) => {}
                Ok(Some(found)) => self.begin(found, piece.stamp, out),
                Err(cause) => self.fail(cause, piece.stamp, out),
            }
        }
    }

    /// Begins the exchange of a command that is whole.
    fn begin(&mut self, found: Found, last: Stamp, out: &mut Vec<Event>) {
        let Found {
            command,
            effect,
            first,
            offset,
        } = found;
        self.is_undecided = false;
        if self.pending >= MAX_PENDING {
            return self.lose(Cause::TooManyPending, last, out);
        }
        let exchange = self.next_exchange;
        match effect {
            None => {}
            Some(Effect::Turns(turn)) => self.turns.push((exchange, turn)),
            Some(Effect::Silences) => return self.become_opaque(Cause::Upgrade, opaque::REDIS_SILENT, out),
        }
        self.next_exchange += 1;
        self.pending += 1;
        out.push(Event::Begins {
            exchange,
            call: Call::Redis(command),
            first,
            complete: last,
            offset,
        });
        out.push(Event::Sent {
            exchange,
            last,
            body_bytes: 0,
        });
    }

    /// Takes one piece of the other half. `again`: it was held, so what is left of it goes back to the front.
    fn follow_answers(&mut self, mut piece: Piece<'_>, again: bool, out: &mut Vec<Event>) {
        while !piece.is_empty() && self.mode == Mode::Following {
            if self.answers.is_between() && self.pending == 0 && !begins_push(piece) {
                if again {
                    self.held.put_back(piece);
                } else {
                    self.hold(piece, out);
                }
                return;
            }
            match self.answers.next(&mut piece) {
                Ok(heard) => self.hear(heard, piece.stamp, out),
                Err(cause) => self.fail(cause, piece.stamp, out),
            }
        }
    }

    fn hear(&mut self, heard: Heard, stamp: Stamp, out: &mut Vec<Event>) {
        let exchange = self.oldest_exchange();
        match heard {
            Heard::Nothing => {}
            Heard::Answered { answer, first, offset } => out.push(Event::Answered {
                exchange,
                reply: Reply::Redis(answer),
                first,
                complete: stamp,
                offset,
            }),
            // It may be the confirmation that the command gets in place of a reply.
            Heard::Push if self.oldest_turn() == Some(Turn::Subscription) => {
                return self.become_opaque(Cause::Upgrade, opaque::REDIS_SUBSCRIBED, out);
            }
            Heard::Push => {}
        }
        let Some(shape) = self.answers.take_ended() else {
            return;
        };
        let turn = self.oldest_turn();
        self.turns.retain(|&mut (number, _)| number != exchange);
        self.pending = self.pending.saturating_sub(1);
        out.push(Event::Ended {
            exchange,
            last: stamp,
            body_bytes: Some(0),
        });
        if let Some(name) = turn.and_then(|turn| turn.carries(shape)) {
            self.become_opaque(Cause::Upgrade, name, out);
        }
    }

    /// Keeps a reply that no command asked for, as far as is known yet.
    fn hold(&mut self, piece: Piece<'_>, out: &mut Vec<Event>) {
        if let Data::Gap(_) = piece.data {
            self.lose(Cause::Gap, piece.stamp, out);
        } else if self.at_server || self.held.push(piece).is_err() {
            self.lose(Cause::Unsolicited, piece.stamp, out);
        }
    }

    /// Takes the replies that were held, as far as there are commands for them now, and what needs no command: a push, and the
    /// rest of one.
    fn release(&mut self, out: &mut Vec<Event>) {
        while self.takes_held()
            && let Some(held) = self.held.pop()
        {
            self.follow_answers(held.piece(), true, out);
        }
    }

    fn takes_held(&self) -> bool {
        let is_push = || self.held.first().is_some_and(begins_push);
        self.pending > 0 || !self.answers.is_between() || is_push()
    }

    /// Returns the bytes that passed while no boundary was known, since this was last called.
    pub fn take_unsynchronised(&mut self) -> u64 {
        std::mem::take(&mut self.unsynchronised_bytes)
    }

    /// Looks for a command that begins a system call, behind a silence of both halves.
    fn search(&mut self, last_ns: Option<u64>, half: Half, piece: Piece<'_>, out: &mut Vec<Event>) {
        let now_ns = piece.stamp.time_ns;
        let is_quiet = last_ns.is_some_and(|last_ns| now_ns.saturating_sub(last_ns) >= QUIET_NS);
        let is_command =
            half == Half::Request && piece.segment_start && matches!(piece.data, Data::Bytes([b'*', b'0'..=b'9', ..]));
        if is_quiet && is_command {
            self.mode = Mode::Following;
            self.follow_commands(piece, out);
        } else {
            self.unsynchronised_bytes = self.unsynchronised_bytes.saturating_add(piece.len());
            self.mode = Mode::Searching(last_ns.max(Some(now_ns)));
        }
    }

    fn fail(&mut self, cause: Cause, stamp: Stamp, out: &mut Vec<Event>) {
        if self.is_undecided && cause == Cause::Malformed {
            self.become_opaque(Cause::OtherProtocol, opaque::OTHER, out);
        } else {
            self.lose(cause, stamp, out);
        }
    }

    fn lose(&mut self, cause: Cause, stamp: Stamp, out: &mut Vec<Event>) {
        out.push(Event::Lost {
            exchange: self.oldest_exchange(),
            cause,
        });
        self.unsynchronised_bytes = self.unsynchronised_bytes.saturating_add(self.held.bytes());
        self.forget(Mode::Searching(Some(stamp.time_ns)));
    }

    fn become_opaque(&mut self, cause: Cause, carries: &'static str, out: &mut Vec<Event>) {
        if self.pending > 0 {
            out.push(Event::Lost {
                exchange: self.oldest_exchange(),
                cause,
            });
        }
        out.push(Event::Opaque { cause, carries });
        self.forget(Mode::Opaque);
    }

    /// Forgets all that is known of both halves, but for the number of the next exchange.
    fn forget(&mut self, mode: Mode) {
        *self = Self {
            mode,
            next_exchange: self.next_exchange,
            ..Self::new(false, self.at_server)
        };
    }

    /// Numbers the exchanges from this number on.
    pub fn number_from(&mut self, exchange: u64) {
        self.next_exchange = exchange;
    }

    /// Returns the number of the oldest exchange whose reply is not complete, or of the next one.
    fn oldest_exchange(&self) -> u64 {
        self.next_exchange.saturating_sub(self.pending.into())
    }

    fn oldest_turn(&self) -> Option<Turn> {
        let (exchange, turn) = *self.turns.first()?;
        (exchange == self.oldest_exchange()).then_some(turn)
    }
}

impl Turn {
    /// Returns the name of what a connection carries behind a reply of this shape, if that is something else.
    fn carries(self, shape: Shape) -> Option<&'static str> {
        match (self, shape) {
            (_, Shape::Error | Shape::Queued) => None,
            (Self::Subscription, _) | (Self::Ping, Shape::Aggregate) => Some(opaque::REDIS_SUBSCRIBED),
            (Self::Ping, Shape::Other) => None,
            (Self::Monitor, _) => Some(opaque::REDIS_MONITOR),
            (Self::Replication, _) => Some(opaque::REDIS_REPLICATION),
        }
    }
}

fn begins_push(piece: Piece<'_>) -> bool {
    matches!(piece.data, Data::Bytes([b'>', ..]))
}
