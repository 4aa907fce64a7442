//! Command lines, and the arguments in them: paths and parameters (RFC 5321, 4.1.2; RFC 6531, 3.3).
//!
//! The grammar is that of `actors/smtp/commands.py`: strict, since what two hosts read differently is what attackers use.
//! It is read from left to right without going back, so no input takes longer than its length. A source route is
//! accepted and dropped (RFC 5321, 4.1.1.3). Whether the transaction allows what lies beyond ASCII is the session's
//! to say.

use crate::replies;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a command is refused: the whole reply, CR LF included.
pub type Refusal = &'static [u8];

/// Octets that extensions add to a MAIL command: SIZE (RFC 1870, 3), BODY (RFC 6152, 2), SMTPUTF8 (RFC 6531, 3.1).
pub const MAIL_ALLOWANCE: usize = 26 + 17 + 10;
/// Octets of a path without its brackets (RFC 5321, 4.5.3.1.3).
const MAX_PATH: usize = 256 - 2;
const MAX_LABEL: usize = 63;
const MAX_HELO: usize = 255;
const MAX_CHUNK_DIGITS: usize = 19;

/// The argument of MAIL.
#[derive(Debug, PartialEq)]
pub struct Mail<'a> {
    /// `local@domain` as sent, without a source route; empty for the null sender.
    pub sender: &'a str,
    pub parameters: Vec<Parameter<'a>>,
}

/// A keyword as sent, and its value where there was a `=`.
pub type Parameter<'a> = (&'a str, Option<&'a str>);

/// The text of a line, where it may be a command at all: `line` is without its CR LF, and has at most `max_octets`; a MAIL
/// has `MAIL_ALLOWANCE` more.
pub fn decode_command(line: &[u8], max_octets: usize) -> Result<&str, Refusal> {
    if line.len() <= max_octets && line.iter().all(|octet| (b' '..=b'~').contains(octet)) {
        // nearly every one
        return std::str::from_utf8(line).map_err(|_| replies::NOT_UTF8);
    }
    if line.iter().any(|octet| matches!(octet, b'\r' | b'\n')) {
        return Err(replies::BARE_NEWLINE_IN_COMMAND);
    }
    let is_mail = begins_with(line, b"MAIL ");
    if line.len() > max_octets + if is_mail { MAIL_ALLOWANCE } else { 0 } {
        return Err(replies::COMMAND_TOO_LONG);
    }
    let text = std::str::from_utf8(line).map_err(|_| replies::NOT_UTF8)?;
    if text.chars().any(char::is_control) {
        return Err(replies::CONTROL_IN_COMMAND);
    }
    Ok(text)
}

/// Whether `line` begins with `word`, in any case.
pub fn begins_with(line: &[u8], word: &[u8]) -> bool {
    line.get(..word.len()).map_or(false, |begin| begin.eq_ignore_ascii_case(word))
}

/// Read what follows `MAIL`.
pub fn parse_mail(argument: &str) -> Result<Mail<'_>, Refusal> {
    let (path, rest) = match parse_path(argument, "FROM:") {
        Some(found) => found,
        None => return Err(path_refusal(argument, "FROM:", replies::BAD_SENDER, replies::MAIL_SYNTAX)),
    };
    let sender = match path {
        Path::Null => "",
        Path::Mailbox { address, domain } => check_mailbox(address, domain, replies::BAD_SENDER)?,
        Path::Postmaster(_) => {
            return Err(path_refusal(argument, "FROM:", replies::BAD_SENDER, replies::MAIL_SYNTAX))
        }
    };
    Ok(Mail { sender, parameters: parse_parameters(rest)? })
}

