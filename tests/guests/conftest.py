"""A stage whose owners may be guests, and the roads by which every test of them is run.

Nothing of guests is imported before pytest has enabled its faulthandler: it would take the signals that are wasmtime's,
which makes traps of them, and the first trap would end the process.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.guests.roads import ROADS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.guests.puppets import GuestStage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of guests by every road; one that comes in many cases by the first alone."""
    marks = list(metafunc.definition.iter_markers("parametrize"))
    if "road" in metafunc.fixturenames and not any("road" in str(mark.args[0]) for mark in marks):
        metafunc.parametrize("road", ROADS[:1] if marks else ROADS, indirect=True)


@pytest.fixture
def road(request: pytest.FixtureRequest) -> str:
    """The road by which the guests of the test run."""
    return str(request.param)


@pytest.fixture
def stage() -> Iterator[GuestStage]:
    """A running Theater whose owners may be guests, which may trap."""
    from tests.guests.puppets import GuestStage  # noqa: PLC0415

    with GuestStage() as stage:
        stage.foresee_guest_errors()
        yield stage


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what guests do is logged: ten thousand lines would be most of what a test measures."""
    for name in ("theater_tcp.guest", "theater_tcp.connection", "theater_tcp.runtime"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
