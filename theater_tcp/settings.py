"""Settings: frozen structs whose fields carry their type, range and unit, checked whenever one is made.

::

    Settings                     the whole runtime
    ├── options: Options         what a connection has where nobody said otherwise; one object for all that agree
    └── listener: ListenOptions  the same for a listener

A field's annotation is the only place where its type and range stand: the check, the error's words and the table in
``docs/configuration.md`` come from it. Outside of Python (manifest, command line) sizes are written as ``64 KiB``,
durations as ``30 s`` and file modes as ``"0660"``; :func:`from_text` turns these into numbers.
"""

from __future__ import annotations

import difflib
import functools
import re
import types
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from theater_tcp.errors import InvalidArgument

__all__ = [
    "MAX_DURATION",
    "MAX_SIZE",
    "ListenOptions",
    "Options",
    "Settings",
    "check_field",
    "did_you_mean",
    "expected",
    "from_text",
    "parse_duration",
    "parse_file_mode",
    "parse_size",
    "unknown_name",
]

MAX_SIZE = 1 << 30
"""The largest size that a setting takes, in bytes: 1 GiB."""

MAX_DURATION = 1_000_000.0
"""The longest duration that a setting takes, in seconds: 11 days. ``epoll_wait`` counts milliseconds in 31 bits."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "K": 1 << 10,
    "KiB": 1 << 10,
    "kB": 1000,
    "M": 1 << 20,
    "MiB": 1 << 20,
    "MB": 1000**2,
    "G": 1 << 30,
    "GiB": 1 << 30,
    "GB": 1000**3,
}
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)", re.ASCII)
_MODE = re.compile(r"(?:0o)?([0-7]{3,4})", re.ASCII)

Size = Annotated[int, Meta(ge=1, le=MAX_SIZE, description="a size of 1 byte to 1 GiB", extra={"unit": "bytes"})]
Duration = Annotated[
    float,
    Meta(gt=0, le=MAX_DURATION, description="a duration above 0 and up to 1000000 s", extra={"unit": "seconds"}),
]
Grace = Annotated[
    float, Meta(ge=0, le=MAX_DURATION, description="a duration of 0 to 1000000 s", extra={"unit": "seconds"})
]
KeepaliveIdle = Annotated[
    int, Meta(ge=1, le=32767, description="true, false, or 1 to 32767 seconds", extra={"unit": "seconds"})
]
Count = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]
Threads = Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")]
Backlog = Annotated[int, Meta(ge=1, le=65535, description="a whole number from 1 to 65535")]
FileMode = Annotated[int, Meta(ge=0, le=0o777, description="a file mode as 0660 (octal)", extra={"unit": "mode"})]
Flag = Annotated[bool, Meta(description="true or false")]


def expected(annotation: Any) -> str:
    """What a field of this annotation takes, in words."""
    words: list[str] = []
    for part in _parts(annotation):
        meta = _meta(part)
        if meta is not None and meta.description:
            words.append(meta.description)
        elif get_origin(part) is Literal:
            words += [repr(choice) for choice in get_args(part)]
        elif part is type(None):
            words.append("null")
        elif isinstance(part, type) and issubclass(part, msgspec.Struct):
            words.append(f"an instance of {part.__name__}")
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def check_field(cls: type[msgspec.Struct], name: str, value: object) -> None:
    """Checks one field's value against its annotation.

    Args:
        cls: the struct that has the field.
        name: the field's name.
        value: in the field's unit.

    Raises:
        InvalidArgument: it has the wrong type, or it is out of range.
    """
    annotation = _annotations(cls)[name]
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        raise InvalidArgument(f"{name}: expected {expected(annotation)}, got {_shown(value)}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the known name that is nearest to a wrong one: `` (did you mean 'x'?)``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_name(name: str, known: Iterable[str]) -> InvalidArgument:
    """The error for a name that no setting has."""
    return InvalidArgument(f"{name}: there is no such setting{did_you_mean(name, known)}")


@functools.cache
def _annotations(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _meta(part: Any) -> Meta | None:
    return next((entry for entry in getattr(part, "__metadata__", ()) if isinstance(entry, Meta)), None)


def _unit(annotation: Any) -> str | None:
    metas = [meta for meta in map(_meta, _parts(annotation)) if meta is not None and meta.extra]
    return metas[0].extra["unit"] if metas and metas[0].extra else None


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        shown = f"a {type(value).__name__} that is too long to show"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


class _Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct that checks each field when it is made, by whichever way."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_field(type(self), name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        """Checks what one field alone can't tell."""

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, in the order of the definition."""
        return cls.__struct_fields__

    def replaced(self, **changes: Any) -> Self:
        """This with other values in some fields; equal changes to one object give one object, so that many share it.

        Args:
            changes: field names and their values, in the units of the fields.

        Raises:
            InvalidArgument: an unknown name (the nearest one is told), a wrong type, a value out of range, or two
                fields that contradict each other.
        """
        if not changes:
            return self
        # By identity and by type: Options(keepalive=1) equals Options(keepalive=True).
        key = (id(self), *((name, type(value), value) for name, value in changes.items()))
        try:
            known = _replaced.get(key)
        except TypeError:  # unhashable, so it is no value of ours: refused below
            known = None
        if known is not None:
            return cast("Self", known[1])
        for name in changes:
            if name not in self.__struct_fields__:
                raise unknown_name(name, self.__struct_fields__)
        replaced = msgspec.structs.replace(self, **changes)
        if len(_replaced) >= 256:
            _replaced.clear()
        _replaced[key] = (self, replaced)
        return replaced


_replaced: dict[tuple[Any, ...], tuple[_Checked, _Checked]] = {}
"""What :meth:`_Checked.replaced` made of what; it holds the original too, so that no other can get its id."""


class Options(_Checked, frozen=True, kw_only=True):
    """What can be set for each connection. Connections with equal options share one object.

    Args:
        nodelay: send small segments at once (TCP_NODELAY, RFC 896 off).
        keepalive: probe an idle peer (SO_KEEPALIVE, RFC 1122, 4.2.3.6): false, true (the system's times), or after how
            many seconds without traffic the first probe goes out (TCP_KEEPIDLE).
        half_open: the peer's end of stream leaves the connection open for sending until ``close``.
        framing: what one chunk is: ``raw`` (as it comes), ``line`` (up to and with LF), or ``length-1``, ``length-2``,
            ``length-4`` (a big-endian length of so many bytes, which is taken off, and that many bytes).
        max_frame: bytes of the longest line with its end, or of the longest length-prefixed payload; a longer one
            closes the connection with ``limit``. None is ``read_buffer_limit``, and it is never more.
        read_buffer_limit: bytes received and not yet handled, above which the connection stops reading.
        write_buffer_limit: bytes sent and not yet taken by the system, above which senders wait and reading pauses.
        write_buffer_hard_limit: bytes of the same, beyond which ``send`` is ``limit`` and the connection closes.
        pending_timeout: seconds that an accepted connection may stay neither activated nor transferred.
        receive_timeout: seconds that a ``receive`` waits where it names no timeout; None is without end.
        send_timeout: seconds for which a peer may take nothing of what was sent before the connection closes.
        linger_timeout: seconds that ``close`` goes on flushing what was sent.
        idle_timeout: seconds without a byte in either direction after which the connection closes; None is never.
    """

    nodelay: Flag = True
    keepalive: bool | KeepaliveIdle = False
    half_open: Flag = False
    framing: Literal["raw", "line", "length-1", "length-2", "length-4"] = "raw"
    max_frame: Size | None = None
    read_buffer_limit: Size = 256 << 10
    write_buffer_limit: Size = 1 << 20
    write_buffer_hard_limit: Size = 16 << 20
    pending_timeout: Duration = 30.0
    receive_timeout: Duration | None = None
    send_timeout: Duration = 30.0
    linger_timeout: Duration = 5.0
    idle_timeout: Duration | None = None

    def _check_together(self) -> None:
        if self.write_buffer_hard_limit < self.write_buffer_limit:
            raise InvalidArgument(
                f"write_buffer_hard_limit: {self.write_buffer_hard_limit} is below"
                f" write_buffer_limit ({self.write_buffer_limit})"
            )
        if self.max_frame is not None and self.max_frame > self.read_buffer_limit:
            raise InvalidArgument(f"max_frame: {self.max_frame} is above read_buffer_limit ({self.read_buffer_limit})")

    @property
    def frame_limit(self) -> int:
        """Bytes of the longest frame: ``max_frame``, or ``read_buffer_limit`` where it is None."""
        return self.read_buffer_limit if self.max_frame is None else self.max_frame


class ListenOptions(_Checked, frozen=True, kw_only=True):
    """What can be set for each listener.

    Args:
        backlog: connections that the system may hold ready for accepting; the system caps it (net.core.somaxconn).
        max_connections: connections of this listener at one time, pending ones included; None leaves it to the
            runtime's limit.
        at_limit: at the limit, ``pause`` stops accepting and ``refuse`` accepts and resets.
        reuse_port: other processes may listen at the same port, and the system spreads connections (SO_REUSEPORT).
        unix_mode: the mode of a Unix socket's file as a number (0o660); None leaves it to the umask.
    """

    backlog: Backlog = 4096
    max_connections: Count | None = None
    at_limit: Literal["pause", "refuse"] = "pause"
    reuse_port: Flag = False
    unix_mode: FileMode | None = None


class Settings(_Checked, frozen=True, kw_only=True):
    """What can be set for a runtime as a whole.

    Args:
        options: what a connection has where nobody said otherwise.
        listener: what a listener has where nobody said otherwise.
        connect_timeout: seconds that a ``connect`` may take, its name's resolution included.
        connection_attempt_delay: seconds between the attempts at a name's addresses (RFC 8305, 5).
        max_connections: accepted connections of the runtime at one time, pending ones included.
        accept_pause: seconds without accepting after the system ran out of descriptors or memory.
        drain_timeout: seconds that connections may take to end after a request to shut down; 0 aborts them at once.
        resolver_threads: threads for the resolution of names.
        worker_threads: threads for the blocking work of actors.
    """

    options: Options = Options()
    listener: ListenOptions = ListenOptions()
    connect_timeout: Duration = 30.0
    connection_attempt_delay: Duration = 0.25
    max_connections: Count = 10_000
    accept_pause: Duration = 0.1
    drain_timeout: Grace = 30.0
    resolver_threads: Threads = 4
    worker_threads: Threads = 8

    def for_connection(self, **changes: Any) -> Options:
        """The options of a new connection: the runtime's, and what the caller named.

        Raises:
            InvalidArgument: see :meth:`Options.replaced`.
        """
        return self.options.replaced(**changes)

    def for_listener(self, **changes: Any) -> tuple[Options, ListenOptions]:
        """The options of a new listener's connections and its own: the runtime's, and what the caller named.

        Raises:
            InvalidArgument: a name that neither has, or see :meth:`Options.replaced`.
        """
        if not changes:
            return self.options, self.listener
        own = {name: changes.pop(name) for name in ListenOptions.field_names() if name in changes}
        for name in changes:
            if name not in Options.field_names():
                raise unknown_name(name, Options.field_names() + ListenOptions.field_names())
        return self.options.replaced(**changes), self.listener.replaced(**own)


def parse_size(text: str) -> int:
    """The bytes that a text as ``4096``, ``64 KiB``, ``16M`` or ``1.5 MB`` stands for.

    KiB, MiB, GiB and K, M, G are powers of 1024; kB, MB, GB powers of 1000.

    Raises:
        InvalidArgument: it is no size, or no whole number of bytes.
    """
    match = _QUANTITY.fullmatch(text.strip())
    factor = _BYTES.get(match[2] or "B") if match else None
    if match is None or factor is None:
        raise InvalidArgument(f"expected a size as 65536, 64 KiB or 1 MiB, got {_shown(text)}")
    size = Decimal(match[1]) * factor
    if size != int(size):
        raise InvalidArgument(f"expected a whole number of bytes, got {_shown(text)}")
    return int(size)


def parse_duration(text: str) -> float:
    """The seconds that a text as ``30``, ``30 s``, ``100 ms``, ``5 min``, ``2 h`` or ``1 d`` stands for.

    Raises:
        InvalidArgument: it is no duration.
    """
    match = _QUANTITY.fullmatch(text.strip())
    factor = _SECONDS.get(match[2] or "s") if match else None
    if match is None or factor is None:
        raise InvalidArgument(f"expected a duration as 30, 30 s, 100 ms or 5 min, got {_shown(text)}")
    return float(match[1]) * factor


def parse_file_mode(text: str) -> int:
    """The mode that an octal text as ``0660``, ``660`` or ``0o660`` stands for.

    Raises:
        InvalidArgument: it is no mode.
    """
    match = _MODE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"expected a file mode as '0660' (octal), got {_shown(text)}")
    return int(match[1], 8)


def from_text(cls: type[msgspec.Struct], name: str, value: object) -> object:
    """A field's value in the field's unit, from the way it is written outside of Python.

    Args:
        cls: the struct that has the field.
        name: the field's name.
        value: a text with a unit where the field is a size, a duration or a mode; all else is passed through.

    Raises:
        InvalidArgument: the text is no such quantity. A mode that is a number: nobody can tell 660 from 0o660 there.
    """
    unit = _unit(_annotations(cls)[name])
    if unit == "mode" and isinstance(value, int) and not isinstance(value, bool):
        raise InvalidArgument(f"{name}: a file mode stands in quotes (write '0660'), got the number {value}")
    if not isinstance(value, str) or unit is None:
        return value
    parse = {"bytes": parse_size, "seconds": parse_duration, "mode": parse_file_mode}[unit]
    try:
        number = parse(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.detail}") from None
    # TCP counts keepalive in whole seconds.
    return int(number) if name == "keepalive" and number == int(number) else number
