"""TLS between the socket and the stream: what OpenSSL as a peer would not send, and calls of the socket that fail.

Sockets in memory, and a peer whose records are made by hand.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.tls_records import ALERT, APPLICATION_DATA, HANDSHAKE, Records13, secrets_in
from theater_tcp import Options, ServerTls, Settings
from theater_tcp.errors import TheaterError
from theater_tcp.testing import MemorySocket, Peer, Stage
from theater_tcp.testing.line import Owner, refusal, spawn

if TYPE_CHECKING:
    from pathlib import Path

    from tests.certificates_fixture import Certificates
    from theater_tcp import ConnectionHandle

CAPACITY = 1 << 14
KEY_UPDATE = b"\x18\0\0\1"
"""A KeyUpdate without its one byte (RFC 8446, 4.6.3): OpenSSL sends nothing before that has come."""
ASKED, NOT_ASKED = b"\1", b"\0"


class Scene:
    """A connection that is TLS from the first byte, and a peer whose records are made by hand.

    Args:
        certificates: the test's.
        keys: where the peer writes its keys.
        options: of the connection.
    """

    def __init__(self, certificates: Certificates, keys: Path, **options: Any) -> None:
        files = certificates.server
        tls = ServerTls(cert=files.cert, key=files.key)
        settings = Settings(options=Options(server_tls=tls, **options))
        self.stage = Stage(settings, receive_capacity=CAPACITY, send_capacity=0)
        self.keys = keys

    def __enter__(self) -> Self:
        self.stage.__enter__()
        self.owner: Owner = spawn(self.stage)
        self.peer: Peer = self.stage.connect_to(self.owner.actor_ref)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.keylog_filename = str(self.keys)
        self.peer.start_tls("localhost", context)
        self.records = Records13(secrets_in(self.keys)["CLIENT_TRAFFIC_SECRET_0"])
        self.connection: ConnectionHandle = self.owner.arrived[0]
        return self

    def __exit__(self, *error: Any) -> None:
        self.stage.__exit__(*error)

    @property
    def far(self) -> MemorySocket:
        """The connection's own socket."""
        end: MemorySocket = self.peer.socket.other_end
        return end

    def send(self, content: bytes, kind: int = HANDSHAKE) -> None:
        """Let the peer send a record."""
        self.peer.socket.send(self.records.seal(content, kind))
        self.stage.settle()

    def still_serves(self) -> bool:
        """Whether the owner goes on with the next connection."""
        before = len(self.owner.arrived)
        self.stage.connect_to(self.owner.actor_ref).start_tls()
        return len(self.owner.arrived) == before + 1


class Upgrades(Owner):
    """Upgrades its connections when the test says so, and does not want to hear how it went."""

    on_tls = None  # type: ignore[assignment]

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        self.arrived.append(connection)


@pytest.fixture
def scene(certificates: Certificates, tmp_path: Path) -> Callable[..., Scene]:
    """Makes one, with these options."""
    return lambda **options: Scene(certificates, tmp_path / "keys", **options)


