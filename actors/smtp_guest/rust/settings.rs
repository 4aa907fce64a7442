//! What can be set: the names, bounds and defaults of `actors/smtp/settings.py`, and where the store is. The lower bounds
//! are those of RFC 5321, 4.5.3.1.

use crate::json::{self, Value};

pub struct Settings {
    /// The server's own name, in the greeting and in Received fields.
    pub hostname: String,
    /// Where the LMTP store is: `host:port`, `[v6]:port` or `unix:/path`.
    pub store: String,
    pub require_tls: bool,
    /// Seconds that a client may stay silent (RFC 5321, 4.5.3.2.7); none: the connection's `receive_timeout` stays as the
    /// manifest has it.
    pub timeout: Option<f64>,
    /// Seconds that the store may take for an answer (RFC 5321, 4.5.3.2.6).
    pub store_timeout: f64,
    pub max_message_size: u64,
    pub max_recipients: usize,
    pub max_errors: u32,
    pub max_asides: u32,
    pub max_command_line: usize,
    pub max_text_line: usize,
    /// Octets of a message that are held in memory before they go to the store.
    pub spool_size: usize,
    pub helo_reply: Vec<u8>,
    pub ehlo_reply: Vec<u8>,
    pub ehlo_reply_before_tls: Vec<u8>,
}

/// Sizes and counts end here, so that they can be added without a thought.
const MAX: u64 = 1 << 30;
const MAX_SECONDS: f64 = 1_000_000.0;
const DEFAULT_TIMEOUT: f64 = 300.0;

impl Settings {
    /// `config`: a mapping as JSON. An error is one line that names the setting.
    pub fn parse(config: &[u8]) -> Result<Settings, String> {
        let mut settings = Settings {
            hostname: "localhost".to_owned(),
            store: String::new(),
            require_tls: false,
            timeout: Some(DEFAULT_TIMEOUT),
            store_timeout: 600.0,
            max_message_size: 26_214_400,
            max_recipients: 1000,
            max_errors: 20,
            max_asides: 100,
            max_command_line: 512,
            max_text_line: 1000,
            spool_size: 65_536,
            helo_reply: Vec::new(),
            ehlo_reply: Vec::new(),
            ehlo_reply_before_tls: Vec::new(),
        };
        let text = std::str::from_utf8(config).map_err(|_| "the settings are no UTF-8")?;
        for (name, value) in json::parse(if text.is_empty() { "{}" } else { text })? {
            settings.set(&name, &value).map_err(|reason| format!("{}: {}", name, reason))?;
        }
        if settings.store.is_empty() {
            return Err("store: expected the address of an LMTP store, and nothing is set".to_owned());
        }
        settings.helo_reply = format!("250 {}\r\n", settings.hostname).into_bytes();
        settings.ehlo_reply = settings.extensions("");
        settings.ehlo_reply_before_tls = settings.extensions("250-STARTTLS\r\n");
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match name {
            "hostname" => {
                self.hostname = text(value).filter(|name| is_hostname(name)).ok_or("expected a domain name or an address literal")?
            }
            "store" => {
                let is_address = |text: &String| text.starts_with("unix:/") || text.contains(':');
                self.store = text(value).filter(is_address).ok_or("expected host:port or unix:/path")?
            }
            "require_tls" => {
                self.require_tls = match value {
                    Value::Flag(flag) => *flag,
                    _ => return Err("expected true or false".to_owned()),
                }
            }
            "timeout" if *value == Value::Null => self.timeout = None,
            "timeout" => self.timeout = Some(seconds(value).map_err(|reason| reason + " or null")?),
            "store_timeout" => self.store_timeout = seconds(value)?,
            "max_message_size" => self.max_message_size = whole(value, 65_536)?,
            "max_recipients" => self.max_recipients = whole(value, 100)? as usize,
            "max_errors" => self.max_errors = whole(value, 1)? as u32,
            "max_asides" => self.max_asides = whole(value, 1)? as u32,
            "max_command_line" => self.max_command_line = whole(value, 512)? as usize,
            "max_text_line" => self.max_text_line = whole(value, 1000)? as usize,
            "spool_size" => self.spool_size = whole(value, 4096)? as usize,
            _ => return Err("there is no such setting".to_owned()),
        }
        Ok(())
    }

    /// Milliseconds that a command may take, however slowly it comes.
    pub fn command_timeout_ms(&self) -> u128 {
        (self.timeout.unwrap_or(DEFAULT_TIMEOUT) * 1000.0) as u128
    }

    fn extensions(&self, more: &str) -> Vec<u8> {
        format!(
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n{}250 HELP\r\n",
            self.hostname, self.max_message_size, more
        )
        .into_bytes()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn whole(value: &Value, least: u64) -> Result<u64, String> {
    match value {
        Value::Number(number) if number.fract() == 0.0 && (least as f64..=MAX as f64).contains(number) => {
            Ok(*number as u64)
        }
        _ => Err(format!("expected a whole number from {} to {}", least, MAX)),
    }
}

fn seconds(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(number) if *number >= 0.001 && *number <= MAX_SECONDS => Ok(*number),
        _ => Err(format!("expected a number of seconds from 0.001 to {}", MAX_SECONDS)),
    }
}

/// Labels of letters, digits and hyphens, or an address in brackets.
fn is_hostname(name: &str) -> bool {
    if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || octet == b':' || octet == b'.';
        return !inside.is_empty() && inside.bytes().all(is_allowed);
    }
    name.split('.').all(|label| {
        let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(is_allowed)
    })
}
