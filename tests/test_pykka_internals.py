"""What leans on private names of pykka: the registry's table, the guarded future, URNs, and the self-test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry, ThreadingActor, ThreadingFuture

from tests.in_time import TIMEOUT, in_time
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp import Theater, pykka_internals
from theater_tcp.errors import BlockingCall
from theater_tcp.future import Future
from theater_tcp.pykka_internals import (
    RefTable,
    ended_by_failure,
    install,
    new_urn,
    registry,
    start_threading_actor,
)
from theater_tcp.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    """The test's thread is that of an event loop."""
    install()
    with SteppedLoop(ScriptedPoller()) as loop:
        yield loop


class Plain(ThreadingActor):
    """Handles callables."""

    use_daemon_thread = True

    def on_receive(self, message: Callable[[], Any]) -> Any:
        return message()


@pytest.fixture
def plain() -> Iterator[pykka.ActorRef[Plain]]:
    ref = Plain.start()
    yield ref
    ref.stop(block=False)  # the test's thread may be a loop's still
    assert ref.actor_stopped.wait(TIMEOUT)


def fail() -> None:
    raise ValueError("wrong")


# -- URNs ----------------------------------------------------------------------------------------------------------


def test_a_urn_is_a_random_uuid_by_its_form() -> None:
    urn = new_urn()
    assert urn.startswith("urn:uuid:")
    parsed = uuid.UUID(urn)
    assert parsed.version == 4
    assert parsed.variant == uuid.RFC_4122
    assert parsed.urn == urn


