"""Who owns which connections and listeners; how an owner is told; what its end means for them."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pykka
from pykka.messages import ProxyCall

from theater_tcp.errors import InvalidArgument, LimitReached, NoSuchActor

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.actor import LoopActor
    from theater_tcp.connection import Connection
    from theater_tcp.log_allowance import LogAllowance
    from theater_tcp.messages import Turn
    from theater_tcp.settings import Settings

__all__ = ["CALLBACKS", "Owner", "Ownership", "own_settings"]

logger = logging.getLogger("theater_tcp.permissions")

own_settings: ContextVar[Settings | None] = ContextVar("own_settings", default=None)
"""What the actor that is being made has for settings, where they are not the runtime's."""

CALLBACKS = (
    "handle_connection",
    "handle_connection_transfer",
    "on_data",
    "on_passive",
    "on_tls",
    "on_close",
    "on_drain",
)
"""What an owner may implement; all of it is optional."""


class Owner:
    """An actor in its capacity of owning connections and listeners.

    Args:
        actor: the actor.
        heard: which of :data:`CALLBACKS` it implements.
        handle_for: makes the handle by which it operates a connection, valid as long as it owns that.
        loop_actor: the actor again if it lives on the runtime's loop, else None.
        settings: what its connections and listeners have where it says nothing else.

    ``drain`` is called at once when the runtime is about to end, where ``on_drain`` would wait for its turn;
    ``max_connections`` is how many connections it may be handed to have; None is without limit.
    ``refusals`` is how much may be logged of what it was not permitted, as soon as there is something.
    ``name`` is what it is called beside its URN, where it has a name.
    """

    __slots__ = (
        "__weakref__",
        "actor",
        "alive",
        "connections",
        "drain",
        "handle_for",
        "heard",
        "listeners",
        "loop_actor",
        "max_connections",
        "name",
        "refusals",
        "settings",
    )

    def __init__(
        self,
        actor: pykka.Actor,
        heard: frozenset[str],
        handle_for: Callable[[Connection], Any],
        loop_actor: LoopActor | None,
        settings: Settings,
    ) -> None:
        self.actor = actor
        self.settings = settings
        self.heard = heard
        self.loop_actor = loop_actor
        self.alive = True
        self.name: str | None = None
        self.max_connections: int | None = None
        self.refusals: LogAllowance | None = None
        self.drain: Callable[[], None] | None = None
        self.connections: dict[Connection, None] = {}
        self.listeners: dict[str, Any] = {}
        self.handle_for = handle_for

    def __str__(self) -> str:
        return str(self.actor)

    @property
    def is_full(self) -> bool:
        """Whether it has as many connections as it may have."""
        return self.max_connections is not None and len(self.connections) >= self.max_connections

    def lost_connection(self) -> None:
        """A connection isn't this owner's any more: its listeners may have waited for that."""
        for listener in self.listeners.values():
            listener.resume()

    def tell_refusals(self) -> None:
        """Log how many refusals were not logged since the last time."""
        dropped = self.refusals.dropped() if self.refusals is not None else 0
        if dropped:
            logger.warning("%s: %d refusals were not logged", self, dropped)

    def hears(self, callback: str) -> bool:
        """Whether the actor implements a callback."""
        return callback in self.heard

    def takes_transfers(self) -> str:
        """The callback that tells this owner of a connection that was handed to it.

        Raises:
            NoSuchActor: it has none, or its life is over.
            LimitReached: it has as many connections as it may have.
        """
        if self.is_full:
            raise LimitReached(f"{self} has {self.max_connections} connections already")
        if self.alive and self.actor.actor_ref.is_alive():
            for callback in ("handle_connection_transfer", "handle_connection"):
                if callback in self.heard:
                    return callback
            raise NoSuchActor(f"{self} has neither handle_connection_transfer nor handle_connection")
        raise NoSuchActor(str(self))

    def tell(self, turn: Turn) -> bool:
        """Put a turn into the actor's mailbox; whether it still takes one."""
        if not self.alive:
            return False
        try:
            self.actor.actor_ref.tell(ProxyCall(attr_path=("tcp_turn",), args=(turn,), kwargs={}))
        except pykka.ActorDeadError:
            return False
        return True


class Ownership:
    """The owners of one runtime. All on the loop's thread, but for :meth:`enrol`.

    Args:
        settings: what an owner has that has no settings of its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Weak, so that an actor whose constructor raised after it was enrolled leaves nothing behind.
        self._owners: WeakValueDictionary[str, Owner] = WeakValueDictionary()
        self._names: dict[str, str] = {}
        self._heard_by_class: dict[type, frozenset[str]] = {}

    def enrol(self, actor: pykka.Actor, handle_for: Callable[[Connection], Any], loop_actor: LoopActor | None) -> Owner:
        """Make an actor known as a possible owner. Any thread may ask."""
        cls = type(actor)
        heard = self._heard_by_class.get(cls)
        if heard is None:
            heard = frozenset(name for name in CALLBACKS if callable(getattr(cls, name, None)))
            self._heard_by_class[cls] = heard
        settings = own_settings.get() or self._settings
        owner = self._owners[actor.actor_urn] = Owner(actor, heard, handle_for, loop_actor, settings)
        return owner

    def name(self, name: str, urn: str) -> None:
        """Let an actor be found by a name too, for as long as it lives."""
        owner = self._owners.get(urn)
        if owner is not None:
            owner.name = name
            self._names[name] = urn

    def refuse_name(self, name: str) -> None:
        """Refuse a name that a living actor has.

        Raises:
            InvalidArgument: one has it.
        """
        if self._names.get(name) in self._owners:
            raise InvalidArgument(f"name: {name!r} is another actor's")

    def resolve(self, target: pykka.ActorRef[Any] | str) -> Owner:
        """The owner that a reference, a URN or a name means.

        Raises:
            InvalidArgument: it is none of them.
            NoSuchActor: it is dead or unknown here.
        """
        if isinstance(target, pykka.ActorProxy):
            target = target.actor_ref
        urn = target.actor_urn if isinstance(target, pykka.ActorRef) else target
        if not isinstance(urn, str):
            shown = f"the class {target.__name__}" if isinstance(target, type) else type(target).__name__
            raise InvalidArgument(f"a connection goes to an actor's reference, URN or name, not to {shown}")
        owner = self._owners.get(urn) or self._owners.get(self._names.get(urn, ""))
        if owner is None:
            raise NoSuchActor(urn)
        return owner

    def owners(self) -> list[Owner]:
        """All owners whose life is not over."""
        return [owner for ref in self._owners.valuerefs() if (owner := ref()) is not None]

    def ended(self, owner: Owner) -> None:
        """An actor's life is over: its connections and listeners are closed, and no one else's."""
        owner.alive = False
        owner.tell_refusals()
        self._owners.pop(owner.actor.actor_urn, None)
        if owner.name is not None and self._names.get(owner.name) == owner.actor.actor_urn:
            del self._names[owner.name]
        for listener in list(owner.listeners.values()):
            listener.owner_ended()
        for connection in list(owner.connections):
            connection.owner_ended()
