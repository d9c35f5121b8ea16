//! Connects, ends of connections, and ends of processes.

use super::{
    Choice, Core, Process,
    causality::Circumstances,
    exchange::{Exchange, Failure, Opening, Recognised, Side},
    flow::{Connection, Requests},
};
use crate::record::{
    Address, Change, Connect, ConnectionId, Direction, Execution, Exit, Held, Role, Stamp, State, TcpState, Tgid,
    Unseen,
};

/// Longest time of a record from the kernel to Core. A process that is not selected is remembered as long.
const LONGEST_WAY_NS: u64 = 10_000_000_000;

impl Core {
    pub(super) fn connect(&mut self, connect: &Connect<'_>) {
        let Stamp { time_ns, execution } = connect.stamp;
        if !self.want(connect.stamp) {
            return self.turn_away(connect.conn);
        }
        self.befell(connect.stamp, connect.since);
        let sight = self.sight(execution.tgid, time_ns);
        let candidates = self.causality.opener(execution.tgid, execution.tid, sight);
        let opening = Opening::by(candidates);
        let under_way = matches!(connect.errno, 0 | libc::EINPROGRESS | libc::EINTR);
        if under_way {
            let Some(connection) = self.flow.connect(connect) else {
                return;
            };
            connection.opening = opening;
            return;
        }
        self.drop_connection(connect.conn);
        let mut connection = Connection::connecting(connect);
        connection.opening = opening;
        if connect.remote == Address::Unix && connect.errno == libc::ENOENT {
            self.counters.unix_connects_ignored += 1;
            return;
        }
        self.connect_failed(&connection, Failure::from_errno(connect.errno), execution, time_ns);
    }

    /// A connect has failed: a call that did not come to a request.
    fn connect_failed(&mut self, connection: &Connection, failure: Failure, who: Execution, end_ns: u64) {
        let Some(start_ns) = connection.connecting_since_ns else {
            return;
        };
        let span_id = self.causality.ids().span();
        let side = Side::Client(Default::default());
        let mut call = Exchange::new(side, span_id, (connection.id, &connection.ends), who, start_ns);
        call.messages.failure = Some(failure);
        call.unix_offset_ns = self.unix_offset_ns;
        let circumstances = Circumstances {
            opening: connection.opening,
            recognised: Recognised::AtOnce,
            sight: self.sight(who.tgid, end_ns),
        };
        let id = self.causality.call(call, circumstances);
        self.causality.finish(id, end_ns);
    }

    pub(super) fn state(&mut self, state: &State) {
        let now_ns = state.stamp.time_ns;
        // The end of a connect that failed at once is told by its own record.
        if state.before == TcpState::SynSent && self.flow.get(state.conn).is_none() {
            return;
        }
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        connection.last_ns = now_ns;
        // The other end's FIN may have come before this end was accepted, and told.
        connection.remote_fin |= state.before == TcpState::CloseWait;
        match state.change {
            // That its other end had closed was read; nobody waits for an answer since.
            Change::Gone if connection.remote_fin => self.closed(state.conn, 0, now_ns),
            Change::Gone => self.drop_connection(state.conn),
            Change::Released => self.flow.release(state.conn, state.stamp.execution.tgid),
            Change::RemoteFin => connection.remote_fin = true,
            Change::LocalFin => self.local_fin(state),
            Change::Closed if connection.connecting_since_ns.is_some() => self.never_connected(state),
            Change::Closed => self.tcp_closed(state),
        }
    }

    /// This end sends no more.
    fn local_fin(&mut self, state: &State) {
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        let now_ns = state.stamp.time_ns;
        let released = match state.held {
            // After close(2), too.
            Held::Unknown => state.shut_both,
            held => held == Held::Released,
        };
        connection.released |= released;
        // It wants no more of the other end, which has not closed.
        connection.gave_up |= state.shut_both && !connection.remote_fin;
        let answers_no_more = connection.role() == Role::Server;
        self.flow.tell_far_end(state.conn);
        if released || answers_no_more {
            self.lost_before(state);
        }
        self.end_half(state.conn, Direction::Write, now_ns);
        if released {
            self.end_half(state.conn, Direction::Read, now_ns);
        }
        if released || answers_no_more {
            self.fail_rest(state.conn, 0, now_ns);
        }
    }

