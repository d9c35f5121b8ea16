//! Tapes: recordings of everything that Core was fed, in order. Feeding it again gives the same spans, byte for byte.
//!
//! ```text
//! header:  "SPOORTAPE\n" | format u32 | abi u32 | byte order u32 | version of spoor, 24 bytes, NUL padded
//! frame:   kind u8 | length u32 | payload
//! ```
//! Numbers are little-endian. The byte order mark and the ring buffer's records are in the byte order of the recording
//! machine. The last frame says how many frames precede it: a tape without it was cut off. The layout of the header never
//! changes, so that every version can say which version made a tape.

mod file;
mod frame;
pub mod redact;

use std::io::{self, Read, Write};

use agent_ebpf::abi::ABI_VERSION;

pub use file::{CreateError, create};
pub use frame::Frame;
use frame::Kind;
use redact::Redactor;

/// Version of the frames' layout.
pub const FORMAT_VERSION: u32 = 1;

/// Longest payload of a frame, in bytes. The longest record of the ring buffer is well below.
pub const FRAME_BYTES: usize = 1024 * 1024;

/// Warning for the user who records a tape.
pub const WARNING: &str = "a tape holds what the traced services said to each other, cookies, tokens and personal data \
                           included: keep it as safe as the services' own data, or record it with --redact";

const MAGIC: &[u8; 10] = b"SPOORTAPE\n";
const BYTE_ORDER: u32 = 0x0102_0304;
const VERSION_BYTES: usize = 24;
const HEADER_BYTES: usize = MAGIC.len() + 3 * size_of::<u32>() + VERSION_BYTES;
const FRAME_HEAD_BYTES: usize = 1 + size_of::<u32>();

/// Reason for which a tape cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// The file is something else.
    #[error("this is not a tape: it does not begin with SPOORTAPE; tapes are made with `spoor record -o FILE`")]
    NotATape,
    /// Frames of another layout.
    #[error(
        "the tape was made by spoor {made_by} in tape format {found}, and this is spoor {}, which reads format {}: \
         replay it with spoor {made_by}, or record it again",
        env!("CARGO_PKG_VERSION"), FORMAT_VERSION
    )]
    Format {
        /// The tape's format.
        found: u32,
        /// The version of spoor that made it.
        made_by: String,
    },
    /// Records of another layout.
    #[error(
        "the tape was made by spoor {made_by} with kernel records of version {found}, and this is spoor {}, which \
         reads version {}: replay it with spoor {made_by}, or record it again",
        env!("CARGO_PKG_VERSION"), ABI_VERSION
    )]
    Abi {
        /// The version of the tape's records.
        found: u32,
        /// The version of spoor that made it.
        made_by: String,
    },
    /// Records of a machine with the other byte order.
    #[error("the tape was recorded on a machine of the other byte order: replay it on a machine like that one")]
    ByteOrder,
    /// The end is missing.
    #[error(
        "the tape is cut off at byte {at_byte}, after {whole_frames} whole frames: the recording was killed, its disk \
         was full, or the copy is incomplete; stop recordings with Ctrl-C"
    )]
    CutOff {
        /// The tape's length.
        at_byte: u64,
        /// Frames before the one that is incomplete or missing.
        whole_frames: u64,
    },
    /// There is no such kind of frame.
    #[error("the tape is damaged: unknown frame of kind {kind} at byte {at_byte}, after {whole_frames} whole frames")]
    UnknownFrame {
        /// The frame's kind.
        kind: u8,
        /// Offset at which the frame begins.
        at_byte: u64,
        /// Frames before it.
        whole_frames: u64,
    },
    /// A frame claims a length above [`FRAME_BYTES`].
    #[error(
        "the tape is damaged: a frame of {length} bytes at byte {at_byte}, after {whole_frames} whole frames; the \
         longest have {FRAME_BYTES}"
    )]
    TooLong {
        /// The length that the frame claims, in bytes.
        length: u32,
        /// Offset at which the frame begins.
        at_byte: u64,
        /// Frames before it.
        whole_frames: u64,
    },
    /// The payload of a frame does not fit its kind.
    #[error("the tape is damaged: the {frame} frame at byte {at_byte}, after {whole_frames} whole frames: {reason}")]
    Malformed {
        /// The frame's kind.
        frame: &'static str,
        /// Offset at which the frame begins.
        at_byte: u64,
        /// Frames before it.
        whole_frames: u64,
        /// The fault.
        reason: String,
    },
    /// Bytes follow the end.
    #[error("the tape is damaged: bytes follow its end at byte {at_byte}; two tapes cannot be joined into one")]
    BehindEnd {
        /// Offset of the first byte behind the end.
        at_byte: u64,
    },
    /// A frame that cannot be written.
    #[error("a {frame} frame of {length} bytes does not fit on a tape, {FRAME_BYTES} is the most")]
    Oversize {
        /// The frame's kind.
        frame: &'static str,
        /// Length of its payload, in bytes.
        length: usize,
    },
    /// The medium failed.
    #[error("the tape cannot be read or written: {}; {}", .0, hint(.0))]
    Io(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::IsADirectory => "name a tape, as `spoor record` makes it",
        _ => "check the disk and its free space",
    }
}

