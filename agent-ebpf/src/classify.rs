//! Cheap tests of a segment's first bytes, for the kernel and for user space.
//!
//! They look at no more than 8 bytes, with shifts and masks only, so that the verifier has one path to walk.

/// Verdict on a segment's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// Hardly anything else begins like this.
    Yes,
    /// The bytes cannot begin like this.
    No,
    /// Undecided: too few bytes, or a method that nobody registered.
    Maybe,
}

/// Returns the first eight bytes and their number, as the tests take them.
pub fn first_bytes<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> ([u8; 8], usize) {
    let mut first = [0; 8];
    let n = first.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count();
    (first, n)
}

/// Tests whether a segment that begins with the first `n` of `bytes` begins with an HTTP/1 request.
///
/// `Yes` for the methods of RFC 9110 section 9.1 and PATCH (RFC 5789), each with the space behind it. Empty lines
/// before the request line are allowed (RFC 9112 section 2.2), so CR and LF are `Maybe`.
#[inline(always)]
pub fn looks_like_request(bytes: [u8; 8], n: usize) -> Looks {
    let word = u64::from_le_bytes(bytes);
    let n = if n > 8 { 8 } else { n as u32 };
    let mut looks = prefix(word, n, *b"GET \0\0\0\0", 4);
    looks = better(looks, prefix(word, n, *b"POST \0\0\0", 5));
    looks = better(looks, prefix(word, n, *b"PUT \0\0\0\0", 4));
    looks = better(looks, prefix(word, n, *b"HEAD \0\0\0", 5));
    looks = better(looks, prefix(word, n, *b"DELETE \0", 7));
    looks = better(looks, prefix(word, n, *b"OPTIONS ", 8));
    looks = better(looks, prefix(word, n, *b"PATCH \0\0", 6));
    looks = better(looks, prefix(word, n, *b"TRACE \0\0", 6));
    looks = better(looks, prefix(word, n, *b"CONNECT ", 8));
    if !matches!(looks, Looks::No) {
        return looks;
    }
    // The preface of HTTP/2 (RFC 9113 section 3.4) has the shape of a request line.
    if matches!(prefix(word, n, *b"PRI * HT", 8), Looks::Yes) {
        return Looks::No;
    }
    token_then_space(word, n)
}

/// Tests whether a segment that begins with the first `n` of `bytes` begins with an HTTP/1 response.
#[inline(always)]
pub fn looks_like_response(bytes: [u8; 8], n: usize) -> Looks {
    let word = u64::from_le_bytes(bytes);
    let n = if n > 8 { 8 } else { n as u32 };
    match prefix(word, n, *b"HTTP/1.\0", 7) {
        Looks::Yes if n < 8 => Looks::Maybe,
        Looks::Yes if !((word >> 56) as u8).is_ascii_digit() => Looks::No,
        looks => looks,
    }
}

/// Recognises a segment that begins with a command of RESP, the protocol of Redis: an array of bulk strings. `Yes`: as
/// far as the first string's `$`, for arrays of less than 100 strings. `Maybe`: `*` and a digit.
#[inline(always)]
pub fn looks_like_resp_command(bytes: [u8; 8], n: usize) -> Looks {
    let word = u64::from_le_bytes(bytes);
    if n < 2 || word as u8 != b'*' || !((word >> 8) as u8).is_ascii_digit() {
        return Looks::No;
    }
    const LINE_END: u64 = u32::from_le_bytes(*b"\r\n$\0") as u64;
    // Behind one digit or two.
    let (one, two) = (word >> 16 & 0xff_ffff, word >> 24 & 0xff_ffff);
    let is_whole = n >= 5 && one == LINE_END || n >= 6 && ((word >> 16) as u8).is_ascii_digit() && two == LINE_END;
    if is_whole { Looks::Yes } else { Looks::Maybe }
}

/// Returns whether a segment may begin with a reply of RESP: its first byte is a type of RESP2 or RESP3. Callers ask it
/// of the answer to bytes that may be a command.
#[inline(always)]
pub const fn may_be_resp_reply(first: u8) -> bool {
    const LOW: u64 = bits(b"!#$%(*+,-:=>", 0);
    const HIGH: u64 = bits(b"_|~", 64);
    if first < 64 {
        (LOW >> first) & 1 == 1
    } else {
        first < 128 && (HIGH >> (first - 64)) & 1 == 1
    }
}

/// Compares the first `n` bytes of `word` with the first `length` bytes of `pattern`. `Maybe`: they end before they
/// differ.
#[inline(always)]
fn prefix(word: u64, n: u32, pattern: [u8; 8], length: u32) -> Looks {
    let compared = if n < length { n } else { length };
    let mask = if compared == 0 {
        0
    } else {
        u64::MAX >> (64 - 8 * compared)
    };
    if (word ^ u64::from_le_bytes(pattern)) & mask != 0 {
        Looks::No
    } else if n < length {
        Looks::Maybe
    } else {
        Looks::Yes
    }
}

/// Returns the verdict that says more in favour.
#[inline(always)]
fn better(one: Looks, other: Looks) -> Looks {
    match (one, other) {
        (Looks::Yes, _) | (_, Looks::Yes) => Looks::Yes,
        (Looks::Maybe, _) | (_, Looks::Maybe) => Looks::Maybe,
        (Looks::No, Looks::No) => Looks::No,
    }
}

