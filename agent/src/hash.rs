//! Tables of the hot path. An exchange takes some twenty look-ups; the standard library's hash, which withstands chosen
//! keys, was a third of Core's time. These keys are the kernel's process ids and our own names of connections: nobody
//! outside chooses them.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

/// A table whose keys nobody outside chooses.
pub type FastMap<K, V> = HashMap<K, V, FixedState>;

/// A set of what nobody outside chooses.
pub type FastSet<K> = HashSet<K, FixedState>;
