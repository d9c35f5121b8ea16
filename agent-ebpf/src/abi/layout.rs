//! The version of the records' layout.

use core::mem::{offset_of, size_of};

use super::{
    Begun, Connect, Context, Exec, Exit, Fork, Header, Identity, Kind, Listen, Open, Segment, Slice, State, Unseen,
};

/// Names the layout of the records: the first thing on a tape. A hash of the names, places and sizes of all fields, so
/// that no change can be forgotten.
pub const ABI_VERSION: u32 = {
    let hash = hash();
    (hash ^ hash >> 32) as u32
};

/// FNV-1a (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>), 64 bits.
const fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

const fn mix_number(hash: u64, number: usize) -> u64 {
    mix(hash, &(number as u64).to_le_bytes())
}

macro_rules! mix_structs {
    ($hash:ident: $($type:ident { $($field:ident),+ $(,)? })+) => {
        $(
            // A field that is not in the list breaks this.
            const _: fn($type) = |$type { $($field: _),+ }| {};
            $hash = mix(mix_number($hash, size_of::<$type>()), stringify!($type).as_bytes());
            $($hash = mix(mix_number($hash, offset_of!($type, $field)), stringify!($field).as_bytes());)+
        )+
    };
}

macro_rules! mix_kinds {
    ($hash:ident: $($kind:ident),+ $(,)?) => {
        const _: fn(Kind) = |kind| match kind { $(Kind::$kind => {})+ };
        $($hash = mix(mix_number($hash, Kind::$kind as usize), stringify!($kind).as_bytes());)+
    };
}

const fn hash() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    mix_kinds!(hash: Open, Connect, Segment, State, Fork, Exec, Exit, Listen, Unseen, Begun, Context);
    mix_structs! {
        hash:
        Header { kind, direction, flags, cpu, time_ns, tgid, tid }
        Identity { word, parent, generation, source }
        Segment { header, conn, offset, end, until, captured, call_bytes, layer, slices, pad }
        Slice { offset, bytes, pad }
        Open {
            header, conn, sock, peer, inode, written, read, sent_base, received_base, netns, local_port, remote_port,
            local, remote, family, role, counted, from_birth, pad,
        }
        Connect { header, conn, start_ns, result, family, path_bytes, remote_port, remote }
        State { header, conn, error, state, old, shutdown, flags }
        Fork { header, child, pad }
        Exec { header, strings_len, cmdline_len, provisional, pad, comm }
        Exit { header, exit_code, pad }
        Listen { header, port, pad }
        Unseen { header, cause, pad }
        Begun { header }
        Context { header, conn, offset, trace_id, span_id, trace_flags, layer, carrier, pad }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_places_and_sizes_count() {
        let version = |name: &[u8], place, size| mix_number(mix_number(mix(0, name), place), size);
        let one = version(b"until", 80, 88);
        for other in [
            version(b"until_", 80, 88),
            version(b"until", 84, 88),
            version(b"until", 80, 96),
        ] {
            assert_ne!(one, other);
        }
        assert_ne!(ABI_VERSION, 0);
    }
}
