//! The client of the store (RFC 2033): one connection, one message at a time. No host call: those are [`Network`]'s.
//!
//! The store hears of a recipient as soon as the client names it, so its refusal is the client's, at RCPT. The first
//! recipient opens the transaction. The content waits here until there is enough of it, or all, and is followed by its
//! end only where the message is whole and faultless: a message is given up by ending the connection in front of the end,
//! and then the store delivers nothing of it.
//!
//! The store answers for each recipient, and SMTP has one reply for all. It is a good one only where every recipient has
//! the message. Where some have it and some not, the client is told to come again (or that it can't be, where nothing
//! would change), and those who have it may get it twice: a message may come twice, it may not be lost.
//!
//! A reply counts only where it came after its command; a store that speaks out of turn loses the connection. Nothing is
//! said while there is something unread, and an idle connection is looked at first. What slips through shows at DATA: its
//! go-ahead is the answer to nothing else, so all replies before it are accounted for when the content begins. That is why
//! there is no BDAT here (RFC 3030): its reply looks like every other. Where the content went out in parts, the connection
//! is looked at once more before the end. What stays open: a reply that comes between the go-ahead, or that look, and the
//! store's reading of the end. Nobody could tell it from the answer to the end.
//!
//! The connection stays for the next message, of this client or of the guest's next one. Where the store has closed it
//! meanwhile, it is opened anew, once, at the first recipient of a message: nothing that a second attempt could double has
//! been said by then.

use crate::replies;
use crate::settings::Settings;
use crate::store::{Origin, Reply, Sender, Store};
use crate::trace;

/// What reaches the store. One connection at most is open; an error is for the log.
pub trait Network {
    fn connect(&mut self, address: &str) -> Result<(), String>;
    fn send(&mut self, data: &[u8]) -> Result<(), String>;
    /// 1 or more bytes; none at the end of the stream.
    fn receive(&mut self) -> Result<Vec<u8>, String>;
    /// What has come by now, without waiting; none if nothing has. The end of the stream is an error.
    fn look(&mut self) -> Result<Vec<u8>, String>;
    /// Send what is still to be sent, then end the connection.
    fn close(&mut self);
    /// End it at once.
    fn abort(&mut self);
    /// Seconds since 1970.
    fn now_s(&mut self) -> u64;
    fn warn(&mut self, message: &str);
}

const MAX_REPLY: usize = 4096;

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// There is no connection.
    Off,
    /// There is no transaction, or one that RSET has to end first.
    Ready,
    /// MAIL was accepted.
    Open,
    /// The store waits for content.
    Data,
    /// The connection was lost in a transaction, which can't go on.
    Lost,
}

pub struct Lmtp<'a, N: Network> {
    pub network: N,
    settings: &'a Settings,
    phase: Phase,
    needs_reset: bool,
    /// The last message was taken, and nothing has been asked since.
    is_settled: bool,
    takes_8bit: bool,
    takes_utf8: bool,
    /// Recipients that the store accepted.
    accepted: usize,
    /// What the messages of this client are called in their Received fields, before a number.
    pub identifier: String,
    messages: u32,
    /// Content that waits.
    spool: Vec<u8>,
    /// What the store said and was not looked at yet.
    input: Vec<u8>,
    /// When the connection was used or looked at, in seconds since 1970.
    used_s: u64,
}

