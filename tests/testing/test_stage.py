"""A stage plays actors without sockets, threads or time, and tells at once when something will never happen."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
import pytest

from theater_tcp import ConnectionHandle, ListenOptions, Options, Settings, TcpActor, TcpMixin, Theater
from theater_tcp.errors import BlockingCall, InvalidArgument, Refused, ShutDown, TimedOut
from theater_tcp.event_loop import running_loop
from theater_tcp.testing import Stage, SteppedTheater, SystemStage


class Echo(TcpActor):
    def on_start(self) -> None:
        self.tcp.listen("127.0.0.1:7000")

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        connection.send(data)


class Greeter(TcpActor):
    """In the blocking style: it awaits."""

    async def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.send(b"who?\r\n")
        name = await connection.receive(100)
        await self.sleep(2)
        connection.send(b"hello " + name)
        connection.close()


class Caller(TcpActor):
    """Connects when it is told to."""

    async def on_receive(self, address: str) -> str:
        connection = await self.tcp.connect(address, timeout=5)
        connection.send(b"hi")
        return (await connection.receive(100)).decode()


class Workshop(TcpActor):
    async def on_receive(self, message: Callable[[], Any]) -> Any:
        return await message()


# -- playing -------------------------------------------------------------------------------------------------------


def test_an_actor_that_listens_can_be_dialled() -> None:
    with Stage() as stage:
        stage.spawn(Echo)
        peer = stage.dial("127.0.0.1:7000")
        peer.send(b"hello")
        assert peer.receive() == b"hello"
        assert peer.receive() == b""


def test_an_actor_that_takes_connections_needs_no_listener_of_its_own() -> None:
    with Stage() as stage:
        ref = stage.spawn(Greeter)
        first, second = stage.connect_to(ref), stage.connect_to(ref)
        assert first.receive_until(b"\r\n") == b"who?\r\n"
        assert second.receive() == b"", "its mailbox waits for the first"


def test_no_time_passes_but_what_the_test_lets_pass() -> None:
    with Stage() as stage:
        peer = stage.connect_to(stage.spawn(Greeter))
        peer.send(b"Ada")
        stage.advance(1.9)
        assert peer.receive() == b"who?\r\n"
        stage.advance(0.1)
        assert peer.receive_all() == b"hello Ada"
        assert peer.ended == "eof"


def test_every_timer_on_the_way_has_its_turn_at_its_time() -> None:
    times = []

    class Ticker(TcpActor):
        def on_start(self) -> None:
            self.tick()

        def tick(self) -> None:
            times.append(stage.clock() - began)
            self.call_later(1.0, self.tick)

    with Stage() as stage:
        began = stage.clock()
        stage.spawn(Ticker)
        stage.advance(3.5)
    assert times[:4] == [0, 1, 2, 3]


def test_a_timeout_of_the_settings_trips_when_its_time_has_passed() -> None:
    class Idle(Echo):
        def handle_connection(self, connection: ConnectionHandle) -> None:
            pass

    with Stage(Settings(options=Options(pending_timeout=20))) as stage:
        stage.spawn(Idle)
        peer = stage.dial("127.0.0.1:7000")
        stage.advance(19)
        assert peer.receive() + peer.ended.encode() == b""
        stage.advance(1)
        assert peer.receive_all() == b""


@pytest.mark.parametrize("address", ["127.0.0.1:25", "localhost:25", "[::1]:25", "*:25", "unix:/nowhere/socket"])
def test_every_form_of_address_can_be_listened_at_and_dialled(address: str) -> None:
    class There(Echo):
        def on_start(self) -> None:
            self.tcp.listen(address)

    with Stage() as stage:
        stage.spawn(There)
        peer = stage.dial(address.replace("*", "192.0.2.1"))
        peer.send(b"x")
        assert peer.receive() == b"x"


def test_a_unix_address_in_memory_does_not_touch_a_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    with Stage() as stage:
        ref = stage.spawn(Echo)
        stage.listen_for(ref, f"unix:{path}")
    assert path.read_text() == "precious"


def test_port_0_gives_a_port_of_its_own_each_time() -> None:
    with Stage() as stage:
        ref = stage.spawn(Echo)
        addresses = {stage.listen_for(ref, "127.0.0.1:0").address for _ in range(3)}
        assert len(addresses) == 3
        for address in addresses:
            stage.dial(address)
        assert stage.metrics().connections == 3


def test_an_address_in_use_and_one_where_nobody_listens_are_told_as_by_the_system() -> None:
    with Stage() as stage:
        stage.spawn(Echo)
        with pytest.raises(Exception, match="address-in-use"):
            stage.spawn(Echo)
        with pytest.raises(ConnectionRefusedError):
            stage.dial("127.0.0.1:7001")


# -- actors that connect -------------------------------------------------------------------------------------------


def test_an_actor_that_connects_finds_the_server_that_the_test_is() -> None:
    with Stage() as stage:
        server = stage.listen("mail.example:25")
        answer = stage.spawn(Caller).ask("mail.example:25", block=False)
        peer = stage.accept(server)
        assert peer.receive_exactly(2) == b"hi"
        peer.send(b"welcome")
        assert stage.result(answer) == "welcome"


def test_where_nobody_listens_a_connect_is_refused() -> None:
    with Stage() as stage:
        answer = stage.spawn(Caller).ask("mail.example:25", block=False)
        with pytest.raises(Refused, match=r"mail\.example:25"):
            stage.result(answer)


def test_a_server_that_never_answers_lets_a_connect_time_out() -> None:
    with Stage() as stage:
        stage.listen("mail.example:25", backlog=0)
        answer = stage.spawn(Caller).ask("mail.example:25", block=False)
        stage.advance(5)
        with pytest.raises(TimedOut, match=r"mail\.example:25"):
            stage.result(answer)


def test_a_connect_under_way_fails_when_the_stage_goes_down() -> None:
    with Stage() as stage:
        stage.listen("mail.example:25", backlog=0)
        answer = stage.spawn(Caller).ask("mail.example:25", block=False)
        stage.settle()
    with pytest.raises((ShutDown, pykka.ActorDeadError)):
        answer.get()


def test_two_actors_of_one_stage_talk_to_each_other() -> None:
    with Stage(lockstep=True) as stage:
        stage.spawn(Echo)
        assert stage.result(stage.spawn(Caller).ask("127.0.0.1:7000", block=False)) == "h"


# -- faults --------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_connections_socket_is_queued_at_the_peers_other_end() -> None:
    reasons = []

    class Noting(Echo):
        def on_close(self, _connection: ConnectionHandle, reason: str) -> None:
            reasons.append(reason)

    with Stage() as stage:
        stage.spawn(Noting)
        peer = stage.dial("127.0.0.1:7000")
        peer.socket.other_end.fail_next("recv", OSError(errno.EHOSTUNREACH, "no route"))
        stage.settle()
        assert reasons == ["unreachable"]


def test_a_listener_whose_accept_fails_for_want_of_descriptors_goes_on_after_its_pause() -> None:
    """Line 20 of the contract."""
    with Stage() as stage:
        stage.spawn(Echo)
        (listener,) = stage.network.listeners.values()
        listener.sock.fail_next("accept", OSError(errno.EMFILE, "too many"))
        peer = stage.dial("127.0.0.1:7000")
        assert (stage.metrics().accepted, stage.metrics().accept_exhausted) == (0, 1)
        stage.advance(stage.settings.accept_pause)
        peer.send(b"x")
        assert peer.receive() == b"x"


def test_a_full_backlog_does_not_answer() -> None:
    class Deaf(TcpActor):
        def on_start(self) -> None:
            self.tcp.listen("127.0.0.1:7000")

    with Stage(Settings(listener=ListenOptions(backlog=1))) as stage:
        stage.spawn(Deaf)
        waiting = stage.dial("127.0.0.1:7000")
        with pytest.raises(TimeoutError, match="backlog"):
            stage.dial("127.0.0.1:7000")
    assert waiting.socket.fileno() == -1, "the stage closes what it handed out"


# -- telling what is wrong -----------------------------------------------------------------------------------------


def test_what_will_never_come_fails_at_once_and_says_what_came() -> None:
    with Stage() as stage:
        stage.spawn(Echo)
        peer = stage.dial("127.0.0.1:7000")
        peer.send(b"abc")
        with pytest.raises(AssertionError, match="no 5 bytes: b'abc' came"):
            peer.receive_exactly(5)
        with pytest.raises(AssertionError, match="no the end of the stream"):
            peer.receive_all()
        peer.shutdown_write()
        with pytest.raises(AssertionError, match="then eof"):
            peer.receive_until(b"\n")


def test_a_future_that_nobody_will_settle_is_told_instead_of_waited_for() -> None:
    with Stage() as stage:
        server = stage.listen("mail.example:25")
        answer = stage.spawn(Caller).ask("mail.example:25", block=False)
        with pytest.raises(AssertionError, match="not settled"):
            stage.result(answer)
        with pytest.raises(BlockingCall):
            answer.get()
        assert stage.accept(server).receive() == b"hi"


def test_a_loop_that_spins_is_told() -> None:
    class Spinner(TcpActor):
        def on_start(self) -> None:
            self.call_later(0, self.on_start)

    with Stage() as stage:
        ref = stage.spawn_async(Spinner).get()
        with pytest.raises(AssertionError, match="did not come to rest"):
            stage.settle()
        ref.stop(block=False)


def test_an_actor_with_a_thread_of_its_own_is_refused() -> None:
    class Threaded(TcpMixin, pykka.ThreadingActor):
        pass

    with Stage() as stage, pytest.raises(InvalidArgument, match="Threaded has a thread of its own"):
        stage.spawn(Threaded)


def test_what_is_no_actor_is_refused() -> None:
    with Stage() as stage, pytest.raises(InvalidArgument, match="int is not a class of actors"):
        stage.spawn(int)  # type: ignore[type-var]


def test_a_failing_on_start_is_raised_by_spawn() -> None:
    class Failing(TcpActor):
        async def on_start(self) -> None:  # type: ignore[override]
            await self.sleep(0)
            raise ValueError("on purpose")

    with Stage() as stage, pytest.raises(ValueError, match="on purpose"):
        stage.spawn(Failing)


def test_an_on_start_that_waits_for_what_does_not_come_is_told() -> None:
    class Late(TcpActor):
        async def on_start(self) -> None:  # type: ignore[override]
            await self.sleep(10)

    with Stage() as stage:
        with pytest.raises(AssertionError, match="on_start of Late waits"):
            stage.spawn(Late)
        started = stage.spawn_async(Late)
        stage.advance(10)
        assert started.get().is_alive()


def test_the_stage_does_not_go_on_from_inside_of_an_actors_turn() -> None:
    raised: list[BaseException] = []

    class Meddler(TcpActor):
        def on_start(self) -> None:
            try:
                stage.settle()
            except RuntimeError as error:
                raised.append(error)

    with Stage() as stage:
        stage.spawn_async(Meddler)
        stage.settle()
        stage.spawn(Workshop).tell(lambda: None)
        stage.loop.call_soon(lambda: stage.spawn_async(Meddler))
        stage.settle()
    assert [str(error) for error in raised[-1:]] == ["a stage can't go on from inside of an actor's turn"]


def test_a_thread_has_one_stage_at_a_time() -> None:
    with Stage(), pytest.raises(RuntimeError, match="one stage at a time"):
        Stage().start()
    assert running_loop() is None


# -- beside sockets ------------------------------------------------------------------------------------------------


def test_blocking_work_is_done_on_the_tests_own_thread() -> None:
    with Stage() as stage:
        ref = stage.spawn(Workshop)
        where = stage.result(ref.ask(lambda: stage.to_thread(threading.current_thread), block=False))
        assert where is threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            stage.result(stage.to_thread(lambda: 1 // 0))


def test_an_asyncio_coroutine_is_run_to_its_end() -> None:
    async def add(one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    with Stage() as stage:
        ref = stage.spawn(Workshop)
        assert stage.result(ref.ask(lambda: stage.run_asyncio(add(1, 2)), block=False)) == 3


def test_an_actor_spawns_others_on_its_stage() -> None:
    class Parent(TcpActor):
        def on_start(self) -> None:
            self.child = self.theater.spawn(Echo)

    with Stage() as stage:
        stage.spawn(Parent)
        peer = stage.dial("127.0.0.1:7000")
        peer.send(b"x")
        assert peer.receive() == b"x"


def test_going_down_is_as_on_any_theater_but_takes_no_time() -> None:
    heard = []

    class Polite(Echo):
        def on_drain(self) -> None:
            heard.append("drain")

        def on_close(self, _connection: ConnectionHandle, reason: str) -> None:
            heard.append(reason)

    with Stage() as stage:
        ref = stage.spawn(Polite)
        peer = stage.dial("127.0.0.1:7000")
        began = stage.clock()
        assert stage.shutdown(drain_timeout=30) is False
        assert heard == ["drain", "shutdown"]
        assert stage.clock() - began >= 30
    assert not ref.is_alive()
    assert peer.socket.fileno() == -1
    assert running_loop() is None


def test_what_ends_in_time_makes_a_clean_end() -> None:
    class Polite(Echo):
        def on_drain(self) -> None:
            for connection in self.connections:
                connection.close()

    with Stage() as stage:
        stage.spawn(Polite)
        peer = stage.dial("127.0.0.1:7000")
        assert stage.shutdown(drain_timeout=30) is True
    assert peer.socket.fileno() == -1


def test_a_stage_that_never_began_goes_down_too() -> None:
    stage = Stage()
    assert stage.shutdown() is True
    assert stage.loop.closed


def test_when_a_stage_has_gone_a_theater_runs_as_ever() -> None:
    with Stage() as stage:
        stage.spawn(Echo)
    with Theater() as theater:
        assert theater.spawn(Workshop).ask(lambda: theater.to_thread(int, "7")) == 7


# -- peers ---------------------------------------------------------------------------------------------------------

stages = pytest.mark.parametrize("make_stage", [Stage, SystemStage])


@stages
def test_what_a_peer_sends_beyond_the_room_there_is_follows_as_the_actor_reads(
    make_stage: type[SteppedTheater] | Callable[[], SteppedTheater],
) -> None:
    size = 16 << 20

    class Slow(TcpActor):
        async def handle_connection(self, connection: ConnectionHandle) -> None:
            connection.activate()
            self.received = 0
            while data := await connection.receive(1 << 20):
                self.received += len(data)
            connection.send(str(self.received).encode())
            connection.close()

    with make_stage() as stage:  # type: ignore[call-arg]
        peer = stage.connect_to(stage.spawn(Slow))
        peer.send(bytes(size))
        peer.shutdown_write()
        assert peer.receive_all() == str(size).encode()
        assert not peer.unsent


@stages
def test_a_peer_that_resets_is_gone_at_once(make_stage: Callable[[], SteppedTheater]) -> None:
    with make_stage() as stage:
        ref = stage.spawn(Echo)
        peer = stage.connect_to(ref)
        peer.send(b"x")
        peer.abort()
        stage.until(lambda: not stage.network.connections)
        assert peer.receive() == b""


@stages
def test_what_a_peer_could_not_send_stays_with_it(make_stage: Callable[[], SteppedTheater]) -> None:
    class Rude(TcpActor):
        def handle_connection(self, connection: ConnectionHandle) -> None:
            connection.abort()

    with make_stage() as stage:
        peer = stage.connect_to(stage.spawn(Rude))
        peer.send(b"anybody?")
        stage.until(lambda: bool(peer.unsent))
        assert peer.receive() == b""
        assert peer.unsent == b"anybody?"


def test_a_system_stage_tells_who_refuses_and_what_it_cant_choose() -> None:
    with SystemStage() as stage:
        with pytest.raises(ConnectionRefusedError):
            stage.dial("127.0.0.1:1")
        with pytest.raises(ValueError, match="lockstep"):
            stage.dial("127.0.0.1:1", lockstep=True)


def test_a_system_stage_gives_up_after_its_patience() -> None:
    with SystemStage(patience=0.01) as stage, pytest.raises(AssertionError, match="never"):
        stage.until(lambda: False, "never")


def test_an_actor_with_a_thread_of_its_own_lives_on_a_system_stage() -> None:
    class Threaded(TcpMixin, pykka.ThreadingActor):
        def handle_connection(self, connection: Any) -> None:
            connection.activate()
            connection.send(connection.receive(100))
            connection.close()

    with SystemStage() as stage:
        peer = stage.connect_to(stage.spawn(Threaded))
        peer.send(b"x")
        assert peer.receive_all() == b"x"
