"""A peer that speaks TLS with an actor on a stage: from the first byte, or in the middle; and everything that can go
wrong with it."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
import pytest

from tests.certificates_fixture import Certificates
from theater_tcp import (
    CertificateFiles,
    ClientTls,
    ConnectionHandle,
    Options,
    ServerTls,
    Settings,
    TcpActor,
    TlsInfo,
)
from theater_tcp.testing import Peer, Stage

NAME = "mx.example.org"
ADDRESS = "127.0.0.1:2525"


class Notes(TcpActor):
    """Notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []
        self.infos: list[TlsInfo | None] = []

    def on_close(self, connection: ConnectionHandle, reason: str) -> None:
        self.reasons.append(reason)
        self.infos.append(connection.tls_info)


class Shouter(Notes):
    """Shouts back what it is told. ``STARTTLS`` it takes for what it is, in plaintext."""

    def on_start(self) -> None:
        self.tcp.listen(ADDRESS)

    def on_receive(self, message: Any) -> Any:
        return getattr(self, message)

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.set_framing("line", 10_000)
        connection.send(b"welcome\n")
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        if data == b"STARTTLS\n" and connection.tls_available:
            connection.send(b"go ahead\n")
            connection.set_active("passive")
            connection.upgrade_to_tls_server()
        else:
            connection.send(data.upper())

    def on_tls(self, connection: ConnectionHandle) -> None:
        connection.set_active("active")


class Caller(Notes):
    """Connects to where it is told to, and says hello over TLS."""

    def on_receive(self, message: Any) -> Any:
        return message(self)

    async def call(self, address: str, name: str) -> str:
        connection = await self.tcp.connect(address)
        if connection.tls_info is None:
            connection.send(b"STARTTLS\n")
            assert await connection.receive(100) == b"go ahead\n"
            await connection.upgrade_to_tls_client(name)
        connection.send(b"hello")
        return (await connection.receive(100)).decode()


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(certificates: Certificates) -> MakeStage:
    """Makes stages; with ``auto_handshake``, TLS begins with the first byte."""

    def make(
        auto_handshake: bool = False,
        server: CertificateFiles = certificates.server,
        options: dict[str, Any] | None = None,
        more: dict[str, Any] | None = None,
        **capacities: Any,
    ) -> Stage:
        server_tls = ServerTls(cert=server.cert, key=server.key, auto_handshake=auto_handshake, **(more or {}))
        client_tls = ClientTls(ca_cert=certificates.ca, auto_handshake=auto_handshake)
        settings = Settings(options=Options(server_tls=server_tls, client_tls=client_tls, **(options or {})))
        return Stage(settings, **capacities)

    return make


@pytest.fixture(scope="module")
def client_context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca)


@pytest.fixture(scope="module")
def server_context(certificates: Certificates) -> ssl.SSLContext:
    return server_context_of(certificates.server)


