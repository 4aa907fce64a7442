"""A stage for each test, and the kinds of owners that most tests hold for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import KINDS, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner: on the loop with plain or waiting callbacks, or on a thread of its own."""
    return str(request.param)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A running Theater with the contract's defaults."""
    with Stage() as stage:
        yield stage
