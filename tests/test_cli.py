"""The command line, as its users meet it: real processes, real signals, real sockets on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import theater_tcp
from theater_tcp import cli
from theater_tcp.cli import EXIT_ABORTED, EXIT_CLEAN, EXIT_INTERNAL, EXIT_OUTPUT, EXIT_WRONG, main

ROOT = Path(__file__).resolve().parent.parent
ECHO = str(ROOT / "actors" / "echo" / "echo.yaml")
pytestmark = pytest.mark.usefixtures("own_logging")

WAIT = 30.0
"""Seconds after which what should have happened is taken for lost."""

ACTORS = """
import pathlib
import sys

import pykka

from theater_tcp import TcpActor, TcpMixin


class Echo(TcpActor):
    def __init__(self, farewell=None):
        super().__init__()
        self.farewell = farewell

    def handle_connection(self, connection):
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection, data):
        connection.send(data)

    def on_stop(self):
        if self.farewell is not None:
            pathlib.Path(self.farewell).write_text("stopped", encoding="utf-8")


class ThreadEcho(TcpMixin, pykka.ThreadingActor):
    def handle_connection(self, connection):
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection, data):
        connection.send(data)


class RaisesInStart(Echo):
    def on_start(self):
        raise ValueError("no\\nluck")


class ExitsInStart(Echo):
    def on_start(self):
        sys.exit("no luck")


class ExitsInThread(pykka.ThreadingActor):
    def on_start(self):
        sys.exit("no luck")


class ExitsLater(Echo):
    async def on_start(self):
        await self.sleep(0)
        sys.exit(0)


class ExitsInConstructor(Echo):
    def __init__(self):
        sys.exit(3)


class InterruptsItself(Echo):
    def on_start(self):
        raise KeyboardInterrupt


class RaisesLater(Echo):
    async def on_start(self):
        await self.sleep(0)
        raise ValueError("no luck")


class RaisesInThread(pykka.ThreadingActor):
    def on_start(self):
        raise ValueError("no luck")


class RaisesInConstructor(Echo):
    def __init__(self, **settings):
        raise KeyError("hostname")


class ListensItself(Echo):
    def __init__(self, address):
        super().__init__()
        self.address = address

    def on_start(self):
        self.tcp.listen(self.address)


class PrintsAndEchoes(Echo):
    def on_data(self, connection, data):
        print(data, flush=True)
        connection.send(data)


class StartsAnother(Echo):
    def __init__(self, address):
        super().__init__()
        self.address = address

    def on_start(self):
        self.theater.spawn(ListensItself, self.address)


class StartsForEver(Echo):
    async def on_start(self):
        print("starting", flush=True)
        await self.sleep(3600)


class Ends(pykka.ThreadingActor):
    def on_start(self):
        self.actor_ref.stop(block=False)


class EndsByFailure(pykka.ThreadingActor):
    def on_start(self):
        self.actor_ref.tell("fail")

    def on_receive(self, message):
        raise ValueError("no luck")


class EndsByFailureOnTheLoop(TcpActor):
    on_start = EndsByFailure.on_start
    on_receive = EndsByFailure.on_receive


class FailsInStop(Ends):
    def on_stop(self):
        raise ValueError("no luck")


class MakesFolder(Echo):
    def on_start(self):
        pathlib.Path("ready").mkdir()


class IsPolite(Echo):
    def on_drain(self):
        for connection in self.connections:
            connection.send(b"good bye\\n")
            connection.close()
