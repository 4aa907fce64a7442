"""The command line: ``python -m benchmarks [SUITE ...]``, or ``scripts/bench``, which installs the peers before."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.catalogue import PEERS, choose
from benchmarks.certificate import Certificate
from benchmarks.comparison import Comparison
from benchmarks.plan import Plan
from benchmarks.programs import BuildFailed, build, build_tls
from benchmarks.reach import judge
from benchmarks.report import Bystanders, machine, print_comparison, print_outcomes, write
from benchmarks.servers.launch import raise_descriptor_limit
from benchmarks.suites.actors import actors
from benchmarks.suites.guest_idle import guest_idle
from benchmarks.suites.guest_latency import guest_latency
from benchmarks.suites.guest_spawn import guest_spawn
from benchmarks.suites.guests import guests
from benchmarks.suites.handshakes import handshakes
from benchmarks.suites.idle import beside_idle, idle
from benchmarks.suites.messages import messages
from benchmarks.suites.smtp import smtp, smtp_guest
from benchmarks.suites.smtp_tls import smtp_tls
from benchmarks.suites.tls import tls, tls_idle
from benchmarks.suites.traffic import bulk, churn, echo

__all__ = ["SECURE", "SUITES", "main", "run"]

SUITES: dict[str, Callable[[Plan], Iterator[Comparison]]] = {
    "echo": echo,
    "bulk": bulk,
    "churn": churn,
    "idle": idle,
    "beside-idle": beside_idle,
    "messages": messages,
    "actors": actors,
    "smtp": smtp,
    "tls": tls,
    "tls-idle": tls_idle,
    "handshakes": handshakes,
    "smtp-tls": smtp_tls,
    "guests": guests,
    "guest-idle": guest_idle,
    "guest-spawn": guest_spawn,
    "guest-latency": guest_latency,
    "smtp-guest": smtp_guest,
}
"""What can be measured, in the order in which it is."""

SECURE = {"tls", "tls-idle", "handshakes", "smtp-tls"}
"""What needs the load generator that speaks TLS, and a certificate."""


def run(
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure: {', '.join(SUITES)}. All of it if nothing is named.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured in a case.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long a load is measured each time.")] = 0.3,
    peers: Annotated[
        str, typer.Option(help=f"Servers to compare with, by comma: {', '.join(peer.name for peer in PEERS)}.")
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write every round to this file.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="See whether everything works, in two minutes; the figures mean little.")
    ] = False,
) -> None:
    """Compare the runtime with its peers: contestants in turn, medians, and which goals are met."""
    # Tables stay whole where the output is no terminal, whose width is not known.
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    wanted = suites or list(SUITES)
    if unknown := sorted(set(wanted) - set(SUITES)):
        _refuse(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    try:
        chosen, missing = choose(name.strip() for name in peers.split(",") if name.strip())
        build()
    except KeyError as error:
        _refuse(f"there is no peer {error.args[0]}; there are {', '.join(peer.name for peer in PEERS)}")
    except BuildFailed as error:
        _refuse(str(error))
    if json is not None and not json.parent.is_dir():
        _refuse(f"--json {json}: there is no folder {json.parent}")
    descriptors = raise_descriptor_limit()
    rounds, seconds = (1, 0.1) if quick else (rounds, seconds)
    plan = Plan(chosen, rounds, seconds, quick, descriptors, lambda line: console.print(line, style="dim"), missing)
    about = machine(descriptors)
    console.print(", ".join(f"{key}: {value}" for key, value in about.items()))
    console.print(f"open descriptors: got {descriptors}, so up to {plan.connections(10**6)} connections\n", style="dim")

    begun, bystanders, comparisons = time.monotonic(), Bystanders(), []
    with contextlib.ExitStack() as stack:
        if SECURE & set(wanted):
            try:
                build_tls()
                plan.certificate = stack.enter_context(Certificate.issued())
            except BuildFailed as error:
                plan.missing[", ".join(name for name in SUITES if name in SECURE & set(wanted))] = str(error)
        for name in [name for name in SUITES if name in wanted]:
            for comparison in SUITES[name](plan):
                comparisons.append(comparison)
                print_comparison(console, comparison)
                if json is not None:
                    write(json, plan, comparisons, about)
    print_outcomes(console, judge(comparisons))
    for name, reason in plan.missing.items():
        console.print(f"{name} did not take part: {reason}", style="red")
    remark = "; a quick run, its figures mean little" if quick else ""
    console.print(
        f"\n{time.monotonic() - begun:.0f} s; other programs used {bystanders.share():.0%} of the CPUs{remark}"
    )


def _refuse(reason: str) -> None:
    print(f"benchmarks: {reason}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
