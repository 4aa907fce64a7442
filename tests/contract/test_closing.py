"""Contract 13: close flushes and ends in order, abort cuts, and nothing is heard afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import eventually, expect_reset, receive_to_end
from tests.support import Stage, let_pass
from theater_tcp import Options, Settings
from theater_tcp.errors import NotFound

if TYPE_CHECKING:
    import socket
    from pathlib import Path

MIB = 1 << 20
MUCH = bytes(range(256)) * (8 * MIB // 256)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}


def send_for_ever(peer: socket.socket) -> None:
    while True:
        peer.sendall(bytes(1000))


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
def test_contract_13_close_flushes_what_was_sent_and_returns_at_once(
    stage: Stage, kind: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(where.replace("/path", f"{tmp_path}/socket"), mode="passive", **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.close)  # returns, though the peer has taken nothing
    assert receive_to_end(peer) == MUCH
    owner.hears_nothing()


@pytest.mark.parametrize("by", ["listen", "settings", "set_options"])
def test_contract_13_linger_timeout_bounds_the_flushing_and_the_stream_ends_as_incomplete(kind: str, by: str) -> None:
    settings = Settings(drain_timeout=0, options=Options(linger_timeout=0.1 if by == "settings" else 1000.0))
    with Stage(settings) as stage:
        owner = stage.owner(kind)
        own: dict[str, Any] = {"linger_timeout": 0.1} if by == "listen" else {}
        connection, peer = owner.meet(mode="passive", **ROOMY, **own)
        if by == "set_options":
            owner.call(connection.set_options, linger_timeout=0.1)
        owner.call(connection.send, MUCH)
        owner.call(connection.close)
        eventually(lambda: stage.theater.metrics().connections == 0)
        expect_reset(peer)
        owner.hears_nothing()


def test_contract_13_close_ends_in_order_though_the_peer_sent_what_nobody_read(stage: Stage, kind: str) -> None:
    """A plain close on top of unread bytes sends RST, which can destroy the answer on its way (RFC 9293, 3.6.1)."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    peer.sendall(b"request" * 1000)
    stage.pass_turns()
    owner.call(connection.send, b"421 no time for that")
    owner.call(connection.close)
    stage.pass_turns()
    peer.sendall(b"still talking" * 1000)
    assert receive_to_end(peer) == b"421 no time for that"
    peer.close()
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_13_a_peer_that_talks_on_for_ever_after_close_is_cut_at_linger_timeout(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", linger_timeout=0.1)
    peer.sendall(b"x")
    stage.pass_turns()
    owner.call(connection.close)
    assert receive_to_end(peer) == b""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        send_for_ever(peer)
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_13_abort_sends_rst(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active", **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.abort)
    expect_reset(peer)
    owner.hears_nothing()
    assert stage.theater.metrics().connections == 0


@pytest.mark.parametrize("end", ["close", "abort"])
def test_contract_13_a_pending_connection_can_be_closed_and_aborted(stage: Stage, kind: str, end: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet()
    owner.call(getattr(connection, end))
    expect_reset(peer) if end == "abort" else receive_to_end(peer)
    owner.hears_nothing()


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("mode", ["active", "once", 3])
def test_contract_13_no_callback_begins_after_close_or_abort(
    stage: Stage, kind: str, end: str, mode: str | int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode=mode, framing="line")

    async def in_one_turn(actor: Any) -> None:
        peer.sendall(b"one\ntwo\n")
        await let_pass(stage, actor)
        getattr(connection, end)()  # a turn for the data lies in the mailbox

    owner.act(in_one_turn)
    peer.close()
    owner.hears_nothing()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_contract_13_no_callback_begins_after_close_or_abort_in_a_callback(stage: Stage, kind: str, end: str) -> None:
    owner = stage.owner(kind, on_data=lambda _actor, connection, _data: getattr(connection, end)())
    _, peer = owner.meet(mode="active", framing="line")
    peer.sendall(b"one\ntwo\nthree\n")
    owner.expect("on_data", b"one\n")
    peer.close()
    owner.hears_nothing()


def test_contract_13_a_second_close_is_not_found_and_so_is_abort(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, _peer = owner.meet(mode="active", **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.close)
    for end in (connection.close, connection.abort):
        with pytest.raises(NotFound):
            owner.call(end)