def test_urns_are_unique_among_threads() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend([new_urn() for _ in range(2000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(set(made)) == 8000


def run_script(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 2,
        check=True,
        cwd=ROOT,
    )
    return done.stdout.split()


def test_urns_are_unique_among_processes_forked_ones_too() -> None:
    script = """
        import os
        from theater_tcp.pykka_internals import new_urn
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(new_urn(), flush=True)
        os._exit(0)
    """
    urns = run_script(script) + run_script(script)
    assert len(urns) == 4
    assert len(set(urns)) == 4


# -- the registry's table ------------------------------------------------------------------------------------------


def test_the_table_does_what_pykka_s_list_does() -> None:
    items = [object() for _ in range(5)]
    plain, table = list(items), RefTable()
    for item in items:
        table.append(item)
    plain.remove(items[2])
    table.remove(items[2])
    assert list(table) == plain
    assert table[:] == plain
    assert table[1:3] == plain[1:3]
    assert table[0] is plain[0]
    assert table[-1] is plain[-1]
    assert len(table) == len(plain)
    assert [item in table for item in items] == [item in plain for item in items]
    assert list(reversed(table[:])) == list(reversed(plain))
    assert bool(table) is True
    assert bool(RefTable()) is False


def test_a_python_without_a_gil_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(RuntimeError, match="without: PYTHON_GIL=1 brings it back"):
        Theater()


def test_removing_what_is_not_there_is_harmless() -> None:
    table = RefTable()
    table.remove(object())
    item = object()
    table.append(item)
    table.append(item)
    table.remove(item)
    assert list(table) == []


def test_the_table_may_change_while_somebody_goes_through_it() -> None:
    table = RefTable()
    for number in range(10):
        table.append(number)
    seen = []
    for number in table:
        seen.append(number)
        table.remove(number)
        table.append(number + 100)
    assert seen == list(range(10))
    assert list(table) == list(range(100, 110))


class Compared:
    """Counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Compared.comparisons += 1
        return self is other

    def __hash__(self) -> int:
        return id(self)


def test_the_cost_of_coming_and_going_does_not_grow_with_the_number_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    table = RefTable()
    monkeypatch.setattr(ActorRegistry, "_actor_refs", table)
    for _ in range(10_000):
        table.append(Compared())
    last: Any = Compared()
    Compared.comparisons = 0
    ActorRegistry.register(last)
    ActorRegistry.unregister(last)
    assert Compared.comparisons < 10  # those that a hash makes necessary; a list would need 20 000


def test_install_keeps_the_actors_that_live_already(
    monkeypatch: pytest.MonkeyPatch, plain: pykka.ActorRef[Plain]
) -> None:
    others = [Plain.start() for _ in range(3)]
    monkeypatch.setattr(ActorRegistry, "_actor_refs", list(ActorRegistry.get_all()))
    monkeypatch.setattr(ThreadingFuture, "get", ThreadingFuture.get)  # to be put back, since it is wrapped twice now
    monkeypatch.setattr(ThreadingFuture, "__await__", ThreadingFuture.__await__)
    monkeypatch.setattr(pykka.Actor, "_handle_failure", pykka.Actor._handle_failure)
    install()
    assert isinstance(ActorRegistry._actor_refs, RefTable)
    assert registry() is ActorRegistry._actor_refs
    assert ActorRegistry.get_all() == [plain, *others]
    for ref in others:
        assert ref.stop(timeout=TIMEOUT)
    assert ActorRegistry.get_all() == [plain]
    monkeypatch.undo()
    for ref in others:
        ActorRegistry.unregister(ref)


def test_install_twice_changes_nothing() -> None:
    install()
    before = (ActorRegistry._actor_refs, ThreadingFuture.get, ThreadingFuture.__await__)
    install()
    assert before == (ActorRegistry._actor_refs, ThreadingFuture.get, ThreadingFuture.__await__)


# -- pykka's own future on the loop --------------------------------------------------------------------------------


def test_g5_get_of_pykka_s_own_future_on_the_loop_s_thread_raises_at_once(loop: SteppedLoop) -> None:
    future: ThreadingFuture[int] = ThreadingFuture()
    for timeout in (None, 0, 30.0):
        with pytest.raises(BlockingCall, match="would block the event loop"):
            future.get(timeout=timeout)
    with pytest.raises(BlockingCall):
        future.map(str).get()
    with pytest.raises(BlockingCall):
        pykka.get_all([future])
    future.set(1)
    assert future.get() == 1
    assert future.map(str).get() == "1"


def test_g5_a_blocking_call_of_an_actor_with_a_thread_raises_at_once(
    loop: SteppedLoop, plain: pykka.ActorRef[Plain]
) -> None:
    gate = threading.Event()
    plain.tell(lambda: gate.wait(TIMEOUT))
    with pytest.raises(BlockingCall):
        plain.ask(lambda: 1)
    with pytest.raises(BlockingCall):
        plain.ask(lambda: 1, timeout=30.0)
    with pytest.raises(BlockingCall):
        plain.stop()
    gate.set()
    assert plain.actor_stopped.wait(TIMEOUT)  # that it stops was asked for; only the wait was refused


@pytest.mark.parametrize("error", [ValueError("wrong"), pykka.Timeout("of the actor's own"), ActorDeadError("dead")])
def test_a_failure_that_is_there_is_raised_on_the_loop_as_it_is(loop: SteppedLoop, error: Exception) -> None:
    future: ThreadingFuture[int] = ThreadingFuture()
    future.set_exception((type(error), error, None))
    with pytest.raises(type(error)) as raised:
        future.get()
    assert raised.value is error


def test_off_the_loop_pykka_s_own_future_is_as_ever() -> None:
    install()
    future: ThreadingFuture[int] = ThreadingFuture()
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)
    threading.Timer(0.01, future.set, [1]).start()
    assert future.get(timeout=TIMEOUT) == 1

    future.__await__()  # outside of every loop: the plain one


def test_an_asyncio_task_awaits_pykka_s_own_future_without_blocking_its_loop(plain: pykka.ActorRef[Plain]) -> None:
    install()
    gate = threading.Event()

    async def main() -> list[Any]:
        waiting = asyncio.ensure_future(wait(plain.ask(lambda: gate.wait(TIMEOUT), block=False)))
        await asyncio.sleep(0)
        gate.set()  # which a blocked loop would never come to
        with pytest.raises(ValueError, match="wrong"):
            await wait(plain.ask(fail, block=False))
        return [await waiting, await wait(plain.ask(lambda: [1, 2], block=False).map(len))]

    async def wait(future: pykka.Future[Any]) -> Any:
        return await future

    assert in_time(lambda: asyncio.run(main())) == [True, 2]


def drive(loop: SteppedLoop, coroutine: Any) -> Any:
    """What a coroutine on the loop returns, while other threads do their part."""
    ended: list[tuple[Any, BaseException | None]] = []
    woken = threading.Event()
    Task(loop, coroutine, lambda value, error: ended.append((value, error))).step()
    loop.wake = woken.set  # type: ignore[method-assign]
    while not ended:
        loop.sleeping = True  # as in a sleep: who schedules something wakes it
        if not loop.ready:
            assert woken.wait(TIMEOUT)
        woken.clear()
        loop.sleeping = False
        loop.turn()
    value, error = ended[0]
    if error is not None:
        raise error
    return value


def test_pykka_s_own_future_is_awaited_on_the_loop_without_blocking_it(
    loop: SteppedLoop, plain: pykka.ActorRef[Plain]
) -> None:
    gate = threading.Event()
    turns: list[str] = []

    async def wait() -> Any:
        loop.call_soon(lambda: turns.append("the loop goes on"))
        loop.call_soon(gate.set)
        return await plain.ask(lambda: gate.wait(TIMEOUT), block=False)

    assert drive(loop, wait()) is True
    assert turns == ["the loop goes on"]


def test_a_failure_of_pykka_s_own_future_is_raised_where_it_is_awaited(
    loop: SteppedLoop, plain: pykka.ActorRef[Plain]
) -> None:
    async def wait() -> Any:
        return await plain.ask(fail, block=False)

    with pytest.raises(ValueError, match="wrong"):
        drive(loop, wait())


def test_derived_and_hooked_futures_of_pykka_s_are_awaited_too(loop: SteppedLoop, plain: pykka.ActorRef[Plain]) -> None:
    async def wait() -> Any:
        mapped = plain.ask(lambda: [1, 2, 3], block=False).map(len)
        joined = mapped.join(plain.ask(lambda: "other", block=False))
        return await mapped, await joined, await plain.stop(block=False)

    assert drive(loop, wait()) == (3, [3, "other"], True)


# -- starting an actor with a thread -------------------------------------------------------------------------------


def test_the_start_of_an_actor_with_a_thread_is_told_when_on_start_has_returned() -> None:
    gate = threading.Event()

    class Slow(Plain):
        def on_start(self) -> None:
            assert gate.wait(TIMEOUT)

    actor = Slow()
    started = start_threading_actor(actor)
    assert not started.done
    assert ActorRegistry.get_by_urn(actor.actor_urn) is actor.actor_ref
    gate.set()
    ref = started.get(timeout=TIMEOUT)
    assert ref is actor.actor_ref
    assert ref.ask(lambda: "well", timeout=TIMEOUT) == "well"
    assert "on_start" not in vars(actor)
    ref.stop(timeout=TIMEOUT)


@pytest.mark.parametrize("how", ["message", "on_failure too", "on_stop", "stop", "ask"])
def test_it_is_known_whether_an_actor_ended_by_a_failure(how: str) -> None:
    ended = threading.Event()

    class Ends(Plain):
        def on_receive(self, message: Any) -> None:
            raise ValueError(message)

        def on_failure(self, *_: Any) -> None:
            ended.set()
            if how == "on_failure too":
                raise ValueError(how)

        def on_stop(self) -> None:
            if how == "on_stop":
                raise ValueError(how)

    install()
    ref = start_threading_actor(Ends()).get(timeout=TIMEOUT)
    assert not ended_by_failure(ref)
    if how == "ask":
        with pytest.raises(ValueError, match=how):
            ref.ask(how, timeout=TIMEOUT)
        assert not ended_by_failure(ref)
    if how in ("message", "on_failure too"):
        ref.tell(how)
        assert ended.wait(TIMEOUT)
    else:
        ref.stop(timeout=TIMEOUT)
    assert ended_by_failure(ref) == (how not in ("stop", "ask"))


@pytest.mark.parametrize("error", [ValueError("no start"), SystemExit(3), KeyboardInterrupt()])
def test_whoever_is_told_that_a_start_failed_finds_the_actor_gone(error: BaseException) -> None:
    class Broken(Plain):
        def on_start(self) -> None:
            raise error

    actor = Broken()
    started = start_threading_actor(actor)
    gone: Future[tuple[bool, bool]] = Future()
    started.on_done(
        lambda _: gone.set((actor.actor_ref.is_alive(), ActorRegistry.get_by_urn(actor.actor_urn) is not None))
    )
    with pytest.raises(type(error)) as raised:
        started.get(timeout=TIMEOUT)
    assert raised.value is error
    assert gone.get(timeout=TIMEOUT) == (False, False)
    with pytest.raises(ActorDeadError):
        actor.actor_ref.ask(lambda: 1, timeout=TIMEOUT)
    for thread in threading.enumerate():
        if thread.name.startswith("Broken-"):
            thread.join(TIMEOUT)


# -- the self-test -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (pykka.Actor, "_actor_loop_running"),
        (pykka.Actor, "_actor_loop_teardown"),
        (pykka.Actor, "_actor_loop_setup"),
        (pykka.Actor, "_handle_receive"),
        (pykka.Actor, "_handle_failure"),
        (pykka.Actor, "_stop"),
        (pykka.Actor, "_start_actor_loop"),
        (ActorRegistry, "_actor_refs"),
        (ActorRegistry, "_actor_refs_lock"),
    ],
)
def test_a_pykka_without_a_name_that_is_used_is_refused_by_its_version(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(ImportError, match=rf"pykka \d+\.\d+\.\d+ is not supported: it has no {owner.__name__}.{name}"):
        pykka_internals._self_test()


def test_the_pykka_that_is_installed_passes_the_self_test() -> None:
    pykka_internals._self_test()
