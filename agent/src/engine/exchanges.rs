//! From what the protocol says to exchanges.

use super::{
    Core,
    causality::{Named, Node, NodeId},
    proto::{Call, Cause, Event},
    trace::{SpanKind, traceparent},
};
use crate::record::{ConnectionId, EndOfStream, Role, Segment, Since, Stamp, Tgid};

impl Core {
    pub(super) fn segment(&mut self, segment: &Segment<'_>) {
        let stamp = segment.stamp;
        // What is told at a connection's end is told in nobody's name.
        if stamp.execution.tgid != Tgid(0) && !self.want(stamp) {
            return self.turn_away(segment.conn);
        }
        self.befell(stamp, segment.since);
        let mut events = std::mem::take(&mut self.events);
        self.record_ns = stamp.time_ns;
        let fed = self.flow.segment(segment, &self.parser, &mut events);
        if fed.unknown_read {
            self.causality.read_unknown(stamp);
        }
        if let Some(hints) = fed.hints {
            self.hints.push((segment.conn, hints));
        }
        if let Some(protocol) = fed.opaque {
            self.unseen_in(stamp.execution.tgid, protocol);
        }
        for event in events.drain(..) {
            if self.is_telemetry(&event, segment) {
                self.counters.telemetry_ignored += 1;
                continue;
            }
            self.exchange(segment.conn, event);
        }
        self.events = events;
        // The peer does not speak the protocol: the requests so far are missed.
        if segment.unknown_opening
            && fed.opaque.is_some()
            && let Some(connection) = self.flow.known(segment.conn)
        {
            let asked = std::mem::take(&mut connection.exchanges);
            self.missed(asked.into_iter().map(|(_, node)| node));
        }
    }

    /// Takes the end of a stream, for its reader.
    pub(super) fn end_of_stream(&mut self, end: &EndOfStream) {
        if end.stamp.execution.tgid != Tgid(0) && !self.want(end.stamp) {
            return self.turn_away(end.conn);
        }
        if !self.await_reads(end.conn, end.end) {
            self.read_to_end(end.conn, end.stamp.time_ns);
        }
    }

    /// Takes what befell a thread since its last record.
    pub(super) fn befell(&mut self, thread: Stamp, since: Since) {
        if since.lost {
            self.causality.lost(thread);
            // There may be a request that nobody saw.
            self.be_busy(thread.execution.tgid, thread.time_ns);
        }
        if since.waited {
            self.causality.waited(thread);
        }
    }

    fn is_telemetry(&self, event: &Event, segment: &Segment<'_>) -> bool {
        let Event::Begins {
            call, complete, offset, ..
        } = event
        else {
            return false;
        };
        // A call that was held until now came with another segment.
        let came_with = *complete == segment.stamp;
        let captured = came_with.then_some((segment.offset, segment.bytes));
        call.is_telemetry(&self.parser, *offset, captured)
    }

    /// Takes an event of a connection.
    pub(super) fn exchange(&mut self, connection: ConnectionId, event: Event) {
        match event {
            Event::Begins {
                exchange,
                call,
                first,
                complete,
                offset,
            } => {
                self.request(connection, exchange, call, first, complete, offset);
            }
            Event::Sent {
                exchange,
                last,
                body_bytes,
            } => {
                let Some(id) = self.node(connection, exchange) else {
                    return;
                };
                if let Some(node) = self.causality.get_mut(id) {
                    node.request_body_bytes = Some(body_bytes);
                }
                if body_bytes > 0 {
                    self.causality.read_on(id, last);
                }
            }
            Event::Answered {
                exchange,
                reply,
                first,
                complete,
                ..
            } => {
                let Some(id) = self.node(connection, exchange) else {
                    return;
                };
                if let Some(node) = self.causality.get_mut(id) {
                    node.reply = Some(reply);
                }
                self.causality.response(id, first);
                self.causality.response(id, complete);
            }
            Event::Ended {
                exchange,
                last,
                body_bytes,
            } => {
                let Some(id) = self.node(connection, exchange) else {
                    return;
                };
                if let Some(node) = self.causality.get_mut(id) {
                    node.response_body_bytes = body_bytes;
                }
                self.causality.response(id, last);
                self.finish(connection, exchange, last.time_ns);
            }
            Event::Lost { exchange, cause } => {
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
                let tgid = connection.tgid;
                let what = connection.protocol().and_then(|protocol| protocol.unreadable(cause));
                // The number of the first request may be used again, by one that was not the first.
                connection.take_opener();
                let first_lost = connection.exchanges.partition_point(|&(number, _)| number < exchange);
                let lost = connection.exchanges.drain(first_lost..).collect::<Vec<_>>();
                self.missed(lost.into_iter().map(|(_, node)| node));
                if let Some(what) = what {
                    self.unseen_in(tgid, what);
                }
            }
            Event::Opaque { .. } => {}
        }
    }

