"""The manifests as the command line runs them: the store and the guest in one process, and real clients."""

from __future__ import annotations

import signal
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.actors.smtp.serving import TIMEOUT_S
from tests.actors.smtp.test_clients import (
    TEXT,
    Running,
    run,
    stop_in_the_middle_of_a_message,
    swaks_is_refused,
    why_not_run,
)
from tests.certificates_fixture import Certificates

ROOT = Path(__file__).resolve().parents[3]
ACTORS = ROOT / "actors"


def write_manifests(folder: Path, certificates: Certificates) -> tuple[Path, Path]:
    """The two manifests with addresses and files of the test's own; the rest is as it stands in them."""
    socket = f"unix:{folder}/lmtp.sock"
    store: dict[str, Any] = yaml.safe_load((ACTORS / "lmtp_store/lmtp_store.yaml").read_text())
    store["tcp"]["listen"] = [socket]
    store["init"]["maildir"] = f"{folder}/mail"
    guest: dict[str, Any] = yaml.safe_load((ACTORS / "smtp_guest/smtp.yaml").read_text())
    guest["actor"] = str(ACTORS / "smtp_guest/smtp.wasm")
    guest["init"]["store"] = socket
    guest["tcp"]["listen"] = ["127.0.0.1:0"]
    guest["tcp"]["permissions"]["allowlist"] = [socket]
    guest["tcp"]["server_tls"].update(cert=str(certificates.server.cert), key=str(certificates.server.key))
    paths = folder / "store.yaml", folder / "guest.yaml"
    for path, manifest in zip(paths, (store, guest), strict=True):
        path.write_text(yaml.safe_dump(manifest))
    return paths


class Process(Running):
    """The two as their manifests have them."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.new = folder / "mail" / "new"
        super().__init__(folder, *map(str, write_manifests(folder, certificates)))

    def delivered(self) -> list[str]:
        return [file.read_text() for file in self.new.iterdir()]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("manifest"), certificates) as process:
        yield process


@pytest.fixture(autouse=True)
def empty(process: Process) -> None:
    """No message of an earlier test."""
    for file in process.new.iterdir():
        file.unlink()


def test_smtplib_sends_over_starttls_to_the_guest_that_the_manifest_starts(
    process: Process, certificates: Certificates
) -> None:
    trust = ssl.create_default_context(cafile=certificates.ca)
    for _ in range(3):
        with smtplib.SMTP("localhost", process.port, timeout=TIMEOUT_S) as client:
            client.starttls(context=trust)
            assert client.sendmail("a@example.net", ["b@example.org"], TEXT) == {}
    assert [" with ESMTPS id " in message for message in process.delivered()] == [True] * 3


@pytest.mark.program("curl")
def test_curl_sends_over_starttls_to_the_guest_that_the_manifest_starts(
    process: Process, certificates: Certificates
) -> None:
    tls = ("--ssl-reqd", "--cacert", certificates.ca)
    addresses = ("--mail-from", "a@example.net", "--mail-rcpt", "b@example.org")
    url = f"smtp://localhost:{process.port}"
    run("curl", "-sS", *tls, *addresses, "--upload-file", "-", url, stdin=TEXT)
    assert len(process.delivered()) == 1


@pytest.mark.program("swaks")
def test_swaks_is_told_by_the_store_who_is_not_here(process: Process) -> None:
    swaks_is_refused(process.address)


@pytest.mark.program("smtp-source")
def test_the_load_generator_of_postfix_loses_no_message(process: Process) -> None:
    run("smtp-source", "-s", "20", "-m", "300", "-l", "4096", "-f", "a@x.org", "-t", "b@example.org", process.address)
    assert len(process.delivered()) == 300


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("init", {"store": "127.0.0.1:2424", "max_recipients": 5}, "max_recipients: expected a whole number from 100"),
        ("grants", [], "theater:simple/clock"),
    ],
)
def test_a_wrong_manifest_ends_the_process_with_a_line_that_names_the_reason(
    tmp_path: Path, certificates: Certificates, key: str, value: Any, reason: str
) -> None:
    _, path = write_manifests(tmp_path, certificates)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    assert reason in why_not_run(path)


def test_sigterm_lets_the_message_under_way_come_in(tmp_path: Path, certificates: Certificates) -> None:
    with Process(tmp_path, certificates) as process:
        stop_in_the_middle_of_a_message(process)
        assert len(process.delivered()) == 1


def test_sigterm_does_not_wait_for_guests_that_nobody_uses_and_their_connections_to_the_store(
    tmp_path: Path, certificates: Certificates
) -> None:
    with Process(tmp_path, certificates) as process:
        with smtplib.SMTP("localhost", process.port, timeout=TIMEOUT_S) as client:
            client.sendmail("a@example.net", ["b@example.org"], TEXT)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("stopped")
        assert process.popen.wait() == 0
