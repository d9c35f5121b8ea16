//! The commands that Redis has, and where their keys are among their arguments.

use super::modules;

/// The places of a command's keys. Arguments count from 1, behind the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// No key.
    None,
    /// First, last and step, as `COMMAND INFO` tells them: a negative last counts from the end.
    Range(u32, i32, u32),
    /// The argument `at` says how many there are, beside `more`.
    Counted {
        /// Which argument.
        at: u32,
        /// Keys that are not counted there.
        more: u32,
    },
    /// Options, a subcommand or a module decide.
    Unknown,
}

const ONE: Keys = Keys::Range(1, 1, 1);
const ALL: Keys = Keys::Range(1, -1, 1);

/// The commands of Redis 7.0 as its `COMMAND INFO` describes them, those that came later up to 8.4, and those that only
/// Valkey or a sentinel has.
#[rustfmt::skip]
const COMMANDS: [(&str, Keys); 275] = [
    ("ACL", Keys::None),
    ("APPEND", ONE),
    ("ASKING", Keys::None),
    ("AUTH", Keys::None),
    ("BGREWRITEAOF", Keys::None),
    ("BGSAVE", Keys::None),
    ("BITCOUNT", ONE),
    ("BITFIELD", ONE),
    ("BITFIELD_RO", ONE),
    ("BITOP", Keys::Range(2, -1, 1)),
    ("BITPOS", ONE),
    ("BLMOVE", Keys::Range(1, 2, 1)),
    ("BLMPOP", Keys::Counted { at: 2, more: 0 }),
    ("BLPOP", Keys::Range(1, -2, 1)),
    ("BRPOP", Keys::Range(1, -2, 1)),
    ("BRPOPLPUSH", Keys::Range(1, 2, 1)),
    ("BZMPOP", Keys::Counted { at: 2, more: 0 }),
    ("BZPOPMAX", Keys::Range(1, -2, 1)),
    ("BZPOPMIN", Keys::Range(1, -2, 1)),
    ("CLIENT", Keys::None),
    ("CLUSTER", Keys::None),
    ("COMMAND", Keys::None),
    ("COMMANDLOG", Keys::None),
    ("CONFIG", Keys::None),
    ("COPY", Keys::Range(1, 2, 1)),
    ("DBSIZE", Keys::None),
    ("DEBUG", Keys::Unknown),
    ("DECR", ONE),
    ("DECRBY", ONE),
    ("DEL", ALL),
    ("DELEX", ONE),
    ("DELIFEQ", ONE),
    ("DIGEST", ONE),
    ("DISCARD", Keys::None),
    ("DUMP", ONE),
    ("ECHO", Keys::None),
    ("EVAL", Keys::Counted { at: 2, more: 0 }),
    ("EVALSHA", Keys::Counted { at: 2, more: 0 }),
    ("EVALSHA_RO", Keys::Counted { at: 2, more: 0 }),
    ("EVAL_RO", Keys::Counted { at: 2, more: 0 }),
    ("EXEC", Keys::None),
    ("EXISTS", ALL),
    ("EXPIRE", ONE),
    ("EXPIREAT", ONE),
    ("EXPIRETIME", ONE),
    ("FAILOVER", Keys::None),
    ("FCALL", Keys::Counted { at: 2, more: 0 }),
    ("FCALL_RO", Keys::Counted { at: 2, more: 0 }),
    ("FLUSHALL", Keys::None),
    ("FLUSHDB", Keys::None),
    ("FUNCTION", Keys::None),
    ("GEOADD", ONE),
    ("GEODIST", ONE),
    ("GEOHASH", ONE),
    ("GEOPOS", ONE),
    ("GEORADIUS", Keys::Unknown),
    ("GEORADIUSBYMEMBER", Keys::Unknown),
    ("GEORADIUSBYMEMBER_RO", ONE),
    ("GEORADIUS_RO", ONE),
    ("GEOSEARCH", ONE),
    ("GEOSEARCHSTORE", Keys::Range(1, 2, 1)),
    ("GET", ONE),
    ("GETBIT", ONE),
    ("GETDEL", ONE),
    ("GETEX", ONE),
    ("GETRANGE", ONE),
    ("GETSET", ONE),
    ("HDEL", ONE),
    ("HELLO", Keys::None),
    ("HEXISTS", ONE),
    ("HEXPIRE", ONE),
    ("HEXPIREAT", ONE),
    ("HEXPIRETIME", ONE),
    ("HGET", ONE),
    ("HGETALL", ONE),
    ("HGETDEL", ONE),
    ("HGETEX", ONE),
    ("HINCRBY", ONE),
    ("HINCRBYFLOAT", ONE),
    ("HKEYS", ONE),
    ("HLEN", ONE),
    ("HMGET", ONE),
    ("HMSET", ONE),
    ("HOTKEYS", Keys::None),
    ("HPERSIST", ONE),
    ("HPEXPIRE", ONE),
    ("HPEXPIREAT", ONE),
    ("HPEXPIRETIME", ONE),
    ("HPTTL", ONE),
    ("HRANDFIELD", ONE),
    ("HSCAN", ONE),
    ("HSET", ONE),
    ("HSETEX", ONE),
    ("HSETNX", ONE),
    ("HSTRLEN", ONE),
    ("HTTL", ONE),
    ("HVALS", ONE),
    ("INCR", ONE),
    ("INCRBY", ONE),
    ("INCRBYFLOAT", ONE),
    ("INFO", Keys::None),
    ("KEYS", Keys::None),
    ("LASTSAVE", Keys::None),
    ("LATENCY", Keys::None),
    ("LCS", Keys::Range(1, 2, 1)),
    ("LINDEX", ONE),
    ("LINSERT", ONE),
    ("LLEN", ONE),
    ("LMOVE", Keys::Range(1, 2, 1)),
    ("LMPOP", Keys::Counted { at: 1, more: 0 }),
    ("LOLWUT", Keys::None),
    ("LPOP", ONE),
    ("LPOS", ONE),
    ("LPUSH", ONE),
    ("LPUSHX", ONE),
    ("LRANGE", ONE),
    ("LREM", ONE),
    ("LSET", ONE),
    ("LTRIM", ONE),
    ("MEMORY", Keys::Unknown),
    ("MGET", ALL),
    ("MIGRATE", Keys::Unknown),
    ("MODULE", Keys::None),
    ("MONITOR", Keys::None),
    ("MOVE", ONE),
    ("MSET", Keys::Range(1, -1, 2)),
    ("MSETEX", Keys::Counted { at: 1, more: 0 }),
    ("MSETNX", Keys::Range(1, -1, 2)),
    ("MULTI", Keys::None),
    ("OBJECT", Keys::Unknown),
    ("PERSIST", ONE),
    ("PEXPIRE", ONE),
    ("PEXPIREAT", ONE),
    ("PEXPIRETIME", ONE),
    ("PFADD", ONE),
    ("PFCOUNT", ALL),
    ("PFDEBUG", Keys::Range(2, 2, 1)),
    ("PFMERGE", ALL),
    ("PFSELFTEST", Keys::None),
    ("PING", Keys::None),
    ("PSETEX", ONE),
    ("PSUBSCRIBE", Keys::None),
    ("PSYNC", Keys::None),
    ("PTTL", ONE),
    ("PUBLISH", Keys::None),
    ("PUBSUB", Keys::None),
    ("PUNSUBSCRIBE", Keys::None),
    ("QUIT", Keys::None),
    ("RANDOMKEY", Keys::None),
    ("READONLY", Keys::None),
    ("READWRITE", Keys::None),
    ("RENAME", Keys::Range(1, 2, 1)),
    ("RENAMENX", Keys::Range(1, 2, 1)),
    ("REPLCONF", Keys::None),
    ("REPLICAOF", Keys::None),
    ("RESET", Keys::None),
    ("RESTORE", ONE),
    ("RESTORE-ASKING", ONE),
    ("ROLE", Keys::None),
    ("RPOP", ONE),
    ("RPOPLPUSH", Keys::Range(1, 2, 1)),
    ("RPUSH", ONE),
    ("RPUSHX", ONE),
    ("SADD", ONE),
    ("SAVE", Keys::None),
    ("SCAN", Keys::None),
    ("SCARD", ONE),
    ("SCRIPT", Keys::None),
    ("SDIFF", ALL),
    ("SDIFFSTORE", ALL),
    ("SELECT", Keys::None),
    ("SENTINEL", Keys::None),
    ("SET", ONE),
    ("SETBIT", ONE),
    ("SETEX", ONE),
    ("SETNX", ONE),
    ("SETRANGE", ONE),
    ("SHUTDOWN", Keys::None),
    ("SINTER", ALL),
    ("SINTERCARD", Keys::Counted { at: 1, more: 0 }),
    ("SINTERSTORE", ALL),
    ("SISMEMBER", ONE),
    ("SLAVEOF", Keys::None),
    ("SLOWLOG", Keys::None),
    ("SMEMBERS", ONE),
    ("SMISMEMBER", ONE),
    ("SMOVE", Keys::Range(1, 2, 1)),
    ("SORT", Keys::Unknown),
    ("SORT_RO", Keys::Range(1, 1, 1)),
    ("SPOP", ONE),
    ("SPUBLISH", ONE),
    ("SRANDMEMBER", ONE),
    ("SREM", ONE),
    ("SSCAN", ONE),
    ("SSUBSCRIBE", ALL),
    ("STRLEN", ONE),
    ("SUBSCRIBE", Keys::None),
    ("SUBSTR", ONE),
    ("SUNION", ALL),
    ("SUNIONSTORE", ALL),
    ("SUNSUBSCRIBE", ALL),
    ("SWAPDB", Keys::None),
    ("SYNC", Keys::None),
    ("TIME", Keys::None),
    ("TOUCH", ALL),
    ("TTL", ONE),
    ("TYPE", ONE),
    ("UNLINK", ALL),
    ("UNSUBSCRIBE", Keys::None),
    ("UNWATCH", Keys::None),
    ("VADD", ONE),
    ("VCARD", ONE),
    ("VDIM", ONE),
    ("VEMB", ONE),
    ("VGETATTR", ONE),
    ("VINFO", ONE),
    ("VISMEMBER", ONE),
    ("VLINKS", ONE),
    ("VRANDMEMBER", ONE),
    ("VRANGE", ONE),
    ("VREM", ONE),
    ("VSETATTR", ONE),
    ("VSIM", ONE),
    ("WAIT", Keys::None),
    ("WAITAOF", Keys::None),
    ("WATCH", ALL),
    ("XACK", ONE),
    ("XACKDEL", ONE),
    ("XADD", ONE),
    ("XAUTOCLAIM", ONE),
    ("XCLAIM", ONE),
    ("XDEL", ONE),
    ("XDELEX", ONE),
    ("XGROUP", Keys::Unknown),
    ("XINFO", Keys::Unknown),
    ("XLEN", ONE),
    ("XPENDING", ONE),
    ("XRANGE", ONE),
    ("XREAD", Keys::Unknown),
    ("XREADGROUP", Keys::Unknown),
    ("XREVRANGE", ONE),
    ("XSETID", ONE),
    ("XTRIM", ONE),
    ("ZADD", ONE),
    ("ZCARD", ONE),
    ("ZCOUNT", ONE),
    ("ZDIFF", Keys::Counted { at: 1, more: 0 }),
    ("ZDIFFSTORE", Keys::Counted { at: 2, more: 1 }),
    ("ZINCRBY", ONE),
    ("ZINTER", Keys::Counted { at: 1, more: 0 }),
    ("ZINTERCARD", Keys::Counted { at: 1, more: 0 }),
    ("ZINTERSTORE", Keys::Counted { at: 2, more: 1 }),
    ("ZLEXCOUNT", ONE),
    ("ZMPOP", Keys::Counted { at: 1, more: 0 }),
    ("ZMSCORE", ONE),
    ("ZPOPMAX", ONE),
    ("ZPOPMIN", ONE),
    ("ZRANDMEMBER", ONE),
    ("ZRANGE", ONE),
    ("ZRANGEBYLEX", ONE),
    ("ZRANGEBYSCORE", ONE),
    ("ZRANGESTORE", Keys::Range(1, 2, 1)),
    ("ZRANK", ONE),
    ("ZREM", ONE),
    ("ZREMRANGEBYLEX", ONE),
    ("ZREMRANGEBYRANK", ONE),
    ("ZREMRANGEBYSCORE", ONE),
    ("ZREVRANGE", ONE),
    ("ZREVRANGEBYLEX", ONE),
    ("ZREVRANGEBYSCORE", ONE),
    ("ZREVRANK", ONE),
    ("ZSCAN", ONE),
    ("ZSCORE", ONE),
    ("ZUNION", Keys::Counted { at: 1, more: 0 }),
    ("ZUNIONSTORE", Keys::Counted { at: 2, more: 1 }),
];

