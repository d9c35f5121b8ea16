//! Tables of the hot path. An exchange takes some twenty look-ups, and the standard library's hash withstands chosen keys
//! at a price. These keys are the kernel's process and thread ids and our own names of connections: nobody outside
//! chooses them.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

/// A table whose keys nobody outside chooses.
pub type FastMap<K, V> = HashMap<K, V, FixedState>;

/// A set of what nobody outside chooses.
pub type FastSet<K> = HashSet<K, FixedState>;
