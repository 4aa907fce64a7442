"""What a connection puts into its owner's mailbox: one kind of message, which says whose turn it is.

The message carries no data. A connection has at most one :class:`Turn` on its way, and says what it is about only when
the owner begins to handle it: bytes stay with the connection (in fact with the kernel) until that moment, and a turn
that has lost its reason meanwhile, by a change of mode or of owner, is about nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from theater_tcp.owned_stream import OwnedStream

__all__ = ["Callback", "Turn"]


class Turn:
    """It is the owner's turn to hear of ``connection``. Valid for as long as the connection knows it."""

    __slots__ = ("connection",)

    def __init__(self, connection: OwnedStream) -> None:
        self.connection = connection

    def __repr__(self) -> str:
        return f"<Turn of {self.connection}>"


class Callback(NamedTuple):
    """A call of one of the owner's callbacks."""

    name: str
    arguments: tuple[Any, ...]