/// Writer of a tape. It makes two small writes a frame, so give it a buffered writer.
pub struct TapeWriter<W: Write> {
    output: W,
    frames: u64,
    payload: Vec<u8>,
    redactor: Option<Box<Redactor>>,
}

impl<W: Write> TapeWriter<W> {
    /// Begins a tape, and writes its header.
    pub fn new(mut output: W) -> Result<Self, TapeError> {
        let mut version = [0; VERSION_BYTES];
        let name = env!("CARGO_PKG_VERSION").as_bytes();
        for (to, from) in version.iter_mut().zip(name) {
            *to = *from;
        }

        output.write_all(MAGIC)?;
        output.write_all(&FORMAT_VERSION.to_le_bytes())?;
        output.write_all(&ABI_VERSION.to_le_bytes())?;
        output.write_all(&BYTE_ORDER.to_ne_bytes())?;
        output.write_all(&version)?;
        Ok(Self {
            output,
            frames: 0,
            payload: Vec::new(),
            redactor: None,
        })
    }

    /// Begins a tape that holds stand-ins in place of the services' own bytes: see [`redact`].
    pub fn redacted(output: W) -> Result<Self, TapeError> {
        Ok(Self {
            redactor: Some(Box::default()),
            ..Self::new(output)?
        })
    }

    /// Appends a frame.
    pub fn write(&mut self, frame: &Frame<'_>) -> Result<(), TapeError> {
        let Some(mut redactor) = self.redactor.take() else {
            return self.append(frame);
        };
        let result = self.append(&redactor.redact(frame));
        self.redactor = Some(redactor);
        result
    }

