"""Opening connections: resolution off the loop, and the race of a name's addresses (RFC 8305; contract 1).

Most of it runs on a scripted network with a clock that stands still; the last part on real loopback sockets.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.in_time import TIMEOUT, in_time
from tests.stepped_loop import ScriptedPoller, SteppedLoop
from theater_tcp.address import HostPort, parse
from theater_tcp.connector import Connector, interleave, resolve
from theater_tcp.errors import (
    Denied,
    InvalidArgument,
    IoFailed,
    LimitReached,
    Refused,
    ShutDown,
    TheaterError,
    TimedOut,
    Unreachable,
    from_os_error,
)
from theater_tcp.event_loop import EventLoop
from theater_tcp.future import Future
from theater_tcp.poller import ERROR, HANGUP, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
DELAY = 0.25
NAME = parse("mail.example.org:25")


def v4(number: int) -> tuple[int, Any]:
    return (V4, (f"192.0.2.{number}", 25))


def v6(number: int) -> tuple[int, Any]:
    return (V6, (f"2001:db8::{number}", 25, 0, 0))


# -- the order of the addresses ------------------------------------------------------------------------------------


def test_contract_01_the_families_alternate_beginning_with_the_resolver_s_first() -> None:
    """RFC 8305, 4."""
    assert interleave([v6(1), v6(2), v6(3), v4(1), v4(2)]) == [v6(1), v4(1), v6(2), v4(2), v6(3)]
    assert interleave([v4(1), v4(2), v6(1)]) == [v4(1), v6(1), v4(2)]
    assert interleave([v6(1)]) == [v6(1)]


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.integers(0, 99)), min_size=1))
def test_interleaving_keeps_all_addresses_and_the_order_within_a_family(targets: list[Any]) -> None:
    order = interleave(targets)
    assert sorted(order) == sorted(targets)
    assert order[0] == targets[0]
    for family in (V4, V6):
        assert [t for t in order if t[0] == family] == [t for t in targets if t[0] == family]
    both = 2 * min(sum(t[0] == family for t in targets) for family in (V4, V6))
    assert all(order[i][0] != order[i + 1][0] for i in range(max(both - 1, 0)))


# -- a network by script -------------------------------------------------------------------------------------------


class FakeSocket:
    """A socket whose connect goes as the network's script says."""

    def __init__(self, network: FakeNetwork, family: int, kind: int) -> None:
        self.kind = kind
        if family in network.missing_families:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        self.network = network
        self.family = family
        self.number = 1000 + len(network.sockets)
        self.target: Any = None
        self.blocking = True
        self.closed = False
        self.error = 0
        self.connected = False
        network.sockets.append(self)

    def setblocking(self, flag: bool) -> None:
        self.blocking = flag

    def connect_ex(self, target: Any) -> int:
        if self.kind == socket.SOCK_DGRAM:  # the system chooses a local address, and nothing is sent
            return errno.EADDRNOTAVAIL if self.family in self.network.families_without_address else 0
        assert self.kind == socket.SOCK_STREAM
        assert not self.blocking
        self.target = target
        self.network.attempts.append((self.family, target))
        code = self.network.answers.get((self.family, target), errno.EINPROGRESS)
        self.connected = code == 0
        return code

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.error

    def getpeername(self) -> Any:
        if not self.connected:
            raise OSError(errno.ENOTCONN, "not connected")
        return self.target

    def close(self) -> None:
        assert self.number not in self.network.poller.masks, "it is watched still"
        self.closed = True


