//! The receiving SMTP session (RFC 5321): bytes in, replies out, messages to a [`Store`]. No host call, no clock.
//!
//! It is the session of `actors/smtp/session.py` and `dialogue.py`, in blocking style: where that one hands out a delivery
//! and waits, this one calls the store. Its replies are the same, and they are the same however the bytes are split, but
//! for that: it matters whether what follows STARTTLS came before its reply. It executes nothing that came in plaintext
//! behind STARTTLS: an attacker in the middle could have put it there, and what it did would count for the client that is
//! authenticated afterwards (RFC 3207, 6). No bytes whatsoever make it panic.

use crate::commands::{self, begins_with, decode_command, Refusal};
use crate::content::Chunk;
use crate::replies;
use crate::settings::Settings;
use crate::store::{Encryption, Reply, Store};
use crate::transaction::{open, Client, Transaction};

const NOT_IMPLEMENTED: [&str; 7] = ["AUTH", "ETRN", "EXPN", "SAML", "SEND", "SOML", "TURN"];
/// A browser that was lured here sends one of these first, and an attacker's commands after it.
const HTTP: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
/// Where TLS is required. BDAT is among them since a chunk has to be read, whatever the answer.
const BEFORE_TLS: [&str; 6] = ["EHLO", "HELO", "STARTTLS", "NOOP", "QUIT", "BDAT"];

/// What to do when the replies are out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    Listen,
    /// The connection is to become TLS; `begin` follows.
    Upgrade,
    Close,
    /// The same, for bytes came in plaintext behind STARTTLS.
    CloseInjected,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Commands,
    Data,
    Chunk,
    Upgrade,
    End,
}

pub struct Session<'a> {
    settings: &'a Settings,
    client: Client,
    offers_tls: bool,
    mode: Mode,
    is_leaving: bool,
    is_injected: bool,
    transaction: Option<Transaction>,
    errors: u32,
    asides: u32,
    /// The begin of a line whose end has not come.
    held: Vec<u8>,
    /// What is left of the line, up to its CR LF, is dropped.
    line_is_refused: bool,
    chunk: Chunk,
    /// Replies to send, several in one piece (RFC 2920, 3.2).
    pub output: Vec<u8>,
}

impl<'a> Session<'a> {
    /// `peer`: the client's address; `offers_tls`: whether the connection can become TLS, of no account where it is.
    pub fn new(settings: &'a Settings, peer: String, offers_tls: bool, encryption: Option<Encryption>) -> Session<'a> {
        Session {
            settings,
            client: Client { peer, helo: String::new(), is_extended: false, encryption },
            offers_tls,
            mode: Mode::Commands,
            is_leaving: false,
            is_injected: false,
            transaction: None,
            errors: 0,
            asides: 0,
            held: Vec::new(),
            line_is_refused: false,
            chunk: Chunk::default(),
            output: Vec::new(),
        }
    }

    /// The same client's next session, for its connection has become TLS: all that it said before is forgotten, and there
    /// is no second greeting (RFC 3207, 4.2).
    pub fn secured(self, encryption: Encryption) -> Session<'a> {
        Session::new(self.settings, self.client.peer, false, Some(encryption))
    }

    /// Say the first word.
    pub fn greet(&mut self) {
        self.output.extend_from_slice(format!("220 {} ESMTP\r\n", self.settings.hostname).as_bytes());
    }

    /// The client was silent for too long (RFC 5321, 4.5.3.2.7).
    pub fn time_out(&mut self, store: &mut dyn Store) {
        store.abandon();
        self.mode = Mode::End;
        self.output.extend_from_slice(replies::IDLE_TOO_LONG);
    }

    /// The server is going down: the client is told so, at once or after the message that is coming in.
    pub fn shut_down(&mut self, store: &mut dyn Store) -> Next {
        self.is_leaving = true;
        self.advance(b"", store);
        self.next()
    }

    /// Whether the client's next bytes belong to a message.
    pub fn is_in_content(&self) -> bool {
        matches!(self.mode, Mode::Data | Mode::Chunk)
    }

