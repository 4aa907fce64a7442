"""The stage: one shared memory, on which the host and the guest that runs put what they pass to each other.

There is one for all guests of an engine, since only one of them runs at a time. No guest can reach it, only the two
small modules around it (:mod:`theater_tcp.guest.adapter`, :mod:`theater_tcp.guest.entrance`). The host writes there
what it passes, and reads there what the guest sends. The copying between the stage and the guest's own memory is done
in wasm, where it takes no call of a host function, which costs more than a microsecond.

A guest may yield inside of its ``cabi_realloc``, with what is for it still on the stage. The host keeps that for it
then, as an operating system keeps registers; :data:`PENDING` says whether there is something to keep.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "DIRECT",
    "FIRST",
    "FIRST_SIZE",
    "HEADER",
    "ID_SIZE",
    "NOTHING",
    "OUT",
    "OUT_SIZE",
    "PENDING",
    "READY",
    "SECOND",
    "SENT",
    "STAGE",
    "WORDS",
]


class StageType(NamedTuple):
    """How the two modules import it.

    Args:
        name: within the host's module.
        pages: of 64 KiB.
    """

    name: str
    pages: int

    def type(self, called: str) -> str:
        """Its type in WebAssembly's text format, with a name for it there."""
        return f"(memory {called} {self.pages} {self.pages} shared)"


STAGE = StageType("stage", 5)

# The words at its begin, 4 bytes each.
SENT = 0
"""Bytes that the guest sent, at :data:`OUT`."""
DIRECT = 4
"""Whether what the guest sends over the connection whose id is at :data:`FIRST` may be staged."""
READY = 8
"""Whether a ``receive`` is likely to find data at once, so that the host is asked before the guest is suspended."""
PENDING = 12
"""Where what is staged for the guest ends; 0 when the guest has it, or when nothing is staged."""

WORDS = struct.Struct("<4I")
"""The four words."""

HEADER = struct.Struct("<10I")
"""The four words, and for an export's two arguments size in bytes, alignment, and length as it is passed."""

NOTHING = 0xFFFFFFFF
"""The size of the second argument where there is none."""

FIRST = 64
"""Where the first argument of an export is, mostly the id of a connection."""
SECOND = 4096
"""Where the second argument is, or data that was received: at the begin of a page, where the kernel copies fastest. To
have it read 64 KiB straight into a block of the guest's, which begins anywhere, took a quarter longer than this and the
copy in wasm together."""
OUT = SECOND + (256 << 10)
"""Where the bytes are that the guest sent."""

FIRST_SIZE = SECOND - FIRST
OUT_SIZE = (STAGE.pages << 16) - OUT

ID_SIZE = 45
"""Bytes of a connection's id, a URN."""
