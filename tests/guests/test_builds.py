"""The guests that are committed: that they are what their hashes say, and what their sources make."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guests.guest_files import ACTORS, ENVIRONMENT, GUESTS, build, core_module, needs
from theater_tcp import Theater

FILES = sorted(path.relative_to(ACTORS).as_posix() for path in ACTORS.rglob("*.wasm"))


def test_every_committed_guest_has_the_hash_that_is_written_down() -> None:
    lines = (ACTORS / "SHA256SUMS").read_text().splitlines()
    written = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    assert written == {name: hashlib.sha256((ACTORS / name).read_bytes()).hexdigest() for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_committed_guest_is_a_component_that_the_runtime_takes(name: str) -> None:
    with Theater() as theater:
        program = theater.load_guest(ACTORS / name, grants=["clock"])
    assert {"init", "handle-connection-transfer", "on-data"} <= program.exports


@pytest.mark.parametrize("name", FILES)
def test_a_committed_guest_names_its_functions_and_no_place_of_the_machine_that_built_it(name: str) -> None:
    content = (ACTORS / name).read_bytes()
    module = core_module(content)
    assert b"\x04name" in module, "a trap's backtrace would have numbers only"
    assert b".debug_info" not in module
    places = set(re.findall(rb"/(?:home|root|tmp|work|usr|build)/[\w./-]*", content))
    # where Debian built the standard library; its messages name the file
    assert {place for place in places if not place.startswith(b"/usr/src/rustc-")} == set()


QUICK = [name for name in GUESTS if not name.endswith("/rust") or name == "echo/rust"]
"""Those that are built in seconds; `scripts/build-guests --check` compares all of them."""


@pytest.mark.parametrize("folder", [pytest.param(name, marks=needs(name.rpartition("/")[2])) for name in QUICK])
def test_the_same_tools_make_the_same_bytes_wherever_the_sources_lie(folder: str, tmp_path: Path) -> None:
    shutil.copytree(ACTORS, tmp_path / "actors", ignore=shutil.ignore_patterns("*.wasm", "__pycache__"))
    shutil.copytree(ACTORS.parent / "wit", tmp_path / "wit")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([tmp_path / "actors" / folder / "build", out], env=ENVIRONMENT, check=True)
    here = build(*folder.split("/"))
    made, made_here = ({path.name: path.read_bytes() for path in place.iterdir()} for place in (out, here))
    assert made == made_here
    beside, above = ACTORS / folder, (ACTORS / folder).parent
    assert all((beside / name).exists() or (above / name).exists() for name in made)
