//! Requests of connections that have ended, kept for the far ends to find.
//!
//! There are two cases: a call's write(2) is reported after everything that its server did, and a client gives up
//! before its server reads the request.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::{
    Requests,
    pairs::{Key, Life},
};

/// Upper bound on connections whose requests are remembered.
const MOST: usize = 4096;

/// Requests of a connection that has ended.
#[derive(Debug)]
struct Left {
    at_ns: u64,
    life: Life,
    /// Set if another connection had the far end's addresses, and was not certain to be that.
    is_uncertain: bool,
    requests: Requests,
}

/// Requests by the keys of the connections' far ends, and the order in which they were left.
#[derive(Debug, Default)]
pub struct LeftBehind {
    /// Seeded hash: a peer chooses half of the sequence numbers.
    requests: HashMap<Key, Left, RandomState>,
    /// Time at which each was left, oldest first. Entries whose requests were taken are skipped.
    order: VecDeque<(u64, Key)>,
}

impl LeftBehind {
    /// Returns whether no requests are kept: the usual case.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the requests that a far end may still read, and the life of the connection that left them.
    pub fn get(&self, far: &Key) -> Option<(Life, &Requests)> {
        self.requests.get(far).map(|left| (left.life, &left.requests))
    }

    /// Leaves requests of a connection that lived so long to a far end. Returns the number of connections that were
    /// forgotten for them.
    pub fn leave(&mut self, far: Key, (life, is_uncertain): (Life, bool), requests: Requests, at_ns: u64) -> u64 {
        let left = Left {
            at_ns,
            life,
            is_uncertain,
            requests,
        };
        self.requests.insert(far, left);
        self.order.push_back((at_ns, far));
        let mut forgotten = 0;
        while self.order.len() > MOST {
            forgotten += u64::from(self.forget_oldest().is_some());
        }
        forgotten
    }

    /// Forgets the requests of a far end that has ended.
    pub fn remove(&mut self, far: &Key) {
        self.requests.remove(far);
    }

    /// Forgets requests that were left before a time. Returns the number of connections whose far end stayed uncertain.
    pub fn forget_before(&mut self, before_ns: u64) -> u64 {
        let mut uncertain = 0;
        while self.order.front().is_some_and(|&(left_ns, _)| left_ns < before_ns) {
            uncertain += u64::from(self.forget_oldest().is_some_and(|left| left.is_uncertain));
        }
        uncertain
    }

    /// Forgets the requests left first, and returns them if they were still there.
    fn forget_oldest(&mut self) -> Option<Left> {
        let (left_ns, far) = self.order.pop_front()?;
        // A later connection may have the key of an earlier one.
        let is_this = self.requests.get(&far).is_some_and(|left| left.at_ns == left_ns);
        if is_this { self.requests.remove(&far) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_are_remembered_and_none_for_ever() {
        let mut left = LeftBehind::default();
        let key = |number: u64| Key::Sockets((number, 0));
        let forgotten: u64 = (0..5000)
            .map(|number| left.leave(key(number), (Life::ALWAYS, number == 4997), Requests::new(), number))
            .sum();
        assert_eq!(forgotten, 5000 - MOST as u64);
        assert_eq!((left.requests.len(), left.order.len()), (MOST, MOST));
        assert!(left.get(&key(0)).is_none() && left.get(&key(4999)).is_some());
        left.remove(&key(4999));
        assert_eq!(left.forget_before(4990), 0);
        assert_eq!((left.requests.len(), left.order.len()), (9, 10));
        assert_eq!(left.forget_before(u64::MAX), 1);
        assert!(left.is_empty() && left.order.is_empty());
    }
}
