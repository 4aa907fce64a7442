"""What a connection may do when: the one table of phases, and the data mode with its count.

Pure: no socket, no thread, no clock. Nothing else assigns a phase or a mode. An event that the table does not allow
raises the error that the table names, and changes nothing.

Phases: ``PENDING → OPEN → CLOSING → CLOSED``, with ``UPGRADING`` between two stretches of ``OPEN``, and ``HANDSHAKING``
before ``PENDING`` where TLS begins with the first byte. The interface calls an open connection "active"; whether it
*pushes* data is its mode. ``CLOSING`` is the time between the decision to end (by the owner's ``close``, or by a
failure that the owner is still to hear of) and the release of the socket. The epoch counts the handshakes: 0 is
plaintext.
"""

from __future__ import annotations

from enum import Enum

from theater_tcp.errors import (
    AlreadyActive,
    AlreadyTls,
    Busy,
    Closed,
    InvalidArgument,
    NotFound,
    Pending,
    TheaterError,
    WrongMode,
)

__all__ = [
    "ABORT",
    "ACTIVATE",
    "ACTIVE",
    "CLOSE",
    "CLOSED",
    "CLOSING",
    "COUNT",
    "FAIL",
    "HANDSHAKING",
    "MAX_COUNT",
    "ONCE",
    "OPEN",
    "PASSIVE",
    "PENDING",
    "RECEIVE",
    "REFUSALS",
    "RELEASE",
    "SECURE",
    "SEND",
    "SET_ACTIVE",
    "SHUTDOWN_WRITE",
    "TRANSFER",
    "TRANSITIONS",
    "UPGRADE",
    "UPGRADING",
    "ConnectionState",
    "Event",
    "Mode",
    "Phase",
    "parse_mode",
]

MAX_COUNT = 32767
"""The largest ``count(n)``, as Erlang's ``{active, N}`` has it."""


class Phase(Enum):
    """Where a connection is in its life."""

    __hash__ = object.__hash__  # members are unique; Enum's own hash is a Python function, 10 calls a connection

    HANDSHAKING = "handshaking"
    PENDING = "pending"
    OPEN = "open"
    UPGRADING = "upgrading"
    CLOSING = "closing"
    CLOSED = "closed"


class Mode(Enum):
    """How an open connection hands over its data."""

    PASSIVE = "passive"
    ACTIVE = "active"
    ONCE = "once"
    COUNT = "count"


class Event(Enum):
    """What happens to a connection: the calls of its owner, the end of a TLS handshake, and the two ends."""

    __hash__ = object.__hash__  # as above

    ACTIVATE = "activate"
    SET_ACTIVE = "set-active"
    TRANSFER = "transfer"
    SEND = "send"
    RECEIVE = "receive"
    SHUTDOWN_WRITE = "shutdown-write"
    UPGRADE = "upgrade"
    SECURE = "secure"
    CLOSE = "close"
    ABORT = "abort"
    FAIL = "fail"
    RELEASE = "release"


HANDSHAKING, PENDING, OPEN, UPGRADING, CLOSING, CLOSED = Phase
PASSIVE, ACTIVE, ONCE, COUNT = Mode
ACTIVATE, SET_ACTIVE, TRANSFER, SEND, RECEIVE, SHUTDOWN_WRITE, UPGRADE, SECURE, CLOSE, ABORT, FAIL, RELEASE = Event
"""The members under names of their own: before Python 3.12, ``Phase.OPEN`` is a function call in disguise, and what a
connection does in a millionth of a second asks for a dozen of them."""

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (HANDSHAKING, SECURE): PENDING,
    (HANDSHAKING, CLOSE): CLOSING,
    (HANDSHAKING, ABORT): CLOSING,
    (HANDSHAKING, FAIL): CLOSING,
    (PENDING, ACTIVATE): OPEN,
    (PENDING, TRANSFER): OPEN,
    (PENDING, CLOSE): CLOSING,
    (PENDING, ABORT): CLOSING,
    (PENDING, FAIL): CLOSING,
    (OPEN, SET_ACTIVE): OPEN,
    (OPEN, TRANSFER): OPEN,
    (OPEN, SEND): OPEN,
    (OPEN, RECEIVE): OPEN,
    (OPEN, SHUTDOWN_WRITE): OPEN,
    (OPEN, UPGRADE): UPGRADING,
    (OPEN, CLOSE): CLOSING,
    (OPEN, ABORT): CLOSING,
    (OPEN, FAIL): CLOSING,
    (UPGRADING, SECURE): OPEN,
    (UPGRADING, CLOSE): CLOSING,
    (UPGRADING, ABORT): CLOSING,
    (UPGRADING, FAIL): CLOSING,
    (CLOSING, RECEIVE): CLOSING,
    (CLOSING, FAIL): CLOSING,
    (CLOSING, RELEASE): CLOSED,
}
"""The phase after each allowed event."""