/// Read what follows `RCPT`: the address, without a source route. No parameter of it is known here.
pub fn parse_rcpt(argument: &str) -> Result<&str, Refusal> {
    let (path, rest) = match parse_path(argument, "TO:") {
        Some((Path::Null, _)) | None => {
            return Err(path_refusal(argument, "TO:", replies::BAD_RECIPIENT, replies::RCPT_SYNTAX))
        }
        Some(found) => found,
    };
    if !rest.is_empty() {
        parse_parameters(rest)?;
        return Err(replies::UNKNOWN_PARAMETER);
    }
    match path {
        Path::Mailbox { address, domain } => check_mailbox(address, domain, replies::BAD_RECIPIENT),
        Path::Postmaster(address) => Ok(address),
        Path::Null => unreachable!(),
    }
}

/// Read the name after `EHLO` or `HELO`. It is stricter than "any visible character", as the name will stand in a Received
/// field: none of RFC 5322's specials but the dot and what an address literal needs. It is laxer than a domain name, for
/// clients put the name of their machine there.
pub fn parse_helo(argument: &str) -> Result<&str, Refusal> {
    let name = argument.trim_matches(' ');
    let inside = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let is_allowed = |octet: u8| is_atext(octet) || matches!(octet, b'.' | b':');
    if inside.is_empty() || name.len() > MAX_HELO || !inside.bytes().all(is_allowed) {
        return Err(replies::HELO_SYNTAX);
    }
    Ok(name)
}

/// Read the size in octets of a chunk, and whether it is the last (RFC 3030, 2).
pub fn parse_bdat(argument: &str) -> Result<(u64, bool), Refusal> {
    let digits = argument.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > MAX_CHUNK_DIGITS {
        return Err(replies::BDAT_SYNTAX);
    }
    let size = argument[..digits].parse().map_err(|_| replies::BDAT_SYNTAX)?;
    let rest = &argument[digits..];
    let word = rest.trim_matches(' ');
    if word.is_empty() {
        Ok((size, false))
    } else if rest.starts_with(' ') && word.eq_ignore_ascii_case("LAST") {
        Ok((size, true))
    } else {
        Err(replies::BDAT_SYNTAX)
    }
}

/// See that nothing follows a command that takes nothing.
pub fn refuse_argument(argument: &str) -> Result<(), Refusal> {
    if argument.trim_matches(' ').is_empty() {
        Ok(())
    } else {
        Err(replies::NO_ARGUMENT_WANTED)
    }
}

enum Path<'a> {
    Null,
    Mailbox { address: &'a str, domain: &'a str },
    Postmaster(&'a str),
}

/// The path behind `keyword`, and what follows it without the spaces around it.
fn parse_path<'a>(argument: &'a str, keyword: &str) -> Option<(Path<'a>, &'a str)> {
    if !begins_with(argument.as_bytes(), keyword.as_bytes()) {
        return None;
    }
    // The grammar has no space after the colon, but enough clients send one; nothing can be misread by it.
    let text = &argument[keyword.len()..];
    let text = text.strip_prefix(' ').unwrap_or(text).strip_prefix('<')?;
    let (path, end) = if text.starts_with('>') {
        (Path::Null, 0)
    } else if begins_with(text.as_bytes(), b"postmaster>") {
        let end = "postmaster".len();
        (Path::Postmaster(&text[..end]), end)
    } else {
        let begin = skip_route(text)?;
        let at = begin + skip_local(&text[begin..])?;
        let domain = text[at..].strip_prefix('@')?;
        let length = if domain.starts_with('[') { skip_literal(domain)? } else { skip_domain(domain)? };
        let end = at + 1 + length;
        (Path::Mailbox { address: &text[begin..end], domain: &domain[..length] }, end)
    };
    let rest = text[end..].strip_prefix('>')?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    Some((path, rest.trim_matches(' ')))
}

fn path_refusal(argument: &str, keyword: &str, of_path: Refusal, of_syntax: Refusal) -> Refusal {
    let is_known = begins_with(argument.as_bytes(), keyword.as_bytes());
    if is_known && argument.contains('<') {
        of_path
    } else {
        of_syntax
    }
}

