//! The content of a message, as it comes in.
//!
//! What came by DATA goes on to the store as it is, stuffed dots and all; the lines are only looked at. What came by BDAT
//! gets its dots stuffed. The end of the data is exactly CR LF, dot, CR LF (RFC 5321, 4.1.1.4). A CR or LF that stands
//! alone ends nothing; it makes the message a faulty one, which is refused after its real end, for hosts that read such a
//! byte differently can be played off against each other ("SMTP smuggling").
//!
//! Bytes go on only when they have been looked at, and a dot at the begin of a line only when it has turned out not to be
//! the end, so the store never sees an end that is none. A faulty message is scanned to its end: the fault that is reported
//! does not depend on how the network split the bytes. For that, a line is judged when it is whole, or too long for any.

use crate::commands::Refusal;
use crate::replies;
use crate::store::{Reply, Store};

/// What stands before the next byte. `Begin`: a CR LF, or nothing. `Dot` and `DotCr` are what the end begins with.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Begin,
    Dot,
    DotCr,
    Middle,
    MiddleCr,
}

pub struct Content {
    max_size: u64,
    max_line: usize,
    /// Octets of the lines that were judged.
    size: u64,
    /// Octets of the line that is not, without its CR LF.
    text: usize,
    place: Place,
    line_has_bare_newline: bool,
    line_is_too_long: bool,
    has_bare_newline: bool,
    has_long_line: bool,
    failure: Option<Reply>,
}

impl Content {
    /// `max_size`: octets of the message; `max_line`: octets of a line with its CR LF; both without stuffed dots.
    pub fn new(max_size: u64, max_line: usize) -> Content {
        Content {
            max_size,
            max_line,
            size: 0,
            text: 0,
            place: Place::Begin,
            line_has_bare_newline: false,
            line_is_too_long: false,
            has_bare_newline: false,
            has_long_line: false,
            failure: None,
        }
    }

    /// Take what came after DATA. Gives how many of the octets belong to the message, its end included; none: all of
    /// them, and it has not ended.
    pub fn receive_data(&mut self, data: &[u8], store: &mut dyn Store) -> Option<usize> {
        let held_back = self.held_back();
        let mut position = 0;
        let mut end = None;
        while let Some(&octet) = data.get(position) {
            match (self.place, octet) {
                (Place::Begin, b'.') => self.place = Place::Dot,
                (Place::Dot, b'\r') => self.place = Place::DotCr,
                (Place::DotCr, b'\n') => {
                    end = Some(position + 1);
                    break;
                }
                (Place::DotCr, _) => {
                    self.place = Place::MiddleCr; // the dot was a stuffed one
                    continue;
                }
                _ => {
                    position = self.scan_line(data, position);
                    continue;
                }
            }
            position += 1;
        }
        self.judge_if_too_long();
        let unclear = if end.is_some() { b".\r\n".len() } else { self.held_back().len() };
        let clear = held_back.len() + end.unwrap_or(data.len()) - unclear;
        if clear > 0 {
            self.hand_on(held_back, store);
            self.hand_on(&data[..clear - held_back.len()], store);
        }
        end
    }

    /// Take octets of a BDAT chunk.
    pub fn receive_chunk(&mut self, data: &[u8], store: &mut dyn Store) {
        let mut begin = 0;
        let mut position = 0;
        while position < data.len() {
            if self.place == Place::Begin && data[position] == b'.' {
                self.hand_on(&data[begin..position], store);
                self.hand_on(b".", store);
                begin = position;
            }
            position = self.scan_line(data, position);
        }
        self.judge_if_too_long();
        self.hand_on(&data[begin..], store);
    }

    /// The last chunk is in. A last line without CR LF gets one, for in a mailbox it would run into what follows.
    pub fn end_chunks(&mut self, store: &mut dyn Store) {
        if self.place == Place::MiddleCr {
            self.line_has_bare_newline = true;
            self.text += 1;
        }
        if self.place != Place::Begin {
            self.judge_line();
            self.hand_on(b"\r\n", store);
        }
    }

