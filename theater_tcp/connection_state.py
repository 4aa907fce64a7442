"""What a connection may do when: the one table of phases, and the data mode with its count.

Pure: no socket, no thread, no clock. Nothing else assigns a phase or a mode. An event that the table does not allow
raises the error that the table names, and changes nothing.

Phases: ``PENDING → OPEN → CLOSING → CLOSED``. The interface calls an open connection "active"; whether it *pushes* data
is its mode. ``CLOSING`` is the time between the decision to end (by the owner's ``close``, or by a failure that the
owner is still to hear of) and the release of the socket.
"""

from __future__ import annotations

from enum import Enum

from theater_tcp.errors import AlreadyActive, Closed, InvalidArgument, NotFound, Pending, TheaterError, WrongMode

__all__ = ["MAX_COUNT", "REFUSALS", "TRANSITIONS", "ConnectionState", "Event", "Mode", "Phase", "parse_mode"]

MAX_COUNT = 32767
"""The largest ``count(n)``, as Erlang's ``{active, N}`` has it."""


class Phase(Enum):
    """Where a connection is in its life."""

    __hash__ = object.__hash__  # members are unique; Enum's own hash is a Python function, 10 calls a connection

    PENDING = "pending"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Mode(Enum):
    """How an open connection hands over its data."""

    PASSIVE = "passive"
    ACTIVE = "active"
    ONCE = "once"
    COUNT = "count"


class Event(Enum):
    """What happens to a connection: the calls of its owner, and the two ends."""

    __hash__ = object.__hash__  # as above

    ACTIVATE = "activate"
    SET_ACTIVE = "set-active"
    TRANSFER = "transfer"
    SEND = "send"
    RECEIVE = "receive"
    SHUTDOWN_WRITE = "shutdown-write"
    CLOSE = "close"
    ABORT = "abort"
    FAIL = "fail"
    RELEASE = "release"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.PENDING, Event.ACTIVATE): Phase.OPEN,
    (Phase.PENDING, Event.TRANSFER): Phase.OPEN,
    (Phase.PENDING, Event.CLOSE): Phase.CLOSING,
    (Phase.PENDING, Event.ABORT): Phase.CLOSING,
    (Phase.PENDING, Event.FAIL): Phase.CLOSING,
    (Phase.OPEN, Event.SET_ACTIVE): Phase.OPEN,
    (Phase.OPEN, Event.TRANSFER): Phase.OPEN,
    (Phase.OPEN, Event.SEND): Phase.OPEN,
    (Phase.OPEN, Event.RECEIVE): Phase.OPEN,
    (Phase.OPEN, Event.SHUTDOWN_WRITE): Phase.OPEN,
    (Phase.OPEN, Event.CLOSE): Phase.CLOSING,
    (Phase.OPEN, Event.ABORT): Phase.CLOSING,
    (Phase.OPEN, Event.FAIL): Phase.CLOSING,
    (Phase.CLOSING, Event.RECEIVE): Phase.CLOSING,
    (Phase.CLOSING, Event.FAIL): Phase.CLOSING,
    (Phase.CLOSING, Event.RELEASE): Phase.CLOSED,
}
"""The phase after each allowed event."""

REFUSALS: dict[tuple[Phase, Event], type[TheaterError]] = {
    (Phase.PENDING, Event.SET_ACTIVE): Pending,
    (Phase.PENDING, Event.SEND): Pending,
    (Phase.PENDING, Event.RECEIVE): Pending,
    (Phase.PENDING, Event.SHUTDOWN_WRITE): Pending,
    (Phase.PENDING, Event.RELEASE): WrongMode,
    (Phase.OPEN, Event.ACTIVATE): AlreadyActive,
    (Phase.OPEN, Event.RELEASE): WrongMode,
    **{(Phase.CLOSING, event): Closed for event in Event if event not in (Event.RECEIVE, Event.FAIL, Event.RELEASE)},
    **{(Phase.CLOSED, event): NotFound for event in Event},
}
"""The error for each event that is not allowed. Together with :data:`TRANSITIONS` it covers every cell."""


class ConnectionState:
    """Phase and data mode of one connection."""

    __slots__ = ("count", "mode", "phase")

    def __init__(self, phase: Phase = Phase.PENDING) -> None:
        self.phase = phase
        self.mode = Mode.PASSIVE
        self.count = 0
        """Chunks still to hand over in mode ``COUNT``."""

    def __repr__(self) -> str:
        mode = f"count({self.count})" if self.mode is Mode.COUNT else self.mode.value
        return f"<{self.phase.value} {mode}>"

    @property
    def pushes(self) -> bool:
        """Whether data goes to the owner's callback without being asked for."""
        return self.phase is Phase.OPEN and self.mode is not Mode.PASSIVE

    def check(self, event: Event) -> Phase:
        """The phase after ``event``, which does not happen yet.

        Raises:
            TheaterError: the table refuses the event, by the class in :data:`REFUSALS`; or data is pushed and the
                event is a ``receive`` (:class:`WrongMode`).
        """
        phase = TRANSITIONS.get((self.phase, event))
        if phase is None:
            raise REFUSALS[self.phase, event]()
        if event is Event.RECEIVE and self.pushes:
            raise WrongMode(f"receive while the mode is {self.mode.value!r}")
        return phase

    def apply(self, event: Event) -> None:
        """Let ``event`` happen. Errors as :meth:`check`; whoever gets a connection by transfer finds it passive."""
        phase = TRANSITIONS.get((self.phase, event))
        self.phase = self.check(event) if phase is None or event is Event.RECEIVE else phase
        if event is Event.TRANSFER:
            self.mode, self.count = Mode.PASSIVE, 0

    def set_mode(self, mode: Mode, count: int = 0) -> None:
        """Change the data mode.

        Args:
            mode: the new mode; from every mode to every mode.
            count: for ``COUNT``, the chunks to hand over, 1 to :data:`MAX_COUNT`.
        """
        if self.phase is not Phase.OPEN:
            self.apply(Event.SET_ACTIVE)
        self.mode, self.count = mode, count

    def hand_over(self) -> bool:
        """One chunk goes to the owner's callback; to be called before the callback starts.

        Returns:
            whether the count ran out with it, so that the owner is to hear that the connection is passive.
        """
        if self.mode is Mode.ONCE:
            self.mode = Mode.PASSIVE
        elif self.mode is Mode.COUNT:
            self.count -= 1
            if self.count == 0:
                self.mode = Mode.PASSIVE
                return True
        return False


_MODES = {"passive": (Mode.PASSIVE, 0), "active": (Mode.ACTIVE, 0), "once": (Mode.ONCE, 0)}


def parse_mode(mode: str | int) -> tuple[Mode, int]:
    """The mode and count that a caller's argument means.

    Args:
        mode: ``"passive"``, ``"active"``, ``"once"``, or the n of ``count(n)``, 1 to :data:`MAX_COUNT`.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(mode, str):
        known = _MODES.get(mode)
        if known is not None:
            return known
    elif isinstance(mode, int) and not isinstance(mode, bool) and 1 <= mode <= MAX_COUNT:
        return Mode.COUNT, mode
    raise InvalidArgument(f"mode {mode!r} is not 'passive', 'active', 'once' or a count from 1 to {MAX_COUNT}")
