"""The pykka actor on the loop: what it has beyond pykka's own (``async def``, timers), and how it shares the loop.

Each test runs the loop turn by turn on its own thread. What the actor has in common with pykka's is in
``test_pykka_documented_behaviour.py``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pykka
import pytest
from pykka import ActorDeadError, ActorRegistry

from tests.in_time import TIMEOUT
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp import Theater
from theater_tcp.actor import LoopActor, hosting
from theater_tcp.errors import BlockingCall, InvalidArgument
from theater_tcp.future import Future
from theater_tcp.mailbox import TURN
from theater_tcp.pykka_internals import Envelope, install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Home:
    """What actors live in, as far as they care."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    install()
    with SteppedLoop(ScriptedPoller()) as loop:
        token = hosting.set(Home(loop))
        yield loop
        hosting.reset(token)
        ActorRegistry.stop_all(block=False)
        loop.settle()
        left = ActorRegistry.get_all()
        for ref in left:
            ActorRegistry.unregister(ref)  # no other test is to meet them
        assert left == []


class Diary(LoopActor):
    """Writes down what happens to it. A message is a callable that gets the actor, or just something to write down."""

    def __init__(self, diary: list[Any] | None = None) -> None:
        super().__init__()
        self.diary: list[Any] = diary if diary is not None else []

    def on_start(self) -> Any:
        self.diary.append("start")

    def on_receive(self, message: Any) -> Any:
        if callable(message):
            return message(self)
        self.diary.append(message)
        return message

    def on_stop(self) -> Any:
        self.diary.append("stop")

    def on_failure(self, kind: Any, value: Any, traceback: Any) -> None:
        assert value is None or value.__traceback__ is traceback
        self.diary.append(("failure", kind, str(value)))


def ask(ref: pykka.ActorRef[Any], message: Any) -> Future[Any]:
    future = ref.ask(message, block=False)
    assert isinstance(future, Future)
    return future


# -- a place to live -----------------------------------------------------------------------------------------------


def test_an_actor_of_the_loop_needs_a_theater_and_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"Diary lives in a Theater: start it by theater\.spawn\(\.\.\.\)"):
        Diary.start()


def test_a_class_whose_constructor_leaves_out_that_of_its_base_is_named(loop: SteppedLoop) -> None:
    class Careless(Diary):
        def __init__(self) -> None:
            self.ready = True

    with pytest.raises(RuntimeError, match=r"^the constructor of Careless does not call super\(\).__init__\(\)$"):
        Careless.start()
    assert ActorRegistry.get_by_class(Careless) == []


def test_an_actor_starts_in_a_turn_of_its_own(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)
    assert diary == []
    assert ref.is_alive()
    assert ActorRegistry.get_all() == [ref]
    loop.turn()
    assert diary == ["start"]


def test_an_ended_actor_is_freed(loop: SteppedLoop) -> None:
    ref = Diary.start()
    gone = weakref.ref(ref.actor_inbox.actor)  # type: ignore[attr-defined]
    ask(ref, "hello")
    stopped = ref.stop(block=False)
    loop.settle()
    assert stopped.get() is True
    gc.collect()
    assert gone() is None


