"""What a WebAssembly guest may use, and how it lives: frozen settings, as those of :mod:`theater_tcp.settings`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Checked, Count, Duration, Flag, Name, Size, shown

__all__ = ["MAX_TABLES", "Grants", "GuestOptions", "Limits", "Pool", "as_config", "read_guest_file"]

MAX_GUEST = 256 << 20
"""Bytes of the largest guest that is read."""

MAX_TABLES = 16
"""Tables of a guest that is a core module."""


Pool = Annotated[int, Meta(ge=0, le=100_000, description="a whole number from 0 to 100000")]
Grants = Annotated[tuple[str, ...], Meta(description="a list as [clock]")]


class Limits(Checked, frozen=True, kw_only=True):
    """What can be set for each guest.

    Args:
        memory: bytes of its linear memory; ``memory.grow`` beyond it fails inside the guest.
        tables: elements of each of its tables, of which a core module may have 16, and a component of several 32.
        cpu: seconds of CPU time that it may take without waiting for anything; then it is ended. To wait costs
            nothing, however long.
        call_data: bytes of text and data in one call, in either direction; a guest that passes more is ended.
        connections: connections that it owns at one time; beyond it ``connect``, ``accept`` and ``transfer`` to it are
            ``limit``, and its listeners pause.
        listeners: listeners that it owns at one time; beyond it ``listen`` is ``limit``.
        log_lines: lines that it may log in a second; what is above is counted and dropped.
    """

    memory: Size = 64 << 20
    tables: Count = 10_000
    cpu: Duration = 10.0
    call_data: Size = 16 << 20
    connections: Count = 1_000
    listeners: Count = 16
    log_lines: Count = 100


class GuestOptions(Checked, frozen=True, kw_only=True):
    """How a guest lives.

    Args:
        name, grants, limits, per_connection, pool, recycle_after: see :meth:`theater_tcp.Theater.spawn_guest`.
    """

    name: Name
    grants: Grants = ()
    limits: Limits = Limits()
    per_connection: Flag = False
    pool: Pool = 0
    recycle_after: Count = 100

    def _check_together(self) -> None:
        if self.pool and not self.per_connection:
            raise InvalidArgument("pool: is for a guest with per_connection: true")


def as_config(config: bytes | str | Mapping[str, Any] | None, name: str = "config") -> bytes:
    """What a guest's ``init`` gets: a mapping as JSON, a text as UTF-8, bytes as they are.

    Args:
        config: it.
        name: what it is called where it is given.

    Raises:
        InvalidArgument: it is something else, a mapping of what JSON can't hold, or a text of what UTF-8 can't.
    """
    if config is None:
        return b""
    if isinstance(config, bytes):
        return config
    if not isinstance(config, (str, Mapping)):
        raise InvalidArgument(f"{name}: expected bytes, a text or a mapping, got {type(config).__name__}")
    try:
        text = (
            config
            if isinstance(config, str)
            else json.dumps(dict(config), separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_refuse)
        )
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: {text[error.start]!a} can't be encoded in UTF-8") from None
    except RecursionError:
        raise InvalidArgument(f"{name}: it is nested too deep") from None
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name}: {error}") from None


def _refuse(value: object) -> None:
    raise TypeError(f"JSON has no {type(value).__name__} as {shown(str(value))}; in quotes it is a text")


def read_guest_file(file: Path) -> bytes:
    """The content of a guest's file.

    Raises:
        InvalidArgument: it can't be read, or is too large.
    """
    try:
        if file.exists() and not file.is_file() and not file.is_dir():
            raise InvalidArgument(f"{file}: is no regular file")  # to open a named pipe is to wait for its other end
        with file.open("rb") as stream:
            content = stream.read(MAX_GUEST + 1)
    except OSError as error:
        raise InvalidArgument(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:  # a NUL in it, or what the file system's encoding can't
        raise InvalidArgument(f"{str(file)!a}: is no path") from None
    if len(content) > MAX_GUEST:
        raise InvalidArgument(f"{file}: is larger than {MAX_GUEST} bytes")
    return content
