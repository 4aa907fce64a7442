//! What a session needs from the store behind it.

use std::borrow::Cow;

/// A whole reply, CR LF included.
pub type Reply = Cow<'static, [u8]>;

/// How a client's connection is encrypted: the version of TLS, and the cipher suite by OpenSSL's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Encryption {
    pub version: String,
    pub cipher: String,
}

/// What a client says of a message before its recipients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sender {
    /// `local@domain`; empty for the null sender.
    pub address: String,
    pub is_8bit: bool,
    pub is_utf8: bool,
}

/// How a message came, for its Received field.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin<'a> {
    /// The name that the client gave itself.
    pub helo: &'a str,
    /// Its address, `host:port`, `[v6]:port` or `unix:…`.
    pub peer: &'a str,
    /// `SMTP`, `ESMTP` or `UTF8SMTP` (RFC 5321, 4.4; RFC 6531, 4.3), the latter two with an `S` at the end where they came
    /// over TLS (RFC 3848).
    pub protocol: &'static str,
    pub encryption: Option<&'a Encryption>,
    /// The recipient, where there is only one: the others' readers need not know of each other (RFC 5321, 7.6).
    pub recipient: Option<&'a str>,
}

/// Takes messages. A call may wait; the session does nothing meanwhile.
pub trait Store {
    /// Ask whether the message may be sent to `recipient` as well. The store's reply, which the client gets.
    fn offer(&mut self, sender: &Sender, recipient: &str) -> Reply;

    /// The content begins, behind a Received field.
    fn begin(&mut self, origin: &Origin);

    /// More of the content, with CR LF and with dots stuffed. An error is the reply that the client gets when the
    /// message has ended.
    fn write(&mut self, text: &[u8]) -> Result<(), Reply>;

    /// The message is whole: the reply is for all of its recipients. It begins with `2` only where all have the message.
    fn finish(&mut self) -> Reply;

    /// Give up the message that is under way, if there is one. What was written of it is not delivered.
    fn abandon(&mut self);
}