impl<'a, N: Network> Lmtp<'a, N> {
    pub fn new(settings: &'a Settings, network: N) -> Lmtp<'a, N> {
        Lmtp {
            network,
            settings,
            phase: Phase::Off,
            needs_reset: false,
            is_settled: false,
            takes_8bit: false,
            takes_utf8: false,
            accepted: 0,
            identifier: String::new(),
            messages: 0,
            spool: Vec::new(),
            input: Vec::new(),
            used_s: 0,
        }
    }

    /// The client has gone. The connection stays for the next one where the last message was taken. Else it ends, politely
    /// where nothing is under way: what was asked for in vain adds up at the store, and is not to fall on another client.
    pub fn leave(&mut self) {
        self.abandon();
        self.messages = 0;
        if self.phase == Phase::Ready && !self.is_settled {
            // Its answer makes no difference, so it is not waited for.
            let _ = self.network.send(b"QUIT\r\n");
            self.network.close();
            self.phase = Phase::Off;
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        self.network.connect(&self.settings.store)?;
        self.input.clear();
        self.needs_reset = false;
        self.expect("greeting", b"220")?;
        self.say(format!("LHLO {}\r\n", self.settings.hostname).as_bytes())?;
        let extensions = self.expect("LHLO", b"250")?;
        let has = |name: &[u8]| {
            extensions.split(|&octet| octet == b'\n').any(|line| {
                line.get(4..).map_or(false, |word| word.strip_suffix(b"\r").unwrap_or(word).eq_ignore_ascii_case(name))
            })
        };
        self.takes_8bit = has(b"8BITMIME");
        self.takes_utf8 = has(b"SMTPUTF8");
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Offer a recipient over a connection that is there.
    fn ask(&mut self, sender: &Sender, recipient: &str) -> Result<Reply, String> {
        self.is_settled = false;
        let mut commands = String::new();
        let is_first = self.phase == Phase::Ready;
        if is_first {
            if (sender.is_8bit && !self.takes_8bit) || (sender.is_utf8 && !self.takes_utf8) {
                return Ok(replies::STORE_LACKS_EXTENSION.into());
            }
            if self.needs_reset {
                commands.push_str("RSET\r\n");
            }
            commands.push_str(&format!("MAIL FROM:<{}>", sender.address));
            commands.push_str(if sender.is_8bit { " BODY=8BITMIME" } else { "" });
            commands.push_str(if sender.is_utf8 { " SMTPUTF8\r\n" } else { "\r\n" });
        }
        commands.push_str(&format!("RCPT TO:<{}>\r\n", recipient));
        self.say(commands.as_bytes())?;
        if is_first {
            if self.needs_reset {
                self.expect("RSET", b"250")?;
                self.needs_reset = false;
            }
            let reply = self.answer()?;
            if reply[0] != b'2' {
                self.answer()?; // RCPT without MAIL
                return Ok(reply);
            }
            self.phase = Phase::Open;
            self.accepted = 0;
        }
        let reply = self.answer()?;
        self.accepted += usize::from(reply[0] == b'2');
        Ok(reply)
    }

    /// Send what waits; the store is to wait for content then.
    fn send_spool(&mut self) -> Result<(), Reply> {
        if self.phase == Phase::Open {
            let outcome = self.say(b"DATA\r\n").and_then(|()| self.reply());
            match outcome {
                Ok(reply) if reply.starts_with(b"354") => self.phase = Phase::Data,
                Ok(reply) if matches!(reply[0], b'4' | b'5') && !reply.starts_with(b"421") => return Err(reply),
                Ok(reply) => return Err(self.fail(&format!("it said {:?} to DATA", lossy(&reply)))),
                Err(reason) => return Err(self.fail(&reason)),
            }
        }
        if self.phase != Phase::Data {
            return Err(replies::LOCAL_ERROR.into());
        }
        let text = std::mem::take(&mut self.spool);
        let outcome = self.say(&text);
        self.spool = text; // with its room
        self.spool.clear();
        outcome.map_err(|reason| self.fail(&reason))
    }

    /// Send the end of the message, and all that waits before it.
    fn send_end(&mut self) -> Result<(), Reply> {
        if self.phase == Phase::Data {
            self.look().map_err(|reason| self.fail(&reason))?;
        }
        self.spool.extend_from_slice(b".\r\n");
        self.send_spool()
    }

    /// The one reply for all recipients.
    fn outcome(&mut self) -> Result<Reply, String> {
        let mut of_class: [Option<Reply>; 3] = [None, None, None];
        let mut stored = 0;
        for _ in 0..self.accepted {
            let reply = self.answer()?;
            let class = match reply[0] {
                b'2' => {
                    stored += 1;
                    0
                }
                b'4' => 1,
                _ => 2,
            };
            of_class[class].get_or_insert(reply);
        }
        let [done, later, never] = of_class;
        Ok(match (done, later, never) {
            (Some(done), None, None) => done,
            (None, Some(refusal), _) | (None, None, Some(refusal)) => refusal,
            (done, later, _) => {
                if done.is_some() {
                    self.network.warn(&format!(
                        "the store {} took message {}-{} for {} of {} recipients; it may come again for all",
                        self.settings.store, self.identifier, self.messages, stored, self.accepted
                    ));
                }
                if later.is_some() { replies::PARTLY_STORED_RETRY } else { replies::PARTLY_STORED }.into()
            }
        })
    }

    /// Say something, when it is our turn.
    fn say(&mut self, data: &[u8]) -> Result<(), String> {
        self.check_turn()?;
        self.network.send(data)
    }

    fn check_turn(&self) -> Result<(), String> {
        if self.input.is_empty() { Ok(()) } else { Err(format!("it said {:?} unasked", lossy(&self.input))) }
    }

    /// Take what the store has said by now, so that [`Lmtp::check_turn`] sees it.
    fn look(&mut self) -> Result<(), String> {
        let data = self.network.look()?;
        self.input.extend_from_slice(&data);
        Ok(())
    }

    /// The same before a message. That costs as much as a tenth of the message, so it is done once a second at most.
    fn look_after_a_pause(&mut self) -> Result<(), String> {
        let now_s = self.network.now_s();
        if std::mem::replace(&mut self.used_s, now_s) == now_s { Ok(()) } else { self.look() }
    }

    /// A reply that gives an answer: yes, not now, or no.
    fn answer(&mut self) -> Result<Reply, String> {
        let reply = self.reply()?;
        if matches!(reply[0], b'2' | b'4' | b'5') && !reply.starts_with(b"421") {
            Ok(reply)
        } else {
            Err(format!("it said {:?}", lossy(&reply)))
        }
    }

    fn expect(&mut self, what: &str, code: &[u8]) -> Result<Reply, String> {
        let reply = self.reply()?;
        if reply.starts_with(code) {
            Ok(reply)
        } else {
            Err(format!("{}: it said {:?}", what, lossy(&reply)))
        }
    }

    /// The next reply of the store, all its lines. It goes to a client, so nothing may be in it that is no reply.
    fn reply(&mut self) -> Result<Reply, String> {
        let mut begin = 0;
        loop {
            while let Some(length) = self.input[begin..].windows(2).position(|pair| pair == b"\r\n") {
                let line = &self.input[begin..begin + length];
                let is_last = line.get(3) != Some(&b'-');
                if !is_reply_line(line) || line[..3] != self.input[..3] {
                    return Err(format!("it said {:?}, which is no reply", lossy(line)));
                }
                begin += length + 2;
                if is_last {
                    return Ok(self.input.drain(..begin).collect::<Vec<u8>>().into());
                }
            }
            if self.input.len() > MAX_REPLY {
                return Err("it says more than a reply".to_owned());
            }
            let data = self.network.receive()?;
            if data.is_empty() {
                return Err("it has closed the connection".to_owned());
            }
            self.input.extend_from_slice(&data);
        }
    }

    /// The connection is of no use any more; what the client is told.
    fn fail(&mut self, reason: &str) -> Reply {
        self.network.warn(&format!("the store {}: {}", self.settings.store, reason));
        self.network.abort();
        self.phase = Phase::Lost;
        replies::LOCAL_ERROR.into()
    }
}

impl<N: Network> Store for Lmtp<'_, N> {
    fn offer(&mut self, sender: &Sender, recipient: &str) -> Reply {
        if self.phase == Phase::Lost {
            return replies::LOCAL_ERROR.into();
        }
        if self.phase != Phase::Off {
            let was_idle = self.phase == Phase::Ready;
            let outcome = if was_idle { self.look_after_a_pause() } else { Ok(()) };
            match outcome.and_then(|()| self.ask(sender, recipient)) {
                Ok(reply) => return reply,
                Err(_) if was_idle && self.accepted == 0 => self.network.abort(), // it has waited for us for too long
                Err(reason) => return self.fail(&reason),
            }
        }
        self.phase = Phase::Off;
        match self.connect().and_then(|()| self.ask(sender, recipient)) {
            Ok(reply) => reply,
            Err(reason) => {
                let reply = self.fail(&reason);
                self.phase = Phase::Off; // nobody has been accepted yet: the next recipient is tried anew
                reply
            }
        }
    }

    fn begin(&mut self, origin: &Origin) {
        self.messages += 1;
        let identifier = format!("{}-{}", self.identifier, self.messages);
        self.used_s = self.network.now_s();
        self.spool.clear();
        let received = trace::received(origin, &self.settings.hostname, &identifier, self.used_s);
        self.spool.extend_from_slice(received.as_bytes());
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Reply> {
        self.spool.extend_from_slice(text);
        if self.spool.len() >= self.settings.spool_size {
            self.send_spool()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Reply {
        let reply = match self.send_end() {
            Err(reply) => reply,
            Ok(()) => match self.outcome() {
                Ok(reply) => {
                    self.phase = Phase::Ready;
                    self.is_settled = reply[0] == b'2';
                    if let Err(reason) = self.check_turn() {
                        self.fail(&reason);
                    }
                    reply
                }
                // The store may have it nevertheless; but a message that comes twice is better than one that is lost
                // (RFC 1047).
                Err(reason) => self.fail(&format!("after the end of message {}: {}", self.identifier, reason)),
            },
        };
        self.abandon();
        reply
    }

    fn abandon(&mut self) {
        self.spool.clear();
        self.accepted = 0;
        match self.phase {
            Phase::Off | Phase::Ready => {}
            Phase::Open => {
                self.phase = Phase::Ready;
                self.needs_reset = true;
            }
            Phase::Data => {
                self.network.abort();
                self.phase = Phase::Off;
            }
            Phase::Lost => self.phase = Phase::Off,
        }
    }
}

fn is_reply_line(line: &[u8]) -> bool {
    line.len() >= 3
        && matches!(line[0], b'2'..=b'5')
        && line[1..3].iter().all(u8::is_ascii_digit)
        && matches!(line.get(3), None | Some(b' ' | b'-'))
        && line.iter().all(|octet| (b' '..=b'~').contains(octet))
}

fn lossy(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r\n").unwrap_or(line)).into_owned()
}
