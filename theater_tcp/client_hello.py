"""The server name in a ClientHello, read before OpenSSL sees it (RFC 8446, 4.1.2; RFC 6066, 3).

Python decodes the name that a client asks for as ASCII inside of a callback of OpenSSL's, and where it is something
else it prints a traceback on the standard error, at any stranger's wish. So it is looked at here first. Whatever is no
ClientHello, or none in order, is left to OpenSSL, which refuses it in its own words.
"""

from __future__ import annotations

import hashlib

__all__ = ["MAX_HELLO", "ClientHello", "asked_name", "is_retry_request"]

MAX_HELLO = 32 << 10
"""Bytes of the longest ClientHello that is waited for, with its records' headers; those of today have at most 4 KiB."""

_HANDSHAKE = 0x16
_CLIENT_HELLO = b"\x01"
_SERVER_NAME = 0
_CHANGE_CIPHER_SPEC = 0x14
_HEADER = 5
_RETRY = hashlib.sha256(b"HelloRetryRequest").digest()
"""The "random" by which a ServerHello is known for a HelloRetryRequest (RFC 8446, 4.1.3)."""

_LARGEST_RECORD = (16 << 10) + 2048


class ClientHello:
    """What a client sends first, or after a HelloRetryRequest, gathered until its ClientHello is whole.

    Args:
        data: the beginning of it.
    """

    __slots__ = ("_message", "_position", "received")

    def __init__(self, data: bytes | bytearray = b"") -> None:
        self.received = bytearray(data)
        """All that came, as it came."""
        self._position = 0  # of the first record that is not whole
        self._message = bytearray()  # what the records before it carry

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more of it."""
        self.received += data

    def message(self) -> bytes | None:
        """The ClientHello out of its records. Each record is looked at once, however small the pieces are that come.

        Returns:
            the message; empty if the client began with something else; None if more is to come.
        """
        received, message = self.received, self._message
        while True:
            position = self._position
            header = received[position : position + _HEADER]
            if header and header[0] not in (_HANDSHAKE, _CHANGE_CIPHER_SPEC):
                return b""
            if len(header) < _HEADER:
                return None
            size = _u16(header, 3)
            if not 0 < size <= _LARGEST_RECORD:
                return b""
            start = position + _HEADER
            if header[0] == _CHANGE_CIPHER_SPEC:  # it may stand before the second one (RFC 8446, D.4)
                if message or len(received) < start + size:
                    return b"" if message else None
                self._position = start + size
                continue
            if not message and received[start : start + 1] not in (b"", _CLIENT_HELLO):
                return b""
            if len(received) < start + size:
                return None
            message += received[start : start + size]
            self._position = start + size
            if len(message) >= 4 + int.from_bytes(message[1:4], "big"):
                return bytes(message)

    def taken(self) -> bytearray:
        """What came up to the end of the message, in the records that it came in; all of it if there is no message."""
        return self.received[: self._position] if self._message else self.received

    def rest(self) -> bytearray:
        """What came behind the message."""
        return self.received[self._position :] if self._message else bytearray()


def is_retry_request(sent: bytes) -> bool:
    """Whether what a server sent begins with a HelloRetryRequest, so that the client will say hello once more."""
    return sent[:1] == b"\x16" and sent[5:6] == b"\x02" and sent[11:43] == _RETRY


def asked_name(message: bytes) -> bytes | None:
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


def _u16(data: bytes | bytearray, position: int) -> int:
    return data[position] << 8 | data[position + 1]
