"""The keys of a manifest whose actor is a WebAssembly guest.

::

    name: echo
    actor: echo.wasm                     # relative to the manifest; a component or a core module
    init: {greeting: hello}              # for its `init`, as JSON; a text is passed as it is
    per_connection: true                 # a guest for each connection, which the runtime accepts
    pool: 8                              # of which so many are kept warm
    recycle_after: 100                   # and replaced after so many connections
    grants: [clock]                      # what it may import beyond tcp, tcp-ext and runtime
    limits: {memory: 64 MiB, cpu: 10 s}

The file is read and held against what a guest may import and has to export; it is compiled when it is started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Count, Flag, did_you_mean
from theater_tcp.guest.binary import GRANTS, BinaryError, read_guest
from theater_tcp.guest.interface import TAKES_CONNECTIONS
from theater_tcp.guest_settings import Grants, GuestOptions, Limits, Pool, as_config, read_guest_file
from theater_tcp.manifest_document import ManifestDocument

__all__ = ["GuestKeys", "GuestPlan", "guest_plan"]

_OPTIONS = ("name", "grants", "per_connection", "pool", "recycle_after")

Section = Annotated[dict[str, Any], Meta(description="a mapping of names to values")]


class GuestKeys(msgspec.Struct):
    """The keys and what they take."""

    actor: Annotated[str, Meta(min_length=1, description="the path of a .wasm file")]
    per_connection: Flag = False
    pool: Pool = 0
    recycle_after: Count = 100
    grants: Grants = ()
    limits: Section = {}


class GuestPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as its manifest wants it.

    Args:
        file: the path of what it runs.
        shown: the same as the manifest has it.
        kind: ``component`` or ``core module``.
        why_slow: why a component can't take the fast road, in words after "it"; empty where it can.
        config: for its ``init``.
        options: its name, its limits, and how it lives.
    """

    file: str
    shown: str
    kind: str
    why_slow: str
    config: bytes
    options: GuestOptions


def guest_plan(
    reading: ManifestDocument, top: dict[str, Any], limits: dict[str, Any], listens: bool
) -> GuestPlan | None:
    """What the keys of a guest say, or None where the manifest is wrong; what is so here is told to ``reading``.

    Args:
        reading: the manifest.
        top: the keys that are right.
        limits: those of its limits that are right.
        listens: whether the runtime is to listen for it.
    """
    file = reading.folder / top["actor"]
    per_connection, grants = top.get("per_connection", False), tuple(top.get("grants", ()))
    if not per_connection:
        for key in ("pool", "recycle_after"):
            if key in top:
                reading.problem(key, "is for a guest with per_connection: true")
    elif "recycle_after" in top and not top.get("pool"):
        reading.problem("recycle_after", "is for a guest with a pool")
    for grant in sorted(set(grants) - GRANTS):
        reading.problem("grants", f"{grant!r} is unknown{did_you_mean(grant, sorted(GRANTS))}")
    config, found = b"", None
    try:
        config = as_config(top.get("init"), "init")
    except InvalidArgument as error:
        reading.problem_of("", error)
    try:
        found = read_guest(read_guest_file(file), grants)
    except InvalidArgument as error:
        reading.problem("actor", error.detail.replace(f"{reading.folder}/", ""))
    except BinaryError as error:
        reading.problem("actor", f"{top['actor']} {error}")
    if found is not None:
        takes = {name.rpartition("#")[2] for name in found.exports} & TAKES_CONNECTIONS
        if per_connection and not takes:
            reading.problem("per_connection", "the guest has neither handle-connection-transfer nor handle-connection")
        elif listens and not per_connection and "handle-connection" not in takes:
            reading.problem("tcp.listen", "the guest has no handle-connection, so it can't take what is accepted")
    if found is None or reading.problems:
        return None
    return GuestPlan(
        file=str(Path(file)),
        shown=top["actor"],
        kind=found.kind,
        why_slow=found.why_not,
        config=config,
        options=GuestOptions(limits=Limits(**limits), **{key: top[key] for key in _OPTIONS if key in top}),
    )
