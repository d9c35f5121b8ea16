//! Hostile messages. Each names its requests by the given path. A request that only a careless reader finds inside
//! another message is called [`SMUGGLED`].

/// Number of cuts: each case is sent whole, and in two writes for each cut.
pub const SPLITS: usize = 7;

/// Word in the path of a request that exists only if the message before it is misread.
pub const SMUGGLED: &str = "smuggled";

/// Cases that a strict parser accepts and the agent may call malformed.
pub const MALFORMED: &[&str] = &[
    // Longer than the 64 KiB, or more lines than the 1000, that the agent follows.
    "headers-10000",
    "line-of-1-MiB",
    "survive-long-line",
    "survive-many-lines",
    // Another version than 1.0 and 1.1: no HTTP/1.
    "http-0-9",
    "http-2",
    // An invalid status.
    "status-099",
];

/// One or several messages, in which `@` stands for the case's path.
pub struct Case {
    pub name: &'static str,
    /// Method of the request that a response answers.
    pub method: &'static str,
    text: String,
}

impl Case {
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, part) in self.text.split('@').enumerate() {
            if index > 0 {
                bytes.extend_from_slice(path.as_bytes());
            }
            // Each character of these texts is one byte: characters above 0x7f are no UTF-8 then.
            bytes.extend(part.chars().map(|character| character as u8));
        }
        bytes
    }
}

fn case(name: &'static str, text: impl Into<String>) -> Case {
    Case {
        name,
        method: "GET",
        text: text.into(),
    }
}

/// A request that only a wrong reader finds.
const INNER: &str = "GET @/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// Returns a request with these header lines, bytes behind its head, and an ordinary request.
fn post(name: &'static str, lines: &str, body: &str) -> Case {
    case(
        name,
        format!("POST @/a HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}GET @/b HTTP/1.1\r\nHost: h\r\n\r\n"),
    )
}

