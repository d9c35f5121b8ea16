//! Turns the events of protocols into exchanges.

use std::sync::Arc;

use agent_ebpf::abi::StreamName;

use super::{
    Core,
    causality::Circumstances,
    context::{SpanId, traceparent},
    exchange::{Carried, Exchange, ExchangeId, Opening, ReadAt, Recognised, Serving, Shown, Side},
    execution::{Author, Executions, Stamp},
    flow::{Connection, IGNORE},
    proto::{Call, Cause, Discipline, Event},
    sight,
};
use crate::record::{ConnectionId, Direction, EndOfStream, Layer, Role, Segment, Since, Tgid};

/// A request whose start is complete.
struct Begun {
    call: Call,
    /// The system call that moved the first byte.
    first: Stamp,
    /// The system call that moved the last byte of the start.
    complete: Stamp,
    /// Stream offset of the first byte.
    offset: u64,
}

/// An exchange that is over, taken off its connection.
struct Ended {
    id: ExchangeId,
    /// The exchange behind it on its stream.
    next: Option<ExchangeId>,
    at_server: bool,
}

impl Core {
    pub(super) fn segment(&mut self, segment: &Segment<'_>) {
        self.read(segment);
        if !self.closing.is_empty() {
            self.end_if_read(segment.conn, segment.stamp.time_ns);
        }
    }

    fn read(&mut self, segment: &Segment<'_>) {
        let author = self.executions.resolve(&segment.stamp);
        // Records made at a connection's end come from no thread: whether their process is selected was decided before.
        if segment.stamp.execution.tgid != Tgid(0) && !self.want(&author) {
            if segment.layer == Layer::Tls {
                self.hints.push((StreamName::new(segment.conn.0, Layer::Tls), IGNORE));
            }
            return self.turn_away(segment.conn);
        }
        self.befell(&author, segment.since);
        let mut events = std::mem::take(&mut self.events);
        self.record_ns = author.time_ns;
        let fed = self.flow.segment(segment, &author, &self.parser, &mut events);
        // A loop may watch a connection only while it waits for it. The kernel side remembers that, unless it does not know yet
        // that this end is the client.
        if fed.watched_once && fed.at_client {
            self.causality.looped(&author);
        }
        if segment.polled {
            self.causality.polled(author.execution.process);
        }
        if segment.direction == Direction::Write && segment.since.turned {
            self.causality.slept(author.execution);
        }
        if segment.watched && fed.at_server && segment.direction == Direction::Write {
            self.causality.writes_watched(&author);
        }
        if fed.unknown_read {
            self.causality.read_unknown(author.execution);
        }
        if let Some(hints) = fed.hints {
            self.hints.push((StreamName::new(segment.conn.0, segment.layer), hints));
        }
        if let Some(protocol) = fed.opaque {
            self.unseen_in(author.execution.process, protocol);
        }
        for event in events.drain(..) {
            if self.is_telemetry(&event, segment, author.stamp()) {
                self.counters.telemetry_ignored += 1;
                continue;
            }
            self.exchange(segment.conn, event);
        }
        self.events = events;
        // Behind the events: the thread has the request that has just come.
        if segment.watched && fed.at_server && segment.direction == Direction::Read {
            self.causality.reads_watched(author.execution);
        }
        // The peer does not speak the protocol: the requests so far are missed.
        if segment.unknown_opening
            && fed.opaque.is_some()
            && let Some(connection) = self.flow.known(segment.conn)
        {
            let asked = std::mem::take(&mut connection.exchanges);
            self.missed(asked.into_iter().map(|(_, node)| node));
        }
    }

    /// Takes the end of a stream, as its reader saw it.
    pub(super) fn end_of_stream(&mut self, end: &EndOfStream) {
        let author = self.executions.resolve(&end.stamp);
        if end.stamp.execution.tgid != Tgid(0) && !self.want(&author) {
            return self.turn_away(end.conn);
        }
        if end.layer == Layer::Tls {
            if self.flow.get(end.conn).is_some_and(Connection::reads_plaintext) {
                self.read_to_end(end.conn, end.stamp.time_ns);
            }
        } else if self.await_reads(end.conn, end.end) {
            // They may have been read already, under the connection's new name.
            self.end_if_read(end.conn, end.stamp.time_ns);
        } else {
            self.read_to_end(end.conn, end.stamp.time_ns);
        }
    }

