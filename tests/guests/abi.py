"""Values of the interface as a guest has them: written for the tests, apart from the host's own canonical ABI."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import by_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.guests.puppets import Strings

__all__ = ["OK_TYPES", "Lifter", "flatten"]

OK_TYPES = {
    "tcp#connect": "string",
    "tcp#listen": "string",
    "tcp#accept": "string",
    "tcp#peer-address": "string",
    "tcp#send": "u64",
    "tcp#receive": "bytes",
    "tcp-ext#local-address": "string",
    "tcp-ext#listener-address": "string",
    "tcp-ext#tls-info": "tls-session",
    "tcp-ext#tls-available": "bool",
}
"""What the ``ok`` of a function's result is; the others have none."""

LEVELS = ("debug", "info", "warning", "error")


def flatten(args: tuple[Any, ...], strings: Strings, tail_at: int) -> tuple[list[int], int, bytes]:
    """Core values for arguments.

    Args:
        args: texts, bytes and numbers.
        strings: the encoding of texts.
        tail_at: where, in its frame, the returned tail will be.

    Returns:
        the words; the bits of those that are offsets into the frame; the tail with the texts and bytes.
    """
    words: list[int] = []
    mask = 0
    tail = b""
    for arg in args:
        if isinstance(arg, int):
            words.append(arg)
            continue
        data = strings.encode(arg) if isinstance(arg, str) else arg
        tail += b"\0" * (-(tail_at + len(tail)) % 8)
        mask |= 1 << len(words)
        words += [tail_at + len(tail), len(data) // (strings.unit if isinstance(arg, str) else 1)]
        tail += data
    return words, mask, tail


class Lifter:
    """Reads results out of a guest's memory.

    Args:
        strings: the encoding of texts.
    """

    def __init__(self, strings: Strings) -> None:
        self._strings = strings

    def lift(self, function: str, result: int, ret: bytes, read: Callable[[int, int], bytes]) -> Any:
        """The value of a result, or the error in it as an exception.

        Args:
            function: whose result it is.
            result: the core result, for functions that have one.
            ret: the memory that the result was put into.
            read: reads more of the memory: address, bytes.
        """
        if function == "clock#now":
            return result
        if function in {"runtime#log", "runtime#shutdown"}:
            return None
        if function == "runtime#self":
            return self._text(ret, 0, read)
        ok = OK_TYPES.get(function)
        wide = 8 if ok == "u64" else 4
        assert ret[0] in (0, 1), f"a result of the case {ret[0]}"
        if ret[0] == 1:
            kind, _, detail = self._text(ret, wide, read).partition(": ")
            raise by_kind[kind](detail)
        if ok == "string":
            return self._text(ret, 4, read)
        if ok == "bytes":
            return read(*struct.unpack_from("<II", ret, 4))
        if ok == "u64":
            return struct.unpack_from("<Q", ret, 8)[0]
        if ok == "bool":
            return bool(ret[4])
        return self._session(ret, read) if ok == "tls-session" else None

    def _text(self, memory: bytes, at: int, read: Callable[[int, int], bytes]) -> str:
        address, length = struct.unpack_from("<II", memory, at)
        if self._strings.codec == "latin-1" and length >> 31:
            return read(address, 2 * (length & 0x7FFF_FFFF)).decode("utf-16-le")
        return self._strings.decode(read(address, length * self._strings.unit))

    def _session(self, ret: bytes, read: Callable[[int, int], bytes]) -> SimpleNamespace | None:
        if not ret[4]:
            return None
        return SimpleNamespace(
            version=self._text(ret, 8, read),
            cipher=self._text(ret, 16, read),
            alpn=self._text(ret, 28, read) if ret[24] else None,
            server_name=self._text(ret, 40, read) if ret[36] else None,
            resumed=bool(ret[48]),
            peer_certificate=self._certificate(ret, read) if ret[52] else None,
        )

    def _certificate(self, ret: bytes, read: Callable[[int, int], bytes]) -> SimpleNamespace:
        address, count = struct.unpack_from("<II", ret, 72)
        names = read(address, 8 * count)
        return SimpleNamespace(
            subject=self._text(ret, 56, read),
            issuer=self._text(ret, 64, read),
            names=tuple(self._text(names, 8 * number, read) for number in range(count)),
            fingerprint=self._text(ret, 80, read),
        )