/// Returns a command of this name, in any case of letters.
pub(super) fn command(name: &[u8]) -> Option<(&'static str, Keys)> {
    let order = |known: &str| known.bytes().cmp(name.iter().map(u8::to_ascii_uppercase));
    if let Ok(found) = COMMANDS.binary_search_by(|(known, _)| order(known)) {
        return COMMANDS.get(found).copied();
    }
    let found = modules::COMMANDS.binary_search_by(|known| order(known)).ok()?;
    Some((modules::COMMANDS.get(found)?, Keys::Unknown))
}

impl Keys {
    /// Returns the number of keys of a command with so many arguments. `counted`: the number that the argument
    /// [`Keys::Counted::at`] has.
    pub fn count(self, arguments: u64, counted: Option<u64>) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Unknown => None,
            // A number of keys that are not there is an error of the client.
            Self::Counted { at, more } => {
                let counted = counted?;
                (counted <= arguments.saturating_sub(at.into())).then(|| counted + u64::from(more))
            }
            Self::Range(first, last, step) => {
                let last = match u64::try_from(last) {
                    Ok(last) => last.min(arguments),
                    Err(_) => (arguments + 1).saturating_sub(last.unsigned_abs().into()),
                };
                let first = u64::from(first);
                Some(if last < first {
                    0
                } else {
                    (last - first) / u64::from(step.max(1)) + 1
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_in_order() {
        assert!(COMMANDS.is_sorted_by(|one, other| one.0 < other.0));
        assert!(modules::COMMANDS.is_sorted_by(|one, other| one < other));
    }

    #[test]
    fn keys_are_counted() {
        let table: &[(&str, u64, Option<u64>, Option<u64>)] = &[
            ("get", 1, None, Some(1)),
            ("Set", 4, None, Some(1)),
            ("MGET", 3, None, Some(3)),
            ("MSET", 6, None, Some(3)),
            ("DEL", 2, None, Some(2)),
            ("BLPOP", 3, None, Some(2)),
            ("BLPOP", 0, None, Some(0)),
            ("RENAME", 2, None, Some(2)),
            ("BITOP", 4, None, Some(3)),
            ("PING", 0, None, Some(0)),
            ("EVAL", 5, Some(2), Some(2)),
            ("EVAL", 2, Some(0), Some(0)),
            ("EVAL", 3, Some(7), None),
            ("EVAL", 3, None, None),
            ("ZUNIONSTORE", 4, Some(2), Some(3)),
            ("XREAD", 3, None, None),
            ("SORT", 3, None, None),
            ("MSETEX", 5, Some(2), Some(2)),
            ("json.get", 2, None, None),
        ];
        for (name, arguments, counted, keys) in table {
            let (_, places) = command(name.as_bytes()).unwrap();
            assert_eq!(places.count(*arguments, *counted), *keys, "{name} {arguments}");
        }
        assert_eq!(command(b"GE"), None);
        assert_eq!(command(b""), None);
    }
}
