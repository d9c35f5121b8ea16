//! Parts of a URL and kinds of headers: which values stay and which are redacted.

use proptest::prelude::*;

use super::*;

#[test]
fn queries() {
    let names = SecretNames::default();
    for (input, expected) in [
        ("", ""),
        ("q=OpenTelemetry", "q=OpenTelemetry"),
        ("q=OpenTelemetry&sig=s3cret", "q=OpenTelemetry&sig=REDACTED"),
        ("sig=a=b&x=1&sig=c", "sig=REDACTED&x=1&sig=REDACTED"),
        ("sig=", "sig=REDACTED"),
        ("sig", "sig"),
        ("token&x", "token&x"),
        // The conventions match their names by case.
        ("Sig=1&SIG=2&signature=3&xsig=4", "Sig=1&SIG=2&signature=3&xsig=4"),
        (
            "AWSAccessKeyId=1&Signature=2&",
            "AWSAccessKeyId=REDACTED&Signature=REDACTED&",
        ),
        (
            "X-Amz-Signature=1&X-Amz-Date=2",
            "X-Amz-Signature=REDACTED&X-Amz-Date=2",
        ),
        ("X-Goog-Signature=1&&=x", "X-Goog-Signature=REDACTED&&=x"),
        // OAuth, and names as programmers write them.
        (
            "code=SECRET&access_token=S&state=1",
            "code=REDACTED&access_token=REDACTED&state=1",
        ),
        ("Api-Key=S&x=1", "Api-Key=REDACTED&x=1"),
        // Encoded names; a double encoding names something else.
        ("%73ig=S&s%69%67=S", "%73ig=REDACTED&s%69%67=REDACTED"),
        ("%2573ig=S", "%2573ig=S"),
        ("+sig=S&sig+=S", "+sig=REDACTED&sig+=REDACTED"),
        (
            "user%5Bpassword%5D=S&user[token]=S",
            "user%5Bpassword%5D=REDACTED&user[token]=REDACTED",
        ),
        // For who splits at semicolons, and who does not: gone is what is a secret for either.
        ("a=1;sig=S", "a=1;sig=REDACTED"),
        ("sig=S;S&b=1", "sig=REDACTED&b=1"),
        ("a=1%3Bsig%3DS&b=1", "a=1%3Bsig%3DREDACTED&b=1"),
        // A fragment that was sent, a query in a query.
        ("a=1#access_token=S&b=2", "a=1#access_token=REDACTED&b=2"),
        ("a?sig=S", "a?sig=REDACTED"),
        // URLs as values.
        (
            "next=https://u:p@h/x?sig=S&b=1",
            "next=https://REDACTED:REDACTED@h/x?sig=REDACTED&b=1",
        ),
        (
            "next=https%3A%2F%2Fu%3Ap%40h%2Fcb%3Fa%3D1%26code%3DS%26c%3D2&b=1",
            "next=https%3A%2F%2FREDACTED:REDACTED%40h%2Fcb%3Fa%3D1%26code%3DREDACTED&b=1",
        ),
        ("mail=ann@example.com", "mail=ann@example.com"),
        ("a=%", "a=%"),
        ("a=%e2%82%ac&b=€", "a=%e2%82%ac&b=€"),
    ] {
        assert_eq!(names.query(input), expected, "{input}");
    }
}

#[test]
fn paths() {
    let names = SecretNames::default();
    for (input, expected) in [
        ("/", "/"),
        ("/a/b=c/100%25", "/a/b=c/100%25"),
        ("/a;JSESSIONID=S/b;x=1", "/a;JSESSIONID=REDACTED/b;x=1"),
        ("/cb#access_token=S/S&x=1", "/cb#access_token=REDACTED&x=1"),
        ("/fetch/http://u:p@h/x", "/fetch/http://REDACTED:REDACTED@h/x"),
        (
            "/fetch/http%3A%2F%2Fu%3Ap%40h",
            "/fetch/http%3A%2F%2FREDACTED:REDACTED%40h",
        ),
        ("//u:p@h/x", "//u:p@h/x"),
        ("/@angular/core", "/@angular/core"),
    ] {
        assert_eq!(names.path(input), expected, "{input}");
    }
}

