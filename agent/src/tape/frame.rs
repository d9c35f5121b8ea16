//! What a tape is made of.

use std::borrow::Cow;

use super::TapeError;
use crate::{engine::context::Ids, process::ProcessFacts};

/// One thing that Core was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    /// Core's configuration, as JSON.
    Config(Cow<'a, str>),
    /// The seed that trace and span ids come from.
    Seed(u128),
    /// The two clocks, read at one moment.
    Clock {
        /// `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
        /// `CLOCK_REALTIME`: since the Unix epoch.
        unix_ns: u64,
    },
    /// A record of the ring buffer, as it was found there.
    Record(&'a [u8]),
    /// Core's timers ran.
    Tick {
        /// `CLOCK_MONOTONIC`.
        now_ns: u64,
    },
    /// What a process is.
    Process(Cow<'a, ProcessFacts>),
    /// It was decided whether a process, captured provisionally since its exec, is selected.
    Selected {
        /// Process id in the initial namespace.
        tgid: u32,
        /// Whether it is.
        selected: bool,
    },
}

/// A frame's kind, as numbered on tapes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Config = 1,
    Seed = 2,
    Clock = 3,
    Record = 4,
    Tick = 5,
    Process = 6,
    Selected = 7,
    /// The last frame: how many precede it.
    End = 255,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Config,
            2 => Self::Seed,
            3 => Self::Clock,
            4 => Self::Record,
            5 => Self::Tick,
            6 => Self::Process,
            7 => Self::Selected,
            255 => Self::End,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Seed => "seed",
            Self::Clock => "clock",
            Self::Record => "record",
            Self::Tick => "tick",
            Self::Process => "process",
            Self::Selected => "selected",
            Self::End => "end",
        }
    }
}

impl Frame<'_> {
    /// Appends the payload, and gives the kind that it is of.
    pub(super) fn encode(&self, payload: &mut Vec<u8>) -> Result<Kind, TapeError> {
        Ok(match self {
            Self::Config(json) => {
                payload.extend_from_slice(json.as_bytes());
                Kind::Config
            }
            Self::Seed(seed) => {
                payload.extend_from_slice(&seed.to_le_bytes());
                Kind::Seed
            }
            Self::Clock { monotonic_ns, unix_ns } => {
                payload.extend_from_slice(&monotonic_ns.to_le_bytes());
                payload.extend_from_slice(&unix_ns.to_le_bytes());
                Kind::Clock
            }
            Self::Record(record) => {
                payload.extend_from_slice(record);
                Kind::Record
            }
            Self::Tick { now_ns } => {
                payload.extend_from_slice(&now_ns.to_le_bytes());
                Kind::Tick
            }
            Self::Process(facts) => {
                serde_json::to_writer(payload, facts).map_err(std::io::Error::from)?;
                Kind::Process
            }
            Self::Selected { tgid, selected } => {
                payload.extend_from_slice(&tgid.to_le_bytes());
                payload.extend_from_slice(&u32::from(*selected).to_le_bytes());
                Kind::Selected
            }
        })
    }
}

impl<'a> Frame<'a> {
    /// The frame with this payload, or what is wrong with it.
    pub(super) fn decode(kind: Kind, payload: &'a [u8]) -> Result<Self, String> {
        Ok(match kind {
            Kind::Config => {
                let json = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
                Self::Config(Cow::Borrowed(json))
            }
            // Earlier tapes have the state alone.
            Kind::Seed => Self::Seed(match exactly(payload) {
                Ok(state) => Ids::seed_of_state(u64::from_le_bytes(state)),
                Err(_) => u128::from_le_bytes(exactly(payload)?),
            }),
            Kind::Clock => {
                let [a, b, c, d, e, f, g, h, rest @ ..] = exactly::<16>(payload)?;
                Self::Clock {
                    monotonic_ns: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                    unix_ns: u64::from_le_bytes(rest),
                }
            }
            Kind::Record => Self::Record(payload),
            Kind::Tick => Self::Tick {
                now_ns: u64::from_le_bytes(exactly(payload)?),
            },
            Kind::Process => {
                let facts = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
                Self::Process(Cow::Owned(facts))
            }
            Kind::Selected => {
                let [a, b, c, d, selected, _, _, _] = exactly(payload)?;
                Self::Selected {
                    tgid: u32::from_le_bytes([a, b, c, d]),
                    selected: selected != 0,
                }
            }
            Kind::End => return Err("an end is no frame".to_owned()),
        })
    }
}

fn exactly<const N: usize>(payload: &[u8]) -> Result<[u8; N], String> {
    payload
        .try_into()
        .map_err(|_| format!("{} bytes in place of {N}", payload.len()))
}