"""


class Running:
    """A ``theater-tcp run`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name on stdout."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fields: dict[str, Any] = json.loads(line)
            if fields["event"] == name:
                return fields
        raise AssertionError(f"no event {name!r}; on stderr: {self.process.communicate()[1]}")

    def address(self) -> str:
        """Where the next listener listens."""
        address: str = self.event("listening")["address"]
        return address

    def ready(self) -> str:
        """The address of the first listener, when all listen."""
        address = self.address()
        self.event("ready")
        return address

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit code, and what stands on stderr."""
        _, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, errors


Start = Callable[..., Running]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a manifest for a class of ``ACTORS``. What is imported in this process is forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "cli_actors.py").write_text(ACTORS, encoding="utf-8")

    def write(cls: str = "Echo", name: str = "echo", listen: str = "127.0.0.1:0", rest: str = "") -> str:
        file = tmp_path / f"{name}.yaml"
        tcp = f"tcp:\n  listen: ['{listen}']\n" if listen else ""
        file.write_text(f"name: {name}\npython: cli_actors:{cls}\n{tcp}{rest}", encoding="utf-8")
        return str(file)

    yield write
    sys.modules.pop("cli_actors", None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``theater-tcp run``; what a test leaves running is ended."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, as_json: bool = True, stdout: int | IO[bytes] = subprocess.PIPE) -> Running:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40"}
            process = subprocess.Popen(
                [sys.executable, "-m", "theater_tcp", "run", *args, *(["--json"] if as_json else [])],
                cwd=tmp_path,
                env=environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Running(process)

        yield start


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def echoed(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    received = b""
    while len(received) < len(data):
        chunk = client.recv(4096)
        assert chunk, "the connection ended"
        received += chunk
    return received


def problem_lines(errors: str) -> list[str]:
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("theater-tcp: ")]


# -- run: from start to end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_serves_until_a_signal_and_ends_cleanly(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    running = start(ECHO, "--set", "tcp.listen=127.0.0.1:0", "--ready-file", "ready")
    listening = running.event("listening")
    assert running.event("ready") == {"event": "ready", "pid": running.process.pid}
    ready = json.loads((tmp_path / "ready").read_text(encoding="utf-8"))
    del listening["event"]
    assert ready == {"pid": running.process.pid, "listeners": [listening]}
    assert listening["actor"] == "echo"
    with connect(listening["address"]) as client:
        assert echoed(client, b"hello") == b"hello"
    running.signal(number)
    assert running.event("draining") == {"event": "draining", "signal": number.name}
    assert running.event("stopped") == {"event": "stopped", "clean": True}
    code, errors = running.end()
    assert code == EXIT_CLEAN
    assert {json.loads(line)["level"] for line in errors.splitlines()} <= {"info"}
    assert list(tmp_path.iterdir()) == []


def test_draining_lets_open_connections_go_on_and_takes_no_new_ones(start: Start, write: Write) -> None:
    running = start(write(), "--drain-timeout", "10 min")
    address = running.ready()
    with connect(address) as client:
        assert echoed(client, b"one") == b"one"
        running.signal(signal.SIGTERM)
        running.event("draining")
        with pytest.raises(ConnectionRefusedError):
            wait_until_refused(address)
        assert echoed(client, b"two") == b"two"
    assert running.end()[0] == EXIT_CLEAN


def wait_until_refused(address: str) -> None:
    """Connects until it is refused. Before, it may be accepted, or reset when the listener closes its backlog."""
    while True:
        with contextlib.suppress(ConnectionResetError):
            connect(address).close()


def test_an_actor_can_finish_politely_when_the_runtime_drains(start: Start, write: Write) -> None:
    running = start(write("IsPolite"), "--drain-timeout", "10 min")
    with connect(running.ready()) as client:
        assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        with client.makefile("rb") as stream:
            assert stream.read() == b"good bye\n"
    assert running.end()[0] == EXIT_CLEAN


def test_what_does_not_end_before_the_drain_timeout_is_aborted(start: Start, write: Write) -> None:
    running = start(write(), "--drain-timeout", "50 ms")
    with connect(running.ready()) as client:
        assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert running.event("stopped") == {"event": "stopped", "clean": False}
    assert running.end()[0] == EXIT_ABORTED


def test_the_drain_timeout_of_the_manifest_holds(start: Start, write: Write) -> None:
    running = start(write(rest="drain_timeout: 0\n"))
    with connect(running.ready()) as client:
        assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        assert running.end()[0] == EXIT_ABORTED


def test_a_python_without_a_gil_is_a_problem_and_no_traceback(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert main(["run", write()]) == EXIT_WRONG
    assert capsys.readouterr().err == (
        "theater-tcp: a Theater counts on the GIL, which this Python runs without: PYTHON_GIL=1 brings it back\n"
    )


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_aborts_at_once(start: Start, write: Write, second: signal.Signals) -> None:
    running = start(write(), "--drain-timeout", "10 min")
    with connect(running.ready()) as client:
        assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        running.event("draining")
        running.signal(second)
        assert running.event("aborting") == {"event": "aborting", "signal": second.name}
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert running.end()[0] == EXIT_ABORTED


def test_several_manifests_share_one_run(start: Start, write: Write, tmp_path: Path) -> None:
    running = start(
        write(name="one"), write("ThreadEcho", "two"), write(name="three", listen="unix:echo.sock"), "--ready-file", "r"
    )
    events = [running.event("listening") for _ in range(3)]
    running.event("ready")
    assert [event["actor"] for event in events] == ["one", "two", "three"]
    ready = json.loads((tmp_path / "r").read_text(encoding="utf-8"))
    assert [listener["address"] for listener in ready["listeners"]] == [event["address"] for event in events]
    assert events[2]["address"] == f"unix:{tmp_path}/echo.sock"
    for event in events[:2]:
        with connect(event["address"]) as client:
            assert echoed(client, b"hello") == b"hello"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(str(tmp_path / "echo.sock"))
        assert echoed(client, b"hello") == b"hello"
    running.signal(signal.SIGTERM)
    assert running.end()[0] == EXIT_CLEAN
    assert not (tmp_path / "echo.sock").exists()


def test_an_option_of_the_manifest_applies_to_its_connections(start: Start, write: Write) -> None:
    running = start(write(rest="  framing: line\n  max_frame: 10\n"))
    with connect(running.ready()) as client:
        assert echoed(client, b"a line\n") == b"a line\n"
        client.sendall(b"longer than ten bytes")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = client.recv(100)
        assert received == b""
    running.signal(signal.SIGTERM)
    assert running.end()[0] == EXIT_CLEAN


def test_for_people_the_output_is_plain_lines_and_the_log_is_apart(start: Start, write: Write) -> None:
    running = start(write(), as_json=False)
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    assert re.fullmatch(r"echo: listening at 127\.0\.0\.1:\d+\n", line)
    assert running.process.stdout.readline() == f"ready (pid {running.process.pid})\n"
    running.signal(signal.SIGTERM)
    output, errors = running.process.communicate(timeout=WAIT)
    assert output.splitlines() == ["SIGTERM: draining", "stopped"]
    assert errors == ""  # nothing to tell: nobody was connected


def test_the_log_level_chooses_what_the_log_shows(start: Start, write: Write) -> None:
    running = start(write(), "--log-level", "warning")
    running.ready()
    running.signal(signal.SIGTERM)
    assert running.end() == (EXIT_CLEAN, "")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_reader_of_the_output_that_goes_away_changes_nothing(
    start: Start, write: Write, tmp_path: Path, as_json: bool
) -> None:
    manifest = write(listen="unix:echo.sock")
    running = start(manifest, "--drain-timeout", "10 min", as_json=as_json)
    assert running.process.stdout is not None
    while "ready" not in running.process.stdout.readline():
        pass
    running.process.stdout.close()
    path = tmp_path / "echo.sock"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(str(path))
        assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        while path.exists():
            assert echoed(client, b"hello") == b"hello"
        running.signal(signal.SIGTERM)
        assert running.process.wait(WAIT) == EXIT_ABORTED
    assert running.process.stderr is not None
    assert "Traceback" not in running.process.stderr.read()


@pytest.mark.parametrize(
    ("classes", "code"),
    [
        (["Ends"], EXIT_CLEAN),
        (["EndsByFailure"], EXIT_ABORTED),
        (["EndsByFailureOnTheLoop"], EXIT_ABORTED),
        (["FailsInStop"], EXIT_ABORTED),
        (["Ends", "EndsByFailureOnTheLoop", "Ends"], EXIT_ABORTED),
    ],
)
def test_when_all_actors_have_ended_the_exit_code_tells_whether_one_did_by_a_failure(
    start: Start, write: Write, classes: list[str], code: int
) -> None:
    running = start(*(write(cls, f"a{number}", listen="") for number, cls in enumerate(classes)))
    assert running.event("ended") == {"event": "ended", "failed": code != EXIT_CLEAN}
    assert running.event("stopped") == {"event": "stopped", "clean": code == EXIT_CLEAN}
    assert running.end()[0] == code


def test_a_run_goes_on_where_stdout_is_full_and_the_log_says_so(start: Start, write: Write, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        running = start(write("PrintsAndEchoes", listen="unix:echo.sock"), stdout=full)
    assert running.process.stderr is not None
    entry = json.loads(running.process.stderr.readline())
    reason = "stdout: no space left on device; what would be told there is lost"
    assert (entry["level"], entry["message"]) == ("warning", reason)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(str(tmp_path / "echo.sock"))
        assert echoed(client, b"hello") == b"hello"
    running.signal(signal.SIGTERM)
    code, errors = running.end()
    assert code == EXIT_CLEAN
    assert {json.loads(line)["level"] for line in errors.splitlines()} <= {"info"}


# -- run: what can't start --------------------------------------------------------------------------------------------


def test_an_address_in_use_is_told_with_the_actor_and_the_key(start: Start, write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, errors = start(write(listen=address), as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == [f"theater-tcp: echo: tcp.listen[0]: address-in-use: {address}"]


@pytest.mark.parametrize(
    ("cls", "where", "reason"),
    [
        ("RaisesInStart", "on_start", "ValueError: no luck"),
        ("RaisesLater", "on_start", "ValueError: no luck"),
        ("RaisesInThread", "on_start", "ValueError: no luck"),
        ("RaisesInConstructor", "init", "KeyError: 'hostname'"),
        ("ExitsInStart", "on_start", "SystemExit: no luck"),
        ("ExitsInThread", "on_start", "SystemExit: no luck"),
        ("ExitsLater", "on_start", "SystemExit: 0"),
        ("ExitsInConstructor", "init", "SystemExit: 3"),
        ("InterruptsItself", "on_start", "KeyboardInterrupt"),
    ],
)
def test_an_actor_that_does_not_start_is_told_in_one_line(
    start: Start, write: Write, cls: str, where: str, reason: str
) -> None:
    code, errors = start(write(cls, listen=""), as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == [f"theater-tcp: echo: {where}: {reason}"]


def test_the_debug_log_adds_the_traceback_of_a_failed_start(start: Start, write: Write) -> None:
    code, errors = start(write("RaisesInStart", listen=""), "--log-level", "debug").end()
    assert code == EXIT_WRONG
    entries = [json.loads(line) for line in errors.splitlines()]
    (entry,) = [entry for entry in entries if entry.get("logger") == "theater_tcp.cli"]
    assert 'raise ValueError("no\\nluck")' in entry["traceback"]


def test_a_listen_in_on_start_that_fails_is_told_with_its_kind(start: Start, write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        manifest = write(
            "ListensItself",
            listen="",
            rest=f"init: {{address: '{address}'}}\ntcp: {{permissions: {{listen: ['{address}']}}}}\n",
        )
        code, errors = start(manifest, as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == [f"theater-tcp: echo: on_start: address-in-use: {address}"]


def test_an_actor_from_a_manifest_listens_by_itself_only_where_that_lets_it(start: Start, write: Write) -> None:
    init = "init: {address: '127.0.0.1:0'}\n"
    code, errors = start(write("ListensItself", listen="", rest=init), as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == ["theater-tcp: echo: on_start: denied: 127.0.0.1:0"]
    assert "may not listen at 127.0.0.1:0: nothing in permissions.listen is for that" in errors
    allowed = write("ListensItself", listen="", rest=f"{init}tcp: {{permissions: {{listen: ['127.0.0.1:*']}}}}\n")
    assert start(allowed).ready().startswith("127.0.0.1:")


def test_what_an_actor_from_a_manifest_starts_by_itself_may_do_nothing(start: Start, write: Write) -> None:
    rest = "init: {address: '127.0.0.1:0'}\ntcp: {permissions: {listen: ['127.0.0.1:*']}}\n"
    code, errors = start(write("StartsAnother", listen="", rest=rest), as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == ["theater-tcp: echo: on_start: denied: 127.0.0.1:0"]


def test_if_one_actor_fails_those_before_it_are_stopped(start: Start, write: Write, tmp_path: Path) -> None:
    first = write(name="first", rest=f"init: {{farewell: {tmp_path}/farewell}}\n")
    code, errors = start(first, write("RaisesInStart", "second", ""), "--ready-file", "ready", as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == ["theater-tcp: second: on_start: ValueError: no luck"]
    assert (tmp_path / "farewell").read_text(encoding="utf-8") == "stopped"
    assert not (tmp_path / "ready").exists()


def test_if_one_manifest_is_wrong_no_actor_is_started(start: Start, write: Write, tmp_path: Path) -> None:
    first = write(name="first", rest=f"init: {{farewell: {tmp_path}/farewell}}\n")
    second = write(name="second", rest="  nodely: true\n")
    code, errors = start(first, second, "none.yaml", as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == [
        f"theater-tcp: {second}:5: tcp.nodely: there is no such setting (did you mean 'nodelay'?)",
        "theater-tcp: none.yaml: no such file or directory",
    ]
    assert not (tmp_path / "farewell").exists()


def test_a_ready_file_that_can_not_be_written_stops_the_start(start: Start, write: Write, tmp_path: Path) -> None:
    manifest = write(rest=f"init: {{farewell: {tmp_path}/farewell}}\n")
    code, errors = start(manifest, "--ready-file", "no/such/folder", as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == ["theater-tcp: no/such/folder: --ready-file: no such file or directory"]
    assert (tmp_path / "farewell").exists()


@pytest.mark.parametrize("content", ["precious", "{}", "[1]", '{"pid": 1}'])
def test_a_file_that_no_run_wrote_is_not_taken_for_a_ready_file(
    start: Start, write: Write, tmp_path: Path, content: str
) -> None:
    (tmp_path / "mine").write_text(content)
    code, errors = start(write(), "--ready-file", "mine", as_json=False).end()
    assert code == 2
    assert problem_lines(errors) == [
        "theater-tcp: mine: --ready-file: is there, and was not written by a run: it stays"
    ]
    assert (tmp_path / "mine").read_text() == content


def test_what_stands_in_the_place_of_the_ready_file_stops_the_start(start: Start, write: Write, tmp_path: Path) -> None:
    code, errors = start(write("MakesFolder"), "--ready-file", "ready", as_json=False).end()
    assert code == EXIT_WRONG
    assert problem_lines(errors) == ["theater-tcp: ready: --ready-file: is a directory"]
    assert {path.name for path in tmp_path.iterdir()} <= {"ready", "echo.yaml", "cli_actors.py", "__pycache__"}
    code, errors = start(write(), "--ready-file", "ready", as_json=False).end()
    assert (code, problem_lines(errors)) == (EXIT_WRONG, ["theater-tcp: ready: --ready-file: is a directory"])


def test_the_ready_file_of_an_earlier_run_does_not_outlive_a_failed_start(
    start: Start, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "ready").write_text('{"pid": 1, "listeners": []}', encoding="utf-8")
    assert start(write("RaisesInStart", listen=""), "--ready-file", "ready").end()[0] == EXIT_WRONG
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_does_not_come_to_its_end(
    start: Start, write: Write, tmp_path: Path, number: signal.Signals
) -> None:
    first = write(name="first", rest=f"init: {{farewell: {tmp_path}/farewell}}\n")
    (tmp_path / "ready").write_text('{"pid": 1, "listeners": []}', encoding="utf-8")
    running = start(first, write("StartsForEver", "second"), "--drain-timeout", "0", "--ready-file", "ready")
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == "starting\n"
    assert not (tmp_path / "ready").exists()
    running.signal(number)
    code, errors = running.end()
    assert code == EXIT_CLEAN
    assert "Traceback" not in errors
    assert (tmp_path / "farewell").exists()


def test_with_json_a_problem_is_an_object(start: Start, write: Write) -> None:
    manifest = write("RaisesInStart", listen="")
    code, errors = start(manifest).end()
    assert code == EXIT_WRONG
    entries = [json.loads(line) for line in errors.splitlines()]
    assert [entry for entry in entries if "event" in entry] == [
        {"event": "problem", "file": manifest, "line": None, "key": "on_start", "reason": "ValueError: no luck"}
    ]


# -- check, version, usage: in this process ---------------------------------------------------------------------------


def test_check_says_of_each_manifest_whether_it_is_right(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = write(name="wrong", rest="  backlog: 0\n")
    assert main(["check", ECHO, wrong, "none.yaml"]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert output == f"{ECHO}: ok (echo: echo:Echo)\n"
    assert errors.splitlines() == [
        f"theater-tcp: {wrong}:5: tcp.backlog: expected a whole number from 1 to 65535, got 0",
        "theater-tcp: none.yaml: no such file or directory",
    ]
    assert main(["check", ECHO]) == EXIT_CLEAN


def test_check_refuses_together_what_run_does(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(name="one", rest="runtime: {resolver_threads: 2}\n")
    two = write(name="two", rest="runtime: {resolver_threads: 3}\n")
    assert main(["check", one, one, two]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert output == f"{one}: ok (one: cli_actors:Echo)\n"
    assert errors.splitlines() == [
        f"theater-tcp: {one}: name: 'one' is the name in {one} too",
        f"theater-tcp: {two}: runtime.resolver_threads: 3 here and 2 in {one}, and there is one runtime",
    ]
    assert main(["run", one, one, two]) == EXIT_WRONG
    assert capsys.readouterr().err == errors


def test_check_as_json_has_an_object_for_each_manifest(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = write(name="wrong", rest="  backlog: 0\n")
    assert main(["check", "--json", ECHO, wrong]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert errors == ""
    reason = "expected a whole number from 1 to 65535, got 0"
    assert [json.loads(line) for line in output.splitlines()] == [
        {"event": "check", "file": ECHO, "ok": True, "name": "echo", "python": "echo:Echo"},
        {
            "event": "check",
            "file": wrong,
            "ok": False,
            "problems": [{"file": wrong, "line": 5, "key": "tcp.backlog", "reason": reason}],
        },
    ]


@pytest.mark.parametrize("statement", ["import sys; sys.exit(3)", "raise SystemExit(3)", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_module_that_exits_when_it_is_imported_is_one_line(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, statement: str
) -> None:
    manifest = write()
    (tmp_path / "cli_actors.py").write_text(f"{statement}\n")
    assert main([command, manifest]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith(f"theater-tcp: {manifest}:2: python: can't import cli_actors: ")
    assert line.endswith(" (cli_actors.py:1)")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_stdout_s_encoding_has_not_is_escaped(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(write()).rename("日.yaml")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["check", "日.yaml"]) == EXIT_CLEAN
    assert written.getvalue() == b"\\u65e5.yaml: ok (echo: cli_actors:Echo)\n"


@pytest.mark.parametrize("words", [["check", ECHO], ["check", "--json", ECHO], ["--version"], ["--help"]])
def test_a_stdout_that_can_not_be_written_to_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == EXIT_OUTPUT
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert "stdout: no space left on device" in line
    assert line.startswith("{" if "--json" in words else "theater-tcp: ")


@pytest.mark.parametrize("words", [["check", ECHO], ["--version"], ["--help"]])
def test_a_reader_of_stdout_that_has_had_enough_is_no_problem(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(words) == 128 + signal.SIGPIPE
    assert capfd.readouterr() == ("", "")


def test_without_a_stdout_the_exit_code_tells_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["check", ECHO]) == EXIT_CLEAN
    assert main(["check", "none.yaml"]) == EXIT_WRONG


def test_with_json_the_log_and_python_s_warnings_are_objects_too(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = tmp_path / "guest.yaml"
    guest.write_text(f"name: guest\nactor: {ROOT}/actors/echo/wat/echo.wasm\nruntime: {{guest_cache: /proc/guests}}\n")
    manifest = write()
    (tmp_path / "cli_actors.py").write_text(f"{ACTORS}\nimport warnings\nwarnings.warn('odd', UserWarning)\n")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["check", "--json", manifest, str(guest)]) == EXIT_CLEAN
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(entry["logger"], entry["level"]) for entry in entries] == [
        ("py.warnings", "warning"),
        ("theater_tcp.guest", "warning"),
    ]


def test_check_starts_nothing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "Theater", None)
    assert main(["check", ECHO, "--set", "tcp.listen=127.0.0.1:0"]) == EXIT_CLEAN


def test_check_compiles_a_guest_with_the_settings_of_its_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "guest.yaml"
    guest = ROOT / "actors/echo/wat/echo.wasm"
    manifest.write_text(f"name: guest\nactor: {guest}\nruntime: {{guest_cache: compiled, guest_stack: 256 KiB}}\n")
    for _ in range(2):
        assert main(["check", str(manifest)]) == EXIT_CLEAN
        assert len(list((tmp_path / "compiled").glob("*.guest"))) == 1
    assert main(["check", str(manifest), "--set", "runtime.guest_stack=512 KiB"]) == EXIT_CLEAN
    assert len(list((tmp_path / "compiled").glob("*.guest"))) == 2


def test_check_says_of_a_guest_that_can_not_be_compiled_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.guests.wat_guests import guest  # noqa: PLC0415  # it loads wasmtime

    manifest = tmp_path / "guest.yaml"
    manifest.write_text("name: guest\nactor: guest.wasm\nruntime: {guest_cache: ''}\n")
    (tmp_path / "guest.wasm").write_bytes(guest(more="(type $s (struct (field i32))) (func (param (ref null $s)))"))
    assert main(["check", str(manifest), ECHO]) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert output == f"{ECHO}: ok (echo: echo:Echo)\n"
    (line,) = errors.splitlines()
    assert line.startswith(f"theater-tcp: {manifest}: actor: {tmp_path}/guest.wasm: can't be compiled: ")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == EXIT_CLEAN
    assert capsys.readouterr().out == f"theater-tcp {theater_tcp.__version__}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "a command is missing: run, check, certs (--help tells more)"),
        (["chek"], "No such command 'chek'. Did you mean 'check'?"),
        (["run"], "Missing argument 'MANIFEST"),
        (["check"], "Missing argument 'MANIFEST"),
        (["check", ECHO, "--bogus"], "No such option: --bogus"),
        (["run", ECHO, "--log-level", "loud"], "Invalid value for '--log-level': 'loud' is not one of 'debug'"),
        (["run", ECHO, "--drain-timeout", "soon"], "--drain-timeout: expected a duration as 30, 30 s"),
        (["run", ECHO, "--drain-timeout", "1000001"], "--drain-timeout: expected a duration of 0 to 1000000 s, got"),
        (["run", ECHO, "--set", "tcp.listen"], "--set: 'tcp.listen': expected key=value"),
        (["check", ECHO, "--set", "tcp.nodely=1"], f"{ECHO}: tcp.nodely: there is no such setting"),
        (["run", ECHO, ECHO], f"{ECHO}: name: 'echo' is the name in {ECHO} too"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == EXIT_WRONG
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"theater-tcp: {reason}")
    assert errors.count("\n") == 1


def test_with_json_a_wrong_command_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json", "--bogus"]) == EXIT_WRONG
    problem = json.loads(capsys.readouterr().err)
    assert (problem["reason"], problem["file"]) == ("No such option: --bogus", None)


def test_help_names_the_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == EXIT_CLEAN
    assert {"run", "check", "--version"} <= set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert main(["run", "-h"]) == EXIT_CLEAN
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert options == {"--set", "--ready-file", "--drain-timeout", "--log-level", "--json", "--help"}


def test_the_configuration_page_has_every_option() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = page.partition("## On the command line")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)
    assert sorted(documented) == ["--drain-timeout", "--json", "--log-level", "--ready-file", "--set"]


def test_a_mistake_of_the_program_itself_is_exit_code_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(cli, "load", broken)
    assert main(["check", ECHO]) == EXIT_INTERNAL
    errors = capsys.readouterr().err
    assert "RuntimeError: a mistake" in errors
    assert errors.splitlines()[-1].startswith("theater-tcp: this is a mistake of theater-tcp itself")
    assert main(["check", "--json", ECHO]) == EXIT_INTERNAL
    log, problem = map(json.loads, capsys.readouterr().err.splitlines())
    assert log["traceback"].endswith("RuntimeError: a mistake")
    assert problem["reason"].startswith("this is a mistake of theater-tcp itself")


def test_an_interrupt_before_anything_was_started_ends_like_the_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", interrupted)
    assert main(["check", ECHO]) == 130
