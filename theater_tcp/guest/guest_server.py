"""One guest for each connection: the runtime accepts, makes a guest or takes a warm one, and hands the connection over.

The server owns the listeners. It never waits for a guest: a connection stays pending until its guest has started, and
others are served meanwhile. A guest that crashes takes its one connection with it, and nothing else.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import pykka

from theater_tcp.errors import LimitReached, NoSuchActor, TheaterError
from theater_tcp.future import Future
from theater_tcp.guest.guest_actor import GuestActor
from theater_tcp.ownership import own_settings
from theater_tcp.tcp import TcpActor

if TYPE_CHECKING:
    from theater_tcp.guest.guest_actor import GuestProgram
    from theater_tcp.guest_settings import Limits
    from theater_tcp.tcp import ConnectionHandle

__all__ = ["GuestServer"]

logger = logging.getLogger("theater_tcp.guest")


class GuestServer(TcpActor):
    """Serves each connection by a guest of its own.

    Args:
        name: what the log calls the guests.
        program: what they run.
        config: for the ``init`` of each.
        limits: what each may use.
        pool: how many guests are kept warm.
        recycle_after: connections that a guest serves, one after the other, before it is replaced; its memory is kept
            between them.
    """

    def __init__(
        self, name: str, program: GuestProgram, config: bytes, limits: Limits, pool: int = 0, recycle_after: int = 1
    ) -> None:
        super().__init__()
        self.guest_name = name
        self._program = program
        self._config = config
        self._limits = limits
        self._pool = pool
        self._recycle_after = recycle_after if pool else 1
        self._warm: deque[pykka.ActorRef[GuestActor]] = deque()
        self._dismissed: set[pykka.ActorRef[GuestActor]] = set()  # whose end is no loss

    @property
    def road(self) -> str:
        """By which road the guests run."""
        return self._program.road_name

    async def on_start(self) -> None:  # type: ignore[override]
        """Warm up. One guest is made in any case, so that one which can't start is told of now."""
        for _ in range(max(self._pool, 1)):
            self._warm.append(await self._make())
        if not self._pool:
            self._warm.pop().stop(block=False)

    def handle_connection(self, connection: ConnectionHandle) -> None:
        """A listener accepted a connection."""
        self._serve(connection)

    def handle_connection_transfer(self, connection: ConnectionHandle) -> None:
        """Somebody handed a connection over."""
        self._serve(connection)

    def on_drain(self) -> None:
        """The runtime is about to end: nobody will want a warm guest, which may have connections of its own."""
        while self._warm:
            self._warm.popleft().stop(block=False)

    def on_stop(self) -> None:
        """The server's end: nobody will want a warm guest. One that serves a connection goes on with it."""
        self.on_drain()

    def connection_done(self, guest: GuestActor) -> None:
        """A guest has no connection any more: back among the warm ones, or to its end."""
        self._keep(guest.actor_ref, guest.connections_served < self._recycle_after)

    def guest_ended(self, guest: GuestActor) -> None:
        """A guest has come to its end: a warm one is made in its place.

        Not for one that has served nobody: the next might end like that too, again and again. It is made when the next
        connection comes.
        """
        if guest.actor_ref in self._dismissed:
            self._dismissed.remove(guest.actor_ref)
            return
        if guest.actor_ref in self._warm:
            self._warm.remove(guest.actor_ref)
        if guest.connections_served:
            self._refill()

    @property
    def _has_room(self) -> bool:
        """Whether one more warm guest is wanted."""
        return len(self._warm) < self._pool and not (self._theater.network.draining or self.actor_stopped.is_set())

    def _keep(self, guest: pykka.ActorRef[GuestActor], good: bool = True) -> None:
        if good and self._has_room:
            self._warm.append(guest)
            return
        self._dismissed.add(guest)
        guest.stop(block=False)
        if not good:
            self._refill()

    def _serve(self, connection: ConnectionHandle) -> None:
        while self._warm:
            if self._hand_over(connection, self._warm.popleft()) is None:
                return
        made = self._make()

        def hand_over(_: Future[pykka.ActorRef[Any]]) -> None:
            failure: Exception | None
            try:
                failure = self._hand_over(connection, made.get())
            except Exception as error:  # its own log line says more
                failure = error
            if failure is not None:
                logger.error("%s: no guest for a connection: %s", self.guest_name, failure)
                self._abort(connection)

        made.on_done(hand_over)

    def _hand_over(self, connection: ConnectionHandle, guest: pykka.ActorRef[GuestActor]) -> TheaterError | None:
        """Hand a connection to a guest; what stands against it if the connection still wants another one."""
        try:
            connection.transfer(guest)
        except NoSuchActor as error:  # it has ended, before it could serve anybody
            return error
        except LimitReached as error:  # by what it has open by itself
            self._keep(guest, good=False)
            return error
        except TheaterError as error:
            logger.debug("%s: a connection was gone before its guest was there: %s", self.guest_name, error)
            self._keep(guest)
        return None

    @staticmethod
    def _abort(connection: ConnectionHandle) -> None:
        try:
            connection.abort()
        except TheaterError:
            pass  # it is gone

    def _make(self) -> Future[pykka.ActorRef[GuestActor]]:
        token = own_settings.set(self._theater_owner.settings)
        try:
            return self._theater.spawn_async(
                GuestActor, self.guest_name, self._program, self._config, self._limits, self
            )
        except TheaterError as error:
            failed: Future[pykka.ActorRef[GuestActor]] = Future()
            failed.set_exception_value(error)
            return failed
        finally:
            own_settings.reset(token)

    def _refill(self) -> None:
        if not self._has_room:
            return
        made = self._make()

        def keep(_: Future[pykka.ActorRef[Any]]) -> None:
            try:
                guest = made.get()
            except Exception as error:
                logger.error("%s: no warm guest: %s", self.guest_name, error)
            else:
                self._keep(guest)

        made.on_done(keep)
