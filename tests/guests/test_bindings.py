"""The bindings for C and Rust: every function of the interface, by a guest that calls what it is told to call."""

from __future__ import annotations

import functools
import hashlib
import logging
import queue
import re
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.guest_files import ACTORS, ENVIRONMENT, made_once, needs
from tests.peers import TIMEOUT, dial, eventually, expect_reset, receive_to_end
from tests.tls_peer import client_context, server_context
from theater_tcp import ServerTls, Theater
from theater_tcp.errors import CallbackFailed
from theater_tcp.guest_settings import Limits
from theater_tcp.settings import Options, Settings
from theater_tcp.tls_settings import ClientTls

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pykka

    from tests.certificates_fixture import Certificates

SOURCES = Path(__file__).with_name("probe")


@functools.cache
def probe(language: str) -> bytes:
    """The guest, built once."""
    source = SOURCES / {"c": "probe.c", "rust": "probe.rs"}[language]

    def make(folder: Path) -> None:
        program, out = ACTORS / "bindings" / language / "build-guest", folder / "probe.wasm"
        subprocess.run([program, source, out, "server-with-clock"], env=ENVIRONMENT, check=True)

    return (made_once(f"probe-{language}", make) / "probe.wasm").read_bytes()


class Teller:
    """Tells a probe over one connection what to call, and gets its answers."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._lines = connected.makefile("rb")

    def tell(self, command: str) -> None:
        self.socket.sendall(f"{command}\n".encode())

    def hear(self) -> str:
        return self._lines.readline().decode().removesuffix("\n")

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.hear()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


class Stage:
    """A probe that listens, and those who talk to it."""

    def __init__(self, theater: Theater, language: str) -> None:
        self.theater = theater
        self.language = language
        self.ref = self.spawn(name="probe")
        self.address = theater.listen_for(self.ref, "127.0.0.1:0").address
        self.tellers: list[Teller] = []

    def spawn(self, config: str = "a config", **options: Any) -> pykka.ActorRef[Any]:
        return self.theater.spawn_guest(probe(self.language), config, grants=["clock"], permissions=None, **options)

    def connect(self, address: str = "") -> Teller:
        teller = Teller(dial(address or self.address))
        self.tellers.append(teller)
        return teller


@pytest.fixture
def theater(certificates: Certificates) -> Iterator[Theater]:
    server = certificates.server
    tls = Options(
        server_tls=ServerTls(cert=server.cert, key=server.key, auto_handshake=False, alpn=("chat", "smtp")),
        client_tls=ClientTls(ca_cert=certificates.ca, auto_handshake=False),
    )
    with Theater(Settings(options=tls)) as theater:
        yield theater


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in ("c", "rust")])
def stage(request: pytest.FixtureRequest, theater: Theater) -> Iterator[Stage]:
    stage = Stage(theater, request.param)
    yield stage
    for teller in stage.tellers:
        teller.close()


# -- the actor's own exports --------------------------------------------------------------------------------------


def test_every_callback_reaches_the_actor_with_what_it_is_about(stage: Stage) -> None:
    one, other = stage.connect(), stage.connect()
    assert one.ask("heard") == "ok init 8"
    for line in ("count 2", "counted", "counted"):
        other.tell(line)
    other.tell("heard")
    assert other.hear() == "ok passive"
    other.tell("transfer probe")
    assert other.ask("heard") == "ok transfer"
    other.socket.shutdown(socket.SHUT_WR)
    assert receive_to_end(other.socket) == b""
    eventually(lambda: stage.theater.metrics().connections == 1)
    assert one.ask("heard") == "ok close eof"


def test_an_error_that_a_callback_returns_ends_its_connection_and_is_told(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = stage.connect(), stage.connect()
    assert one.ask("peer").startswith("ok ")
    with caplog.at_level(logging.WARNING, "theater_tcp"):
        one.tell("fail invalid:grüße")
        assert receive_to_end(one.socket) == b""
    assert "invalid:grüße" in caplog.text
    assert other.ask("send hello") == "hellook 5"


def test_an_init_that_fails_is_told_with_its_text(stage: Stage) -> None:
    with pytest.raises(CallbackFailed, match="invalid: as it was told"):
        stage.spawn("refuse")


def test_a_panic_ends_the_actor_and_stands_in_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    one, other = stage.connect(), stage.connect()
    assert other.ask("peer").startswith("ok ")
    one.tell("panic")
    assert receive_to_end(one.socket) == receive_to_end(other.socket) == b""
    eventually(lambda: stage.theater.metrics().guest_traps == 1)
    if stage.language == "rust":
        assert re.search(r"panicked at .*probe/probe\.rs", caplog.text)  # in the words of this compiler
        assert "as it was told" in caplog.text
    with pytest.raises(CallbackFailed):
        stage.spawn("panic")


# -- tcp ----------------------------------------------------------------------------------------------------------


def test_addresses_and_states_of_a_connection(stage: Stage) -> None:
    one = stage.connect()
    host, port = one.socket.getsockname()
    assert one.ask("peer") == f"ok {host}:{port}"
    assert one.ask("local") == f"ok {stage.address}"
    assert one.ask("activate") == "error already-active"
    assert one.ask("mode passive") == "ok "
    assert one.ask("mode active") == "ok "
    assert one.ask("nonsense") == "error invalid: no such command"


def test_receive_gives_what_comes_and_nothing_at_the_end(stage: Stage) -> None:
    one = stage.connect()
    one.tell("receive 100")
    one.tell("a line")
    assert one.hear() == "ok a line"
    assert one.ask("receive 0").startswith("error invalid")
    one.tell("receive 100")
    one.socket.shutdown(socket.SHUT_WR)
    assert one.hear() == "ok "


def test_a_connection_that_is_opened_is_sent_to_received_from_and_closed(stage: Stage) -> None:
    one = stage.connect()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        one.tell(f"connect 127.0.0.1:{port}")
        peer, _ = listening.accept()
        with peer:
            assert peer.recv(100) == b"ping\n"
            peer.sendall(b"pong\n")
            assert one.hear() == "ok pong"
            assert receive_to_end(peer) == b""
    assert one.ask(f"connect 127.0.0.1:{port}").startswith("error refused")
    assert one.ask("connect nowhere").startswith("error invalid")


def test_a_listener_is_opened_accepts_and_is_closed(stage: Stage) -> None:
    one = stage.connect()
    bound = one.ask("accept 127.0.0.1:0")
    assert bound.startswith("ok 127.0.0.1:")
    assert not bound.endswith(":0")
    with dial(bound.removeprefix("ok ")) as peer:
        peer.sendall(b"knock knock")
        assert one.hear() == "ok knock knock"
        assert receive_to_end(peer) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(bound.removeprefix("ok "))
    assert one.ask(f"accept {stage.address}").startswith("error address-in-use")


def test_transfer_moves_a_connection_or_says_why_not(stage: Stage) -> None:
    stage.spawn("another one", name="other")
    one = stage.connect()
    assert one.ask("transfer nobody").startswith("error no-such-actor")
    one.tell("transfer other")
    assert one.ask("heard") == "ok init 11, transfer"
    other_id = one.ask("self").removeprefix("ok ")
    assert other_id.startswith("urn:uuid:")
    assert other_id != stage.ref.actor_urn
    one.tell(f"transfer {stage.ref.actor_urn}")
    assert one.ask("self") == f"ok {stage.ref.actor_urn}"


def test_close_ends_in_order_abort_resets_and_no_callback_follows(stage: Stage) -> None:
    watcher = stage.connect()
    assert watcher.ask("heard") == "ok init 8"
    one, other = stage.connect(), stage.connect()
    one.tell("close")
    assert receive_to_end(one.socket) == b""
    other.tell("abort")
    expect_reset(other.socket)
    eventually(lambda: stage.theater.metrics().connections == 1)
    assert watcher.ask("heard") == "ok "


# -- tcp-ext ------------------------------------------------------------------------------------------------------


def test_shutdown_write_ends_one_direction(stage: Stage) -> None:
    one = stage.connect()
    assert one.ask("option half_open true") == "ok "
    one.tell("shutdown-write")
    assert receive_to_end(one.socket) == b""


def test_framing_and_options_are_set_by_their_names(stage: Stage) -> None:
    one = stage.connect()
    assert one.ask("option idle_timeout 60") == "ok "
    assert one.ask("option nonsense 1").startswith("error invalid")
    assert one.ask("option idle_timeout soon").startswith("error invalid")
    for name, size in (("length-1", 1), ("length-2", 2), ("length-4", 4)):
        fresh = stage.connect()
        fresh.tell(f"framing {name} 100")
        assert fresh.socket.recv(size + 4, socket.MSG_WAITALL) == len(b"ok \n").to_bytes(size, "big") + b"ok \n"
    assert one.ask("framing line 100") == "ok "
    one.tell("x" * 101)
    expect_end(one.socket)


def expect_end(peer: socket.socket) -> None:
    """The connection ends; whether by a reset is up to what was unread by then."""
    try:
        assert peer.recv(1) == b""
    except ConnectionResetError:
        pass


def test_an_upgrade_as_the_server_and_what_was_agreed_on(stage: Stage, certificates: Certificates) -> None:
    one = stage.connect()
    assert one.ask("tls-available") == "ok true"
    assert one.ask("tls-info") == "ok plaintext"
    assert one.ask("upgrade") == "ok go on"
    context = client_context(certificates.ca)
    context.set_alpn_protocols(["smtp"])
    with context.wrap_socket(one.socket, server_hostname="localhost") as encrypted:
        encrypted.settimeout(TIMEOUT)
        secret = Teller(encrypted)
        assert secret.hear() == "ok "
        version, cipher = encrypted.version(), (encrypted.cipher() or ("",))[0]
        assert secret.ask("tls-info") == f"ok {version}|{cipher}|smtp|localhost|false|-"
        assert secret.ask("tls-available") == "ok false"
        assert secret.ask("upgrade") == "ok go on"
        assert secret.hear() == "error already-tls"
        secret.close()


def test_an_upgrade_as_the_client_and_the_certificate_that_was_shown(stage: Stage, certificates: Certificates) -> None:
    one = stage.connect()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for name in ("mx.example.org", "other.example.org"):
            seen: queue.SimpleQueue[tuple[str | None, str]] = queue.SimpleQueue()
            server = threading.Thread(target=be_a_tls_server, args=(listening, certificates, seen))
            server.start()
            answer = one.ask(f"connect-tls 127.0.0.1:{listening.getsockname()[1]} {name}")
            server.join()
            if name == "other.example.org":
                assert answer.startswith("error tls: ")
                continue
            version, cipher = seen.get()
            der = ssl.PEM_cert_to_DER_cert(Path(certificates.server.cert).read_text())
            told = answer.removeprefix("ok ").split("|")
            assert told[:5] == [version, cipher, "-", name, "false"]
            subject, issuer, names, fingerprint = told[5:]
            assert "localhost" in subject
            assert "theater-tcp test CA" in issuer
            assert names.split(",")[0] == "localhost"
            assert len(names.split(",")) == 4
            assert fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()


def be_a_tls_server(
    listening: socket.socket, certificates: Certificates, seen: queue.SimpleQueue[tuple[str | None, str]]
) -> None:
    peer, _ = listening.accept()
    peer.settimeout(TIMEOUT)
    try:
        with server_context(certificates.server).wrap_socket(peer, server_side=True) as encrypted:
            seen.put((encrypted.version(), (encrypted.cipher() or ("",))[0]))
            encrypted.recv(1)
    except OSError:
        pass  # the client didn't like it


# -- runtime and clock --------------------------------------------------------------------------------------------


def test_log_lines_have_the_level_and_the_actor_s_name(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    one = stage.connect()
    with caplog.at_level(logging.DEBUG, "theater_tcp"):
        for level in ("debug", "info", "warning", "error"):
            assert one.ask(f"log {level} line-{level}-grüße") == "ok "
    lines = {
        record.levelname.lower(): record.getMessage() for record in caplog.records if "line-" in record.getMessage()
    }
    assert lines == {level: f"probe: line-{level}-grüße" for level in ("debug", "info", "warning", "error")}


def test_the_clock_tells_milliseconds_since_1970(stage: Stage) -> None:
    one = stage.connect()
    before = time.time_ns() // 1_000_000
    now = int(one.ask("now").removeprefix("ok "))
    assert before - 1 <= now <= time.time_ns() // 1_000_000 + 1


def test_shutdown_ends_the_actor(stage: Stage) -> None:
    one, other = stage.connect(), stage.connect()
    assert other.ask("self") == f"ok {stage.ref.actor_urn}"
    one.tell("shutdown")
    assert receive_to_end(one.socket) == receive_to_end(other.socket) == b""
    eventually(lambda: not stage.ref.is_alive())


# -- memory -------------------------------------------------------------------------------------------------------


def test_nothing_is_leaked_by_results_errors_or_callbacks(stage: Stage) -> None:
    """A leak of one text in each round would go beyond the memory that the guest may use."""
    small = stage.spawn(limits=Limits(memory=3 << 16))
    address = stage.theater.listen_for(small, "127.0.0.1:0").address
    one = stage.connect(address)
    commands = ("connect nowhere", "tls-info", "peer", "option a b", "self", "transfer nobody", "heard", "receive 0")
    for command in commands:
        first = one.ask(command)
        for _ in range(120):
            one.socket.sendall(f"{command}\n".encode() * 25)
            for _ in range(25):
                answer = one.hear()
        assert command == "heard" or answer == first
    for _ in range(500):
        peer = dial(address)
        peer.sendall(b"fail invalid:%s\n" % (b"x" * 200))
        expect_end(peer)
        peer.close()
        assert one.ask("heard").startswith("ok ")
    assert stage.theater.metrics().guest_traps == 0
