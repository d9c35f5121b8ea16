//! Connects, ends of connections and ends of processes.

use std::num::NonZeroU64;

use super::{
    Choice, Core, Process,
    causality::Circumstances,
    exchange::{Exchange, Failure, Opening, Recognised, Side},
    execution::{Author, Execution, ProcessId},
    flow::{Connection, Requests},
    sight,
};
use crate::record::{Address, Change, Connect, ConnectionId, Direction, Exit, Held, Role, State, TcpState, Unseen};

/// Upper bound on the delay of a record from the kernel to Core. Refused processes are remembered this long, so that
/// late records are recognised.
const LONGEST_WAY_NS: u64 = 10_000_000_000;

impl Core {
    pub(super) fn connect(&mut self, connect: &Connect<'_>) {
        let author = self.executions.resolve(&connect.stamp);
        let Author { execution, time_ns } = author;
        if !self.want(&author) {
            return self.turn_away(connect.conn);
        }
        self.befell(&author, connect.since);
        if connect.since.turned {
            self.causality.slept(author.execution);
        }
        let sight = sight(&self.processes, execution.process, time_ns);
        let candidates = self.causality.opener(execution, sight);
        let opening = Opening::by(candidates);
        // A connect(2) that does not block, or that a signal interrupted, goes on in the kernel; its end is a change of
        // TCP's state.
        let under_way = matches!(connect.errno, 0 | libc::EINPROGRESS | libc::EINTR);
        if under_way {
            self.make_room(connect.conn);
            let Some(connection) = self.flow.connect(connect, execution.process) else {
                return;
            };
            connection.opening = opening;
            return;
        }
        self.drop_connection(connect.conn);
        let mut connection = Connection::connecting(connect, execution.process);
        connection.opening = opening;
        // Libraries try sockets that need not exist at every start: no call failed.
        if connect.remote == Address::Unix && connect.errno == libc::ENOENT {
            self.counters.unix_connects_ignored += 1;
            return;
        }
        self.connect_failed(&connection, Failure::from_errno(connect.errno), execution, time_ns);
    }

    /// Reports a failed connect(2) as a call that never sent its request.
    fn connect_failed(&mut self, connection: &Connection, failure: Failure, who: Execution, end_ns: u64) {
        let Some(start_ns) = connection.connecting_since_ns.map(NonZeroU64::get) else {
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
            sight: sight(&self.processes, who.process, end_ns),
        };
        let id = self.causality.call(call, circumstances);
        self.causality.finish(id, end_ns);
    }

    pub(super) fn state(&mut self, state: &State) {
        let now_ns = state.stamp.time_ns;
        // A connect(2) that fails at once has a record of its own.
        if state.before == TcpState::SynSent && self.flow.get(state.conn).is_none() {
            return;
        }
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        // The time of an end that was not seen is not known.
        if state.change != Change::Gone {
            connection.last_ns = connection.last_ns.max(now_ns);
        }
        // The other end's FIN may have come before accept(2), and so before the first record.
        connection.remote_fin |= state.before == TcpState::CloseWait;
        match state.change {
            // Records were lost, perhaps those of responses.
            Change::Gone if state.lost_read || state.lost_written => {
                self.flow.counters.ends_lost += 1;
                self.flow.lost(now_ns);
                self.drop_connection(state.conn);
            }
            // The application read that the other end had closed: since then no caller waits for an answer.
            Change::Gone if connection.remote_fin => self.closed(state.conn, 0, now_ns),
            Change::Gone => self.drop_connection(state.conn),
            Change::Released => {
                let process = self.executions.process(state.stamp.execution.tgid);
                self.flow.release(state.conn, process);
            }
            Change::RemoteFin => connection.remote_fin = true,
            Change::LocalFin => self.local_fin(state),
            Change::Closed if connection.connecting_since_ns.is_some() => self.never_connected(state),
            Change::Closed => self.tcp_closed(state),
        }
    }

