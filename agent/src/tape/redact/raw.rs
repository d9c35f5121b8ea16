//! The binary records of a tape, whose fields a redacted tape keeps or replaces one by one.

use agent_ebpf::abi::{
    self, Begun, Connect, Context, Exec, Exit, Fork, Header, IDENTITY, Identity, Kind, Listen, Open, Segment, State,
    Unseen,
};

/// A record of the ring buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    /// A connection was seen for the first time.
    Open(Open),
    /// connect(2) returned; the address of the Unix socket that it went to, if it is one.
    Connect(Connect, &'a [u8]),
    /// Bytes were moved; the slices.
    Segment(Segment, &'a [u8]),
    /// A connection changed its state.
    State(State),
    /// A target forked a process.
    Fork(Fork),
    /// A process runs a new program; its command line and environment, words ending with NUL.
    Exec(Exec, &'a [u8]),
    /// The last thread of a target ended.
    Exit(Exit),
    /// A process listens on a port that a rule names.
    Listen(Listen),
    /// A target does something that Spoor cannot see.
    Unseen(Unseen),
    /// An execution has begun.
    Begun(Begun),
    /// A context was put into bytes as they left.
    Context(Context),
}

impl<'a> Raw<'a> {
    /// Decodes a record, and the identity that it may end with; `None`: this version has no such record.
    pub(super) fn decode(record: &'a [u8]) -> Option<(Self, Option<Identity>)> {
        let (header, _) = abi::split::<Header>(record)?;
        if header.flags & IDENTITY == 0 {
            return Some((Self::without_identity(&header, record)?, None));
        }
        let (record, last) = record.split_at_checked(record.len().checked_sub(size_of::<Identity>())?)?;
        let (identity, _) = abi::split::<Identity>(last)?;
        Some((Self::without_identity(&header, record)?, Some(identity)))
    }

    fn without_identity(header: &Header, record: &'a [u8]) -> Option<Self> {
        let whole = |kind: Kind| header.kind == kind as u8;
        Some(match () {
            () if whole(Kind::Segment) => {
                let (segment, rest) = abi::split::<Segment>(record)?;
                Self::Segment(segment, rest)
            }
            () if whole(Kind::Open) => Self::Open(abi::split(record)?.0),
            () if whole(Kind::Connect) => {
                let (connect, rest) = abi::split::<Connect>(record)?;
                Self::Connect(connect, rest.get(..connect.path_bytes as usize)?)
            }
            () if whole(Kind::State) => Self::State(abi::split(record)?.0),
            () if whole(Kind::Fork) => Self::Fork(abi::split(record)?.0),
            () if whole(Kind::Exec) => {
                let (exec, rest) = abi::split::<Exec>(record)?;
                Self::Exec(exec, rest.get(..exec.strings_len as usize)?)
            }
            () if whole(Kind::Exit) => Self::Exit(abi::split(record)?.0),
            () if whole(Kind::Listen) => Self::Listen(abi::split(record)?.0),
            () if whole(Kind::Unseen) => Self::Unseen(abi::split(record)?.0),
            () if whole(Kind::Begun) => Self::Begun(abi::split(record)?.0),
            () if whole(Kind::Context) => Self::Context(abi::split(record)?.0),
            () => return None,
        })
    }
}
