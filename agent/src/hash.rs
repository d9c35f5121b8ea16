//! Tables of the hot path. An exchange takes some twenty look-ups, and the standard library's hash withstands chosen
//! keys at a price. These keys are the kernel's process and thread ids and our own names of connections: no peer
//! chooses them.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

/// Table whose keys no peer chooses.
pub type FastMap<K, V> = HashMap<K, V, FixedState>;

/// Set whose members no peer chooses.
pub type FastSet<K> = HashSet<K, FixedState>;
