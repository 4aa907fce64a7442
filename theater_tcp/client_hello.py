"""The server name in a ClientHello, read before OpenSSL sees it (RFC 8446, 4.1.2; RFC 6066, 3).

Python decodes the name that a client asks for as ASCII inside of a callback of OpenSSL's, and where it is something
else it prints a traceback on the standard error, at any stranger's wish. So it is looked at here first. Whatever is no
ClientHello, or none in order, is left to OpenSSL, which refuses it in its own words.
"""

from __future__ import annotations

__all__ = ["MAX_HELLO", "ends_in", "server_name"]

MAX_HELLO = 32 << 10
"""Bytes of the longest ClientHello that is waited for, with its records' headers; those of today have at most 4 KiB."""

_HANDSHAKE = 0x16
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HEADER = 5
_LARGEST_RECORD = (16 << 10) + 2048


def ends_in(data: bytes | bytearray) -> bool:
    """Whether ``data`` has a whole ClientHello, or begins with something else."""
    return _message(data) is not None


def server_name(data: bytes | bytearray) -> bytes | None:
    """The name that a client asks for.

    Args:
        data: what it sent first, so far that :func:`ends_in` says yes.

    Returns:
        the name as it stands there; None if there is none, or no ClientHello in order.
    """
    message = _message(data)
    if not message:
        return None
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


def _message(data: bytes | bytearray) -> bytes | None:
    """The ClientHello out of its records; empty if it is none; None if more is to come."""
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
