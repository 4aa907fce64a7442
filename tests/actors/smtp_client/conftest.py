"""The real servers that the client is tried with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.actors.smtp_client.postfix import Postfix, running_postfix
from tests.certificates_fixture import Certificates


@pytest.fixture(scope="session")
def postfix(certificates: Certificates) -> Iterator[Postfix]:
    """A Postfix that offers STARTTLS with the certificate for ``mx.example.org`` and ``127.0.0.1``."""
    with running_postfix(certificates.server) as running:
        yield running