    /// Exchanges that give no span.
    pub(super) fn missed(&mut self, nodes: impl Iterator<Item = NodeId>) {
        for node in nodes {
            self.counters.missed += 1;
            self.missed_in(node);
            self.causality.lose(node);
        }
    }

    fn node(&self, connection: ConnectionId, exchange: u64) -> Option<NodeId> {
        let exchanges = &self.flow.get(connection)?.exchanges;
        let index = exchanges.binary_search_by_key(&exchange, |&(number, _)| number).ok()?;
        exchanges.get(index).map(|&(_, node)| node)
    }

    fn request(
        &mut self,
        connection_id: ConnectionId,
        exchange: u64,
        call: Call,
        first: Stamp,
        complete: Stamp,
        offset: u64,
    ) {
        // What a client sent, and a server refused without reading it: the server's span says that, and the client's call is
        // not known to be one.
        if !call.is_readable()
            && self
                .flow
                .get(connection_id)
                .is_none_or(|end| end.role() != Role::Server)
        {
            return;
        }
        let context = traceparent::trace_context(call.traceparents()).unwrap_or_else(|_| {
            self.counters.invalid_trace_context += 1;
            None
        });
        let trace_state = context.and_then(|_| {
            traceparent::tracestate(call.tracestates()).unwrap_or_else(|_| {
                self.counters.invalid_trace_context += 1;
                None
            })
        });
        let ignored = self.conventions.is_ignored(&call);
        let span_id = self.causality.ids().span();
        let busy = self.may_be_busy(first.execution.tgid, first.time_ns);
        let Some(connection) = self.flow.known(connection_id) else {
            return;
        };
        let server = connection.role() == Role::Server;
        let (blocked_from, blocked_to) = connection.long_write;
        let who = if server { complete } else { first };
        let kind = if server { SpanKind::Server } else { SpanKind::Client };
        let node = Node {
            call: Some(call),
            unix_offset_ns: self.unix_offset_ns,
            start_is_write_exit: !server && (blocked_from..blocked_to).contains(&offset),
            context,
            trace_state,
            ignored,
            late: complete.time_ns < self.record_ns,
            busy,
            ..Node::new(kind, span_id, connection, who.execution, first.time_ns)
        };
        let queued = !connection.exchanges.is_empty();
        let opener = if exchange == 0 {
            connection.take_opener()
        } else {
            Named::default()
        };
        let hidden = exchange == 0 && connection.opener_hidden;
        let wire = connection.wire_offset(offset);
        let id = if server {
            self.causality.request(node, queued, complete.time_ns)
        } else {
            self.causality.call(node, opener, hidden)
        };
        if let Some(connection) = self.flow.known(connection_id) {
            connection.exchanges.push((exchange, id));
            if let Some(wire) = wire {
                connection.note_offset(wire, id, |node| self.causality.get(node).is_some());
            }
        }
        if let Some(wire) = wire
            && let Some(partner) = self.partner(connection_id, wire)
        {
            let (client, server) = if server { (partner, id) } else { (id, partner) };
            self.causality.join(client, server);
        }
    }

    /// The same request at the other end of the connection, if that was seen already.
    fn partner(&self, connection: ConnectionId, wire: u64) -> Option<NodeId> {
        let offsets = self.flow.far_offsets(connection)?;
        let index = offsets.binary_search_by_key(&wire, |&(offset, _)| offset).ok()?;
        let &(_, node) = offsets.get(index)?;
        self.causality.can_join(node).then_some(node)
    }

    /// An exchange is over, by its response or without.
    pub(super) fn finish(&mut self, connection_id: ConnectionId, exchange: u64, end_ns: u64) {
        let Some(connection) = self.flow.known(connection_id) else {
            return;
        };
        let Ok(index) = connection
            .exchanges
            .binary_search_by_key(&exchange, |&(number, _)| number)
        else {
            return;
        };
        let (_, id) = connection.exchanges.remove(index);
        let next = connection.exchanges.first().map(|&(_, next)| next);
        let server = connection.role() == Role::Server;
        if server {
            // If the other end is traced, its call is the parent, and may be seen later: of what is no request, there is none.
            let node = self.causality.get(id);
            let is_refused = node.is_some_and(|node| node.call.as_ref().is_some_and(|call| !call.is_readable()));
            let expected =
                node.is_some_and(|node| node.partner.is_some()) || !is_refused && self.flow.expects_peer(connection_id);
            if !expected {
                self.causality.no_partner(id);
            }
        }
        self.causality.finish(id, end_ns);
        if server && let Some(next) = next {
            self.causality.begin(next, end_ns);
        }
    }
}
