"""A comparison: contestants measured in turn, round by round, and what follows from it.

Machines that do the measuring are shared and noisy, so contestants take turns within each round (A B C, A B C, …) and a
ratio is formed within a round, between neighbours in time; what is quoted is the median of the rounds' ratios, not the
ratio of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import msgspec

from benchmarks.catalogue import OURS
from benchmarks.server import ServerFailed

__all__ = ["Column", "Comparison", "Figures", "take_turns"]

Figures = dict[str, float]
"""What one round of one contestant gave, by the figure's name."""


class Column(msgspec.Struct, frozen=True):
    """A figure as the table shows it: its name, the column's heading, and digits behind the point."""

    figure: str
    heading: str
    digits: int = 1


class Comparison(msgspec.Struct):
    """What the rounds gave.

    Args:
        suite: the suite it belongs to.
        case: its name within the suite.
        about: what was measured, in words.
        cost: the figure whose ratios are formed; lower is better.
        columns: what the table shows.
        rounds: for each contestant the figures of its rounds, in order.
        against: for each contestant the one its ratio is formed with; ours where it is not named.
        failures: contestants that dropped out, with the reason.
    """

    suite: str
    case: str
    about: str
    cost: str
    columns: tuple[Column, ...]
    rounds: dict[str, list[Figures]]
    against: dict[str, str] = {}
    failures: dict[str, str] = {}

    def median(self, contestant: str, figure: str) -> float | None:
        """The median of a figure, or None where the contestant has none."""
        values = [figures[figure] for figures in self.rounds.get(contestant, ()) if figure in figures]
        return statistics.median(values) if values else None

    def total(self, contestant: str, figure: str) -> float:
        """The sum of a figure over the rounds."""
        return sum(figures.get(figure, 0) for figures in self.rounds.get(contestant, ()))

    def ratios(self, contestant: str, other: str = "", figure: str = "") -> list[float]:
        """For each round the contestant's figure divided by another's.

        Args:
            contestant: whose.
            other: the divisor's contestant; the one that ``against`` names where it is empty.
            figure: which one; the cost where it is empty.
        """
        figure = figure or self.cost
        other = other or self.against.get(contestant, OURS)
        pairs = zip(self.rounds.get(contestant, ()), self.rounds.get(other, ()), strict=False)
        return [mine[figure] / theirs[figure] for mine, theirs in pairs if mine.get(figure) and theirs.get(figure)]

    def ratio(self, contestant: str, other: str = "", figure: str = "") -> float | None:
        """The median of :meth:`ratios`, or None where there is none."""
        ratios = self.ratios(contestant, other, figure)
        return statistics.median(ratios) if ratios else None


def take_turns(
    contestants: Mapping[str, Callable[[], Figures]], rounds: int
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """Measure each contestant once in every round, in turn.

    Args:
        contestants: for each name the function that measures once.
        rounds: how many rounds.

    Returns:
        The figures of each contestant's rounds, and why some dropped out (their figures are left out too).
    """
    figures: dict[str, list[Figures]] = {name: [] for name in contestants}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for name, measure in contestants.items():
            if name in failures:
                continue
            try:
                figures[name].append(measure())
            except ServerFailed as error:
                failures[name] = str(error)
                del figures[name]
    return figures, failures