pub fn requests() -> Vec<Case> {
    let length = INNER.len() + 30;
    let get = |name, line: &str| {
        case(
            name,
            format!("{line}\r\nHost: h\r\n\r\nGET @/b HTTP/1.1\r\nHost: h\r\n\r\n"),
        )
    };
    vec![
        post("usual", "Content-Length: 3\r\n", "abc"),
        post("chunked", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        post(
            "both",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            &format!("0\r\n\r\n{INNER}"),
        ),
        post(
            "both-long",
            &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            &format!("0\r\n\r\n{INNER}"),
        ),
        post(
            "both-swapped",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        post("two-lengths", "Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        post("same-length-twice", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        post("list-of-lengths", "Content-Length: 3, 3\r\n", "abc"),
        post("list-that-differs", "Content-Length: 3, 4\r\n", "abc"),
        post("negative-length", "Content-Length: -3\r\n", "abc"),
        post("plus-length", "Content-Length: +3\r\n", "abc"),
        post("hex-length", "Content-Length: 0x3\r\n", "abc"),
        post("spaced-length", "Content-Length: 3 3\r\n", "abc"),
        post("empty-length", "Content-Length:\r\n", ""),
        post("zeros-length", "Content-Length: 0003\r\n", "abc"),
        post("huge-length", "Content-Length: 18446744073709551616\r\n", "abc"),
        post("largest-length", "Content-Length: 18446744073709551615\r\n", "abc"),
        post("large-length", "Content-Length: 9223372036854775807\r\n", INNER),
        post("length-of-two-lines", "Content-Length: 3\r\n 0\r\n", "abc"),
        post("space-before-colon", "Content-Length : 3\r\n", "abc"),
        post("space-before-name", " Content-Length: 3\r\n", ""),
        post("tab-in-name", "Content\tLength: 3\r\n", ""),
        post("no-colon", "Content-Length 3\r\n", ""),
        post("empty-name", ": 3\r\n", ""),
        post("nul-in-value", "X: a\0b\r\n", ""),
        post("nul-in-name", "X\0Content-Length: 3\r\n", ""),
        post("delete-in-value", "X: a\x7fb\r\n", ""),
        post("latin-1-in-value", "X: \u{e4}\r\n", ""),
        post("folded", "X: a\r\n b\r\n", ""),
        post("folded-length", "X: a\r\n Content-Length: 3\r\n", ""),
        post("bare-cr", "X: a\rContent-Length: 3\r\n", ""),
        post("bare-lf-line", "X: a\nContent-Length: 3\r\n", "abc"),
        case(
            "bare-lf",
            "POST @/a HTTP/1.1\nHost: h\nContent-Length: 3\n\nabcGET @/b HTTP/1.1\nHost: h\n\n",
        ),
        case(
            "bare-lf-then-length",
            "PUT @/a HTTP/1.1\nHost: h\n\nPUT @/b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        ),
        post("identity", "Transfer-Encoding: identity\r\n", ""),
        post(
            "identity-and-length",
            "Transfer-Encoding: identity\r\nContent-Length: 3\r\n",
            "abc",
        ),
        post(
            "chunked-twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        post("chunked-list", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        post("chunked-then-gzip", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
        post("gzip-then-chunked", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post(
            "chunked-identity",
            "Transfer-Encoding: chunked, identity\r\n",
            "0\r\n\r\n",
        ),
        post("chunked-quoted", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        post("chunked-capital", "Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"),
        post("xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("chunked-tab", "Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"),
        post("chunked-comma", "Transfer-Encoding: ,chunked,\r\n", "0\r\n\r\n"),
        post("chunked-parameter", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        post(
            "chunk-extension",
            "Transfer-Encoding: chunked\r\n",
            "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n",
        ),
        post(
            "chunk-extension-lf",
            "Transfer-Encoding: chunked\r\n",
            "3;a\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-quoted-crlf",
            "Transfer-Encoding: chunked\r\n",
            "3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-zeros",
            "Transfer-Encoding: chunked\r\n",
            "0003\r\nabc\r\n000\r\n\r\n",
        ),
        post(
            "chunk-capital",
            "Transfer-Encoding: chunked\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
        ),
        post(
            "chunk-trailers",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n",
        ),
        post(
            "chunk-negative",
            "Transfer-Encoding: chunked\r\n",
            "-3\r\nabc\r\n0\r\n\r\n",
        ),
        post("chunk-plus", "Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n"),
        post(
            "chunk-prefix",
            "Transfer-Encoding: chunked\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-space-before",
            "Transfer-Encoding: chunked\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-space-behind",
            "Transfer-Encoding: chunked\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-huge",
            "Transfer-Encoding: chunked\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-largest",
            "Transfer-Encoding: chunked\r\n",
            &format!("ffffffffffffffff\r\nabc{INNER}"),
        ),
        post(
            "chunk-too-short",
            "Transfer-Encoding: chunked\r\n",
            "2\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "chunk-too-long",
            "Transfer-Encoding: chunked\r\n",
            "4\r\nabc\r\n0\r\n\r\n",
        ),
        post("chunk-lf", "Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"),
        post("chunk-cr", "Transfer-Encoding: chunked\r\n", "3\rabc\r0\r\r"),
        post(
            "chunk-without-end",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n",
        ),
        post("chunk-empty-size", "Transfer-Encoding: chunked\r\n", "\r\n\r\n"),
        get("http-0-9", "GET @/a"),
        get("http-1-2", "GET @/a HTTP/1.2"),
        get("http-2", "GET @/a HTTP/2.0"),
        get("http-lower", "GET @/a http/1.1"),
        get("http-1-01", "GET @/a HTTP/1.01"),
        get("two-spaces", "GET  @/a HTTP/1.1"),
        get("tab-for-space", "GET\t@/a\tHTTP/1.1"),
        get("space-behind-version", "GET @/a HTTP/1.1 "),
        get("space-in-target", "GET @/a b HTTP/1.1"),
        get("nul-in-target", "GET @/a\0b HTTP/1.1"),
        get("high-byte-in-target", "GET @/a\u{ff} HTTP/1.1"),
        get("fragment-in-target", "GET @/a#b HTTP/1.1"),
        get("lower-method", "get @/a HTTP/1.1"),
        get("odd-method", "BREW @/a HTTP/1.1"),
        get("bad-method", "G@T @/a HTTP/1.1"),
        get("absolute-form", "GET http://h:1@/a HTTP/1.1"),
        get("absolute-form-user", "GET http://u:p@/a HTTP/1.1"),
        get("empty-lines-before", "\r\n\r\nGET @/a HTTP/1.1"),
        get("lf-before", "\nGET @/a HTTP/1.1"),
        get("space-before", " GET @/a HTTP/1.1"),
        get("nul-before", "\0GET @/a HTTP/1.1"),
        case(
            "get-with-body",
            format!("GET @/a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{INNER}"),
        ),
        case(
            "http-1-0-chunked",
            "POST @/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        case(
            "http-1-0-two",
            "GET @/a HTTP/1.0\r\n\r\nGET @/smuggled HTTP/1.0\r\n\r\n",
        ),
        case(
            "close-then-more",
            format!("GET @/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n{INNER}"),
        ),
        case(
            "http-1-0-keep",
            "GET @/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET @/b HTTP/1.0\r\n\r\n",
        ),
        case("no-host", "GET @/a HTTP/1.1\r\n\r\nGET @/b HTTP/1.1\r\nHost: h\r\n\r\n"),
        case(
            "two-hosts",
            "GET @/a HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\nGET @/b HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        case(
            "body-that-is-cut",
            "POST @/a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        ),
        case("head-that-is-cut", "GET @/a HTTP/1.1\r\nHost: h\r\n"),
        case(
            "many-requests",
            "GET @/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned() + &"GET @/b HTTP/1.1\r\nHost: h\r\n\r\n".repeat(50),
        ),
        case(
            "line-of-16-KiB",
            format!("GET @/a HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(12_000)),
        ),
        case(
            "line-of-1-MiB",
            format!("GET @/a HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        ),
        case(
            "headers-10000",
            format!("GET @/a HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(10_000)),
        ),
        case(
            "target-of-100-KiB",
            format!("GET @/a{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(100_000)),
        ),
        case(
            "upgrade-ignored",
            "GET @/a HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\nGET @/b HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        case(
            "expect",
            "POST @/a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        ),
    ]
}

/// Builder of a request for a path that a server accepts.
type Hostile = fn(&str) -> Vec<u8>;

/// Returns requests that these servers accept and the agent does not follow.
pub fn survivors(server: &str) -> Vec<(&'static str, Hostile)> {
    let long_line: Hostile = |path| {
        let line = "x".repeat(1 << 20);
        format!("GET {path} HTTP/1.1\r\nHost: h\r\nX: {line}\r\n\r\n").into_bytes()
    };
    let many_lines: Hostile = |path| {
        let lines = "a: b\r\n".repeat(10_000);
        format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
    };
    match server {
        "hyper" => vec![("long-line", long_line), ("many-lines", many_lines)],
        _ => vec![],
    }
}

/// Returns a response with this status line, header lines and body.
fn response(name: &'static str, line: &str, lines: &str, body: &str) -> Case {
    case(name, format!("HTTP/1.1 {line}\r\n{lines}\r\n{body}"))
}

pub fn responses() -> Vec<Case> {
    let to_head = |case: Case| Case { method: "HEAD", ..case };
    vec![
        response("usual", "200 OK", "Content-Length: 3\r\n", "abc"),
        response(
            "chunked",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        response("until-close", "200 OK", "", "abc"),
        response("too-short", "200 OK", "Content-Length: 5\r\n", "abc"),
        response("too-long", "200 OK", "Content-Length: 2\r\n", "abc"),
        response(
            "both",
            "200 OK",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "two-lengths",
            "200 OK",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "abc",
        ),
        response(
            "same-length-twice",
            "200 OK",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "abc",
        ),
        response("list-of-lengths", "200 OK", "Content-Length: 3, 3\r\n", "abc"),
        response("negative-length", "200 OK", "Content-Length: -3\r\n", "abc"),
        response("plus-length", "200 OK", "Content-Length: +3\r\n", "abc"),
        response(
            "huge-length",
            "200 OK",
            "Content-Length: 99999999999999999999\r\n",
            "abc",
        ),
        response("identity", "200 OK", "Transfer-Encoding: identity\r\n", "abc"),
        response("gzip", "200 OK", "Transfer-Encoding: gzip\r\n", "abc"),
        response(
            "chunked-then-gzip",
            "200 OK",
            "Transfer-Encoding: chunked, gzip\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunked-twice",
            "200 OK",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        case(
            "http-1-0-chunked",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        case("http-1-0", "HTTP/1.0 200 OK\r\n\r\nabc"),
        case("http-0-9", "abc"),
        case("http-2", "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        case("bare-lf", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc"),
        case("no-reason", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc"),
        case("status-2", "HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nabc"),
        case("status-4", "HTTP/1.1 2000 OK\r\nContent-Length: 3\r\n\r\nabc"),
        case("status-999", "HTTP/1.1 999 OK\r\nContent-Length: 3\r\n\r\nabc"),
        case("status-099", "HTTP/1.1 099 OK\r\nContent-Length: 3\r\n\r\nabc"),
        response("latin-1-reason", "200 \u{e4}", "Content-Length: 3\r\n", "abc"),
        response("no-content-with-body", "204 No Content", "Content-Length: 3\r\n", "abc"),
        response(
            "no-content-chunked",
            "204 No Content",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "not-modified-with-length",
            "304 Not Modified",
            "Content-Length: 3\r\n",
            "",
        ),
        response(
            "not-modified-with-body",
            "304 Not Modified",
            "Content-Length: 3\r\n",
            "abc",
        ),
        response("reset-content", "205 Reset Content", "Content-Length: 0\r\n", ""),
        response(
            "continue-first",
            "100 Continue",
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        ),
        response(
            "many-interim",
            "103 Early Hints",
            "Link: x\r\n",
            &format!(
                "{}HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                "HTTP/1.1 102 Processing\r\n\r\n".repeat(20)
            ),
        ),
        response(
            "interim-with-length",
            "103 Early Hints",
            "Content-Length: 3\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        ),
        response("only-interim", "100 Continue", "", ""),
        to_head(response("head-with-length", "200 OK", "Content-Length: 3\r\n", "")),
        to_head(response("head-with-body", "200 OK", "Content-Length: 3\r\n", "abc")),
        to_head(response("head-chunked", "200 OK", "Transfer-Encoding: chunked\r\n", "")),
        response(
            "chunk-extension",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunk-trailers",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        ),
        response(
            "chunk-lf-at-end",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\n",
        ),
        response(
            "chunk-trailer-lf",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\nX: y\n\r\n",
        ),
        response(
            "chunk-bad",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "x\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunk-negative",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "-3\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunk-too-short",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "2\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunk-huge",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        response(
            "chunk-without-end",
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n",
        ),
        response("chunk-lf", "200 OK", "Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"),
        response("folded", "200 OK", "X: a\r\n b\r\nContent-Length: 3\r\n", "abc"),
        response("nul", "200 OK", "X: a\0b\r\nContent-Length: 3\r\n", "abc"),
        response("space-before-colon", "200 OK", "Content-Length : 3\r\n", "abc"),
        response("no-colon", "200 OK", "Nothing\r\nContent-Length: 3\r\n", "abc"),
        response(
            "two-answers",
            "200 OK",
            "Content-Length: 3\r\n",
            "abcHTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nabc",
        ),
        response(
            "line-of-1-MiB",
            "200 OK",
            &format!("X: {}\r\nContent-Length: 3\r\n", "x".repeat(1 << 20)),
            "abc",
        ),
        response(
            "headers-10000",
            "200 OK",
            &format!("{}Content-Length: 3\r\n", "a: b\r\n".repeat(10_000)),
            "abc",
        ),
    ]
}