/// The length of a source route, which may be 0.
fn skip_route(text: &str) -> Option<usize> {
    if !text.starts_with('@') {
        return Some(0);
    }
    let mut end = 0;
    loop {
        end += text[end..].strip_prefix('@').map(|_| 1)?;
        end += skip_domain(&text[end..])?;
        match text.as_bytes().get(end)? {
            b',' => end += 1,
            b':' => return Some(end + 1),
            _ => return None,
        }
    }
}

/// The length of a local part: atoms between dots, or a quoted string.
fn skip_local(text: &str) -> Option<usize> {
    let octets = text.as_bytes();
    if octets.first() == Some(&b'"') {
        let mut end = 1;
        loop {
            match *octets.get(end)? {
                b'"' => return Some(end + 1),
                b'\\' if matches!(*octets.get(end + 1)?, b' '..=b'~') => end += 2,
                b'\\' => return None,
                b' '..=b'~' | 0x80..=0xff => end += 1,
                _ => return None,
            }
        }
    }
    skip_dotted(text, |part| {
        part.bytes().take_while(|&octet| is_atext(octet) || octet >= 0x80).count()
    })
}

fn skip_domain(text: &str) -> Option<usize> {
    skip_dotted(text, |part| {
        let length: usize = part
            .chars()
            .take(MAX_LABEL)
            .take_while(|&letter| letter.is_ascii_alphanumeric() || letter == '-' || !letter.is_ascii())
            .map(char::len_utf8)
            .sum();
        let label = &part[..length];
        if label.starts_with('-') || label.ends_with('-') {
            0
        } else {
            length
        }
    })
}

/// The length of parts with dots between them; `measure` gives that of a part at the begin of a text, or 0.
fn skip_dotted(text: &str, measure: impl Fn(&str) -> usize) -> Option<usize> {
    let mut end = measure(text);
    if end == 0 {
        return None;
    }
    while text.as_bytes().get(end) == Some(&b'.') {
        match measure(&text[end + 1..]) {
            0 => break,
            length => end += 1 + length,
        }
    }
    Some(end)
}

fn skip_literal(text: &str) -> Option<usize> {
    let inside = text[1..]
        .bytes()
        .take_while(|&octet| octet.is_ascii_alphanumeric() || matches!(octet, b':' | b'.' | b'-'))
        .count();
    if inside == 0 || text.as_bytes().get(1 + inside) != Some(&b']') {
        return None;
    }
    Some(inside + 2)
}

fn check_mailbox<'a>(address: &'a str, domain: &str, refusal: Refusal) -> Result<&'a str, Refusal> {
    if address.len() > MAX_PATH || (domain.starts_with('[') && !is_literal(&domain[1..domain.len() - 1])) {
        return Err(refusal);
    }
    Ok(address)
}

/// Whether it is an IPv4 or tagged IPv6 address (RFC 5321, 4.1.3); no other tag has been registered.
fn is_literal(inside: &str) -> bool {
    if begins_with(inside.as_bytes(), b"IPV6:") {
        inside[5..].parse::<Ipv6Addr>().is_ok()
    } else {
        inside.parse::<Ipv4Addr>().is_ok()
    }
}

fn parse_parameters(text: &str) -> Result<Vec<Parameter<'_>>, Refusal> {
    let mut found: Vec<Parameter<'_>> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        let is_keyword = keyword.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !keyword.is_empty()
            && !keyword.starts_with('-');
        let is_value = value.map_or(true, |value| {
            !value.is_empty() && value.bytes().all(|octet| matches!(octet, b'!'..=b'<' | b'>'..=b'~'))
        });
        if !is_keyword || !is_value || found.iter().any(|(known, _)| known.eq_ignore_ascii_case(keyword)) {
            return Err(replies::BAD_PARAMETER);
        }
        found.push((keyword, value));
    }
    Ok(found)
}

fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}
