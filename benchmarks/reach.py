"""What the runtime is meant to reach, and whether a run's figures do."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from benchmarks.catalogue import OURS
from benchmarks.comparison import Comparison
from benchmarks.suites.actors import BESIDE_FEW, BESIDE_MANY, CASES, LIVE
from benchmarks.suites.guest_idle import COUNT
from benchmarks.suites.guest_latency import BESIDE_BUSY
from benchmarks.suites.guest_spawn import SPAWN, SPAWN_INIT, START, WASMTIME
from benchmarks.suites.guests import ACTIVE, C_GUEST, RUST_GUEST, WAITING, case_of
from benchmarks.suites.handshakes import FULL, FULL_ONES, RESUMED, UPGRADE, UPGRADED
from benchmarks.suites.idle import BESIDE
from benchmarks.suites.smtp import AIOSMTPD, GUEST, OURS_FSYNC
from benchmarks.suites.smtp_tls import BEYOND
from benchmarks.suites.tls import BARE, TLS_BULK, TLS_ECHO
from benchmarks.suites.traffic import BULK, ECHO

__all__ = ["GOALS", "Goal", "Outcome", "judge"]


class Goal(msgspec.Struct, frozen=True):
    """One thing to be reached.

    Args:
        suite: the suite that measures it.
        what: the goal in words; the bound is put where ``{}`` stands.
        bound: the number.
        most: the bound is the most that is allowed (else the least).
        contestant: whose figure is the dividend; the figure itself is taken where ``other`` is empty.
        other: whose figure is the divisor.
        figure: which figure; the comparison's cost where it is empty.
        case: the one case it is about; each case of the suite where it is empty.
    """

    suite: str
    what: str
    bound: float
    most: bool = False
    contestant: str = OURS
    other: str = ""
    figure: str = ""
    case: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a goal in one case.

    Args:
        goal: the goal in words, with its bound.
        suite, case: where it was measured.
        reached: the number that was reached, None where a peer was missing.
        met: whether that is enough.
        most: whether the bound is the most that is allowed.
    """

    goal: str
    suite: str
    case: str
    reached: float | None
    met: bool
    most: bool

    def __str__(self) -> str:
        if self.reached is None:
            return f"{self.suite}, {self.case}: {self.goal}: not measured"
        # Rounded away from the goal, so that the number never looks better than the verdict.
        hundredths = round(self.reached * 100, 6)
        number = (math.ceil(hundredths) if self.most else math.floor(hundredths)) / 100
        shown = f"{number:.0f}" if number >= 100 else f"{number:.2f}"
        return f"{self.suite}, {self.case}: {self.goal}: {shown} {'yes' if self.met else 'NO'}"


def _times(suite: str, peer: str, bound: float, case: str = "") -> Goal:
    return Goal(suite, f"reach {{}} × {peer}", bound, contestant=peer, other=OURS, case=case)


_GUESTS = (
    (ACTIVE, ECHO[0], 0.4),
    (ACTIVE, BULK, 0.7),
    (WAITING, ECHO[0], 0.33),
    (WAITING, BULK, 0.6),
)

GOALS = (
    _times("echo", "uvloop", 0.78),
    _times("echo", "asyncio", 1.05),
    _times("echo", "erlang", 1.8),
    _times("bulk", "uvloop", 0.85),
    _times("bulk", "asyncio", 1.1),
    _times("churn", "uvloop", 0.85),
    _times("churn", "asyncio", 1.5),
    Goal("idle", "reach at most {} KiB RSS for each idle connection", 3, most=True, figure="rss_kib"),
    Goal("beside-idle", "reach at most {} × the cost alone", 1.1, most=True, contestant=OURS + BESIDE, other=OURS),
    Goal("messages", "reach {} × threads", 4, contestant="threads", other=OURS, case="tell from the loop"),
    Goal("messages", "reach {} × threads", 3, contestant="threads", other=OURS, case="tell from another thread"),
    *(
        Goal("actors", "reach at most {} × the cost beside few", 1.1, True, BESIDE_MANY, BESIDE_FEW, case=case)
        for case in CASES
    ),
    Goal("actors", "reach {} live connections, each an actor", 19_000, figure="actors", case=LIVE),
    Goal("smtp", f"reach {{}} × {AIOSMTPD}, without fsync", 8, contestant=AIOSMTPD, other=OURS),
    Goal("smtp", f"reach {{}} × {AIOSMTPD}, with fsync", 5, contestant=AIOSMTPD, other=OURS_FSYNC),
    _times("tls", "asyncio", 2, TLS_ECHO.name),
    _times("tls", "uvloop", 1, TLS_ECHO.name),
    _times("tls", "asyncio", 1, TLS_BULK.name),
    _times("tls", "uvloop", 0.95, TLS_BULK.name),
    _times("handshakes", "raw", 0.8, FULL),
    Goal("handshakes", "reach {} × the full ones", 1.15, contestant=FULL_ONES, other=OURS, case=RESUMED),
    Goal("handshakes", "reach at most {} × one at accept", 1.1, True, OURS + UPGRADED, OURS, case=UPGRADE),
    Goal("tls-idle", "reach at most {} × a bare SSLObject", 1.2, True, OURS, BARE),
    Goal("smtp-tls", f"reach {{}} × {AIOSMTPD} beyond the handshake", 3, False, AIOSMTPD, OURS, BEYOND),
    *(
        Goal(
            "guests", f"{guest}: reach {{}} × the echo in Python", bound, False, OURS, guest, case=case_of(style, load)
        )
        for style, load, bound in _GUESTS
        for guest in (C_GUEST, RUST_GUEST)
    ),
    Goal("guest-idle", "reach at most {} KiB for each guest beside its own memory", 40, True, C_GUEST),
    Goal("guest-idle", "reach {} guests in one process", COUNT, False, C_GUEST, figure="guests"),
    *(
        Goal("guest-spawn", f"{spawn}: reach at most {{}} × {WASMTIME}", 2, True, spawn, WASMTIME, case=START)
        for spawn in (SPAWN, SPAWN_INIT)
    ),
    *(
        Goal("guest-latency", f"{echo}: wait at most {{}} ms", 20, True, echo + BESIDE_BUSY, figure="max_ms")
        for echo in (OURS, C_GUEST)
    ),
    Goal("smtp-guest", f"reach {{}} × {AIOSMTPD}", 3, False, AIOSMTPD, GUEST),
)
"""The goals. A goal of ``0.78 × uvloop`` is met where uvloop's cost divided by ours is at least 0.78."""


def judge(comparisons: Iterable[Comparison]) -> list[Outcome]:
    """Every goal held against every comparison that it is about."""
    return [
        _outcome(goal, comparison)
        for comparison in comparisons
        for goal in GOALS
        if goal.suite == comparison.suite and goal.case in ("", comparison.case)
    ]


def _outcome(goal: Goal, comparison: Comparison) -> Outcome:
    if goal.other:
        reached = comparison.ratio(goal.contestant, goal.other, goal.figure)
    else:
        reached = comparison.median(goal.contestant, goal.figure or comparison.cost)
    met = reached is not None and (reached <= goal.bound if goal.most else reached >= goal.bound)
    return Outcome(goal.what.format(f"{goal.bound:g}"), comparison.suite, comparison.case, reached, met, goal.most)
