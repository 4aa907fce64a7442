"""The attacks on STARTTLS, each by a peer who writes bytes to a real socket as it likes.

What an attacker between the two ends can do before there are keys is to add, hold back and cut bytes. So somebody's
plaintext must never pass for what came encrypted, in neither direction (Poddebniak et al., "Why TLS Is Better Without
STARTTLS", USENIX Security 2021). The numbers are those of the list that this project is tested against. The servers
here are small ones of SMTP and IMAP, in the two styles that an owner may be written in; where the state of a session is
what counts, it is the real server and the real client of ``actors``.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from actors.smtp_client import SmtpClient, Submission
from tests.actors.smtp.serving import serving
from tests.contract.test_calls import CALLS, kind_of_outcome
from tests.peers import TIMEOUT, eventually, receive_exactly
from tests.support import let_pass, outcome_of, settled
from tests.tls_peer import TlsPeer, client_context, records_of, rest_of
from tests.tls_stage import SIDES, UPGRADES, TlsStage, listening_socket, upgrade_call
from theater_tcp.errors import (
    AlreadyTls,
    Busy,
    NotFound,
    NotOwner,
    Pending,
    PlaintextBeforeTls,
    TheaterError,
    TlsFailed,
    TlsTruncated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pykka

    from tests.certificates_fixture import Certificates
    from theater_tcp.tls_settings import CertificateFiles

MIB = 1 << 20


class Dialect(NamedTuple):
    """The words of a protocol that has STARTTLS."""

    greeting: bytes
    starttls: bytes
    go_ahead: bytes
    noop: bytes
    done: bytes


DIALECTS = {
    "SMTP": Dialect(
        b"220 mx.example.org ESMTP\r\n", b"STARTTLS\r\n", b"220 2.0.0 go ahead\r\n", b"NOOP\r\n", b"250 2.0.0 ok\r\n"
    ),
    "IMAP": Dialect(
        b"* OK IMAP4rev2 ready\r\n", b"a1 STARTTLS\r\n", b"a1 OK go ahead\r\n", b"a2 NOOP\r\n", b"a2 OK done\r\n"
    ),
}


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=["loop", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which end of TLS the runtime is."""
    return str(request.param)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """The protocol that is spoken."""
    return DIALECTS[request.param]


@pytest.fixture(params=["callbacks", "receives"])
def style(request: pytest.FixtureRequest) -> str:
    """How the owner is written: it hears on_data and on_tls, or it waits for what comes."""
    return str(request.param)


