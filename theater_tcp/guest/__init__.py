"""WebAssembly guests: what they are, how they run, what they may do.

Nothing of it is loaded before the first guest: :func:`guests_of` is the door.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from theater_tcp.guest.guests import Guests
    from theater_tcp.settings import Settings

__all__ = ["guests_of"]


def guests_of(name: str, settings: Settings) -> Guests:
    """What a runtime has for guests. This loads wasmtime.

    Args:
        name: the runtime's.
        settings: the runtime's.
    """
    guests: Guests = importlib.import_module("theater_tcp.guest.guests").Guests(name, settings)
    return guests