def test_an_actor_whose_on_stop_had_to_wait_is_freed(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    ref = Slow.start([], None, gate)
    gone = weakref.ref(ref.actor_inbox.actor)  # type: ignore[attr-defined]
    stopped = ref.stop(block=False)
    loop.settle()
    gate.set()
    loop.settle()
    assert stopped.get() is True
    gc.collect()
    assert gone() is None


def test_two_threads_that_ask_first_for_an_urn_get_the_same(loop: SteppedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guard:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.asked = threading.Semaphore(0)

        def __enter__(self) -> None:
            self.asked.release()
            assert self.lock.acquire(timeout=TIMEOUT)

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    guard = Guard()
    monkeypatch.setattr("theater_tcp.actor._urn_guard", guard)
    ref = Diary.start()
    urns: list[str] = []
    threads = [threading.Thread(target=lambda: urns.append(ref.actor_urn), daemon=True) for _ in range(2)]
    with guard.lock:
        for thread in threads:
            thread.start()
        assert all(guard.asked.acquire(timeout=TIMEOUT) for _ in threads)
    for thread in threads:
        thread.join(TIMEOUT)
    assert urns == [ref.actor_urn] * 2


# -- async handlers ------------------------------------------------------------------------------------------------


def test_an_async_handler_answers_when_it_has_ended(loop: SteppedLoop) -> None:
    future: Future[int] = Future()

    async def handle(_actor: Any) -> int:
        return 2 * await future

    answer = ask(Diary.start(), handle)
    loop.settle()
    assert not answer.done
    future.set(21)
    loop.settle()
    assert answer.get() == 42


def test_an_async_handler_that_never_waits_answers_in_its_turn(loop: SteppedLoop) -> None:
    async def handle(_actor: Any) -> str:
        return "at once"

    ref = Diary.start()
    loop.turn()
    answer = ask(ref, handle)
    loop.turn()
    assert answer.get() == "at once"


def test_while_a_handler_waits_the_actor_s_mailbox_waits_and_other_actors_go_on(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    patient, other = Diary.start(), Diary.start()

    async def handle(actor: Any) -> None:
        actor.diary.append("begins")
        await gate
        actor.diary.append("ends")

    diary = patient.actor_inbox.actor.diary  # type: ignore[attr-defined]
    patient.tell(handle)
    patient.tell("next")
    answer = ask(other, "other")
    loop.settle()
    assert diary == ["start", "begins"]
    assert answer.get() == "other"
    gate.set()
    loop.settle()
    assert diary == ["start", "begins", "ends", "next"]


def test_messages_that_came_while_a_handler_waited_are_handled_in_order(loop: SteppedLoop) -> None:
    gates: list[Future[None]] = [Future() for _ in range(3)]
    diary: list[Any] = []
    ref = Diary.start(diary)

    def waiting(number: int) -> Any:
        async def handle(actor: Any) -> None:
            actor.diary.append(f"begin {number}")
            await gates[number]
            actor.diary.append(f"end {number}")

        return handle

    for number in range(3):
        ref.tell(waiting(number))
        ref.tell(f"plain {number}")
    for gate in reversed(gates):  # settled in the wrong order
        gate.set()
        loop.settle()
    expected = [f"{what} {number}" for number in range(3) for what in ("begin", "end", "plain")]
    assert diary == ["start", *expected]


def test_a_failure_after_a_wait_goes_to_the_asker_and_the_actor_lives_on(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    gate: Future[None] = Future()

    async def handle(_actor: Any) -> None:
        await gate
        raise ValueError("after a wait")

    ref = Diary.start()
    answer = ask(ref, handle)
    gate.set_exception_value(KeyError("gate"))
    loop.settle()
    with pytest.raises(KeyError):
        answer.get()
    gate = Future()
    answer = ask(ref, handle)
    gate.set()
    loop.settle()
    with pytest.raises(ValueError, match="after a wait"):
        answer.get()
    assert ref.is_alive()
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_failure_after_a_wait_that_nobody_asked_for_ends_the_actor_by_pykka_s_rules(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Diary.start(diary)

    async def handle(_actor: Any) -> None:
        await gate
        raise ValueError("after a wait")

    ref.tell(handle)
    left = ask(ref, "left")
    gate.set()
    loop.settle()
    assert diary == ["start", ("failure", ValueError, "after a wait")]
    assert not ref.is_alive()
    assert f"Unhandled exception in {ref}" in caplog.text
    with pytest.raises(ActorDeadError):
        left.get()


def test_a_method_called_through_a_proxy_may_be_async(loop: SteppedLoop) -> None:
    class Adder(LoopActor):
        async def add(self, number: int, to: Future[int]) -> int:
            return number + await to

    future: Future[int] = Future()
    ref = Adder.start()
    loop.turn()
    answer = ref.proxy().add(1, to=future)
    future.set(41)
    loop.settle()
    assert answer.get() == 42


def test_an_actor_awaits_what_it_asked_another(loop: SteppedLoop) -> None:
    async def handle(_actor: Any) -> Any:
        return ["other said", await other.ask("hello", block=False)]

    other = Diary.start()
    answer = ask(Diary.start(), handle)
    loop.settle()
    assert answer.get() == ["other said", "hello"]


def test_actors_that_wait_for_each_other_don_t_stop_the_loop(loop: SteppedLoop) -> None:
    """They wait for ever, as they would with threads; nobody else does."""

    async def call(_actor: Any) -> Any:
        async def back(_other: Any) -> Any:
            return await first.ask("never handled", block=False)

        return await second.ask(back, block=False)

    first, second, third = Diary.start(), Diary.start(), Diary.start()
    stuck = ask(first, call)
    answer = ask(third, "goes on")
    loop.settle()
    assert answer.get() == "goes on"
    assert not stuck.done
    for ref in (first, second):
        ref.actor_inbox.actor.actor_interrupt()  # type: ignore[attr-defined]
    loop.settle()
    with pytest.raises(ActorDeadError):
        stuck.get()


# -- async on_start and on_stop ------------------------------------------------------------------------------------


class Slow(Diary):
    """Waits in ``on_start`` and in ``on_stop`` for futures that the test settles, or raises at once."""

    def __init__(self, diary: list[Any], starting: Any, stopping: Any) -> None:
        super().__init__(diary)
        self.starting_gate, self.stopping_gate = starting, stopping

    async def on_start(self) -> Any:  # type: ignore[override]
        await self.pass_through(self.starting_gate)
        self.diary.append("start")

    async def on_stop(self) -> Any:  # type: ignore[override]
        await self.pass_through(self.stopping_gate)
        self.diary.append("stop")

    @staticmethod
    async def pass_through(gate: Any) -> None:
        if isinstance(gate, Exception):
            raise gate
        if gate is not None:
            await gate


def test_while_on_start_waits_the_mailbox_waits(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Slow.start(diary, gate, None)
    ref.tell("first")
    ref.tell("second")
    loop.settle()
    assert diary == []
    gate.set()
    loop.settle()
    assert diary == ["start", "first", "second"]


@pytest.mark.parametrize("waits", [False, True])
def test_an_async_on_start_that_fails_is_logged_and_ends_the_actor(
    loop: SteppedLoop, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Slow.start(diary, gate if waits else ValueError("no start"), None)
    answer = ask(ref, "never handled")
    loop.settle()
    if waits:
        gate.set_exception_value(ValueError("no start"))
        loop.settle()
    assert not ref.is_alive()
    assert ActorRegistry.get_all() == []
    assert diary == []  # neither on_stop nor on_failure
    assert f"Unhandled exception in {ref}" in caplog.text
    assert "ValueError: no start" in caplog.text
    with pytest.raises(ActorDeadError):
        answer.get()


def test_who_stops_an_actor_is_answered_when_its_async_on_stop_has_ended(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Slow.start(diary, None, gate)
    stopped = ref.stop(block=False)
    late = ask(ref, "too late")
    loop.settle()
    assert isinstance(stopped, Future)
    assert not stopped.done
    assert not late.done
    assert not ref.is_alive()
    gate.set()
    loop.settle()
    assert stopped.get() is True
    assert diary == ["start", "stop"]
    with pytest.raises(ActorDeadError):
        late.get()


def test_many_may_stop_an_actor_at_once_and_all_are_told_that_it_stopped(loop: SteppedLoop) -> None:
    ref = Diary.start()
    stops = [ref.stop(block=False) for _ in range(2 * TURN)]
    loop.settle()
    assert [stopped.get() for stopped in stops] == [True] * 2 * TURN


def test_messages_that_come_while_on_stop_waits_are_refused(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    ref = Slow.start([], None, gate)
    ref.stop(block=False)
    loop.settle()
    with pytest.raises(ActorDeadError):
        ref.tell("too late")
    with pytest.raises(ActorDeadError):
        ask(ref, "too late").get()
    assert ref.stop(block=False).get() is False
    gate.set()


@pytest.mark.parametrize("waits", [False, True])
def test_an_async_on_stop_that_fails_is_logged_and_the_actor_has_stopped(
    loop: SteppedLoop, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Slow.start(diary, None, gate if waits else ValueError("no stop"))
    stopped = ref.stop(block=False)
    loop.settle()
    if waits:
        gate.set_exception_value(ValueError("no stop"))
        loop.settle()
    assert stopped.get() is True
    assert diary == ["start"]
    assert f"Unhandled exception in {ref}" in caplog.text
    assert "ValueError: no stop" in caplog.text


def test_an_actor_that_stops_itself_runs_its_async_on_stop(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Slow.start(diary, None, None)
    ref.tell(lambda actor: actor.stop())
    loop.settle()
    assert diary == ["start", "stop"]
    assert not ref.is_alive()


def test_an_actor_is_stopped_after_the_handler_that_waits(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Diary.start(diary)

    async def handle(actor: Any) -> str:
        await gate
        actor.diary.append("handled")
        return "done"

    answer = ask(ref, handle)
    loop.settle()
    stopped = ref.stop(block=False)
    loop.settle()
    assert ref.is_alive()
    gate.set()
    loop.settle()
    assert answer.get() == "done"
    assert stopped.get() is True
    assert diary == ["start", "handled", "stop"]


# -- the end of everything -----------------------------------------------------------------------------------------


async def exit_at_once(_actor: Any) -> None:
    raise SystemExit(3)


async def exit_after_a_wait(actor: Any) -> None:
    await actor.sleep(0)
    raise SystemExit(3)


def exit_plainly(_actor: Any) -> None:
    raise SystemExit(3)


EXITS = [exit_plainly, exit_at_once, exit_after_a_wait]


@pytest.mark.parametrize("handle", EXITS)
@pytest.mark.parametrize("slow", [False, True])
def test_system_exit_in_a_handler_stops_all_actors_and_not_the_loop(loop: SteppedLoop, handle: Any, slow: bool) -> None:
    diary: list[Any] = []
    others: list[Any] = []
    ref = Slow.start(diary, None, None) if slow else Diary.start(diary)
    other = Diary.start(others)
    answer = ask(ref, handle)
    loop.settle()
    assert not ref.is_alive()
    assert not other.is_alive()
    assert diary == ["start", "stop"]
    assert others == ["start", "stop"]
    with pytest.raises(SystemExit):
        answer.get()


def test_ctrl_c_in_a_handler_stops_all_actors_and_ends_the_loop_s_run(loop: SteppedLoop) -> None:
    """On the main thread, where alone it strikes: whoever runs the loop gets it, when the actors have stopped."""
    diary: list[Any] = []

    def interrupted(_actor: Any) -> None:
        raise KeyboardInterrupt

    ref = Diary.start(diary)
    ref.tell(interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.settle()
    loop.settle()
    assert diary == ["start", "stop"]
    assert not ref.is_alive()


def test_ctrl_c_that_strikes_between_two_handlers_is_not_lost(loop: SteppedLoop) -> None:
    """In pykka's own loop, which takes it for an exit of the actor."""

    class Struck(Future[Any]):
        def set(self, _value: Any = None) -> None:
            raise KeyboardInterrupt

    diaries: list[list[Any]] = [[], []]
    ref, other = (Diary.start(diary) for diary in diaries)
    ref.actor_inbox.put(Envelope("handled", reply_to=Struck()))
    with pytest.raises(KeyboardInterrupt):
        loop.settle()
    loop.settle()
    assert diaries == [["start", "handled", "stop"], ["start", "stop"]]
    assert not other.is_alive()


@pytest.mark.parametrize("hook", ["async on_stop", "on_failure"])
def test_ctrl_c_in_the_last_hooks_is_not_lost(loop: SteppedLoop, hook: str) -> None:
    async def strikes(_actor: Any) -> None:
        raise KeyboardInterrupt

    def strikes_too(*_failure: Any) -> None:
        raise KeyboardInterrupt

    hooks = {"on_failure": strikes_too} if hook == "on_failure" else {"on_stop": strikes}
    struck: Any = type("Struck", (Diary,), hooks)
    ref = struck.start()
    other = Diary.start()
    ref.tell(lambda actor: 1 // 0 if hook == "on_failure" else actor.stop())
    with pytest.raises(KeyboardInterrupt):
        loop.settle()
    loop.settle()
    assert not ref.is_alive()
    assert not other.is_alive()


def test_system_exit_in_a_handler_and_in_on_stop_is_told_to_who_asked(loop: SteppedLoop) -> None:
    class Exiting(Diary):
        def on_stop(self) -> Any:
            raise SystemExit(4)

    ref = Exiting.start()
    others: list[Any] = []
    Diary.start(others)
    answer = ask(ref, exit_plainly)
    late = ask(ref, "late")
    loop.settle()
    with pytest.raises(SystemExit, match="3"):
        answer.get()
    with pytest.raises(ActorDeadError):
        late.get()
    assert others == ["start", "stop"]


@pytest.mark.parametrize("hook", ["on_stop", "on_failure"])
@pytest.mark.parametrize("is_async", [False, True])
def test_system_exit_in_the_last_hooks_stops_all_actors_and_not_the_loop(
    loop: SteppedLoop, hook: str, is_async: bool
) -> None:
    def exits(*_args: Any) -> None:
        raise SystemExit(3)

    async def exits_too(*_args: Any) -> None:
        raise SystemExit(3)

    if hook == "on_failure" and is_async:
        is_async = False  # pykka calls it, and knows no async
    exiting: Any = type("Exiting", (Diary,), {hook: exits_too if is_async else exits})
    ref = exiting.start()
    others: list[Any] = []
    other = Diary.start(others)
    stopped = ref.stop(block=False) if hook == "on_stop" else None
    if stopped is None:
        ref.tell(lambda _actor: 1 // 0)
    loop.settle()
    if stopped is not None:
        with contextlib.suppress(SystemExit):  # looked at, or it would be logged in a later test
            stopped.get()
    assert not ref.is_alive()
    assert not other.is_alive()
    assert others == ["start", "stop"]
    answer: Future[int] = Future()
    loop.submit(lambda: 1, into=answer)
    loop.settle()
    assert answer.get() == 1


# -- timers --------------------------------------------------------------------------------------------------------


def test_call_later_calls_as_a_turn_of_the_actor(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)
    loop.settle()
    ref.tell(lambda actor: actor.call_later(5.0, diary.append, "later"))
    loop.settle()
    loop.turn(4.9, times=3)
    assert diary == ["start"]
    loop.turn(0.1, times=3)
    assert diary == ["start", "later"]


def test_a_timer_of_an_actor_waits_for_the_handler_that_waits(loop: SteppedLoop) -> None:
    gate: Future[None] = Future()
    diary: list[Any] = []
    ref = Diary.start(diary)

    async def handle(actor: Any) -> None:
        actor.call_later(1.0, diary.append, "timer")
        await gate
        diary.append("handled")

    ref.tell(handle)
    loop.settle()
    loop.turn(10.0, times=3)
    assert diary == ["start"]
    gate.set()
    loop.settle()
    assert diary == ["start", "handled", "timer"]


def test_what_call_later_calls_may_be_async(loop: SteppedLoop) -> None:
    diary: list[Any] = []

    async def later(what: str) -> None:
        await gate
        diary.append(what)

    gate: Future[None] = Future()
    ref = Diary.start(diary)
    ref.tell(lambda actor: actor.call_later(1.0, later, "later"))
    loop.settle()
    loop.turn(1.0)
    ref.tell("next")
    loop.settle()
    assert diary == ["start"]
    gate.set()
    loop.settle()
    assert diary == ["start", "later", "next"]


def test_a_timer_of_an_actor_can_be_cancelled(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)
    timer = ask(ref, lambda actor: actor.call_later(1.0, diary.append, "later"))
    loop.settle()
    timer.get().cancel()
    loop.turn(2.0, times=3)
    assert diary == ["start"]


def test_a_timer_of_an_actor_that_has_ended_does_nothing(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)
    ref.tell(lambda actor: actor.call_later(1.0, diary.append, "later"))
    ref.stop(block=False)
    loop.settle()
    loop.turn(2.0, times=3)
    assert diary == ["start", "stop"]


def test_a_timer_that_fails_ends_its_actor_as_any_message_that_was_told(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)
    ref.tell(lambda actor: actor.call_later(1.0, int, "no number"))
    loop.settle()
    loop.turn(1.0, times=3)
    assert diary[1][:2] == ("failure", ValueError)
    assert not ref.is_alive()
    assert "no number" in caplog.text


@pytest.mark.parametrize(
    "wait", [lambda actor, delay: actor.sleep(delay), lambda actor, delay: actor.call_later(delay, int)]
)
def test_a_timer_at_no_time_is_refused_where_it_is_asked_for(loop: SteppedLoop, wait: Any) -> None:
    ref = Diary.start([])
    answer = ask(ref, lambda actor: wait(actor, float("nan")))
    loop.settle()
    with pytest.raises(InvalidArgument):
        answer.get()
    assert ref.is_alive()


def test_sleep_lets_time_pass_for_one_actor_alone(loop: SteppedLoop) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)

    async def handle(actor: Any) -> None:
        await actor.sleep(3.0)
        diary.append("awake")

    ref.tell(handle)
    answer = ask(Diary.start(), "awake all the time")
    loop.settle()
    assert answer.done
    loop.turn(2.9, times=3)
    assert diary == ["start"]
    loop.turn(0.1, times=3)
    assert diary == ["start", "awake"]


# -- interrupting --------------------------------------------------------------------------------------------------


def test_an_interrupted_handler_is_ended_where_it_waits_and_the_actor_goes_on(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    diary: list[Any] = []
    ref = Diary.start(diary)

    async def handle(actor: Any) -> None:
        try:
            await actor.sleep(1000.0)
        finally:
            diary.append("tidied up")

    asked = ask(ref, handle)
    ref.tell("next")
    loop.settle()
    ref.actor_inbox.actor.actor_interrupt()  # type: ignore[attr-defined]
    loop.settle()
    assert diary == ["start", "tidied up", "next"]
    with pytest.raises(ActorDeadError, match="interrupted"):
        asked.get()
    ref.tell(handle)
    loop.settle()
    ref.actor_inbox.actor.actor_interrupt()  # type: ignore[attr-defined]
    loop.settle()
    assert ref.is_alive()  # that nobody asked is no failure
    assert "failure" not in str(diary)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_interrupting_an_actor_that_does_not_wait_is_harmless(loop: SteppedLoop) -> None:
    ref = Diary.start()
    loop.settle()
    ref.actor_inbox.actor.actor_interrupt()  # type: ignore[attr-defined]
    answer = ask(ref, "still here")
    loop.settle()
    assert answer.get() == "still here"


# -- sharing the loop ----------------------------------------------------------------------------------------------


def test_an_actor_that_always_has_something_to_do_lets_others_have_their_turn(loop: SteppedLoop) -> None:
    count = 0

    class Busy(LoopActor):
        def on_receive(self, _message: Any) -> None:
            nonlocal count
            count += 1
            if self.actor_ref.is_alive():
                self.actor_ref.tell("again")

    busy, other = Busy.start(), Diary.start()
    busy.tell("begin")
    loop.turn()
    answer = ask(other, "me too")
    before = count
    loop.turn()
    assert answer.get() == "me too"
    assert count - before == TURN
    busy.stop(block=False)


def test_g5_an_actor_that_asks_and_blocks_gets_an_error_and_the_loop_goes_on(loop: SteppedLoop) -> None:
    other = Diary.start()
    errors: list[Any] = []

    def handle(actor: Any) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: other.ask("hello"),
            lambda: other.ask("hello", timeout=1.0),
            other.stop,
            lambda: actor.actor_ref.ask("myself"),
            lambda: setattr(other.proxy(), "public", 1),
            lambda: other.proxy().on_receive("hello").get(),
        ]
        for call in calls:
            try:
                call()
            except BlockingCall as error:
                errors.append(error)

    ref = Diary.start()
    answer = ask(ref, handle)
    loop.settle()
    assert answer.done
    assert len(errors) == 6
    assert not other.is_alive()  # its stop was asked for, and is done; only the wait was refused


@pytest.mark.parametrize("name", ["launch", "drive", "interrupt", "starting", "run_turn", "end_everything"])
def test_an_actor_s_own_methods_may_have_any_name_that_pykka_leaves_free(loop: SteppedLoop, name: str) -> None:
    async def on_start(actor: Any) -> None:
        await actor.sleep(0)

    async def on_stop(actor: Any) -> None:
        await actor.sleep(0)

    own = {name: lambda _self: f"my own {name}", "on_start": on_start, "on_stop": on_stop}
    machine: Any = type("Machine", (LoopActor,), own)
    ref = machine.start()
    loop.settle()
    answer = getattr(ref.proxy(), name)()
    loop.settle()
    assert answer.get() == f"my own {name}"
    stopped = ref.stop(block=False)
    loop.settle()
    assert stopped.get() is True


@pytest.mark.parametrize("name", ["_stop", "_handle_receive", "_ended", "actor_run_turn", "actor_drive"])
def test_a_class_whose_methods_would_hide_the_runtime_s_own_is_refused_by_name(name: str) -> None:
    with pytest.raises(TypeError, match=f"^Careless.{name} hides a method of the runtime: give it another name$"):
        type("Careless", (LoopActor,), {name: lambda _self: None})
    mixin = type("Mixin", (), {name: lambda _self: None})
    with pytest.raises(TypeError, match=f"^Mixin.{name} hides a method"):
        type("Careless", (mixin, LoopActor), {})


def test_a_class_may_have_private_methods_and_fields_of_its_own(loop: SteppedLoop) -> None:
    class Private(LoopActor):
        def __init__(self) -> None:
            super().__init__()
            self._task = self._loop = self._started = self._begun = "mine"

        def _mine(self) -> str:
            return self._task

        def on_receive(self, _message: Any) -> list[str]:
            return [self._mine(), self._loop, self._started, self._begun]

    answer = ask(Private.start(), None)
    loop.settle()
    assert answer.get() == ["mine"] * 4


def test_an_actor_does_one_thing_at_a_time_whoever_writes_to_it() -> None:
    """Four threads, handlers that wait and handlers that don't: never two at once, each sender's messages in order."""
    inside: list[int] = []
    handled: list[tuple[int, int]] = []

    class Careful(LoopActor):
        def on_receive(self, message: tuple[int, int, int]) -> Any:
            assert inside == []
            inside.append(1)
            sender, number, waits = message
            if waits:
                return self.wait(sender, number, waits)
            self.leave(sender, number)
            return None

        async def wait(self, sender: int, number: int, waits: int) -> None:
            for _ in range(waits):
                await self.sleep(0)
            self.leave(sender, number)

        def leave(self, sender: int, number: int) -> None:
            handled.append((sender, number))
            inside.pop()

    with Theater() as theater:
        ref = theater.spawn(Careful)

        def write(sender: int) -> None:
            chance = random.Random(sender)
            for number in range(300):
                ref.tell((sender, number, chance.choice([0, 0, 1, 2])))

        writers = [threading.Thread(target=write, args=(sender,)) for sender in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join(TIMEOUT)
        assert ref.stop(timeout=TIMEOUT)
    assert len(handled) == 1200
    for sender in range(4):
        assert [number for who, number in handled if who == sender] == list(range(300))