    /// Take what the client sent: any bytes, split anywhere.
    pub fn receive(&mut self, data: &[u8], store: &mut dyn Store) -> Next {
        if self.held.is_empty() {
            self.advance(data, store);
        } else {
            let mut whole = std::mem::take(&mut self.held);
            whole.extend_from_slice(data);
            self.advance(&whole, store);
        }
        self.next()
    }

    fn next(&self) -> Next {
        match self.mode {
            Mode::End if self.is_injected => Next::CloseInjected,
            Mode::End => Next::Close,
            Mode::Upgrade => Next::Upgrade,
            _ => Next::Listen,
        }
    }

    fn advance(&mut self, data: &[u8], store: &mut dyn Store) {
        let mut rest = data;
        loop {
            let taken = match self.mode {
                Mode::End => break,
                Mode::Upgrade => {
                    if !rest.is_empty() {
                        self.output.truncate(self.output.len() - replies::GO_AHEAD_WITH_TLS.len());
                        self.output.extend_from_slice(replies::OUT_OF_STEP);
                        self.mode = Mode::End;
                        self.is_injected = true;
                    }
                    break;
                }
                Mode::Commands if self.is_leaving => {
                    self.mode = Mode::End;
                    self.output.extend_from_slice(replies::GOING_DOWN);
                    break;
                }
                Mode::Chunk if rest.is_empty() && self.chunk.is_whole() => self.read_chunk(rest, store),
                _ if rest.is_empty() => break,
                Mode::Commands => self.read_command(rest, store),
                Mode::Data => self.read_data(rest, store),
                Mode::Chunk => self.read_chunk(rest, store),
            };
            rest = &rest[taken..];
        }
        if self.mode == Mode::End {
            store.abandon();
        }
    }

    // -- commands -------------------------------------------------------------------------------------------------

