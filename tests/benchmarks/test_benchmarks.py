"""The benchmarks themselves: whether they work, never what they measure."""

from __future__ import annotations

import contextlib

import pytest

from benchmarks.catalogue import OURS, PEERS
from benchmarks.comparison import Column, Comparison, take_turns
from benchmarks.load import HeldConnections, Load, run_load
from benchmarks.programs import build
from benchmarks.reach import judge
from benchmarks.server import Server, ServerFailed

PING_PONG = Load("4 × 64 B", "", "echo", 4)


@pytest.mark.program("cc")
def test_a_load_of_two_servers_in_turn_counts_operations_and_no_errors() -> None:
    build()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(peer.name, peer.command)) for peer in PEERS if peer.name in (OURS, "c")]
        for server in servers:
            result = run_load(server, PING_PONG, seconds=0.2, warmup=0, verify=True)
            assert result.operations > 0
            assert result.errors == 0
            assert result.server_cpu_us > 0
            with HeldConnections(server, 10) as held:
                assert server.memory().rss_kib > 0
            assert held.dropped == 0


def test_a_program_that_does_not_say_ready_is_named_with_its_last_words() -> None:
    with pytest.raises(ServerFailed, match="sleepy did not say READY and its port: not today"):
        Server("sleepy", ["sh", "-c", "echo not today >&2"])


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    rounds = {OURS: [{"cpu_us": 1.0}, {"cpu_us": 2.0}, {"cpu_us": 10.0}], "c": [{"cpu_us": n} for n in (1.0, 1.0, 9.0)]}
    comparison = Comparison("echo", "", "", "cpu_us", (Column("cpu_us", "CPU"),), rounds)
    assert comparison.ratios("c") == [1.0, 0.5, 0.9]
    assert comparison.ratio("c") == 0.9
    assert comparison.median("c", "cpu_us") == 1.0
    assert comparison.ratio("nobody") is None


def test_a_contestant_that_fails_drops_out_and_the_others_go_on() -> None:
    def fail() -> dict[str, float]:
        raise ServerFailed("it went away")

    rounds, failures = take_turns({"well": lambda: {"cpu_us": 1.0}, "unwell": fail}, 3)
    assert rounds == {"well": [{"cpu_us": 1.0}] * 3}
    assert failures == {"unwell": "it went away"}


@pytest.mark.parametrize(("peer_cost", "met"), [(7.9, True), (7.7, False)])
def test_a_goal_is_held_against_the_peers_cost_divided_by_ours(peer_cost: float, met: bool) -> None:
    rounds = {OURS: [{"cpu_us": 10.0}], "uvloop": [{"cpu_us": peer_cost}]}
    outcomes = {str(outcome): outcome for outcome in judge([Comparison("echo", "few", "", "cpu_us", (), rounds)])}
    reached = f"{peer_cost / 10:.2f} {'yes' if met else 'NO'}"
    assert f"echo, few: reach 0.78 × uvloop: {reached}" in outcomes
    assert "echo, few: reach 1.8 × erlang: not measured" in outcomes
