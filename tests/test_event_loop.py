"""The event loop: readiness, scheduled calls, timers, wake-ups, and its end."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.in_time import TIMEOUT, in_time
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp.errors import InvalidArgument, ShutDown
from theater_tcp.event_loop import MANY, MAX_EVENTS, MAX_SLEEP, Deadlines, EventLoop, running_loop
from theater_tcp.future import Future
from theater_tcp.poller import READ, WRITE, SelectorsPoller, best_poller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def poller() -> ScriptedPoller:
    return ScriptedPoller()


@pytest.fixture
def loop(poller: ScriptedPoller) -> Iterator[SteppedLoop]:
    with SteppedLoop(poller) as loop:
        yield loop


@pytest.fixture
def threaded() -> Iterator[EventLoop]:
    """A loop that runs on a thread of its own."""
    loop = EventLoop(name="threaded")
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    yield loop
    loop.stop()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    loop.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# -- scheduled calls -----------------------------------------------------------------------------------------------


def test_scheduled_calls_run_in_order_in_the_next_turn(loop: SteppedLoop) -> None:
    done: list[int] = []
    for number in range(5):
        loop.call_soon(partial(done.append, number))
    assert done == []
    loop.turn()
    assert done == [0, 1, 2, 3, 4]


def test_what_a_scheduled_call_schedules_waits_for_the_next_look_at_the_sockets(
    loop: SteppedLoop, poller: ScriptedPoller
) -> None:
    looks: list[int] = []

    def again() -> None:
        looks.append(len(poller.asked))
        if len(looks) < 3:
            loop.call_soon(again)

    loop.call_soon(again)
    loop.turn(times=5)
    assert looks == [1, 2, 3]


def test_a_scheduled_call_that_fails_is_logged_and_the_others_run(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []
    loop.call_soon(partial(int, "no number"))
    loop.call_soon(partial(done.append, "after"))
    loop.turn()
    assert done == ["after"]
    assert [record.getMessage() for record in caplog.records] == ["a scheduled call failed"]
    assert "no number" in caplog.text


def test_a_turn_serves_the_sockets_then_the_timers_then_what_was_scheduled(
    loop: SteppedLoop, poller: ScriptedPoller
) -> None:
    order: list[str] = []
    loop.register(7, READ, lambda _mask: order.append("socket"))
    loop.call_later(1.0, partial(order.append, "timer"))
    loop.call_soon(partial(order.append, "scheduled"))
    poller.ready = [(7, READ)]
    loop.turn(1.0)
    assert order == ["socket", "timer", "scheduled"]


# -- readiness -----------------------------------------------------------------------------------------------------


def test_a_ready_descriptor_s_handler_gets_the_mask(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    seen: list[int] = []
    loop.register(7, READ, seen.append)
    loop.modify(7, READ | WRITE)
    assert poller.masks[7] == READ | WRITE
    poller.ready = [(7, WRITE)]
    loop.turn()
    poller.ready = [(7, READ)]
    loop.turn()
    assert seen == [WRITE, READ]


def test_a_handler_that_fails_is_logged_and_the_others_run(
    loop: SteppedLoop, poller: ScriptedPoller, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def fail(_mask: int) -> None:
        raise ValueError("broken handler")

    loop.register(7, READ, fail)
    loop.register(8, READ, seen.append)
    poller.ready = [(7, READ), (8, READ)]
    loop.turn()
    assert seen == [READ]
    assert [record.getMessage() for record in caplog.records] == ["the handler of descriptor 7 failed"]


@pytest.mark.parametrize("leave", ["unregister", "forget"])
def test_a_descriptor_that_an_earlier_handler_of_the_turn_took_away_is_not_served(
    loop: SteppedLoop, poller: ScriptedPoller, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    loop.register(7, READ, lambda _mask: getattr(loop, leave)(8))
    loop.register(8, READ, seen.append)
    poller.ready = [(7, READ), (8, READ)]
    loop.turn()
    assert seen == []
    assert caplog.records == []


def test_unregistering_twice_is_harmless(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    loop.register(7, READ, lambda _mask: None)
    loop.unregister(7)
    loop.unregister(7)
    loop.forget(7)
    assert 7 not in poller.masks


def test_real_sockets_are_served_by_a_running_loop(threaded: EventLoop) -> None:
    near, far = socket.socketpair()
    with near, far:
        arrived: Future[bytes] = Future()
        registered: Future[None] = Future()
        threaded.submit(
            threaded.register, near.fileno(), READ, lambda _mask: arrived.set(near.recv(100)), into=registered
        )
        registered.get(timeout=TIMEOUT)
        far.sendall(b"hello")
        assert arrived.get(timeout=TIMEOUT) == b"hello"
        gone: Future[None] = Future()
        threaded.submit(threaded.unregister, near.fileno(), into=gone)
        gone.get(timeout=TIMEOUT)


def test_one_look_at_the_sockets_takes_a_bounded_number_of_them(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    loop.turn()
    assert poller.asked == [(0.0, MAX_EVENTS)]


def test_a_poller_other_than_epoll_is_told_of_a_descriptor_that_is_closed() -> None:
    poller = SelectorsPoller()
    with SteppedLoop(poller) as loop:
        near, far = socket.socketpair()
        with near, far:
            far.sendall(b"x")
            loop.register(near.fileno(), READ, lambda _mask: None)
            loop.forget(near.fileno())
            assert poller.poll(0) == []


def test_epoll_does_not_report_a_closed_descriptor_that_a_forked_child_still_holds() -> None:
    """epoll forgets a descriptor when its last copy is closed, and a child has copies."""
    script = """
        import os, socket, sys
        from theater_tcp.event_loop import EventLoop
        from theater_tcp.poller import READ
        loop = EventLoop()
        near, far = socket.socketpair()
        far.sendall(b"x")
        loop.register(near.fileno(), READ, lambda mask: None)
        waiting, going = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(going)
            os.read(waiting, 1)
            os._exit(0)
        loop.forget(near.fileno())
        near.close()
        print(loop.poller.poll(0))
        os.close(going)
        os.waitpid(child, 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 2,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n"


# -- how long it sleeps, and what wakes it -------------------------------------------------------------------------


def test_without_timers_the_loop_sleeps_until_it_is_woken(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    loop.run_once()
    assert poller.asked == [(-1, MAX_EVENTS)]


def test_the_loop_sleeps_until_the_next_timer(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    loop.call_later(30.0, lambda: None)
    loop.call_later(2.5, lambda: None)
    loop.run_once()
    loop.hands.advance(100.0)
    loop.run_once()
    assert [timeout for timeout, _ in poller.asked] == [2.5, 0.0]


def test_the_loop_does_not_sleep_while_calls_are_scheduled(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    loop.call_soon(lambda: None)
    loop.run_once()
    assert poller.asked[0][0] == 0.0


def test_a_call_that_comes_between_the_two_looks_keeps_the_loop_awake(
    loop: SteppedLoop, poller: ScriptedPoller
) -> None:
    """The flag is up before the last look: an append is seen by that look, or sees the flag."""
    flags: list[bool] = []

    class Watched(deque[Any]):
        def __bool__(self) -> bool:
            flags.append(loop.sleeping)
            return len(flags) == 2  # empty at the first look; a thread appends before the second

    loop.ready = Watched()
    loop.run_once()
    assert flags[:2] == [False, True]
    assert poller.asked[0][0] == 0.0


def test_the_loop_is_woken_once_however_many_calls_come_while_it_sleeps(
    loop: SteppedLoop, poller: ScriptedPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    writes: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(fd)
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)

    def call() -> None:
        for number in range(3):
            loop.call_soon(partial(done.append, number))

    poller.during_poll = call
    loop.run_once()
    assert done == [0, 1, 2]
    assert len(writes) == 1
    loop.call_soon(partial(done.append, 3))  # awake: nothing to wake
    assert len(writes) == 1


def test_a_call_from_another_thread_wakes_the_loop(threaded: EventLoop) -> None:
    for _ in range(200):
        woken = threading.Event()
        threaded.call_soon(woken.set)
        assert woken.wait(TIMEOUT)


def test_no_call_is_lost_when_many_threads_call_at_once(threaded: EventLoop) -> None:
    done: list[tuple[int, int]] = []

    def call(caller: int) -> None:
        for number in range(500):
            threaded.call_soon(partial(done.append, (caller, number)))

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(TIMEOUT)
    passed: Future[None] = Future()
    threaded.submit(lambda: None, into=passed)
    passed.get(timeout=TIMEOUT)
    assert len(done) == 2000
    for caller in range(4):
        assert [number for who, number in done if who == caller] == list(range(500))


def test_where_there_is_no_eventfd_a_pair_of_sockets_wakes_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    before = open_descriptors()
    loop = EventLoop()
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    for _ in range(100):
        woken = threading.Event()
        loop.call_soon(woken.set)
        assert woken.wait(TIMEOUT)
    loop.stop()
    thread.join(TIMEOUT)
    loop.close()
    assert open_descriptors() == before


# -- timers --------------------------------------------------------------------------------------------------------


def test_timers_run_when_they_are_due_in_the_order_of_their_ends(loop: SteppedLoop) -> None:
    done: list[str] = []
    loop.call_later(3.0, partial(done.append, "third"))
    loop.call_later(1.0, partial(done.append, "first"))
    loop.call_later(2.0, partial(done.append, "second"))
    loop.call_later(2.0, partial(done.append, "second, set later"))
    loop.turn(0.999)
    assert done == []
    loop.turn(0.001)
    assert done == ["first"]
    loop.turn(5.0)
    assert done == ["first", "second", "second, set later", "third"]
    loop.turn(100.0)
    assert len(done) == 4


def test_what_the_loop_s_own_thread_schedules_wakes_nobody(loop: SteppedLoop) -> None:
    """A wake-up is a system call, and another turn for nothing."""
    woken: list[bool] = []
    loop.wake = lambda: woken.append(True)  # type: ignore[method-assign]
    ran: list[bool] = []
    loop.call_later(0, lambda: loop.call_soon(lambda: ran.append(True)))
    loop.run_once()  # it sleeps until the timer
    assert (ran, woken) == ([True], [])


def test_who_enters_a_loop_late_finds_the_time_of_now() -> None:
    """Deadlines that are set before the first turn count from then."""
    loop = SteppedLoop(ScriptedPoller())
    loop.hands.advance(1000.0)
    with loop:
        Deadlines[str](loop, print).set("key", 5.0)
        assert loop.next_due == loop.hands.now + 5.0


def test_a_failure_that_is_said_often_is_raised_once_and_a_later_one_again(loop: SteppedLoop) -> None:
    for _ in range(2):
        loop.fail(KeyboardInterrupt())
        loop.fail(KeyboardInterrupt("the last one said"))
        with pytest.raises(KeyboardInterrupt, match="the last one said"):
            loop.settle()
        loop.settle()


def test_a_cancelled_timer_does_not_run_and_cancelling_is_always_harmless(loop: SteppedLoop) -> None:
    done: list[str] = []
    timer = loop.call_later(1.0, partial(done.append, "cancelled"))
    ran = loop.call_later(1.0, partial(done.append, "ran"))
    timer.cancel()
    timer.cancel()
    loop.turn(1.0)
    ran.cancel()
    assert done == ["ran"]


def test_a_timer_can_cancel_another_that_is_due_in_the_same_turn(loop: SteppedLoop) -> None:
    done: list[str] = []

    def cancel() -> None:
        second.cancel()

    loop.call_later(1.0, cancel)
    second = loop.call_later(1.0, partial(done.append, "second"))
    loop.turn(1.0)
    assert done == []


def test_a_timer_that_fails_is_logged_and_the_others_run(loop: SteppedLoop, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    loop.call_later(1.0, partial(int, "no number"))
    loop.call_later(1.0, partial(done.append, "after"))
    loop.turn(1.0)
    assert done == ["after"]
    assert [record.getMessage() for record in caplog.records] == ["a timer's call failed"]


def test_a_timer_that_sets_itself_anew_without_delay_does_not_keep_the_loop(loop: SteppedLoop) -> None:
    done: list[str] = []

    def again() -> None:
        done.append("timer")
        if done.count("timer") < 50:
            loop.call_later(0.0, again)

    loop.call_later(0.0, again)
    loop.call_soon(partial(done.append, "scheduled"))
    loop.turn()
    assert done == ["timer", "scheduled"]
    loop.turn()
    assert done == ["timer", "scheduled", "timer"]


@pytest.mark.parametrize("seconds", [3e6, 1e300])
def test_the_loop_sleeps_no_longer_than_the_system_can_for_a_timer_far_ahead(
    loop: SteppedLoop, poller: ScriptedPoller, seconds: float
) -> None:
    """epoll counts milliseconds in 31 bits: 24.8 days."""
    done: list[str] = []
    loop.call_later(seconds, partial(done.append, "far ahead"))
    loop.run_once()
    assert poller.asked == [(MAX_SLEEP, MAX_EVENTS)]
    assert done == []
    loop.turn(seconds)
    assert done == ["far ahead"]


@pytest.mark.parametrize("poller", [best_poller, SelectorsPoller])
def test_every_poller_can_sleep_for_as_long_as_the_loop_asks(poller: Callable[[], Any]) -> None:
    with SteppedLoop(poller()) as loop:
        loop.call_later(1e300, lambda: None)
        loop.wake()
        loop.run_once()


def test_a_timer_without_an_end_never_runs_and_a_delay_below_zero_is_none(loop: SteppedLoop) -> None:
    done: list[str] = []
    loop.call_later(float("inf"), partial(done.append, "never"))
    loop.call_later(-5, partial(done.append, "at once"))
    loop.turn()
    loop.turn(1e300)
    assert done == ["at once"]


@pytest.mark.parametrize("delay", [float("nan"), "3", None, 3j, 10**400], ids=type)
def test_a_delay_that_is_no_number_of_seconds_is_refused_at_once(loop: SteppedLoop, delay: Any) -> None:
    with pytest.raises(InvalidArgument, match="number of seconds"):
        loop.call_later(delay, lambda: None)
    assert loop.next_due == float("inf")
    loop.turn()


def test_cancelled_timers_are_forgotten_before_they_are_due_and_the_others_run(loop: SteppedLoop) -> None:
    """As those of connects that succeeded: each would else be kept for as long as it might have taken."""
    done: list[int] = []
    for number in range(5):
        loop.call_later(30.0 - number, partial(done.append, number))
    for _ in range(20 * MANY):
        loop.call_later(20.0, partial(done.append, -1)).cancel()
    assert loop.timers <= MANY + 5
    loop.turn(30.0)
    assert done == [4, 3, 2, 1, 0]
    assert loop.timers == 0


def test_timers_that_are_cancelled_all_at_once_are_forgotten_before_they_are_due(loop: SteppedLoop) -> None:
    done: list[str] = []
    timers = [loop.call_later(1000.0, partial(done.append, "cancelled")) for _ in range(20 * MANY)]
    loop.call_later(1.0, partial(done.append, "ran"))
    for timer in timers:
        timer.cancel()
        timer.cancel()
    assert loop.timers <= MANY + 1
    loop.turn(1.0)
    assert done == ["ran"]


def test_timers_may_be_cancelled_in_any_number_by_one_that_runs(loop: SteppedLoop) -> None:
    done: list[str] = []

    def cancel() -> None:
        done.append("cancelling")
        for timer in timers:
            timer.cancel()

    first = loop.call_later(1.0, cancel)
    timers = [loop.call_later(due, partial(done.append, "cancelled")) for due in (1.0, 5.0) for _ in range(4 * MANY)]
    loop.call_later(1.0, partial(done.append, "ran"))
    loop.call_later(6.0, partial(done.append, "ran"))
    loop.turn(1.0)
    for _ in range(4 * MANY):
        first.cancel()  # it has run: there is nothing to forget
    assert done == ["cancelling", "ran"]
    loop.turn(9.0)
    assert done == ["cancelling", "ran", "ran"]
    assert loop.timers == 0


# -- deadlines -----------------------------------------------------------------------------------------------------


def test_a_deadline_expires_when_its_time_is_over_and_not_before(loop: SteppedLoop) -> None:
    expired: list[str] = []
    deadlines = Deadlines(loop, expired.append)
    deadlines.set("a", 10.0)
    loop.turn(9.999)
    assert expired == []
    loop.turn(0.001)
    assert expired == ["a"]
    loop.turn(100.0)
    assert expired == ["a"]


def test_setting_a_deadline_again_moves_its_end(loop: SteppedLoop) -> None:
    expired: list[str] = []
    deadlines = Deadlines(loop, expired.append)
    deadlines.set("moved", 10.0)
    deadlines.set("left", 10.0)
    loop.turn(6.0)
    deadlines.set("moved", 10.0)
    loop.turn(4.0)
    assert expired == ["left"]
    loop.turn(6.0)
    assert expired == ["left", "moved"]


def test_a_cleared_deadline_does_not_expire_and_clearing_is_always_harmless(loop: SteppedLoop) -> None:
    expired: list[str] = []
    deadlines = Deadlines(loop, expired.append)
    deadlines.clear("never set", 10.0)
    deadlines.set("a", 10.0)
    deadlines.set("b", 10.0)
    deadlines.clear("a", 10.0)
    deadlines.clear("a", 10.0)
    loop.turn(10.0)
    assert expired == ["b"]


def test_a_key_may_be_set_anew_while_it_expires(loop: SteppedLoop) -> None:
    expired: list[float] = []

    def on_expired(key: str) -> None:
        expired.append(loop.now - began)
        deadlines.set(key, 5.0)

    deadlines = Deadlines(loop, on_expired)
    began = loop.now
    deadlines.set("again", 5.0)
    for _ in range(4):
        loop.turn(2.5)
    assert expired == [5.0, 10.0]


def test_a_deadline_s_handler_that_fails_is_logged_and_the_others_expire(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    expired: list[str] = []

    def on_expired(key: str) -> None:
        if key == "bad":
            raise ValueError(key)
        expired.append(key)

    deadlines = Deadlines(loop, on_expired)
    deadlines.set("bad", 1.0)
    deadlines.set("good", 1.0)
    loop.turn(1.0)
    assert expired == ["good"]
    assert [record.getMessage() for record in caplog.records] == ["a deadline's handler failed"]


def test_the_loop_wakes_for_a_deadline(loop: SteppedLoop, poller: ScriptedPoller) -> None:
    expired: list[str] = []
    Deadlines(loop, expired.append).set("a", 4.0)
    loop.run_once()
    assert poller.asked == [(4.0, MAX_EVENTS)]


def test_durations_that_never_come_again_leave_nothing_behind(loop: SteppedLoop) -> None:
    """As of ``receive(timeout=...)`` with what is left of a greater time."""
    expired: list[str] = []
    deadlines = Deadlines(loop, expired.append)
    deadlines.set("kept", 3600.0)
    for left in range(10 * MANY):
        deadlines.set("passing", 1000.0 - left / 100)
        deadlines.clear("passing", 1000.0 - left / 100)
    assert deadlines.durations <= MANY + 1
    loop.turn(3600.0)
    assert expired == ["kept"]
    assert deadlines.durations == 0


def test_deadlines_of_many_durations_are_all_kept(loop: SteppedLoop) -> None:
    expired: list[int] = []
    deadlines = Deadlines(loop, expired.append)
    for number in range(4 * MANY):
        deadlines.set(number, 1.0 + number)
    assert deadlines.durations == 4 * MANY
    loop.turn(4 * MANY)
    assert expired == list(range(4 * MANY))


def test_a_deadline_that_is_set_anew_while_it_expires_is_kept_though_many_others_are_set_with_it(
    loop: SteppedLoop,
) -> None:
    """What is empty is swept between the end of the first and the start of the second, of the same duration."""
    expired: list[str] = []

    def on_expired(key: str) -> None:
        expired.append(key)
        if key == "again" and expired.count(key) < 3:
            for number in range(4 * MANY):
                deadlines.set("passing", 10.0 + number)
                deadlines.clear("passing", 10.0 + number)
            deadlines.set("again", 5.0)

    deadlines = Deadlines(loop, on_expired)
    deadlines.set("again", 5.0)
    for _ in range(4):
        loop.turn(5.0)
    assert expired == ["again"] * 3


MOVES = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 4), st.sampled_from([0.5, 1.0, 3.0])),
    st.tuples(st.just("clear"), st.integers(0, 4), st.sampled_from([0.5, 1.0, 3.0])),
    st.tuples(st.just("pass"), st.just(0), st.sampled_from([0.0, 0.25, 0.5, 2.0, 10.0])),
)


@given(st.lists(MOVES, max_size=60))
def test_deadlines_expire_as_a_plain_table_of_ends_says(moves: list[tuple[str, int, float]]) -> None:
    expired: list[int] = []
    with SteppedLoop(ScriptedPoller()) as loop:
        deadlines = Deadlines(loop, expired.append)
        ends: dict[tuple[int, float], float] = {}
        for what, key, seconds in moves:
            expired.clear()
            if what == "set":
                deadlines.set(key, seconds)
                ends[key, seconds] = loop.now + seconds
            elif what == "clear":
                deadlines.clear(key, seconds)
                ends.pop((key, seconds), None)
            else:
                loop.turn(seconds)
                over = [entry for entry, end in ends.items() if end <= loop.now]
                assert sorted(expired) == sorted(key for key, _ in over)
                for entry in over:
                    del ends[entry]
                assert loop.next_due <= min(ends.values(), default=float("inf"))


# -- submitted calls -----------------------------------------------------------------------------------------------


def test_a_submitted_call_s_outcome_goes_into_the_future(threaded: EventLoop) -> None:
    value: Future[int] = Future()
    threaded.submit(int, "42", into=value)
    assert value.get(timeout=TIMEOUT) == 42
    failure: Future[int] = Future()
    threaded.submit(int, "no number", into=failure)
    with pytest.raises(ValueError, match="no number"):
        failure.get(timeout=TIMEOUT)


def test_a_future_that_a_submitted_call_returns_is_followed(threaded: EventLoop) -> None:
    inner: Future[str] = Future()
    outer: Future[str] = Future()
    threaded.submit(lambda: inner, into=outer)
    inner.set("late")
    assert outer.get(timeout=TIMEOUT) == "late"


def test_a_submitted_call_runs_on_the_loop_s_thread(threaded: EventLoop) -> None:
    assert running_loop() is None
    seen: Future[Any] = Future()
    threaded.submit(lambda: (running_loop(), threading.get_ident()), into=seen)
    loop, thread = seen.get(timeout=TIMEOUT)
    assert loop is threaded
    assert thread == threaded.thread_id != threading.get_ident()


def test_a_call_submitted_after_the_end_is_refused() -> None:
    loop = EventLoop()
    loop.close()
    refused: Future[None] = Future()
    loop.submit(lambda: None, into=refused)
    with pytest.raises(ShutDown):
        refused.get(timeout=0)


def test_calls_that_nobody_ran_any_more_are_refused_at_the_end() -> None:
    loop = EventLoop()
    refused: Future[None] = Future()
    loop.submit(lambda: None, into=refused)
    loop.close()
    with pytest.raises(ShutDown):
        refused.get(timeout=0)


def test_a_call_submitted_while_the_loop_ends_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop ends between the caller's look and its append."""
    loop = EventLoop()
    append = loop.call_soon

    def late(call: Callable[[], object]) -> None:
        loop.close()
        append(call)

    monkeypatch.setattr(loop, "call_soon", late)
    refused: Future[None] = Future()
    loop.submit(lambda: None, into=refused)
    with pytest.raises(ShutDown):
        refused.get(timeout=0)


def test_the_end_is_no_error_where_another_thread_refuses_the_last_call_at_that_moment() -> None:
    class Raced(deque[Any]):
        def __bool__(self) -> bool:
            return True  # as another thread sees it, which looked before the last one was taken

    loop = EventLoop()
    loop.ready = Raced()
    refused: Future[None] = Future()
    loop.submit(lambda: None, into=refused)
    loop.close()
    with pytest.raises(ShutDown):
        refused.get(timeout=0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_who_waits_for_a_submitted_call_is_told_of_an_exit_in_it_as_the_loop_is(
    loop: SteppedLoop, error: type[BaseException]
) -> None:
    def leave() -> None:
        raise error

    waiting: Future[None] = Future()
    loop.submit(leave, into=waiting)
    with pytest.raises(error):
        loop.turn()
    assert waiting.done
    with pytest.raises(error):
        waiting.get(timeout=0)


# -- running and ending --------------------------------------------------------------------------------------------


def test_a_loop_runs_on_one_thread_and_a_thread_runs_one_loop(threaded: EventLoop) -> None:
    running: Future[None] = Future()
    threaded.submit(lambda: None, into=running)
    running.get(timeout=TIMEOUT)
    with pytest.raises(RuntimeError, match="'threaded'"):
        threaded.run()
    another = EventLoop(name="another")
    nested: Future[None] = Future()
    threaded.submit(another.run, into=nested)
    with pytest.raises(RuntimeError, match="'another'"):
        nested.get(timeout=TIMEOUT)
    another.close()


def test_stop_ends_the_run_after_the_turn_under_way() -> None:
    loop = EventLoop()
    done: list[str] = []
    loop.call_soon(loop.stop)
    loop.call_soon(partial(done.append, "same turn"))
    in_time(loop.run)
    assert done == ["same turn"]
    assert loop.thread_id is None
    loop.close()


def test_the_end_gives_every_descriptor_back() -> None:
    before = open_descriptors()
    loop = EventLoop()
    assert len(open_descriptors()) > len(before)
    loop.close()
    loop.close()
    assert open_descriptors() == before


def test_a_wake_up_that_comes_after_the_end_writes_into_nobody_s_descriptor() -> None:
    """A thread saw the loop asleep, and was held up until the loop's descriptor belonged to somebody else."""
    loop = EventLoop()
    loop.close()
    heirs = [os.pipe() for _ in range(8)]
    try:
        loop.wake()
        for reading, _ in heirs:
            os.set_blocking(reading, False)
            with pytest.raises(BlockingIOError):
                os.read(reading, 100)
    finally:
        for pair in heirs:
            for fd in pair:
                os.close(fd)


def test_a_call_after_an_interrupted_sleep_and_the_end_is_harmless() -> None:
    poller = ScriptedPoller()
    loop = EventLoop(poller)

    def interrupt() -> None:
        raise KeyboardInterrupt

    poller.during_poll = interrupt
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert running_loop() is None
    loop.close()
    loop.call_soon(lambda: None)


def test_an_interrupted_loop_can_be_run_on() -> None:
    poller = ScriptedPoller()
    loop = EventLoop(poller)
    done: list[str] = []

    def interrupt() -> None:
        loop.call_soon(partial(done.append, "later"))
        raise KeyboardInterrupt

    poller.during_poll = interrupt
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    loop.stop()
    in_time(loop.run)
    assert done == ["later"]
    loop.close()


def test_logging_of_the_loop_goes_to_its_own_logger(loop: SteppedLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(partial(int, "no number"))
    with caplog.at_level(logging.ERROR, "theater_tcp.event_loop"):
        loop.turn()
    assert caplog.records[0].name == "theater_tcp.event_loop"


def test_the_best_poller_is_taken_where_none_is_given() -> None:
    loop = EventLoop()
    best = best_poller()
    assert type(loop.poller) is type(best)
    best.close()
    loop.close()
