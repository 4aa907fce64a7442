"""G8: limits and timeouts hold on the side roads too: where the owner ends, a callback fails, a name hangs."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import TIMEOUT, eventually, expect_reset, receive_exactly, receive_to_end
from tests.support import Stage, let_pass, outcome_of, settled
from theater_tcp import Settings, TcpActor
from theater_tcp.errors import Reset, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MUCH = bytes(8 << 20)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 << 20, "write_buffer_hard_limit": 64 << 20}


def owners_end(_peer: socket.socket, ref: pykka.ActorRef[Any]) -> None:
    ref.stop(timeout=TIMEOUT)


def callback_failure(peer: socket.socket, _ref: pykka.ActorRef[Any]) -> None:
    peer.sendall(b"fail")


def peers_end(peer: socket.socket, _ref: pykka.ActorRef[Any]) -> None:
    peer.shutdown(socket.SHUT_WR)


def idleness(_peer: socket.socket, _ref: pykka.ActorRef[Any]) -> None:
    """The option idle_timeout does it."""


WAYS: dict[str, Callable[[socket.socket, pykka.ActorRef[Any]], None]] = {
    "the owner ends": owners_end,
    "a callback fails": callback_failure,
    "the peer ends": peers_end,
    "it is idle": idleness,
}


@pytest.mark.parametrize("way", WAYS)
def test_contract_G8_linger_timeout_bounds_the_flushing_whatever_ends_the_connection(
    stage: Stage, kind: str, way: str
) -> None:
    stage.foresee_callback_failures()

    def on_data(_actor: Any, _connection: Any, _data: bytes) -> None:
        raise ValueError("as it is told")

    owner = stage.owner(kind, on_data=on_data)
    own: dict[str, Any] = {"idle_timeout": 0.1} if way == "it is idle" else {}
    connection, peer = owner.meet(mode="active", linger_timeout=0.05, **ROOMY, **own)
    owner.call(connection.send, MUCH)
    WAYS[way](peer, owner.ref)
    eventually(lambda: stage.theater.metrics().connections == 0)
    expect_reset(peer)


def test_contract_G8_connect_timeout_counts_the_resolution_of_the_name(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def getaddrinfo(*_args: Any, **_kwargs: Any) -> list[Any]:
        assert answer.wait(TIMEOUT)
        return []

    with Stage(Settings(drain_timeout=0, connect_timeout=0.05)) as stage:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(TimedOut):
            stage.owner(kind).connect("hangs.test:25")
        answer.set()


def test_contract_G8_connect_to_a_unix_socket_whose_backlog_is_full_waits_up_to_its_timeout(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    client = stage.owner(kind)
    path = f"{tmp_path}/busy"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        first = stage.dial(f"unix:{path}")
        with pytest.raises(TimedOut):
            client.connect(f"unix:{path}", 0.05)
        connecting = client.ref.ask(lambda actor: actor.tcp.connect(f"unix:{path}", TIMEOUT), block=False)
        stage.pass_turns()
        listening.accept()[0].close()  # there is room again
        connection = outcome_of(connecting)
        assert client.call(lambda: connection.peer_address) == f"unix:{path}"
        first.close()


def test_contract_G8_pending_timeout_holds_while_the_owner_is_too_busy_to_hear_of_the_connection(kind: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def busy(actor: Any) -> None:
        began.set()
        await settled(actor.to_thread(go_on.wait, TIMEOUT) if isinstance(actor, TcpActor) else go_on.wait(TIMEOUT))

    with Stage() as stage:
        owner = stage.owner(kind)
        listener = owner.listen(pending_timeout=0.05)
        busily = owner.ref.ask(busy, block=False)
        assert began.wait(TIMEOUT)
        peer = stage.dial(listener.address)
        assert receive_to_end(peer) == b""
        assert stage.theater.metrics().timeouts == 1
        go_on.set()
        outcome_of(busily)
        other = stage.dial(listener.address)
        assert owner.expect("handle_connection").connection.id
        assert receive_to_end(other) == b""
        owner.expect("on_close", "timeout")


def test_contract_G8_max_connections_counts_those_that_accept_gave(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = owner.listen(max_connections=1)
    peers = [stage.dial(listener.address) for _ in range(2)]
    first = owner.call(listener.accept)
    second = owner.begin(listener.accept)
    stage.pass_turns()
    assert stage.theater.metrics().accepted == 1
    first.close() if kind == "thread" else stage.theater.loop.call_soon(first.close)  # the actor may be in accept
    connection = outcome_of(second)
    owner.call(connection.activate)
    owner.call(connection.send, b"room")
    assert receive_exactly(peers[1], 4) == b"room"


def test_contract_G8_max_frame_holds_for_a_line_that_comes_byte_by_byte(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet(mode="active", framing="line", max_frame=10)
    for _ in range(9):
        peer.sendall(b"x")
        stage.pass_turns(1)
    owner.hears_nothing()
    peer.sendall(b"xx")
    assert owner.expect("on_close").value.startswith("limit: ")


def test_contract_G8_write_buffer_hard_limit_holds_for_framed_output(stage: Stage) -> None:
    owner = stage.owner("loop")
    connection, _ = owner.meet(mode="passive", framing="length-4", write_buffer_hard_limit=1 << 20)
    with pytest.raises(Exception, match=r"^limit: "):
        owner.call(connection.send, MUCH)
    assert owner.expect("on_close").value.startswith("limit: ")


def test_contract_18_a_send_on_a_half_open_connection_whose_peer_has_gone_is_told_so(stage: Stage, kind: str) -> None:
    """The end was told before, and nothing else would tell an owner that it speaks to nobody."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active", half_open=True)
    peer.close()
    owner.expect("on_close", "eof")

    async def speak_on(actor: Any) -> None:
        while True:
            connection.send(b"anybody there?")
            await let_pass(stage, actor)

    with pytest.raises(Reset):
        owner.act(speak_on)
    owner.call(connection.close)
    owner.hears_nothing()
