"""The cache of compiled guests: it gives back what was put into it and nothing else, and never stands in the way."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar
from unittest import mock

import pytest
import wasmtime

from tests.guests.guest_files import ACTORS, core_module
from tests.peers import dial, receive_exactly
from theater_tcp import Settings, Theater
from theater_tcp.guest import compile_cache
from theater_tcp.guest.compile_cache import HEADER, CompileCache, default_folder
from theater_tcp.manifest import load

ECHO = core_module((ACTORS / "echo" / "c" / "echo.wasm").read_bytes())

PAYLOAD = bytes(range(256)) * 4

LINES = 100
"""Rounds of each of the processes that share a folder."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a" / "guests"


@pytest.fixture
def cache(folder: Path) -> CompileCache:
    return CompileCache(folder)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "theater_tcp.guest")
    return caplog


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.guest"))


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.part"))


def only_entry(folder: Path) -> Path:
    (entry,) = entries(folder)
    return entry


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_what_was_put_in_comes_back_also_for_another_who_opens_the_folder(cache: CompileCache, folder: Path) -> None:
    cache.put("one", PAYLOAD)
    cache.put("two", b"")
    for each in (cache, CompileCache(folder)):
        assert each.get("one") == PAYLOAD
        assert each.get("two") == b""
        assert each.get("three") is None


def test_what_is_put_in_again_takes_the_place_of_what_was_there(cache: CompileCache, folder: Path) -> None:
    cache.put("one", b"old")
    cache.put("one", b"new")
    assert cache.get("one") == b"new"
    assert len(entries(folder)) == 1


def test_a_look_into_a_folder_that_is_not_there_does_not_make_one(
    cache: CompileCache, folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    assert cache.get("one") is None
    assert not folder.parent.exists()
    assert not warnings.records


def test_folder_and_files_are_for_their_owner_alone_whatever_the_umask_is(cache: CompileCache, folder: Path) -> None:
    before = os.umask(0)
    try:
        cache.put("one", PAYLOAD)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_any_text_can_be_a_key(cache: CompileCache) -> None:
    for number, key in enumerate(("", "a/../b\0c", "\ud800", "k" * 100_000)):
        cache.put(key, b"%d" % number)
        assert cache.get(key) == b"%d" % number


# -- what is not taken for its own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [0, 7])
def test_a_file_with_any_bit_turned_over_is_thrown_away(cache: CompileCache, folder: Path, bit: int) -> None:
    cache.put("one", b"machine code")
    entry = only_entry(folder)
    whole = entry.read_bytes()
    assert len(whole) == HEADER + len(b"machine code")
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << bit
        entry.write_bytes(altered)
        assert cache.get("one") is None, f"byte {place}"
        assert not entry.exists()
        entry.touch(0o600)
    entry.write_bytes(whole)
    assert cache.get("one") == b"machine code"


def test_a_file_that_ends_early_or_late_is_thrown_away(cache: CompileCache, folder: Path) -> None:
    cache.put("one", b"machine code")
    entry = only_entry(folder)
    whole = entry.read_bytes()
    for altered in (*(whole[:size] for size in range(len(whole))), whole + b"\0", whole + whole, b"\0" * len(whole)):
        entry.touch(0o600)
        entry.write_bytes(altered)
        assert cache.get("one") is None, f"{len(altered)} bytes"
        assert not entry.exists()


def test_a_file_can_not_stand_for_another_guest(cache: CompileCache, folder: Path) -> None:
    cache.put("one", b"first")
    first = only_entry(folder)
    cache.put("two", b"second")
    (second,) = set(entries(folder)) - {first}
    first.replace(second)
    assert cache.get("two") is None


def test_a_file_that_another_version_wrote_is_thrown_away(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(compile_cache, "VERSION", compile_cache.VERSION + 1)
        cache.put("one", PAYLOAD)
        assert cache.get("one") == PAYLOAD
    assert cache.get("one") is None
    assert entries(folder) == []


def test_a_file_from_another_folder_is_thrown_away(cache: CompileCache, folder: Path, tmp_path: Path) -> None:
    cache.put("two", b"")
    other = tmp_path / "other"
    CompileCache(other).put("one", PAYLOAD)
    entry = folder / only_entry(other).name
    only_entry(other).replace(entry)
    assert cache.get("one") is None
    assert not entry.exists()


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o640, 0o606, 0o660, 0o602, 0o700, 0o4600])
def test_a_file_with_another_mode_is_thrown_away(cache: CompileCache, folder: Path, mode: int) -> None:
    cache.put("one", PAYLOAD)
    only_entry(folder).chmod(mode)
    assert cache.get("one") is None
    assert entries(folder) == []


