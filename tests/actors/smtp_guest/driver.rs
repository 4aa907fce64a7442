//! The guest's session on this machine, driven by a test: frames come by standard input and go by standard output.
//!
//! A frame is a letter, the length of its data as 4 bytes (big end first), and the data. `P` (a new session in plaintext),
//! `O` (one that can become TLS) and `E` (an encrypted one) have the settings, `S` has what the client sends, `U` says that
//! the connection has become TLS. Each but `S` and `U` begins anew. The answer is one letter (`l`isten, `u`pgrade, `c`lose,
//! `i`njected) and two frames of this form without a letter: the replies, and the messages that came in, each with its
//! length in front.

#![allow(dead_code)]

#[path = "../../../actors/smtp_guest/rust/commands.rs"]
mod commands;
#[path = "../../../actors/smtp_guest/rust/content.rs"]
mod content;
#[path = "../../../actors/smtp_guest/rust/json.rs"]
mod json;
#[path = "../../../actors/smtp_guest/rust/replies.rs"]
mod replies;
#[path = "../../../actors/smtp_guest/rust/session.rs"]
mod session;
#[path = "../../../actors/smtp_guest/rust/settings.rs"]
mod settings;
#[path = "../../../actors/smtp_guest/rust/store.rs"]
mod store;
#[path = "../../../actors/smtp_guest/rust/transaction.rs"]
mod transaction;

use session::{Next, Session};
use settings::Settings;
use std::io::{self, Read, Write};
use store::{Encryption, Origin, Reply, Sender, Store};

/// Takes all for `example.org`, as the tests of the other session do.
#[derive(Default)]
struct Shelf {
    envelope: String,
    text: Vec<u8>,
    messages: Vec<u8>,
    count: u32,
}

impl Store for Shelf {
    fn offer(&mut self, sender: &Sender, recipient: &str) -> Reply {
        let domain = recipient.rsplit_once('@').map(|(_, domain)| domain);
        if domain.map_or(true, |domain| domain.eq_ignore_ascii_case("example.org")) {
            self.envelope = format!("{}{:?}\0{}\0", self.envelope, sender.is_8bit, recipient);
            b"250 2.1.5 Recipient ok\r\n"[..].into()
        } else {
            b"550 5.7.1 Relaying denied: that domain is not handled here\r\n"[..].into()
        }
    }

    fn begin(&mut self, _origin: &Origin) {
        self.text.clear();
    }

    fn write(&mut self, text: &[u8]) -> Result<(), Reply> {
        self.text.extend_from_slice(text);
        Ok(())
    }

    fn finish(&mut self) -> Reply {
        self.count += 1;
        self.messages.extend_from_slice(&(self.text.len() as u32).to_be_bytes());
        self.messages.append(&mut self.text);
        format!("250 2.0.0 Ok: queued as id{}\r\n", self.count).into_bytes().into()
    }

    fn abandon(&mut self) {
        self.text.clear();
    }
}

fn read(length: usize) -> Option<Vec<u8>> {
    let mut data = vec![0; length];
    io::stdin().read_exact(&mut data).ok().map(|()| data)
}

fn main() {
    let encryption = || Encryption { version: "TLSv1.3".to_owned(), cipher: "TLS_AES_256_GCM_SHA384".to_owned() };
    let mut shelf = Shelf::default();
    let mut session = None;
    while let Some(head) = read(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let data = read(length).expect("a whole frame");
        let mut next = Next::Listen;
        session = Some(match (head[0], session) {
            (b'S', Some(session)) => {
                let mut session: Session = session;
                next = session.receive(&data, &mut shelf);
                session
            }
            (b'U', Some(session)) => session.secured(encryption()),
            (kind, _) => {
                shelf = Shelf::default();
                let settings: &'static Settings = Box::leak(Box::new(Settings::parse(&data).expect("settings")));
                let is_encrypted = (kind == b'E').then(encryption);
                Session::new(settings, "192.0.2.7:40000".to_owned(), kind == b'O', is_encrypted)
            }
        });
        let mut answer = vec![match next {
            Next::Listen => b'l',
            Next::Upgrade => b'u',
            Next::Close => b'c',
            Next::CloseInjected => b'i',
        }];
        let output = session.as_mut().map(|session| std::mem::take(&mut session.output)).unwrap_or_default();
        for part in [output, std::mem::take(&mut shelf.messages)] {
            answer.extend_from_slice(&(part.len() as u32).to_be_bytes());
            answer.extend_from_slice(&part);
        }
        io::stdout().write_all(&answer).and_then(|()| io::stdout().flush()).expect("somebody listens");
    }
}