class Server:
    """A server of a dialect that notes which commands it has executed.

    Args:
        stage: where it lives.
        dialect: what it speaks.
        kind: of its actor.
        style: see the fixture.
        before_upgrade: called with the actor between its go-ahead and the upgrade.
        options: of its connections.
    """

    def __init__(
        self,
        stage: TlsStage,
        dialect: Dialect,
        kind: str = "loop",
        style: str = "receives",
        before_upgrade: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.stage = stage
        self.dialect = dialect
        self.before_upgrade = before_upgrade
        self.executed: list[tuple[str, bytes]] = []
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        hooks: dict[str, Callable[..., Any]] = {"on_close": self._on_close}
        if style == "callbacks":
            hooks |= {"handle_connection": self._greet, "on_data": self._on_data, "on_tls": self._on_tls}
        else:
            hooks |= {"handle_connection": self._serve}
        self.owner = stage.owner(kind, without=[] if style == "callbacks" else ["on_tls", "on_data"], **hooks)
        options = {**stage.tls_options(auto_handshake=False), "framing": "line", **options}
        self.address = self.owner.listen(**options).address

    def dial(self) -> TlsPeer:
        """A client that has read the greeting and may become TLS."""
        peer = self.stage.tls_peer("server", self.stage.dial(self.address))
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert receive_exactly(peer.sock, len(self.dialect.greeting)) == self.dialect.greeting
        return peer

    def ended(self) -> str:
        """The reason of the next end of a connection."""
        try:
            return self.ends.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no connection has ended in {TIMEOUT:g} s; executed: {self.executed}") from None

    def serves(self, peer: TlsPeer) -> None:
        """The connection is encrypted and in service, and this is the first command that is executed on it."""
        peer.send(self.dialect.noop)
        assert peer.receive_exactly(len(self.dialect.done)) == self.dialect.done
        assert self.executed == [("encrypted", self.dialect.noop)]

    def serves_another(self) -> None:
        """The server is there for the next client."""
        self.executed.clear()
        peer = self.dial()
        peer.sock.sendall(self.dialect.starttls)
        assert receive_exactly(peer.sock, len(self.dialect.go_ahead)) == self.dialect.go_ahead
        self.serves(peer.handshake())

    def _answer(self, connection: Any, line: bytes) -> bool:
        """Execute a command; whether it was STARTTLS, and the go-ahead is out."""
        if line == self.dialect.starttls:
            connection.send(self.dialect.go_ahead)
            return True
        if not line.endswith(b"\n"):
            return False  # the rest of a stream that has ended is no command
        self.executed.append(("plaintext" if connection.tls_info is None else "encrypted", line))
        connection.send(self.dialect.done)
        return False

    def _greet(self, _actor: Any, connection: Any) -> None:
        connection.activate()
        connection.send(self.dialect.greeting)
        connection.set_active("active")

    async def _on_data(self, actor: Any, connection: Any, line: bytes) -> None:
        if self._answer(connection, line):
            connection.set_active("passive")
            if self.before_upgrade is not None:
                await settled(self.before_upgrade(actor))
            connection.upgrade_to_tls_server()

    def _on_tls(self, _actor: Any, connection: Any) -> None:
        connection.set_active("active")

    async def _serve(self, actor: Any, connection: Any) -> None:
        connection.activate()
        connection.send(self.dialect.greeting)
        try:
            while line := await settled(connection.receive(1000)):
                if self._answer(connection, line):
                    if self.before_upgrade is not None:
                        await settled(self.before_upgrade(actor))
                    await settled(connection.upgrade_to_tls_server())
        except TheaterError:
            pass  # its end is told by on_close

    def _on_close(self, _actor: Any, _connection: Any, reason: str) -> None:
        self.ends.put(reason)


# -- 1 to 4: what a client's words before the handshake do -----------------------------------------------------------


def test_attack_01_a_command_in_one_segment_with_starttls_is_never_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 1: ``STARTTLS\\r\\nNOOP\\r\\n`` in one segment, for SMTP and IMAP (CVE-2011-0411)."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls + dialect.noop)
    assert server.ended() == "plaintext-before-tls"
    assert dialect.go_ahead.startswith(rest_of(peer.sock))
    assert server.executed == []
    assert stage.theater.metrics().plaintext_before_tls == 1
    server.serves_another()


def test_attack_01_the_victims_own_handshake_does_not_carry_the_command_over(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 1: the victim's handshake follows, whose session the command was to be executed in."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls + dialect.noop)
    try:
        came = receive_exactly(peer.sock, len(dialect.go_ahead))
        peer.handshake()
        came += peer.receive()
    except (AssertionError, OSError):
        came = b""  # it has been closed
    assert server.executed == []
    assert came == b""
    assert server.ended() == "plaintext-before-tls"


@pytest.mark.parametrize(
    "where", ["inside of STARTTLS", "before the go-ahead", "inside of NOOP", "behind the go-ahead"]
)
def test_attack_02_the_same_split_around_the_go_ahead_is_never_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, where: str
) -> None:
    """Attack 2: ``STARTTLS\\r\\nNOOP\\r\\n`` in two segments, the second before, while or after the server answers."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    stream, line = dialect.starttls + dialect.noop, len(dialect.starttls)
    at = {"inside of STARTTLS": line - 3, "inside of NOOP": line + 2}.get(where, line)
    peer.sock.sendall(stream[:at])
    if where == "behind the go-ahead":
        assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    elif where == "inside of STARTTLS":
        stage.pass_turns(2)
    peer.sock.sendall(stream[at:])
    if where in ("behind the go-ahead", "before the go-ahead"):  # it may meet the handshake
        reason = server.ended()
        assert reason == "plaintext-before-tls" or reason.startswith("tls: ")
    else:
        assert server.ended() == "plaintext-before-tls"
    assert server.executed == []
    server.serves_another()


@pytest.mark.parametrize("at", range(16))
def test_attack_02_no_split_at_all_lets_a_byte_across(stage: TlsStage, style: str, at: int) -> None:
    """Attack 2: each place of the stream in turn, and the handshake of the victim behind it."""
    dialect = DIALECTS["SMTP"]
    server = Server(stage, dialect, "loop", style)
    peer = server.dial()
    stream = dialect.starttls + dialect.noop
    peer.sock.sendall(stream[:at])
    stage.pass_turns(3)
    try:
        peer.sock.sendall(stream[at:] + peer.hello())
    except OSError:
        pass  # it has been closed already
    reason = server.ended()
    assert reason == "plaintext-before-tls" or reason.startswith("tls: ")
    assert server.executed == []


@pytest.mark.parametrize("together", [True, False])
def test_attack_03_bytes_between_the_go_ahead_and_the_clienthello_are_never_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, together: bool
) -> None:
    """Attack 3: the server has begun its handshake, and gets a command first."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    stage.pass_turns()
    if together:
        peer.sock.sendall(dialect.noop + peer.hello())
    else:
        peer.sock.sendall(dialect.noop)
        stage.pass_turns()
    assert server.ended().startswith(("tls: ", "plaintext-before-tls"))
    records_of(rest_of(peer.sock))
    assert server.executed == []
    server.serves_another()


def test_attack_03_bytes_between_two_flights_of_the_handshake_are_never_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 3: the same, a message later."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    receive_exactly(peer.sock, len(dialect.go_ahead))
    last = peer.finished()
    peer.sock.sendall(dialect.noop + last)
    assert server.ended().startswith("tls: ")
    assert server.executed == []


@pytest.mark.parametrize("fragment", [b"N", b"NOOP", b"\r", b"a3 LOGIN attacker pass", b"\0", b" "])
def test_attack_04_an_unterminated_fragment_is_no_beginning_of_the_first_encrypted_command(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, fragment: bytes
) -> None:
    """Attack 4: what is left in the line buffer would be joined with the first line of the session."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls + fragment)
    assert server.ended() == "plaintext-before-tls"
    assert server.executed == []
    assert dialect.go_ahead.startswith(rest_of(peer.sock))
    server.serves_another()


# -- 5: what a server's words before the handshake do ----------------------------------------------------------------


class Client:
    """A client of a dialect that insists on TLS and notes which replies it believed in.

    Args:
        stage: where it lives.
        dialect: what it speaks.
        kind: of its actor.
        options: of its connections.
    """

    def __init__(self, stage: TlsStage, dialect: Dialect, kind: str, **options: Any) -> None:
        self.stage = stage
        self.dialect = dialect
        self.believed: list[tuple[str, bytes]] = []
        self.owner = stage.owner(kind, without=["on_tls"])
        self.options = {**stage.tls_options(auto_handshake=False), "framing": "line", **options}

    def begin(self, name: str = "localhost", address: str = "127.0.0.1:0") -> tuple[TlsPeer, pykka.Future[Any]]:
        """Let it call a server; the server's end, and what comes of the client's whole session."""
        listening, address = listening_socket(address)
        with listening:
            session = self.owner.ref.ask(lambda actor: self._session(actor, address, name), block=False)
            return self.stage.tls_peer("client", self.stage.accept_from(listening)), session

    def up_to_starttls(self, peer: TlsPeer) -> None:
        """The server greets, and hears STARTTLS."""
        peer.sock.sendall(self.dialect.greeting)
        assert receive_exactly(peer.sock, len(self.dialect.starttls)) == self.dialect.starttls

    async def _session(self, actor: Any, address: str, name: str) -> None:
        connection = await settled(actor.tcp.connect(address, **self.options))
        try:
            self._believe(connection, await settled(connection.receive(1000)))
            connection.send(self.dialect.starttls)
            reply = await settled(connection.receive(1000))
            self._believe(connection, reply)
            if reply != self.dialect.go_ahead:
                raise TlsFailed("the server does not go ahead")
            await settled(connection.upgrade_to_tls_client(name))
            connection.send(self.dialect.noop)  # what must go out encrypted or not at all
            self._believe(connection, await settled(connection.receive(1000)))
        finally:
            try:
                connection.close()
            except TheaterError:
                pass  # it has ended by itself

    def _believe(self, connection: Any, reply: bytes) -> None:
        self.believed.append(("plaintext" if connection.tls_info is None else "encrypted", reply))


FORGED = [
    b"250-SIZE 1\r\n250 AUTH PLAIN\r\n",
    b"x",
    b"\r\n",
    b"* PREAUTH\r\n",
    b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03",
]


@pytest.mark.parametrize("forged", FORGED, ids=repr)
def test_attack_05_a_forged_reply_in_one_segment_with_the_go_ahead_is_never_believed(
    stage: TlsStage, dialect: Dialect, kind: str, forged: bytes
) -> None:
    """Attack 5: ``220\\r\\n`` plus a reply to the client's first encrypted command."""
    client = Client(stage, dialect, kind)
    peer, session = client.begin()
    client.up_to_starttls(peer)
    peer.sock.sendall(dialect.go_ahead + forged)
    with pytest.raises(PlaintextBeforeTls):
        outcome_of(session)
    assert client.believed == [("plaintext", dialect.greeting), ("plaintext", dialect.go_ahead)]
    assert rest_of(peer.sock) == b"", "not even a ClientHello went out"


def test_attack_05_a_forged_reply_after_the_clienthello_is_never_believed(
    stage: TlsStage, dialect: Dialect, kind: str
) -> None:
    """Attack 5: the same, when the handshake has begun."""
    client = Client(stage, dialect, kind)
    peer, session = client.begin()
    client.up_to_starttls(peer)
    peer.sock.sendall(dialect.go_ahead)
    assert peer.pull()
    peer.sock.sendall(dialect.done)
    with pytest.raises(TlsFailed):
        outcome_of(session)
    assert client.believed == [("plaintext", dialect.greeting), ("plaintext", dialect.go_ahead)]
    assert dialect.noop not in bytes(peer.seen) + rest_of(peer.sock)


# -- 6 and 7: a client that is early ----------------------------------------------------------------------------------


def test_attack_06_a_clienthello_in_one_segment_with_starttls_is_served(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 6: no attack, but an impatient client; its ClientHello is not lost in a line buffer."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls + peer.hello())
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    server.serves(peer.handshake())


@pytest.mark.parametrize("later", [False, True])
def test_attack_06_a_command_behind_an_early_clienthello_is_never_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, later: bool
) -> None:
    """Attack 6: the ClientHello is the victim's, and what follows it in plaintext the attacker's."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    if later:
        peer.sock.sendall(dialect.starttls + peer.hello())
        stage.pass_turns()
        peer.sock.sendall(dialect.noop)
    else:
        peer.sock.sendall(dialect.starttls + peer.hello() + dialect.noop)
    assert server.ended().startswith("tls: ")
    came = rest_of(peer.sock)
    assert dialect.done not in came
    assert server.executed == []
    server.serves_another()


def test_attack_06_a_clienthello_of_many_lines_in_one_segment_is_served(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 6: line feeds inside of the ClientHello do not make lines of it."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    context = stage.peer_context("server")
    context.set_alpn_protocols(["\n" * 100, "\r\n" * 50])
    peer = TlsPeer(peer.sock, context)
    peer.sock.sendall(dialect.starttls + peer.hello())
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    server.serves(peer.handshake())


@pytest.mark.parametrize("size", [1, 5, 50, None])
def test_attack_07_a_clienthello_that_comes_before_the_upgrade_call_does_not_hang(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, size: int | None
) -> None:
    """Attack 7: the go-ahead is out, the client is fast, and the owner comes to the upgrade later."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(actor: Any) -> Any:
        reached.set()
        return go_on.wait(TIMEOUT) if kind == "thread" else actor.to_thread(go_on.wait, TIMEOUT)

    server = Server(stage, dialect, kind, style, before_upgrade=wait)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    assert reached.wait(TIMEOUT)
    hello = peer.hello()
    peer.sock.sendall(hello[:size])
    stage.pass_turns()
    go_on.set()
    if size is not None:
        stage.pass_turns()
        peer.sock.sendall(hello[size:])
    server.serves(peer.handshake())


def test_attack_07_plaintext_that_comes_before_the_upgrade_call_is_refused(
    stage: TlsStage, dialect: Dialect, kind: str, style: str
) -> None:
    """Attack 7: the same moment, and an attacker who is fast."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(actor: Any) -> Any:
        reached.set()
        return go_on.wait(TIMEOUT) if kind == "thread" else actor.to_thread(go_on.wait, TIMEOUT)

    server = Server(stage, dialect, kind, style, before_upgrade=wait)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    assert reached.wait(TIMEOUT)
    peer.sock.sendall(dialect.noop)
    stage.pass_turns()
    go_on.set()
    assert server.ended() == "plaintext-before-tls"
    assert server.executed == []


# -- 8 to 10: what is under way at the upgrade ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["active", "once", 3])
def test_attack_08_data_that_was_on_its_way_to_on_data_at_the_upgrade_is_refused_and_never_delivered(
    stage: TlsStage, kind: str, side: str, mode: str | int
) -> None:
    """Attack 8: active or once, and an on_data lies in the owner's mailbox when the upgrade begins."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, framing="line")
    owner.call(connection.set_active, mode)

    async def in_one_turn(actor: Any) -> None:
        peer.sock.sendall(b"NOOP\r\nNOOP\r\n")
        await let_pass(stage, actor)  # a turn for the data lies in the mailbox
        connection.set_active("passive")
        await settled(upgrade_call(side, connection)())

    upgrading = owner.ref.ask(in_one_turn, block=False)
    assert owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls) == "plaintext-before-tls"