#[test]
fn urls() {
    let names = SecretNames::default();
    for (input, expected) in [
        ("https://h/a?b=c#d", "https://h/a?b=c#d"),
        (
            "https://u:p%40%2Fq@h:1/a;jsessionid=S/b?sig=S&c=1#id_token=S",
            "https://REDACTED:REDACTED@h:1/a;jsessionid=REDACTED/b?sig=REDACTED&c=1#id_token=REDACTED",
        ),
        ("https://u:p@ss@[::1]/", "https://REDACTED:REDACTED@[::1]/"),
        ("https://@p@h/", "https://REDACTED:REDACTED@h/"),
        ("https://@h/", "https://@h/"),
        (
            "/a?next=https%3A//user%3Apass%40host/x",
            "/a?next=https%3A//REDACTED:REDACTED%40host/x",
        ),
        (
            "http://u:p@host?token=1",
            "http://REDACTED:REDACTED@host?token=REDACTED",
        ),
        ("//u@h/x", "//REDACTED:REDACTED@h/x"),
        ("/cb?code=S", "/cb?code=REDACTED"),
        ("cb?code=S#/x?token=S", "cb?code=REDACTED"),
        ("?code=S", "?code=REDACTED"),
        ("https://h/@ann?to=b@c", "https://h/@ann?to=b@c"),
    ] {
        assert_eq!(names.url(input), expected, "{input}");
    }
}

#[test]
fn authorities() {
    for (input, expected) in [
        ("example.com:80", "example.com:80"),
        ("user:password@example.com", "REDACTED:REDACTED@example.com"),
        ("user@example.com:8080", "REDACTED:REDACTED@example.com:8080"),
        ("user:p@ss@[::1]:80", "REDACTED:REDACTED@[::1]:80"),
    ] {
        assert_eq!(authority(input), expected, "{input}");
    }
}

#[test]
fn headers() {
    let names = SecretNames::default();
    for (name, input, expected) in [
        ("referer", "https://h/a?token=S&b=1", "https://h/a?token=REDACTED&b=1"),
        ("location", "/cb?x=1&code=S S", "/cb?x=1&code=REDACTED"),
        ("location", "cb?code=S", "cb?code=REDACTED"),
        ("content-location", "https://u:p@h/", "https://REDACTED:REDACTED@h/"),
        ("refresh", "5; url=/a?token=S", "5; url=/a?token=REDACTED"),
        (
            "refresh",
            "5;url='https://u:p@h/a'",
            "5;url='https://REDACTED:REDACTED@h/a'",
        ),
        ("x-original-url", "/a?sig=S", "/a?sig=REDACTED"),
        ("x-forwarded-uri", "a?sig=S", "a?sig=REDACTED"),
        ("host", "u:p@h:80", "REDACTED:REDACTED@h:80"),
        (
            "link",
            "<https://h/?sig=S&page=2>; rel=\"next\", </b?token=S>; rel=prev",
            "<https://h/?sig=REDACTED&page=2>; rel=\"next\", </b?token=REDACTED>; rel=prev",
        ),
        (
            "x-anything",
            "see https://u:p@h/?token=S or code=42",
            "see https://REDACTED:REDACTED@h/?token=REDACTED or code=42",
        ),
        ("x-error", "code=42; token=x", "code=42; token=x"),
        ("forwarded", "for=1.2.3.4;host=h", "for=1.2.3.4;host=h"),
        ("x-text", "ü <€> ", "ü <€> "),
    ] {
        let value = Cow::Borrowed(input);
        assert_eq!(names.header(Holds::of(name), value), expected, "{name}: {input}");
    }
}

proptest! {
    /// However a secret is written and whatever is around it, it is gone.
    #[test]
    fn no_secret_is_left(
        before in "[a-z0-9/;&?#=%.@:\\[\\]+ü-]{0,20}",
        between in "[&?;#]",
        name in prop::sample::select(vec!["sig", "%73ig", "token", "access_token", "API-KEY", "user[password]", "+code"]),
        after in "(&[a-z0-9/;?#=%.@:ü-]{0,20})?",
    ) {
        let names = SecretNames::default();
        let text = format!("{before}{between}{name}=S3CRET{after}");
        let forms = [
            names.query(&text).into_owned(),
            names.url(&format!("?{text}")).into_owned(),
            names.url(&format!("https://h/?{text}")).into_owned(),
            names.path(&format!("/x#{text}")).into_owned(),
        ];
        for form in forms {
            prop_assert!(!form.contains("S3CRET"), "{text}: {form}");
        }
    }

    /// The cheap look and the scan agree, and nothing panics.
    #[test]
    fn what_is_plain_has_nothing_to_redact(text in "\\PC{0,40}") {
        let names = SecretNames::default();
        let whole = names.query(&text);
        prop_assert_eq!(&whole, &scan(&text, Begin::Query, &names));
        prop_assert_eq!(names.query(&whole), whole.clone(), "once is enough");
        names.path(&text);
        names.url(&text);
        names.header(Holds::Text, Cow::Borrowed(&text));
    }
}
