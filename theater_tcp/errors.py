"""The errors of the interface: one base class, one class for each stable kind.

::

    TheaterError
    ├── NotFound            not-found             no connection or listener of that id (any more)
    ├── NotOwner            not-owner             the caller does not own it
    ├── Pending             pending               not activated yet
    ├── AlreadyActive       already-active        activated before; harmless
    ├── AlreadyTls          already-tls           the bytes are encrypted already
    ├── WrongMode           wrong-mode            the call does not fit the data mode
    ├── Busy                busy                  another call of the kind is under way
    ├── Closed              closed                closing or closed
    ├── EndOfStream         eof                   the peer sent its last byte
    ├── Reset               reset                 the peer (or the network) cut the connection
    ├── Refused             refused               nobody listens at the address
    ├── Unreachable         unreachable           no route, or the name does not resolve
    ├── TimedOut            timeout               a deadline passed
    ├── TlsFailed           tls                   handshake or record failure
    ├── TlsTruncated        tls-truncated         TLS ended without close_notify
    ├── TlsNotConfigured    tls-not-configured    no certificate or no TLS settings
    ├── PlaintextBeforeTls  plaintext-before-tls  bytes slipped in before the handshake
    ├── AddressInUse        address-in-use        somebody listens there already
    ├── NoSuchActor         no-such-actor         dead, unknown, or not able to take a connection
    ├── Denied              denied                the permissions do not allow it
    ├── LimitReached        limit                 a configured limit
    ├── InvalidArgument     invalid               an argument or a setting of the wrong form
    ├── IoFailed            io                    another failure of the operating system
    ├── CallbackFailed      callback              a callback of the owner raised
    └── ShutDown            shutdown              the runtime is going down

``str(error)`` is ``kind`` or ``kind: detail``, the text that a guest gets in ``result<_, string>``. Kinds are
stable, details are not. Errors of the operating system are mapped once, by :func:`from_os_error`, where they enter.
"""

from __future__ import annotations

import errno
import socket
from typing import ClassVar

__all__ = [
    "AddressInUse",
    "AlreadyActive",
    "AlreadyTls",
    "BlockingCall",
    "Busy",
    "CallbackFailed",
    "Closed",
    "Denied",
    "EndOfStream",
    "InvalidArgument",
    "IoFailed",
    "LimitReached",
    "NoSuchActor",
    "NotFound",
    "NotOwner",
    "Pending",
    "PlaintextBeforeTls",
    "Refused",
    "Reset",
    "ShutDown",
    "TheaterError",
    "TimedOut",
    "TlsFailed",
    "TlsNotConfigured",
    "TlsTruncated",
    "Unreachable",
    "WrongMode",
    "WrongThread",
    "by_kind",
    "from_os_error",
]


class TheaterError(Exception):
    """Base of every error of the interface.

    Args:
        detail: what exactly, in one line; empty where the kind says all.
    """

    kind: ClassVar[str] = "io"

    def __init__(self, detail: str = "") -> None:
        if not detail.isprintable():  # what a caller or a peer named may hold line breaks: an error is one line
            detail = detail.encode("unicode_escape").decode("ascii")
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class NotFound(TheaterError):
    """No connection or listener of that id, or it has ended."""

    kind = "not-found"


class NotOwner(TheaterError):
    """The caller does not own the connection or listener."""

    kind = "not-owner"


class Pending(TheaterError):
    """The connection has not been activated yet."""

    kind = "pending"


class AlreadyActive(TheaterError):
    """The connection was activated before. Harmless."""

    kind = "already-active"


class AlreadyTls(TheaterError):
    """The connection is encrypted already."""

    kind = "already-tls"


class WrongMode(TheaterError):
    """The call does not fit the data mode, as ``receive`` while data is pushed."""

    kind = "wrong-mode"


class Busy(TheaterError):
    """Another call of the kind is under way."""

    kind = "busy"


class Closed(TheaterError):
    """The connection or listener is closing or closed."""

    kind = "closed"


