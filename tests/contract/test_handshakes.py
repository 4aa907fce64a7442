"""Contract 16: every handshake has a deadline, wherever it began and however its peer drags it out, and one that fails
leaves nothing."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.peers import eventually, receive_exactly
from tests.support import outcome_of
from tests.tls_peer import TlsPeer, records_of, rest_of
from tests.tls_stage import SIDES, TlsOwner, TlsStage, listening_socket
from theater_tcp import Options, Settings
from theater_tcp.connection_state import Phase
from theater_tcp.errors import InvalidArgument, TheaterError, TlsFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.certificates_fixture import Certificates

MIB = 1 << 20
MUCH = bytes(range(256)) * (8 * MIB // 256)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}

SOON: dict[str, Any] = {"handshake_timeout": 0.15, "linger_timeout": 0.05, "send_timeout": 1000.0}
"""The deadline that trips, among others that do not."""

LATE = "tls: handshake timeout"


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


class Begun(NamedTuple):
    """A handshake that has begun: its peer, and what tells, when it is over, why it failed."""

    peer: TlsPeer
    reason: Callable[[], str]


def at_accept(owner: TlsOwner, **options: Any) -> Begun:
    """TLS from the first byte of an accepted connection: its owner never hears of one that failed."""
    stage = owner.stage
    listener = owner.listen(**{**stage.tls_options(auto_handshake=True), **options})
    failed = stage.theater.metrics().handshake_failures
    peer = stage.tls_peer("server", stage.dial(listener.address))

    def reason() -> str:
        eventually(lambda: stage.theater.metrics().handshake_failures == failed + 1)
        owner.hears_nothing()
        return stage.reasons()[-1]

    return Begun(peer, reason)


def at_connect(owner: TlsOwner, **options: Any) -> Begun:
    """TLS from the first byte of a connection that is opened here: the connect fails."""
    stage = owner.stage
    options = {**stage.tls_options(auto_handshake=True), **options}
    listening, address = listening_socket()
    with listening:
        connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, **options), block=False)
        peer = stage.tls_peer("client", stage.accept_from(listening))

    def reason() -> str:
        with pytest.raises(TlsFailed) as caught:
            outcome_of(connecting)
        owner.hears_nothing()
        return str(caught.value)

    return Begun(peer, reason)


def at_upgrade(side: str) -> Callable[..., Begun]:
    def begin(owner: TlsOwner, **options: Any) -> Begun:
        connection, peer = owner.meet_plain(side, **options)
        upgrading = owner.begin_upgrade(side, connection)
        return Begun(peer, lambda: owner.sees_upgrade_fail(connection, upgrading, TlsFailed))

    return begin


PLACES: dict[str, Callable[..., Begun]] = {
    "accept": at_accept,
    "connect": at_connect,
    "upgrade as the server": at_upgrade("server"),
    "upgrade as the client": at_upgrade("client"),
}


@pytest.fixture(params=PLACES)
def begin(request: pytest.FixtureRequest) -> Callable[..., Begun]:
    """Where a handshake begins."""
    return PLACES[request.param]


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_contract_16_a_peer_that_says_nothing_is_ended_by_handshake_timeout(
    stage: TlsStage, kind: str, begin: Callable[..., Begun]
) -> None:
    begun = begin(stage.owner(kind), **SOON)
    assert begun.reason() == LATE
    records_of(rest_of(begun.peer.sock))
    metrics = stage.theater.metrics()
    assert (metrics.handshakes, metrics.handshake_failures, metrics.timeouts) == (0, 1, 1)
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_16_a_peer_that_sends_a_byte_now_and_then_is_ended_by_handshake_timeout_too(
    stage: TlsStage, kind: str, begin: Callable[..., Begun]
) -> None:
    begun = begin(stage.owner(kind), **SOON)
    peer, pause = begun.peer, threading.Event()
    if not peer.step() and not peer.outgoing.pending:  # a server speaks second
        assert peer.pull()
        peer.step()
    flight = peer.take()
    for sent in range(len(flight)):  # 5 s and more, were there no deadline
        if stage.theater.metrics().handshake_failures:
            break
        try:
            peer.sock.sendall(flight[sent : sent + 1])
        except OSError:
            break
        pause.wait(0.02)
    assert 0 < sent < len(flight) - 1
    assert begun.reason() == LATE
    assert stage.theater.metrics().timeouts == 1


@pytest.mark.parametrize("place", PLACES)
def test_contract_16_a_peer_that_withholds_its_finished_is_ended_by_handshake_timeout(
    stage: TlsStage, kind: str, place: str
) -> None:
    begun = PLACES[place](stage.owner(kind), **SOON)
    peer = begun.peer
    if place in ("accept", "upgrade as the server"):
        assert peer.finished()
    else:
        assert peer.pull()
        assert not peer.step()
        for record in records_of(peer.take())[:-1]:
            peer.sock.sendall(record)
    assert begun.reason() == LATE


def test_contract_16_a_peer_that_takes_nothing_of_the_plaintext_before_is_ended_by_handshake_timeout(
    stage: TlsStage, kind: str, side: str
) -> None:
    """The deadline runs from the call, not from the first byte of TLS."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, **ROOMY, **SOON)
    owner.call(connection.send, MUCH)
    upgrading = owner.begin_upgrade(side, connection)
    assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed) == LATE
    came = rest_of(peer.sock)
    assert len(came) < len(MUCH)
    assert MUCH.startswith(came)


