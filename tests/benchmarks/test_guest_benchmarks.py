"""The benchmarks of guests: whether they work and what they say of a server is true, never what they measure."""

from __future__ import annotations

import smtplib
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.__main__ import SUITES
from benchmarks.catalogue import OURS
from benchmarks.comparison import Comparison
from benchmarks.load import HeldConnections, Load, run_load
from benchmarks.programs import build
from benchmarks.reach import GOALS, judge
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.guest_idle import fitting
from benchmarks.suites.guest_latency import BUSY, LOAD, PYTHON
from benchmarks.suites.guest_spawn import INSTANCE, SPAWN, SPAWN_INIT, WASMTIME
from benchmarks.suites.guests import ACTIVE, C_GUEST, LINEAR, POOLED, ROADS, WAITING, case_of, command_for, guest_file
from benchmarks.suites.messages import start_measure
from benchmarks.suites.smtp import COMMANDS
from benchmarks.suites.traffic import BULK

needs_compiler = pytest.mark.program("cc")

FEW = Load("4 × 64 B", "", "echo", 4)


@needs_compiler
@pytest.mark.parametrize("style", [ACTIVE, WAITING, POOLED])
def test_a_guest_sends_back_every_byte_in_every_style(style: str) -> None:
    build()
    with Server(C_GUEST, command_for("c", style)) as server:
        large = Load("64 KiB", "", "echo", 2, 65536, 4)
        for load in (FEW, large):
            result = run_load(server, load, seconds=0.05, warmup=0, verify=True)
            assert result.operations > 0
            assert result.errors == 0


@needs_compiler
@pytest.mark.parametrize("road", ROADS)
def test_a_guest_sends_back_every_byte_by_every_road(road: str) -> None:
    build()
    with Server(C_GUEST, command_for("c", ACTIVE, road)) as server:
        result = run_load(server, FEW, seconds=0.05, warmup=0, verify=True)
        assert result.operations > 0
        assert result.errors == 0


@needs_compiler
def test_each_waiting_guest_is_counted_with_the_resident_part_of_its_memory() -> None:
    build()
    with Server(C_GUEST, command_for("c", WAITING)) as server:
        with HeldConnections(server, 5):
            resident, guests = map(int, server.ask(LINEAR).split())
        assert guests == 5
        assert 5 * 4 <= resident <= 5 * 1024  # each has touched a page, and none may have more than its limit


def test_a_road_that_there_is_not_is_refused() -> None:
    with pytest.raises(ServerFailed, match="guest_echo: 'active' or 'magic' is unknown"):
        Server(C_GUEST, command_for("c", ACTIVE, "magic"))


@pytest.mark.parametrize(("used", "expected"), [(530, 100), (63_530, 100), (64_130, 40)])
def test_as_many_guests_are_measured_as_the_kernel_has_mappings_for(used: int, expected: int) -> None:
    assert fitting(100, 10.0, used, 65_530) == expected


def test_the_start_of_a_guest_is_measured_beside_wasmtimes_own_part() -> None:
    with start_measure("guests", "guests", guest_file("c"), "3") as program:
        for case in (WASMTIME, INSTANCE, SPAWN, SPAWN_INIT):
            figures = msgspec.json.decode(program.ask(case), type=dict[str, float])
            assert figures["cpu_us"] > 0


@needs_compiler
@pytest.mark.parametrize("echo", [PYTHON, guest_file("c")])
def test_an_echo_goes_on_beside_a_guest_that_never_waits(echo: str) -> None:
    build()
    with Server("busy", [sys.executable, "-m", "benchmarks.servers.guest_busy", echo, BUSY]) as server:
        result = run_load(server, LOAD, seconds=0.05, warmup=0)
        assert result.operations > 0
        assert result.errors == 0
        assert server.cpu_us() > 0


def test_a_message_to_the_smtp_guest_lies_in_the_maildir(tmp_path: Path) -> None:
    with Server("guest", [sys.executable, "-m", "benchmarks.servers.smtp_guest", str(tmp_path)]) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.sendmail("from@example.org", ["to@example.org"], b"Subject: x\r\n\r\nhello\r\n")
        (message,) = tmp_path.glob("**/new/*")
        assert message.read_bytes().endswith(b"\n\nhello\n")


def test_a_goal_of_a_guest_is_held_against_the_python_echos_cost_divided_by_its_own() -> None:
    rounds = {OURS: [{"cpu_us": 7.0}], C_GUEST: [{"cpu_us": 10.0}]}
    outcomes = [str(each) for each in judge([Comparison("guests", case_of(ACTIVE, BULK), "", "cpu_us", (), rounds)])]
    assert f"guests, active, 8 × 64 KiB: {C_GUEST}: reach 0.7 × the echo in Python: 0.70 yes" in outcomes


def test_every_suite_of_guests_has_a_goal() -> None:
    named = {name for name in SUITES if "guest" in name}
    assert named == {"guests", "guest-idle", "guest-spawn", "guest-latency", "smtp-guest"}
    assert named <= {goal.suite for goal in GOALS}
    assert "guest" not in COMMANDS  # the suite `smtp` stays what it was
