"""The mailbox of an actor on the loop, and the flag that tells of its end."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from pykka import ActorDeadError

from tests.in_time import TIMEOUT, in_time
from tests.peers import eventually
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp.errors import BlockingCall
from theater_tcp.event_loop import EventLoop
from theater_tcp.future import Future
from theater_tcp.mailbox import TURN, Idle, Mailbox, StopFlag
from theater_tcp.pykka_internals import Envelope

if TYPE_CHECKING:
    from collections.abc import Iterator


class Taker:
    """Takes everything out of its mailbox in each of its turns, as an actor does."""

    def __init__(self, loop: EventLoop) -> None:
        self.box = Mailbox(loop, self)
        self.box.rest()  # its first turn is over
        self.taken: list[Any] = []
        self.turns = 0

    def actor_run_turn(self) -> None:
        self.turns += 1
        assert self.box.scheduled
        self.box.budget = TURN
        try:
            while True:
                self.taken.append(self.box.get().message)
        except Idle:
            self.box.rest()


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    with SteppedLoop(ScriptedPoller()) as loop:
        yield loop


@pytest.fixture
def taker(loop: SteppedLoop) -> Taker:
    return Taker(loop)


def test_messages_come_out_in_the_order_in_which_they_came_in(loop: SteppedLoop, taker: Taker) -> None:
    for number in range(10):
        taker.box.put(Envelope(number))
    loop.settle()
    assert taker.taken == list(range(10))


def test_many_messages_ask_for_one_turn(loop: SteppedLoop, taker: Taker) -> None:
    for number in range(10):
        taker.box.put(Envelope(number))
    loop.settle()
    assert taker.turns == 1


def test_an_empty_mailbox_raises_instead_of_blocking(taker: Taker) -> None:
    assert taker.box.empty()
    taker.box.budget = 1
    with pytest.raises(Idle):
        taker.box.get()


def test_a_turn_ends_after_so_many_messages_and_another_follows(loop: SteppedLoop, taker: Taker) -> None:
    for number in range(2 * TURN + 1):
        taker.box.put(Envelope(number))
    loop.turn()
    assert len(taker.taken) == TURN
    loop.turn()
    assert len(taker.taken) == 2 * TURN
    loop.settle()
    assert taker.taken == list(range(2 * TURN + 1))
    assert taker.turns == 3


def test_what_overtakes_comes_first_and_costs_no_budget(taker: Taker) -> None:
    taker.box.put(Envelope("waits"))
    taker.box.first = Envelope("overtakes")
    assert not taker.box.empty()
    taker.box.budget = 0
    assert taker.box.get().message == "overtakes"
    with pytest.raises(Idle):
        taker.box.get()


def test_the_envelope_being_handled_is_known(taker: Taker) -> None:
    envelope = Envelope("a")
    taker.box.put(envelope)
    taker.box.budget = 1
    assert taker.box.get() is envelope
    assert taker.box.current is envelope
    taker.box.rest()
    assert taker.box.current is None


def test_no_turn_is_asked_for_while_the_actor_is_in_one(loop: SteppedLoop, taker: Taker) -> None:
    taker.box.scheduled = True
    taker.box.put(Envelope("a"))
    assert not loop.ready
    taker.box.rest()
    loop.settle()
    assert taker.taken == ["a"]


def test_a_message_that_comes_at_the_very_end_of_a_turn_gets_a_turn(loop: SteppedLoop) -> None:
    """Between the owner's last look at the queue and the end of its turn."""

    class Late(Mailbox):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "scheduled" and value is False and late:
                self.put(late.pop())  # which finds the actor in its turn still
            super().__setattr__(name, value)

    late: list[Any] = []
    taker = Taker(loop)
    taker.box = Late(loop, taker)
    taker.box.rest()
    late.append(Envelope("late"))
    taker.box.put(Envelope("early"))
    loop.settle()
    assert taker.taken == ["early", "late"]
    assert not taker.box.scheduled


def test_a_message_that_comes_after_the_end_of_a_turn_gets_one_turn_and_not_two(loop: SteppedLoop) -> None:
    """Between the two last looks at the queue: another thread asks for the turn then."""

    class Raced(deque[Any]):
        def __bool__(self) -> bool:
            if len(self) == 0 and not taker.box.scheduled and late:
                taker.box.put(late.pop())
            return len(self) > 0

    taker = Taker(loop)
    taker.box.queue = Raced()
    late = [Envelope("late")]
    taker.box.put(Envelope("early"))
    loop.settle()
    assert taker.taken == ["early", "late"]
    assert taker.turns == 2


def test_the_end_does_not_mind_that_another_thread_refuses_the_last_message(taker: Taker) -> None:
    class Raced(deque[Any]):
        def __bool__(self) -> bool:
            found = len(self) > 0
            self.clear()
            return found

    taker.box.queue = Raced([Envelope("last")])
    taker.box.close()
    assert taker.box.closed


