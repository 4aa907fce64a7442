"""What is public is documented: ``theater_tcp.__all__`` and the tables of ``docs/api.md`` name the same."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import theater_tcp

API_PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"


def documented_names() -> list[str]:
    """The first cell of each table row that starts with a name in backquotes."""
    return re.findall(r"^\| `(\w+)`", API_PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_public_name_is_documented_and_no_other() -> None:
    assert sorted(documented_names()) == sorted(set(theater_tcp.__all__) - {"__version__"})


def test_the_public_names_stand_in_order_and_each_once() -> None:
    assert list(theater_tcp.__all__) == sorted(set(theater_tcp.__all__))


@pytest.mark.parametrize("name", theater_tcp.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(theater_tcp, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name} has no docstring"


@pytest.mark.parametrize("name", [n for n in theater_tcp.__all__ if inspect.isclass(getattr(theater_tcp, n))])
def test_a_public_method_says_what_it_does(name: str) -> None:
    silent = [
        f"{name}.{method}"
        for method, value in vars(getattr(theater_tcp, name)).items()
        if inspect.isfunction(value) and not method.startswith("_") and not inspect.getdoc(value)
    ]
    assert silent == []


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (Path(theater_tcp.__file__).parent / "py.typed").exists()
