"""The two servers that the tests of this folder run with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.actors.smtp.serving import current_server


@pytest.fixture(params=["python", "guest"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the servers in turn is the one that ``serving`` starts; its name."""
    token = current_server.set(request.param)
    yield request.param
    current_server.reset(token)
