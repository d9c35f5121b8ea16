//! Trace and span ids (W3C Trace Context, section 3.2.2).

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The id with these bytes, or `None` if all are zero (the invalid id).
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                bytes.iter().any(|&byte| byte != 0).then_some(Self(bytes))
            }

            /// The bytes, most significant first.
            pub fn to_bytes(self) -> [u8; $bytes] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// Names a trace: 16 bytes, never all zero.
    TraceId,
    16
);
id!(
    /// Names a span within its trace: 8 bytes, never all zero.
    SpanId,
    8
);
