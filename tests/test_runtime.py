"""The Theater: running and waiting, spawning, blocking work beside the loop, and the way down (G5)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry

from tests.in_time import TIMEOUT, in_time
from tests.peers import eventually
from theater_tcp import Future, LoopActor, Settings, TcpActor, TcpMixin, Theater, drain
from theater_tcp.errors import (
    AddressInUse,
    BlockingCall,
    InvalidArgument,
    LimitReached,
    NoSuchActor,
    NotFound,
    ShutDown,
    WrongThread,
)
from theater_tcp.event_loop import running_loop
from theater_tcp.ownership import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def registry_is_empty_in_the_end() -> Iterator[None]:
    """Every Theater takes its actors with it."""
    yield
    left = ActorRegistry.get_all()
    for ref in left:
        ActorRegistry.unregister(ref)  # no other test is to meet them
    assert left == []


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater(Settings(drain_timeout=0)) as theater:
        yield theater


class Diary(pykka.Actor):
    """Writes down what happens to it; a message is a callable without arguments, which may be async on the loop."""

    def __init__(self, diary: list[Any] | None = None) -> None:
        super().__init__()
        self.diary: list[Any] = diary if diary is not None else []

    def on_start(self) -> Any:
        self.diary.append("start")

    def on_receive(self, message: Callable[[], Any]) -> Any:
        return message()

    def on_stop(self) -> Any:
        self.diary.append("stop")


class LoopDiary(Diary, LoopActor):
    pass


class TcpDiary(Diary, TcpActor):
    pass


class ThreadDiary(Diary, pykka.ThreadingActor):
    use_daemon_thread = True


class TcpThreadDiary(Diary, TcpMixin, pykka.ThreadingActor):
    use_daemon_thread = True


KINDS: dict[str, type[Diary]] = {
    "loop": LoopDiary,
    "tcp": TcpDiary,
    "thread": ThreadDiary,
    "tcp thread": TcpThreadDiary,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[Diary]:
    """Every kind of actor that a Theater spawns."""
    return KINDS[request.param]


@pytest.fixture(params=["loop", "tcp"])
def loop_kind(request: pytest.FixtureRequest) -> type[Diary]:
    return KINDS[request.param]


@pytest.fixture(params=["thread", "tcp thread"])
def thread_kind(request: pytest.FixtureRequest) -> type[Diary]:
    return KINDS[request.param]


class Echo(TcpActor):
    """Sends back what it gets."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        super().__init__()
        self.asked = address

    def on_start(self) -> None:
        self.listener = self.tcp.listen(self.asked)

    def address(self) -> str:
        return self.listener.address

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: Any, data: bytes) -> None:
        connection.send(data)


class ThreadEcho(TcpMixin, pykka.ThreadingActor):
    """The same on a thread of its own."""

    use_daemon_thread = True

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        super().__init__()
        self.asked = address

    def on_start(self) -> None:
        self.listener = self.tcp.listen(self.asked)

    def address(self) -> str:
        return self.listener.address

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: Any, data: bytes) -> None:
        connection.send(data)


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT)


def address_of(ref: pykka.ActorRef[Any]) -> str:
    return str(ref.proxy().address().get(timeout=TIMEOUT))


def do(ref: pykka.ActorRef[Any], call: Callable[[], Any]) -> Any:
    """Let an actor do something."""
    return ref.ask(call, timeout=TIMEOUT)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


# -- running and waiting -------------------------------------------------------------------------------------------


def test_start_runs_the_loop_on_a_thread_that_bears_the_theater_s_name() -> None:
    theater = Theater(name="globe")
    assert theater.start() is theater
    assert repr(theater) == "<Theater globe>"
    where = do(theater.spawn(LoopDiary), lambda: (threading.current_thread().name, running_loop()))
    assert where == ("globe", theater.loop)
    assert theater.shutdown(0) is True
    assert threads_of("globe") == []


def test_run_runs_the_loop_on_the_caller_s_thread_and_returns_after_the_shutdown() -> None:
    theater = Theater()
    diary: list[Any] = []
    threads: list[int] = []

    def first() -> None:
        threads.append(threading.get_ident())
        theater.spawn(LoopDiary, diary)
        theater.request_shutdown()

    def run() -> int:
        theater.run(first)
        return threading.get_ident()

    assert in_time(run) == threads[0]
    assert diary == ["start", "stop"]
    assert ActorRegistry.get_all() == []


