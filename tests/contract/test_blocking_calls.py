"""G5: no call can deadlock the event loop; what would block it raises at once."""

from __future__ import annotations

import collections
import gc
import socket
import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import TIMEOUT, eventually, receive_exactly, settled_unread_in_kernel, unread_in_kernel
from tests.support import Echo, Stage, settled
from theater_tcp import BlockingCall, TcpActor
from theater_tcp.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable


class Slow(pykka.ThreadingActor):
    """Answers when it is allowed to."""

    use_daemon_thread = True

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def on_receive(self, _message: Any) -> None:
        self.gate.wait(TIMEOUT)


class StartsSlowly(TcpActor):
    """Its on_start waits."""

    async def on_start(self) -> None:  # type: ignore[override]
        await self.sleep(0.01)


def blocking_calls(stage: Stage, slow: pykka.ActorRef[Any], thread_handle: Any) -> dict[str, Callable[[Any], Any]]:
    """What would make the loop wait for itself, each called on the loop's thread with the actor."""
    return {
        "theater.wait": lambda actor: actor.theater.wait(),
        "theater.shutdown": lambda actor: actor.theater.shutdown(),
        "theater.spawn of what starts slowly": lambda actor: actor.theater.spawn(StartsSlowly),
        "ask of itself": lambda actor: actor.actor_ref.ask(None),
        "stop of itself": lambda actor: actor.actor_ref.stop(),
        "the end of itself": lambda actor: actor.actor_ref.actor_stopped.wait(0.01),
        "get of a future of connect": lambda actor: actor.tcp.connect("localhost:1").get(),
        "get of a future of to_thread": lambda actor: actor.to_thread(threading.Event().wait, 0.05).get(),
        "get of a future of sleep": lambda actor: actor.sleep(0.01).get(),
        "get with a timeout": lambda actor: actor.sleep(0.01).get(timeout=5),
        "ask of a thread": lambda _actor: slow.ask("later"),
        "get of a thread's future": lambda _actor: slow.ask("later", block=False).get(),
        "get_all": lambda _actor: pykka.get_all([slow.ask("later", block=False)]),
        "a proxy of a thread": lambda _actor: slow.proxy().on_receive("later").get(),
        "stop of a thread": lambda _actor: slow.stop(),
        "a thread's handle: send": lambda _actor: thread_handle.send(b"x"),
        "a thread's handle: receive": lambda _actor: thread_handle.receive(1),
        "a thread's handle: close": lambda _actor: thread_handle.close(),
        "a thread's handle: peer_address": lambda _actor: thread_handle.peer_address,
        "stop_all": lambda _actor: pykka.ActorRegistry.stop_all(),
    }


NAMES = list(blocking_calls(None, None, None))  # type: ignore[arg-type]  # the names alone


@pytest.mark.parametrize("name", NAMES)
def test_contract_G5_a_blocking_call_on_the_loops_thread_raises_at_once_and_the_loop_goes_on(name: str) -> None:
    def attempt(actor: Any) -> str:
        with pytest.raises(BlockingCall) as caught:
            call(actor)
        return str(caught.value)

    with Stage() as stage:
        stage.foreseen.add("theater_tcp.future")  # some of the calls leave a failure that nobody can look at
        gate = threading.Event()
        slow = stage.theater.spawn(Slow, gate)
        slow.tell("be busy")
        on_a_thread = stage.owner("thread")
        handle, _ = on_a_thread.meet(mode="passive")
        caller = stage.owner("loop")
        call = blocking_calls(stage, slow, handle)[name]
        text = caller.act(attempt)
        assert "loop" in text
        assert text.isprintable()
        gate.set()
        echo = stage.dial(stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address)
        echo.sendall(b"alive")
        assert receive_exactly(echo, 5) == b"alive"
    gc.collect()  # those failures are logged now, not in a later test


def test_contract_G5_what_is_settled_already_can_be_got_on_the_loop(stage: Stage) -> None:
    owner = stage.owner("loop")

    def look(actor: Any) -> bytes:
        connection, peer = met
        peer.sendall(b"here")
        eventually(lambda: unread_in_kernel(peer) >= 4)
        assert actor.theater.spawn(Echo).is_alive()
        return bytes(connection.receive(10).get())

    met = owner.meet(mode="passive")
    assert owner.act(look) == b"here"


def test_contract_G5_two_local_actors_that_talk_to_each_other_do_not_deadlock(stage: Stage, kind: str) -> None:
    rounds = 200

    async def answer(_actor: Any, connection: Any) -> None:
        connection.activate()
        while word := await settled(connection.receive(100)):
            await settled(connection.send(word))

    server = stage.owner(kind, handle_connection=answer)
    client = stage.owner(kind)
    address = server.listen().address

    async def talk(actor: Any) -> int:
        connection = await settled(actor.tcp.connect(address))
        for number in range(rounds):
            word = str(number).encode()
            await settled(connection.send(word))
            assert await settled(connection.receive(100)) == word
        connection.close()
        return rounds

    assert client.act(talk) == rounds


@pytest.mark.parametrize(("framing", "size"), [("raw", 2), ("line", 100), ("line", 1)])
def test_contract_G5_who_receives_what_is_there_already_does_not_have_the_loop_for_itself(
    stage: Stage, framing: str, size: int
) -> None:
    chunks = 2000
    received_in_turn: list[float] = []

    async def receive_all(actor: Any, connection: Any) -> None:
        connection.activate()
        while await connection.receive(size):
            received_in_turn.append(actor.theater.loop.now)

    server = stage.owner(handle_connection=receive_all)
    peer = stage.dial(server.listen(framing=framing).address)
    peer.sendall(b"x\n" * chunks)
    peer.shutdown(socket.SHUT_WR)
    eventually(lambda: len(received_in_turn) >= chunks)
    assert max(collections.Counter(received_in_turn).values()) < 20


def test_contract_G5_a_receive_that_is_put_off_keeps_its_promises(stage: Stage) -> None:
    owner = stage.owner()
    connection, peer = owner.meet(mode="passive")

    async def receive(_actor: Any) -> list[bytes]:
        for _ in range(16):
            assert await connection.receive(1) == b"x"
        late = connection.receive(1)
        assert not late.done
        with pytest.raises(Busy):
            connection.receive(1)
        assert await late == b"x"
        for _ in range(100):
            assert await connection.receive(1) == b"x"
        return [await connection.receive(1) for _ in range(100)]  # the end, again and again

    peer.sendall(b"x" * 117)
    eventually(lambda: settled_unread_in_kernel(peer) == 117)
    peer.shutdown(socket.SHUT_WR)
    assert owner.act(receive) == [b""] * 100