def test_contract_16_a_peer_that_takes_the_plaintext_before_and_goes_silent_is_ended_too(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, **ROOMY, **{**SOON, "handshake_timeout": 0.5})
    owner.call(connection.send, MUCH)
    upgrading = owner.begin_upgrade(side, connection)
    assert receive_exactly(peer.sock, len(MUCH)) == MUCH
    assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed) == LATE


@pytest.mark.parametrize("by", ["the runtime's settings", "the listener's or connect's options", "set_options"])
def test_contract_G8_handshake_timeout_can_be_set_everywhere(
    certificates: Certificates, kind: str, side: str, by: str
) -> None:
    first = by == "the runtime's settings"
    settings = Settings(drain_timeout=0, options=Options(handshake_timeout=0.1 if first else 1000.0))
    with TlsStage(certificates, settings) as stage:
        owner = stage.owner(kind)
        options: dict[str, Any] = {"handshake_timeout": 0.1} if by.startswith("the listener's") else {}
        connection, _ = owner.meet_plain(side, **options)
        if by == "set_options":
            owner.call(connection.set_options, handshake_timeout=0.1)
        upgrading = owner.begin_upgrade(side, connection)
        assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed) == LATE


@pytest.mark.parametrize("timeout", [0, -1, "1 s", None])
def test_contract_G6_a_handshake_timeout_out_of_range_is_invalid_and_names_the_field(
    stage: TlsStage, timeout: Any
) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid: handshake_timeout: "):
        stage.owner().listen(handshake_timeout=timeout)


@pytest.mark.parametrize("at_once", [False, True])
def test_contract_16_a_handshake_that_is_done_has_no_deadline_any_more(
    stage: TlsStage, kind: str, side: str, at_once: bool
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, at_once=at_once, handshake_timeout=0.25)
    threading.Event().wait(0.4)
    owner.speaks(connection, peer)
    owner.hears_nothing()


def test_contract_16_the_deadline_is_not_put_off_by_a_change_of_options_during_the_handshake(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, _ = owner.meet_plain(side, **{**SOON, "handshake_timeout": 0.3})
    upgrading = owner.begin_upgrade(side, connection)
    owner.during(connection.set_options, handshake_timeout=1000.0)
    assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed) == LATE


def test_contract_16_other_deadlines_do_not_end_a_handshake_and_begin_anew_with_it(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, idle_timeout=0.1, pending_timeout=0.1, send_timeout=0.1)
    upgrading = owner.begin_upgrade(side, connection)
    threading.Event().wait(0.25)
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)
    owner.expect("on_close", "timeout")
    assert peer.receive_to_end() == b""