    /// Takes the facts of a thread since its last record: records lost, waits for events.
    pub(super) fn befell(&mut self, author: &Author, since: Since) {
        if since.lost {
            self.flow.lost(author.time_ns);
            self.causality.lost(author.execution);
            // The lost record may have been a request: the process counts as busy with unseen ones for a while.
            self.be_busy(author.execution.process, author.time_ns);
        }
        if since.waited || since.turned {
            self.causality.turned(author.execution);
        }
        if since.waited {
            self.causality.looped(author);
        }
    }

    fn is_telemetry(&self, event: &Event, segment: &Segment<'_>, of_segment: Stamp) -> bool {
        let Event::Begins {
            call, complete, offset, ..
        } = event
        else {
            return false;
        };
        // The parser may hold a call back and report it later: its bytes came with an earlier segment.
        let came_with = *complete == of_segment;
        let slice = came_with.then(|| segment.slice_at(*offset)).flatten();
        let captured = slice.map(|slice| (slice.offset, slice.bytes));
        call.is_telemetry(&self.parser, *offset, captured)
    }

    /// Takes an event of a connection's protocol.
    pub(super) fn exchange(&mut self, connection: ConnectionId, event: Event) {
        match event {
            Event::Begins {
                exchange,
                call,
                first,
                complete,
                offset,
            } => {
                let begun = Begun {
                    call,
                    first,
                    complete,
                    offset,
                };
                self.request(connection, exchange, begun);
            }
            Event::Sent {
                exchange,
                last,
                body_bytes,
            } => {
                let noted = |exchange: &mut Exchange| exchange.messages.request_body_bytes = Some(body_bytes);
                let Some(id) = self.note(connection, exchange, noted) else {
                    return;
                };
                if body_bytes > 0 {
                    self.causality.read_on(id, self.executions.get(last.execution));
                }
            }
            Event::Answered {
                exchange,
                reply,
                first,
                complete,
                ..
            } => {
                let noted = |exchange: &mut Exchange| exchange.messages.reply = Some(reply);
                let Some(id) = self.note(connection, exchange, noted) else {
                    return;
                };
                self.response(id, first);
                if complete != first {
                    self.response(id, complete);
                }
            }
            Event::Ended {
                exchange,
                last,
                body_bytes,
            } => {
                let Some(ended) = self.take_exchange(connection, exchange) else {
                    return;
                };
                if let Some(exchange) = self.causality.get_mut(ended.id) {
                    exchange.messages.response_body_bytes = body_bytes;
                }
                self.response(ended.id, last);
                self.end_exchange(connection, ended, last.time_ns);
            }
            Event::Lost { exchange, cause } => self.lost(connection, exchange, cause),
            Event::Opaque { .. } => {}
        }
    }

    /// Notes something of an exchange that is under way, and returns its id.
    fn note(
        &mut self,
        connection: ConnectionId,
        exchange: u64,
        noted: impl FnOnce(&mut Exchange),
    ) -> Option<ExchangeId> {
        let id = self.exchange_at(connection, exchange)?;
        if let Some(exchange) = self.causality.get_mut(id) {
            noted(exchange);
        }
        Some(id)
    }

    /// Notes which execution wrote a byte of a response.
    fn response(&mut self, id: ExchangeId, writer: Stamp) {
        // The end of a connection is reported from an interrupt, in no thread's name: it says nothing about the writer.
        if let Some(writer) = self.executions.author(writer) {
            self.causality.response(id, writer);
        }
    }

