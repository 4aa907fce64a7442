"""Names in certificates: to text as they are read, and from text as they are written.

What is read may come from anybody. So every text is one printable line, in which what is not printable is the
hexadecimal of its UTF-8, each byte behind a backslash (RFC 4514, 2.4), and no two alternative names have the same text.
"""

from __future__ import annotations

import ipaddress
import re

from cryptography import x509

from theater_tcp.errors import InvalidArgument
from theater_tcp.host_names import ascii_name

__all__ = ["MAX_COMMON_NAME", "UNREADABLE", "alternative_name", "client_name", "distinguished_name", "server_name"]

MAX_COMMON_NAME = 64
"""Bytes of the longest common name (RFC 5280, A.1: ub-common-name)."""

UNREADABLE = "(unreadable)"
"""What stands in place of a part that can't be read."""

_SEPARATORS = '\\,"'  # one name of a list must not read as two
_MAX_HOST_NAME = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_MAIL_ADDRESS = re.compile(r"[!-?A-~]+@[!-?A-~]+")


def distinguished_name(name: x509.Name) -> str:
    """A subject or an issuer, the most specific part first (RFC 4514); empty where it has no part."""
    return _escaped(name.rfc4514_string())


def alternative_name(name: x509.GeneralName) -> str:
    """A subject alternative name (RFC 5280, 4.2.1.6).

    Returns:
        a host name or an address as it is; all else behind its kind, as ``email:me@example.org`` or ``URI:...``. That
        goes for a host name too that could be taken for something else, as ``DNS:192.0.2.1``.
    """
    if isinstance(name, x509.IPAddress):
        return str(name.value)
    if isinstance(name, x509.DNSName):
        text = _escaped_ascii(name.value)
        return f"DNS:{text}" if ":" in text or text == UNREADABLE or _address(text) is not None else text
    if isinstance(name, x509.DirectoryName):
        return f"DirName:{distinguished_name(name.value)}"
    if isinstance(name, x509.OtherName):
        return f"other:{name.type_id.dotted_string}:{name.value.hex().upper()}"
    if isinstance(name, x509.RegisteredID):
        return f"RID:{name.value.dotted_string}"
    kind = "email" if isinstance(name, x509.RFC822Name) else "URI"
    return f"{kind}:{_escaped_ascii(str(name.value))}"


def server_name(text: str) -> x509.GeneralName:
    """The alternative name for a host name (``*.`` before it for any one label more) or an address.

    Raises:
        InvalidArgument: it is neither.
    """
    name = _address(text) or _host_name(text)
    if name is None:
        raise InvalidArgument(f"{_shown(text)} is neither a host name nor an address")
    return name


def client_name(text: str) -> x509.GeneralName | None:
    """The alternative name for what a client is called: a host name, an address, an e-mail address.

    Returns:
        None for any other text: it has its place in the subject alone.

    Raises:
        InvalidArgument: it is no name, or too long for the subject.
    """
    name = _address(text) or _host_name(text)
    if name is not None:
        return name
    if not text or not text.isprintable() or len(text.encode()) > MAX_COMMON_NAME:
        raise InvalidArgument(f"{_shown(text)} is no name: 1 to {MAX_COMMON_NAME} printable characters")
    try:
        return x509.RFC822Name(text) if _MAIL_ADDRESS.fullmatch(text) else None
    except ValueError:  # what is no address beyond its form, as `(a)@b`; newer Pythons refuse more
        return None


def _address(text: str) -> x509.IPAddress | None:
    try:
        return x509.IPAddress(ipaddress.ip_address("" if "%" in text else text))  # no certificate has a zone
    except ValueError:
        return None


def _host_name(text: str) -> x509.DNSName | None:
    """The name in ASCII, as a certificate has it (RFC 5280, 7.2)."""
    if len(text) > _MAX_HOST_NAME:  # first: what follows takes time for each character
        return None
    try:
        name = ascii_name(text)
    except InvalidArgument:
        return None
    # A name that ends in a number would be taken for an IPv4 address.
    fits = len(name) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(name) and not name.rpartition(".")[2].isdigit()
    return x509.DNSName(name) if fits else None


def _escaped(text: str) -> str:
    """Of a text that may be in any script, what is not printable is escaped."""
    return "".join(c if c.isprintable() else _hexadecimal(c) for c in text)


def _escaped_ascii(text: str) -> str:
    """Of a text that is ASCII by right (RFC 5280, 4.2.1.6), other scripts are too, as they can look like it."""
    return "".join(c if "!" <= c <= "~" and c not in _SEPARATORS else _hexadecimal(c) for c in text)


def _hexadecimal(character: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in character.encode())


def _shown(text: str) -> str:
    shown = ascii(text) if not text.isprintable() else repr(text)
    return shown if len(shown) <= 160 else f"{shown[:157]}..."