def test_attack_08_the_second_chunk_of_once_is_unread_at_the_upgrade(stage: TlsStage, kind: str, side: str) -> None:
    """Attack 8: once is passive when its callback runs, and what came with its chunk is still here."""

    def on_data(_actor: Any, connection: Any, _data: bytes) -> None:
        upgrade_call(side, connection)()

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet_plain(side, framing="line")
    owner.call(connection.set_active, "once")
    peer.sock.sendall(b"STARTTLS\r\nNOOP\r\n")
    owner.expect("on_data", b"STARTTLS\r\n")
    owner.expect("on_close", "plaintext-before-tls")
    owner.hears_nothing()


def test_attack_08_an_upgrade_while_data_is_pushed_is_refused_before_it_can_race(
    stage: TlsStage, kind: str, side: str
) -> None:
    """Attack 8: who forgets to be passive first hears of it at once, and nothing has happened."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    for mode in ("active", "once", 3):
        owner.call(connection.set_active, mode)
        assert kind_of_outcome(owner, UPGRADES[f"upgrade-to-tls-{side}"], connection, None) == "wrong-mode"
    owner.call(connection.set_active, "passive")
    owner.upgrade(side, connection, peer)


def test_attack_09_no_call_during_the_handshake_gets_a_byte_in_or_out(stage: TlsStage, kind: str, side: str) -> None:
    """Attack 9: send, receive, transfer, a change of mode and a second upgrade during the handshake."""
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    calls = {**CALLS, **UPGRADES}
    for name, call in calls.items():
        if name in ("close", "abort", "activate") or name.endswith("-address"):
            continue
        with pytest.raises(Busy):
            owner.during(call, connection, target.ref)
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)
    assert b"sent" not in bytes(peer.seen)
    target.hears_nothing()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_attack_09_close_during_the_handshake_ends_it_for_good(stage: TlsStage, kind: str, side: str, end: str) -> None:
    """Attack 9: nothing of the handshake goes on behind a close."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    owner.during(getattr(connection, end))
    with pytest.raises(TheaterError):
        outcome_of(upgrading)
    assert peer.refusal() in ("eof", "reset")
    owner.hears_nothing()
    assert stage.theater.metrics().handshakes == 0


