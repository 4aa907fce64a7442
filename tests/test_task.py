"""The engine behind ``async def`` handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

import pytest

from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp.future import Future
from theater_tcp.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    with SteppedLoop(ScriptedPoller()) as loop:
        yield loop


class Running:
    """A task and how it ended."""

    def __init__(self, loop: SteppedLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.ended: list[tuple[Any, BaseException | None]] = []
        self.task = Task(loop, coroutine, lambda value, error: self.ended.append((value, error)))
        self.task.step()


async def returning(value: Any) -> Any:
    return value


async def raising(error: BaseException) -> None:
    raise error


async def awaiting(awaitable: Any) -> Any:
    return await awaitable


def test_a_coroutine_that_never_waits_ends_in_its_first_step(loop: SteppedLoop) -> None:
    running = Running(loop, returning(1))
    assert running.task.done
    assert running.ended == [(1, None)]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_what_a_coroutine_raises_is_its_end(loop: SteppedLoop, error: BaseException) -> None:
    running = Running(loop, raising(error))
    assert running.task.done
    assert running.ended == [(None, error)]


def test_a_coroutine_goes_on_in_a_later_turn_never_inside_of_who_settles_the_future(loop: SteppedLoop) -> None:
    future: Future[int] = Future()
    running = Running(loop, awaiting(future))
    assert not running.task.done
    future.set(1)
    assert running.ended == []
    loop.turn()
    assert running.ended == [(1, None)]


def test_a_future_that_is_settled_already_is_not_waited_for(loop: SteppedLoop) -> None:
    future: Future[int] = Future()
    future.set(1)
    assert Running(loop, awaiting(future)).ended == [(1, None)]


def test_a_coroutine_may_wait_many_times(loop: SteppedLoop) -> None:
    futures: list[Future[int]] = [Future() for _ in range(5)]

    async def add() -> int:
        total = 0
        for future in futures:
            total += await future
        return total

    running = Running(loop, add())
    for number, future in enumerate(futures):
        future.set(number)
        loop.settle()
    assert running.ended == [(10, None)]


class Foreign:
    """Something that can be awaited, and yields what no event loop of ours knows."""

    def __init__(self, *what: Any) -> None:
        self.what = what

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self.what


@pytest.mark.parametrize("what", [None, 42, "text"])
def test_awaiting_something_foreign_is_an_error_that_says_what_to_do(loop: SteppedLoop, what: Any) -> None:
    ((_, error),) = Running(loop, awaiting(Foreign(what))).ended
    assert isinstance(error, TypeError)
    assert f"an actor can't await {type(what).__name__!r}" in str(error)
    assert "`await self.asyncio(coroutine)`" in str(error)


def test_awaiting_an_asyncio_future_is_an_error_that_says_what_to_do(loop: SteppedLoop) -> None:
    companion = asyncio.new_event_loop()
    ((_, error),) = Running(loop, awaiting(companion.create_future())).ended
    companion.close()
    assert isinstance(error, TypeError)
    assert "`await self.asyncio(coroutine)`" in str(error)


def test_a_coroutine_can_recover_from_having_awaited_something_foreign(loop: SteppedLoop) -> None:
    future: Future[int] = Future()

    async def careful() -> int:
        for _ in range(2):
            with pytest.raises(TypeError):
                await Foreign(None)
        return await future

    running = Running(loop, careful())
    future.set(1)
    loop.settle()
    assert running.ended == [(1, None)]


def test_cancelling_ends_the_coroutine_where_it_waits(loop: SteppedLoop) -> None:
    left: list[str] = []
    future: Future[int] = Future()

    async def tidy() -> None:
        try:
            await future
        finally:
            left.append("tidied up")

    running = Running(loop, tidy())
    error = ValueError("cancelled")
    running.task.cancel(error)
    assert left == ["tidied up"]
    assert running.ended == [(None, error)]
    assert loop.tasks == set()
    future.set(1)  # what it waited for comes too late
    loop.settle()
    running.task.cancel(ValueError("again"))
    assert running.ended == [(None, error)]


def test_a_coroutine_whose_clean_up_awaits_is_ended_there_too(loop: SteppedLoop) -> None:
    future: Future[int] = Future()
    left: list[str] = []

    async def tidy() -> None:
        try:
            await future
        finally:
            try:
                await future
            finally:
                left.append("tidied up")

    running = Running(loop, tidy())
    error = ValueError("cancelled")
    running.task.cancel(error)
    assert left == ["tidied up"]
    assert running.ended == [(None, error)]


def test_what_a_coroutine_s_clean_up_raises_is_logged_and_it_has_ended(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    future: Future[int] = Future()

    async def clumsy() -> None:
        try:
            await future
        finally:
            int("no number")

    running = Running(loop, clumsy())
    error = ValueError("cancelled")
    running.task.cancel(error)
    assert running.ended == [(None, error)]
    assert "no number" in caplog.text


@pytest.mark.parametrize("stronger", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_a_coroutine_s_clean_up_is_its_end_and_not_that_of_who_cancels_it(
    loop: SteppedLoop, stronger: BaseException
) -> None:
    future: Future[int] = Future()

    async def leaving() -> None:
        try:
            await future
        finally:
            raise stronger

    running = Running(loop, leaving())
    running.task.cancel(ValueError("cancelled"))
    assert running.ended == [(None, stronger)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the interpreter's own try, at last
def test_a_coroutine_that_refuses_to_be_ended_has_ended_all_the_same(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    future: Future[int] = Future()

    async def stubborn() -> None:
        while True:
            try:
                await future
            except GeneratorExit:
                if give_up:
                    raise

    give_up: list[bool] = []
    running = Running(loop, stubborn())
    error = ValueError("cancelled")
    running.task.cancel(error)
    assert running.ended == [(None, error)]
    assert running.task.done
    assert "refuses to be ended" in caplog.text
    give_up.append(True)


def test_a_step_after_the_end_is_harmless(loop: SteppedLoop) -> None:
    running = Running(loop, returning(1))
    running.task.step()
    assert running.ended == [(1, None)]
