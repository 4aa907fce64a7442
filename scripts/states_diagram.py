"""Draws the life cycle of a connection into ``docs/connection-life-cycle.md``, from the table of its state machine.

``--check`` writes nothing and fails where the page shows something else than the table says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from theater_tcp.connection_state import REFUSALS, TRANSITIONS, Event, Phase

__all__ = ["draw", "main", "tabulate"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "connection-life-cycle.md"
INNER = (Event.SECURE, Event.FAIL, Event.RELEASE)
"""What happens to a connection without a call of its owner."""

HELD = [phase for phase in Phase if phase is not Phase.HANDSHAKING]
"""The phases in which an owner has a handle: of a handshake at accept it hears when it is done."""

BIRTHS = (
    (Phase.HANDSHAKING, "accepted, TLS from the first byte"),
    (Phase.PENDING, "accepted"),
    (Phase.OPEN, "connected"),
)
"""How a connection begins."""


def draw() -> str:
    """The table as a Mermaid state diagram: one arrow for each pair of phases, labelled with its events."""
    labels: dict[tuple[Phase, Phase], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        labels.setdefault((before, after), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {phase.value} : {how}" for phase, how in BIRTHS]
    lines += [
        f"    {before.value} --> {after.value} : {', '.join(events)}" for (before, after), events in labels.items()
    ]
    lines += [f"    {Phase.CLOSED.value} --> [*]", "```"]
    return "\n".join(lines)


def tabulate() -> str:
    """Which call is allowed in which phase: the phase that follows where it is another one, else the error's kind."""
    lines = [f"| call | {' | '.join(phase.value for phase in HELD)} |", f"|---|{'---|' * len(HELD)}"]
    for event in Event:
        if event not in INNER:
            lines.append(f"| {event.value} | {' | '.join(cell(phase, event) for phase in HELD)} |")
    return "\n".join(lines)


def cell(phase: Phase, event: Event) -> str:
    """One cell of the table, as Markdown."""
    after = TRANSITIONS.get((phase, event))
    if after is None:
        return f"`{REFUSALS[phase, event].kind}`"
    return "yes" if after is phase else f"yes → {after.value}"


def redrawn(page: str, name: str, content: str) -> str | None:
    """The page with ``content`` between the two comments of that name; None where it hasn't got them."""
    begin, end = f"<!-- {name}, by scripts/states-diagram -->", f"<!-- end of {name} -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}" if found_begin and found_end else None


def main(arguments: list[str]) -> int:
    """Draw into the page, or with ``--check`` compare; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(f"states-diagram: unknown argument {arguments[0]!r}; it knows --check", file=sys.stderr)
        return 2
    page = drawn = PAGE.read_text(encoding="utf-8")
    for name, content in (("diagram", draw()), ("table of calls", tabulate())):
        result = redrawn(drawn, name, content)
        if result is None:
            print(f"states-diagram: docs/{PAGE.name} has lost the comments around its {name}", file=sys.stderr)
            return 1
        drawn = result
    if drawn == page:
        return 0
    if arguments:
        print(f"docs/{PAGE.name} shows another table than connection_state.py has: run scripts/states-diagram")
        return 1
    PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