REFUSALS: dict[tuple[Phase, Event], type[TheaterError]] = {
    **{(HANDSHAKING, event): Busy for event in Event if event not in (SECURE, CLOSE, ABORT, FAIL)},
    (PENDING, SET_ACTIVE): Pending,
    (PENDING, SEND): Pending,
    (PENDING, RECEIVE): Pending,
    (PENDING, SHUTDOWN_WRITE): Pending,
    (PENDING, UPGRADE): Pending,
    (PENDING, SECURE): WrongMode,
    (PENDING, RELEASE): WrongMode,
    (OPEN, ACTIVATE): AlreadyActive,
    (OPEN, SECURE): WrongMode,
    (OPEN, RELEASE): WrongMode,
    (UPGRADING, ACTIVATE): AlreadyActive,
    **{(UPGRADING, event): Busy for event in Event if event not in (ACTIVATE, SECURE, CLOSE, ABORT, FAIL)},
    **{(CLOSING, event): Closed for event in Event if event not in (RECEIVE, FAIL, RELEASE)},
    **{(CLOSED, event): NotFound for event in Event},
}
"""The error for each event that is not allowed. Together with :data:`TRANSITIONS` it covers every cell."""


class ConnectionState:
    """Phase, data mode and epoch of one connection."""

    __slots__ = ("count", "epoch", "mode", "phase")

    def __init__(self, phase: Phase = PENDING) -> None:
        self.phase = phase
        self.mode = PASSIVE
        self.count = 0
        """Chunks still to hand over in mode ``COUNT``."""
        self.epoch = 0
        """0 for plaintext, one more with each completed handshake."""

    def __repr__(self) -> str:
        mode = f"count({self.count})" if self.mode is COUNT else self.mode.value
        return f"<{self.phase.value} {mode}>"

    @property
    def pushes(self) -> bool:
        """Whether data goes to the owner's callback without being asked for."""
        return self.phase is OPEN and self.mode is not PASSIVE

    def check(self, event: Event) -> Phase:
        """The phase after ``event``, which does not happen yet.

        Raises:
            TheaterError: the table refuses the event, by the class in :data:`REFUSALS`; or data is pushed and the
                event is a ``receive`` or an upgrade (:class:`WrongMode`); or it is an upgrade of what is encrypted
                already (:class:`AlreadyTls`).
        """
        phase = TRANSITIONS.get((self.phase, event))
        if phase is None:
            raise REFUSALS[self.phase, event]()
        if event is RECEIVE and self.pushes:
            raise WrongMode(f"receive while the mode is {self.mode.value!r}")
        if event is UPGRADE:
            if self.pushes:
                raise WrongMode(f"an upgrade while the mode is {self.mode.value!r}")
            if self.epoch:
                raise AlreadyTls
        return phase

    def apply(self, event: Event) -> None:
        """Let ``event`` happen. Errors as :meth:`check`; whoever gets a connection by transfer finds it passive."""
        phase = TRANSITIONS.get((self.phase, event))
        self.phase = self.check(event) if phase is None or event is RECEIVE or event is UPGRADE else phase
        if event is TRANSFER:
            self.mode, self.count = PASSIVE, 0
        elif event is SECURE:
            self.epoch += 1

    def set_mode(self, mode: Mode, count: int = 0) -> None:
        """Change the data mode.

        Args:
            mode: the new mode; from every mode to every mode.
            count: for ``COUNT``, the chunks to hand over, 1 to :data:`MAX_COUNT`.
        """
        if self.phase is not OPEN:
            self.apply(SET_ACTIVE)
        self.mode, self.count = mode, count

    def hand_over(self) -> bool:
        """One chunk goes to the owner's callback; to be called before the callback starts.

        Returns:
            whether the count ran out with it, so that the owner is to hear that the connection is passive.
        """
        if self.mode is ONCE:
            self.mode = PASSIVE
        elif self.mode is COUNT:
            self.count -= 1
            if self.count == 0:
                self.mode = PASSIVE
                return True
        return False


_MODES = {"passive": (PASSIVE, 0), "active": (ACTIVE, 0), "once": (ONCE, 0)}


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
        return COUNT, mode
    raise InvalidArgument(f"mode {mode!r} is not 'passive', 'active', 'once' or a count from 1 to {MAX_COUNT}")
