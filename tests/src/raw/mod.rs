//! HTTP over real sockets, byte by byte and call by call: cases that say which spans there must be, for the raw-socket test
//! and for `cargo xtask kernels`.

mod blind;
mod bodies;
mod bodiless;
mod calls;
mod cases;
mod ends;
mod expected;
mod field;
mod half_close;
mod messages;
mod namespaces;
mod odd;
mod older;
mod peer;
mod random;
mod sockets;
mod spliced;
mod world;

pub use cases::{play, play_hostile, selection};
pub use expected::{Difference, Differences, End, Exchange, compare, end_of, target_of};
pub use messages::{get, response};
pub use namespaces::Namespaces;
pub use older::open_older;
pub use peer::{Answer, Peer};
pub use random::converse;
pub use world::{Bulk, CLIENT, Connection, Socket, Way, World};
