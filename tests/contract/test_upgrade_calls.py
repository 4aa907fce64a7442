"""The contract's table "Calls" for upgrades: each call while a handshake runs, and an upgrade in each phase."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.test_calls import ALLOWED, CALLS, attempt, kind_of_outcome
from tests.peers import TIMEOUT, eventually, expect_reset, receive_exactly
from tests.support import outcome_of
from tests.tls_peer import rest_of
from tests.tls_stage import SIDES, UPGRADES, TlsStage
from theater_tcp.errors import (
    AlreadyTls,
    Busy,
    Closed,
    InvalidArgument,
    NotOwner,
    TheaterError,
    TlsNotConfigured,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which end of TLS the runtime is."""
    return str(request.param)


DURING = {
    "activate": "already-active",
    "set-active passive": "busy",
    "set-active active": "busy",
    "set-active once": "busy",
    "set-active count": "busy",
    "transfer": "busy",
    "peer-address": ALLOWED,
    "local-address": ALLOWED,
    "send": "busy",
    "receive": "busy",
    "shutdown-write": "busy",
    "upgrade-to-tls-server": "busy",
    "upgrade-to-tls-client": "busy",
    "close": ALLOWED,
    "abort": ALLOWED,
}


def test_contract_calls_every_call_has_its_cell_for_upgrading() -> None:
    assert set(DURING) == set(CALLS) | set(UPGRADES)


@pytest.mark.parametrize(("call", "expected"), DURING.items())
def test_contract_calls_each_cell_while_upgrading(
    stage: TlsStage, kind: str, side: str, call: str, expected: str
) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    try:
        owner.during({**CALLS, **UPGRADES}[call], connection, target.ref)
        outcome = ALLOWED
    except TheaterError as error:
        outcome = error.kind
    assert outcome == expected
    if call in ("close", "abort"):
        with pytest.raises(Closed):
            outcome_of(upgrading)
        expect_reset(peer.sock) if call == "abort" else rest_of(peer.sock)
        owner.hears_nothing()
        eventually(lambda: stage.theater.metrics().connections == 0)
        return
    peer.handshake()  # a refused call has changed nothing
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)
    owner.hears_nothing()
    target.hears_nothing()


@pytest.mark.parametrize("call", UPGRADES)
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("pending", "pending"), ("active", "wrong-mode"), ("once", "wrong-mode"), (3, "wrong-mode")],
)
def test_contract_calls_an_upgrade_needs_open_and_passive_and_is_refused_without_harm(
    stage: TlsStage, kind: str, call: str, mode: str | int, expected: str
) -> None:
    owner = stage.owner(kind)
    connection, sock = owner.meet(mode=mode, **stage.tls_options(auto_handshake=False))
    assert kind_of_outcome(owner, UPGRADES[call], connection, None) == expected
    if mode == "pending":
        owner.call(connection.activate)
        owner.call(connection.set_active, "active")
    sock.sendall(b"in plaintext")
    assert owner.collect(12) == b"in plaintext"
    owner.call(connection.send, b"still")
    assert receive_exactly(sock, 5) == b"still"
    assert stage.theater.metrics().handshake_failures == 0


@pytest.mark.parametrize("call", UPGRADES)
def test_contract_calls_an_upgrade_while_the_connection_is_closing_is_closed(
    stage: TlsStage, kind: str, call: str
) -> None:
    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        outcomes.put(await attempt(UPGRADES[call], connection, None))

    owner = stage.owner(kind, on_close=on_close)
    owner.meet_plain("server", idle_timeout=0.05)
    owner.expect("on_close", "timeout")
    assert outcomes.get(timeout=TIMEOUT) == "closed"


@pytest.mark.parametrize("call", UPGRADES)
def test_contract_calls_an_upgrade_while_a_receive_waits_is_busy(stage: TlsStage, kind: str, call: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server")
    core = connection.actor_ref.actor_inbox.actor
    received = owner.begin(connection.receive, 100)
    eventually(lambda: core._receiver is not None)
    with pytest.raises(Busy):
        owner.during(UPGRADES[call], connection, None)
    peer.sock.sendall(b"for the first")
    assert outcome_of(received) == b"for the first"


@pytest.mark.parametrize("call", UPGRADES)
def test_contract_calls_an_upgrade_by_a_stranger_is_not_owner(stage: TlsStage, kind: str, call: str) -> None:
    stranger, owner = stage.owner(kind), stage.owner("loop")
    connection, peer = stranger.meet_plain("server")
    stranger.call(connection.transfer, owner.ref)
    mine = owner.expect("handle_connection_transfer").connection
    with pytest.raises(NotOwner):
        stranger.call(UPGRADES[call], connection, None)
    owner.upgrade("server", mine, peer)
    with pytest.raises(NotOwner):
        stranger.call(lambda: connection.tls_info)
    owner.speaks(mine, peer)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("call", UPGRADES)
def test_contract_14_a_second_upgrade_is_already_tls_and_leaves_the_connection_as_it_was(
    stage: TlsStage, kind: str, side: str, call: str, at_once: bool
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, at_once=at_once)
    with pytest.raises(AlreadyTls):
        owner.call(UPGRADES[call], connection, None)
    owner.speaks(connection, peer)
    owner.hears_nothing()


@pytest.mark.parametrize("call", UPGRADES)
@pytest.mark.parametrize("configured", ["not", "disabled"])
def test_contract_14_without_tls_it_is_not_configured_and_goes_on_as_it_was(
    stage: TlsStage, kind: str, call: str, configured: str
) -> None:
    owner = stage.owner(kind)
    options: dict[str, Any] = {"server_tls": None, "client_tls": None}
    if configured == "disabled":
        options = {"server_tls": stage.server_tls(enabled=False), "client_tls": stage.client_tls(enabled=False)}
    connection, peer = owner.meet_plain("server", **options)
    with pytest.raises(TlsNotConfigured):
        owner.call(UPGRADES[call], connection, None)
    peer.sock.sendall(b"as it was")
    assert owner.call(connection.receive, 100) == b"as it was"
    owner.hears_nothing()


@pytest.mark.parametrize("call", UPGRADES)
def test_contract_14_an_upgrade_of_a_half_closed_connection_is_closed(stage: TlsStage, kind: str, call: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server")
    owner.call(connection.shutdown_write)
    with pytest.raises(Closed):
        owner.call(UPGRADES[call], connection, None)
    peer.sock.sendall(b"still read")
    assert owner.call(connection.receive, 100) == b"still read"


@pytest.mark.parametrize("name", ["", "no\0name", ".", "x" * 64 + ".example.org", "\u2603.de", None, 7, b"localhost"])
def test_contract_14_a_wrong_server_name_is_invalid_and_leaves_the_connection_as_it_was(
    stage: TlsStage, kind: str, name: Any
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("client")
    with pytest.raises(InvalidArgument) as caught:
        owner.call(connection.upgrade_to_tls_client, name)
    assert "\n" not in str(caught.value)
    peer.sock.sendall(b"as it was")
    assert owner.call(connection.receive, 100) == b"as it was"
    owner.upgrade("client", connection, peer)
