//! Length of a message's body, from a cheap scan of its head.

use crate::slot::Slot;

/// Upper bound of the bytes of a head that are scanned. A request with large cookies fits in.
pub const SCAN_BYTES: usize = 2048;

/// Bytes that [`Scan::scan`] may read: a line that begins at the last scanned byte is read up to here.
pub const READ_BYTES: usize = SCAN_BYTES + 64;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const LINE_FEEDS: u64 = 0x0a0a_0a0a_0a0a_0a0a;
const CARRIAGE_RETURNS: u64 = 0x0d0d_0d0d_0d0d_0d0d;
/// Bits that make ASCII letters lower case and leave digits and most punctuation alone.
const LOWER: u64 = 0x2020_2020_2020_2020;
/// Upper bound of the scan's turns: one for each word, and one more for each line of a word with two.
const TURNS: usize = SCAN_BYTES / 8 + 64;
/// Upper bound of the digits of a `Content-Length`. No stream offset gets near the largest.
const DIGITS: usize = 18;

/// Framing of a body, as the head gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Peers may disagree, or the scan does not understand it.
    Unknown,
    /// Neither `Content-Length` nor `Transfer-Encoding`.
    Unsaid,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// State and result of a scan of a head. It lives in memory whose values the verifier does not follow: for values in
/// registers, the verifier would walk the rest of the loop once for each.
#[repr(C)]
pub struct Scan {
    /// Bytes that the scan may look at.
    bytes: Slot<u64>,
    /// Bytes that the scan has looked at, a multiple of 8.
    at: Slot<u32>,
    /// Ends of lines in the word at `at` that are still to be handled; 0: the word is new.
    left: Slot<u64>,
    /// 0x80 if the last byte was a CR.
    behind_cr: Slot<u64>,
    /// Offset behind the first line end without CR, or of the first CR that ends no line; 0: none.
    odd_at: Slot<u32>,
    /// Length of the head with its empty line; 0: it does not end within the bytes.
    head_bytes: Slot<u32>,
    /// Lines so far.
    lines: Slot<u32>,
    /// 1: the first line ends with ` HTTP/1.1`.
    version: Slot<u32>,
    /// 1: peers may read a line's framing in two ways.
    doubtful: Slot<u32>,
    /// Number of `Transfer-Encoding: chunked` lines.
    chunked: Slot<u32>,
    /// Number of `Content-Length` lines.
    lengths: Slot<u32>,
    /// Offset of the value of the last one.
    length_at: Slot<u32>,
    /// Value of the last one, and whether it is a number.
    length: Slot<u64>,
    is_number: Slot<u32>,
    /// Offset that goes through memory to be bounded.
    place: Slot<u32>,
}

impl Scan {
    /// Creates a scan that has not begun.
    pub const fn new() -> Self {
        Self {
            bytes: Slot::new(0),
            at: Slot::new(0),
            left: Slot::new(0),
            behind_cr: Slot::new(0),
            odd_at: Slot::new(0),
            head_bytes: Slot::new(0),
            lines: Slot::new(0),
            version: Slot::new(0),
            doubtful: Slot::new(0),
            chunked: Slot::new(0),
            lengths: Slot::new(0),
            length_at: Slot::new(0),
            length: Slot::new(0),
            is_number: Slot::new(0),
            place: Slot::new(0),
        }
    }

    /// Forgets the last head.
    #[inline(always)]
    fn begin(&self) {
        self.at.set(0);
        self.left.set(0);
        self.behind_cr.set(0);
        self.odd_at.set(0);
        self.head_bytes.set(0);
        self.lines.set(0);
        self.version.set(0);
        self.doubtful.set(0);
        self.chunked.set(0);
        self.lengths.set(0);
        self.is_number.set(0);
    }

    /// Returns the length of the head with its empty line; 0 if it does not end within the scanned bytes.
    #[inline(always)]
    pub fn head_bytes(&self) -> u32 {
        self.head_bytes.get()
    }

    /// Returns whether the seen part of the first line ends with ` HTTP/1.1`: then it is a request line.
    #[inline(always)]
    pub fn is_request_line(&self) -> bool {
        self.version.get() != 0
    }

    /// Returns how the body is framed, once the head is complete.
    #[inline(always)]
    pub fn body(&self) -> Body {
        let odd_at = self.odd_at.get();
        let lengths = self.lengths.get();
        let chunked = self.chunked.get();
        // A length beside a coding, two lengths, two codings: peers read each in different ways (RFC 9112 section 6.3).
        if odd_at != 0 && odd_at <= self.head_bytes.get() || self.doubtful.get() != 0 || lengths + chunked > 1 {
            return Body::Unknown;
        }
        if chunked != 0 {
            Body::Chunked
        } else if lengths == 0 {
            Body::Unsaid
        } else if self.is_number.get() != 0 {
            Body::Length(self.length.get())
        } else {
            Body::Unknown
        }
    }