    fn append(&mut self, frame: &Frame<'_>) -> Result<(), TapeError> {
        // Nearly all frames are records: they go out without a copy.
        if let Frame::Record(record) = frame {
            return self.put(Kind::Record, record);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        let kind = frame.encode(&mut payload)?;
        let result = self.put(kind, &payload);
        self.payload = payload;
        result
    }

    /// Passes buffered bytes on, so that a recording that is killed later holds all frames until now.
    pub fn flush(&mut self) -> Result<(), TapeError> {
        Ok(self.output.flush()?)
    }

    /// Ends the tape, flushes it, and returns the output. A tape that is not finished reads as cut off.
    pub fn finish(mut self) -> Result<W, TapeError> {
        let frames = self.frames;
        self.put(Kind::End, &frames.to_le_bytes())?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn put(&mut self, kind: Kind, payload: &[u8]) -> Result<(), TapeError> {
        if payload.len() > FRAME_BYTES {
            return Err(TapeError::Oversize {
                frame: kind.name(),
                length: payload.len(),
            });
        }
        let [a, b, c, d] = (payload.len() as u32).to_le_bytes();
        self.output.write_all(&[kind as u8, a, b, c, d])?;
        self.output.write_all(payload)?;
        self.frames += 1;
        Ok(())
    }
}

/// Reader of a tape. It makes small reads, so give it a buffered reader.
pub struct TapeReader<R: Read> {
    input: R,
    at_byte: u64,
    frames: u64,
    ended: bool,
    payload: Vec<u8>,
}

impl<R: Read> TapeReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// The input is not a tape, or one that this version or this machine cannot replay.
    pub fn new(mut input: R) -> Result<Self, TapeError> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        input.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header)?;
        let Some(rest) = header.strip_prefix(MAGIC.as_slice()) else {
            return Err(TapeError::NotATape);
        };
        let cut_off = TapeError::CutOff {
            at_byte: header.len() as u64,
            whole_frames: 0,
        };
        let Some((format, rest)) = rest.split_first_chunk() else {
            return Err(cut_off);
        };
        let Some((abi, rest)) = rest.split_first_chunk() else {
            return Err(cut_off);
        };
        let Some((order, rest)) = rest.split_first_chunk() else {
            return Err(cut_off);
        };
        let Some((version, _)) = rest.split_first_chunk::<VERSION_BYTES>() else {
            return Err(cut_off);
        };
        let name = version.split(|&byte| byte == 0).next().unwrap_or_default();
        let made_by = String::from_utf8_lossy(name).escape_debug().to_string();
        let (format, abi) = (u32::from_le_bytes(*format), u32::from_le_bytes(*abi));
        if format != FORMAT_VERSION {
            return Err(TapeError::Format { found: format, made_by });
        }
        if abi != ABI_VERSION {
            return Err(TapeError::Abi { found: abi, made_by });
        }
        if u32::from_ne_bytes(*order) != BYTE_ORDER {
            return Err(TapeError::ByteOrder);
        }
        Ok(Self {
            input,
            at_byte: HEADER_BYTES as u64,
            frames: 0,
            ended: false,
            payload: Vec::new(),
        })
    }

    /// Returns the next frame, or `None` at the end. After an error, nothing more can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, TapeError> {
        if self.ended {
            return Ok(None);
        }
        // After any error below, the next call must not read the bytes that follow as a frame.
        self.ended = true;
        let (at_byte, whole_frames) = (self.at_byte, self.frames);

        self.fill(FRAME_HEAD_BYTES)?;
        let &[kind, a, b, c, d] = self.payload.as_slice() else {
            return Err(TapeError::CutOff { at_byte, whole_frames });
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let Some(kind) = Kind::from_number(kind) else {
            return Err(TapeError::UnknownFrame {
                kind,
                at_byte,
                whole_frames,
            });
        };
        if length as usize > FRAME_BYTES {
            return Err(TapeError::TooLong {
                length,
                at_byte,
                whole_frames,
            });
        }
        self.fill(length as usize)?;

        if kind == Kind::End {
            return self.end(at_byte);
        }
        self.frames += 1;
        self.ended = false;
        match Frame::decode(kind, &self.payload) {
            Ok(frame) => Ok(Some(frame)),
            Err(reason) => {
                self.ended = true;
                Err(TapeError::Malformed {
                    frame: kind.name(),
                    at_byte,
                    whole_frames,
                    reason,
                })
            }
        }
    }

    /// Reads exactly `length` bytes into `payload`.
    fn fill(&mut self, length: usize) -> Result<(), TapeError> {
        self.payload.clear();
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut self.payload)?;
        self.at_byte += read as u64;
        if read < length {
            return Err(TapeError::CutOff {
                at_byte: self.at_byte,
                whole_frames: self.frames,
            });
        }
        Ok(())
    }

    fn end(&mut self, at_byte: u64) -> Result<Option<Frame<'_>>, TapeError> {
        let malformed = |reason| TapeError::Malformed {
            frame: Kind::End.name(),
            at_byte,
            whole_frames: self.frames,
            reason,
        };
        let Ok(said) = <[u8; 8]>::try_from(self.payload.as_slice()).map(u64::from_le_bytes) else {
            return Err(malformed(format!("{} bytes in place of 8", self.payload.len())));
        };
        if said != self.frames {
            return Err(malformed(format!("it says {said} frames, there are {}", self.frames)));
        }
        let mut more = [0];
        // `Read::read` may be interrupted; `read_exact` retries.
        match self.input.read_exact(&mut more) {
            Ok(()) => Err(TapeError::BehindEnd { at_byte: self.at_byte }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
