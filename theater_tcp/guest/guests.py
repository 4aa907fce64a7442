"""The guests of one runtime: compiled once, and started as actors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka

from theater_tcp.errors import BlockingCall, InvalidArgument
from theater_tcp.event_loop import running_loop
from theater_tcp.fields import check_field
from theater_tcp.guest.compile_cache import cache_for
from theater_tcp.guest.engine import Engine
from theater_tcp.guest.guest_actor import GuestActor
from theater_tcp.guest.guest_server import GuestServer
from theater_tcp.guest.interface import TAKES_CONNECTIONS
from theater_tcp.guest_settings import GuestOptions, read_guest_file

if TYPE_CHECKING:
    from theater_tcp.guest.guest_actor import GuestProgram
    from theater_tcp.settings import Settings

__all__ = ["Guests"]


class Guests:
    """What a runtime has for guests.

    Args:
        name: names the thread that watches over their time.
        settings: the runtime's.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.engine = Engine(name, settings.guest_stack, cache_for(settings.guest_cache))

    def load(self, guest: str | Path | bytes | GuestProgram, grants: Collection[str] = ()) -> GuestProgram:
        """A compiled guest.

        Args:
            guest: the path of a file, or what is in it: a core module or a component. Or what this gave before, which
                has its grants.
            grants: the interfaces that it may import beyond ``tcp``, ``tcp-ext`` and ``runtime``.

        Raises:
            InvalidArgument: there is no such file, it is no guest, or it imports what isn't granted.
            BlockingCall: on an event loop's thread; compiling takes milliseconds to seconds.
        """
        if not isinstance(guest, (str, Path, bytes)):
            if self.engine.has(guest):
                return guest
            raise InvalidArgument("a guest is a path, bytes, or what load_guest of this Theater gave")
        check_field(GuestOptions, "grants", grants)
        if running_loop() is not None:
            raise BlockingCall("a guest is compiled on another thread: `await self.to_thread(theater.load_guest, ...)`")
        content, name = (guest, "") if isinstance(guest, bytes) else (read_guest_file(Path(guest)), f"{guest}: ")
        try:
            return self.engine.load(content, grants)
        except InvalidArgument as error:
            raise InvalidArgument(f"{name}{error.detail}") from None

    def actor_for(
        self, program: GuestProgram, config: bytes, options: GuestOptions
    ) -> tuple[type[pykka.Actor], tuple[Any, ...]]:
        """The class and the arguments of the actor to spawn for a guest."""
        arguments = (options.name, program, config, options.limits)
        if not options.per_connection:
            return GuestActor, arguments
        if not program.exports & TAKES_CONNECTIONS:
            raise InvalidArgument("it exports neither handle-connection-transfer nor handle-connection")
        return GuestServer, (*arguments, options.pool, options.recycle_after)

    def close(self) -> None:
        """End what runs for it."""
        self.engine.close()
