//! The programs' part of a call, on the host.

use std::{cell::RefCell, fmt, vec::Vec};

use super::{
    super::{Call, Way},
    stream::{Conversation, Moved},
};
use crate::{
    abi::{Hint, PIECE_BYTES, SEGMENT_MORE},
    classify::{Looks, looks_like_request, looks_like_response},
    frame::{
        chunk::Line,
        head::{Buffer, SCAN_BYTES, Scan},
    },
    slot::Slot,
};

/// A record of the bytes `offset..offset + captured` of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub side: usize,
    pub offset: u64,
    pub captured: u64,
    pub end: u64,
    pub more: bool,
    pub until: u64,
}

/// One end of a connection. Side 0 carries requests, side 1 responses.
pub struct Connection {
    ways: [Way; 2],
    /// Whether the programs know that the connection carries HTTP/1.
    recognised: Slot<bool>,
    hints: [Option<Hint>; 2],
    /// Ranges that passed while no program ran, or before the connection was recognised.
    unseen: [Vec<(u64, u64)>; 2],
    pub records: RefCell<Vec<Record>>,
    /// The stream offset from which on the memory of a call cannot be read.
    pub faults_at: u64,
    pub bytes: u64,
    pub adopted: u64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for record in self.records.borrow().iter() {
            writeln!(f, "{record:?}")?;
        }
        write!(f, "unseen {:?}", self.unseen)
    }
}

impl Connection {
    /// Creates a connection. `born`: the programs see its first byte. `hinted`: Core has already sent a hint.
    pub fn new(hinted: bool, born: bool) -> Self {
        let ways = [Way::new(0), Way::new(0)];
        if born {
            ways[0].begin_at_birth(false);
            ways[1].begin_at_birth(true);
        }
        Self {
            ways,
            recognised: Slot::new(born || hinted),
            hints: [None, None],
            unseen: [Vec::new(), Vec::new()],
            records: RefCell::default(),
            faults_at: u64::MAX,
            bytes: 0,
            adopted: 0,
        }
    }

    pub fn offsets(&self) -> [u64; 2] {
        [0, 1].map(|side| self.ways[side].offset.get())
    }

    pub fn hint(&mut self, hints: &[Hint; 2]) {
        self.hints = hints.map(Some);
    }

    pub fn hint_one(&mut self, side: usize, hints: &[Hint; 2]) {
        self.hints[side] = Some(hints[side]);
    }

    /// Skips the program of a call, as the kernel does at times.
    pub fn skip(&mut self, side: usize, end: u64) {
        let way = &self.ways[side];
        self.unseen[side].push((way.offset.get(), end));
        way.pass(end);
    }

    /// Reports a call that moves the side's bytes up to `call.end`.
    pub fn call(&mut self, talk: &Conversation, call: Moved) {
        let Moved { side, end, visible } = call;
        let way = &self.ways[side];
        let start = way.offset.get();
        if let Some(hint) = self.hints[side] {
            self.adopted += u64::from(way.adopt(hint, start));
            self.recognised.set(true);
        }
        way.offset.set(end);
        self.bytes += end - start;
        if !visible {
            self.unseen[side].push((start, end));
        }
        let host = Host {
            connection: self,
            side,
            start,
            end,
            visible,
            bytes: &talk.sides[side].bytes,
            payload: RefCell::new(Buffer::new(&[], 0)),
            scan: Scan::new(),
            at: Slot::new(0),
        };
        let before = self.records.borrow().len();
        let _ = host.report();
        self.check(before);
        if !self.recognised.get() {
            self.unseen[side].push((start, end));
        }
    }

    /// Checks that all records of a call but the last have the flag for more, and that none repeats bytes.
    fn check(&self, before: usize) {
        let records = self.records.borrow();
        for pair in records[before..].windows(2) {
            assert!(pair[0].offset + pair[0].captured <= pair[1].offset, "{pair:?}");
        }
        if let Some((last, others)) = records[before..].split_last() {
            assert!(
                !last.more && others.iter().all(|record| record.more),
                "{:?}",
                &records[before..]
            );
        }
    }

    /// Returns whether this byte passed in a call that the programs saw, and is in no record.
    pub fn is_hidden(&self, side: usize, at: u64) -> bool {
        let within = |&(from, to): &(u64, u64)| from <= at && at < to;
        let captured =
            |record: &Record| record.side == side && within(&(record.offset, record.offset + record.captured));
        at < self.ways[side].offset.get()
            && !self.unseen[side].iter().any(within)
            && !self.records.borrow().iter().any(captured)
    }

    pub fn claim(&self, side: usize) -> u64 {
        self.ways[side].claim()
    }

    pub fn captured_bytes(&self) -> u64 {
        self.records.borrow().iter().map(|record| record.captured).sum()
    }
}

struct Host<'a> {
    connection: &'a Connection,
    side: usize,
    start: u64,
    end: u64,
    visible: bool,
    bytes: &'a [u8],
    payload: RefCell<Buffer>,
    scan: Scan,
    at: Slot<u64>,
}

impl Call for Host<'_> {
    fn ways(&self) -> (&Way, &Way) {
        let ways = &self.connection.ways;
        (&ways[self.side], &ways[1 - self.side])
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn scan(&self) -> &Scan {
        &self.scan
    }

    fn copy(&self, from: u64, bytes: u64, place: u64) -> u64 {
        assert!(bytes <= PIECE_BYTES as u64 && from >= self.start && from + bytes <= self.end);
        let bytes = bytes.min(self.connection.faults_at.saturating_sub(from));
        // Only bytes that are scanned or compared have to be there.
        let kept = (bytes as usize).min(SCAN_BYTES - place as usize);
        self.payload.borrow_mut().0[place as usize..][..kept].copy_from_slice(&self.bytes[from as usize..][..kept]);
        bytes
    }

    fn scan_to(&self, length: u64) {
        self.payload.borrow().scan(&self.scan, length as usize);
    }

    fn first(&self) -> [u64; 2] {
        let payload = self.payload.borrow();
        [0, 8].map(|at| u64::from_le_bytes(payload.0[at..at + 8].try_into().expect("eight bytes")))
    }

    fn byte(&self, index: u64) -> u8 {
        self.payload.borrow().0[index as usize]
    }

    fn submit(&self, offset: u64, captured: u64, flags: u16) -> Option<()> {
        let (way, _) = self.ways();
        self.connection.records.borrow_mut().push(Record {
            side: self.side,
            offset,
            captured,
            end: self.end,
            more: flags & SEGMENT_MORE != 0,
            until: way.claim(),
        });
        Some(())
    }

    fn chunks(&self, known: u64) {
        let _ = self.walk_chunks(known);
    }

    fn line(&self) -> Line {
        self.read_line()
    }

    fn whole(&self, from: u64) {
        let _ = self.copy_whole(from);
    }

    fn at(&self) -> &Slot<u64> {
        &self.at
    }

    fn count_too_large(&self, _bytes: u64) {
        panic!("no call of the tests is so large");
    }

    fn is_recognised(&self) -> bool {
        self.connection.recognised.get()
    }

    fn is_worth(&self, from: u64, copied: u64) -> bool {
        let first = self.first()[0].to_le_bytes();
        let worth = looks_like_request(first, copied as usize) == Looks::Yes
            || looks_like_response(first, copied as usize) == Looks::Yes;
        if worth {
            self.connection.recognised.set(true);
        } else {
            let _ = self.submit(from, 0, 0);
        }
        worth
    }

    fn is_visible(&self) -> bool {
        self.visible
    }
}
