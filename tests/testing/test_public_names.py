"""What ``theater_tcp.testing`` offers is what ``docs/testing.md`` tells of, and the page's examples hold."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from theater_tcp import testing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_table_of_parts_names_every_public_part_and_no_other() -> None:
    table = PAGE[PAGE.index("## The parts") :]
    first_cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)", cell)]
    assert sorted(named) == sorted(testing.__all__)


def test_the_calls_of_a_peer_stand_in_their_table() -> None:
    peers = PAGE[PAGE.index("## Peers") : PAGE.index("## Time")]
    told = set(re.findall(r"`(\w+)\(", "".join(re.findall(r"^\| (.*?) \|", peers, re.MULTILINE))))
    calls = {name for name, value in vars(testing.Peer).items() if inspect.isfunction(value) and name[0] != "_"}
    assert told == calls - {"pump"}  # which is the stage's


@pytest.mark.parametrize("name", testing.__all__)
def test_a_public_part_and_its_methods_say_what_they_are(name: str) -> None:
    value = getattr(testing, name)
    silent = [
        method
        for method, function in vars(value).items()
        if inspect.isfunction(function) and not method.startswith("_") and not inspect.getdoc(function)
    ] if inspect.isclass(value) else []  # fmt: skip
    assert inspect.getdoc(value)
    assert silent == []


def test_the_first_example_of_the_page_is_a_test_that_passes() -> None:
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    names["test_what_was_sent_comes_back"]()