    /// Gives up the exchanges of a connection that its parser cannot follow: `exchange` and, by discipline, those behind it.
    fn lost(&mut self, connection: ConnectionId, exchange: u64, cause: Cause) {
        match cause {
            Cause::Gap => self.counters.missed_gap += 1,
            Cause::Malformed => self.counters.malformed += 1,
            Cause::Doubtful => self.counters.doubtful += 1,
            Cause::HeadTooLarge => self.counters.head_too_large += 1,
            Cause::Unsolicited => self.counters.unsolicited += 1,
            Cause::TooManyPending => self.counters.too_many_pending += 1,
            Cause::OtherProtocol | Cause::Upgrade => {}
        }
        let Some(connection) = self.flow.known(connection) else {
            return;
        };
        let process = connection.process;
        let what = connection.protocol().and_then(|protocol| protocol.unreadable(cause));
        // The first request's number may be used again, by a request that was not the first on the connection.
        connection.take_opening();
        let of_stream = connection.exchanges_of_stream(exchange);
        let open = &mut connection.exchanges;
        let first_lost = open.partition_point(|&(number, _)| number < exchange);
        let is_known = open.get(first_lost).is_some_and(|&(number, _)| number == exchange);
        // If replies come in order, a lost request hides the ends of all later ones. With streams it hides only its own.
        let end = match connection.discipline() {
            Discipline::Fifo => of_stream.end,
            Discipline::Multiplexed => first_lost + usize::from(is_known),
        };
        let lost: Vec<_> = connection.exchanges.drain(first_lost..end).collect();
        if lost.is_empty() && cause == Cause::Gap {
            // No exchange is open, and bytes passed unseen: those of another one, as far as is known.
            self.missed_in(process);
        }
        self.missed(lost.into_iter().map(|(_, id)| id));
        if let Some(what) = what {
            self.unseen_in(process, what);
        }
    }

    /// Drops exchanges that give no span, and counts them.
    pub(super) fn missed(&mut self, nodes: impl Iterator<Item = ExchangeId>) {
        for node in nodes {
            if let Some(exchange) = self.causality.get(node) {
                self.missed_in(exchange.execution.process);
            }
            self.causality.lose(node);
        }
    }

    fn exchange_at(&self, connection: ConnectionId, exchange: u64) -> Option<ExchangeId> {
        let exchanges = &self.flow.get(connection)?.exchanges;
        let index = exchanges.binary_search_by_key(&exchange, |&(number, _)| number).ok()?;
        exchanges.get(index).map(|&(_, node)| node)
    }

    fn request(&mut self, connection_id: ConnectionId, exchange: u64, begun: Begun) {
        // Bytes that are no request give a server's span only: the server refused them, and at the client it is not
        // known whether they were meant as a call.
        let role = || self.flow.get(connection_id).map(Connection::role);
        if !begun.call.is_readable() && role() != Some(Role::Server) {
            return;
        }
        let (first, complete, offset) = (begun.first, begun.complete, begun.offset);
        let recognised = if complete.time_ns < self.record_ns {
            Recognised::Late
        } else {
            Recognised::AtOnce
        };
        let (carried, trace_state) = self.carried(&begun.call);
        let shown = if self.conventions.is_ignored(&begun.call) {
            Shown::Ignored
        } else {
            Shown::Span
        };
        let span_id = self.causality.ids().span();
        let Some(connection) = self.flow.known(connection_id) else {
            return;
        };
        let mut new = new_exchange(connection, &self.executions, span_id, recognised, begun);
        new.unix_offset_ns = self.unix_offset_ns;
        new.lineage.carried = carried;
        new.lineage.trace_state = trace_state;
        new.shown = shown;
        let server = connection.role() == Role::Server;
        let queued =
            connection.discipline() == Discipline::Fifo && !connection.exchanges_of_stream(exchange).is_empty();
        let opening = if exchange == 0 {
            connection.take_opening()
        } else {
            Opening::Used
        };
        let wire = connection.wire_offset(offset);
        let id = if server {
            self.causality.request(new, queued, complete.time_ns)
        } else {
            let circumstances = Circumstances {
                opening,
                recognised,
                sight: sight(&self.processes, new.execution.process, first.time_ns),
            };
            self.causality.call(new, circumstances)
        };
        connection.exchanges.push((exchange, id));
        let Some(wire) = wire else { return };
        connection.note_offset(wire, id, |node| self.causality.get(node).is_some());
        if let Some(partner) = self.partner(connection_id, wire) {
            let (client, server) = if server { (partner, id) } else { (id, partner) };
            self.causality.join(client, server);
        }
    }