@pytest.mark.parametrize("injects", [False, True])
def test_attack_10_a_large_pending_write_goes_out_before_the_handshake_or_nothing_does(
    stage: TlsStage, kind: str, side: str, injects: bool
) -> None:
    """Attack 10: 8 MiB of plaintext wait at the upgrade, and an attacker may use the time."""
    owner = stage.owner(kind)
    room: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 64 * MIB}
    connection, peer = owner.meet_plain(side, **room)
    data = bytes(range(256)) * (8 * MIB // 256)
    owner.call(connection.send, data)
    upgrading = owner.begin_upgrade(side, connection)
    if injects:
        peer.sock.sendall(b"NOOP\r\n")
        stage.pass_turns()
        assert data.startswith(rest_of(peer.sock))
        owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls)
        return
    assert receive_exactly(peer.sock, len(data)) == data
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)


# -- 11 and 12: handshakes that do not come to an end -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["silent", "byte by byte"])
def test_attack_11_a_silent_peer_and_one_of_a_byte_now_and_then_are_ended_in_time_and_delay_nobody(
    stage: TlsStage, dialect: Dialect, kind: str, how: str
) -> None:
    """Attack 11: after STARTTLS the client says nothing, or too little."""
    server = Server(stage, dialect, kind, "callbacks", handshake_timeout=0.3)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    if kind == "loop":  # a thread waits in its upgrade
        server.serves_another()
    pause = threading.Event()
    hello = peer.hello()
    for sent in range(len(hello) if how == "byte by byte" else 0):
        if not server.ends.empty():
            break
        try:
            peer.sock.sendall(hello[sent : sent + 1])
        except OSError:
            break
        pause.wait(0.02)
    assert server.ended() == "tls: handshake timeout"
    records_of(rest_of(peer.sock))
    server.serves_another()


