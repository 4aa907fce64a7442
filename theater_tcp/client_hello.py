"""The server name in a ClientHello, read before OpenSSL sees it (RFC 8446, 4.1.2; RFC 6066, 3).

Python decodes the name that a client asks for as ASCII inside of a callback of OpenSSL's, and where it is something
else it prints a traceback on the standard error, at any stranger's wish. So it is looked at here first. Whatever is no
ClientHello, or none in order, is left to OpenSSL, which refuses it in its own words.
"""

from __future__ import annotations

__all__ = ["MAX_HELLO", "find", "server_name"]

MAX_HELLO = 32 << 10
"""Bytes of the longest ClientHello that is waited for, with its records' headers; those of today have at most 4 KiB."""

_HANDSHAKE = 0x16
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HEADER = 5
_LARGEST_RECORD = (16 << 10) + 2048


def server_name(message: bytes) -> bytes | None:
    """The name that a client asks for.

    Args:
        message: a ClientHello.

    Returns:
        the name as it stands there; None if there is none, or the message is not in order.
    """
    try:
        position = 4 + 2 + 32  # header, version, random
        position += 1 + message[position]  # session id
        position += 2 + _u16(message, position)  # cipher suites
        position += 1 + message[position]  # compression methods
        end = position + 2 + _u16(message, position)
        position += 2
        while position + 4 <= end:
            kind, size = _u16(message, position), _u16(message, position + 2)
            position += 4
            if kind == _SERVER_NAME:
                name = position + 2 + 1  # the list's length, and the kind of its first entry
                return message[name + 2 : name + 2 + _u16(message, name)]
            position += size
    except IndexError:
        pass
    return None


def find(data: bytes | bytearray) -> bytes | None:
    """The ClientHello that a client's first bytes are, out of its records.

    Returns:
        the message; empty if the bytes begin with something else; None if more of them are to come.
    """
    message = b""
    position = 0
    while True:
        header = data[position : position + _HEADER]
        if header and header[0] != _HANDSHAKE:
            return b""
        if len(header) < _HEADER:
            return None
        size = _u16(header, 3)
        if not 0 < size <= _LARGEST_RECORD:
            return b""
        position += _HEADER
        message += data[position : position + size]
        if message[0:1] and message[0] != _CLIENT_HELLO:
            return b""
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return bytes(message)
        if len(data) < position + size:
            return None
        position += size


def _u16(data: bytes | bytearray, position: int) -> int:
    return data[position] << 8 | data[position + 1]