class EndOfStream(TheaterError):
    """The peer sent its last byte."""

    kind = "eof"


class Reset(TheaterError):
    """The peer or the network cut the connection."""

    kind = "reset"


class Refused(TheaterError):
    """Nobody listens at the address."""

    kind = "refused"


class Unreachable(TheaterError):
    """There is no route to the address, or its name does not resolve."""

    kind = "unreachable"


class TimedOut(TheaterError):
    """A deadline passed."""

    kind = "timeout"


class TlsFailed(TheaterError):
    """A TLS handshake or record failed."""

    kind = "tls"


class TlsTruncated(TheaterError):
    """The TLS stream ended without close_notify (RFC 8446, 6.1)."""

    kind = "tls-truncated"


class TlsNotConfigured(TheaterError):
    """An upgrade was asked for, and no TLS is configured."""

    kind = "tls-not-configured"


class PlaintextBeforeTls(TheaterError):
    """Unread plaintext was there when the upgrade began: an injection."""

    kind = "plaintext-before-tls"


class AddressInUse(TheaterError):
    """Somebody listens at the address already."""

    kind = "address-in-use"


class NoSuchActor(TheaterError):
    """The target is dead, unknown, or can't take a connection."""

    kind = "no-such-actor"


class Denied(TheaterError):
    """The permissions do not allow it."""

    kind = "denied"


class LimitReached(TheaterError):
    """A configured limit was reached."""

    kind = "limit"


class InvalidArgument(TheaterError):
    """An argument or a setting has the wrong form."""

    kind = "invalid"


class IoFailed(TheaterError):
    """Another failure of the operating system."""

    kind = "io"


class CallbackFailed(TheaterError):
    """A callback of the owner raised.

    Args:
        detail: see :class:`TheaterError`.
        cause: the kind of the error that the callback was told and passed on, if it was that.
    """

    kind = "callback"

    def __init__(self, detail: str = "", cause: str = "") -> None:
        super().__init__(detail)
        self.cause = cause


class ShutDown(TheaterError):
    """The runtime is going down or has gone."""

    kind = "shutdown"


class BlockingCall(RuntimeError):
    """A wait on the event loop's own thread, which would never end. A mistake in the program, so it has no kind."""


class WrongThread(RuntimeError):
    """A call for the event loop's own thread, made on another one. A mistake in the program, so it has no kind."""


by_kind: dict[str, type[TheaterError]] = {cls.kind: cls for cls in TheaterError.__subclasses__()}
"""The class for each kind."""


_BY_ERRNO: dict[int, type[TheaterError]] = {
    errno.ECONNREFUSED: Refused,
    errno.ECONNRESET: Reset,
    errno.ECONNABORTED: Reset,
    errno.EPIPE: Reset,
    errno.ENOTCONN: Reset,
    errno.ESHUTDOWN: Reset,
    errno.ETIMEDOUT: TimedOut,
    errno.EHOSTUNREACH: Unreachable,
    errno.ENETUNREACH: Unreachable,
    errno.ENETDOWN: Unreachable,
    errno.EHOSTDOWN: Unreachable,
    errno.EADDRINUSE: AddressInUse,
    errno.EMFILE: LimitReached,
    errno.ENFILE: LimitReached,
    errno.EADDRNOTAVAIL: InvalidArgument,
    errno.EAFNOSUPPORT: InvalidArgument,
}


def from_os_error(error: OSError, what: str = "") -> TheaterError:
    """The error of the interface for one of the operating system.

    Args:
        error: what the system call raised.
        what: the thing it happened to (an address, a path); it goes into the detail.
    """
    if isinstance(error, socket.gaierror):  # its numbers are of getaddrinfo, not errno's
        return Unreachable(": ".join(filter(None, (what, (error.strerror or "name resolution failed").lower()))))
    cls = _BY_ERRNO.get(error.errno or 0, IoFailed)
    reason = (error.strerror or str(error)).lower() if cls in (IoFailed, InvalidArgument, LimitReached) else ""
    return cls(": ".join(filter(None, (what, reason))))
