"""The runtime's future: settled once, waited for in four ways, and never a reason for the loop to wait for itself.

What it has in common with pykka's own is in ``test_pykka_documented_behaviour.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.in_time import TIMEOUT, in_time
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp.errors import BlockingCall
from theater_tcp.future import Future, arrival_of, refuse_to_block
from theater_tcp.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    """The test's thread is that of an event loop."""
    with SteppedLoop(ScriptedPoller()) as loop:
        yield loop


def settled(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set(value)
    return future


def failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception_value(error)
    return future


# -- settling ------------------------------------------------------------------------------------------------------


def test_a_future_tells_what_became_of_it() -> None:
    future: Future[int] = Future()
    assert not future.done
    assert not future.failed
    assert repr(future) == "<Future pending>"
    future.set(1)
    assert future.done
    assert not future.failed
    assert repr(future) == "<Future settled>"
    broken = failed(ValueError("no"))
    assert broken.done
    assert broken.failed
    assert repr(broken) == "<Future failed: ValueError('no')>"
    with pytest.raises(ValueError, match="no"):
        broken.get()


@pytest.mark.parametrize("first", ["set", "set_exception_value", "set_get_hook"])
@pytest.mark.parametrize("second", ["set", "set_exception_value"])
def test_a_future_is_settled_once(first: str, second: str) -> None:
    arguments: dict[str, Any] = {"set": 1, "set_exception_value": ValueError("no"), "set_get_hook": lambda _: 1}
    future: Future[Any] = Future()
    getattr(future, first)(arguments[first])
    with pytest.raises(queue.Full):
        getattr(future, second)(arguments[second])
    with pytest.raises(queue.Full) if first != "set_get_hook" else pytest.raises(ZeroDivisionError):
        future.set_get_hook(lambda _: 1 // 0)
        future.get()
    if first == "set_exception_value":
        with pytest.raises(ValueError, match="no"):
            future.get()


def test_only_one_of_many_threads_settles_a_future() -> None:
    for _ in range(50):
        future: Future[int] = Future()
        winners: list[int] = []
        barrier = threading.Barrier(4)

        def settle(
            number: int,
            future: Future[int] = future,
            barrier: threading.Barrier = barrier,
            winners: list[int] = winners,
        ) -> None:
            barrier.wait(TIMEOUT)
            try:
                future.set(number)
            except queue.Full:
                return
            winners.append(number)

        threads = [threading.Thread(target=settle, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert winners == [future.get(timeout=0)]


# -- getting -------------------------------------------------------------------------------------------------------


def test_get_waits_until_another_thread_settles_it() -> None:
    future: Future[int] = Future()
    waiting = threading.Event()

    def settle() -> None:
        assert waiting.wait(TIMEOUT)
        future.set(42)

    threading.Thread(target=settle, daemon=True).start()
    waiting.set()
    assert future.get(timeout=TIMEOUT) == 42


def test_many_threads_may_wait_for_one_future() -> None:
    future: Future[int] = Future()
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    for _ in range(5):
        threading.Thread(target=lambda: got.put(future.get()), daemon=True).start()
    future.set(42)
    assert [got.get(timeout=TIMEOUT) for _ in range(5)] == [42] * 5


def test_a_get_hook_that_is_set_later_wakes_who_waits_already() -> None:
    future: Future[int] = Future()
    waiting = threading.Event()
    got: queue.SimpleQueue[int] = queue.SimpleQueue()

    class Waiting(Future[int]):
        def on_done(self, call: Callable[[Future[int]], object]) -> None:
            super().on_done(call)
            waiting.set()

    future = Waiting()
    threading.Thread(target=lambda: got.put(future.get()), daemon=True).start()
    assert waiting.wait(TIMEOUT)
    future.set_get_hook(lambda _timeout: 42)
    assert got.get(timeout=TIMEOUT) == 42


def test_who_gave_up_waiting_leaves_nothing_behind() -> None:
    future: Future[int] = Future()
    for _ in range(100):
        with pytest.raises(pykka.Timeout):
            future.get(timeout=0)
    assert not future._waiters
    future.set(1)
    assert future.get(timeout=0) == 1


def test_an_outcome_that_comes_as_the_time_is_over_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of the wait and the look at who waits."""

    class LastMoment:
        def __init__(self) -> None:
            self.entries = 0

        def __enter__(self) -> None:
            self.entries += 1
            if self.entries == 2:  # the first was for the waiter
                future.set(42)

        def __exit__(self, *_: object) -> None:
            pass

    future: Future[int] = Future()
    monkeypatch.setattr("theater_tcp.future._guard", LastMoment())
    assert future.get(timeout=0) == 42


def test_a_failure_that_is_raised_often_does_not_grow() -> None:
    future = failed(ValueError("no"))
    depths = []
    for _ in range(5):
        with pytest.raises(ValueError, match="no") as raised:
            future.get()
        depths.append(len(raised.traceback))
    assert len(set(depths)) == 1


# -- on the loop's own thread --------------------------------------------------------------------------------------


def test_g5_get_on_the_loop_s_own_thread_raises_at_once(loop: SteppedLoop) -> None:
    assert loop.thread_id == threading.get_ident()
    pending: Future[int] = Future()
    with pytest.raises(BlockingCall, match=r"get\(\) of an unsettled future would block the event loop"):
        pending.get()
    with pytest.raises(BlockingCall):
        pending.get(timeout=5.0)
    with pytest.raises(BlockingCall, match="this call would block"):
        refuse_to_block("this call")


def test_g5_an_outcome_that_is_there_can_be_got_on_the_loop_s_thread(loop: SteppedLoop) -> None:
    assert settled(1).get() == 1
    with pytest.raises(ValueError, match="no"):
        failed(ValueError("no")).get()
    assert settled(1).map(str).get() == "1"


def test_g5_get_of_a_derived_future_whose_source_is_pending_raises_at_once(loop: SteppedLoop) -> None:
    pending: Future[int] = Future()
    with pytest.raises(BlockingCall):
        pending.map(str).get()


def test_off_the_loop_nothing_is_refused() -> None:
    refuse_to_block("this call")


# -- calling back --------------------------------------------------------------------------------------------------


def test_on_done_calls_back_with_the_future_now_or_later() -> None:
    called: list[Future[int]] = []
    future: Future[int] = Future()
    future.on_done(called.append)
    assert called == []
    future.set(1)
    assert called == [future]
    future.on_done(called.append)
    assert called == [future, future]


def test_on_done_calls_back_after_a_failure_too() -> None:
    called: list[Future[int]] = []
    future: Future[int] = Future()
    future.on_done(called.append)
    future.set_exception_value(ValueError("no"))
    assert called == [future]
    with pytest.raises(ValueError, match="no"):
        future.get()


def test_a_callback_that_fails_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    called: list[Future[int]] = []
    future: Future[int] = Future()
    future.on_done(lambda _: 1 // 0)
    future.on_done(called.append)
    future.set(1)
    assert called == [future]
    assert [record.getMessage() for record in caplog.records] == ["a future's callback failed"]


def test_no_callback_is_lost_when_it_comes_while_another_thread_settles() -> None:
    for _ in range(300):
        future: Future[int] = Future()
        called = threading.Event()
        barrier = threading.Barrier(2)

        def settle(future: Future[int] = future, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(TIMEOUT)
            future.set(1)

        thread = threading.Thread(target=settle)
        thread.start()
        barrier.wait(TIMEOUT)
        future.on_done(lambda _, called=called: called.set())  # type: ignore[misc]
        assert called.wait(TIMEOUT)
        thread.join(TIMEOUT)


DERIVATIONS: dict[str, tuple[Callable[[Future[Any]], Future[Any]], Any, Any]] = {
    "map": (lambda future: future.map(len), [1, 2, 3], 3),
    "filter": (lambda future: future.filter(lambda item: item > 1), [1, 2, 3], [2, 3]),
    "reduce": (lambda future: future.reduce(lambda x, y: x + y, 10), [1, 2, 3], 16),
    "join": (lambda future: future.join(settled("other")), "one", ["one", "other"]),
    "twice derived": (lambda future: future.map(len).map(str), [1, 2, 3], "3"),
}


@pytest.mark.parametrize("name", DERIVATIONS)
def test_on_done_of_a_derived_future_calls_back_when_its_source_is_there(name: str) -> None:
    derive, value, expected = DERIVATIONS[name]
    source: Future[Any] = Future()
    derived = derive(source)
    called: list[Any] = []
    derived.on_done(lambda future: called.append(future.get()))
    assert called == []
    source.set(value)
    assert called == [expected]


def test_on_done_of_a_joined_future_calls_back_when_the_last_of_its_sources_is_there() -> None:
    sources: list[Future[int]] = [Future() for _ in range(3)]
    called: list[Any] = []
    sources[0].join(*sources[1:]).on_done(lambda future: called.append(future.get()))
    sources[2].set(2)
    sources[0].set(0)
    assert called == []
    sources[1].set(1)
    assert called == [[0, 1, 2]]


def test_on_done_of_a_future_joined_with_one_of_pykka_s_own_calls_back() -> None:
    called = threading.Event()
    ours: Future[int] = Future()
    theirs: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    joined = ours.join(theirs)
    joined.on_done(lambda _: called.set())
    ours.set(1)
    theirs.set(2)
    assert called.wait(TIMEOUT)
    assert joined.get(timeout=TIMEOUT) == [1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_one_of_pykka_s_own_failed_with_arrives(error: BaseException) -> None:
    theirs: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    arrived = arrival_of(theirs)
    theirs.set_exception((type(error), error, None))
    with pytest.raises(type(error)) as raised:
        arrived.get(timeout=TIMEOUT)
    assert raised.value is error


def test_a_derived_future_can_be_followed() -> None:
    source: Future[int] = Future()
    target: Future[str] = Future()
    source.map(str).follow_into(target)
    source.set(5)
    assert target.get(timeout=TIMEOUT) == "5"


def test_what_fails_while_a_derived_future_is_computed_reaches_its_follower() -> None:
    source: Future[int] = Future()
    target: Future[float] = Future()
    source.map(lambda value: 1 / value).follow_into(target)
    source.set(0)
    with pytest.raises(ZeroDivisionError):
        target.get(timeout=TIMEOUT)


def test_a_future_that_is_followed_hands_on_its_outcome() -> None:
    value: Future[int] = Future()
    instead: Future[str] = Future()
    settled(1).follow_into(value)
    settled(1).follow_into(instead, value="instead")
    assert (value.get(), instead.get()) == (1, "instead")
    failure: Future[int] = Future()
    failed(ValueError("no")).follow_into(failure, value=1)
    with pytest.raises(ValueError, match="no"):
        failure.get()


def test_a_signal_s_handler_may_use_futures_wherever_it_interrupts() -> None:
    """Foreign code can run in the middle of any Python function: a signal's handler, a finalizer. In a process of its
    own, since what would hang is all futures."""
    script = """
        import sys
        from theater_tcp.future import Future

        future, other = Future(), Future()

        def interrupt(frame, event, argument):
            if event == "call" and frame.f_code.co_name == "done":
                sys.setprofile(None)
                print("in", frame.f_back.f_code.co_name, flush=True)
                other.on_done(print)
                other.set(1)

        sys.setprofile(interrupt)
        future.on_done(print)
        future.set(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 2,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "in on_done\n<Future settled>\n<Future settled>\n"


# -- awaiting in an actor's coroutine ------------------------------------------------------------------------------


def run(loop: SteppedLoop, coroutine: Any) -> list[Any]:
    """Drive a coroutine on the loop; the list gets its value, or its error, when it has ended."""
    ended: list[Any] = []
    Task(loop, coroutine, lambda value, error: ended.append(value if error is None else error)).step()
    return ended


def test_a_coroutine_on_the_loop_goes_on_when_the_awaited_future_is_settled(loop: SteppedLoop) -> None:
    future: Future[int] = Future()

    async def double() -> int:
        return 2 * await future

    ended = run(loop, double())
    loop.settle()
    assert ended == []
    future.set(21)
    loop.settle()
    assert ended == [42]


def test_a_failure_is_raised_where_the_future_is_awaited(loop: SteppedLoop) -> None:
    future: Future[int] = Future()

    async def careful() -> str:
        try:
            await future
        except ValueError as error:
            return f"caught {error}"
        return "nothing"

    ended = run(loop, careful())
    future.set_exception_value(ValueError("it"))
    loop.settle()
    assert ended == ["caught it"]


@pytest.mark.parametrize("name", DERIVATIONS)
def test_a_derived_future_can_be_awaited_on_the_loop(loop: SteppedLoop, name: str) -> None:
    derive, value, expected = DERIVATIONS[name]
    source: Future[Any] = Future()

    async def wait() -> Any:
        return await derive(source)

    ended = run(loop, wait())
    loop.settle()
    source.set(value)
    loop.settle()
    assert ended == [expected]


def test_one_future_can_be_awaited_by_many(loop: SteppedLoop) -> None:
    future: Future[int] = Future()

    async def wait() -> int:
        return await future

    ended = [run(loop, wait()) for _ in range(3)]
    future.set(1)
    loop.settle()
    assert ended == [[1], [1], [1]]


def test_a_future_with_a_get_hook_can_be_awaited_on_the_loop(loop: SteppedLoop) -> None:
    future: Future[int] = Future()
    future.set_get_hook(lambda timeout: 42 if timeout is None else 0)

    async def wait() -> int:
        return await future

    assert run(loop, wait()) == [42]


# -- awaiting in asyncio -------------------------------------------------------------------------------------------


def test_an_asyncio_task_awaits_a_future_without_blocking_its_loop() -> None:
    async def main() -> list[Any]:
        future: Future[int] = Future()
        others: list[str] = []

        async def wait() -> int:
            return await future

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        others.append("the loop goes on")
        threading.Thread(target=future.set, args=(42,)).start()
        return [*others, await waiting]

    assert in_time(lambda: asyncio.run(main())) == ["the loop goes on", 42]


def test_an_asyncio_task_gets_the_failure_of_a_future() -> None:
    async def main() -> None:
        future: Future[int] = Future()
        threading.Thread(target=future.set_exception_value, args=(ValueError("no"),)).start()
        with pytest.raises(ValueError, match="no"):
            await future

    in_time(lambda: asyncio.run(main()))


def test_asyncio_can_gather_and_derive_futures() -> None:
    async def main() -> list[Any]:
        first: Future[int] = Future()
        second: Future[int] = Future()

        def settle() -> None:
            second.set(2)
            first.set(1)

        threading.Thread(target=settle).start()

        async def wait(future: Future[Any]) -> Any:
            return await future

        return list(await asyncio.gather(wait(first.map(str)), wait(second), wait(first.join(second))))

    assert in_time(lambda: asyncio.run(main())) == ["1", 2, [1, 2]]


def test_an_asyncio_task_that_awaits_a_future_can_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    future: Future[int] = Future()

    async def main() -> str:
        async def wait() -> int:
            return await future

        try:
            await asyncio.wait_for(wait(), 0.01)
        except TimeoutError:
            future.set(1)  # nobody awaits it any more, and that is no error
            await asyncio.sleep(0)
            return "timed out"
        return "no timeout"

    assert in_time(lambda: asyncio.run(main())) == "timed out"
    assert caplog.records == []


def test_a_future_that_is_settled_after_the_end_of_the_awaiting_asyncio_loop_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: Future[int] = Future()

    async def main() -> None:
        async def wait() -> int:
            return await future

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()

    in_time(lambda: asyncio.run(main()))
    future.set(1)
    assert caplog.records == []


# -- a failure that nobody looked at -------------------------------------------------------------------------------


def drop_and_collect(make: Callable[[], object]) -> None:
    make()
    gc.collect()


def test_a_failure_nobody_looked_at_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        future: Future[int] = Future()
        try:
            int("no number")
        except ValueError:
            future.set_exception()

    drop_and_collect(fail)
    (record,) = caplog.records
    assert record.name == "theater_tcp.future"
    assert record.levelno == logging.ERROR
    text = record.getMessage()
    assert text.startswith("a future failed and nobody looked at it:\nTraceback (most recent call last):\n")
    assert 'in fail\n    int("no number")\n' in text
    assert text.endswith("ValueError: invalid literal for int() with base 10: 'no number'")


def look_by_get(future: Future[Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        future.get()


def look_by_asyncio(future: Future[Any]) -> None:
    async def wait() -> None:
        with pytest.raises(ValueError, match="no"):
            await future

    asyncio.run(wait())


def look_by_map(future: Future[Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        future.map(str).get()


def look_by_following(future: Future[Any]) -> None:
    other: Future[Any] = Future()
    future.follow_into(other)
    look_by_get(other)


@pytest.mark.parametrize("look", [look_by_get, look_by_asyncio, look_by_map, look_by_following])
def test_a_failure_somebody_looked_at_is_not_logged(
    look: Callable[[Future[Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    drop_and_collect(lambda: look(failed(ValueError("no"))))
    assert caplog.records == []


def test_a_failure_that_somebody_waits_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        future: Future[int] = Future()
        future.on_done(lambda _: None)
        future.set_exception_value(ValueError("no"))

    drop_and_collect(fail)
    assert caplog.records == []


def test_a_failure_that_comes_after_everybody_gave_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        future: Future[int] = Future()
        with pytest.raises(pykka.Timeout):
            future.get(timeout=0)
        future.set_exception_value(ValueError("too late"))

    drop_and_collect(fail)
    assert "ValueError: too late" in caplog.text


def test_a_value_nobody_looked_at_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    drop_and_collect(lambda: settled(1))
    assert caplog.records == []
