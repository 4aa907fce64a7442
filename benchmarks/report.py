"""How a run is shown: tables on the terminal, everything as JSON in a file."""

from __future__ import annotations

import os
import platform
import resource
import ssl
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.catalogue import OURS
from benchmarks.comparison import Comparison
from benchmarks.plan import Plan
from benchmarks.reach import Outcome, judge

__all__ = ["Bystanders", "Report", "machine", "print_comparison", "print_outcomes", "write"]


class Report(msgspec.Struct):
    """A whole run, as it is written to a file.

    Args:
        machine: what it ran on.
        rounds: rounds of each case.
        seconds: seconds of each load.
        quick: whether it was a quick run, whose figures mean little.
        missing: who did not take part, and why.
        comparisons: all rounds of all contestants.
        reach: what became of the goals.
    """

    machine: dict[str, str]
    rounds: int
    seconds: float
    quick: bool
    missing: dict[str, str]
    comparisons: list[Comparison]
    reach: list[Outcome]


def machine(descriptors: int) -> dict[str, str]:
    """What the figures depend on."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} × {cpu}",
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "openssl": ssl.OPENSSL_VERSION,
        "load": " ".join(_lines("/proc/loadavg")[0].split()[:3]),
        "descriptors": str(descriptors),
    }


class Bystanders:
    """How much of the machine's CPU time goes to programs that are no part of the run, from its making on."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.monotonic(), self._all_busy_s(), self._own_s()

    def share(self) -> float:
        """Their part of the time of all CPUs, 0 to 1; what our programs use that still run counts as theirs."""
        theirs = self._all_busy_s() - self._busy - (self._own_s() - self._own)
        whole = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        return min(max(theirs / whole, 0.0), 1.0)

    @staticmethod
    def _all_busy_s() -> float:
        user, nice, system, _, _, irq, softirq, steal = map(int, _lines("/proc/stat")[0].split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_s() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def print_comparison(console: Console, comparison: Comparison) -> None:
    """A comparison as a table, a line for each contestant."""
    table = Table(title=f"{comparison.suite}, {comparison.case}", title_justify="left", caption=comparison.about)
    table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    several = len(comparison.rounds) > 1
    if several:
        table.add_column(_ratio_heading(comparison), justify="right")
        table.add_column("rounds", justify="right", no_wrap=True)
    for column in comparison.columns:
        table.add_column(column.heading, justify="right")
    for name in comparison.rounds:
        cells = [_figure(comparison, name, column.figure, column.digits) for column in comparison.columns]
        table.add_row(name, *(_ratio(comparison, name) if several else ()), *cells, style=_style(comparison, name))
    if comparison.rounds:
        console.print(table)
    for name, reason in comparison.failures.items():
        console.print(Text(f"{name} dropped out: {reason}", style="red"))
    console.print()


def _ratio_heading(comparison: Comparison) -> str:
    others = set(comparison.against.values()) - set(comparison.rounds) or set(comparison.against.values())
    if not comparison.against:
        return "÷ ours"
    return f"÷ {others.pop()}" if len(others) == 1 else "÷ without"


def _ratio(comparison: Comparison, name: str) -> tuple[str, str]:
    ratios = sorted(comparison.ratios(name))
    if not ratios:
        return "", ""
    return f"{comparison.ratio(name):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


def _figure(comparison: Comparison, name: str, figure: str, digits: int) -> str:
    number = comparison.total(name, figure) if figure == "errors" else comparison.median(name, figure)
    return "" if number is None else f"{number:,.{digits}f}".replace(",", "\u2009")


def _style(comparison: Comparison, name: str) -> str:
    if comparison.total(name, "errors") or comparison.total(name, "dropped"):
        return "red"
    return "bold" if name.startswith(OURS) else ""


def print_outcomes(console: Console, outcomes: list[Outcome]) -> None:
    """A line for each goal, and whether it is met."""
    for outcome in outcomes:
        console.print(Text(str(outcome), style="green" if outcome.met else "red"))


def write(path: Path, plan: Plan, comparisons: list[Comparison], about: dict[str, str]) -> None:
    """Write the run to a file, as JSON."""
    report = Report(about, plan.rounds, plan.seconds, plan.quick, plan.missing, comparisons, judge(comparisons))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
