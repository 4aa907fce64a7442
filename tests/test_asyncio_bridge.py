"""The companion asyncio loop: coroutines of asyncio's libraries run beside the event loop, and end with the runtime."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import gc
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.in_time import TIMEOUT, in_time
from theater_tcp import asyncio_bridge
from theater_tcp.asyncio_bridge import CompanionLoop
from theater_tcp.errors import LimitReached, ShutDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def companion() -> Iterator[CompanionLoop]:
    companion = CompanionLoop("companion")
    yield companion
    in_time(companion.close)


def companion_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "companion"]


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("wrong")


def test_a_coroutine_s_value_comes_in_a_future(companion: CompanionLoop) -> None:
    assert companion.run(double(21)).get(timeout=TIMEOUT) == 42


def test_a_coroutine_s_failure_comes_in_a_future(companion: CompanionLoop) -> None:
    with pytest.raises(ValueError, match="wrong"):
        companion.run(fail()).get(timeout=TIMEOUT)


def test_a_coroutine_that_was_cancelled_from_within_has_failed_and_is_no_end_of_the_runtime(
    companion: CompanionLoop,
) -> None:
    async def wait_for_the_cancelled() -> None:
        task = asyncio.ensure_future(asyncio.sleep(1000))
        task.cancel()
        await task

    outcome = companion.run(wait_for_the_cancelled())
    with pytest.raises(concurrent.futures.CancelledError, match="cancelled") as caught:
        outcome.get(timeout=TIMEOUT)
    assert isinstance(caught.value, Exception)  # asyncio's own is none, and would stop all actors
    assert companion.run(double(21)).get(timeout=TIMEOUT) == 42


def test_coroutines_run_side_by_side_on_one_loop_and_one_thread(companion: CompanionLoop) -> None:
    async def where() -> tuple[Any, int]:
        return asyncio.get_running_loop(), threading.get_ident()

    async def meet(mine: asyncio.Event, other: asyncio.Event) -> str:
        mine.set()
        await other.wait()
        return "met"

    places = {companion.run(where()).get(timeout=TIMEOUT) for _ in range(3)}
    assert len(places) == 1
    assert len(companion_threads()) == 1
    first, second = asyncio.Event(), asyncio.Event()
    futures = [companion.run(meet(first, second)), companion.run(meet(second, first))]
    assert [future.get(timeout=TIMEOUT) for future in futures] == ["met", "met"]


def test_what_a_coroutine_returned_is_kept_by_nobody_but_its_future(companion: CompanionLoop) -> None:
    class Value:
        pass

    async def make() -> Value:
        return Value()

    gone = weakref.ref(companion.run(make()).get(timeout=TIMEOUT))
    companion.run(asyncio.sleep(0)).get(timeout=TIMEOUT)  # the loop may have been at its last line
    gc.collect()
    assert gone() is None


def test_the_thread_is_started_by_the_first_coroutine_only() -> None:
    companion = CompanionLoop("companion")
    assert companion_threads() == []
    companion.close()
    assert companion_threads() == []


def test_many_threads_may_ask_at_once(companion: CompanionLoop) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda number=number: results.append(companion.run(double(number)).get(timeout=TIMEOUT))
        )
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(results) == [2 * number for number in range(20)]


def test_the_end_cancels_what_runs_and_who_waits_gets_shutdown() -> None:
    companion = CompanionLoop("companion")
    left: list[str] = []
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)  # tidying up may take its time
            left.append("tidied up")

    waiting = companion.run(wait())
    assert begun.wait(TIMEOUT)
    in_time(companion.close)
    with pytest.raises(ShutDown):
        waiting.get(timeout=TIMEOUT)
    assert left == ["tidied up"]
    assert companion_threads() == []


def test_a_coroutine_that_comes_after_the_end_is_refused_and_closed() -> None:
    companion = CompanionLoop("companion")
    companion.run(double(1)).get(timeout=TIMEOUT)
    in_time(companion.close)
    coroutine = double(1)
    with pytest.raises(ShutDown):
        companion.run(coroutine).get(timeout=TIMEOUT)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coroutine.send(None)


def test_closing_twice_is_harmless(companion: CompanionLoop) -> None:
    companion.run(double(1)).get(timeout=TIMEOUT)
    in_time(companion.close)
    in_time(companion.close)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_one_coroutine_does_not_end_the_loop_of_the_others(
    companion: CompanionLoop, error: BaseException
) -> None:
    async def leave() -> None:
        raise error

    with pytest.raises(type(error)):
        companion.run(leave()).get(timeout=TIMEOUT)
    assert companion.run(double(21)).get(timeout=TIMEOUT) == 42
    in_time(companion.close)
    assert companion_threads() == []


def test_g5_a_coroutine_that_blocks_its_thread_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio_bridge, "CLOSE_TIMEOUT", 0.05)
    companion = CompanionLoop("companion")
    begun, release = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        release.wait(TIMEOUT)

    blocked = companion.run(block())
    assert begun.wait(TIMEOUT)
    in_time(companion.close)
    with pytest.raises(ShutDown):
        blocked.get(timeout=TIMEOUT)
    assert "did not end in 0.05 s" in caplog.text
    release.set()
    for thread in companion_threads():
        thread.join(TIMEOUT)
    assert companion_threads() == []


def test_g5_a_coroutine_that_refuses_to_be_cancelled_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio_bridge, "CLOSE_TIMEOUT", 0.05)
    companion = CompanionLoop("companion")
    begun, released = threading.Event(), threading.Event()

    async def refuse() -> None:
        begun.set()
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    stubborn = companion.run(refuse())
    assert begun.wait(TIMEOUT)
    in_time(companion.close)
    with pytest.raises(ShutDown):
        stubborn.get(timeout=TIMEOUT)
    released.set()
    for thread in companion_threads():
        thread.join(TIMEOUT)
    assert companion_threads() == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_g5_a_coroutine_that_ends_while_the_others_are_given_up_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asyncio_bridge, "CLOSE_TIMEOUT", 0.05)
    companion = CompanionLoop("companion")
    released = threading.Event()
    begun = threading.Semaphore(0)

    async def refuse() -> None:
        begun.release()
        while not released.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    def release(_: Any) -> None:
        released.set()
        for thread in companion_threads():
            thread.join(TIMEOUT)

    stubborn = [companion.run(refuse()) for _ in range(2)]
    assert all(begun.acquire(timeout=TIMEOUT) for _ in stubborn)
    for outcome in stubborn:
        outcome.on_done(release)  # the first that is given up lets the other one end
    in_time(companion.close)
    failed = [outcome for outcome in stubborn if outcome.failed]
    assert len(failed) == 1
    with pytest.raises(ShutDown):
        failed[0].get()


@pytest.mark.parametrize("lack", ["thread", "descriptor"])
def test_g5_where_the_system_has_no_thread_or_descriptor_a_coroutine_is_refused_and_the_next_may_run(
    companion: CompanionLoop, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def no_loop() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        if lack == "thread":
            patch.setattr(threading.Thread, "start", no_thread)
        else:
            patch.setattr(asyncio, "new_event_loop", no_loop)
        with pytest.raises(LimitReached, match=r"^limit: the asyncio loop: (can't start new thread|.*Too many)"):
            companion.run(asyncio.sleep(0)).get(timeout=TIMEOUT)
    assert companion.run(asyncio.sleep(0, "slept")).get(timeout=TIMEOUT) == "slept"


def test_the_end_closes_asynchronous_generators() -> None:
    companion = CompanionLoop("companion")
    left: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            left.append("closed")

    kept: list[Any] = []

    async def take_one() -> int:
        generator = numbers()
        kept.append(generator)
        async for number in generator:
            return number
        return 0

    assert companion.run(take_one()).get(timeout=TIMEOUT) == 1
    in_time(companion.close)
    assert left == ["closed"]
