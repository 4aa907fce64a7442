"""A guest's linear memory, as the host sees it.

It is one :class:`memoryview` over the guest's pages, whose place never changes (the engine is told so). A slice of it
can't reach outside, so a wrong address of a guest's is an error and nothing else; and it costs a third of what the same
does through ``ctypes``.
"""

from __future__ import annotations

import ctypes

from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.outcome import GuestTrap

__all__ = ["LinearMemory"]

_whole_at = (ctypes.c_ubyte * (1 << 32)).from_address
"""All that a memory can ever have, by its address; of one type, since ctypes makes a class for each other length."""


class LinearMemory:
    """The memory of one instance.

    Args:
        context: of its store; 0 for one that has none yet.
        memory: the address of wasmtime's handle on the memory.
    """

    __slots__ = ("_context", "_memory", "_whole", "base", "view")

    def __init__(self, context: int, memory: int) -> None:
        self._context = context
        self._memory = memory
        self.view = memoryview(b"")
        """The pages that were there when it was looked at last; there may be more by now, never less."""
        self.base: int = 0
        """Where it is in this process; 0 for one that has none yet."""
        if context:
            self.base = inner.memory_base(context, memory) or 0
            self._whole = memoryview(_whole_at(self.base)).cast("B")
            self._look()

    @property
    def size(self) -> int:
        """Bytes that there are now."""
        self._look()
        return len(self.view)

    def read(self, address: int, size: int, what: str = "a list") -> bytes:
        """What the guest passes.

        Raises:
            GuestTrap: it isn't all inside of the memory.
        """
        data = self.view[address : address + size].tobytes()
        if len(data) != size:
            self.check(address, size, what)
            data = self.view[address : address + size].tobytes()
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview, what: str) -> None:
        """Put something where the guest has room for it.

        Raises:
            GuestTrap: it has not.
        """
        try:
            self.view[address : address + len(data)] = data
        except ValueError:
            self.check(address, len(data), what)
            self.view[address : address + len(data)] = data

    def check(self, address: int, size: int, what: str) -> None:
        """See that a place is inside of the memory.

        Raises:
            GuestTrap: it is not.
        """
        if address + size > len(self.view):
            self._look()
            if address + size > len(self.view):
                raise GuestTrap(
                    f"{what} at {address:#x} of {size} bytes is outside of its {len(self.view)} bytes of memory"
                )

    def close(self) -> None:
        """The pages are about to go."""
        self.view = memoryview(b"")
        self._context = 0

    def _look(self) -> None:
        if self._context:
            size = inner.memory_size(self._context, self._memory)
            if size != len(self.view):
                self.view = self._whole[:size]
