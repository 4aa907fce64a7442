"""Command lines, and the arguments in them: paths and parameters (RFC 5321, 4.1.2; RFC 6531, 3.3).

The grammar is one regular expression for each command. It is strict: an address that the grammar does not know is
refused, since what two hosts read differently is what attackers use. Source routes are accepted and dropped (RFC 5321,
4.1.1.3). What lies beyond ASCII in the character classes is RFC 6531's ``UTF8-non-ascii``; whether the transaction
allows it is the dialogue's to say. The repetitions are possessive (``++``, ``(?>…)``), so that no input makes the match
backtrack. (``(?:…)*+`` would be shorter, but early releases of Python 3.11 take it wrongly.)
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

from actors.smtp import replies
from actors.smtp.replies import Refused

__all__ = [
    "MAIL_ALLOWANCE",
    "Mail",
    "Recipient",
    "decode_command",
    "parse_bdat",
    "parse_helo",
    "parse_mail",
    "parse_rcpt",
]

_UTF8 = r"\u0080-\U0010ffff"
_ATOM = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{_UTF8}]++"
_DOT_STRING = rf"{_ATOM}(?>(?:\.{_ATOM})*)"
_QUOTED_STRING = rf'"(?>(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*)"'
_LABEL = rf"(?!-)[A-Za-z0-9\-{_UTF8}]{{1,63}}+(?<!-)"
_DOMAIN = rf"{_LABEL}(?>(?:\.{_LABEL})*)"
_LITERAL = r"\[[0-9A-Za-z:.\-]++\]"
_ROUTE = rf"(?:@{_DOMAIN}(?>(?:,@{_DOMAIN})*):)?"
_MAILBOX = rf"(?P<local>{_DOT_STRING}|{_QUOTED_STRING})@(?P<domain>{_DOMAIN}|{_LITERAL})"
# The grammar has no space after the colon, but enough clients send one; nothing can be misread by it.
_PARAMETERS = r"(?: +(?P<parameters>[^ ].*?))? *"
_MAIL = re.compile(rf"FROM: ?<(?:{_ROUTE}{_MAILBOX})?>{_PARAMETERS}", re.IGNORECASE | re.ASCII)
_RCPT = re.compile(rf"TO: ?<(?:{_ROUTE}{_MAILBOX}|(?P<postmaster>postmaster))>{_PARAMETERS}", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*+)(?:=([!-<>-~]++))?")
# Stricter than "any visible character" where the name will stand in a Received field: none of RFC 5322's specials but
# the dot and what an address literal needs. Laxer than a domain name, for clients put the name of their machine there.
_NAME = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.:]"
_HELO = re.compile(rf"{_NAME}{{1,255}}|\[{_NAME}{{1,253}}\]")
_BDAT = re.compile(r"(\d{1,19})(?: +(LAST))? *", re.IGNORECASE | re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

MAIL_ALLOWANCE = 26 + 17 + 10
"""Octets that extensions add to a MAIL command: SIZE (RFC 1870, 3), BODY (RFC 6152, 2), SMTPUTF8 (RFC 6531, 3.1)."""
MAX_PATH = 256
"""Octets of a path with its punctuation (RFC 5321, 4.5.3.1.3), so that a domain in it has no more than its 255."""


class Mail(msgspec.Struct, frozen=True, gc=False):
    """The argument of MAIL.

    Args:
        sender: ``local@domain`` as sent, without a source route; empty for the null sender ``<>``.
        parameters: keyword in upper case to value; ``None`` where there was no ``=``.
    """

    sender: str
    parameters: dict[str, str | None]


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """The argument of RCPT.

    Args:
        address: ``local@domain`` as sent, without a source route; ``postmaster`` where that stood alone.
        domain: the part after the last ``@``; empty for the lone postmaster.
    """

    address: str
    domain: str


_NO_PARAMETERS: dict[str, str | None] = {}


def decode_command(line: bytes, max_octets: int) -> str:
    """The text of a line, where it may be a command at all.

    Args:
        line: without its CR LF.
        max_octets: how long it may be; a MAIL by :data:`MAIL_ALLOWANCE` more.

    Raises:
        Refused: it is too long, no UTF-8, or has control characters or a CR or LF in it.
    """
    text: str | None
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and len(line) <= max_octets and text.isprintable():
        return text  # nearly every one
    if b"\r" in line or b"\n" in line:
        raise Refused(replies.BARE_NEWLINE_IN_COMMAND)
    if len(line) > max_octets + (MAIL_ALLOWANCE if line[:5].upper() == b"MAIL " else 0):
        raise Refused(replies.COMMAND_TOO_LONG)
    if text is None:
        raise Refused(replies.NOT_UTF8)
    if _CONTROL.search(text):
        raise Refused(replies.CONTROL_IN_COMMAND)
    return text


def parse_mail(argument: str) -> Mail:
    """Read what follows ``MAIL``.

    Raises:
        Refused: it is no ``FROM:<reverse-path>`` with parameters.
    """
    match = _MAIL.fullmatch(argument)
    if match is None:
        is_known = argument[:5].upper() == "FROM:"
        raise Refused(replies.BAD_SENDER if is_known and "<" in argument else replies.MAIL_SYNTAX)
    local, domain, parameters = match.group("local", "domain", "parameters")
    sender = "" if local is None else _mailbox(local, domain, replies.BAD_SENDER)
    return Mail(sender, _NO_PARAMETERS if parameters is None else _parse_parameters(parameters))


def parse_rcpt(argument: str) -> Recipient:
    """Read what follows ``RCPT``.

    Raises:
        Refused: it is no ``TO:<forward-path>``, or it has parameters, none of which is known here.
    """
    match = _RCPT.fullmatch(argument)
    if match is None:
        is_known = argument[:3].upper() == "TO:"
        raise Refused(replies.BAD_RECIPIENT if is_known and "<" in argument else replies.RCPT_SYNTAX)
    local, domain, postmaster, parameters = match.group("local", "domain", "postmaster", "parameters")
    if parameters is not None:
        _parse_parameters(parameters)
        raise Refused(replies.UNKNOWN_PARAMETER)
    if postmaster is not None:
        return Recipient(postmaster, "")
    return Recipient(_mailbox(local, domain, replies.BAD_RECIPIENT), domain)


def parse_helo(argument: str) -> str:
    """Read the name after ``EHLO`` or ``HELO``: a domain, an address literal, or the like (RFC 5321, 4.1.3, 4.1.4).

    Raises:
        Refused: there is none, it has characters that no name has, or brackets that aren't around all of it.
    """
    name = argument.strip(" ")
    if _HELO.fullmatch(name) is None:
        raise Refused(replies.HELO_SYNTAX)
    return name


def parse_bdat(argument: str) -> tuple[int, bool]:
    """Read the size in octets of a chunk, and whether it is the last (RFC 3030, 2).

    Raises:
        Refused: there is no size that can be read.
    """
    match = _BDAT.fullmatch(argument)
    if match is None:
        raise Refused(replies.BDAT_SYNTAX)
    return int(match[1]), match[2] is not None


def _mailbox(local: str, domain: str, refusal: bytes) -> str:
    address = f"{local}@{domain}"
    if len(address) * 4 > MAX_PATH - 2 and len(address.encode()) > MAX_PATH - 2:
        raise Refused(refusal)
    if domain[0] == "[" and not _is_literal(domain[1:-1]):
        raise Refused(refusal)
    return address


def _is_literal(inside: str) -> bool:
    """Whether it is an IPv4 or tagged IPv6 address (RFC 5321, 4.1.3); no other tag has been registered."""
    try:
        if inside[:5].upper() == "IPV6:":
            ipaddress.IPv6Address(inside[5:])
        else:
            ipaddress.IPv4Address(inside)
    except ValueError:
        return False
    return True


def _parse_parameters(text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in filter(None, text.split(" ")):
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise Refused(replies.BAD_PARAMETER)
        keyword = match[1].upper()
        if keyword in found:
            raise Refused(replies.BAD_PARAMETER)
        found[keyword] = match[2]
    return found