    /// Scans up to `length` bytes of a head, a word at a time: about 100 ns for a usual head. A second call with more
    /// bytes scans all of them again, because the first end may have cut a field name.
    ///
    /// # Safety
    /// `bytes` must be aligned to 8 and readable for [`READ_BYTES`]. The bytes behind `length` do not matter.
    #[inline(always)]
    pub unsafe fn scan(&self, bytes: *const u8, length: u32) {
        self.begin();
        self.bytes.set(length as u64);
        let mut turn = 0;
        while turn < TURNS {
            turn += 1;
            // From memory, and masked: the verifier then sees the same state in each turn.
            let at = self.at.get();
            if at as u64 >= self.bytes.get() || self.head_bytes.get() != 0 {
                break;
            }
            let place = (at & (SCAN_BYTES as u32 - 8)) as usize;
            // SAFETY: both words lie below READ_BYTES.
            let (word, next) = unsafe {
                let words = bytes.add(place).cast::<u64>();
                (words.read(), words.add(1).read())
            };
            let left = self.left.get();
            // Most words lie inside a line.
            if left | self.behind_cr.get() == 0 && below_space(word) == 0 {
                self.at.set(at + if below_space(next) == 0 { 16 } else { 8 });
                continue;
            }
            let ends = zeros(word ^ LINE_FEEDS);
            if left == 0 {
                let returns = zeros(word ^ CARRIAGE_RETURNS);
                // Each LF needs a CR right before it, and each CR an LF behind.
                let odd = ends ^ (returns << 8 | self.behind_cr.get());
                self.behind_cr.set(returns >> 56);
                if odd != 0 && self.odd_at.get() == 0 {
                    self.odd_at.set(at + bytes_through_first(odd));
                }
            }
            let ends = if left == 0 { ends } else { left };
            if ends != 0 {
                // SAFETY: the caller's.
                unsafe { self.line(bytes, at + bytes_through_first(ends)) };
            }
            // One line for each turn: a second one in the same word waits for the next turn.
            let rest = ends & ends.wrapping_sub(1);
            self.left.set(rest);
            if rest == 0 {
                self.at.set(at + 8);
            }
        }
        if self.head_bytes.get() != 0 && self.lengths.get() == 1 {
            // SAFETY: the digits lie within 64 bytes of a line's begin.
            unsafe { self.number(bytes) };
        }
    }

    /// Reads the line that begins at `start`.
    ///
    /// # Safety
    /// As for [`Scan::scan`].
    #[inline(always)]
    unsafe fn line(&self, bytes: *const u8, start: u32) {
        // Bytes behind the empty line belong to another message.
        if start as u64 >= self.bytes.get() || self.head_bytes.get() != 0 {
            return;
        }
        let place = (start & (2 * SCAN_BYTES as u32 - 1)) as usize;
        // SAFETY: the caller's.
        let word = |at: usize| unsafe { word_at(bytes, place + at) };
        if self.lines.get() == 0 && start >= 10 {
            // Through memory, so that the verifier sees the bound.
            self.place.set(start - 10);
            let before = (self.place.get() & (2 * SCAN_BYTES as u32 - 1)) as usize;
            // SAFETY: within the bytes in front of `start`.
            let version = unsafe { word_at(bytes, before) };
            self.version.set((version == u64::from_le_bytes(*b"HTTP/1.1")) as u32);
        }
        self.lines.set(self.lines.get() + 1);
        let first = word(0);
        // Many servers end a head at a bare LF. `odd_at` already makes the body unknown.
        if first as u8 == b'\n' {
            return self.head_bytes.set(start + 1);
        }
        if start as u64 + 2 > self.bytes.get() {
            return;
        }
        if first as u16 == u16::from_le_bytes(*b"\r\n") {
            return self.head_bytes.set(start + 2);
        }
        // A folded line continues the one before, and no name begins with a control character.
        if first as u8 <= b' ' {
            return self.doubtful.set(1);
        }
        let name = first | LOWER;
        if name == u64::from_le_bytes(*b"content-") {
            let rest = word(8);
            if (rest | LOWER) & 0x0000_ffff_ffff_ffff == u64::from_le_bytes(*b"length\0\0") {
                if (rest >> 48) as u8 != b':' {
                    return self.doubtful.set(1);
                }
                self.length_at.set(start + 15);
                self.lengths.set(self.lengths.get() + 1);
            }
        } else if name == u64::from_le_bytes(*b"transfer") && word(8) | LOWER == u64::from_le_bytes(*b"-encodin") {
            let (colon, end) = (word(16), word(24));
            let is_chunked = (colon | LOWER) == u64::from_le_bytes(*b"g: chunk")
                && (colon >> 8) as u16 == u16::from_le_bytes(*b": ")
                && (end | LOWER) as u16 == u16::from_le_bytes(*b"ed")
                && (end >> 16) as u16 == u16::from_le_bytes(*b"\r\n");
            if is_chunked {
                self.chunked.set(self.chunked.get() + 1);
            } else {
                self.doubtful.set(1);
            }
        }
    }