    /// A connection ends on which connect(2) was all that was seen.
    fn never_connected(&mut self, state: &State) {
        // It was established, and not a word was said: clients dial ahead, and find another connection first.
        if state.before != TcpState::SynSent {
            return self.drop_connection(state.conn);
        }
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        // Nobody gave up on it: its process ended meanwhile, as clients do that dial ahead.
        if state.errno == 0 && connection.process_ended {
            self.counters.connects_abandoned += 1;
            return self.drop_connection(state.conn);
        }
        let failure = if state.errno == 0 {
            Failure::Cancelled
        } else {
            Failure::from_errno(state.errno)
        };
        if let Some(mut connection) = self.flow.close(state.conn) {
            let who = Execution {
                tgid: connection.tgid,
                ..Execution::default()
            };
            let before = std::mem::take(&mut connection.exchanges);
            self.missed(before.into_iter().map(|(_, node)| node));
            self.connect_failed(&connection, failure, who, state.stamp.time_ns);
        }
    }

    /// TCP has closed a connection.
    fn tcp_closed(&mut self, state: &State) {
        self.lost_before(state);
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        let now_ns = state.stamp.time_ns;
        let still_open = state.held == Held::Open && !connection.released;
        if still_open && state.errno == 0 {
            // Both ends are done: the other one's FIN came last.
            connection.remote_fin |= !connection.gave_up;
        }
        let may_be_read = still_open && !connection.exchanges.is_empty();
        if state.errno == 0 && !may_be_read || !self.await_last_calls(state.conn, state.errno, now_ns) {
            self.closed(state.conn, state.errno, now_ns);
        }
    }

    /// Forgets a connection, whose open exchanges give no spans.
    fn drop_connection(&mut self, id: ConnectionId) {
        if let Some(connection) = self.flow.close(id) {
            self.missed(connection.exchanges.into_iter().map(|(_, node)| node));
        }
    }

    /// A connection ends. If the last record of its responses found no room in the ring, it is not known what its open
    /// exchanges came to.
    fn lost_before(&mut self, state: &State) {
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        let lost = match connection.role() {
            Role::Client => state.lost_read,
            Role::Server => state.lost_written,
            Role::Unknown => state.lost_read || state.lost_written,
        };
        if lost {
            self.lose_open(state.conn);
        }
    }

    /// Gives a connection's open exchanges up: a gap hides what they came to.
    fn lose_open(&mut self, id: ConnectionId) {
        if let Some(connection) = self.flow.known(id) {
            let open = std::mem::take(&mut connection.exchanges);
            self.counters.missed_gap += !open.is_empty() as u64;
            self.missed(open.into_iter().map(|(_, node)| node));
        }
    }

    /// The other end of a connection has closed, and all that it sent was read.
    pub(super) fn read_to_end(&mut self, id: ConnectionId, now_ns: u64) {
        if let Some(connection) = self.flow.known(id) {
            connection.last_ns = now_ns;
            connection.remote_fin = true;
            self.end_half(id, Direction::Read, now_ns);
        }
    }

    /// Nothing follows on a connection.
    pub(super) fn closed(&mut self, id: ConnectionId, error: i32, now_ns: u64) {
        self.closing.forget(id);
        self.flow.tell_far_end(id);
        self.end_half(id, Direction::Write, now_ns);
        self.end_half(id, Direction::Read, now_ns);
        self.fail_rest(id, error, now_ns);
        let causality = &self.causality;
        self.flow.leave_behind(id, now_ns, |node| {
            causality.is_given_up(node) || causality.get(node).is_some_and(Exchange::waits_for_partner)
        });
        self.flow.close(id);
    }

