//! What frames a message's body, read from its head by the cheapest scan there is.
//!
//! The programs use it to pass over bodies before Core had time to say so. It is advice: it errs towards "unknown", and
//! what it calls body is never a place where a message could begin.

/// Bytes of a head that are scanned.
pub const SCAN_BYTES: usize = 1024;

/// Bytes that [`scan`] may read: a line that begins at the last scanned byte is read up to here.
pub const READ_BYTES: usize = SCAN_BYTES + 64;

/// What a head says of its body.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Length of the head with its empty line; 0: the head does not end within the scanned bytes.
    pub head_bytes: u32,
    /// 1: a `Transfer-Encoding` is there; its coding is not read.
    pub transfer_encoding: u32,
    /// Value of `Content-Length`; [`Framing::NO_LENGTH`] without one, or with one that is not a plain number.
    pub content_length: u64,
}

impl Framing {
    /// There is no (usable) `Content-Length`.
    pub const NO_LENGTH: u64 = u64::MAX;
}

/// Whether a request that begins with these bytes is worth a scan: of the methods only those with a body are, POST, PUT and
/// PATCH. The line of a PROXY is no head.
#[inline(always)]
pub const fn has_body(first: u8, second: u8) -> bool {
    first == b'P' && second != b'R'
}

const NEWLINES: u64 = 0x0a0a_0a0a_0a0a_0a0a;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
/// Makes ASCII letters lower case, and leaves `-`, `:` and digits alone.
const LOWER: u64 = 0x2020_2020_2020_2020;

/// What a scan found so far. It lives in memory that the verifier does not follow (a map): were it in registers, the
/// verifier would walk each of its values through the rest of the loop.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    head_bytes: u32,
    transfer_encoding: u32,
    length_at: u32,
    lengths: u32,
    bytes: u64,
    content_length: u64,
}

macro_rules! get {
    ($found:ident.$field:ident) => {
        // SAFETY: the caller of `scan` gave a valid pointer.
        unsafe { (&raw const (*$found).$field).read_volatile() }
    };
}

macro_rules! set {
    ($found:ident.$field:ident = $value:expr) => {
        // SAFETY: the caller of `scan` gave a valid pointer.
        unsafe { (&raw mut (*$found).$field).write_volatile($value) }
    };
}

/// Scans the first `length` bytes of a head, a word at a time: about 100 ns for a usual head.
///
/// # Safety
/// `bytes` must be aligned to 8 and readable for [`READ_BYTES`] bytes (what lies behind `length` is not used), `found` writable.
#[inline(always)]
pub unsafe fn scan(bytes: *const u8, length: u32, found: *mut Found) -> Framing {
    set!(found.head_bytes = 0);
    set!(found.transfer_encoding = 0);
    set!(found.lengths = 0);
    set!(found.bytes = length as u64);
    set!(found.content_length = Framing::NO_LENGTH);
    let mut at = 0u32;
    while at < SCAN_BYTES as u32 {
        if at as u64 >= get!(found.bytes) {
            break;
        }
        // SAFETY: `at` is below SCAN_BYTES.
        let word = unsafe { bytes.add(at as usize).cast::<u64>().read() } ^ NEWLINES;
        // A byte's high bit is set where the word has a line feed.
        let ends = word.wrapping_sub(ONES) & !word & HIGHS;
        if ends != 0 {
            let second = ends & (ends - 1);
            // SAFETY: lines begin at most at SCAN_BYTES + 8.
            unsafe {
                line(bytes, at + bytes_through_first(ends), found);
                if second != 0 {
                    line(bytes, at + bytes_through_first(second), found);
                }
            }
            // Two line ends in eight bytes are the most that a head with sane lines has. With more, its end may be missed,
            // and what looks like a line of it is another message's.
            if get!(found.head_bytes) != 0 || second & second.wrapping_sub(1) != 0 {
                break;
            }
        }
        at += 8;
    }
    // Two of them: only a head that says the same twice is sane, and that is Core's to judge.
    if get!(found.lengths) == 1 {
        // SAFETY: the digits lie within 48 bytes of a line's begin.
        unsafe { number(bytes, found) };
    }
    Framing {
        head_bytes: get!(found.head_bytes),
        transfer_encoding: get!(found.transfer_encoding),
        content_length: get!(found.content_length),
    }
}

/// Scans the head that these bytes begin with, as [`scan`] does in the kernel: for tests. What lies behind the bytes there is
/// another call's; here it is `behind`.
pub fn scan_bytes(bytes: &[u8], behind: u8) -> Framing {
    #[repr(align(8))]
    struct Aligned([u8; READ_BYTES]);
    let mut aligned = Aligned([behind; READ_BYTES]);
    let length = bytes.len().min(SCAN_BYTES);
    aligned.0[..length].copy_from_slice(&bytes[..length]);
    // SAFETY: the array is aligned, and has READ_BYTES.
    unsafe { scan(aligned.0.as_ptr(), length as u32, &mut Found::default()) }
}