def test_what_run_calls_first_may_return_a_future_and_its_failure_is_raised() -> None:
    class Broken(LoopActor):
        async def on_start(self) -> None:  # type: ignore[override]
            await self.sleep(0)
            raise ValueError("no start")

    theater = Theater()
    with pytest.raises(ValueError, match="no start"):
        in_time(lambda: theater.run(lambda: theater.spawn_async(Broken)))
    assert theater.wait(0)
    another = Theater()
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: another.run(lambda: 1 // 0))
    assert another.wait(0)
    assert ActorRegistry.get_all() == []


def test_a_theater_runs_once(theater: Theater) -> None:
    for again in (theater.start, theater.run):
        with pytest.raises(RuntimeError, match="make another one"):
            again()
    theater.shutdown(0)
    with pytest.raises(RuntimeError, match="make another one"):
        theater.start()


def test_wait_tells_whether_the_theater_has_gone_down(theater: Theater) -> None:
    assert theater.wait(0) is False
    assert theater.wait(0.01) is False
    waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for _ in range(3):
        threading.Thread(target=lambda: waiting.put(theater.wait()), daemon=True).start()
    theater.request_shutdown(0)
    assert [waiting.get(timeout=TIMEOUT) for _ in range(3)] == [True] * 3
    assert theater.wait() is True


def test_a_theater_that_never_ran_can_be_shut_down() -> None:
    theater = Theater()
    before = open_descriptors()
    assert in_time(theater.shutdown) is True
    assert len(open_descriptors()) < len(before)
    with pytest.raises(RuntimeError):
        theater.start()
    with pytest.raises(ShutDown):
        theater.spawn(LoopDiary)


def test_with_a_theater_starts_and_shuts_down_and_actors_start_in_it() -> None:
    diary: list[Any] = []
    with Theater(Settings(drain_timeout=0)) as theater:
        ref = LoopDiary.start(diary)
        assert do(ref, lambda: 42) == 42
    assert theater.wait(0) is True
    assert diary == ["start", "stop"]
    with pytest.raises(RuntimeError, match="lives in a Theater"):
        LoopDiary.start()


def test_an_exception_in_the_with_block_resets_connections_at_once_and_is_raised() -> None:
    """With the default of 30 s to drain, this would take that long."""
    peers: list[socket.socket] = []

    def block() -> None:
        with Theater() as theater:
            peers.append(dial(address_of(theater.spawn(Echo))))
            peers[0].sendall(b"x")
            assert peers[0].recv(1) == b"x"
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        in_time(block)
    with pytest.raises(ConnectionResetError):
        peers[0].recv(1)
    peers[0].close()


def test_two_theaters_live_side_by_side_and_each_ends_alone(theater: Theater) -> None:
    diaries: list[list[Any]] = [[], []]
    mine = theater.spawn(LoopDiary, diaries[0])
    with Theater(Settings(drain_timeout=0), name="other") as other:
        theirs = other.spawn(LoopDiary, diaries[1])

        async def ask() -> Any:
            return await theirs.ask(lambda: threading.current_thread().name, block=False)

        assert do(mine, ask) == "other"
    assert diaries == [["start"], ["start", "stop"]]
    assert not theirs.is_alive()
    assert do(mine, lambda: "still here") == "still here"


def test_actors_that_are_none_of_its_own_outlive_the_theater() -> None:
    with Theater(Settings(drain_timeout=0)):
        stranger = ThreadDiary.start()
    assert stranger.is_alive()
    assert do(stranger, lambda: 42) == 42
    assert stranger.stop(timeout=TIMEOUT)


# -- spawning ------------------------------------------------------------------------------------------------------


def test_spawn_returns_after_on_start_with_a_living_reference(theater: Theater, kind: type[Diary]) -> None:
    gate = threading.Event()
    gate.set()

    class Slow(kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            assert gate.wait(TIMEOUT)
            super().on_start()

    diary: list[Any] = []
    ref = theater.spawn(Slow, diary=diary)
    assert diary == ["start"]
    assert ref.is_alive()
    assert ActorRegistry.get_by_urn(ref.actor_urn) is ref
    assert do(ref, lambda: 42) == 42


def test_spawn_returns_after_an_async_on_start_has_ended(theater: Theater, loop_kind: type[Diary]) -> None:
    class Slow(loop_kind):  # type: ignore[valid-type,misc]
        async def on_start(self) -> None:
            for _ in range(3):
                await self.sleep(0)
            await self.to_thread(self.diary.append, "to thread") if isinstance(self, TcpActor) else None
            super().on_start()

    diary: list[Any] = []
    theater.spawn(Slow, diary)
    assert diary[-1] == "start"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="since 3.12 two threads can't make two of it")
def test_an_actor_has_its_dict_before_another_thread_can_know_of_it(theater: Theater, kind: type[Diary]) -> None:
    class Fielded(kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            self.diary.append(gc.get_referents(self))  # to look at __dict__ would make it

    diary: list[Any] = []
    theater.spawn(Fielded, diary)
    assert any(isinstance(held, dict) and held.get("diary") is diary for held in diary[0])


def test_spawn_raises_what_the_constructor_raised(theater: Theater, kind: type[Diary]) -> None:
    class Broken(kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            super().__init__()
            raise ValueError("no actor")

    with pytest.raises(ValueError, match="no actor"):
        theater.spawn(Broken)
    assert ActorRegistry.get_all() == []
    gc.collect()
    assert theater.ownership.owners() == []  # no connection can be transferred to it


@pytest.mark.parametrize("error", [ValueError("no start"), SystemExit("no start")])
def test_spawn_raises_what_on_start_raised_and_the_actor_has_ended(
    theater: Theater, kind: type[Diary], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            refs.append(self.actor_ref)
            raise error

    refs: list[pykka.ActorRef[Any]] = []
    for _ in range(20):
        with pytest.raises(type(error), match="no start") as raised:
            theater.spawn(Broken)
        assert raised.value is error
        assert ActorRegistry.get_all() == []
        assert not refs[-1].is_alive()
    assert errors(caplog) == []  # whoever spawned it was told


@pytest.mark.parametrize("waits", [False, True])
def test_spawn_raises_what_an_async_on_start_raised(
    theater: Theater, loop_kind: type[Diary], waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(loop_kind):  # type: ignore[valid-type,misc]
        async def on_start(self) -> None:
            if waits:
                await self.sleep(0)
            raise ValueError("no start")

    with pytest.raises(ValueError, match="no start"):
        theater.spawn(Broken)
    assert ActorRegistry.get_all() == []
    assert errors(caplog) == []


@pytest.mark.parametrize("cls", [Echo, ThreadEcho])
def test_g4_who_is_told_that_a_spawn_failed_finds_its_address_free(theater: Theater, cls: type[Any]) -> None:
    class Broken(cls):  # type: ignore[misc]
        def on_start(self) -> None:
            super().on_start()
            raise ValueError("no start")

    left: Future[list[Any]] = Future()
    gate = threading.Event()
    theater.loop.call_soon(lambda: gate.wait(TIMEOUT))  # on_start can't open its listener before
    started = theater.spawn_async(Broken)
    started.on_done(lambda _: left.set(theater.listeners()))
    gate.set()
    with pytest.raises(ValueError, match="no start"):
        started.get(timeout=TIMEOUT)
    assert left.get(timeout=TIMEOUT) == []


def test_g4_who_is_told_that_an_async_on_start_failed_finds_its_address_free(theater: Theater) -> None:
    class Broken(Echo):
        async def on_start(self) -> None:  # type: ignore[override]
            super().on_start()
            await opened
            raise ValueError("no start")

    opened: Future[None] = Future()
    left: Future[list[Any]] = Future()
    started = theater.spawn_async(Broken)
    started.on_done(lambda _: left.set(theater.listeners()))
    opened.set()
    with pytest.raises(ValueError, match="no start"):
        started.get(timeout=TIMEOUT)
    assert left.get(timeout=TIMEOUT) == []


def test_where_the_system_has_no_more_threads_nothing_is_started_and_nothing_left(
    theater: Theater, thread_kind: type[Diary], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    other = Theater()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(LimitReached, match=r"^limit: threads: can't start new thread$"):
            theater.spawn(thread_kind)
        with pytest.raises(LimitReached, match=r"^limit: threads: can't start new thread$"):
            other.start()
        on_loop: Future[Any] = Future()
        theater.loop.submit(theater.spawn_async, ThreadEcho, into=on_loop)
        with pytest.raises(LimitReached, match=r"^limit: threads: can't start new thread$"):
            on_loop.get(timeout=TIMEOUT)
    assert ActorRegistry.get_all() == []
    assert in_time(other.shutdown) is True
    assert theater.spawn(thread_kind).is_alive()


def test_a_listener_that_on_start_could_not_open_fails_the_spawn(theater: Theater) -> None:
    address = address_of(theater.spawn(Echo))
    for cls in (Echo, ThreadEcho):
        with pytest.raises(AddressInUse, match=address):
            theater.spawn(cls, address)
    assert len(theater.listeners()) == 1


@pytest.mark.parametrize(
    ("thing", "shown"), [(42, "42"), (int, "int"), ("Echo", "'Echo'"), (LoopDiary.on_start, "<function Diary.on_start")]
)
def test_only_a_class_of_actors_can_be_spawned(theater: Theater, thing: Any, shown: str) -> None:
    calls: list[Callable[..., Any]] = [theater.spawn, theater.spawn_async]
    on_loop = theater.spawn(LoopDiary)
    for call in calls:
        with pytest.raises(InvalidArgument, match="is not a class of actors") as raised:
            call(thing)
        assert str(raised.value).startswith(f"invalid: {shown}")
        with pytest.raises(InvalidArgument):
            do(on_loop, lambda call=call: call(thing))  # type: ignore[misc]


NEED_A_RUNNING_THEATER: dict[str, Callable[[Theater], object]] = {
    "spawn": lambda theater: theater.spawn(LoopDiary),
    "spawn_async": lambda theater: theater.spawn_async(LoopDiary),
    "spawn_with": lambda theater: theater.spawn_with(Settings(), LoopDiary),
    "spawn_guest": lambda theater: theater.spawn_guest(ROOT / "actors/echo/c/echo.wasm"),
    "listen_for": lambda theater: theater.listen_for(pykka.ActorRef(ThreadDiary()), "127.0.0.1:0"),
}


@pytest.mark.parametrize("call", NEED_A_RUNNING_THEATER.values(), ids=NEED_A_RUNNING_THEATER)
def test_what_needs_a_theater_that_runs_says_so_at_once(call: Callable[[Theater], object]) -> None:
    theater = Theater()
    with pytest.raises(RuntimeError, match=r"does not run yet: start\(\) it first"):
        in_time(lambda: call(theater))
    theater.start()
    theater.shutdown(0)
    with pytest.raises(ShutDown):
        in_time(lambda: call(theater))


def no_coroutine() -> int:
    return 1


WRONG_ARGUMENTS: dict[str, tuple[Callable[[Theater], object], str]] = {
    "Theater": (lambda _: Theater(5), "settings: expected an instance of Settings, got int"),  # type: ignore[arg-type]
    "spawn_with": (
        lambda theater: theater.spawn_with(None, LoopDiary),  # type: ignore[arg-type]
        "settings: expected an instance of Settings, got NoneType",
    ),
    "run_asyncio": (
        lambda theater: theater.run_asyncio(no_coroutine),  # type: ignore[arg-type]
        "expected a coroutine, as a call of an async function gives, not <function no_coroutine at ",
    ),
    "listen_for a class": (
        lambda theater: theater.listen_for(LoopDiary, "127.0.0.1:0"),  # type: ignore[arg-type]
        "a connection goes to an actor's reference, URN or name, not to the class LoopDiary",
    ),
    **{
        f"shutdown {time!r}": (
            lambda theater, time=time: theater.shutdown(time),  # type: ignore[misc]
            f"drain_timeout: expected a duration of 0 to 1000000 s, got {time!r}",
        )
        for time in ("1", -1, float("nan"))
    },
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named(theater: Theater, name: str) -> None:
    call, reason = WRONG_ARGUMENTS[name]
    with pytest.raises(InvalidArgument) as raised:
        call(theater)
    assert str(raised.value).startswith(f"invalid: {reason}")
    assert theater.spawn(LoopDiary).is_alive()


class Keeper(TcpActor):
    """Has a listener, and gives itself and the connection that it is brought to whoever asks."""

    def __init__(self, brought: queue.Queue[tuple[Keeper, Any]]) -> None:
        super().__init__()
        self.brought = brought

    def on_start(self) -> None:
        self.listener = self.tcp.listen("127.0.0.1:0")

    def on_receive(self, message: Callable[[], Any]) -> Any:
        return message()

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        self.brought.put((self, connection))


FOR_THE_LOOP: dict[str, Callable[[Keeper, Any], object]] = {
    "activate": lambda _, connection: connection.activate(),
    "set_active": lambda _, connection: connection.set_active("active"),
    "transfer": lambda keeper, connection: connection.transfer(keeper.actor_ref),
    "send bytes": lambda _, connection: connection.send(b"x"),
    "send a view": lambda _, connection: connection.send(memoryview(b"x")),
    "receive": lambda _, connection: connection.receive(1),
    "drained": lambda _, connection: connection.drained(),
    "shutdown_write": lambda _, connection: connection.shutdown_write(),
    "upgrade_to_tls_server": lambda _, connection: connection.upgrade_to_tls_server(),
    "upgrade_to_tls_client": lambda _, connection: connection.upgrade_to_tls_client("localhost"),
    "set_framing": lambda _, connection: connection.set_framing("line"),
    "set_options": lambda _, connection: connection.set_options(nodelay=True),
    "close": lambda _, connection: connection.close(),
    "abort": lambda _, connection: connection.abort(),
    "accept": lambda keeper, _: keeper.listener.accept(),
    "close a listener": lambda keeper, _: keeper.listener.close(),
    "listen": lambda keeper, _: keeper.tcp.listen("127.0.0.1:0"),
    "connect": lambda keeper, _: keeper.tcp.connect("127.0.0.1:1"),
    "sleep": lambda keeper, _: keeper.sleep(1),
    "call_later": lambda keeper, _: keeper.call_later(1, print),
}


@pytest.mark.parametrize("name", FOR_THE_LOOP)
def test_what_is_for_the_loops_thread_is_refused_on_another_and_nothing_is_done(theater: Theater, name: str) -> None:
    brought: queue.Queue[tuple[Keeper, Any]] = queue.Queue()
    ref = theater.spawn(Keeper, brought)
    host, _, port = theater.listeners()[0].address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as peer:
        keeper, connection = brought.get(timeout=TIMEOUT)
        with pytest.raises(WrongThread, match="event loop 'theater'; another one tells or asks an actor"):
            FOR_THE_LOOP[name](keeper, connection)
        assert connection.peer_address == "{}:{}".format(*peer.getsockname())  # to look is no harm
        do(ref, lambda: connection.send(b"served"))
        assert peer.recv(100) == b"served"
        do(ref, connection.close)
    with pytest.raises(NotFound):  # after the end all threads are told the same
        connection.close()


def test_while_the_theater_goes_down_nothing_is_spawned(kind: type[Diary]) -> None:
    theater = Theater().start()
    raised: list[BaseException] = []

    class Draining(TcpActor):
        def on_drain(self) -> None:
            try:
                theater.spawn_async(kind)
            except ShutDown as error:
                raised.append(error)

    theater.spawn(Draining)
    theater.shutdown(0)
    assert len(raised) == 1
    assert ActorRegistry.get_all() == []


def test_g5_a_spawn_that_meets_the_end_of_the_theater_does_not_hang(kind: type[Diary]) -> None:
    theater = Theater().start()

    class Late(kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            super().__init__()
            theater.shutdown(0)  # another thread does it while this one constructs

    with pytest.raises(ShutDown):
        in_time(lambda: theater.spawn(Late))
    assert ActorRegistry.get_all() == []


def test_a_spawn_that_meets_the_beginning_of_the_way_down_is_refused(kind: type[Diary]) -> None:
    theater = Theater().start()
    draining = threading.Event()
    diary: list[Any] = []

    class Draining(Echo):
        def on_drain(self) -> None:
            draining.set()

    class Late(kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            super().__init__(diary)
            theater.request_shutdown()  # another thread does it while this one constructs
            assert draining.wait(TIMEOUT)

    peer = dial(address_of(theater.spawn(Draining)))
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"  # so that the way down takes its time
    with pytest.raises(ShutDown):
        in_time(lambda: theater.spawn(Late))
    assert diary == []
    peer.close()
    assert in_time(theater.wait)


def test_g5_a_start_that_still_waits_when_the_theater_ends_is_told(loop_kind: type[Diary]) -> None:
    begun = threading.Event()

    class Endless(loop_kind):  # type: ignore[valid-type,misc]
        async def on_start(self) -> None:
            begun.set()
            await self.sleep(1000)

    theater = Theater().start()
    started = theater.spawn_async(Endless)
    assert begun.wait(TIMEOUT)
    in_time(lambda: theater.shutdown(0))
    with pytest.raises((ShutDown, ActorDeadError)):
        started.get(timeout=TIMEOUT)
    assert ActorRegistry.get_all() == []


def test_an_actor_on_the_loop_spawns_others_at_once(theater: Theater, loop_kind: type[Diary]) -> None:
    diary: list[Any] = []
    parent = theater.spawn(LoopDiary)

    def spawn() -> tuple[Any, list[Any]]:
        return theater.spawn(loop_kind, diary), list(diary)

    ref, seen = do(parent, spawn)
    assert seen == ["start"]
    assert do(ref, lambda: 42) == 42

    class Broken(loop_kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            raise ValueError("no start")

    with pytest.raises(ValueError, match="no start"):
        do(parent, lambda: theater.spawn(Broken))


def test_g5_a_spawn_on_the_loop_that_would_wait_raises_and_leaves_no_actor(
    theater: Theater, thread_kind: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    constructed: list[Any] = []
    ended = threading.Event()

    class Slow(LoopDiary):
        async def on_start(self) -> None:  # type: ignore[override]
            await self.sleep(0)

        def on_stop(self) -> None:
            ended.set()

    class Threaded(thread_kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            constructed.append(self)
            super().__init__()

    parent = theater.spawn(LoopDiary)
    with pytest.raises(BlockingCall, match=r"on_start of Slow waits: use `await spawn_async\(...\)`"):
        do(parent, lambda: theater.spawn(Slow))
    with pytest.raises(BlockingCall, match=r"Threaded.*`await spawn_async\(...\)`"):
        do(parent, lambda: theater.spawn(Threaded))
    assert ended.wait(TIMEOUT)
    assert constructed == []
    do(parent, lambda: None)
    assert ActorRegistry.get_all() == [parent]
    gc.collect()
    assert errors(caplog) == []


def test_an_actor_on_the_loop_awaits_a_spawn(theater: Theater, kind: type[Diary]) -> None:
    diary: list[Any] = []

    async def spawn() -> tuple[Any, list[Any]]:
        return await theater.spawn_async(kind, diary), list(diary)

    ref, seen = do(theater.spawn(LoopDiary), spawn)
    assert seen == ["start"]
    assert do(ref, lambda: 42) == 42


def test_an_actor_on_the_loop_gets_the_failure_of_a_spawn_it_awaits(theater: Theater, kind: type[Diary]) -> None:
    class Broken(kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            raise ValueError("no start")

    async def spawn() -> None:
        await theater.spawn_async(Broken)

    with pytest.raises(ValueError, match="no start"):
        do(theater.spawn(LoopDiary), spawn)


def test_an_asyncio_application_awaits_spawns_and_answers(theater: Theater, kind: type[Diary]) -> None:
    class Broken(kind):  # type: ignore[valid-type,misc]
        def on_start(self) -> None:
            raise ValueError("no start")

    async def main() -> list[Any]:
        ref = await theater.spawn_async(kind)
        asked = await ref.ask(lambda: 42, block=False)
        attribute = await ref.proxy().diary
        with pytest.raises(ValueError, match="no start"):
            await theater.spawn_async(Broken)
        in_thread = await theater.to_thread(divmod, 7, 2)
        stopped = await ref.stop(block=False)
        return [asked, attribute[0], in_thread, stopped]

    assert in_time(lambda: asyncio.run(main())) == [42, "start", (3, 1), True]


def test_an_actor_with_a_thread_spawns_others_of_both_kinds(theater: Theater, kind: type[Diary]) -> None:
    parent = theater.spawn(ThreadDiary)
    ref = do(parent, lambda: theater.spawn(kind))
    assert do(ref, lambda: 42) == 42


def test_an_actor_knows_its_theater(theater: Theater) -> None:
    class Knowing(TcpActor):
        def on_receive(self, _message: Any) -> Any:
            return self.theater

    class KnowingThread(TcpMixin, pykka.ThreadingActor):
        def on_receive(self, _message: Any) -> Any:
            return self.theater

    assert theater.spawn(Knowing).ask(None, timeout=TIMEOUT) is theater
    assert theater.spawn(KnowingThread).ask(None, timeout=TIMEOUT) is theater


def test_a_class_whose_constructor_leaves_out_that_of_its_base_is_named(theater: Theater, kind: type[Diary]) -> None:
    class Careless(kind):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            self.ready = True

    text = r"^the constructor of Careless does not call super\(\).__init__\(\)$"
    with pytest.raises(RuntimeError, match=text):
        theater.spawn(Careless)
    with pytest.raises(RuntimeError, match=text):
        do(theater.spawn(LoopDiary), lambda: theater.spawn_async(Careless))
    assert ActorRegistry.get_by_class(Careless) == []


@pytest.mark.parametrize(("plain", "connecting"), [(LoopActor, TcpActor), (pykka.ThreadingActor, TcpMixin)])
def test_a_class_whose_constructor_leaves_out_the_one_with_the_connections_is_named(
    theater: Theater, plain: type[Any], connecting: type[Any]
) -> None:
    class Careless(connecting, plain):  # type: ignore[misc]
        def __init__(self) -> None:
            plain.__init__(self)

    with pytest.raises(RuntimeError, match=r"^the constructor of Careless does not call super"):
        theater.spawn(Careless)


@pytest.mark.parametrize("name", [*CALLBACKS, "on_start", "on_stop", "on_failure"])
def test_a_class_of_actors_with_a_thread_is_refused_with_a_callback_that_is_async(name: str) -> None:
    """Nobody would run its coroutine, and the peer would wait for an answer for ever."""

    async def callback(*_args: Any) -> None: ...

    with pytest.raises(TypeError, match=rf"^Waiting\.{name} is async def: .* plain def"):
        type("Waiting", (TcpMixin, pykka.ThreadingActor), {name: callback})
    theirs = type("Theirs", (), {name: callback})
    with pytest.raises(TypeError, match=name):
        type("Inheriting", (theirs, TcpMixin, pykka.ThreadingActor), {})
    type("OnTheLoop", (TcpActor,), {name: callback})


def test_an_actor_that_has_ended_is_kept_by_nobody(theater: Theater, kind: type[Diary]) -> None:
    ref = theater.spawn(kind)
    gone = ref._actor_weakref
    ref.stop(timeout=TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while gone() is not None and time.monotonic() < deadline:
        do(theater.spawn(LoopDiary), lambda: None)  # its thread or turn may be at its last line
        gc.collect()
    assert gone() is None


@pytest.mark.parametrize("cls", [Echo, ThreadEcho])
def test_g4_who_has_stopped_an_actor_finds_its_address_free(theater: Theater, cls: type[Any]) -> None:
    ref = theater.spawn(cls)
    address = address_of(ref)
    for _ in range(50):
        assert ref.stop(timeout=TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            dial(address)
        ref = theater.spawn(cls, address)


def test_g4_who_has_stopped_an_actor_whose_on_stop_had_to_wait_finds_its_listeners_closed(theater: Theater) -> None:
    class Slow(Echo):
        async def on_stop(self) -> None:  # type: ignore[override]
            await gate

    gate: Future[None] = Future()
    left: Future[list[Any]] = Future()
    stopped: Any = theater.spawn(Slow).stop(block=False)
    stopped.on_done(lambda _: left.set(theater.listeners()))
    gate.set()
    assert left.get(timeout=TIMEOUT) == []


def test_an_async_on_stop_may_say_good_bye_on_its_connections(theater: Theater) -> None:
    class Polite(Echo):
        async def on_stop(self) -> None:  # type: ignore[override]
            await self.to_thread(int)
            for connection in self.connections:
                connection.send(b"bye")

    ref = theater.spawn(Polite)
    with dial(address_of(ref)) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        assert ref.stop(timeout=TIMEOUT)
        assert peer.recv(3) == b"bye"


# -- what would block ----------------------------------------------------------------------------------------------


def test_g5_a_blocking_get_on_the_loop_raises_at_once_whosever_future_it_is(theater: Theater) -> None:
    on_loop, on_thread = theater.spawn(LoopDiary), theater.spawn(ThreadDiary)
    gate = threading.Event()
    on_thread.tell(lambda: gate.wait(TIMEOUT))
    calls: list[Callable[[], Any]] = [
        Future[int]().get,
        pykka.ThreadingFuture[int]().get,
        lambda: on_thread.ask(lambda: 42),
        lambda: on_thread.ask(lambda: 42, timeout=30.0),
        on_thread.proxy().diary.get,
        lambda: pykka.get_all([on_thread.proxy().diary]),
        on_thread.stop,
        theater.wait,
        theater.shutdown,
    ]
    for call in calls:
        with pytest.raises(BlockingCall, match=r"block|wait"):
            do(on_loop, call)
    assert not theater.wait(0)
    gate.set()


def test_g5_waiting_for_another_theater_on_the_loop_raises_at_once(theater: Theater) -> None:
    on_loop = theater.spawn(LoopDiary)
    with Theater(Settings(drain_timeout=0)) as other:
        calls: list[Callable[[], Any]] = [
            other.wait,
            lambda: other.wait(30.0),
            other.shutdown,
            lambda: other.spawn(LoopDiary),
            lambda: other.listen_for(other_echo, "127.0.0.1:0"),
        ]
        other_echo = other.spawn(Echo)
        for call in calls:
            with pytest.raises(BlockingCall):
                do(on_loop, call)
        assert len(other.listeners()) == 1
        assert ActorRegistry.get_by_class(LoopDiary) == [on_loop]


def test_an_actor_on_the_loop_awaits_answers_of_one_with_a_thread(theater: Theater, thread_kind: type[Diary]) -> None:
    on_thread = theater.spawn(thread_kind)

    async def talk() -> list[Any]:
        asked = await on_thread.ask(lambda: 42, block=False)
        attribute = list(await on_thread.proxy().diary)
        with pytest.raises(ZeroDivisionError):
            await on_thread.ask(lambda: 1 // 0, block=False)
        return [asked, attribute, await on_thread.stop(block=False)]

    assert do(theater.spawn(LoopDiary), talk) == [42, ["start"], True]


def test_the_loop_goes_on_while_an_actor_awaits_one_with_a_thread(theater: Theater) -> None:
    gate = threading.Event()
    waiting, other = theater.spawn(LoopDiary), theater.spawn(LoopDiary)
    on_thread = theater.spawn(ThreadDiary)

    async def wait() -> Any:
        return await on_thread.ask(lambda: gate.wait(TIMEOUT), block=False)

    answer = waiting.ask(wait, block=False)
    assert do(other, lambda: 42) == 42
    gate.set()
    assert answer.get(timeout=TIMEOUT) is True


def test_blocking_work_is_awaited_beside_the_loop(theater: Theater) -> None:
    working, other = theater.spawn(TcpDiary), theater.spawn(LoopDiary)
    actor: Any = working._actor_weakref()
    gate = threading.Event()

    def block(value: int) -> tuple[int, bool]:
        assert gate.wait(TIMEOUT)
        return value, running_loop() is None

    async def work() -> Any:
        return await actor.to_thread(block, 42)

    answer = working.ask(work, block=False)
    assert do(other, lambda: "goes on") == "goes on"
    gate.set()
    assert answer.get(timeout=TIMEOUT) == (42, True)


def test_the_failure_of_blocking_work_is_raised_where_it_is_awaited(theater: Theater) -> None:
    async def work() -> None:
        await theater.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        do(theater.spawn(LoopDiary), work)


def test_g8_there_are_no_more_worker_threads_than_the_setting_says() -> None:
    with Theater(Settings(drain_timeout=0, worker_threads=2), name="small") as theater:
        gate = threading.Event()
        futures = [theater.to_thread(gate.wait, TIMEOUT) for _ in range(6)]
        assert len(threads_of("small-worker")) == 2
        gate.set()
        assert pykka.get_all(futures, timeout=TIMEOUT) == [True] * 6


def test_g5_blocking_work_that_did_not_begin_is_refused_at_the_end() -> None:
    theater = Theater(Settings(worker_threads=1)).start()
    begun, gate = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return gate.wait(TIMEOUT)

    under_way = theater.to_thread(work)
    waiting = theater.to_thread(int, "1")
    assert begun.wait(TIMEOUT)
    in_time(lambda: theater.shutdown(0))  # blocking work under way holds nobody up
    with pytest.raises(ShutDown):
        waiting.get(timeout=TIMEOUT)
    with pytest.raises(ShutDown):
        theater.to_thread(int, "1").get(timeout=TIMEOUT)
    gate.set()
    assert under_way.get(timeout=TIMEOUT) is True


def test_an_asyncio_coroutine_is_awaited_by_an_actor(theater: Theater) -> None:
    ref = theater.spawn(TcpDiary)
    actor: Any = ref._actor_weakref()

    async def library(number: int) -> tuple[int, bool]:
        await asyncio.sleep(0)
        async with asyncio.Lock():
            return 2 * number, running_loop() is None

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("in asyncio")

    async def use() -> list[Any]:
        good = await actor.asyncio(library(21))
        with pytest.raises(ValueError, match="in asyncio"):
            await actor.asyncio(failing())
        return list(good)

    assert do(ref, use) == [42, True]


def test_an_asyncio_coroutine_may_await_the_theater_s_futures(theater: Theater) -> None:
    other = theater.spawn(LoopDiary)
    ref = theater.spawn(TcpDiary)
    actor: Any = ref._actor_weakref()

    async def there_and_back() -> Any:
        return await other.ask(lambda: 42, block=False)

    async def use() -> Any:
        return await actor.asyncio(there_and_back())

    assert do(ref, use) == 42


def test_awaiting_asyncio_itself_on_the_loop_is_an_error_that_says_what_to_do(theater: Theater) -> None:
    async def wrong() -> None:
        await asyncio.sleep(0)

    with pytest.raises(TypeError, match=r"run an asyncio coroutine by `await self\.asyncio\(coroutine\)`"):
        do(theater.spawn(LoopDiary), wrong)


def test_a_failure_that_nobody_looked_at_is_logged(theater: Theater, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*closed.getsockname())

        class Careless(TcpActor):
            async def on_receive(self, _message: Any) -> None:
                self.tcp.connect(address)  # and nobody awaits it
                while self.theater.metrics().connect_failures == 0:
                    await self.sleep(0)

        theater.spawn(Careless).ask(None, timeout=TIMEOUT)
    gc.collect()
    (line,) = errors(caplog)
    assert line.startswith("a future failed and nobody looked at it:")
    assert f"refused: {address}" in line


# -- listening for others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Echo, ThreadEcho])
def test_a_listener_can_be_opened_for_an_actor_which_gets_its_connections(theater: Theater, cls: type[Any]) -> None:
    ref = theater.spawn(cls)
    info = theater.listen_for(ref, "127.0.0.1:0", backlog=10)
    assert info.actor == cls.__name__
    assert info.actor_urn == ref.actor_urn
    assert info.address != address_of(ref)
    assert info in theater.listeners()
    assert len(theater.listeners()) == theater.metrics().listeners == 2
    with dial(info.address) as peer:
        peer.sendall(b"hello")
        assert peer.recv(100) == b"hello"
    ref.stop(timeout=TIMEOUT)
    assert theater.listeners() == []


def test_a_listener_can_be_opened_for_another_on_the_loop(theater: Theater) -> None:
    ref = theater.spawn(Echo)
    info = do(theater.spawn(LoopDiary), lambda: theater.listen_for(ref, "127.0.0.1:0"))
    assert info in theater.listeners()


def test_a_listener_that_closes_while_the_listeners_are_told_is_left_out(theater: Theater) -> None:
    """Any thread may ask for them, and the loop doesn't wait for it."""
    info, closing = (theater.listen_for(theater.spawn(Echo), "127.0.0.1:0") for _ in range(2))
    (closer,) = [ref for ref in ActorRegistry.get_all() if ref.actor_urn == closing.id]

    class Table(dict[str, Any]):
        def values(self) -> Any:
            found = list(super().values())
            if closer.is_alive():
                closer.stop(timeout=TIMEOUT)
            return found

    theater.network.listeners = Table(theater.network.listeners)
    listeners = theater.listeners()
    assert info in listeners
    assert closing not in listeners
    assert len(listeners) == 3


def test_a_listener_is_for_actors_that_can_own_it(theater: Theater) -> None:
    ended = theater.spawn(Echo)
    ended.stop(timeout=TIMEOUT)
    for ref in (ended, theater.spawn(LoopDiary), theater.spawn(ThreadDiary)):
        with pytest.raises(NoSuchActor):
            theater.listen_for(ref, "127.0.0.1:0")
    echo = theater.spawn(Echo)
    with pytest.raises(AddressInUse):
        theater.listen_for(echo, address_of(echo))
    with pytest.raises(InvalidArgument):
        theater.listen_for(echo, "nowhere")
    with pytest.raises(InvalidArgument, match="blacklog"):
        theater.listen_for(echo, "127.0.0.1:0", blacklog=1)
    assert len(theater.listeners()) == 1


# -- the way down --------------------------------------------------------------------------------------------------


def test_actors_are_stopped_the_last_started_first_however_they_were_started() -> None:
    order: list[int] = []
    with Theater(Settings(drain_timeout=0)) as theater:

        def stopping(number: int) -> dict[str, Any]:
            return {"on_stop": lambda _self: order.append(number)}

        for number, base in enumerate([LoopActor, TcpActor, pykka.ThreadingActor] * 3):
            cls: Any = type("Stopping", (base,), stopping(number))
            if number < 6 or base is pykka.ThreadingActor:
                theater.spawn(cls)
            else:
                cls.start()
    assert sorted(order) == list(range(9))
    on_loop = [number for number in order if number % 3 != 2]
    assert on_loop == sorted(on_loop, reverse=True)
    assert ActorRegistry.get_all() == []


def test_on_drain_is_heard_after_the_listeners_have_closed_and_before_the_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Any] = []

    class Draining(Echo):
        def on_drain(self) -> None:
            heard.append(("drain", self.theater.listeners()))

        def on_stop(self) -> None:
            heard.append("stop")

    theater = Theater().start()
    address = address_of(theater.spawn(Draining))
    assert theater.shutdown() is True
    assert heard == [("drain", []), "stop"]
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    assert errors(caplog) == []


def test_an_async_on_drain_may_take_its_time() -> None:
    heard: list[str] = []

    class Draining(TcpActor):
        async def on_drain(self) -> None:
            await self.to_thread(lambda: None)
            await self.sleep(0.01)
            heard.append("drained")

        async def on_stop(self) -> None:  # type: ignore[override]
            await self.to_thread(lambda: None)
            heard.append("stopped")

    theater = Theater().start()
    theater.spawn(Draining)
    assert in_time(theater.shutdown) is True
    assert heard == ["drained", "stopped"]


def test_an_actor_with_a_thread_hears_on_drain_and_stops(thread_kind: type[Diary]) -> None:
    class Draining(thread_kind):  # type: ignore[valid-type,misc]
        def on_drain(self) -> None:
            self.diary.append("drain")

    diary: list[Any] = []
    theater = Theater().start()
    theater.spawn(Draining, diary)
    theater.shutdown(0)
    assert diary == (["start", "drain", "stop"] if thread_kind is TcpThreadDiary else ["start", "stop"])


def test_shutdown_waits_for_connections_to_end_by_themselves() -> None:
    theater = Theater().start()
    peer = dial(address_of(theater.spawn(Echo)))
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"
    theater.request_shutdown()
    assert not theater.wait(0.05)
    peer.sendall(b"still served")
    assert peer.recv(100) == b"still served"
    peer.close()
    assert in_time(theater.shutdown) is True


def test_g8_connections_that_don_t_end_within_the_drain_timeout_are_reset() -> None:
    theater = Theater(Settings(drain_timeout=0.05)).start()
    peer = dial(address_of(theater.spawn(Echo)))
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"
    assert in_time(theater.shutdown) is False
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer.close()
    assert theater.shutdown() is False  # the answer stays


def test_a_second_request_can_hurry_and_not_delay() -> None:
    theater = Theater().start()
    peer = dial(address_of(theater.spawn(Echo)))
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"
    theater.request_shutdown(1000.0)
    theater.request_shutdown(2000.0)
    assert not theater.wait(0.05)
    assert in_time(lambda: theater.shutdown(0)) is False
    peer.close()


def test_a_second_request_with_more_time_does_not_put_off_the_end() -> None:
    theater = Theater().start()
    with dial(address_of(theater.spawn(Echo))) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        theater.request_shutdown(0.01)
        theater.request_shutdown(1000.0)
        assert in_time(theater.wait)


def test_an_owner_that_waits_for_something_else_hears_of_the_reset_of_its_connections_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler is ended first: nothing else of the way down comes before it has heard."""

    class Waiting(Echo):
        async def on_data(self, connection: Any, data: bytes) -> None:  # type: ignore[override]
            connection.send(data)
            await Future[None]()

        def on_close(self, _connection: Any, reason: str) -> None:
            heard.append(reason)

    monkeypatch.setattr(drain, "STOP_TIMEOUT", 1000.0)
    heard: list[str] = []
    theater = Theater().start()
    ref = theater.spawn(Waiting)
    with dial(address_of(ref)) as busy, dial(address_of(ref)):
        busy.sendall(b"x")
        assert busy.recv(1) == b"x"
        assert in_time(lambda: theater.shutdown(0)) is False
    assert heard.count("shutdown") >= 1


@pytest.mark.parametrize("cls", [TcpDiary, TcpThreadDiary])
def test_on_the_way_down_nothing_is_opened(cls: type[Any]) -> None:
    class Late(cls):  # type: ignore[misc]
        def on_drain(self) -> None:
            for call in (self.tcp.listen, self.tcp.connect):
                with pytest.raises(ShutDown):
                    call("127.0.0.1:1")
            self.diary.append("refused")

    theater = Theater().start()
    diary: list[Any] = []
    theater.spawn(Late, diary)
    assert in_time(theater.shutdown) is True
    assert diary == ["start", "refused", "stop"]


@pytest.mark.parametrize("cls", [TcpDiary, TcpThreadDiary])
def test_g4_nothing_is_opened_for_an_actor_that_has_ended(theater: Theater, cls: type[Any]) -> None:
    """By what outlived it: a thread that it gave its interface to, or a callback of a future."""
    ref = theater.spawn(cls)
    tcp = ref.proxy().tcp.get(timeout=TIMEOUT)
    ref.stop(timeout=TIMEOUT)
    for call, address in ((tcp.listen, "127.0.0.1:0"), (tcp.connect, "127.0.0.1:1")):
        outcome: Future[Any] = Future()
        theater.loop.submit(call, address, into=outcome) if cls is TcpDiary else None
        with pytest.raises(ShutDown):
            outcome.get(timeout=TIMEOUT) if cls is TcpDiary else call(address)
    assert theater.listeners() == []


def test_an_actor_on_the_loop_may_ask_for_the_shutdown() -> None:
    theater = Theater().start()
    diary: list[Any] = []
    do(theater.spawn(LoopDiary, diary), lambda: theater.request_shutdown(0))
    assert in_time(theater.wait)
    assert diary == ["start", "stop"]


def test_an_async_on_stop_that_began_before_the_way_down_is_not_cut_off(loop_kind: type[Diary]) -> None:
    theater = Theater().start()
    gate: Future[None] = Future()

    class Slow(loop_kind):  # type: ignore[valid-type,misc]
        async def on_stop(self) -> None:
            begun.set()
            await gate
            self.diary.append("stop")

    diary: list[Any] = []
    begun = threading.Event()
    stopped = theater.spawn(Slow, diary).stop(block=False)
    assert begun.wait(TIMEOUT)
    theater.request_shutdown()
    assert not theater.wait(0.05)
    gate.set()
    assert in_time(theater.wait)
    assert stopped.get(timeout=TIMEOUT) is True
    assert diary == ["start", "stop"]


def test_many_threads_may_shut_down_at_once() -> None:
    theater = Theater().start()
    theater.spawn(Echo)
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for _ in range(5):
        threading.Thread(target=lambda: answers.put(theater.shutdown(0)), daemon=True).start()
    assert [answers.get(timeout=TIMEOUT) for _ in range(5)] == [True] * 5


def test_g5_a_handler_that_waits_is_ended_by_the_way_down_and_on_stop_runs(loop_kind: type[Diary]) -> None:
    theater = Theater().start()
    diary: list[Any] = []
    ref = theater.spawn(loop_kind, diary)
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await Future[None]()
        finally:
            diary.append("interrupted")

    waiting = [ref.ask(wait, block=False) for _ in range(3)]
    assert begun.wait(TIMEOUT)
    assert in_time(lambda: theater.shutdown(0)) is True
    assert diary == ["start", "interrupted", "interrupted", "interrupted", "stop"]
    for future in waiting:
        with pytest.raises(ActorDeadError):
            future.get(timeout=TIMEOUT)


def test_g5_a_handler_whose_clean_up_awaits_or_fails_does_not_hold_up_the_end(loop_kind: type[Diary]) -> None:
    theater = Theater().start()
    diary: list[Any] = []
    refs = [theater.spawn(loop_kind, diary) for _ in range(2)]
    begun = [threading.Event() for _ in refs]

    async def wait() -> None:
        begun[0].set()
        try:
            await Future[None]()
        finally:
            await Future[None]()

    async def fail() -> None:
        begun[1].set()
        try:
            await Future[None]()
        finally:
            int("no number")

    refs[0].tell(wait)
    refs[1].tell(fail)
    assert all(event.wait(TIMEOUT) for event in begun)
    assert in_time(lambda: theater.shutdown(0)) is True
    assert sorted(diary) == ["start", "start", "stop", "stop"]


def test_g5_an_exit_in_a_handler_s_clean_up_does_not_hold_up_the_end(
    loop_kind: type[Diary], caplog: pytest.LogCaptureFixture
) -> None:
    theater = Theater().start()
    diary: list[Any] = []
    ref = theater.spawn(loop_kind, diary)
    begun = threading.Event()

    async def leave() -> None:
        begun.set()
        try:
            await Future[None]()
        finally:
            sys.exit(3)

    ref.tell(leave)
    assert begun.wait(TIMEOUT)
    assert in_time(lambda: theater.shutdown(0)) is True
    assert diary == ["start", "stop"]
    assert errors(caplog) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_g5_an_exit_in_on_stop_does_not_hold_up_the_end(loop_kind: type[Diary], is_async: bool) -> None:
    class Exiting(loop_kind):  # type: ignore[valid-type,misc]
        def on_stop(self) -> Any:
            return later() if is_async else sys.exit(3)

    async def later() -> None:
        await theater.to_thread(int)
        sys.exit(3)

    theater = Theater().start()
    diary: list[Any] = []
    theater.spawn(loop_kind, diary)
    theater.spawn(Exiting)
    assert in_time(lambda: theater.shutdown(0)) is True
    assert diary == ["start", "stop"]


@pytest.mark.parametrize("step", ["is_there", "loop_actor_of"])
def test_g5_ctrl_c_in_a_step_of_the_way_down_does_not_end_it_halfway(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """On the thread of ``run()`` it strikes anywhere; here in what a step calls, once."""
    plain: Callable[[Any], Any] = getattr(drain, step)
    strikes = [KeyboardInterrupt()]

    def struck(what: Any) -> Any:
        if strikes:
            raise strikes.pop()
        return plain(what)

    monkeypatch.setattr(drain, step, struck)
    theater = Theater()
    diary: list[Any] = []

    def first() -> None:
        theater.spawn(TcpDiary, diary)
        theater.request_shutdown()

    with pytest.raises(KeyboardInterrupt):
        in_time(lambda: theater.run(first))
    assert diary == ["start", "stop"]


def test_a_handler_that_waits_has_the_drain_timeout_to_end_by_itself() -> None:
    theater = Theater().start()
    ref = theater.spawn(LoopDiary)
    gate: Future[str] = Future()
    begun = threading.Event()

    async def wait() -> str:
        begun.set()
        return await gate

    waiting = ref.ask(wait, block=False)
    assert begun.wait(TIMEOUT)
    theater.request_shutdown()
    assert not theater.wait(0.05)
    gate.set("in time")
    assert waiting.get(timeout=TIMEOUT) == "in time"
    assert in_time(theater.wait)


def test_g5_an_actor_that_does_not_stop_holds_up_the_end_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drain, "STOP_TIMEOUT", 0.05)
    theater = Theater().start()
    gate = threading.Event()
    begun = threading.Event()

    class Endless(LoopDiary):
        async def on_stop(self) -> None:  # type: ignore[override]
            await Future[None]()

    on_thread = theater.spawn(ThreadDiary)

    def block() -> None:
        begun.set()
        gate.wait(TIMEOUT)

    on_thread.tell(block)
    assert begun.wait(TIMEOUT)
    on_loop = theater.spawn(Endless)
    stopping = on_loop.stop(block=False)
    in_time(lambda: theater.shutdown(0))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{on_thread} did not stop in 0.05 s" in warned
    with pytest.raises(ActorDeadError):
        on_loop.ask(lambda: 1, timeout=TIMEOUT)
    try:
        stopping.get(timeout=TIMEOUT)  # whatever it says, it says something
    except ActorDeadError:
        pass
    gate.set()
    assert on_thread.actor_stopped.wait(TIMEOUT)


def test_g5_who_asked_an_actor_whose_on_stop_never_ends_is_told(
    monkeypatch: pytest.MonkeyPatch, loop_kind: type[Diary]
) -> None:
    class Endless(loop_kind):  # type: ignore[valid-type,misc]
        async def on_stop(self) -> None:
            await Future[None]()

    monkeypatch.setattr(drain, "STOP_TIMEOUT", 0.05)
    theater = Theater().start()
    ref = theater.spawn(Endless)
    gate = threading.Event()
    theater.loop.call_soon(lambda: gate.wait(TIMEOUT))  # the actor has its turn when all of them lie in its mailbox
    ref.stop(block=False)
    asked = ref.ask(lambda: 1, block=False)
    gate.set()
    in_time(lambda: theater.shutdown(0))
    with pytest.raises(ActorDeadError):
        asked.get(timeout=TIMEOUT)


def test_g5_an_actor_that_starts_on_the_way_down_is_given_up_with_the_loop(
    monkeypatch: pytest.MonkeyPatch, loop_kind: type[Diary]
) -> None:
    asked: list[pykka.Future[Any]] = []

    async def wait() -> None:
        await Future[None]()

    class Parent(LoopDiary):
        def on_stop(self) -> None:
            late = loop_kind.start()
            asked.extend(late.ask(message, block=False) for message in (wait, lambda: 1))
            refs.append(late)

    monkeypatch.setattr(drain, "STOP_TIMEOUT", 0.05)
    refs: list[pykka.ActorRef[Any]] = []
    theater = Theater().start()
    theater.spawn(Parent)
    in_time(lambda: theater.shutdown(0))
    (late,) = refs
    assert not late.is_alive()
    asked.append(late.ask(lambda: 1, block=False))
    for future in asked:
        with pytest.raises(ActorDeadError):
            future.get(timeout=TIMEOUT)
    assert ActorRegistry.get_all() == []


def test_g5_who_waits_for_a_connection_when_the_theater_ends_is_told_and_its_socket_closed() -> None:
    theater = Theater().start()
    before = open_descriptors()
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # for one more than that
        for caller in (one, two):
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        tcp: Any = theater.spawn(TcpDiary).proxy().tcp.get(timeout=TIMEOUT)
        connecting: Future[Any] = Future()
        outcome: Future[Any] = Future()
        theater.loop.submit(lambda: connecting.set(tcp.connect(f"127.0.0.1:{full.getsockname()[1]}")), into=outcome)
        opened = connecting.get(timeout=TIMEOUT)
        assert in_time(theater.shutdown) is True
        with pytest.raises(ShutDown):
            opened.get(timeout=TIMEOUT)
    assert open_descriptors() <= before


def test_a_turn_that_an_actor_with_a_thread_takes_after_the_end_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Busy(ThreadEcho):
        def on_data(self, connection: Any, data: bytes) -> None:
            connection.send(data)
            gate.wait(TIMEOUT)

    monkeypatch.setattr(drain, "STOP_TIMEOUT", 0.05)
    gate = threading.Event()
    theater = Theater().start()
    ref = theater.spawn(Busy)
    with dial(address_of(ref)) as peer:
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        in_time(lambda: theater.shutdown(0))  # its connection's end lies in its mailbox
    gate.set()
    assert in_time(ref.actor_stopped.wait)
    assert errors(caplog) == []


def test_g5_no_asker_hangs_when_the_theater_ends(loop_kind: type[Diary]) -> None:
    for _ in range(10):
        theater = Theater().start()
        ref = theater.spawn(loop_kind)
        begun = threading.Event()
        futures: list[pykka.Future[Any]] = []

        def ask(ref: Any = ref, futures: list[Any] = futures, begun: threading.Event = begun) -> None:
            for number in range(200):
                futures.append(ref.ask(lambda number=number: number, block=False))
                begun.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(TIMEOUT)
        theater.shutdown(0)
        asking.join(TIMEOUT)
        for number, future in enumerate(futures):
            try:
                assert future.get(timeout=TIMEOUT) == number
            except ActorDeadError:
                pass


def test_after_the_end_nothing_is_left_neither_actors_nor_threads_nor_descriptors() -> None:
    before = open_descriptors()
    with Theater(Settings(drain_timeout=0), name="leaver") as theater:
        refs = [theater.spawn(cls) for cls in (Echo, ThreadEcho, LoopDiary, ThreadDiary)]
        peers = [dial(address_of(ref)) for ref in refs[:2] for _ in range(3)]
        for peer in peers:
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
        do(refs[2], lambda: None)
        theater.to_thread(int, "1").get(timeout=TIMEOUT)
        theater.run_asyncio(asyncio.sleep(0)).get(timeout=TIMEOUT)
    for peer in peers:
        peer.close()
    for thread in threads_of("leaver"):
        thread.join(TIMEOUT)
    assert threads_of("leaver") == []
    assert ActorRegistry.get_all() == []
    assert open_descriptors() == before
    assert not any(ref.is_alive() for ref in refs)


def test_an_event_loop_that_failed_is_told_and_nothing_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit outside of any actor: nothing else gets out of the loop."""
    theater = Theater().start()
    diary: list[Any] = []
    theater.spawn(LoopDiary, diary)
    peer = dial(address_of(theater.spawn(Echo)))

    def leave() -> None:
        raise SystemExit(3)

    theater.loop.call_soon(leave)
    assert in_time(theater.wait)
    assert diary == ["start", "stop"]
    assert ActorRegistry.get_all() == []
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer.close()
    with pytest.raises(RuntimeError, match="failed") as raised:
        theater.shutdown()
    assert isinstance(raised.value.__cause__, SystemExit)
    assert "the event loop failed" in errors(caplog)


def test_actors_started_where_no_theater_is_at_hand_say_what_is_missing(theater: Theater) -> None:
    for cls in (LoopDiary, TcpThreadDiary):
        nowhere = contextvars.Context()
        with pytest.raises(RuntimeError, match=rf"{cls.__name__} lives in a Theater: start it by theater.spawn"):
            nowhere.run(cls.start)
    assert theater.spawn(LoopDiary).is_alive()


@pytest.mark.parametrize("cls", [LoopDiary, TcpDiary, TcpThreadDiary])
def test_an_actor_of_a_theater_that_has_ended_does_not_start(cls: type[Diary]) -> None:
    with Theater() as theater:
        theater.shutdown()
        with pytest.raises(ShutDown):
            cls.start()
    assert ActorRegistry.get_all() == []


def leave(actor: Any) -> None:
    actor.behind.append(actor.actor_ref.ask("what comes behind the exit", block=False))
    sys.exit(3)


class ExitingEcho(Echo):
    def on_data(self, _connection: Any, _data: bytes) -> Any:
        leave(self)


class AsyncExitingEcho(Echo):
    async def on_data(self, _connection: Any, _data: bytes) -> None:  # type: ignore[override]
        leave(self)


class LateExitingEcho(Echo):
    async def on_data(self, _connection: Any, _data: bytes) -> None:  # type: ignore[override]
        await self.to_thread(int)
        leave(self)


class ExitingThreadEcho(ThreadEcho):
    def on_data(self, _connection: Any, _data: bytes) -> Any:
        leave(self)


@pytest.mark.parametrize("cls", [ExitingEcho, AsyncExitingEcho, LateExitingEcho, ExitingThreadEcho])
@pytest.mark.parametrize("other_cls", [TcpDiary, TcpThreadDiary])
def test_an_exit_in_a_callback_stops_all_actors_by_pykka_s_rules_and_closes_what_they_had(
    theater: Theater, cls: type[Any], other_cls: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    diary: list[Any] = []
    cls.behind = []
    other = theater.spawn(other_cls, diary)
    ref = theater.spawn(cls)
    address = address_of(ref)
    with dial(address) as peer:
        peer.sendall(b"x")
        for stopped in (ref, other):
            assert in_time(stopped.actor_stopped.wait)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    eventually(lambda: theater.listeners() == [] and diary == ["start", "stop"])
    with pytest.raises(ActorDeadError):
        cls.behind.pop().get(timeout=TIMEOUT)
    assert do(theater.spawn(LoopDiary), lambda: 1) == 1  # the runtime goes on
    assert "the event loop failed" not in errors(caplog)


# -- signals -------------------------------------------------------------------------------------------------------

SCRIPT = """
    import signal, sys, threading, time
    from theater_tcp import TcpActor, Theater

    class Echo(TcpActor):
        def on_start(self):
            self.tcp.listen("127.0.0.1:0")

        def handle_connection(self, connection):
            connection.activate()

        def on_drain(self):
            print("drain", flush=True)

        def on_stop(self):
            print("stop", flush=True)
"""

ENDS: dict[str, str] = {
    "wait": """
        def announce():  # when the main thread really waits
            waits = False
            while not waits:
                time.sleep(0.001)
                frame = sys._current_frames()[threading.main_thread().ident]
                if frame.f_code.co_filename == threading.__file__:
                    while frame is not None and frame.f_code is not Theater.wait.__code__:
                        frame = frame.f_back
                    waits = frame is not None
            print("ready", flush=True)
        with Theater() as theater:
            theater.spawn(Echo)
            threading.Thread(target=announce).start()
            theater.wait()
        print("end", flush=True)
    """,
    "run": """
        theater = Theater()
        def first():
            theater.spawn(Echo)
            print("ready", flush=True)
        try:
            theater.run(first)
        except KeyboardInterrupt:
            print("end", flush=True)
    """,
    "handler": """
        theater = Theater()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: theater.request_shutdown())
        def first():
            theater.spawn(Echo)
            print("ready", flush=True)
        theater.run(first)
        print("end", flush=True)
    """,
    "handler beside": """
        theater = Theater().start()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: theater.request_shutdown())
        theater.spawn(Echo)
        print("ready", flush=True)
        theater.wait()
        print("end", flush=True)
    """,
    "busy run": """
        theater = Theater()
        class Busy(Echo):
            def on_start(self):
                self.actor_ref.tell("work")
            def on_receive(self, message):
                if message == "work":
                    print("ready", flush=True)
                self.actor_ref.tell("more work")
        try:
            theater.run(lambda: theater.spawn(Busy))
        except KeyboardInterrupt:
            print("end", flush=True)
    """,
}


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("wait", signal.SIGINT),
        ("run", signal.SIGINT),
        ("handler", signal.SIGINT),
        ("handler", signal.SIGTERM),
        ("handler beside", signal.SIGTERM),
        ("busy run", signal.SIGINT),
    ],
)
def test_a_signal_leads_to_an_orderly_end(end: str, number: signal.Signals) -> None:
    script = textwrap.dedent(SCRIPT) + textwrap.dedent(ENDS[end])
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            said = process.stdout.read().split()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    assert said[-1] == "end"
    if end != "busy run":  # there it may strike in the middle of anything
        assert "stop" in said