    /// Nothing follows on one half of a connection.
    pub(super) fn end_half(&mut self, id: ConnectionId, way: Direction, now_ns: u64) {
        // Nobody's: it may come from an interrupt.
        let stamp = Stamp {
            time_ns: now_ns,
            execution: Execution::default(),
        };
        let mut events = std::mem::take(&mut self.events);
        self.record_ns = now_ns;
        if let Some((tgid, protocol)) = self.flow.end(id, way, stamp, &self.parser, &mut events) {
            self.unseen_in(tgid, protocol);
        }
        for event in events.drain(..) {
            self.exchange(id, event);
        }
        self.events = events;
    }

    /// The requests that got no whole response end now.
    fn fail_rest(&mut self, id: ConnectionId, error: i32, now_ns: u64) {
        let Some(connection) = self.flow.known(id) else { return };
        let failure = match error {
            _ if connection.process_ended => Failure::ProcessExit,
            0 if connection.remote_fin => Failure::ConnectionClosed,
            0 => Failure::Cancelled,
            errno => Failure::from_errno(errno),
        };
        let all = std::mem::take(&mut connection.exchanges);
        let (unserved, rest): (Requests, Requests) = all
            .into_iter()
            .partition(|&(exchange, _)| connection.is_unserved(exchange));
        connection.exchanges.clone_from(&rest);
        self.missed(unserved.into_iter().map(|(_, node)| node));
        for (exchange, node) in rest {
            if let Some(open) = self.causality.get_mut(node) {
                open.messages.failure = Some(failure);
            }
            self.causality.give_up(node);
            self.finish(id, exchange, now_ns);
        }
    }

    pub(super) fn exit(&mut self, exit: &Exit) {
        let Stamp {
            time_ns,
            execution: Execution { tgid, .. },
        } = exit.stamp;
        if let Some(process) = self.processes.get_mut(&tgid) {
            process.ended_ns = Some(time_ns);
        }
        for id in self.flow.of_process(tgid) {
            let processes = &self.processes;
            let lives = |tgid| processes.get(&tgid).is_some_and(|process| process.ended_ns.is_none());
            if self.flow.hand_back(id, lives) {
                continue;
            }
            let Some(connection) = self.flow.known(id) else {
                continue;
            };
            // What was reset before is not the exit's doing.
            if self.closing.is_reset(id) {
                self.settle_closing(id);
                continue;
            }
            connection.process_ended = true;
            let is_unix = connection.is_unix();
            if is_unix && exit.lost_unix {
                self.lose_open(id);
            }
            // Nothing tells the end of a Unix connection whose process is killed. Nor will what a closed one received be read.
            if is_unix || self.closing.contains(id) {
                self.closed(id, 0, time_ns);
            }
        }
    }

    /// A process id names another process, or program, from now on. What the earlier one did and is over leaves as its.
    pub(super) fn begin_life(&mut self, tgid: Tgid) {
        if self.processes.get(&tgid).is_some_and(|process| process.facts.is_some()) {
            let spans = self.finished_spans();
            self.done.extend(spans);
        }
        self.causality.forget_process(tgid);
        self.processes.insert(tgid, Process::default());
    }

    /// Forgets processes that have ended, and those that did nothing for long: their end may have been lost.
    pub(super) fn forget_processes(&mut self, now_ns: u64) {
        let Self {
            processes,
            flow,
            causality,
            idle_ns,
            keep_ended_ns,
            ..
        } = self;
        processes.retain(|&tgid, process| {
            let keep = match process.ended_ns {
                _ if process.choice == Choice::Refused => process.last_ns.saturating_add(LONGEST_WAY_NS) >= now_ns,
                Some(ended_ns) => ended_ns.saturating_add(*keep_ended_ns) >= now_ns,
                None => process.last_ns.saturating_add(*idle_ns) >= now_ns || flow.has_process(tgid),
            };
            if !keep {
                causality.forget_process(tgid);
            }
            keep
        });
    }

    pub(super) fn unseen(&mut self, stamp: Stamp, unseen: Unseen) {
        match unseen {
            Unseen::IoUring => {
                self.counters.io_uring += 1;
                self.unseen_in(stamp.execution.tgid, "io_uring");
            }
        }
    }
}
