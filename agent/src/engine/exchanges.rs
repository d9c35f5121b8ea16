//! From what the protocol says to exchanges.

use agent_ebpf::abi::{Header, LOST, Role, SEGMENT_EOF, SEGMENT_NOT_HTTP, Segment, WAITED};

use super::{Core, telemetry, workloads};
use crate::{
    engine::{
        causality::{Named, Node, NodeId},
        proto::http1::{Cause, Event, RequestHead},
        trace::{SpanKind, traceparent},
    },
    record::Stamp,
};

impl Core {
    pub(super) fn segment(&mut self, segment: &Segment, bytes: &[u8]) {
        let stamp = Stamp::from(&segment.header);
        // What is told at a connection's end is told in nobody's name.
        if stamp.execution.tgid != 0 && !self.want(stamp.execution.tgid, stamp.time_ns) {
            return self.turn_away(segment.conn);
        }
        if segment.header.flags & SEGMENT_EOF != 0 {
            if !self.await_reads(segment.conn, segment.end) {
                self.read_to_end(segment.conn, stamp.time_ns);
            }
            return;
        }
        self.befell(&segment.header);
        let mut events = std::mem::take(&mut self.events);
        self.record_ns = stamp.time_ns;
        let fed = self.flow.segment(segment, bytes, &self.parser, &mut events);
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
            if self.is_telemetry_head(&event, segment, bytes) {
                self.counters.telemetry_ignored += 1;
                continue;
            }
            self.http(segment.conn, event);
        }
        self.events = events;
        // The peer does not speak HTTP/1: the requests so far are missed.
        if segment.header.flags & SEGMENT_NOT_HTTP != 0
            && fed.opaque.is_some()
            && let Some(connection) = self.flow.known(segment.conn)
        {
            let asked = std::mem::take(&mut connection.exchanges);
            self.missed(asked.into_iter().map(|(_, node)| node));
        }
    }

    /// Takes what befell a thread since its last record.
    pub(super) fn befell(&mut self, header: &Header) {
        if header.flags & LOST != 0 {
            self.causality.lost(Stamp::from(header));
            // There may be a request that nobody saw.
            self.be_busy(header.execution.tgid, header.time_ns);
        }
        if header.flags & WAITED != 0 {
            self.causality.waited(Stamp::from(header));
        }
    }

    fn is_telemetry_head(&self, event: &Event, segment: &Segment, bytes: &[u8]) -> bool {
        let Event::RequestHead {
            head, complete, offset, ..
        } = event
        else {
            return false;
        };
        self.is_telemetry(head, || {
            // A head that was held until now came with another segment.
            let is_of_this = *complete == Stamp::from(&segment.header);
            if is_of_this {
                telemetry::body_of(segment, bytes, *offset, head)
            } else {
                Default::default()
            }
        })
    }

    /// Takes what the parser found on a connection.
    pub(super) fn http(&mut self, connection: u64, event: Event) {
        match event {
            Event::RequestHead {
                exchange,
                head,
                first,
                complete,
                offset,
            } => {
                self.request(connection, exchange, head, first, complete, offset);
            }
            Event::RequestEnd {
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
            Event::ResponseHead {
                exchange,
                head,
                first,
                complete,
                ..
            } => {
                let Some(id) = self.node(connection, exchange) else {
                    return;
                };
                if let Some(node) = self.causality.get_mut(id) {
                    node.response = Some(head);
                }
                self.causality.response(id, first);
                self.causality.response(id, complete);
            }
            Event::ResponseEnd {
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
                    Cause::NotHttp | Cause::Upgrade => {}
                }
                let Some(connection) = self.flow.known(connection) else {
                    return;
                };
                let tgid = connection.tgid;
                // The number of the first request may be used again, by one that was not the first.
                connection.take_opener();
                let first_lost = connection.exchanges.partition_point(|&(number, _)| number < exchange);
                let lost = connection.exchanges.drain(first_lost..).collect::<Vec<_>>();
                self.missed(lost.into_iter().map(|(_, node)| node));
                if let Some(what) = workloads::unreadable(cause) {
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

    fn node(&self, connection: u64, exchange: u64) -> Option<NodeId> {
        let exchanges = &self.flow.get(connection)?.exchanges;
        let index = exchanges.binary_search_by_key(&exchange, |&(number, _)| number).ok()?;
        exchanges.get(index).map(|&(_, node)| node)
    }

    fn request(
        &mut self,
        connection_id: u64,
        exchange: u64,
        head: Box<RequestHead>,
        first: Stamp,
        complete: Stamp,
        offset: u64,
    ) {
        // What a client sent, and a server refused without reading it: the server's span says that, and the client's call is
        // not known to be one of HTTP.
        if !head.is_readable()
            && self
                .flow
                .get(connection_id)
                .is_none_or(|end| end.role() != Role::Server)
        {
            return;
        }
        let context = traceparent::trace_context(&head.headers).unwrap_or_else(|_| {
            self.counters.invalid_trace_context += 1;
            None
        });
        let trace_state = context.and_then(|_| {
            traceparent::tracestate(&head.headers).unwrap_or_else(|_| {
                self.counters.invalid_trace_context += 1;
                None
            })
        });
        let ignored = self.ignore.iter().any(|rule| rule.matches(&head));
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
            request: Some(head),
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
    fn partner(&self, connection: u64, wire: u64) -> Option<NodeId> {
        let offsets = self.flow.far_offsets(connection)?;
        let index = offsets.binary_search_by_key(&wire, |&(offset, _)| offset).ok()?;
        let &(_, node) = offsets.get(index)?;
        self.causality.can_join(node).then_some(node)
    }

    /// An exchange is over, by its response or without.
    pub(super) fn finish(&mut self, connection_id: u64, exchange: u64, end_ns: u64) {
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
            let is_refused =
                node.is_some_and(|node| node.request.as_ref().is_some_and(|request| !request.is_readable()));
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