    /// Takes a FIN of this end, which sends no more.
    fn local_fin(&mut self, state: &State) {
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        let now_ns = state.stamp.time_ns;
        // With a process still at the socket this may be shutdown(2) of one direction: a response may still come.
        let released = match state.held {
            // shutdown(2) of both directions counts as close(2) if it is not known whether a process still has the
            // socket.
            Held::Unknown => state.shut_both,
            held => held == Held::Released,
        };
        connection.released |= released;
        // This end stops receiving before the other end has closed: it gave its open requests up.
        if state.shut_both && !connection.remote_fin {
            connection.give_up();
        }
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

    /// Ends a connection of which only connect(2) was seen.
    fn never_connected(&mut self, state: &State) {
        // The connection was established and carried no byte: clients dial ahead, and another connection becomes free
        // first.
        if state.before != TcpState::SynSent {
            return self.drop_connection(state.conn);
        }
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        // The process ended while it was connecting, as clients do that dial ahead: no call failed.
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
            let who = self.executions.without_thread(connection.process);
            let before = std::mem::take(&mut connection.exchanges);
            self.missed(before.into_iter().map(|(_, node)| node));
            self.connect_failed(&connection, failure, who, state.stamp.time_ns);
        }
    }

    /// Takes TCP's state CLOSE of a connection.
    fn tcp_closed(&mut self, state: &State) {
        self.lost_before(state);
        let Some(connection) = self.flow.known(state.conn) else {
            return;
        };
        let now_ns = state.stamp.time_ns;
        let still_open = state.held == Held::Open && !connection.released;
        if still_open && state.errno == 0 {
            // A process still has the socket, so this end did not close it: the other end's FIN came last.
            connection.remote_fin |= !connection.gave_up();
        }
        // TCP may close before the application has read the response out of the receive queue.
        let may_be_read = still_open && !connection.exchanges.is_empty();
        if state.errno == 0 && !may_be_read || !self.await_last_calls(state.conn, state.errno, now_ns) {
            self.closed(state.conn, state.errno, now_ns);
        }
    }

    /// Notes that a connection has its socket at the time of a record. Joins the requests of both ends, if this tells the
    /// far end.
    pub(super) fn seen_at(&mut self, id: ConnectionId, at_ns: u64) {
        for (here, there) in self.flow.seen_at(id, at_ns) {
            if !self.causality.can_join(there) {
                continue;
            }
            let is_server = self
                .flow
                .get(id)
                .is_some_and(|connection| connection.role() == Role::Server);
            let (client, server) = if is_server { (there, here) } else { (here, there) };
            self.causality.join(client, server);
        }
    }

    /// Forgets a connection if there is no room for a new one.
    pub(super) fn make_room(&mut self, new: ConnectionId) {
        let Some(displaced) = self.flow.displaced_by(new) else {
            return;
        };
        self.flow.counters.connections_displaced += 1;
        // One that is over has only waited for its last calls.
        self.settle_closing(displaced);
        self.drop_connection(displaced);
    }

    /// Forgets a connection. Its open exchanges give no spans.
    fn drop_connection(&mut self, id: ConnectionId) {
        if let Some(connection) = self.flow.close(id) {
            self.missed(connection.exchanges.into_iter().map(|(_, node)| node));
        }
    }

    /// Drops a connection's open exchanges if the last record of their responses was lost to a full ring: their outcome
    /// is not known.
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

    /// Drops a connection's open exchanges: a gap hides their outcome.
    fn lose_open(&mut self, id: ConnectionId) {
        if let Some(connection) = self.flow.known(id) {
            let open = std::mem::take(&mut connection.exchanges);
            self.counters.missed_gap += !open.is_empty() as u64;
            self.missed(open.into_iter().map(|(_, node)| node));
        }
    }

    /// Takes the end of what the other end sent: it has closed, and this end has read everything.
    pub(super) fn read_to_end(&mut self, id: ConnectionId, now_ns: u64) {
        if let Some(connection) = self.flow.known(id) {
            connection.last_ns = connection.last_ns.max(now_ns);
            connection.remote_fin = true;
            self.end_half(id, Direction::Read, now_ns);
        }
    }

    /// Closes a connection: neither direction carries another byte.
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