# -- output that only reading sets free ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["active", "once", "passive", "receive", "line"])
def test_contract_11_what_a_peer_held_up_counts_for_the_hard_limit_and_no_owner_grows_deaf_of_it(
    scene: Callable[..., Scene], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenSSL writes nothing while half of a message is here, so the limit is met when the other half comes."""
    with scene(write_buffer_limit=1000, write_buffer_hard_limit=1000) as line:
        owner, connection = line.owner, line.connection
        connection.set_active("active")
        line.send(KEY_UPDATE)
        connection.set_active(mode if mode in ("active", "once") else "passive")
        if mode == "line":
            connection.set_framing("line", 100)
            connection.set_active("active")
        waiting = connection.receive(10) if mode == "receive" else None
        connection.send(bytes(CAPACITY * 2))
        line.send(NOT_ASKED)
        if mode == "passive":
            line.records.update_key()
            line.send(b"\1\0", ALERT)
            line.peer.socket.shutdown(socket.SHUT_WR)
            line.stage.settle()
        if waiting is not None:
            assert refusal(line.stage, lambda: waiting) == "limit"
        assert [reason.partition(":")[0] for reason in owner.closed] == ["limit"]
        assert not line.stage.network.connections
        assert line.still_serves()
        assert not caplog.records


def test_contract_11_a_handshake_that_meets_the_hard_limit_ends_its_connection_without_a_traceback(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key)
    options = Options(server_tls=tls, write_buffer_limit=100, write_buffer_hard_limit=100)
    with Stage(Settings(options=options), receive_capacity=10, send_capacity=0) as stage:
        owner = spawn(stage)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            stage.connect_to(owner.actor_ref).start_tls()
        assert not stage.network.connections
        assert (owner.arrived, owner.closed) == ([], [])
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- the handshake's leftovers ---------------------------------------------------------------------------------------


def test_the_deadline_of_a_handshake_ends_with_it(scene: Callable[..., Scene]) -> None:
    with scene(handshake_timeout=10) as line:
        line.stage.advance(20)
        assert line.stage.metrics().timeouts == 0
        line.send(b"still here", APPLICATION_DATA)
        line.connection.set_active("active")
        line.stage.settle()
        assert line.owner.chunks == [b"still here"]


def test_the_alert_of_a_failed_handshake_is_delivered_on_top_of_unread_bytes(scene: Callable[..., Scene]) -> None:
    """A reset, which closing on top of them would be, could destroy it on its way."""
    with scene() as line:
        peer = line.stage.connect_to(line.owner.actor_ref, receive_capacity=1 << 16)
        peer.send(b"\x16\3\1\0\5hello" + bytes(40_000))
        assert peer.receive_all()[:1] == b"\x15"
        assert peer.ended == "eof"


def test_an_upgrade_fails_at_once_when_the_peer_goes_while_plaintext_waits_to_go_out(
    certificates: Certificates,
) -> None:
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    with Stage(Settings(options=Options(server_tls=tls)), receive_capacity=10, send_capacity=0) as stage:
        owner = spawn(stage, Upgrades)
        peer = stage.connect_to(owner.actor_ref)
        connection = owner.arrived[0]
        connection.send(bytes(100))
        upgrading = connection.upgrade_to_tls_server()
        peer.abort()
        assert refusal(stage, lambda: upgrading) == "tls"
        stage.settle()
        assert owner.closed == ["tls: the peer ended the connection"]


def test_contract_g4_an_owner_that_ends_takes_the_handshakes_under_way_along(scene: Callable[..., Scene]) -> None:
    with scene() as line:
        stage = line.stage
        silent = stage.connect_to(line.owner.actor_ref)
        line.owner.actor_ref.stop(block=False)
        stage.settle()
        assert silent.receive_all() == b""
        line.peer.close()
        assert not stage.network.connections


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["active", "once", "passive", "receive"])
def test_a_connection_that_hears_of_its_peer_is_not_idle(scene: Callable[..., Scene], mode: str) -> None:
    with scene(idle_timeout=1000) as line:
        owner, connection = line.owner, line.connection
        owner.reaction = lambda connection, _data: connection.set_active(mode)
        if mode in ("active", "once"):
            connection.set_active(mode)
        for _ in range(3):
            waiting = connection.receive(10) if mode == "receive" else None
            line.stage.advance(700)
            line.send(b"x", APPLICATION_DATA)
            if mode == "passive":
                waiting = connection.receive(10)
            assert waiting is None or line.stage.result(waiting) == b"x"
        assert owner.closed == []


@pytest.mark.parametrize("mode", ["active", "once", "passive"])
def test_a_broken_record_behind_data_is_told_at_once_and_after_the_data(scene: Callable[..., Scene], mode: str) -> None:
    with scene() as line:
        owner, connection = line.owner, line.connection
        if mode == "once":
            owner.reaction = lambda connection, _data: connection.set_active("once")
        if mode != "passive":
            connection.set_active(mode)
        good, bad = line.records.seal(b"good"), bytearray(line.records.seal(b"bad"))
        bad[-1] ^= 1
        line.peer.socket.send(good + bytes(bad))
        line.stage.settle()
        if mode == "passive":
            assert line.stage.result(connection.receive(100)) == b"good"
            assert refusal(line.stage, lambda: connection.receive(100)) == "tls"
            line.stage.settle()
        else:
            assert owner.chunks == [b"good"]
        [reason] = owner.closed
        assert reason.startswith("tls: a record is wrong (")


@pytest.mark.parametrize("mode", ["active", "once", "receive", "late"])
def test_a_line_without_its_end_comes_before_the_end_though_both_are_in_one_segment(
    scene: Callable[..., Scene], mode: str
) -> None:
    with scene(framing="line") as line:
        owner, connection = line.owner, line.connection
        waiting = connection.receive(100) if mode == "receive" else None
        if mode in ("active", "once"):
            connection.set_active(mode)
        line.peer.socket.send(line.records.seal(b"la") + line.records.seal(b"st") + line.records.seal(b"\1\0", ALERT))
        line.stage.settle()
        if mode == "late":
            waiting = connection.receive(100)
        assert (b"".join(owner.chunks) if waiting is None else line.stage.result(waiting)) == b"last"
        line.stage.settle()
        assert owner.closed == ["eof"]


@pytest.mark.parametrize("framing", ["line", "length-1"])
def test_contract_17_a_stream_that_was_cut_off_leaves_no_part_of_a_chunk(
    scene: Callable[..., Scene], framing: str
) -> None:
    with scene(framing=framing) as line:
        line.connection.set_active("active")
        line.send(b"\x64DELETE 1", APPLICATION_DATA)
        line.peer.cut_off()
        assert (line.owner.chunks, line.owner.closed) == ([], ["tls-truncated"])


@pytest.mark.parametrize("behind", [b"", b"\x16\3\1"], ids=["nothing", "a handshake record"])
def test_contract_15_what_a_receive_left_of_a_line_is_plaintext_before_tls(
    certificates: Certificates, behind: bytes
) -> None:
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    with Stage(Settings(options=Options(server_tls=tls, framing="line"))) as stage:
        owner = spawn(stage, Upgrades)
        peer = stage.connect_to(owner.actor_ref)
        connection = owner.arrived[0]
        peer.send(b"STARTTLS\n" + behind)
        assert stage.result(connection.receive(3)) == b"STA"
        assert refusal(stage, connection.upgrade_to_tls_server) == "plaintext-before-tls"
        stage.settle()
        assert owner.closed == ["plaintext-before-tls"]


def test_an_upgrade_of_a_connection_that_has_ended_is_told_why_at_once(certificates: Certificates) -> None:
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    with Stage(Settings(options=Options(server_tls=tls))) as stage:
        owner = spawn(stage, Upgrades)
        peer = stage.connect_to(owner.actor_ref)
        connection = owner.arrived[0]
        end: MemorySocket = peer.socket.other_end
        end.fail_next("recv", ConnectionResetError(errno.ECONNRESET, ""))
        with pytest.raises(TheaterError, match="reset"):
            connection.receive(10)
        with pytest.raises(TheaterError, match="reset"):
            connection.upgrade_to_tls_server()
        stage.settle()
        assert owner.closed == ["reset"]


def test_a_reset_that_the_look_for_the_end_meets_is_told(scene: Callable[..., Scene]) -> None:
    with scene() as line:
        line.far.fail_next("recv", ConnectionResetError(errno.ECONNRESET, ""))
        line.peer.socket.shutdown(socket.SHUT_WR)
        line.stage.settle()
        assert line.owner.closed == ["reset"]


@pytest.mark.parametrize("mode", ["active", "once"])
def test_contract_17_a_reset_that_sending_met_is_told_and_not_the_truncation_that_reading_sees(
    scene: Callable[..., Scene], mode: str
) -> None:
    with scene() as line:
        line.connection.set_active(mode)
        line.far.fail_next("send", ConnectionResetError(errno.ECONNRESET, ""))
        line.connection.send(b"lost")
        line.peer.socket.shutdown(socket.SHUT_WR)
        line.stage.settle()
        assert line.owner.closed == ["reset"]


def test_a_key_update_is_answered_while_nobody_reads_when_the_end_is_looked_for(scene: Callable[..., Scene]) -> None:
    with scene(half_open=True) as line:
        line.send(KEY_UPDATE + ASKED)
        line.records.update_key()
        line.send(b"\1\0", ALERT)
        line.peer.socket.shutdown(socket.SHUT_WR)
        line.stage.settle()
        assert line.owner.closed == ["eof"]
        line.connection.send(b"after the answer")
        assert line.peer.receive_exactly(16) == b"after the answer"


def test_who_received_in_plaintext_finds_what_the_engine_has_behind_an_upgrade(
    certificates: Certificates, tmp_path: Path
) -> None:
    files = certificates.server
    tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    with Stage(Settings(options=Options(server_tls=tls))) as stage:
        owner = spawn(stage, Upgrades)
        peer = stage.connect_to(owner.actor_ref)
        connection = owner.arrived[0]
        asked = connection.receive(100)
        peer.send(b"STARTTLS")
        assert stage.result(asked) == b"STARTTLS"
        connection.upgrade_to_tls_server()
        peer.start_tls("localhost", ssl.create_default_context(cafile=certificates.ca))
        waiting = connection.receive(5)
        rest: list[bool] = []
        waiting.on_done(lambda _: rest.append(connection.receive(5).done))
        peer.send(b"onetwothree")
        assert stage.result(waiting) == b"onetw"
        assert rest == [True]
        assert not connection.tls_available