@pytest.mark.parametrize("how", ["no TLS", "an alert", "a wrong Finished", "FIN"])
def test_attack_12_a_failed_handshake_leaves_nothing_usable(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, how: str
) -> None:
    """Attack 12: the connection never goes on in plaintext, for nobody."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    if how == "no TLS":
        peer.sock.sendall(dialect.noop)
    elif how == "an alert":
        peer.sock.sendall(peer.hello())
        peer.pull()
        peer.sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
    elif how == "a wrong Finished":
        last = bytearray(peer.finished())
        last[-1] ^= 1
        peer.sock.sendall(last)
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    assert server.ended().startswith(("tls: ", "plaintext-before-tls"))
    try:
        peer.sock.sendall(dialect.noop * 10)
    except OSError:
        pass
    came = rest_of(peer.sock)
    assert dialect.done not in came
    records_of(came)
    assert server.executed == []
    eventually(lambda: stage.theater.metrics().connections == 0)
    assert server.owner.act(lambda actor: getattr(actor, "connections", [])) == []
    server.serves_another()


@pytest.mark.parametrize("how", ["no TLS", "an alert", "FIN"])
def test_attack_12_a_client_whose_handshake_failed_says_nothing_more(
    stage: TlsStage, dialect: Dialect, kind: str, how: str
) -> None:
    """Attack 12: the other direction. "Succeeds" unencrypted is the worst that a client can do."""
    client = Client(stage, dialect, kind)
    peer, session = client.begin()
    client.up_to_starttls(peer)
    peer.sock.sendall(dialect.go_ahead)
    assert peer.pull()
    if how != "FIN":
        peer.sock.sendall(dialect.done if how == "no TLS" else b"\x15\x03\x03\x00\x02\x02\x28")
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsFailed):
        outcome_of(session)
    came = bytes(peer.seen) + rest_of(peer.sock)
    assert dialect.noop not in came
    records_of(came)


# -- 13: stripping ------------------------------------------------------------------------------------------------


STRIPPED: dict[str, list[bytes]] = {
    # what the server says to the greeting's EHLO, to STARTTLS, to QUIT
    "the capability is removed": [b"250-mx.example.org\r\n250 SIZE 1000000\r\n", b"221 bye\r\n"],
    "the capability is garbled": [b"250-mx.example.org\r\n250 XXXXXXXA\r\n", b"221 bye\r\n"],
    "refused for now": [b"250-mx.example.org\r\n250 STARTTLS\r\n", b"454 4.7.0 not now\r\n", b"221 bye\r\n"],
    "refused for good": [b"250-mx.example.org\r\n250 STARTTLS\r\n", b"554 5.7.3 never\r\n", b"221 bye\r\n"],
    "not known": [b"250-mx.example.org\r\n250 STARTTLS\r\n", b"502 5.5.1 what\r\n", b"221 bye\r\n"],
    "a premature go-ahead": [b"250-mx.example.org\r\n250 STARTTLS\r\n220 2.0.0 go ahead\r\n", b"454 4.7.0 no\r\n"],
    "a premature go-ahead and a capability that is not there": [b"250 mx.example.org\r\n220 2.0.0 go ahead\r\n", b""],
}


@pytest.mark.parametrize("case", STRIPPED)
def test_attack_13_a_client_that_requires_tls_tells_a_stripped_server_no_address_and_no_message(
    stage: TlsStage, certificates: Certificates, case: str
) -> None:
    """Attack 13: stripping: the capability removed, 4xx and 5xx, a premature OK. The real SMTP client."""
    listening, address = listening_socket()
    with listening:
        client = stage.theater.spawn(SmtpClient, address, ca_cert=certificates.ca, name="client.example.org")
        message = Submission(
            sender="ann@example.org", recipients=("bob@example.org",), message=b"Subject: secret\r\n\r\nsecret\r\n"
        )
        sending = client.ask(message, block=False)
        sock = stage.accept_from(listening)
        sock.sendall(b"220 mx.example.org ESMTP\r\n")
        heard = b""
        for reply in STRIPPED[case]:
            piece = sock.recv(1000)
            heard += piece
            if not piece:
                break
            sock.sendall(reply)
        sock.shutdown(socket.SHUT_WR)
        heard += rest_of(sock)
    receipt = sending.get(timeout=TIMEOUT)
    assert receipt.error
    assert receipt.outcomes[0].status == "unsent"
    for secret in (b"ann", b"bob", b"secret", b"MAIL"):
        assert secret not in heard


PREMATURE: dict[str, tuple[bytes, bytes]] = {
    # what comes with the greeting or instead of it, and what comes after STARTTLS
    "an OK with the greeting": (b"* OK ready\r\na1 OK go ahead\r\n", b""),
    "an OK with the greeting, and the true one": (b"* OK ready\r\na1 OK go ahead\r\n", b"a1 OK go ahead\r\n"),
    "PREAUTH": (b"* PREAUTH you are known\r\n", b"a1 BAD not in this state\r\n"),
    "PREAUTH and a forged OK": (b"* PREAUTH you are known\r\n", b"a1 OK go ahead\r\n* LIST () / INBOX\r\n"),
    "BAD": (b"* OK ready\r\n", b"a1 BAD no such command\r\n"),
    "NO": (b"* OK ready\r\n", b"a1 NO not now\r\n"),
    "BYE": (b"* BYE\r\n", b""),
    "an untagged OK": (b"* OK ready\r\n", b"* OK go ahead\r\n"),
}


@pytest.mark.parametrize("case", PREMATURE)
def test_attack_13_an_imap_client_is_not_talked_out_of_tls(stage: TlsStage, kind: str, case: str) -> None:
    """Attack 13: a premature OK, and IMAP PREAUTH: in no case does a command of the session go out in plaintext."""
    dialect = DIALECTS["IMAP"]
    client = Client(stage, dialect, kind, handshake_timeout=0.3)
    peer, session = client.begin()
    first, second = PREMATURE[case]
    peer.sock.sendall(first)
    heard = receive_exactly(peer.sock, len(dialect.starttls))
    if second:
        peer.sock.sendall(second)
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises((PlaintextBeforeTls, TlsFailed)):
        outcome_of(session)
    heard += rest_of(peer.sock)
    assert heard.startswith(dialect.starttls)
    records_of(heard.removeprefix(dialect.starttls))
    assert dialect.noop not in heard


# -- 14: who the server is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", ["expired", "untrusted", "other", "client"])
def test_attack_14_a_server_with_a_wrong_certificate_hears_nothing_but_an_alert(
    stage: TlsStage, dialect: Dialect, kind: str, certificate: str
) -> None:
    """Attack 14: a wrong host, an expired, an untrusted certificate, and one of another purpose."""
    client = Client(stage, dialect, kind)
    plain, session = client.begin()
    files: CertificateFiles = getattr(stage.certificates, certificate)
    peer = TlsPeer(plain.sock, stage.peer_context("client", files=files))
    client.up_to_starttls(peer)
    peer.sock.sendall(dialect.go_ahead)
    assert "ALERT" in peer.refusal()
    with pytest.raises(TlsFailed, match="certificate verify failed"):
        outcome_of(session)
    assert dialect.noop not in bytes(peer.seen)
    records_of(bytes(peer.seen))


@pytest.mark.parametrize(
    ("address", "name", "good"),
    [
        ("127.0.0.1:0", "127.0.0.1", True),
        ("127.0.0.1:0", "127.0.0.2", False),
        ("[::1]:0", "::1", True),
        ("[::1]:0", "[::1]", True),
        ("[::1]:0", "::2", False),
        ("127.0.0.1:0", "mx.example.org", True),
        ("127.0.0.1:0", "mx.example.com", False),
    ],
)
def test_attack_14_names_and_addresses_of_both_families_are_verified(
    stage: TlsStage, kind: str, address: str, name: str, good: bool
) -> None:
    """Attack 14: IP and IPv6 names."""
    dialect = DIALECTS["SMTP"]
    client = Client(stage, dialect, kind)
    peer, session = client.begin(name, address)
    client.up_to_starttls(peer)
    peer.sock.sendall(dialect.go_ahead)
    if not good:
        assert peer.refusal() == "SSLV3_ALERT_BAD_CERTIFICATE"
        with pytest.raises(TlsFailed, match="mismatch"):
            outcome_of(session)
        return
    peer.handshake()
    assert peer.receive_exactly(len(dialect.noop)) == dialect.noop
    peer.send(dialect.done)
    outcome_of(session)
    assert client.believed[-1] == ("encrypted", dialect.done)


# -- 15 to 17: upgrades out of turn, the end, and handover ------------------------------------------------------------


def test_attack_15_an_upgrade_twice_while_pending_or_by_a_stranger_is_refused_and_harms_nothing(
    stage: TlsStage, kind: str, side: str
) -> None:
    """Attack 15: upgrade twice, while pending, by a stranger."""
    owner, stranger = stage.owner(kind), stage.owner(kind)
    pending, sock = owner.meet(**stage.tls_options(auto_handshake=False))
    for call in UPGRADES.values():
        with pytest.raises(Pending):
            owner.call(call, pending, None)
    owner.call(pending.activate)
    peer = stage.tls_peer("server", sock)
    owner.upgrade("server", pending, peer)

    connection, peer = stranger.meet_plain(side)
    stranger.call(connection.transfer, owner.ref)
    mine = owner.expect("handle_connection_transfer").connection
    for call in UPGRADES.values():
        with pytest.raises(NotOwner):
            stranger.call(call, connection, None)
    owner.upgrade(side, mine, peer)
    for call in UPGRADES.values():
        with pytest.raises(AlreadyTls):
            owner.call(call, mine, None)
    owner.speaks(mine, peer)
    owner.call(mine.close)
    for call in UPGRADES.values():
        with pytest.raises(NotFound):
            owner.call(call, mine, None)


@pytest.mark.parametrize("cut", ["between records", "inside of a record"])
def test_attack_16_fin_without_close_notify_is_told_and_a_cut_command_is_not_executed(
    stage: TlsStage, dialect: Dialect, kind: str, style: str, cut: str
) -> None:
    """Attack 16: whoever cuts ``DELETE 10`` down to ``DELETE 1`` has not ended the stream in order."""
    server = Server(stage, dialect, kind, style)
    peer = server.dial()
    peer.sock.sendall(dialect.starttls)
    assert receive_exactly(peer.sock, len(dialect.go_ahead)) == dialect.go_ahead
    server.serves(peer.handshake())
    begun, rest = peer.seal(b"a3 DELETE 1"), peer.seal(b"0\r\n")
    peer.sock.sendall(begun + (rest[:-3] if cut == "inside of a record" else b""))
    peer.sock.shutdown(socket.SHUT_WR)
    assert server.ended() == "tls-truncated"
    assert server.executed == [("encrypted", dialect.noop)]
    assert peer.ending()[1] != "close_notify", "and it is not answered as an orderly end"


def test_attack_16_a_client_that_reads_to_the_end_is_not_deceived(stage: TlsStage, kind: str) -> None:
    """Attack 16: the other direction: half a reply does not pass for a whole one."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls("client")
    peer.send(b"half a mess")
    peer.sock.shutdown(socket.SHUT_WR)
    assert owner.call(connection.receive, 100) == b"half a mess"
    with pytest.raises((TlsTruncated, NotFound)):
        owner.call(connection.receive, 100)
    owner.expect("on_close", "tls-truncated")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_attack_17_a_handover_just_before_or_after_an_upgrade_carries_no_plaintext_across_and_loses_no_byte(
    stage: TlsStage, kind: str, side: str, moment: str
) -> None:
    """Attack 17: handover just before and after an upgrade."""
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet_plain(side, framing="line")
    if moment == "before":
        peer.sock.sendall(b"STARTTLS\r\nNOOP\r\n")
        assert owner.call(connection.receive, 100) == b"STARTTLS\r\n"
        owner.call(connection.transfer, target.ref)
        after = target.expect("handle_connection_transfer").connection
        upgrading = target.begin_upgrade(side, after)
        target.sees_upgrade_fail(after, upgrading, PlaintextBeforeTls)
        owner.hears_nothing()
        return
    upgrading = owner.begin_upgrade(side, connection)
    last = peer.finished()
    peer.sock.sendall(last + peer.seal(b"one\ntwo\nthr") + peer.seal(b"ee\n"))
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    assert [target.call(after.receive, 100) for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    assert target.call(lambda: after.tls_info) is not None
    owner.hears_nothing()


# -- 18: what was said before counts no more ---------------------------------------------------------------------------


def test_attack_18_the_real_server_forgets_at_the_upgrade_what_was_said_before(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Attack 18: session state (HELO, the beginning of a message, capabilities) is reset by the upgrade."""
    with serving(tmp_path, certificate=certificates.server) as served, served.dial() as dialog:
        dialog.send(b"EHLO attacker.example.net\r\n")
        assert "250 STARTTLS" in [line.replace("250-", "250 ") for line in dialog.lines()]
        assert dialog.ask(b"MAIL FROM:<attacker@example.net>\r\nRCPT TO:<victim@example.org>\r\n", 2)[1][:3] == "250"
        assert dialog.ask(b"STARTTLS\r\n") == ["220 2.0.0"]
        peer = TlsPeer(dialog.socket, client_context(certificates.ca)).handshake()
        peer.send(b"DATA\r\n")
        assert peer.receive().startswith(b"503 "), "no message was begun"
        peer.send(b"MAIL FROM:<ann@example.net>\r\n")
        assert peer.receive().startswith(b"503 "), "and nobody has said EHLO"
        peer.send(b"EHLO client.example.net\r\n")
        capabilities = peer.receive()
        assert b"STARTTLS" not in capabilities
        peer.send(b"STARTTLS\r\n")
        assert not peer.receive().startswith(b"2"), "a second time"
        peer.send(b"MAIL FROM:<ann@example.net>\r\n")
        assert peer.receive().startswith(b"250 ")


def test_attack_18_the_real_client_forgets_at_the_upgrade_what_the_server_offered_before(
    stage: TlsStage, certificates: Certificates
) -> None:
    """Attack 18: what an attacker let the server offer in plaintext is not used behind the upgrade."""
    listening, address = listening_socket()
    with listening:
        client = stage.theater.spawn(SmtpClient, address, ca_cert=certificates.ca, name="client.example.org")
        message = Submission(
            sender="ann@example.org", recipients=("bob@example.org",), message=b"Subject: x\r\n\r\nx\r\n"
        )
        sending = client.ask(message, block=False)
        sock = stage.accept_from(listening)
        sock.sendall(b"220 mx.example.org ESMTP\r\n")
        assert sock.recv(1000) == b"EHLO client.example.org\r\n"
        sock.sendall(b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 9999\r\n250 STARTTLS\r\n")
        assert sock.recv(1000) == b"STARTTLS\r\n"
        sock.sendall(b"220 2.0.0 go ahead\r\n")
        peer = stage.tls_peer("client", sock).handshake()
        assert peer.receive() == b"EHLO client.example.org\r\n"
        peer.send(b"250 mx.example.org\r\n")
        assert peer.receive() == b"MAIL FROM:<ann@example.org>\r\n", "no SIZE, and nothing is pipelined"
        peer.send(b"550 5.7.1 enough\r\n")
        assert peer.receive() == b"QUIT\r\n"
        peer.send(b"221 2.0.0 bye\r\n")
    assert sending.get(timeout=TIMEOUT).outcomes[0].status == "refused"
