"""The client on the command line."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from actors.smtp_client.__main__ import send
from tests.actors.smtp.serving import Served, serving
from tests.certificates_fixture import Certificates

ROOT = Path(__file__).resolve().parents[3]
MESSAGE = b"Subject: hello\n\nFirst line.\n"
TIMEOUT_S = 30.0

Sent = tuple[int, str, str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Sent]:
    """Send a message from standard input; what comes back are the exit code, and what was written where."""

    def call(server: str, recipients: list[str], **options: Any) -> Sent:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MESSAGE)))
        code = 0
        try:
            send(server, "a@example.net", recipients, **options)
        except typer.Exit as end:
            code = end.exit_code
        return code, *capfd.readouterr()

    return call


def test_it_sends_standard_input_and_says_what_became_of_it(tmp_path: Path, certificates: Certificates) -> None:
    with serving(tmp_path, certificate=certificates.server) as served:
        command = [sys.executable, "-m", "actors.smtp_client", "--server", served.address, "--ca-cert", certificates.ca]
        addresses = ["--from", "a@example.net", "--to", "b@example.org", "--to", "c@elsewhere.example"]
        done = subprocess.run(
            [*command, *addresses], cwd=ROOT, input=MESSAGE, capture_output=True, check=False, timeout=TIMEOUT_S
        )
        accepted, refused = done.stdout.decode().splitlines()
        (content,) = served.delivered()
    assert accepted.startswith("b@example.org: accepted: 250 2.0.0 Ok: queued as ")
    assert refused == "c@elsewhere.example: refused: 550 5.7.1 Relaying denied: that domain is not handled here"
    assert done.stderr == b""
    assert done.returncode == 1
    assert content.endswith(MESSAGE)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The server of this project, without TLS."""
    with serving(tmp_path) as served:
        yield served


def test_it_ends_well_when_every_recipient_was_accepted(call: Callable[..., Sent], served: Served) -> None:
    code, written, _ = call(served.address, ["b@example.org"], tls="opportunistic")
    assert written.startswith("b@example.org: accepted: ")
    assert code == 0


def test_it_does_not_fall_back_to_plaintext_by_itself(call: Callable[..., Sent], served: Served) -> None:
    assert call(served.address, ["b@example.org"]) == (
        1,
        "b@example.org: unsent: tls: the server does not offer STARTTLS\n",
        "",
    )


@pytest.mark.parametrize(
    ("server", "recipient", "options", "words"),
    [
        ("mx:25", "nobody", {}, "invalid: recipients[0]: 'nobody' is no address of the form local@domain"),
        ("mx:25", "b@example.org", {"tls": "maybe"}, "invalid: tls: "),
        ("somewhere", "b@example.org", {}, "invalid: server: 'somewhere' is neither"),
    ],
)
def test_a_wrong_argument_is_one_line(
    call: Callable[..., Sent], server: str, recipient: str, options: dict[str, str], words: str
) -> None:
    code, written, complaint = call(server, [recipient], **options)
    assert complaint.startswith(words)
    assert complaint.count("\n") == 1
    assert (code, written) == (2, "")