    /// Read one line; how many octets it has is returned.
    fn read_command(&mut self, data: &[u8], store: &mut dyn Store) -> usize {
        let end = match data.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => end,
            None => {
                self.hold_line(data);
                return data.len();
            }
        };
        if std::mem::take(&mut self.line_is_refused) {
            return end + 2;
        }
        let line = &data[..end];
        let outcome = decode_command(line, self.max_line()).map_err(Reply::from);
        if let Err(reply) = outcome.and_then(|command| self.execute(command, store)) {
            self.refuse(reply, line);
        }
        end + 2
    }

    fn max_line(&self) -> usize {
        self.settings.max_command_line - 2
    }

    /// Hold what came of a line: never more of it than tells that it is too long.
    fn hold_line(&mut self, data: &[u8]) {
        let pending = usize::from(data.ends_with(b"\r"));
        let begin = &data[..data.len() - pending];
        if !self.line_is_refused && begin.iter().any(|octet| matches!(octet, b'\r' | b'\n')) {
            // Said at once, for who sends a bare LF by mistake waits for an answer. But the line goes on to its CR LF:
            // what another host takes for one line is never two here (RFC 5321, 2.3.8).
            self.line_is_refused = true;
            self.refuse(replies::BARE_NEWLINE_IN_COMMAND.into(), begin);
        }
        let length = begin.len().min(self.max_line() + commands::MAIL_ALLOWANCE + 1);
        self.held = [&begin[..length], &data[data.len() - pending..]].concat();
    }

    /// Answer a command with a refusal, and count it; `line` is the command, where there is one.
    fn refuse(&mut self, reply: Reply, line: &[u8]) {
        if reply.first() == Some(&b'5') {
            self.errors += 1;
            if self.errors >= self.settings.max_errors {
                self.mode = Mode::End;
                self.output.extend_from_slice(replies::TOO_MANY_ERRORS);
                return;
            }
            if begins_with(line, b"BDAT") {
                self.mode = Mode::End; // its chunk would be taken for commands
            }
        }
        self.output.extend_from_slice(&reply);
    }

    /// Carry out one command; an error is the reply that refuses it.
    fn execute(&mut self, command: &str, store: &mut dyn Store) -> Result<(), Reply> {
        let (verb, argument) = command.split_once(' ').unwrap_or((command, ""));
        let verb = verb.to_ascii_uppercase();
        if self.waits_for_tls() && !BEFORE_TLS.contains(&verb.as_str()) {
            return Err(if self.is_http(&verb) { replies::NOT_SMTP } else { replies::TLS_FIRST }.into());
        }
        let reply = match verb.as_str() {
            "EHLO" => self.ehlo(argument, store)?,
            "HELO" => self.helo(argument, store)?,
            "STARTTLS" => self.starttls(argument, store)?,
            "MAIL" => self.mail(argument)?,
            "RCPT" => return self.rcpt(argument, store),
            "DATA" => self.data(argument, store)?,
            "BDAT" => self.bdat(argument, store)?,
            "RSET" => self.rset(argument, store)?,
            "NOOP" => self.aside(replies::OK)?,
            "VRFY" => self.vrfy(argument)?,
            "HELP" => self.aside(replies::HELP)?,
            "QUIT" => self.quit(argument)?,
            _ if self.is_http(&verb) => return Err(replies::NOT_SMTP.into()),
            _ if NOT_IMPLEMENTED.contains(&verb.as_str()) => return Err(replies::NOT_IMPLEMENTED.into()),
            _ => return Err(replies::UNKNOWN_COMMAND.into()),
        };
        self.output.extend_from_slice(reply);
        Ok(())
    }

    fn waits_for_tls(&self) -> bool {
        self.settings.require_tls && !self.is_secure()
    }

    fn is_secure(&self) -> bool {
        self.client.encryption.is_some()
    }

    fn is_http(&mut self, verb: &str) -> bool {
        let is_http = HTTP.contains(&verb);
        if is_http {
            self.mode = Mode::End;
        }
        is_http
    }

    fn ehlo(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        self.meet(argument, store)?;
        self.client.is_extended = true;
        let offers_tls = self.offers_tls && !self.is_secure();
        Ok(if offers_tls { &self.settings.ehlo_reply_before_tls } else { &self.settings.ehlo_reply })
    }

    fn helo(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        self.meet(argument, store)?;
        self.client.is_extended = false;
        Ok(&self.settings.helo_reply)
    }

    fn meet(&mut self, argument: &str, store: &mut dyn Store) -> Result<(), Refusal> {
        self.count_aside()?;
        self.client.helo = commands::parse_helo(argument)?.to_owned();
        self.drop_transaction(store); // RFC 5321, 4.1.4
        Ok(())
    }

    fn starttls(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        self.count_aside()?;
        if self.is_secure() {
            return Err(replies::TLS_ALREADY);
        }
        commands::refuse_argument(argument)?;
        if !self.offers_tls {
            return Err(replies::NO_TLS);
        }
        self.drop_transaction(store);
        self.mode = Mode::Upgrade;
        Ok(replies::GO_AHEAD_WITH_TLS)
    }

    fn mail(&mut self, argument: &str) -> Result<&'a [u8], Refusal> {
        if self.client.helo.is_empty() {
            return Err(replies::NOT_GREETED);
        }
        if self.transaction.is_some() {
            return Err(replies::NESTED_MAIL);
        }
        let mail = commands::parse_mail(argument)?;
        self.transaction = Some(Transaction::new(mail, &self.client, self.settings)?);
        Ok(replies::SENDER_OK)
    }

    fn rcpt(&mut self, argument: &str, store: &mut dyn Store) -> Result<(), Reply> {
        let transaction = open(&mut self.transaction)?;
        let address = commands::parse_rcpt(argument)?;
        transaction.check_letters(address)?;
        if transaction.recipients.len() >= self.settings.max_recipients {
            return Err(replies::TOO_MANY_RECIPIENTS.into());
        }
        let reply = store.offer(&transaction.sender, address);
        if reply.first() != Some(&b'2') {
            return Err(reply);
        }
        transaction.recipients.push(address.to_owned());
        self.output.extend_from_slice(&reply);
        Ok(())
    }

    fn data(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        commands::refuse_argument(argument)?;
        let transaction = open(&mut self.transaction)?;
        if transaction.recipients.is_empty() {
            return Err(replies::NO_RECIPIENTS);
        }
        transaction.begin(&self.client, self.settings, store);
        self.mode = Mode::Data;
        Ok(replies::GO_AHEAD)
    }

    fn bdat(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        let (size, is_last) = commands::parse_bdat(argument)?;
        // Whatever the answer will be, the chunk comes and has to be read (RFC 3030, 2).
        self.mode = Mode::Chunk;
        let waits_for_tls = self.waits_for_tls();
        let refusal = match &mut self.transaction {
            _ if waits_for_tls => Some(replies::TLS_FIRST),
            None => Some(replies::MAIL_FIRST),
            Some(transaction) if transaction.recipients.is_empty() => Some(replies::NO_RECIPIENTS),
            Some(transaction) => {
                if !transaction.has_begun() {
                    transaction.begin(&self.client, self.settings, store);
                }
                None
            }
        };
        self.chunk = Chunk::new(size, is_last, refusal);
        Ok(b"")
    }

    fn rset(&mut self, argument: &str, store: &mut dyn Store) -> Result<&'a [u8], Refusal> {
        self.count_aside()?;
        commands::refuse_argument(argument)?;
        self.drop_transaction(store);
        Ok(replies::OK)
    }

    fn vrfy(&mut self, argument: &str) -> Result<&'a [u8], Refusal> {
        self.count_aside()?;
        if argument.trim_matches(' ').is_empty() {
            return Err(replies::VRFY_SYNTAX);
        }
        Ok(replies::CANNOT_VERIFY)
    }

    fn aside(&mut self, reply: &'static [u8]) -> Result<&'a [u8], Refusal> {
        self.count_aside()?;
        Ok(reply)
    }

    fn quit(&mut self, argument: &str) -> Result<&'a [u8], Refusal> {
        commands::refuse_argument(argument)?;
        self.mode = Mode::End;
        Ok(replies::GOODBYE)
    }

    fn count_aside(&mut self) -> Result<(), Refusal> {
        self.asides += 1;
        if self.asides > self.settings.max_asides {
            self.mode = Mode::End;
            return Err(replies::TOO_MANY_ASIDES);
        }
        Ok(())
    }

    fn drop_transaction(&mut self, store: &mut dyn Store) {
        if self.transaction.take().is_some() {
            store.abandon();
        }
    }

    // -- content --------------------------------------------------------------------------------------------------

    fn read_data(&mut self, data: &[u8], store: &mut dyn Store) -> usize {
        let taken = self.transaction().receive_data(data, store);
        if taken.is_some() {
            self.end_message(store);
        }
        taken.unwrap_or(data.len())
    }

    fn read_chunk(&mut self, data: &[u8], store: &mut dyn Store) -> usize {
        let piece = self.chunk.take(data);
        let is_whole = self.chunk.is_whole();
        if let Some(refusal) = self.chunk.refusal {
            if is_whole {
                self.mode = Mode::Commands;
                self.refuse(refusal.into(), b"");
            }
            return piece.len();
        }
        self.transaction().receive_chunk(piece, store);
        if is_whole && self.chunk.is_last {
            self.transaction().end_chunks(store);
            self.end_message(store);
        } else if is_whole {
            self.mode = Mode::Commands;
            let size = self.chunk.size;
            let refusal = self.transaction().refusal();
            let reply = refusal.unwrap_or_else(|| format!("250 2.0.0 {} octets received\r\n", size).into_bytes().into());
            self.output.extend_from_slice(&reply);
        }
        piece.len()
    }

    fn end_message(&mut self, store: &mut dyn Store) {
        self.mode = Mode::Commands;
        if let Some(transaction) = self.transaction.take() {
            let reply = transaction.finish(store);
            if reply.first() == Some(&b'2') {
                self.errors = 0;
                self.asides = 0;
            }
            self.output.extend_from_slice(&reply);
        }
    }

    fn transaction(&mut self) -> &mut Transaction {
        self.transaction.as_mut().expect("there is content that nobody announced")
    }
}
