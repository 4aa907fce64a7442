//! A message on its way through the session: who it is from and for, then its content, which goes on to a [`Store`].

use crate::commands::{Mail, Refusal};
use crate::content::Content;
use crate::replies;
use crate::settings::Settings;
use crate::store::{Encryption, Origin, Reply, Sender, Store};

/// RFC 1870, 3.
const MAX_SIZE_DIGITS: usize = 20;

/// What is known of a client.
pub struct Client {
    /// Its address.
    pub peer: String,
    /// The name that it gave itself; empty before that.
    pub helo: String,
    /// Whether it said EHLO, and not HELO.
    pub is_extended: bool,
    pub encryption: Option<Encryption>,
}

pub struct Transaction {
    pub sender: Sender,
    pub recipients: Vec<String>,
    content: Option<Content>,
}

impl Transaction {
    /// What a MAIL command opens, where its parameters are right.
    pub fn new(mail: Mail, client: &Client, settings: &Settings) -> Result<Transaction, Refusal> {
        let mut sender = Sender { address: mail.sender.to_owned(), ..Sender::default() };
        for (keyword, value) in mail.parameters {
            if !client.is_extended {
                return Err(replies::UNKNOWN_PARAMETER); // HELO asks for no extension (RFC 5321, 2.2.1)
            }
            set_parameter(&mut sender, keyword, value, settings)?;
        }
        let transaction = Transaction { sender, recipients: Vec::new(), content: None };
        transaction.check_letters(mail.sender)?;
        Ok(transaction)
    }

    /// Whether `address` is ASCII, or the message may have others.
    pub fn check_letters(&self, address: &str) -> Result<(), Refusal> {
        if self.sender.is_utf8 || address.is_ascii() {
            Ok(())
        } else {
            Err(replies::UTF8_NOT_ASKED_FOR)
        }
    }

    pub fn has_begun(&self) -> bool {
        self.content.is_some()
    }

    /// The content begins.
    pub fn begin(&mut self, client: &Client, settings: &Settings, store: &mut dyn Store) {
        self.content = Some(Content::new(settings.max_message_size, settings.max_text_line));
        let mut recipients = self.recipients.iter();
        let first = recipients.next();
        store.begin(&Origin {
            helo: &client.helo,
            peer: &client.peer,
            protocol: match (self.sender.is_utf8, client.is_extended, client.encryption.is_some()) {
                (true, _, true) => "UTF8SMTPS",
                (true, _, false) => "UTF8SMTP",
                (false, true, true) => "ESMTPS",
                (false, true, false) => "ESMTP",
                (false, false, _) => "SMTP", // there is no name for it with TLS (RFC 3848)
            },
            encryption: client.encryption.as_ref(),
            recipient: first.filter(|&first| recipients.all(|other| other == first)).map(String::as_str),
        });
    }

    /// Take what came after DATA. Gives how many of the octets belong to the message; none: all of them, and it has not
    /// ended.
    pub fn receive_data(&mut self, data: &[u8], store: &mut dyn Store) -> Option<usize> {
        let taken = self.content().receive_data(data, store);
        if taken.is_none() {
            self.give_up_if_faulty(store);
        }
        taken
    }

    /// Take octets of a BDAT chunk.
    pub fn receive_chunk(&mut self, data: &[u8], store: &mut dyn Store) {
        self.content().receive_chunk(data, store);
        self.give_up_if_faulty(store);
    }

    /// The last chunk is in.
    pub fn end_chunks(&mut self, store: &mut dyn Store) {
        self.content().end_chunks(store);
    }

    /// The reply that refuses what came so far.
    pub fn refusal(&mut self) -> Option<Reply> {
        self.content().refusal()
    }

    /// The message is in: refuse it, or have it stored.
    pub fn finish(mut self, store: &mut dyn Store) -> Reply {
        match self.refusal() {
            Some(refusal) => {
                store.abandon();
                refusal
            }
            None => store.finish(),
        }
    }

    /// What the store has of a message that will be refused is of no use.
    fn give_up_if_faulty(&mut self, store: &mut dyn Store) {
        if self.content().is_faulty() {
            store.abandon();
        }
    }

    fn content(&mut self) -> &mut Content {
        self.content.as_mut().expect("there is content that nobody announced")
    }
}

/// The transaction, where its content has not begun.
pub fn open(transaction: &mut Option<Transaction>) -> Result<&mut Transaction, Refusal> {
    match transaction {
        None => Err(replies::MAIL_FIRST),
        Some(transaction) if transaction.has_begun() => Err(replies::CHUNKS_BEGUN),
        Some(transaction) => Ok(transaction),
    }
}

fn set_parameter(
    sender: &mut Sender,
    keyword: &str,
    value: Option<&str>,
    settings: &Settings,
) -> Result<(), Refusal> {
    match (keyword.to_ascii_uppercase().as_str(), value) {
        ("SIZE", Some(digits))
            if digits.len() <= MAX_SIZE_DIGITS && digits.bytes().all(|octet| octet.is_ascii_digit()) =>
        {
            // 20 digits may be more than 64 bits hold; that is too large as well
            if digits.parse().map_or(true, |size: u64| size > settings.max_message_size) {
                return Err(replies::TOO_LARGE);
            }
        }
        ("BODY", Some(body)) if body.eq_ignore_ascii_case("7BIT") => sender.is_8bit = false,
        ("BODY", Some(body)) if body.eq_ignore_ascii_case("8BITMIME") => sender.is_8bit = true,
        ("SMTPUTF8", None) => sender.is_utf8 = true,
        ("SIZE" | "BODY" | "SMTPUTF8", _) => return Err(replies::BAD_PARAMETER),
        _ => return Err(replies::UNKNOWN_PARAMETER),
    }
    Ok(())
}