    /// Reads the decimal number at `length_at`, behind blanks, up to the line's end.
    ///
    /// # Safety
    /// As for [`Scan::scan`].
    #[inline(always)]
    unsafe fn number(&self, bytes: *const u8) {
        let at = self.length_at.get() as usize;
        let mut value = 0u64;
        let mut digits = false;
        let mut index = 0usize;
        while index < DIGITS + 2 {
            let place = (at + index) & (2 * SCAN_BYTES - 1);
            if place as u64 >= self.bytes.get() {
                return;
            }
            // SAFETY: the caller's.
            let byte = unsafe { *bytes.add(place) };
            if byte == b'\r' {
                self.length.set(value);
                self.is_number.set(digits as u32);
                return;
            }
            index += 1;
            if byte == b' ' && !digits {
                continue;
            }
            if !byte.is_ascii_digit() {
                return;
            }
            value = value.wrapping_mul(10).wrapping_add((byte - b'0') as u64);
            digits = true;
        }
    }
}

impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a word that is not 0 if a byte of `word` is below 0x20.
#[inline(always)]
const fn below_space(word: u64) -> u64 {
    word.wrapping_sub(ONES * b' ' as u64) & !word & HIGHS
}

/// Returns a word with the high bit set in each byte that is zero in `word`.
#[inline(always)]
const fn zeros(word: u64) -> u64 {
    !(((word & !HIGHS) + !HIGHS) | word) & HIGHS
}

/// Returns the number of bytes up to and with the lowest one whose high bit is set. BPF has no instruction for it, and
/// branches would multiply the verifier's paths.
#[inline(always)]
const fn bytes_through_first(bits: u64) -> u32 {
    let lowest = bits & bits.wrapping_neg();
    (((lowest - 1) & ONES).wrapping_mul(ONES) >> 56) as u32
}

/// Returns the eight bytes at a place. Two aligned loads, because the compiler makes eight loads of an unaligned one.
///
/// # Safety
/// `bytes` must be aligned to 8, and readable for 16 bytes from `place`.
#[inline(always)]
unsafe fn word_at(bytes: *const u8, place: usize) -> u64 {
    let shift = (place & 7) as u32 * 8;
    // SAFETY: the caller's.
    let (low, high) = unsafe {
        let words = bytes.add(place & !7).cast::<u64>();
        (words.read(), words.add(1).read())
    };
    // Two shifts: a shift by 64 is undefined.
    low >> shift | high << 1 << (63 - shift)
}

/// Scans the head at the beginning of some bytes, as a program does. Returns its length, 0 if it does not end, and the
/// framing of its body. `behind` fills the memory behind the bytes, where the kernel has another call's.
pub fn read(bytes: &[u8], behind: u8) -> (usize, Body) {
    let scan = Scan::new();
    Buffer::new(bytes, behind).scan(&scan, bytes.len());
    (scan.head_bytes() as usize, scan.body())
}

/// Buffer for scans outside the kernel, with bytes behind the call's as in the kernel.
#[repr(C, align(8))]
pub struct Buffer(pub [u8; READ_BYTES]);

impl Buffer {
    /// Creates a buffer that begins with `bytes`, and holds `behind` in the rest.
    pub fn new(bytes: &[u8], behind: u8) -> Self {
        let mut buffer = Self([behind; READ_BYTES]);
        let length = bytes.len().min(SCAN_BYTES);
        buffer.0[..length].copy_from_slice(&bytes[..length]);
        buffer
    }