def server_context_of(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return context


def dial_and_ask(stage: Stage, **capacities: Any) -> Peer:
    """A peer that has been told to go ahead with TLS."""
    peer = stage.dial(ADDRESS, **capacities)
    assert peer.receive_until(b"\n") == b"welcome\n"
    peer.send(b"STARTTLS\n")
    assert peer.receive_until(b"\n") == b"go ahead\n"
    return peer


def reasons_of(stage: Stage, ref: pykka.ActorRef[Any]) -> list[str]:
    reasons: list[str] = stage.result(ref.ask("reasons", block=False))
    return reasons


# -- the actor is the server -----------------------------------------------------------------------------------------


def test_an_actor_with_starttls_is_tried_without_a_socket(
    make_stage: MakeStage, client_context: ssl.SSLContext
) -> None:
    with make_stage() as stage:
        stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        assert peer.tls is None
        peer.start_tls(NAME, client_context)
        peer.send(b"hello\n")
        assert peer.receive() == b"HELLO\n"
        assert peer.tls is not None
        assert (peer.tls.version(), peer.tls.server_hostname) == ("TLSv1.3", NAME)


def test_an_actor_with_tls_from_the_first_byte_hears_of_the_connection_when_it_is_secure(
    make_stage: MakeStage, client_context: ssl.SSLContext
) -> None:
    with make_stage(auto_handshake=True) as stage:
        stage.spawn(Shouter)
        peer = stage.dial(ADDRESS)
        assert peer.receive() == b""
        peer.start_tls(NAME, client_context)
        assert peer.receive_until(b"\n") == b"welcome\n"
        peer.send(b"hello\n")
        assert peer.receive() == b"HELLO\n"


def test_a_peer_without_a_context_trusts_anybody_and_needs_no_name(
    make_stage: MakeStage, certificates: Certificates
) -> None:
    with make_stage(server=certificates.untrusted) as stage:
        stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls()
        peer.send(b"hello\n")
        assert peer.receive() == b"HELLO\n"


@pytest.mark.parametrize("which", ["untrusted", "other"])
def test_a_peer_with_a_context_judges_the_certificate_and_both_sides_know(
    make_stage: MakeStage, certificates: Certificates, client_context: ssl.SSLContext, which: str
) -> None:
    with make_stage(server=getattr(certificates, which)) as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        with pytest.raises(ssl.SSLCertVerificationError):
            peer.start_tls(NAME, client_context)
        stage.settle()
        (reason,) = reasons_of(stage, ref)
        assert reason.startswith("tls: the peer's alert: ")


def test_a_client_certificate_that_is_required_is_shown_or_missed(
    make_stage: MakeStage, certificates: Certificates
) -> None:
    with make_stage(more={"client_ca": certificates.ca, "client_auth": "required"}) as stage:
        stage.spawn(Shouter)
        context = ssl.create_default_context(cafile=certificates.ca)
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            dial_and_ask(stage).start_tls(NAME, context)
        context.load_cert_chain(certificates.client.cert, certificates.client.key)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME, context)
        peer.send(b"hello\n")
        assert peer.receive() == b"HELLO\n"


def test_a_peer_takes_an_earlier_session_up_again(make_stage: MakeStage, client_context: ssl.SSLContext) -> None:
    with make_stage() as stage:
        stage.spawn(Shouter)
        first, second = dial_and_ask(stage), dial_and_ask(stage)
        first.start_tls(NAME, client_context)
        assert first.tls is not None
        second.start_tls(NAME, client_context, first.tls.session)
        assert second.tls is not None
        assert (first.tls.session_reused, second.tls.session_reused) == (False, True)
        assert stage.metrics().resumed_sessions == 1