/// Returns `Maybe` for an empty line, and for token characters up to a space, a line's end or the last byte; else `No`.
#[inline(always)]
fn token_then_space(word: u64, n: u32) -> Looks {
    let mut rest = word;
    let mut i = 0;
    while i < 8 {
        let byte = rest as u8;
        if i >= n {
            return Looks::Maybe;
        }
        if i == 0 && (byte == b'\r' || byte == b'\n') {
            return Looks::Maybe;
        }
        // A server of HTTP answers a line of one word with a refusal. Lines of other protocols begin with `*`, `+` or
        // `-`.
        let ends_word = byte == b' ' || (word as u8).is_ascii_uppercase() && (byte == b'\r' || byte == b'\n');
        if i > 0 && ends_word {
            return Looks::Maybe;
        }
        if !is_token(byte) {
            return Looks::No;
        }
        rest >>= 8;
        i += 1;
    }
    Looks::Maybe
}

/// Returns whether a byte is a `tchar` (RFC 9110 section 5.6.2).
#[inline(always)]
pub const fn is_token(byte: u8) -> bool {
    // Bit n stands for the character n (LOW) or n + 64 (HIGH).
    const LOW: u64 = bits(b"!#$%&'*+-.0123456789", 0);
    const HIGH: u64 = bits(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~", 64);
    if byte < 64 {
        (LOW >> byte) & 1 == 1
    } else if byte < 128 {
        (HIGH >> (byte - 64)) & 1 == 1
    } else {
        false
    }
}

/// Returns a word with a bit for each character. Only the compiler evaluates it.
const fn bits(characters: &[u8], base: u8) -> u64 {
    let mut bits = 0;
    let mut i = 0;
    while i < characters.len() {
        bits |= 1 << (characters[i] - base);
        i += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_eight(text: &[u8]) -> ([u8; 8], usize) {
        // The bytes behind the first n must not matter.
        let mut bytes = [0xAA; 8];
        let n = text.len().min(8);
        bytes[..n].copy_from_slice(&text[..n]);
        (bytes, n)
    }

    fn request(text: &[u8]) -> Looks {
        let (bytes, n) = first_eight(text);
        looks_like_request(bytes, n)
    }

    fn response(text: &[u8]) -> Looks {
        let (bytes, n) = first_eight(text);
        looks_like_response(bytes, n)
    }

    #[test]
    fn known_methods_are_requests_and_their_prefixes_may_be() {
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT",
        ] {
            let line = [method.as_bytes(), b" / HTTP/1.1\r\n"].concat();
            assert_eq!(request(&line), Looks::Yes, "{method}");
            for n in 0..=method.len() {
                assert_eq!(request(&line[..n]), Looks::Maybe, "{method} cut at {n}");
            }
        }
    }

    #[test]
    fn other_beginnings_of_requests() {
        let table: &[(&[u8], Looks)] = &[
            (b"PROPFIND / HTTP/1.1", Looks::Maybe),
            (b"LOCK /a", Looks::Maybe),
            (b"get / HTTP/1.1", Looks::Maybe),
            (b"GETX / HT", Looks::Maybe),
            (b"\r\nGET / H", Looks::Maybe),
            (b"GET\r\n\r\n", Looks::Maybe),
            (b"QUIT\n", Looks::Maybe),
            (b"+PING\r\n", Looks::No),
            (b"SSH-2.0-OpenSSH", Looks::Maybe),
            (b"PRI * HTTP/2.0\r\n", Looks::No),
            (b"PRI * H", Looks::Maybe),
            (b" GET /", Looks::No),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", Looks::No),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Looks::No),
            (b"*1\r\n$4\r\n", Looks::No),
            (b"HTTP/1.1 200 OK", Looks::No),
            (b"\xff\xfe", Looks::No),
        ];
        for (text, looks) in table {
            assert_eq!(request(text), *looks, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn responses() {
        let table: &[(&[u8], Looks)] = &[
            (b"HTTP/1.1 200 OK", Looks::Yes),
            (b"HTTP/1.0 404", Looks::Yes),
            (b"HTTP/1.", Looks::Maybe),
            (b"H", Looks::Maybe),
            (b"", Looks::Maybe),
            (b"HTTP/1.x", Looks::No),
            (b"HTTP/2.0", Looks::No),
            (b"HTTX", Looks::No),
            (b"SSH-2.0-", Looks::No),
            (b"220 smtp", Looks::No),
        ];
        for (text, looks) in table {
            assert_eq!(response(text), *looks, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn commands_of_resp() {
        let table: &[(&[u8], Looks)] = &[
            (b"*1\r\n$4\r\nPING\r\n", Looks::Yes),
            (b"*1\r\n$", Looks::Yes),
            (b"*12\r\n$3\r\nSET\r\n", Looks::Yes),
            (b"*100\r\n$3", Looks::Maybe),
            (b"*1\r\n", Looks::Maybe),
            (b"*1", Looks::Maybe),
            (b"*3\r\n:1\r\n", Looks::Maybe),
            (b"*", Looks::No),
            (b"* OK IMAP4rev1", Looks::No),
            (b"*x\r\n$", Looks::No),
            (b"$4\r\nPING\r\n", Looks::No),
            (b"PING\r\n", Looks::No),
            (b"", Looks::No),
        ];
        for (text, looks) in table {
            let (bytes, n) = first_eight(text);
            assert_eq!(looks_like_resp_command(bytes, n), *looks, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn types_of_resp_replies() {
        for byte in 0..=255u8 {
            let expected = b"+-:$*_#,(!=%~>|".contains(&byte);
            assert_eq!(may_be_resp_reply(byte), expected, "{}", byte.escape_ascii());
        }
    }

    #[test]
    fn tokens_are_those_of_the_rfc() {
        for byte in 0..=255u8 {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(byte), expected, "{}", byte.escape_ascii());
        }
    }
}
