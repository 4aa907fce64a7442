"""How long the server waits for whom: in memory, with a clock that the test moves."""

from __future__ import annotations

import email
import email.utils
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.smtp.server import SmtpServer
from tests.actors.smtp.driver import ENVELOPE, GREETED, codes_of
from tests.certificates_fixture import Certificates
from theater_tcp import Future, Options, ServerTls, Settings
from theater_tcp.testing import Peer, Stage

ADDRESS = "127.0.0.1:25"
TIMEOUT_S = 80.0
"""It is looked eight times in it, every ten seconds."""


@contextmanager
def waiting(
    folder: Path, certificates: Certificates | None = None, options: dict[str, Any] | None = None, **init: Any
) -> Iterator[Stage]:
    """A stage with a server that waits for 80 to 90 seconds."""
    tls = None
    if certificates is not None:
        tls = ServerTls(**msgspec.structs.asdict(certificates.server), auto_handshake=False)
    all_options = Options(server_tls=tls, handshake_timeout=1000, **options or {})
    with Stage(Settings(options=all_options)) as stage:
        server = stage.spawn(SmtpServer, maildir=str(folder), domains=["example.org"], timeout=TIMEOUT_S, **init)
        stage.listen_for(server, ADDRESS)
        yield stage


def dial(stage: Stage) -> Peer:
    """A client that has read the greeting."""
    peer = stage.dial(ADDRESS)
    assert peer.receive().startswith(b"220 ")
    return peer


def ask(peer: Peer, data: bytes) -> list[str]:
    peer.send(data)
    return codes_of(peer.receive())


def pass_away(stage: Stage, seconds: float) -> None:
    """Let time pass in steps, as it does."""
    for _ in range(int(seconds)):
        stage.advance(1)


def told_and_closed(peer: Peer) -> list[str]:
    return codes_of(peer.receive_all())


def test_a_silent_client_is_told_so_when_its_time_is_over_and_not_long_after(tmp_path: Path) -> None:
    with waiting(tmp_path) as stage:
        first = dial(stage)
        pass_away(stage, 45)
        second = dial(stage)
        pass_away(stage, 34)
        assert first.receive() == b""
        pass_away(stage, 11)
        assert told_and_closed(first) == ["421 4.4.2"]
        pass_away(stage, 34)
        assert second.receive() == b""
        pass_away(stage, 16)
        assert told_and_closed(second) == ["421 4.4.2"]


def test_each_command_gives_a_client_its_whole_time_again_and_half_a_command_none(tmp_path: Path) -> None:
    with waiting(tmp_path) as stage:
        peer = dial(stage)
        for _ in range(4):
            pass_away(stage, 60)
            assert ask(peer, b"NOOP\r\n") == ["250 2.0.0"]
        for octet in b"NOOP":
            peer.send(bytes([octet]))
            pass_away(stage, 23)
        assert told_and_closed(peer) == ["421 4.4.2"]


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 10 LAST\r\n"])
def test_who_sends_a_message_is_not_silent_however_slow_it_is(tmp_path: Path, begin: bytes) -> None:
    with waiting(tmp_path, fsync=False) as stage:
        peer = dial(stage)
        ask(peer, GREETED + ENVELOPE + begin)
        for octet in b"hello\r\n.\r\n":
            pass_away(stage, 60)
            peer.send(bytes([octet]))
        assert codes_of(peer.receive()) == ["250 2.0.0"]


def test_the_time_begins_anew_after_a_handshake(tmp_path: Path, certificates: Certificates) -> None:
    with waiting(tmp_path, certificates) as stage:
        peer = dial(stage)
        assert ask(peer, b"STARTTLS\r\n") == ["220 2.0.0"]
        pass_away(stage, 60)
        peer.start_tls("localhost", ssl.create_default_context(cafile=certificates.ca))
        pass_away(stage, 60)
        assert ask(peer, b"NOOP\r\n") == ["250 2.0.0"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What the worker thread is to do: it does it when the test calls it."""
    held: list[Callable[[], object]] = []

    def to_thread(_server: SmtpServer, call: Callable[..., Any], *args: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        held.append(lambda: outcome.set(call(*args)))
        return outcome

    monkeypatch.setattr(SmtpServer, "to_thread", to_thread)
    return held


def test_the_time_begins_anew_when_a_message_is_stored(tmp_path: Path, held: list[Callable[[], object]]) -> None:
    with waiting(tmp_path) as stage:
        peer = dial(stage)
        assert ask(peer, GREETED + ENVELOPE + b"DATA\r\nhello\r\n.\r\n")[3:] == ["354"]
        pass_away(stage, 300)
        (store,) = held
        store()
        assert codes_of(peer.receive()) == ["250 2.0.0"]
        pass_away(stage, 60)
        assert ask(peer, b"NOOP\r\n") == ["250 2.0.0"]


def test_a_client_whose_replies_have_no_room_ends_and_nobody_else(
    tmp_path: Path, held: list[Callable[[], object]], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"write_buffer_limit": 10_000, "write_buffer_hard_limit": 20_000}
    with waiting(tmp_path, options=options, max_asides=1_000_000) as stage:
        peer, other = dial(stage), dial(stage)
        ask(peer, GREETED + ENVELOPE + b"DATA\r\nhello\r\n.\r\n" + b"HELP\r\n" * 2000)
        (store,) = held
        store()
        peer.receive_all()
        assert ask(other, b"NOOP\r\n") == ["250 2.0.0"]
        assert len(list((tmp_path / "new").iterdir())) == 1
    assert "Traceback" not in caplog.text


def test_a_message_says_when_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting(tmp_path, fsync=False) as stage:
        peer = dial(stage)
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
        assert ask(peer, GREETED + ENVELOPE + b"DATA\r\nhello\r\n.\r\n")[4:] == ["250 2.0.0"]
        (message,) = (tmp_path / "new").iterdir()
        received = email.message_from_bytes(message.read_bytes())["Received"]
        assert email.utils.parsedate_to_datetime(received.rpartition(";")[2]).timestamp() == 1_700_000_000
