"""The roads by which a guest may run: each test of guests is run by every one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.guests.component_maker import SECOND_MODULE, component_of

if TYPE_CHECKING:
    from theater_tcp import Theater

__all__ = ["ROADS", "load"]

ROADS = ("core", "component", "threads")
"""Their names."""

FAILURES = {"core": None, "component": None, "threads": "this is a test"}
"""What the self-test of wasmtime's private parts says, for a guest to take that road."""

ENCODINGS = {"utf-8": "utf8", "utf-16-le": "utf16"}
"""What the component model calls Python's codecs."""


def load(theater: Theater, road: str, module: bytes, codec: str = "utf-8", grants: tuple[str, ...] = ()) -> Any:
    """A guest that is compiled for one of the roads.

    Args:
        theater: where it is to run.
        road: one of :data:`ROADS`.
        module: a core module.
        codec: of its texts.
        grants: the interfaces that it may import beyond the usual ones.
    """
    if road == "component" or codec != "utf-8":  # for that road one of two modules, which the core road can't take
        module = component_of(module, ENCODINGS[codec], SECOND_MODULE if road == "component" else "")
    with mock.patch("theater_tcp.guest.wasmtime_internals.FAILURE", FAILURES[road]):
        program = theater.load_guest(module, grants)
    assert program.road_name == road
    return program