def test_a_certificate_that_changed_is_shown_after_the_time_of_its_reload(
    make_stage: MakeStage, certificates: Certificates, tmp_path: Path, client_context: ssl.SSLContext
) -> None:
    """The look at the files is made in the loop's next turn: a stage has no threads."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(files: CertificateFiles) -> None:
        key.touch(mode=0o600)
        cert.write_bytes(Path(files.cert).read_bytes())
        key.write_bytes(Path(files.key or "").read_bytes())

    put(certificates.other)
    with make_stage(server=CertificateFiles(cert=str(cert), key=str(key)), more={"reload": 30}) as stage:
        stage.spawn(Shouter)
        dial_and_ask(stage).start_tls("other.example.org", client_context)
        put(certificates.server)
        stage.advance(31)
        dial_and_ask(stage).start_tls(NAME, client_context)
        assert stage.metrics().certificate_reloads == 1


# -- the actor is the client -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_handshake", [True, False], ids=["from the first byte", "in the middle"])
def test_an_actor_that_connects_finds_tls_where_the_test_is_the_server(
    make_stage: MakeStage, server_context: ssl.SSLContext, auto_handshake: bool
) -> None:
    with make_stage(auto_handshake=auto_handshake) as stage:
        server = stage.listen(f"{NAME}:25")
        answer = stage.spawn(Caller).ask(lambda caller: caller.call(f"{NAME}:25", NAME), block=False)
        peer = stage.accept(server)
        if not auto_handshake:
            assert peer.receive_until(b"\n") == b"STARTTLS\n"
            peer.send(b"go ahead\n")
        peer.start_tls_server(server_context)
        assert peer.receive_exactly(5) == b"hello"
        peer.send(b"welcome")
        assert stage.result(answer) == "welcome"


@pytest.mark.parametrize("which", ["untrusted", "expired", "other"])
def test_an_actor_that_refuses_the_certificate_lets_the_peer_know(
    make_stage: MakeStage, certificates: Certificates, which: str
) -> None:
    with make_stage() as stage:
        server = stage.listen(f"{NAME}:25")
        answer = stage.spawn(Caller).ask(lambda caller: caller.call(f"{NAME}:25", NAME), block=False)
        peer = stage.accept(server)
        assert peer.receive_until(b"\n") == b"STARTTLS\n"
        peer.send(b"go ahead\n")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert|certificate"):
            peer.start_tls_server(server_context_of(getattr(certificates, which)))
        with pytest.raises(Exception, match="tls: certificate verify failed"):
            stage.result(answer)


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_actor_that_knows_nothing_of_tls_answers_with_something_else(make_stage: MakeStage) -> None:
    class Plain(Shouter):
        def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
            connection.send(b"what?\n")

        def handle_connection(self, connection: ConnectionHandle) -> None:
            super().handle_connection(connection)
            connection.set_framing("raw")

    with make_stage() as stage:
        stage.spawn(Plain)
        peer = stage.dial(ADDRESS)
        assert peer.receive_until(b"\n") == b"welcome\n"
        with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
            peer.start_tls(NAME)


def test_plaintext_that_was_not_received_is_told_before_tls_begins(
    make_stage: MakeStage, server_context: ssl.SSLContext
) -> None:
    with make_stage() as stage:
        stage.spawn(Shouter)
        peer = stage.dial(ADDRESS)
        assert peer.receive_exactly(3) == b"wel"
        with pytest.raises(AssertionError, match=r"b'come\\n' came in plaintext"):
            peer.start_tls(NAME)
        server = stage.listen(f"{NAME}:25")
        stage.spawn(Caller).tell(lambda caller: caller.call(f"{NAME}:25", NAME))
        with pytest.raises(AssertionError, match=r"b'STARTTLS\\n' came in plaintext"):
            stage.accept(server).start_tls_server(server_context)


def test_an_actor_that_does_not_go_on_is_told_of_at_once(make_stage: MakeStage) -> None:
    class Silent(Notes):
        def on_start(self) -> None:
            self.tcp.listen(ADDRESS)

        def handle_connection(self, connection: ConnectionHandle) -> None:
            connection.activate()

    with make_stage() as stage:
        stage.spawn(Silent)
        peer = stage.dial(ADDRESS)
        with pytest.raises(AssertionError, match="does not go on with the TLS handshake"):
            peer.start_tls(NAME)


def test_an_actor_that_closes_in_the_middle_of_the_handshake_ends_it(make_stage: MakeStage) -> None:
    class Leaving(Shouter):
        def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
            super().on_data(connection, data)
            self.call_later(1.0, connection.close)

    with make_stage() as stage:
        stage.spawn(Leaving)
        peer = dial_and_ask(stage)
        stage.advance(1)
        with pytest.raises(ssl.SSLEOFError):
            peer.start_tls(NAME)


def test_a_silent_peer_is_given_up_when_the_handshakes_time_is_over(make_stage: MakeStage) -> None:
    """Line 16."""
    with make_stage(options={"handshake_timeout": 7}) as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        stage.advance(6.9)
        assert reasons_of(stage, ref) == []
        stage.advance(0.1)
        assert reasons_of(stage, ref) == ["tls: handshake timeout"]
        assert peer.receive_all() == b""


def test_a_stream_that_is_cut_off_is_no_end_of_stream(make_stage: MakeStage) -> None:
    """Line 17. What was agreed on is known in on_close all the same."""
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME)
        peer.cut_off()
        assert reasons_of(stage, ref) == ["tls-truncated"]
        (info,) = stage.result(ref.ask("infos", block=False))
        assert info.server_name == NAME


def test_an_orderly_end_is_one_on_both_sides(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME)
        peer.send(b"last words\n")
        peer.shutdown_write()
        assert peer.receive_all() == b"LAST WORDS\n"
        assert peer.ended == "eof"
        peer.close()
        assert reasons_of(stage, ref) == ["eof"]


def test_a_reset_is_one_over_tls_too(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME)
        peer.abort()
        assert reasons_of(stage, ref) == ["reset"]


def test_bytes_on_the_wire_that_no_tls_has_seen_end_the_connection(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME)
        peer.socket.send(b"QUIT\n")
        stage.settle()
        (reason,) = reasons_of(stage, ref)
        assert reason.startswith("tls: ")
        assert peer.tls is not None
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            peer.receive_all()


# -- faults and narrow networks --------------------------------------------------------------------------------------


def test_a_reset_in_the_middle_of_the_handshake_is_a_failed_handshake(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        fault = peer.socket.other_end
        fault.shorten_next("recv", 100)
        fault.fail_next("recv", ConnectionResetError(errno.ECONNRESET, "reset"))
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            peer.start_tls(NAME)
        (reason,) = reasons_of(stage, ref)
        assert reason.startswith("tls: ")
        assert "reset" in reason


def test_a_peer_that_resets_in_the_middle_of_the_handshake_is_a_failed_handshake(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.send(b"\x16\3\1")
        peer.abort()
        (reason,) = reasons_of(stage, ref)
        assert reason.startswith("tls: ")
        assert stage.metrics().handshake_failures == 1


def test_short_reads_and_writes_and_wake_ups_for_nothing_change_nothing(make_stage: MakeStage) -> None:
    with make_stage() as stage:
        stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        socket = peer.socket.other_end
        for size in (1, 2, 3, 5, 100):
            socket.shorten_next("recv", size)
            socket.fail_next("recv", BlockingIOError())
            socket.shorten_next("send", size)
            socket.fail_next("send", BlockingIOError())
        peer.start_tls(NAME)
        for size in (1, 4, 6):
            socket.shorten_next("recv", size)
            socket.shorten_next("send", size)
        peer.send(b"hello\n")
        assert peer.receive() == b"HELLO\n"


def test_a_network_that_holds_one_byte_carries_tls(make_stage: MakeStage, client_context: ssl.SSLContext) -> None:
    with make_stage(lockstep=True) as stage:
        stage.spawn(Shouter)
        peer = dial_and_ask(stage)
        peer.start_tls(NAME, client_context)
        peer.send(b"hello\n")
        assert peer.receive_until(b"\n") == b"HELLO\n"


def test_an_offer_takes_a_record_when_the_one_before_has_gone(make_stage: MakeStage) -> None:
    class Idle(Shouter):
        def on_tls(self, connection: ConnectionHandle) -> None:
            pass

    with make_stage() as stage:
        stage.spawn(Idle)
        peer = dial_and_ask(stage, receive_capacity=100, send_capacity=0)
        peer.start_tls(NAME)
        assert peer.offer(bytes(10)) == 10
        assert peer.offer(bytes(1 << 20)) == 16 << 10
        assert peer.unsent
        assert peer.offer(bytes(10)) == 0


def test_the_handshake_of_one_peer_waits_for_no_other(make_stage: MakeStage) -> None:
    """Line 21."""
    with make_stage(auto_handshake=True) as stage:
        stage.spawn(Shouter)
        silent = [stage.dial(ADDRESS) for _ in range(20)]
        peer = stage.dial(ADDRESS)
        peer.start_tls(NAME)
        assert peer.receive_until(b"\n") == b"welcome\n"
        silent[3].start_tls(NAME)
        assert silent[3].receive_until(b"\n") == b"welcome\n"
        assert stage.metrics().handshakes == 2
