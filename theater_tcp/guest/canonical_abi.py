"""What the canonical ABI's two halves, :mod:`theater_tcp.guest.lifting` and :mod:`theater_tcp.guest.lowering`, share.

Source: the Component Model's CanonicalABI.md, for memories of 32-bit addresses. What a guest passes is checked by the
rules there, and whatever breaks one is an :class:`AbiError`.
"""

from __future__ import annotations

import struct
import sys
from typing import Protocol

from theater_tcp.guest.wit_types import Integer

__all__ = ["MAX_DATA", "NO_BOUND", "PAIR", "AbiError", "Memory", "check_place", "number_format"]

MAX_DATA = 16 << 20
"""Bytes that one call may carry in either direction, unless told otherwise."""

NO_BOUND = sys.maxsize
"""The same where it is looked at elsewhere, for all roads in the same words."""

PAIR = struct.Struct("<II")
"""An address and a length, in memory."""

_FORMATS = {8: "b", 16: "h", 32: "i", 64: "q"}


class AbiError(Exception):
    """A rule of the canonical ABI was broken: by a guest, whose call can't go on, or by a value that has no place in
    the type. The text is one line."""


class Memory(Protocol):
    """A guest's linear memory."""

    @property
    def size(self) -> int:
        """Its bytes, at this moment."""

    def read(self, offset: int, size: int) -> bytes:
        """These bytes, which are inside of it."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes where there is room for them."""

    def allocate(self, size: int, alignment: int) -> int:
        """The offset of a new block, by the guest's ``cabi_realloc``."""


def check_place(what: str, address: int, size: int, alignment: int, memory_size: int) -> None:
    """Hold an address that a guest gave against its memory.

    Args:
        what: lies there, for the error.
        address: the guest's word.
        size, alignment: of what lies there, in bytes.
        memory_size: bytes of the guest's memory.

    Raises:
        AbiError: it isn't aligned, or reaches out of the memory.
    """
    if address & (alignment - 1):
        raise AbiError(f"{what} at {address:#x} is not aligned to {alignment} bytes")
    if address + size > memory_size:
        raise AbiError(f"{what} at {address:#x} of {size} bytes is outside of the memory of {memory_size} bytes")


def number_format(kind: Integer) -> struct.Struct:
    """How a number stands in memory."""
    letter = _FORMATS[kind.bits]
    return struct.Struct("<" + (letter if kind.signed else letter.upper()))