/// How many bytes there are up to and with the lowest one whose high bit is set. (The BPF target has no instruction for
/// it, and branches would multiply the verifier's paths.)
#[inline(always)]
fn bytes_through_first(ends: u64) -> u32 {
    let lowest = ends & ends.wrapping_neg();
    (((lowest - 1) & ONES).wrapping_mul(ONES) >> 56) as u32
}

/// The eight bytes at a place. By two aligned loads: of an unaligned one the compiler makes eight.
///
/// # Safety
/// `bytes` must be aligned to 8, and readable for 16 bytes from `place`.
#[inline(always)]
pub unsafe fn word_at(bytes: *const u8, place: usize) -> u64 {
    let shift = (place & 7) as u32 * 8;
    // SAFETY: the caller's.
    let (low, high) = unsafe {
        let words = bytes.add(place & !7).cast::<u64>();
        (words.read(), words.add(1).read())
    };
    // Two shifts: by 64 none is defined.
    low >> shift | high << 1 << (63 - shift)
}

/// Reads the line that begins at `start`.
#[inline(always)]
unsafe fn line(bytes: *const u8, start: u32, found: *mut Found) {
    // What lies behind the empty line of a head is another message's.
    if start as u64 >= get!(found.bytes) || get!(found.head_bytes) != 0 {
        return;
    }
    let place = (start & 0x7ff) as usize;
    // SAFETY: the caller's, for up to READ_BYTES.
    let first = unsafe { word_at(bytes, place) };
    // A bare LF ends a line, too (RFC 9112 section 2.2), for Core and for most servers.
    if first as u8 == b'\n' {
        set!(found.head_bytes = start + 1);
        return;
    }
    if start as u64 + 2 > get!(found.bytes) {
        return;
    }
    if first as u16 == u16::from_le_bytes(*b"\r\n") {
        set!(found.head_bytes = start + 2);
        return;
    }
    let name = first | LOWER;
    if name == u64::from_le_bytes(*b"content-") {
        // SAFETY: as above.
        let rest = unsafe { word_at(bytes, place + 8) };
        if (rest | LOWER) & 0x00ff_ffff_ffff_ffff == u64::from_le_bytes(*b"length:\0") {
            set!(found.length_at = start + 15);
            let before = get!(found.lengths);
            set!(found.lengths = before + 1);
        }
    } else if name == u64::from_le_bytes(*b"transfer") {
        // SAFETY: as above.
        let rest = unsafe { word_at(bytes, place + 8) };
        if rest | LOWER == u64::from_le_bytes(*b"-encodin") {
            set!(found.transfer_encoding = 1);
        }
    }
}

/// Reads the decimal number at `length_at`, behind blanks, up to the line's end.
#[inline(always)]
unsafe fn number(bytes: *const u8, found: *mut Found) {
    let at = get!(found.length_at) as usize;
    let mut value = 0u64;
    let mut digits = false;
    let mut index = 0usize;
    while index < 20 {
        let place = (at + index) & 0x7ff;
        if place as u64 >= get!(found.bytes) {
            return;
        }
        // SAFETY: the caller's.
        let byte = unsafe { *bytes.add(place) };
        if byte == b'\r' {
            if digits {
                set!(found.content_length = value);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_text(text: &[u8]) -> Framing {
        scan_bytes(text, 0)
    }

    fn framing(head_bytes: usize, transfer_encoding: u32, content_length: u64) -> Framing {
        Framing {
            head_bytes: head_bytes as u32,
            transfer_encoding,
            content_length,
        }
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
            assert_eq!(
                scan_text(&text[..end]),
                framing(end - 7, 0, 1_048_576),
                "padding {padding}"
            );
        }
    }

    #[test]
    fn says_unknown_rather_than_guess() {
        let none = Framing::NO_LENGTH;
        let cases: [(&[u8], Framing); 13] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", framing(19, 0, none)),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                framing(47, 1, none),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", framing(39, 0, none)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", framing(41, 0, none)),
            (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", framing(36, 0, none)),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                framing(57, 0, none),
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                framing(57, 0, none),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1", framing(0, 0, none)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r", framing(0, 0, 1)),
            (b"HTTP/1.1 200 OK\r\nTransfer-Id: 1\r\n\r\n", framing(35, 0, none)),
            // The second head is another message's.
            (
                b"PUT / HTTP/1.1\n\nPUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
                framing(16, 0, none),
            ),
            (b"PUT / HTTP/1.1\n\n", framing(16, 0, none)),
            (
                b"PUT /xx HTTP/1.1\na:\nb:\n\nContent-Length: 9\r\n\r\n",
                framing(0, 0, none),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(scan_text(text), expected, "{:?}", core::str::from_utf8(text));
        }
    }

    #[test]
    fn a_head_longer_than_the_scan_is_unknown() {
        let mut text = [b'x'; SCAN_BYTES + 32];
        text[..17].copy_from_slice(b"HTTP/1.1 200 OK\r\n");
        let end = text.len();
        text[end - 4..].copy_from_slice(b"\r\n\r\n");
        assert_eq!(scan_text(&text).head_bytes, 0);
    }
}