def test_contract_16_a_handshake_that_its_peer_drags_out_does_not_touch_another_of_the_same_owner(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls("server", at_once=True)
    begun = at_accept(owner, **SOON)
    owner.speaks(connection, peer)
    assert begun.reason() == LATE
    owner.speaks(connection, peer)


# -- what a failure leaves -------------------------------------------------------------------------------------------


WORDS: dict[str, bytes] = {
    "SMTP": b"EHLO mx.example.org\r\nMAIL FROM:<a@example.org>\r\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "NULs": bytes(64),
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "a record of 64 KiB": b"\x16\x03\x01\xff\xff" + bytes(1000),
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "a goodbye": b"\x15\x03\x01\x00\x02\x01\x00",
    "application data": b"\x17\x03\x03\x00\x10" + bytes(16),
    "a heartbeat": b"\x18\x03\x02\x00\x03\x01\x40\x00",
}


@pytest.mark.parametrize("words", WORDS)
def test_contract_16_what_is_no_tls_fails_at_once_with_a_reason_in_one_line_and_nothing_goes_out_in_plaintext(
    stage: TlsStage, begin: Callable[..., Begun], words: str
) -> None:
    begun = begin(stage.owner(), handshake_timeout=1000.0)
    begun.peer.sock.sendall(WORDS[words])
    reason = begun.reason()
    assert reason.startswith("tls: ")
    assert reason.isprintable()
    assert not any(sign in reason for sign in ("_ssl.c", "0x", "Error", "(", "[")) or "not TLS (" in reason, reason
    records_of(rest_of(begun.peer.sock))
    eventually(lambda: stage.theater.metrics().connections == 0)


@pytest.mark.parametrize("place", ["accept", "connect"])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_contract_16_a_wrong_byte_anywhere_in_the_first_flight_does_no_harm(
    stage: TlsStage, place: str, flip: int
) -> None:
    owner = stage.owner("loop")
    at, size = 0, 1
    while at < size:
        begun = PLACES[place](owner)
        peer = begun.peer
        if not peer.step() and not peer.outgoing.pending:
            assert peer.pull()
            peer.step()
        flight = bytearray(peer.take())
        size = len(flight)
        flight[at] ^= flip
        peer.sock.sendall(flight)
        peer.sock.shutdown(socket.SHUT_WR)
        assert begun.reason().startswith("tls: ")
        at += 11
    eventually(lambda: stage.theater.metrics().connections == 0)
    assert stage.theater.metrics().handshakes == 0
    connection, peer = owner.meet_tls("server", at_once=True)
    owner.speaks(connection, peer)


@pytest.mark.parametrize("size", [1, 5, 6, 60, 200])
def test_contract_16_a_peer_that_ends_inside_of_its_first_message_has_failed(
    stage: TlsStage, begin: Callable[..., Begun], size: int
) -> None:
    begun = begin(stage.owner())
    peer = begun.peer
    if not peer.step() and not peer.outgoing.pending:
        assert peer.pull()
        peer.step()
    peer.sock.sendall(peer.take()[:size])
    peer.sock.shutdown(socket.SHUT_WR)
    assert begun.reason().startswith("tls: ")


def test_contract_16_an_alert_tells_the_peer(stage: TlsStage, begin: Callable[..., Begun]) -> None:
    """Where it speaks TLS at all: OpenSSL has no alert for what is no record."""
    begun = begin(stage.owner())
    begun.peer.sock.sendall(b"\x16\x03\x03\x00\x06NOOP\r\n")
    assert begun.reason().startswith("tls: ")
    alerts = [record for record in records_of(rest_of(begun.peer.sock)) if record[0] == 21]
    assert [len(alert) for alert in alerts] == [7], "one alert, in plaintext as there are no keys yet"
    assert alerts[0][5] == 2, "fatal (RFC 8446, 6.2)"


def test_contract_16_after_a_failed_handshake_no_word_of_the_owner_reaches_the_peer(
    stage: TlsStage, kind: str, side: str
) -> None:
    def speak_all_the_same(_actor: Any, connection: Any, _reason: str) -> None:
        for data in (b"a secret", b"a secret" * 1000):
            with pytest.raises(TheaterError):
                connection.send(data)

    owner = stage.owner(kind, on_close=speak_all_the_same)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    peer.sock.sendall(WORDS["SMTP"])
    with pytest.raises(TlsFailed):
        outcome_of(upgrading)
    heard = owner.expect("on_close")
    assert heard.value.startswith("tls: ")
    assert b"secret" not in b"".join(records_of(rest_of(peer.sock)))
    owner.hears_nothing()
    assert stage.theater.metrics().callback_failures == 0


def test_contract_16_an_owner_that_awaits_a_failed_upgrade_in_a_callback_hears_the_end_and_lives_on(
    stage: TlsStage, kind: str
) -> None:
    """The error that its await raises is the connection's end, which it is told: no mistake of its own."""

    async def on_data(_actor: Any, connection: Any, _data: bytes) -> None:
        connection.set_active("passive")
        await_it = connection.upgrade_to_tls_server()
        if await_it is not None:
            await await_it

    owner = stage.owner(kind, on_data=on_data)
    connection, sock = owner.meet(mode="active", **stage.tls_options(auto_handshake=False))
    sock.sendall(b"STARTTLS\r\n")
    owner.expect("on_data")
    state = connection.actor_ref.actor_inbox.actor.state
    eventually(lambda: state.phase is Phase.UPGRADING)
    stage.pass_turns()
    sock.sendall(b"no TLS at all\r\n")
    assert owner.expect("on_close").value.startswith("tls: ")
    owner.hears_nothing()
    assert owner.ref.is_alive()
    other, peer = owner.meet_plain("server")
    owner.upgrade("server", other, peer)


def test_contract_16_failures_are_counted_and_none_is_an_error_in_the_log(stage: TlsStage) -> None:
    owner = stage.owner()
    address = owner.listen(**stage.tls_options(auto_handshake=True)).address
    for _ in range(20):
        stage.dial(address).sendall(b"GET / HTTP/1.1\r\n\r\n")
    eventually(lambda: stage.theater.metrics().handshake_failures == 20)
    assert stage.theater.metrics().accepted == 20
    assert not stage.log.errors
    owner.hears_nothing()


def test_contract_16_tls_towards_a_server_of_plaintext_fails_at_once(stage: TlsStage, kind: str) -> None:
    begun = at_connect(stage.owner(kind), handshake_timeout=1000.0)
    begun.peer.sock.sendall(b"220 mx.example.org ESMTP\r\n")
    assert begun.reason().startswith("tls: ")