    /// Scans up to `length` bytes of the buffer.
    pub fn scan(&self, scan: &Scan, length: usize) {
        // SAFETY: the buffer is aligned, and has READ_BYTES.
        unsafe { scan.scan(self.0.as_ptr(), length.min(SCAN_BYTES) as u32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[u8]) -> Scan {
        let scan = Scan::new();
        Buffer::new(text, b'\n').scan(&scan, text.len());
        scan
    }

    #[test]
    fn finds_the_length_wherever_the_line_lies() {
        for padding in 0..64 {
            let mut text = [0u8; 256];
            let parts: [&[u8]; 4] = [
                b"HTTP/1.1 200 OK\r\nX: ",
                &[b'x'; 64][..padding],
                b"\r\ncOntent-Length: 1048576\r\n\r\n",
                b"body\n\r\n",
            ];
            let mut end = 0;
            for part in parts {
                text[end..end + part.len()].copy_from_slice(part);
                end += part.len();
            }
            let scan = scan(&text[..end]);
            assert_eq!(
                (scan.head_bytes() as usize, scan.body()),
                (end - 7, Body::Length(1_048_576)),
                "padding {padding}"
            );
        }
    }

    #[test]
    fn a_head_in_two_copies_reads_like_one_in_one() {
        let mut text = [b'x'; 1400];
        text[..29].copy_from_slice(b"GET /a HTTP/1.1\r\nCookie: xxxx");
        text[1024..1028].copy_from_slice(b"\r\nX:");
        text[1370..].copy_from_slice(b"\r\nContent-Length: 77777777\r\n\r\n");
        let buffer = Buffer::new(&text, 0);
        let scan = Scan::new();
        buffer.scan(&scan, 1024);
        assert_eq!(scan.head_bytes(), 0);
        buffer.scan(&scan, text.len());
        assert_eq!((scan.head_bytes(), scan.body()), (1400, Body::Length(77_777_777)));
        assert!(scan.is_request_line());
        // The first copy ends inside a framing line, at each byte of its name.
        for cut in 1000..1024 {
            text[1024..1028].fill(b'x');
            text[1000..1024].fill(b'x');
            let line = b"\r\nContent-Length: 5\r\nX: ";
            text[cut..cut + line.len()].copy_from_slice(line);
            let buffer = Buffer::new(&text, 0);
            buffer.scan(&scan, 1024);
            buffer.scan(&scan, text.len());
            assert_eq!((scan.head_bytes(), scan.body()), (1400, Body::Unknown), "cut at {cut}");
            text[1024..1060].fill(b'x');
        }
    }

    #[test]
    fn says_unknown_rather_than_guess() {
        let cases: &[(&str, u32, Body)] = &[
            ("HTTP/1.1 200 OK\r\n\r\n", 19, Body::Unsaid),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                47,
                Body::Chunked,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n",
                47,
                Body::Chunked,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 44, Body::Unknown),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, x\r\n\r\n",
                50,
                Body::Unknown,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n",
                48,
                Body::Unknown,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding\x1a chunked\r\n\r\n",
                47,
                Body::Unknown,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                66,
                Body::Unknown,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 38, Body::Length(7)),
            ("HTTP/1.1 200 OK\r\nContent-Length:7\r\n\r\n", 37, Body::Length(7)),
            ("HTTP/1.1 200 OK\r\nContent-Length : 7\r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length\x1a 7\r\n\r\n", 38, Body::Unknown),
            ("HTTP/1.1 200 OK\r\n Content-Length: 7\r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\n\x0bContent-Length: 7\r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nX: a\rContent-Length: 7\r\n\r\n", 43, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 7\r\n\r\n", 43, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5 \r\n\r\n", 39, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", 41, Body::Unknown),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", 36, Body::Unknown),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                57,
                Body::Unknown,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                57,
                Body::Unknown,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Id: 1\r\n\r\n", 35, Body::Unsaid),
            // Bytes behind the head do not matter.
            ("HTTP/1.1 200 OK\r\n\r\nX\nY", 19, Body::Unsaid),
            (
                "PUT / HTTP/1.1\n\nPUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
                16,
                Body::Unknown,
            ),
            ("PUT / HTTP/1.1\n\n", 16, Body::Unknown),
            (
                "PUT /xx HTTP/1.1\na:\nb:\n\nContent-Length: 9\r\n\r\n",
                24,
                Body::Unknown,
            ),
        ];
        for &(text, head_bytes, body) in cases {
            let scan = scan(text.as_bytes());
            assert_eq!((scan.head_bytes(), scan.body()), (head_bytes, body), "{text:?}");
        }
    }

    #[test]
    fn a_head_that_does_not_end_has_no_length() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r",
        ] {
            assert_eq!(scan(text.as_bytes()).head_bytes(), 0, "{text:?}");
        }
        let mut text = [b'x'; SCAN_BYTES + 32];
        text[..17].copy_from_slice(b"HTTP/1.1 200 OK\r\n");
        let end = text.len();
        text[end - 4..].copy_from_slice(b"\r\n\r\n");
        assert_eq!(scan(&text).head_bytes(), 0);
    }

    #[test]
    fn request_lines_are_told_by_their_end() {
        for (text, expected) in [
            ("PROPFIND /a HTTP/1.1\r\nX: y\r\n\r\n", true),
            ("PROPFIND /a HTTP/1.0\r\nX: y\r\n\r\n", false),
            ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n\r\n", false),
            ("GET /a\r\n", false),
            ("HTTP/1.1", false),
        ] {
            assert_eq!(scan(text.as_bytes()).is_request_line(), expected, "{text:?}");
        }
    }
}