    /// Ends one direction of a connection.
    pub(super) fn end_half(&mut self, id: ConnectionId, way: Direction, now_ns: u64) {
        // TCP's states change in interrupts too, on whichever thread runs then: the end is in no thread's name.
        let stamp = self.executions.nobody(now_ns).stamp();
        let mut events = std::mem::take(&mut self.events);
        self.record_ns = now_ns;
        if let Some((process, protocol)) = self.flow.end(id, way, stamp, &self.parser, &mut events) {
            self.unseen_in(process, protocol);
        }
        for event in events.drain(..) {
            self.exchange(id, event);
        }
        self.events = events;
    }

    /// Ends the requests that got no whole response, as failed.
    fn fail_rest(&mut self, id: ConnectionId, error: i32, now_ns: u64) {
        let Some(connection) = self.flow.known(id) else { return };
        let failure = match error {
            _ if connection.process_ended => Failure::ProcessExit,
            0 if connection.remote_fin => Failure::ConnectionClosed,
            0 => Failure::Cancelled,
            errno => Failure::from_errno(errno),
        };
        let all = std::mem::take(&mut connection.exchanges);
        // A server that closes after one response never served the requests pipelined behind it (RFC 9112 section 9.6).
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
        let time_ns = exit.stamp.time_ns;
        let ended = self.executions.process(exit.stamp.execution.tgid);
        if let Some(process) = self.processes.get_mut(ended) {
            process.ended_ns = Some(time_ns);
        }
        for id in self.flow.of_process(ended) {
            let processes = &self.processes;
            // A fork shares the socket: the connection ends with its last process.
            let lives = |holder| processes.get(holder).is_some_and(|process| process.ended_ns.is_none());
            if self.flow.hand_back(id, lives) {
                continue;
            }
            let Some(connection) = self.flow.known(id) else {
                continue;
            };
            // A connection that was reset before failed for that reason, and not by the exit.
            if self.closing.is_reset(id) {
                self.settle_closing(id);
                continue;
            }
            connection.process_ended = true;
            let is_unix = connection.is_unix();
            if is_unix && exit.lost_unix {
                self.lose_open(id);
            }
            // No record tells the end of a Unix connection whose process is killed. Nor will anybody read what a closed
            // one received.
            if is_unix || self.closing.contains(id) {
                self.closed(id, 0, time_ns);
            }
        }
    }

    /// Begins another process, or program, under a process id. Finished spans of the earlier one leave in its name.
    pub(super) fn begin_life(&mut self, process: ProcessId) {
        if self
            .processes
            .get(process)
            .is_some_and(|process| process.facts.is_some())
        {
            let spans = self.finished_spans();
            self.done.extend(spans);
        }
        self.causality.forget_process(process);
        self.processes.insert(process, Process::default());
    }

    /// Forgets processes that have ended, and those without a record for long, whose exit may have been lost.
    pub(super) fn forget_processes(&mut self, now_ns: u64) {
        let Self {
            processes,
            flow,
            causality,
            idle_ns,
            keep_ended_ns,
            ..
        } = self;
        processes.retain(|id, process| {
            let keep = match process.ended_ns {
                _ if process.choice == Choice::Refused => process.last_ns.saturating_add(LONGEST_WAY_NS) >= now_ns,
                Some(ended_ns) => ended_ns.saturating_add(*keep_ended_ns) >= now_ns,
                None => process.last_ns.saturating_add(*idle_ns) >= now_ns || flow.has_process(id),
            };
            if !keep {
                causality.forget_process(id);
            }
            keep
        });
    }

    /// Forgets the handles of executions and processes that nothing refers to any more.
    pub(super) fn sweep_executions(&mut self) {
        let Self {
            executions,
            processes,
            flow,
            causality,
            ..
        } = self;
        for (id, _) in processes.iter() {
            executions.keep_process(id);
        }
        flow.keep(executions);
        causality.keep(executions);
        executions.sweep();
    }

    pub(super) fn unseen(&mut self, process: ProcessId, unseen: Unseen) {
        match unseen {
            Unseen::IoUring => {
                self.counters.io_uring += 1;
                self.unseen_in(process, "io_uring");
            }
            // The session has the requests seen from now on.
            Unseen::Requests => {}
        }
    }
}