class FakeNetwork:
    """Where connects stay under way until the test ends them."""

    def __init__(self, loop: SteppedLoop, poller: ScriptedPoller) -> None:
        self.loop = loop
        self.poller = poller
        self.sockets: list[FakeSocket] = []
        self.attempts: list[Any] = []
        self.answers: dict[Any, int] = {}
        """What ``connect`` answers at once; by default it is under way."""
        self.missing_families: set[int] = set()
        self.families_without_address: set[int] = set()

    def socket_to(self, target: Any) -> FakeSocket:
        (found,) = [s for s in self.sockets if (s.family, s.target) == target and not s.closed]
        return found

    def succeed(self, target: Any) -> None:
        sock = self.socket_to(target)
        sock.connected = True
        self.poller.ready.append((sock.number, WRITE))
        self.loop.turn()

    def fail(self, target: Any, code: int = errno.ECONNREFUSED) -> None:
        sock = self.socket_to(target)
        sock.error = code
        self.poller.ready.append((sock.number, WRITE | ERROR | HANGUP))
        self.loop.turn()

    @property
    def open_sockets(self) -> list[FakeSocket]:
        return [sock for sock in self.sockets if not sock.closed]


@pytest.fixture
def poller() -> ScriptedPoller:
    return ScriptedPoller()


@pytest.fixture
def loop(poller: ScriptedPoller) -> Iterator[SteppedLoop]:
    with SteppedLoop(poller) as loop:
        yield loop