def test_after_the_end_whoever_waits_for_an_answer_gets_actor_dead_error(taker: Taker) -> None:
    before: Future[Any] = Future()
    after: Future[Any] = Future()
    taker.box.put(Envelope("a", reply_to=before))
    taker.box.put(Envelope("told"))
    taker.box.close()
    taker.box.put(Envelope("b", reply_to=after))
    taker.box.put(Envelope("told"))
    for future in (before, after):
        with pytest.raises(ActorDeadError):
            future.get(timeout=0)
    assert taker.box.empty()
    assert taker.taken == []


def test_after_the_end_the_mailbox_lets_go_of_its_actor(loop: SteppedLoop, taker: Taker) -> None:
    taker.box.close()
    assert taker.box.actor is None
    taker.box.schedule()
    assert not loop.ready


def test_no_message_is_lost_or_doubled_when_many_threads_write_at_once() -> None:
    loop = EventLoop()
    taker = Taker(loop)
    running = threading.Thread(target=loop.run, daemon=True)
    running.start()

    def write(writer: int) -> None:
        for number in range(1000):
            taker.box.put(Envelope((writer, number)))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(TIMEOUT)
    drained = threading.Event()

    def look() -> None:
        if taker.box.empty():
            drained.set()
        else:
            loop.call_soon(look)

    loop.call_soon(look)
    assert drained.wait(TIMEOUT)
    loop.stop()
    running.join(TIMEOUT)
    loop.close()
    assert len(taker.taken) == 4000
    for writer in range(4):
        assert [number for who, number in taker.taken if who == writer] == list(range(1000))


def test_no_asker_is_left_without_an_answer_when_the_mailbox_closes_meanwhile() -> None:
    for _ in range(100):
        loop = EventLoop()
        taker = Taker(loop)
        barrier = threading.Barrier(3)
        asked: list[Future[Any]] = []

        def ask(taker: Taker = taker, barrier: threading.Barrier = barrier, asked: list[Any] = asked) -> None:
            barrier.wait(TIMEOUT)
            for _ in range(20):
                future: Future[Any] = Future()
                asked.append(future)
                taker.box.put(Envelope("a", reply_to=future))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait(TIMEOUT)
        taker.box.close()
        for thread in threads:
            thread.join(TIMEOUT)
        loop.close()
        assert len(asked) == 40
        for future in asked:
            with pytest.raises(ActorDeadError):
                future.get(timeout=0)


# -- the flag ------------------------------------------------------------------------------------------------------


def test_the_flag_is_up_after_set_and_for_good() -> None:
    flag = StopFlag()
    assert not flag.is_set()
    assert flag.wait(0) is False
    flag.set()
    flag.set()
    assert flag.is_set()
    assert flag.wait() is True
    assert flag.wait(0) is True


def test_the_flag_wakes_everybody_who_waits() -> None:
    flag = StopFlag()
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(flag.wait(TIMEOUT)), daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert results == [True] * 5


def test_who_has_waited_for_the_flag_leaves_nothing_behind() -> None:
    flag = StopFlag()
    assert flag.wait(0) is False
    assert flag.wait(0.001) is False
    assert not flag._gates
    flag.set()
    assert flag.wait() is True
    assert not flag._gates


def test_a_wait_for_the_flag_that_is_given_up_leaves_the_others_waiting() -> None:
    flag = StopFlag()
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(flag.wait(TIMEOUT)), daemon=True)
    waiting.start()
    eventually(lambda: bool(flag._gates))
    assert flag.wait(0) is False
    flag.set()
    waiting.join(TIMEOUT)
    assert results == [True]


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_g5_a_wait_for_the_flag_on_a_loop_s_thread_raises_at_once(loop: SteppedLoop, timeout: float | None) -> None:
    flag = StopFlag()
    with pytest.raises(BlockingCall):
        flag.wait(timeout)
    flag.set()
    assert flag.wait(timeout)


def test_a_wait_for_the_flag_without_any_time_is_a_look_at_it() -> None:
    flag = StopFlag()
    assert not flag.wait(0)
    assert not flag.wait(-1.0)
    flag.set()
    assert flag.wait(-1.0)


def test_a_flag_that_goes_up_before_who_waits_can_be_woken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Between:
        def __enter__(self) -> None:
            if not flag.is_set():
                flag.set()

        def __exit__(self, *_: object) -> None:
            pass

    flag = StopFlag()
    monkeypatch.setattr("theater_tcp.mailbox._guard", Between())
    assert in_time(flag.wait)


def test_who_waits_while_the_flag_goes_up_is_not_left_behind() -> None:
    for _ in range(300):
        flag = StopFlag()
        barrier = threading.Barrier(2)

        def raise_it(flag: StopFlag = flag, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(TIMEOUT)
            flag.set()

        thread = threading.Thread(target=raise_it)
        thread.start()
        barrier.wait(TIMEOUT)
        assert in_time(flag.wait)
        thread.join(TIMEOUT)