    /// The reply that refuses the message; none: there is nothing wrong with it.
    pub fn refusal(&self) -> Option<Reply> {
        if let Some(reply) = &self.failure {
            Some(reply.clone())
        } else if self.size > self.max_size {
            Some(replies::TOO_LARGE.into())
        } else if self.has_bare_newline {
            Some(replies::BARE_NEWLINE_IN_TEXT.into())
        } else if self.has_long_line {
            Some(replies::TEXT_LINE_TOO_LONG.into())
        } else {
            None
        }
    }

    pub fn is_faulty(&self) -> bool {
        self.has_bare_newline || self.has_long_line || self.size > self.max_size || self.failure.is_some()
    }

    /// What is not handed on yet, for it may be the end.
    fn held_back(&self) -> &'static [u8] {
        match self.place {
            Place::Dot => b".",
            Place::DotCr => b".\r",
            _ => b"",
        }
    }

    fn hand_on(&mut self, text: &[u8], store: &mut dyn Store) {
        if !text.is_empty() && !self.is_faulty() && !self.line_has_bare_newline {
            self.failure = store.write(text).err();
        }
    }

    /// Judge `data` from `position` on, up to the end of the line or of the data; the position after it is returned.
    fn scan_line(&mut self, data: &[u8], mut position: usize) -> usize {
        loop {
            if self.place == Place::MiddleCr && position < data.len() {
                if data[position] == b'\n' {
                    self.judge_line();
                    self.size += 2;
                    self.line_is_too_long = false;
                    self.place = Place::Begin;
                    return position + 1;
                }
                self.line_has_bare_newline = true;
                self.text += 1;
            } else if position == data.len() {
                return position;
            }
            self.place = Place::Middle;
            match find_newline(&data[position..]) {
                None => {
                    self.text += data.len() - position;
                    return data.len();
                }
                Some(length) => {
                    self.text += length;
                    position += length + 1;
                    if data[position - 1] == b'\r' {
                        self.place = Place::MiddleCr;
                    } else {
                        self.line_has_bare_newline = true;
                        self.text += 1;
                    }
                }
            }
        }
    }

    fn judge_line(&mut self) {
        self.size += self.text as u64;
        self.has_long_line |= self.text > self.max_line - 2;
        self.has_bare_newline |= self.line_has_bare_newline;
        self.text = 0;
        self.line_has_bare_newline = false;
    }

    /// A line that has not ended, and is too long even if a CR at its end belongs to that.
    fn judge_if_too_long(&mut self) {
        let is_too_long = self.text + usize::from(self.place == Place::MiddleCr) > self.max_line;
        if is_too_long || self.line_is_too_long {
            self.judge_line();
            self.line_is_too_long = true;
            self.has_long_line = true;
        }
    }
}

/// Octets that a BDAT command announced (RFC 3030, 2).
#[derive(Default)]
pub struct Chunk {
    pub size: u64,
    left: u64,
    pub is_last: bool,
    /// The reply when they have been read and thrown away; none: they are wanted.
    pub refusal: Option<Refusal>,
}

impl Chunk {
    pub fn new(size: u64, is_last: bool, refusal: Option<Refusal>) -> Chunk {
        Chunk { size, left: size, is_last, refusal }
    }

    /// What of `data` belongs to it.
    pub fn take<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let piece = &data[..usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()))];
        self.left -= piece.len() as u64;
        piece
    }

    pub fn is_whole(&self) -> bool {
        self.left == 0
    }
}

/// Where the first CR or LF is; 8 octets are looked at in one step.
fn find_newline(data: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7); // its lowest bit is that of the first zero
    let mut words = data.chunks_exact(8);
    for (index, word) in words.by_ref().enumerate() {
        let word = u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        let found = zeros(word ^ (ONES * b'\r' as u64)) | zeros(word ^ (ONES * b'\n' as u64));
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let rest = words.remainder();
    let found = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n'))?;
    Some(data.len() - rest.len() + found)
}