@pytest.fixture
def network(loop: SteppedLoop, poller: ScriptedPoller, monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    network = FakeNetwork(loop, poller)
    monkeypatch.setattr(socket, "SocketType", partial(FakeSocket, network))
    return network


class Names:
    """A resolver for the connector, and how to wait for what it does on its threads."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.tables: dict[str, Any] = {}
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.connector = Connector(loop, DELAY, 2, self.resolve)

    def resolve(self, host: str, _port: int) -> list[Any]:
        self.threads.append(threading.get_ident())
        assert self.gate.wait(TIMEOUT)
        answer = self.tables[host]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def race(self, *targets: Any, timeout: float = 30.0) -> Future[Any]:
        """Connect to a name with these addresses, and wait until it is resolved."""
        self.tables["mail.example.org"] = targets
        future = self.connector.connect(NAME, timeout)
        self.wait_for_answer()
        return future

    def wait_for_answer(self) -> None:
        answered = threading.Event()
        self.loop.wake = answered.set  # type: ignore[method-assign]
        self.loop.sleeping = True  # as in a sleep: who schedules something wakes it
        if not self.loop.ready:
            assert answered.wait(TIMEOUT)
        self.loop.sleeping = False
        self.loop.settle()


@pytest.fixture
def names(loop: SteppedLoop) -> Iterator[Names]:
    names = Names(loop)
    yield names
    names.gate.set()
    names.connector.close()


# -- the race ------------------------------------------------------------------------------------------------------


def test_contract_01_each_attempt_has_its_time_before_the_next_starts_beside_it(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    """RFC 8305, 5: the connection attempt delay."""
    names.race(v6(1), v6(2), v4(1))
    assert network.attempts == [v6(1)]
    loop.turn(DELAY - 0.01)
    assert network.attempts == [v6(1)]
    loop.turn(0.01)
    assert network.attempts == [v6(1), v4(1)]
    loop.turn(DELAY)
    assert network.attempts == [v6(1), v4(1), v6(2)]
    assert len(network.open_sockets) == 3


def test_contract_01_the_first_that_succeeds_wins_and_the_others_are_closed(
    names: Names, network: FakeNetwork, loop: SteppedLoop, poller: ScriptedPoller
) -> None:
    future = names.race(v6(1), v4(1), v6(2))
    loop.turn(DELAY)
    winner = network.socket_to(v4(1))
    network.succeed(v4(1))
    assert future.get(timeout=0) is winner
    assert network.open_sockets == [winner]
    loop.turn(100.0)
    assert network.attempts == [v6(1), v4(1)]
    assert winner.number not in poller.masks


def test_contract_01_when_an_attempt_fails_the_next_starts_at_once(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    names.race(v6(1), v4(1), v6(2))
    loop.turn(0.1)
    network.fail(v6(1))
    assert network.attempts == [v6(1), v4(1)]
    loop.turn(DELAY - 0.01)  # and has its time anew
    assert network.attempts == [v6(1), v4(1)]
    loop.turn(0.01)
    assert network.attempts == [v6(1), v4(1), v6(2)]


def test_contract_01_if_none_succeeds_the_error_is_that_of_the_last_attempt(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    future = names.race(v6(1), v4(1))
    loop.turn(DELAY)
    network.fail(v4(1), errno.ECONNREFUSED)
    assert not future.done
    network.fail(v6(1), errno.EHOSTUNREACH)
    with pytest.raises(Unreachable, match=r"mail\.example\.org:25"):
        future.get(timeout=0)
    assert network.open_sockets == []


@pytest.mark.parametrize(("code", "error"), [(errno.ENETUNREACH, Unreachable), (errno.ECONNREFUSED, Refused)])
def test_an_attempt_that_fails_on_the_spot_is_passed_over(
    names: Names, network: FakeNetwork, code: int, error: type[TheaterError]
) -> None:
    network.answers = {v6(1): code, v6(2): code}
    future = names.race(v6(1), v6(2), v4(1))
    assert network.attempts == [v6(1), v4(1)]
    network.fail(v4(1))
    assert network.attempts == [v6(1), v4(1), v6(2)]
    with pytest.raises(error):
        future.get(timeout=0)


@pytest.mark.parametrize("target", [v4(1), v6(1)])
def test_contract_01_without_a_free_local_port_a_connect_is_limit(
    names: Names, network: FakeNetwork, target: tuple[int, Any]
) -> None:
    network.answers = {target: errno.EADDRNOTAVAIL}
    future = names.race(target)
    with pytest.raises(LimitReached, match=r"^limit: mail\.example\.org:25: no local port is free$"):
        future.get(timeout=0)
    assert network.open_sockets == []


def test_contract_01_without_an_address_of_the_family_the_peer_s_is_unreachable(
    names: Names, network: FakeNetwork
) -> None:
    """As where IPv6 is switched off: the system says the same as without a free port."""
    network.answers = {v6(1): errno.EADDRNOTAVAIL}
    network.families_without_address = {V6}
    future = names.race(v6(1))
    with pytest.raises(Unreachable):
        future.get(timeout=0)
    assert network.open_sockets == []


def test_an_attempt_that_succeeds_on_the_spot_wins(names: Names, network: FakeNetwork) -> None:
    network.answers = {v6(1): 0}
    future = names.race(v6(1), v4(1))
    assert future.get(timeout=0).target == v6(1)[1]
    assert network.attempts == [v6(1)]


def test_a_family_that_the_system_does_not_have_is_passed_over(names: Names, network: FakeNetwork) -> None:
    network.missing_families = {V6}
    future = names.race(v6(1), v4(1))
    network.succeed(v4(1))
    assert future.get(timeout=0).target == v4(1)[1]


def test_an_event_that_was_meant_for_an_earlier_socket_of_that_number_decides_nothing(
    names: Names, network: FakeNetwork, loop: SteppedLoop, poller: ScriptedPoller, caplog: pytest.LogCaptureFixture
) -> None:
    future = names.race(v4(1))
    poller.ready = [(network.socket_to(v4(1)).number, WRITE)]
    loop.turn()
    assert not future.done
    assert caplog.records == []
    network.succeed(v4(1))
    assert future.done


def test_contract_01_the_timeout_ends_every_attempt(names: Names, network: FakeNetwork, loop: SteppedLoop) -> None:
    future = names.race(v6(1), v4(1), timeout=0.4)
    loop.turn(DELAY)
    assert len(network.open_sockets) == 2
    loop.turn(0.4 - DELAY)
    with pytest.raises(TimedOut, match=r"^timeout: mail\.example\.org:25: no connection in 0\.4 s$"):
        future.get(timeout=0)
    assert network.open_sockets == []
    loop.turn(100.0)
    assert len(network.attempts) == 2


def test_contract_01_a_unix_socket_with_a_full_backlog_is_tried_again_until_the_timeout(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    """The system answers EAGAIN, and does not tell when there is room (unix(7))."""
    target = (int(socket.AF_UNIX), "/run/s")
    network.answers = {target: errno.EAGAIN}
    reached = names.connector.connect(parse("unix:/run/s"), 1.0)
    late = names.connector.connect(parse("unix:/run/s"), 0.5)
    for _ in range(49):
        loop.turn(0.01)
    assert len(network.attempts) > 20
    assert not reached.done
    assert not late.done
    loop.turn(0.02)
    with pytest.raises(TimedOut):
        late.get(timeout=0)
    network.answers = {target: 0}
    loop.turn(0.02)
    winner: Any = reached.get(timeout=0)
    assert network.open_sockets == [winner]
    attempts = len(network.attempts)
    loop.turn(1.0)
    assert len(network.attempts) == attempts


def test_what_is_connected_leaves_no_deadline_behind(names: Names, network: FakeNetwork, loop: SteppedLoop) -> None:
    """It would keep the socket, for as long as connecting might have taken."""
    for number in range(200):
        future = names.connector.connect(parse(f"192.0.2.{number}:25"), 30.0)
        network.succeed(v4(number))
        assert future.done
    assert loop.timers < 100


def test_several_races_don_t_disturb_each_other(names: Names, network: FakeNetwork, loop: SteppedLoop) -> None:
    first = names.race(v4(1))
    second = names.connector.connect(parse("192.0.2.2:25"), 30.0)
    third = names.connector.connect(parse("192.0.2.3:25"), 1.0)
    network.fail(v4(2))
    loop.turn(1.0)
    network.succeed(v4(1))
    assert first.get(timeout=0).target == v4(1)[1]
    with pytest.raises(Refused):
        second.get(timeout=0)
    with pytest.raises(TimedOut):
        third.get(timeout=0)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["pass", "succeed", "refuse", "unreachable"]), st.integers(0, 5)), max_size=30
)


@given(
    targets=st.lists(st.sampled_from([v4(n) for n in range(3)] + [v6(n) for n in range(3)]), unique=True, max_size=6),
    at_once=st.dictionaries(
        st.sampled_from([v4(n) for n in range(3)] + [v6(n) for n in range(3)]),
        st.sampled_from([0, errno.ENETUNREACH, errno.ECONNREFUSED]),
        max_size=3,
    ),
    events=EVENTS,
)
def test_whatever_happens_a_race_ends_once_with_one_socket_or_none(
    targets: list[Any], at_once: dict[Any, int], events: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, SteppedLoop(ScriptedPoller()) as loop:
        poller = loop.poller
        assert isinstance(poller, ScriptedPoller)
        network = FakeNetwork(loop, poller)
        network.answers = dict(at_once)
        monkeypatch.setattr(socket, "SocketType", partial(FakeSocket, network))
        names = Names(loop)
        settled: list[Future[Any]] = []
        future = names.race(*targets, timeout=1.0)
        future.on_done(settled.append)
        for what, number in events:
            under_way = [s for s in network.open_sockets if s.number in poller.masks]
            if what == "pass":
                loop.turn(number / 10)
            elif under_way:
                sock = under_way[number % len(under_way)]
                if what == "succeed":
                    network.succeed((sock.family, sock.target))
                else:
                    network.fail(
                        (sock.family, sock.target), errno.ECONNREFUSED if what == "refuse" else errno.EHOSTUNREACH
                    )
            assert network.attempts == (interleave(targets) if targets else [])[: len(network.attempts)]
            watched = [s.number for s in network.open_sockets if s.number in poller.masks]
            assert future.done == (not watched)
        loop.turn(2.0)
        assert settled == [future]
        try:
            winner = future.get(timeout=0)
        except TheaterError:
            assert network.open_sockets == []
        else:
            assert network.open_sockets == [winner]
            assert winner.connected
        names.connector.close()


# -- resolution ----------------------------------------------------------------------------------------------------


def test_contract_01_a_name_is_resolved_off_the_loop(names: Names, network: FakeNetwork, loop: SteppedLoop) -> None:
    names.gate.clear()
    names.tables["mail.example.org"] = [v4(1)]
    future = names.connector.connect(NAME, 30.0)
    turns: list[str] = []
    loop.call_soon(partial(turns.append, "the loop goes on"))
    loop.turn()
    assert turns == ["the loop goes on"]
    literal = names.connector.connect(parse("192.0.2.2:25"), 30.0)  # needs no resolver
    network.succeed(v4(2))
    assert literal.done
    assert not future.done
    names.gate.set()
    names.wait_for_answer()
    network.succeed(v4(1))
    assert future.done
    assert threading.get_ident() not in names.threads


def test_contract_01_the_timeout_counts_the_resolution_and_what_comes_after_it_is_not_used(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    names.gate.clear()
    names.tables["mail.example.org"] = [v4(1)]
    future = names.connector.connect(NAME, 5.0)
    loop.turn(5.0)
    with pytest.raises(TimedOut):
        future.get(timeout=0)
    names.gate.set()
    names.wait_for_answer()
    assert network.attempts == []


def test_only_the_permitted_addresses_of_a_name_are_raced(
    names: Names, network: FakeNetwork, loop: SteppedLoop
) -> None:
    asked: list[Any] = []

    def permitted(target: Any) -> bool:
        asked.append(target)
        return target in (v4(2), v6(2))

    names.tables["mail.example.org"] = [v6(1), v4(1), v4(2), v6(2)]
    future: Future[Any] = names.connector.connect(NAME, 30.0, permitted)
    names.wait_for_answer()
    for _ in range(5):
        loop.turn(DELAY)
    assert asked == [v6(1), v4(1), v4(2), v6(2)]
    assert network.attempts == [v4(2), v6(2)]
    network.succeed(v6(2))
    assert future.get(timeout=0).target == v6(2)[1]


def test_a_name_without_a_permitted_address_is_denied_before_there_is_a_socket(
    names: Names, network: FakeNetwork
) -> None:
    names.tables["mail.example.org"] = [v6(1), v4(1)]
    future = names.connector.connect(NAME, 30.0, lambda _: False)
    names.wait_for_answer()
    with pytest.raises(Denied, match=r"^denied: mail\.example\.org:25$"):
        future.get(timeout=0)
    assert network.sockets == []


def test_a_name_that_is_asked_for_once_is_asked_for_once(names: Names, network: FakeNetwork) -> None:
    names.tables["mail.example.org"] = [v4(1)]
    names.connector.connect(NAME, 30.0, lambda _: True)
    names.wait_for_answer()
    names.tables["mail.example.org"] = [v4(9)]  # a second answer, which nobody hears
    network.fail(v4(1))
    assert network.attempts == [v4(1)]
    assert len(names.threads) == 1


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label empty or too long"), "label empty or too long"),
        ([], "no address"),
    ],
)
@pytest.mark.parametrize("permitted", [None, lambda _: False])
def test_contract_01_a_name_that_does_not_resolve_is_unreachable(
    names: Names, network: FakeNetwork, answer: Any, detail: str, permitted: Any
) -> None:
    names.tables["mail.example.org"] = answer
    future = names.connector.connect(NAME, 30.0, permitted)
    names.wait_for_answer()
    with pytest.raises(Unreachable) as raised:
        future.get(timeout=0)
    assert "mail.example.org:25" in str(raised.value)
    assert detail.lower() in str(raised.value).lower()
    assert network.attempts == []


def test_where_no_thread_is_left_to_resolve_a_name_the_limit_is_told(names: Names) -> None:
    names.tables["mail.example.org"] = LimitReached("threads: can't start new thread")
    future = names.connector.connect(NAME, 30.0)
    names.wait_for_answer()
    with pytest.raises(LimitReached, match="threads"):
        future.get(timeout=0)


def test_no_more_names_than_allowed_are_resolved_at_the_same_time(names: Names, network: FakeNetwork) -> None:
    names.gate.clear()
    names.tables = {f"host{number}.example": [v4(number)] for number in range(6)}
    futures = [names.connector.connect(parse(f"{host}:25"), 30.0) for host in names.tables]
    names.gate.set()
    while len(network.attempts) < 6:
        names.wait_for_answer()
    assert len(set(names.threads)) <= 2
    for number in range(6):
        network.succeed(v4(number))
    assert all(future.done for future in futures)


def test_an_address_that_has_no_socket_address_fails_in_the_future(names: Names, network: FakeNetwork) -> None:
    future = names.connector.connect(HostPort("fe80::1%nothere", 25, V6), 30.0)
    with pytest.raises(InvalidArgument, match="no network interface 'nothere'"):
        future.get(timeout=0)
    assert network.sockets == []


# -- the end -------------------------------------------------------------------------------------------------------


def test_the_end_fails_what_is_under_way_and_closes_it(names: Names, network: FakeNetwork, loop: SteppedLoop) -> None:
    racing = names.race(v6(1), v4(1))
    loop.turn(DELAY)
    names.gate.clear()
    names.tables["other.example"] = [v4(9)]
    resolving = names.connector.connect(parse("other.example:25"), 30.0)
    names.connector.close()
    for future in (racing, resolving):
        with pytest.raises(ShutDown):
            future.get(timeout=0)
    assert network.open_sockets == []
    names.gate.set()
    attempts = len(network.attempts)
    with pytest.raises(ShutDown):
        names.connector.connect(NAME, 30.0).get(timeout=0)
    loop.turn(100.0)
    assert len(network.attempts) == attempts


def test_a_resolver_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    script = """
        import socket, threading
        from theater_tcp import TcpActor, Theater
        from theater_tcp.errors import ShutDown

        begun = threading.Event()

        def hang(*args, **kwargs):
            begun.set()
            threading.Event().wait()

        socket.getaddrinfo = hang

        class Caller(TcpActor):
            async def call(self):
                try:
                    await self.tcp.connect("mail.example.org:25")
                except ShutDown as error:
                    return str(error)

        theater = Theater().start()
        answer = theater.spawn(Caller).proxy().call()
        begun.wait()
        theater.shutdown(0)
        print("shut down")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 2,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "shut down\n"


# -- on real sockets -----------------------------------------------------------------------------------------------


@pytest.fixture
def real() -> Iterator[Callable[[str], socket.socket]]:
    """Connects by a real loop on a thread of its own; what it returns is closed afterwards."""
    loop = EventLoop()
    connector = Connector(loop, DELAY, 1)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    opened: list[socket.socket] = []

    def connect(text: str) -> socket.socket:
        future: Future[Any] = Future()
        loop.submit(connector.connect, parse(text), TIMEOUT, into=future)
        sock = future.get(timeout=TIMEOUT)
        opened.append(sock)
        return sock  # type: ignore[no-any-return]

    yield connect
    for sock in opened:
        sock.close()
    loop.call_soon(connector.close)
    loop.stop()
    thread.join(TIMEOUT)
    loop.close()


def listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    sock.settimeout(TIMEOUT)
    return sock


@pytest.mark.parametrize("family", ["IPv4", "IPv6", "Unix", "abstract"])
def test_contract_01_every_family_is_reached(real: Callable[[str], socket.socket], family: str, tmp_path: Path) -> None:
    path, name = str(tmp_path / "s"), f"theater-test-{os.getpid()}"
    families: dict[str, tuple[int, Any, str]] = {
        "IPv4": (V4, ("127.0.0.1", 0), "127.0.0.1:{1}"),
        "IPv6": (V6, ("::1", 0), "[::1]:{1}"),
        "Unix": (int(socket.AF_UNIX), path, f"unix:{path}"),
        "abstract": (int(socket.AF_UNIX), f"\0{name}", f"unix:@{name}"),
    }
    number, address, text = families[family]
    with listening(number, address) as listener:
        bound = listener.getsockname()
        sock = real(text.format(*bound) if isinstance(bound, tuple) else text)
        assert not sock.getblocking()
        accepted, _ = listener.accept()
        with accepted:
            sock.send(b"hello")
            accepted.settimeout(TIMEOUT)
            assert accepted.recv(10) == b"hello"


def test_contract_01_a_name_with_several_addresses_reaches_the_one_that_listens(
    real: Callable[[str], socket.socket],
) -> None:
    """``localhost`` has both families on most systems; nobody listens at the IPv6 one."""
    with listening(V4, ("127.0.0.1", 0)) as listener:
        sock = real("localhost:{1}".format(*listener.getsockname()))
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize(("family", "host", "text"), [(V4, "127.0.0.1", "127.0.0.1:{}"), (V6, "::1", "[::1]:{}")])
def test_contract_01_a_port_where_nobody_listens_is_refused(
    real: Callable[[str], socket.socket], family: int, host: str, text: str
) -> None:
    with socket.socket(family) as closed:
        closed.bind((host, 0))
        address = text.format(closed.getsockname()[1])
        with pytest.raises(Refused) as raised:
            real(address)
        assert str(raised.value) == f"refused: {address}"


def test_contract_01_a_unix_socket_where_nobody_listens_is_refused_and_a_missing_one_says_so(
    real: Callable[[str], socket.socket], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
        with pytest.raises(Refused, match=f"unix:{path}"):
            real(f"unix:{path}")
    path.unlink()
    with pytest.raises(IoFailed, match=f"^io: unix:{path}: no such file or directory$"):
        real(f"unix:{path}")


def test_contract_01_a_unix_socket_with_a_full_backlog_is_reached_when_there_is_room(
    real: Callable[[str], socket.socket], tmp_path: Path
) -> None:
    """The system answers EAGAIN, and does not tell when there is room (unix(7))."""
    path = tmp_path / "s"
    connected: SimpleQueue[socket.socket] = SimpleQueue()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(TIMEOUT)
        threads = [threading.Thread(target=lambda: connected.put(real(f"unix:{path}"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            accepted, _ = listener.accept()
            accepted.close()
        for thread in threads:
            thread.join(TIMEOUT)
    assert connected.qsize() == 5


def test_contract_01_a_peer_that_does_not_answer_is_a_timeout() -> None:
    """The listener's backlog is full, and Linux lets further connects wait."""
    loop = EventLoop()
    connector = Connector(loop, DELAY, 1)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        futures: list[Future[Any]] = []
        for _ in range(10):
            future: Future[Any] = Future()
            loop.submit(connector.connect, parse("{}:{}".format(*listener.getsockname())), 0.2, into=future)
            futures.append(future)
        ends = []
        for future in futures:
            try:
                future.get(timeout=TIMEOUT).close()
                ends.append("connected")
            except TimedOut:
                ends.append("timeout")
    assert "timeout" in ends
    loop.call_soon(connector.close)
    loop.stop()
    thread.join(TIMEOUT)
    loop.close()


def test_resolve_gives_socket_addresses_in_the_resolver_s_order() -> None:
    assert resolve("127.0.0.1", 25) == [(V4, ("127.0.0.1", 25))]
    assert resolve("::1", 25) == [(V6, ("::1", 25, 0, 0))]
    for family, sockaddr in in_time(lambda: resolve("localhost", 25)):
        assert family in (V4, V6)
        assert sockaddr[1] == 25


def test_an_error_of_the_resolver_is_mapped_once() -> None:
    error = from_os_error(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "a:1")
    assert isinstance(error, Unreachable)
    assert str(error).lower() == "unreachable: a:1: temporary failure in name resolution"
