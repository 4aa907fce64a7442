//! The field that a message gets on its way through (RFC 5321, 4.4): Received. Return-Path and Delivered-To are the
//! store's, which does the final delivery.

use crate::store::Origin;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The Received field with CR LF line ends. `identifier` is what the message is called here, an atom; `now_s` is in
/// seconds since 1970. How the connection was encrypted stands in a comment.
pub fn received(origin: &Origin, hostname: &str, identifier: &str, now_s: u64) -> String {
    let encryption = origin.encryption.map_or(String::new(), |encryption| {
        format!("\t(version={} cipher={})\r\n", encryption.version, encryption.cipher)
    });
    let whom = origin.recipient.map_or(String::new(), |recipient| format!("\r\n\tfor <{}>", recipient));
    format!(
        "Received: from {} ({})\r\n{}\tby {} with {} id {}{};\r\n\t{}\r\n",
        origin.helo,
        tcp_info(origin.peer),
        encryption,
        hostname,
        origin.protocol,
        identifier,
        whom,
        date(now_s)
    )
}

/// The client's address as an address literal (RFC 5321, 4.1.3); `unix` for a socket of this machine.
fn tcp_info(peer: &str) -> String {
    if peer.starts_with("unix:") {
        return "unix".to_owned();
    }
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    match host.strip_prefix('[') {
        Some(inside) => format!("[IPv6:{}]", inside.trim_end_matches(']').split('%').next().unwrap_or("")),
        None => format!("[{}]", host),
    }
}

/// RFC 5322, 3.3, in UTC.
fn date(now_s: u64) -> String {
    let days = now_s / 86_400;
    let second = now_s % 86_400;
    let (year, month, day) = civil(days);
    format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} +0000",
        DAYS[(days % 7) as usize],
        day,
        MONTHS[month],
        year,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month from 0 and day from 1 of a day that is counted from 1970-01-01.
fn civil(days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // From 1600 on, the calendar repeats after 400 years of 146 097 days.
    let days = days + 135_140;
    let mut year = 1600 + days / 146_097 * 400;
    let mut left = days % 146_097;
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    loop {
        let length = match month {
            1 => 28 + u64::from(is_leap(year)),
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
        if left < length {
            return (year, month, left + 1);
        }
        left -= length;
        month += 1;
    }
}