    /// Reads the trace context that a call carries. Counts an invalid one.
    fn carried(&mut self, call: &Call) -> (Carried, Option<Arc<str>>) {
        let context = traceparent::trace_context(call.traceparents()).unwrap_or_else(|_| {
            self.counters.invalid_trace_context += 1;
            None
        });
        let Some(context) = context else {
            return (Carried::Nothing, None);
        };
        let state = traceparent::tracestate(call.tracestates()).unwrap_or_else(|_| {
            self.counters.invalid_trace_context += 1;
            None
        });
        (Carried::Written(context), state)
    }

    /// Returns the same request at the other end of the connection, if that was seen already.
    fn partner(&self, connection: ConnectionId, wire: u64) -> Option<ExchangeId> {
        let offsets = self.flow.far_offsets(connection)?;
        let index = offsets.binary_search_by_key(&wire, |&(offset, _)| offset).ok()?;
        let &(_, node) = offsets.get(index)?;
        self.causality.can_join(node).then_some(node)
    }

    /// Finishes an exchange, with its response or without.
    pub(super) fn finish(&mut self, connection: ConnectionId, exchange: u64, end_ns: u64) {
        if let Some(ended) = self.take_exchange(connection, exchange) {
            self.end_exchange(connection, ended, end_ns);
        }
    }

    /// Takes an exchange that is over off its connection.
    fn take_exchange(&mut self, connection: ConnectionId, exchange: u64) -> Option<Ended> {
        let connection = self.flow.known(connection)?;
        let index = connection
            .exchanges
            .binary_search_by_key(&exchange, |&(number, _)| number)
            .ok()?;
        let (_, id) = connection.exchanges.remove(index);
        let of_stream = connection.exchanges_of_stream(exchange);
        let next = connection
            .exchanges
            .get(of_stream)
            .and_then(<[_]>::first)
            .map(|&(_, next)| next);
        Some(Ended {
            id,
            next,
            at_server: connection.role() == Role::Server,
        })
    }

    /// Ends an exchange that was taken off its connection.
    fn end_exchange(&mut self, connection: ConnectionId, ended: Ended, end_ns: u64) {
        let Ended { id, next, at_server } = ended;
        if at_server {
            // If the far end is traced, its call is the parent, and its record may still be on the way. Bytes that are
            // no request have no call.
            let over = self.causality.get(id);
            let call = over.and_then(|over| over.messages.call.as_ref());
            let is_refused = call.is_some_and(|call| !call.is_readable());
            let expected =
                over.is_some_and(|over| over.partner.is_some()) || !is_refused && self.flow.expects_peer(connection);
            if !expected {
                self.causality.no_partner(id);
            }
        }
        self.causality.finish(id, end_ns);
        if at_server && let Some(next) = next {
            self.causality.begin(next, end_ns);
        }
    }
}

/// Makes the exchange of a request that has begun.
fn new_exchange(
    connection: &Connection,
    executions: &Executions,
    span_id: SpanId,
    recognised: Recognised,
    begun: Begun,
) -> Exchange {
    let server = connection.role() == Role::Server;
    let side = if server {
        Side::Server(Serving {
            recognised,
            ..Serving::default()
        })
    } else {
        Side::Client(Default::default())
    };
    // The thread that read the end of the head serves the request; the thread that sent the first byte made the call.
    let who = if server { begun.complete } else { begun.first };
    let name = (connection.id, &connection.ends);
    let execution = executions.get(who.execution);
    let mut new = Exchange::new(side, span_id, name, execution, begun.first.time_ns);
    if !server && connection.may_have_blocked(begun.offset) {
        // The stamp is the exit of write(2): the peer may have read, and even answered, before it.
        new.start.read_at = ReadAt::WriteExit;
    }
    new.messages.call = Some(begun.call);
    new
}
