"""The server that the programs of these tests talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real_peers.line_server import Served, serving
from theater_tcp import ServerTls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates


@pytest.fixture
def served(certificates: Certificates) -> Iterator[Served]:
    """A server for ``localhost`` that speaks smtp and h2, with a certificate for ``other.example.org`` beside."""
    tls = ServerTls(
        cert=certificates.server.cert,
        key=certificates.server.key,
        alpn=("smtp", "h2"),
        sni={"other.example.org": certificates.other},
    )
    with serving(tls) as served:
        yield served