def test_what_is_no_regular_file_is_thrown_away_and_what_it_points_to_stays(
    cache: CompileCache, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("one", PAYLOAD)
    entry = only_entry(folder)
    kept = tmp_path / "kept"
    entry.rename(kept)
    entry.symlink_to(kept)
    assert cache.get("one") is None
    assert not entry.is_symlink()
    assert kept.exists()
    os.mkfifo(entry, 0o600)
    assert cache.get("one") is None
    assert not entry.exists()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)
        listener.bind(entry.name)
        assert cache.get("one") is None
    assert not entry.exists()


def test_a_folder_in_the_place_of_a_file_is_in_nobodys_way(
    cache: CompileCache, folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    entry = only_entry(folder)
    entry.unlink()
    entry.mkdir()
    assert cache.get("one") is None
    cache.put("one", PAYLOAD)
    assert cache.get("one") is None
    assert len(warnings.records) == 1
    assert parts(folder) == []


@pytest.mark.parametrize("damage", ["gone", "torn", "long", "open to others", "a link"])
def test_without_its_secret_a_folder_is_as_good_as_empty_and_gets_a_new_one(
    cache: CompileCache, folder: Path, damage: str, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    secret = folder / "secret"
    content = secret.read_bytes()
    if damage == "open to others":
        secret.chmod(0o644)
    elif damage == "a link":
        (folder / "elsewhere").write_bytes(content)
        (folder / "elsewhere").chmod(0o600)
        secret.unlink()
        secret.symlink_to("elsewhere")
    else:
        secret.unlink()
        if damage != "gone":
            secret.touch(0o600)
            secret.write_bytes(content[:10] if damage == "torn" else content + b"more")
    assert cache.get("one") is None
    cache.put("one", PAYLOAD)
    assert cache.get("one") == PAYLOAD
    assert secret.read_bytes() != content
    assert not warnings.records


# -- whose folder it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(
    cache: CompileCache, folder: Path, mode: int, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    folder.chmod(mode)
    assert cache.get("one") is None
    cache.put("two", PAYLOAD)
    assert len(entries(folder)) == 1
    (record,) = warnings.records
    assert record.getMessage() == f"no cache of compiled guests in {folder}: other users may write there"


def test_a_folder_below_one_that_others_can_write_to_is_not_used(
    cache: CompileCache, folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    folder.parent.chmod(0o770)
    assert cache.get("one") is None
    (record,) = warnings.records
    assert record.getMessage().endswith(f"other users may write to {folder.parent}")


def test_a_folder_below_one_where_nobody_can_move_what_is_not_his_own_is_used(
    cache: CompileCache, folder: Path
) -> None:
    cache.put("one", PAYLOAD)
    folder.parent.chmod(0o1777)
    assert cache.get("one") == PAYLOAD


def test_the_folders_above_the_home_are_not_looked_at(
    cache: CompileCache, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("one", PAYLOAD)
    tmp_path.chmod(0o777)
    assert CompileCache(folder).get("one") is None
    monkeypatch.setenv("HOME", str(folder.parent))
    assert CompileCache(folder).get("one") == PAYLOAD


def test_a_folder_of_another_user_is_not_used(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.get("one") is None
    (record,) = warnings.records
    assert record.getMessage().endswith("it belongs to another user")


def owned_by_another(found: os.stat_result) -> os.stat_result:
    """The same as of another user."""
    return os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))


def test_a_folder_below_one_of_another_user_is_not_used(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    lstat = Path.lstat
    monkeypatch.setattr(
        Path, "lstat", lambda path: owned_by_another(lstat(path)) if path == folder.parent else lstat(path)
    )
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid)
    assert cache.get("one") is None
    (record,) = warnings.records
    assert record.getMessage().endswith(f"{folder.parent} belongs to another user")


def test_a_file_of_another_user_is_thrown_away(
    cache: CompileCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("one", PAYLOAD)
    fstat = os.fstat

    def of_a_file(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        return owned_by_another(found) if stat.S_ISREG(found.st_mode) else found

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", of_a_file)
        assert cache.get("one") is None
    assert entries(folder) == []


def test_a_folder_that_is_reached_by_a_link_is_judged_by_where_it_is(
    cache: CompileCache, folder: Path, tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    (tmp_path / "link").symlink_to(folder.parent)
    assert CompileCache(tmp_path / "link" / "guests").get("one") == PAYLOAD
    folder.parent.chmod(0o777)
    assert CompileCache(tmp_path / "link" / "guests").get("one") is None
    assert len(warnings.records) == 1


def test_what_else_lies_in_the_folder_is_left_alone(cache: CompileCache, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    others = [folder / name for name in ("notes.txt", "work.part", "secret.guest", f"{'0' * 63}.guest")]
    for other in others:
        other.write_bytes(b"mine")
    small = CompileCache(folder, max_bytes=2 * (HEADER + 100))
    for number in range(5):
        small.put(str(number), bytes(100))
    assert all(other.read_bytes() == b"mine" for other in others)


# -- the bound --------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_the_longest_time_goes_first(folder: Path) -> None:
    cache = CompileCache(folder, max_bytes=3 * (HEADER + 100))
    for number, key in enumerate(("a", "b", "c")):
        before = set(entries(folder))
        cache.put(key, bytes(100))
        (entry,) = set(entries(folder)) - before
        os.utime(entry, (number, number))
    assert cache.get("a") == bytes(100)  # and with that it was used last
    cache.put("d", bytes(100))
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("e", bytes(2 * (HEADER + 100) - HEADER))
    assert len(entries(folder)) <= 2
    assert sum(entry.stat().st_size for entry in entries(folder)) <= cache.max_bytes
    assert cache.get("e") is not None


def test_what_is_larger_than_the_whole_cache_is_not_kept_and_nothing_goes_for_it(folder: Path) -> None:
    cache = CompileCache(folder, max_bytes=1000)
    cache.put("one", bytes(1000 - HEADER))
    assert cache.get("one") is not None
    cache.put("two", bytes(1001 - HEADER))
    assert cache.get("two") is None
    assert cache.get("one") is not None


# -- crashes ----------------------------------------------------------------------------------------------------------

HALF_A_WRITE = """
import os, sys, time
from pathlib import Path
from theater_tcp.guest.compile_cache import CompileCache

cache = CompileCache(Path(sys.argv[1]))
cache.put("before", b"whole")
write = os.write

def half(descriptor, data):
    if len(data) < 1000:
        return write(descriptor, data)
    written = write(descriptor, data[: len(data) // 2])
    print("half", flush=True)
    sys.stdin.read()

os.write = half
cache.put("one", bytes(1 << 20))
"""


def test_a_process_that_is_killed_in_the_middle_of_a_write_leaves_nothing_behind_for_long(
    cache: CompileCache, folder: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HALF_A_WRITE, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        assert len(parts(folder)) == 1
        cache.put("meanwhile", b"kept")
        assert len(parts(folder)) == 1, "it is still being written"
        writer.kill()
    (left,) = parts(folder)
    assert left.stat().st_size > 1 << 19
    assert cache.get("one") is None
    assert cache.get("before") == b"whole"
    cache.put("one", PAYLOAD)
    assert cache.get("one") == PAYLOAD
    assert cache.get("meanwhile") == b"kept"
    assert parts(folder) == []


def test_parts_with_the_names_of_the_program_that_are_no_files_of_its_own_stop_nobody(
    cache: CompileCache, folder: Path
) -> None:
    cache.put("one", PAYLOAD)
    name = f"{'0' * 64}.{'0' * 15}"
    (folder / f"{name}1.part").mkdir()
    (folder / f"{name}2.part").symlink_to(folder / "secret")
    os.mkfifo(folder / f"{name}3.part")
    cache.put("two", PAYLOAD)
    assert cache.get("two") == PAYLOAD
    assert (folder / "secret").exists()


SHARED = """
import sys
from pathlib import Path
from theater_tcp.guest.compile_cache import HEADER, CompileCache

number, rounds = int(sys.argv[2]), int(sys.argv[3])
cache = CompileCache(Path(sys.argv[1]), max_bytes=6 * (HEADER + 40_000))
for turn in range(rounds):
    key = f"{(turn * 7 + number) % 8}"
    found = cache.get(key)
    assert found is None or found == key.encode() * 40_000, key
    cache.put(key, key.encode() * 40_000)
"""


def test_processes_that_share_a_folder_never_see_what_is_not_whole(folder: Path) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, folder, str(number), str(LINES)], stderr=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    assert [run.communicate()[1] for run in runs] == [""] * 3  # no failure, and no warning
    assert [run.returncode for run in runs] == [0] * 3
    assert parts(folder) == []
    assert sum(entry.stat().st_size for entry in entries(folder)) <= 6 * (HEADER + 40_000)


def test_threads_that_share_a_cache_never_see_what_is_not_whole(cache: CompileCache, folder: Path) -> None:
    wrong: list[object] = []

    def run(number: int) -> None:
        for turn in range(30):
            key = str((turn + number) % 3)
            cache.put(key, key.encode() * 5000)
            found = cache.get(key)
            if found is not None and found != key.encode() * 5000:
                wrong.append(found)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert parts(folder) == []


# -- the disk ---------------------------------------------------------------------------------------------------------


def fail(error: int) -> object:
    def failing(*_: object, **__: object) -> object:
        raise OSError(error, os.strerror(error))

    return failing


@pytest.mark.parametrize("step", ["write", "rename", "link", "scandir", "fchmod", "mkdir"])
def test_a_disk_that_is_full_or_read_only_costs_the_cache_and_one_warning(
    cache: CompileCache, folder: Path, step: str, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail(errno.ENOSPC))
        for _ in range(3):
            cache.put("one", PAYLOAD)
            cache.get("one")
    (record,) = warnings.records
    assert record.getMessage() == f"no cache of compiled guests in {folder}: No space left on device"
    assert parts(folder) == []
    cache.put("one", PAYLOAD)
    assert cache.get("one") == PAYLOAD


def test_a_disk_that_can_only_be_read_still_gives_what_is_on_it(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    cache.put("one", PAYLOAD)
    for step in ("utime", "unlink", "mkdir", "write", "rename", "fchmod"):
        monkeypatch.setattr(os, step, fail(errno.EROFS))
    assert cache.get("one") == PAYLOAD
    assert not warnings.records


@pytest.mark.parametrize("place", ["/proc/no/such/place", "/dev/null/guests", "a\0b"])
def test_a_place_where_no_folder_can_be_costs_the_cache_and_one_warning(
    place: str, warnings: pytest.LogCaptureFixture
) -> None:
    cache = CompileCache(Path(place))
    for _ in range(2):
        cache.put("one", PAYLOAD)
        assert cache.get("one") is None
    assert len(warnings.records) == 1


def test_a_file_that_does_not_fit_any_more_leaves_the_old_one(folder: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from theater_tcp.guest.compile_cache import CompileCache

cache = CompileCache(Path(sys.argv[1]))
cache.put("one", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
cache.put("one", bytes(1 << 20))
assert cache.get("one") == b"old"
"""
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no cache of compiled guests in {folder}: File too large\n"
    assert parts(folder) == []


# -- the usual place --------------------------------------------------------------------------------------------------


def test_the_usual_place_is_that_of_the_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "theater-tcp" / "guests"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unfit in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unfit)
        assert default_folder() == Path("/home/somebody/.cache/theater-tcp/guests")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path("/home/somebody/.cache/theater-tcp/guests")


def test_without_a_home_there_is_no_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(_no_home))
    assert default_folder() is None


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


# -- in a runtime -----------------------------------------------------------------------------------------------------


class Compiled(wasmtime.Module):
    """Takes note of what is compiled."""

    seen: ClassVar[list[bytes]] = []

    def __init__(self, engine: wasmtime.Engine, wasm: str | bytes) -> None:
        assert isinstance(wasm, bytes)
        self.seen.append(wasm)
        super().__init__(engine, wasm)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(wasmtime, "Module", Compiled)
    monkeypatch.setattr(Compiled, "seen", [])
    return Compiled.seen


def echo_by(settings: Settings) -> None:
    with Theater(settings) as theater:
        guest = theater.spawn_guest(ECHO)
        with dial(theater.listen_for(guest, "127.0.0.1:0").address) as peer:
            peer.sendall(b"hello")
            assert receive_exactly(peer, 5) == b"hello"


def was_compiled(compiled: list[bytes]) -> bool:
    """Whether the guest was, since this was asked the last time."""
    found = any(len(wasm) == len(ECHO) and wasm == ECHO for wasm in compiled)
    compiled.clear()
    return found


def test_a_guest_is_compiled_once_and_then_again_when_it_or_the_configuration_is_another(
    folder: Path, compiled: list[bytes]
) -> None:
    settings = Settings(guest_cache=str(folder), drain_timeout=0)
    echo_by(settings)
    assert was_compiled(compiled)
    assert len(entries(folder)) == 1
    echo_by(settings)
    assert not was_compiled(compiled)
    echo_by(settings.replaced(guest_stack=256 << 10))
    assert was_compiled(compiled)
    assert len(entries(folder)) == 2
    with mock.patch("theater_tcp.guest.wasmtime_internals.VERSION", "another"):
        echo_by(settings)
    assert was_compiled(compiled)
    assert len(entries(folder)) == 3


def test_a_runtime_without_a_cache_compiles_each_time(
    compiled: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        echo_by(Settings(guest_cache="", drain_timeout=0))
        assert was_compiled(compiled)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_was_told_nothing_has_its_cache_in_the_usual_place(
    compiled: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for expected in (True, False):
        echo_by(Settings(drain_timeout=0))
        assert was_compiled(compiled) is expected
    assert len(entries(tmp_path / "cache" / "theater-tcp" / "guests")) == 1


def test_a_runtime_without_a_home_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_cache, "default_folder", lambda: None)
    echo_by(Settings(drain_timeout=0))
    told = [record.getMessage() for record in warnings.records if record.name == "theater_tcp.guest"]
    assert told == ["no cache of compiled guests: there is no home directory"]


def test_what_wasmtime_does_not_take_is_compiled_anew(
    folder: Path, compiled: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(guest_cache=str(folder), drain_timeout=0)
    with monkeypatch.context() as patch:
        patch.setattr(wasmtime.Module, "serialize", lambda _: bytearray(b"of another processor"))
        echo_by(settings)
    for expected in (True, False):
        compiled.clear()
        echo_by(settings)
        assert was_compiled(compiled) is expected


def test_the_folder_in_a_manifest_is_relative_to_it(tmp_path: Path) -> None:
    def chosen(value: str) -> object:
        file = tmp_path / "echo.yaml"
        file.write_text(f"name: echo\npython: actors.echo.echo:Echo\nruntime: {{guest_cache: {value}}}\n")
        return load(file).runtime["guest_cache"]

    assert chosen("cache") == str(tmp_path / "cache")
    assert chosen("/var/cache/guests") == "/var/cache/guests"
    assert chosen("''") == ""
    assert chosen("null") is None
