"""The threads for what blocks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from tests.in_time import TIMEOUT, in_time
from tests.peers import eventually
from theater_tcp.errors import LimitReached, ShutDown
from theater_tcp.future import Future
from theater_tcp.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    eventually(lambda: not worker_threads())


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(3, "test-worker")
    yield workers
    in_time(workers.close)


def submit(workers: Workers, call: Callable[..., Any], *args: Any) -> Future[Any]:
    outcome: Future[Any] = Future()
    workers.submit(call, args, outcome)
    return outcome


def worker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-worker")]


def test_a_job_s_value_comes_in_the_future(workers: Workers) -> None:
    assert submit(workers, divmod, 7, 2).get(timeout=TIMEOUT) == (3, 1)


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt()])
def test_a_job_s_failure_comes_in_the_future_and_the_thread_goes_on(workers: Workers, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        submit(workers, fail).get(timeout=TIMEOUT)
    assert raised.value is error
    assert [submit(workers, int, "1").get(timeout=TIMEOUT) for _ in range(10)] == [1] * 10


def test_a_cancellation_that_comes_out_of_a_job_is_an_ordinary_failure(workers: Workers) -> None:
    """As of a job that runs asyncio inside. As asyncio has it, it is no ``Exception``, and would stop all actors."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError, match="cancelled") as caught:
        submit(workers, cancelled).get(timeout=TIMEOUT)
    assert isinstance(caught.value, Exception)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert submit(workers, int, "42").get(timeout=TIMEOUT) == 42


def test_a_job_runs_on_a_daemon_thread_of_its_own_kind(workers: Workers) -> None:
    thread = submit(workers, threading.current_thread).get(timeout=TIMEOUT)
    assert thread.daemon
    assert thread.name == "test-worker-1"


def test_there_are_no_more_threads_than_allowed_and_further_jobs_wait(workers: Workers) -> None:
    begun: SimpleQueue[int] = SimpleQueue()
    gate = threading.Event()

    def job(number: int) -> int:
        begun.put(number)
        assert gate.wait(TIMEOUT)
        return number

    outcomes = [submit(workers, job, number) for number in range(10)]
    assert {begun.get(timeout=TIMEOUT) for _ in range(3)} == {0, 1, 2}
    assert begun.empty()
    assert len(worker_threads()) == 3
    gate.set()
    assert [outcome.get(timeout=TIMEOUT) for outcome in outcomes] == list(range(10))


def test_jobs_of_one_thread_run_in_order() -> None:
    workers = Workers(1, "test-worker")
    done: list[int] = []
    outcomes = [submit(workers, done.append, number) for number in range(100)]
    for outcome in outcomes:
        outcome.get(timeout=TIMEOUT)
    assert done == list(range(100))
    in_time(workers.close)


def test_as_many_jobs_as_threads_always_run_side_by_side(workers: Workers) -> None:
    """Whatever came before: no job waits behind another while a thread is free."""
    for _ in range(100):
        barrier = threading.Barrier(3)
        outcomes = [submit(workers, barrier.wait, TIMEOUT) for _ in range(3)]
        assert sorted(outcome.get(timeout=TIMEOUT) for outcome in outcomes) == [0, 1, 2]
    assert len(worker_threads()) == 3


def test_a_thread_that_is_free_counts_for_one_job_only() -> None:
    for _ in range(30):
        workers = Workers(3, "test-worker")
        for _ in range(3):
            submit(workers, int).get(timeout=TIMEOUT)  # one thread, or two if the first was not ready again yet
        barrier = threading.Barrier(3)
        outcomes = [submit(workers, barrier.wait, TIMEOUT) for _ in range(3)]
        assert sorted(outcome.get(timeout=TIMEOUT) for outcome in outcomes) == [0, 1, 2]
        in_time(workers.close)


def test_where_the_system_has_no_more_threads_a_job_waits_for_those_that_are_there_or_is_refused(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(5):  # more often than there may be threads
            with pytest.raises(LimitReached, match=r"^limit: threads: can't start new thread$"):
                submit(workers, int).get(timeout=TIMEOUT)
    under_way = submit(workers, gate.wait, TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        waiting = submit(workers, int, "42")
    gate.set()
    assert under_way.get(timeout=TIMEOUT)
    assert waiting.get(timeout=TIMEOUT) == 42


def test_no_job_is_lost_when_many_threads_submit_at_once(workers: Workers) -> None:
    results: list[int] = []

    def give(first: int) -> None:
        outcomes = [submit(workers, int, number) for number in range(first, first + 200)]
        results.extend(outcome.get(timeout=TIMEOUT) for outcome in outcomes)

    givers = [threading.Thread(target=give, args=(200 * number,)) for number in range(4)]
    for thread in givers:
        thread.start()
    for thread in givers:
        thread.join(TIMEOUT)
    assert sorted(results) == list(range(800))


def test_at_the_end_what_waits_is_refused_and_what_is_under_way_goes_on() -> None:
    workers = Workers(1, "test-worker")
    begun, gate = threading.Event(), threading.Event()

    def job() -> str:
        begun.set()
        assert gate.wait(TIMEOUT)
        return "done"

    under_way = submit(workers, job)
    assert begun.wait(TIMEOUT)
    waiting = [submit(workers, job) for _ in range(5)]
    in_time(workers.close)
    for outcome in waiting:
        with pytest.raises(ShutDown):
            outcome.get(timeout=TIMEOUT)
    gate.set()
    assert under_way.get(timeout=TIMEOUT) == "done"


def test_after_the_end_jobs_are_refused_and_the_threads_are_gone() -> None:
    workers = Workers(2, "test-worker")
    submit(workers, int).get(timeout=TIMEOUT)
    threads = worker_threads()
    in_time(workers.close)
    with pytest.raises(ShutDown):
        submit(workers, int).get(timeout=TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    in_time(workers.close)


def test_the_end_does_not_wait_for_a_job_that_a_thread_takes_at_that_moment() -> None:
    workers = Workers(1, "test-worker")
    begun, gate = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        gate.wait(TIMEOUT)

    submit(workers, block)
    assert begun.wait(TIMEOUT)

    class Raced(SimpleQueue[Any]):
        def empty(self) -> bool:
            was_empty = super().empty()
            if not was_empty and threading.current_thread() not in worker_threads():
                self.get()  # a thread takes it, between the look and the grasp
            return was_empty

    workers._jobs = Raced()
    workers.submit(int, (), Future())
    in_time(workers.close)
    gate.set()


def test_an_ended_job_keeps_nothing_alive(workers: Workers) -> None:
    class Argument:
        pass

    argument = Argument()
    gone = weakref.ref(argument)
    submit(workers, id, argument).get(timeout=TIMEOUT)
    submit(workers, int).get(timeout=TIMEOUT)
    del argument
    for _ in range(3):
        submit(workers, int).get(timeout=TIMEOUT)
    assert gone() is None


@pytest.mark.parametrize("raises", [False, True])
def test_a_thread_that_waits_keeps_nothing_of_its_last_job(workers: Workers, raises: bool) -> None:
    class Thing(Exception):
        pass

    def job(argument: Thing) -> Thing:
        if raises:
            raise argument
        return argument

    argument = Thing()
    gone = weakref.ref(argument)
    outcome = submit(workers, job, argument)
    with contextlib.suppress(Thing):
        outcome.get(timeout=TIMEOUT)
    del argument, outcome
    gc.collect()
    eventually(lambda: gone() is None)  # the thread may be at its last line
