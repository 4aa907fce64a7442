"""The store over real sockets, and the clients that there are for it."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest

from actors.lmtp_store import StoreSettings
from actors.lmtp_store.store import LmtpStore
from theater_tcp import ConnectionHandle, Options, Settings, Theater, TheaterError

TIMEOUT_S = 10.0
ROOT = Path(__file__).resolve().parents[3]
TEXT = b"Subject: hello\r\n\r\nFirst line.\r\n.A line with a dot.\r\n"


class Stored:
    """A store under test.

    Args:
        theater: it runs in.
        store: its actor.
        folder: for its Maildir and its socket.
    """

    def __init__(self, theater: Theater, store: pykka.ActorRef[LmtpStore], folder: Path) -> None:
        self.theater = theater
        self.store = store
        self.folder = folder
        self.address = theater.listen_for(store, "127.0.0.1:0").address
        self.path = folder / "lmtp.sock"
        theater.listen_for(store, f"unix:{self.path}")

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def delivered(self) -> list[bytes]:
        """The messages in ``new/``."""
        return [file.read_bytes() for file in (self.folder / "mail" / "new").iterdir()]


@pytest.fixture(params=[True, False], ids=["fsync", "no fsync"])
def stored(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stored]:
    with Theater(Settings(options=Options(half_open=True))) as theater:
        init: dict[str, Any] = {"hostname": "store.example.org", "domains": ["example.org"], "fsync": request.param}
        yield Stored(theater, theater.spawn(LmtpStore, maildir=str(tmp_path / "mail"), **init), tmp_path)


def test_smtplib_hears_of_each_recipient(stored: Stored) -> None:
    with smtplib.LMTP(stored.host, stored.port) as client:
        # It reads one reply behind a message, so one recipient is accepted.
        refused = client.sendmail("a@example.net", ["b@example.org", "c@elsewhere.example"], TEXT)
    assert {address: code for address, (code, _) in refused.items()} == {"c@elsewhere.example": 550}
    (message,) = stored.delivered()
    assert message.startswith(b"Return-Path: <a@example.net>\nDelivered-To: b@example.org\nReceived: from ")
    assert b"\n\tby store.example.org with LMTP id " in message
    assert message.endswith(b"Subject: hello\n\nFirst line.\n.A line with a dot.\n")


def test_smtplib_speaks_to_a_unix_socket(stored: Stored) -> None:
    with smtplib.LMTP(str(stored.path)) as client:
        assert client.sendmail("a@example.net", "b@example.org", TEXT) == {}
    assert b"(unix)\n" in stored.delivered()[0]


def test_each_recipient_hears_when_the_message_can_not_be_stored(stored: Stored) -> None:
    shutil.rmtree(stored.folder / "mail" / "tmp")
    with socket.create_connection((stored.host, stored.port), timeout=TIMEOUT_S) as client:
        recipients = b"RCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\n"
        client.sendall(b"LHLO c\r\nMAIL FROM:<>\r\n" + recipients + b"DATA\r\nx\r\n.\r\nQUIT\r\n")
        with client.makefile("rb") as replies:
            said = replies.read()
    assert said.count(b"\r\n451 4.3.0 ") == 2
    assert stored.delivered() == []


def test_a_message_whose_sender_leaves_before_its_end_is_not_delivered(stored: Stored) -> None:
    with smtplib.LMTP(stored.host, stored.port) as client:
        client.ehlo()
        client.mail("a@example.net")
        client.rcpt("b@example.org")
        client.putcmd("DATA")
        client.send(b"half of")
        client.close()
    with smtplib.LMTP(stored.host, stored.port) as other:
        other.sendmail("a@example.net", "b@example.org", TEXT)
    assert len(stored.delivered()) == 1
    assert os.listdir(stored.folder / "mail" / "tmp") == []


@pytest.mark.program("swaks")
@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
def test_swaks_sends_by_lmtp(stored: Stored, is_unix: bool) -> None:
    where = ("--socket", str(stored.path)) if is_unix else ("--server", stored.host, "--port", str(stored.port))
    done = subprocess.run(
        ["swaks", "--protocol", "LMTP", *where, "--from", "a@example.net", "--to", "b@example.org,d@example.org"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout
    assert " -> LHLO " in done.stdout
    (message,) = stored.delivered()
    assert b"Delivered-To: b@example.org\nDelivered-To: d@example.org\n" in message


@pytest.mark.program("smtp-source")
@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
def test_the_load_generator_of_postfix_loses_no_message(stored: Stored, is_unix: bool) -> None:
    load = ("-L", "-s", "10", "-m", "200", "-l", "4096", "-f", "a@example.net", "-t", "b@example.org")
    where = f"unix:{stored.path}" if is_unix else f"inet:{stored.address}"
    done = subprocess.run(["smtp-source", *load, where], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(stored.delivered()) == 200


def test_port_25_is_smtps_alone(
    stored: Stored, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConnectionHandle, "local_address", "192.0.2.1:25")
    with (
        caplog.at_level(logging.ERROR),
        socket.create_connection((stored.host, stored.port), timeout=TIMEOUT_S) as client,
    ):
        assert client.recv(100) == b""
    assert "192.0.2.1:25: closed, for LMTP is not spoken at port 25" in caplog.text


def test_a_socket_in_the_file_system_has_no_port(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConnectionHandle, "local_address", "unix:/run/store:25")
    with socket.create_connection((stored.host, stored.port), timeout=TIMEOUT_S) as client:
        assert client.recv(4) == b"220 "


def test_the_constructor_takes_the_settings_of_the_server_but_for_those_about_tls() -> None:
    parameters = inspect.signature(LmtpStore.__init__).parameters
    assert set(StoreSettings.__struct_fields__) - set(parameters) == {"require_tls", "implicit_tls"}
    assert set(parameters) - set(StoreSettings.__struct_fields__) == {"self"}


def test_a_wrong_setting_refuses_the_start_in_one_line_that_names_it(tmp_path: Path) -> None:
    with Theater() as theater, pytest.raises(TheaterError, match=r"^invalid: max_errors: .*>= 1") as refused:
        theater.spawn(LmtpStore, maildir=str(tmp_path), max_errors=0)
    assert "\n" not in str(refused.value)


def test_the_manifest_is_valid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "theater_tcp", "check", str(ROOT / "actors/lmtp_store/lmtp_store.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
