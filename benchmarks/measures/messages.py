"""Measures messages to an actor: ``messages ours|threads COUNT``. A case's name as a line gets its figures.

The receiver is an actor on the loop (``ours``) or a ``pykka.ThreadingActor`` (``threads``). Where the loop sends, it is
the same actor on the loop in both; where actors of one kind ask each other, the asker is of the receiver's kind.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pykka

from benchmarks.catalogue import OURS
from benchmarks.servers.launch import announce
from benchmarks.suites.messages import CASES, THREADS
from theater_tcp import TcpActor, Theater

__all__ = ["main"]

_LAST = "last"


class LoopReceiver(TcpActor):
    """Returns what it gets; says when the last has come.

    Args:
        finished: set with the message that is the last.
    """

    def __init__(self, finished: threading.Event) -> None:
        super().__init__()
        self.finished = finished

    def on_receive(self, message: Any) -> Any:
        if message is _LAST:
            self.finished.set()
        return message


class ThreadReceiver(pykka.ThreadingActor):
    """The same on a thread of its own. Args: as :class:`LoopReceiver`."""

    use_daemon_thread = True

    def __init__(self, finished: threading.Event) -> None:
        super().__init__()
        self.finished = finished

    on_receive = LoopReceiver.on_receive


class LoopSender(TcpActor):
    """Sends from the loop."""

    def tell_all(self, receiver: pykka.ActorRef[Any], count: int) -> None:
        for _ in range(count - 1):
            receiver.tell(1)
        receiver.tell(_LAST)

    async def ask_all(self, receiver: pykka.ActorRef[Any], count: int) -> None:
        for answer in [receiver.ask(1, block=False) for _ in range(count)]:
            await answer


class ThreadSender(pykka.ThreadingActor):
    """Asks from a thread of its own."""

    use_daemon_thread = True

    def ask_all(self, receiver: pykka.ActorRef[Any], count: int) -> None:
        for answer in [receiver.ask(1, block=False) for _ in range(count)]:
            answer.get()


class Measure:
    """The cases.

    Args:
        theater: a running runtime.
        kind: ``ours`` or ``threads``.
        count: tells of a measurement; of the dearer asks it is a fifth.
    """

    def __init__(self, theater: Theater, kind: str, count: int) -> None:
        self.finished = threading.Event()
        self.loop_sender: Any = theater.spawn(LoopSender).proxy()
        self.like_sender: Any
        self.receiver: pykka.ActorRef[Any]
        if kind == OURS:
            self.receiver = theater.spawn(LoopReceiver, self.finished)
            self.like_sender = self.loop_sender
        else:
            self.receiver = ThreadReceiver.start(self.finished)
            self.like_sender = ThreadSender.start().proxy()
        tells, asks = (self.tell_from_loop, self.tell), (self.ask, self.ask_pipelined, self.ask_between_actors)
        work = [(case, count) for case in tells] + [(case, count // 5) for case in asks]
        self.cases = {name: self.answer(*case) for name, case in zip(CASES, work, strict=True)}

    def answer(self, case: Callable[[int], None], count: int) -> Callable[[], str]:
        def measure() -> str:
            self.finished.clear()
            cpu, begun = time.process_time(), time.perf_counter()
            case(count)
            wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
            figures = {
                "wall_us": wall / count * 1e6,
                "cpu_us": cpu / count * 1e6,
                "per_second": count / wall,
            }
            return msgspec.json.encode(figures).decode()

        return measure

    def tell_from_loop(self, count: int) -> None:
        self.loop_sender.tell_all(self.receiver, count)
        self.finished.wait()

    def tell(self, count: int) -> None:
        for _ in range(count - 1):
            self.receiver.tell(1)
        self.receiver.tell(_LAST)
        self.finished.wait()

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.receiver.ask(1)

    def ask_pipelined(self, count: int) -> None:
        for answer in [self.receiver.ask(1, block=False) for _ in range(count)]:
            answer.get()

    def ask_between_actors(self, count: int) -> None:
        self.like_sender.ask_all(self.receiver, count).get()


def main() -> None:
    """Answer until standard input closes."""
    kind, count = sys.argv[1], int(sys.argv[2])
    if kind not in (OURS, THREADS):
        sys.exit(f"messages: there is no kind {kind!r}")
    with Theater() as theater:
        announce(0, Measure(theater, kind, count).cases)
        theater.wait()


if __name__ == "__main__":
    main()
