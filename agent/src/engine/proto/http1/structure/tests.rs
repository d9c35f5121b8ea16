//! Marks of conversations: kept bytes are shown as they are, filled ones as `x`, and bytes of words as `-`.

use super::*;
use crate::engine::proto::structure::Mark;

fn shown(structure: &mut Structure, half: Half, begins_call: bool, text: &str) -> String {
    let named = Named::default();
    let mut marks = Marks::default();
    structure.bytes(&named, half, begins_call, text.as_bytes(), &mut marks);
    let mut rest = text.chars();
    let mut shown = String::new();
    for mark in marks.iter() {
        match mark {
            Mark::Keep(n) => shown.extend(rest.by_ref().take(n)),
            Mark::Fill(n) => shown.extend(rest.by_ref().take(n).map(|_| 'x')),
            Mark::Word(n, ..) => shown.extend(rest.by_ref().take(n).map(|_| '-')),
            Mark::NewWord | Mark::KnownAgain => {}
        }
    }
    assert_eq!(rest.as_str(), "", "each byte has a mark");
    shown
}

#[test]
fn heads_are_words_and_bodies_are_filled() {
    for size in 1..100 {
        let mut structure = Structure::new(true);
        let mut marked = |half, text: &str| {
            let text = text.as_bytes().chunks(size).map(|part| str::from_utf8(part).unwrap());
            text.map(|part| shown(&mut structure, half, false, part))
                .collect::<String>()
        };
        assert_eq!(
            marked(
                Half::Request,
                "\r\nPUT http://a/b?c=d HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\n\r\n"
            ),
            "\r\n--- --------/-?-=- --------\r\n--------------:-3\r\n\r\nxxx---- / --------\r\n\r\n"
        );
        assert_eq!(
            marked(
                Half::Response,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nA: b\r\n\r\n"
            ),
            "-------- 200 --\r\n-----------------: -------\r\n\r\n2;xxx\r\nxx\r\n0\r\nxxxx\r\n\r\n"
        );
        // Answers HEAD: no body follows.
        assert_eq!(
            marked(Half::Response, "HTTP/1.1 404\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200"),
            "-------- 404\r\n--------------:-9\r\n\r\n-------- 200"
        );
    }
}

#[test]
fn from_the_middle_a_head_begins_with_a_call() {
    let mut structure = Structure::new(false);
    assert_eq!(shown(&mut structure, Half::Request, false, "GET /a"), "xxxxxx");
    assert_eq!(shown(&mut structure, Half::Request, true, "{\"a\":1}"), "xxxxxxx");
    assert_eq!(shown(&mut structure, Half::Request, true, "GET /a"), "--- /-");
}

#[test]
fn gaps_in_bodies_are_passed_over_and_all_others_lose_both_halves() {
    let mut structure = Structure::new(true);
    let post = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na";
    shown(&mut structure, Half::Request, true, post);
    structure.gap(Half::Request, 4);
    assert_eq!(shown(&mut structure, Half::Request, false, "GET"), "---");
    structure.gap(Half::Request, 1);
    assert_eq!(shown(&mut structure, Half::Request, false, "GET"), "xxx");
    assert_eq!(
        shown(&mut structure, Half::Response, false, "HTTP/1.1 200"),
        "xxxxxxxxxxxx"
    );
}

#[test]
fn the_headers_of_proxies_are_kept_without_their_addresses() {
    let mut structure = Structure::new(true);
    assert_eq!(
        shown(
            &mut structure,
            Half::Request,
            true,
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / "
        ),
        "----- ---- --------- --------- - -\r\n--- / "
    );
    let mut structure = Structure::new(true);
    let binary = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x03abcGET / ";
    let expected = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x03------ / ";
    assert_eq!(shown(&mut structure, Half::Request, true, binary), expected);
}

#[test]
fn after_an_upgrade_both_halves_are_filled() {
    let mut structure = Structure::new(true);
    let upgrade = "GET / HTTP/1.1\r\nUpgrade: a\r\n\r\n";
    shown(&mut structure, Half::Request, true, upgrade);
    shown(
        &mut structure,
        Half::Response,
        true,
        "HTTP/1.1 101 A\r\nUpgrade: a\r\n\r\n",
    );
    for half in [Half::Request, Half::Response] {
        assert_eq!(shown(&mut structure, half, true, "GET /"), "xxxxx");
    }
}
