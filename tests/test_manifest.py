"""Manifests: what a right one gives, and one line for each mistake, with the file, the line, the key and the reason."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pykka
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from theater_tcp import guest_settings
from theater_tcp.errors import InvalidArgument
from theater_tcp.guest_settings import GuestOptions, Limits
from theater_tcp.manifest import (
    MAX_MANIFEST,
    RUNTIME_FIELDS,
    ManifestError,
    Problem,
    load,
    parse_override,
    runtime_settings,
)
from theater_tcp.permissions import Permissions
from theater_tcp.settings import ListenOptions, Options, Settings
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

if TYPE_CHECKING:
    from tests.certificates_fixture import Certificates

ROOT = Path(__file__).resolve().parent.parent

ACTORS = """
import abc
import pykka


class Server(pykka.ThreadingActor):
    def __init__(self, hostname, *, size=3):
        super().__init__()

    def handle_connection(self, connection):
        pass


class Open(pykka.ThreadingActor):
    def __init__(self, **settings):
        super().__init__()


class Plain(pykka.ThreadingActor):
    pass


class Positional(pykka.ThreadingActor):
    def __init__(self, first, /):
        super().__init__()


class Unfinished(pykka.ThreadingActor):
    @abc.abstractmethod
    def rest(self):
        pass


class NoActor:
    pass


def function():
    pass
"""

GOOD = """
name: mail
python: actors_here:Server
init:
  hostname: mx.example.org
tcp:
  listen: ["127.0.0.1:2525"]
""".lstrip()

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with actors beside the manifests; what is imported in a test is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "actors_here.py").write_text(ACTORS, encoding="utf-8")
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a manifest, by default as ``m.yaml``."""

    def write(text: str | bytes, name: str = "m.yaml") -> Path:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / name).write_bytes(content)
        return Path(name)

    return write


def problems(file: Path | str, *overrides: str) -> list[str]:
    """The lines that a wrong manifest gives."""
    with pytest.raises(ManifestError) as caught:
        load(file, [parse_override(text) for text in overrides])
    lines = [str(problem) for problem in caught.value.problems]
    assert lines
    assert all(line.isprintable() and line.startswith(f"{file}") for line in lines)
    return lines


def only(file: Path | str, *overrides: str) -> str:
    (line,) = problems(file, *overrides)
    return line


# -- right ones -------------------------------------------------------------------------------------------------------


def test_a_manifest_names_a_class_its_arguments_and_its_listeners(write: Write) -> None:
    manifest = load(
        write(
            GOOD
            + """
  idle_timeout: 5 min
  read_buffer_limit: 64 KiB
  max_connections: 100
  unix_mode: "0660"
runtime:
  max_connections: 5000
  connect_timeout: 100 ms
drain_timeout: 10 s
"""
        )
    )
    assert (manifest.file, manifest.name, manifest.python) == ("m.yaml", "mail", "actors_here:Server")
    assert manifest.actor_class is sys.modules["actors_here"].Server
    assert manifest.init == {"hostname": "mx.example.org"}
    assert manifest.listen == ("127.0.0.1:2525",)
    assert manifest.options == {
        "idle_timeout": 300.0,
        "read_buffer_limit": 65536,
        "max_connections": 100,
        "unix_mode": 0o660,
    }
    assert manifest.runtime == {"max_connections": 5000, "connect_timeout": 0.1}
    assert manifest.drain_timeout == 10.0


def test_name_and_python_are_enough(write: Write) -> None:
    manifest = load(write("name: p\npython: actors_here:Plain\ninit:\ntcp:\nruntime:\n"))
    assert (manifest.init, manifest.listen, manifest.options, manifest.runtime) == ({}, (), {}, {})
    assert manifest.drain_timeout is None


def test_a_manifest_can_not_be_changed(write: Write) -> None:
    with pytest.raises(AttributeError):
        load(write(GOOD)).name = "other"  # type: ignore[misc]


def test_one_address_needs_no_list(write: Write) -> None:
    assert load(write(GOOD), [("tcp.listen", "127.0.0.1:0")]).listen == ("127.0.0.1:0",)


def test_a_relative_socket_path_is_relative_to_the_manifest(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "actors_here.py").write_text(ACTORS, encoding="utf-8")
    file = write(GOOD.replace("127.0.0.1:2525", "unix:run.sock"), "sub/m.yaml")
    assert load(file).listen == (f"unix:{tmp_path}/sub/run.sock",)


def test_every_option_of_a_connection_and_of_a_listener_is_a_key_under_tcp(write: Write) -> None:
    for cls in (Options, ListenOptions):
        for name in cls.field_names():
            value = getattr(cls(), name)
            manifest = load(write(GOOD), [(f"tcp.{name}", value)])
            assert manifest.options == {name: value}


def test_every_setting_of_the_runtime_is_a_key(write: Write) -> None:
    assert {*RUNTIME_FIELDS, "drain_timeout", "options", "listener", "permissions"} == set(Settings.field_names())
    for name in RUNTIME_FIELDS:
        value = "/a/folder" if name == "guest_cache" else 7
        assert load(write(GOOD), [(f"runtime.{name}", value)]).runtime == {name: value}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (r'"a\0b"', "is no path"),
        (r'"a\ud800b"', "is no path"),
        ("m.yaml", "is no folder"),
        ("m.yaml/compiled", "not a directory"),
        ("a" * 300, "file name too long"),
    ],
)
def test_what_can_be_no_folder_is_no_place_for_compiled_guests(write: Write, value: str, reason: str) -> None:
    text = f"name: p\npython: actors_here:Plain\nruntime: {{guest_cache: {value}}}\n"
    assert only(write(text)) == f"m.yaml:3: runtime.guest_cache: {reason}"


def test_the_manifests_of_the_example_actors_are_right(certificates: Certificates) -> None:
    files = sorted((ROOT / "actors").glob("*/*.yaml"))
    assert ROOT / "actors" / "echo" / "echo.yaml" in files
    own = [("tcp.server_tls.cert", certificates.server.cert), ("tcp.server_tls.key", certificates.server.key)]
    for file in files:
        # Their certificates are made by who runs them.
        manifest = load(file, own if "server_tls" in file.read_text(encoding="utf-8") else [])
        assert manifest.name


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_told() -> None:
    assert only("none.yaml") == "none.yaml: no such file or directory"


def test_a_directory_is_no_manifest(tmp_path: Path) -> None:
    assert only(tmp_path) == f"{tmp_path}: is a directory"


def test_a_path_with_a_nul_is_no_path() -> None:
    with pytest.raises(ManifestError, match="is no path"):
        load("a\0b")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "m.yaml: the file is empty"),
        (b"# a comment\n", "m.yaml: the file is empty"),
        (b"- a\n", "m.yaml: expected keys and values, got a list"),
        (b"text", "m.yaml: expected keys and values, got a text"),
        (
            b"a: [1\nb: 2",
            "m.yaml:2: not YAML: while parsing a flow sequence, expected ',' or ']', but got ':' (line 2, ",
        ),
        (b"a: b: c", "m.yaml:1: not YAML: mapping values are not allowed here (line 1, column 5)"),
        (b"a: 1\n---\nb: 2\n", "m.yaml:2: not YAML: expected a single document in the stream"),
        (b"a: \xff", "m.yaml: not YAML: invalid start byte (position 3)"),
        (b"a: \0", "m.yaml: not YAML: special characters are not allowed (position 3)"),
        (b"a: !!python/object/apply:os.getcwd []", "m.yaml:1: not YAML: could not determine a constructor for the tag"),
        (b"a: 2001-99-99", "m.yaml: not YAML: month must be in 1..12"),
        (b"a: " + b"9" * 5000, "m.yaml: not YAML: Exceeds the limit"),
        (b"? [a]\n: b", "m.yaml:1: not YAML: while constructing a mapping, found unhashable key"),
        (b"a: " + b"[" * 1000, "m.yaml: not readable: it is nested too deep"),
        (b"a: *nowhere", "m.yaml:1: not YAML: found undefined alias"),
        (b"#" * (MAX_MANIFEST + 1), "m.yaml: is larger than 1048576 bytes"),
    ],
    ids=lambda value: value[:20].decode("ascii", "replace") if isinstance(value, bytes) else "",
)
def test_what_is_no_manifest_is_refused_with_its_place(write: Write, content: bytes, reason: str) -> None:
    assert only(write(content)).startswith(reason)


def test_a_star_without_quotes_gets_a_hint(write: Write) -> None:
    assert "; a text that begins with '*' stands in quotes" in only(write("tcp:\n  listen: [*:25]\n"))


def test_a_circle_of_aliases_ends(write: Write) -> None:
    assert problems(write("a: &x [*x]\nname: mail\npython: actors_here:Plain\n")) == [
        "m.yaml:1: a: there is no such setting"
    ]


def aliases(levels: int) -> str:
    """A mapping in one line that has ten times as much in it, written out, with each level."""
    written = "{a: &a [" + ",".join("x" * 10) + "]"
    for level, name in enumerate("bcdefghi"[:levels]):
        written += f", {name}: &{name} [" + ", ".join([f"*{'abcdefghi'[level]}"] * 10) + "]"
    return written + "}"


@pytest.mark.parametrize("where", ["init", "tcp", "no_such_key"])
def test_aliases_that_would_be_endless_when_they_are_written_out_are_refused_with_their_line(
    write: Write, where: str
) -> None:
    text = f"name: mail\npython: actors_here:Open\n{where}: {aliases(8)}\n"
    assert only(write(text)) == f"m.yaml:3: {where}.g: is larger than 4194304 characters with its aliases written out"


def test_a_few_aliases_are_what_they_stand_for(write: Write) -> None:
    manifest = load(write(f"name: mail\npython: actors_here:Open\ninit: {aliases(2)}\n"))
    assert manifest.init["c"] == [[["x"] * 10] * 10] * 10


def test_aliases_by_which_lists_are_nested_without_end_are_refused_with_their_line(write: Write) -> None:
    nested = "[&n0 [x], " + ", ".join(f"&n{level} [*n{level - 1}]" for level in range(1, 2000)) + "]"
    text = f"name: mail\npython: actors_here:Open\ninit: {{all: {nested}}}\ntcp: {{nodelay: *n1999}}\n"
    reason = "is nested deeper than 100 times with its aliases written out"
    assert only(write(text)) == f"m.yaml:3: init.all[99]: {reason}"


def test_a_key_that_is_no_text_is_refused_however_large_it_is(write: Write) -> None:
    assert "found unhashable key" in only(write(f"a: &all {aliases(5)}\n? *all\n: b\n"))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (r'"echo\0.wasm"', "'{folder}echo\\x00.wasm': is no path"),
        (r'"\ud800.wasm"', "'{folder}\\ud800.wasm': is no path"),
        ("pipe.wasm", "pipe.wasm: is no regular file"),
        ("missing.wasm", "missing.wasm: no such file or directory"),
        (".", "is a directory"),
    ],
)
def test_a_guests_file_that_is_none_is_told_with_its_line(write: Write, file: str, reason: str) -> None:
    os.mkfifo("pipe.wasm")
    (line,) = problems(write(f"name: mail\nactor: {file}\n"))
    assert line.startswith("m.yaml:2: actor: ")
    assert line.endswith(reason.format(folder=""))


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (r'"\ud800"', r"'\ud800' can't be encoded in UTF-8"),
        (r'{a: "x\ud800"}', r"'\ud800' can't be encoded in UTF-8"),
        ("{a: 2020-01-01}", "JSON has no date as '2020-01-01'; in quotes it is a text"),
        ("{a: [2020-01-01 10:00:00]}", "JSON has no datetime as '2020-01-01 10:00:00'; in quotes it is a text"),
        ("{a: &a [*a]}", "Circular reference detected"),
    ],
)
def test_what_can_not_be_passed_to_a_guest_is_told_with_its_line(write: Write, init: str, reason: str) -> None:
    shutil.copy(ROOT / "actors/echo/wat/echo.wasm", "echo.wasm")
    assert only(write(f"name: mail\nactor: echo.wasm\ninit: {init}\n")) == f"m.yaml:3: init: {reason}"


@pytest.mark.parametrize("section", ["listen: nowhere", "permissions:\n    listen: nowhere"])
def test_an_address_that_stands_alone_for_a_list_is_told_with_its_line(write: Write, section: str) -> None:
    line = only(write(f"name: p\npython: actors_here:Plain\ntcp:\n  {section}\n"))
    number = 3 + section.count("\n") + 1
    assert line.startswith(f"m.yaml:{number}: tcp.")
    assert "listen[0]: 'nowhere': " in line


def test_an_actor_of_both_kinds_is_one_problem(write: Write) -> None:
    line = only(write("name: p\npython: nowhere:X\nactor: nowhere.wasm\npool: 3\ninit: a text\n"))
    assert line == "m.yaml:3: actor: is there, and python too: an actor is the one or the other"


def test_a_key_that_is_null_is_told_as_yaml_has_it(write: Write) -> None:
    assert only(write(GOOD + "~: 2\n")) == "m.yaml: null: there is no such setting"


def test_the_keys_of_a_guest_are_what_it_is_started_with(write: Write) -> None:
    shutil.copy(ROOT / "actors/echo/wat/echo.wasm", "echo.wasm")
    plan = load(write("name: mail\nactor: echo.wasm\n")).guest
    assert plan is not None
    assert plan.options == GuestOptions(name="mail")
    keys = "per_connection: true\npool: 3\nrecycle_after: 7\ngrants: [clock]\ninit: {a: 1}\n"
    limits = "limits: {memory: 1 MiB, cpu: 2 s, log_lines: 5}\n"
    plan = load(write(f"name: mail\nactor: echo.wasm\n{keys}{limits}")).guest
    assert plan is not None
    assert plan.config == b'{"a":1}'
    assert plan.options == GuestOptions(
        name="mail",
        per_connection=True,
        pool=3,
        recycle_after=7,
        grants=("clock",),
        limits=Limits(memory=1 << 20, cpu=2.0, log_lines=5),
    )


@pytest.mark.parametrize(
    ("callback", "keys", "problem"),
    [
        ("handle-connection", "pool: 2", "pool: is for a guest with per_connection: true"),
        ("handle-connection", "recycle_after: 2", "recycle_after: is for a guest with per_connection: true"),
        ("handle-connection", "per_connection: true\nrecycle_after: 2", "recycle_after: is for a guest with a pool"),
        ("handle-connection", "grants: [clocks]", "grants: 'clocks' is unknown (did you mean 'clock'?)"),
        ("handle-connection", "limits: {memory: 0}", "limits.memory: expected a size of 1 byte to 1 GiB, got 0"),
        ("on-passive", "per_connection: true",
         "per_connection: the guest has neither handle-connection-transfer nor handle-connection"),
        ("handle-connection-transfer", "tcp: {listen: '127.0.0.1:0'}",
         "tcp.listen: the guest has no handle-connection, so it can't take what is accepted"),
        ("handle-connection-transfer", "per_connection: true\ntcp: {listen: '127.0.0.1:0'}", ""),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_a_guest_are_refused_with_their_line(
    write: Write, callback: str, keys: str, problem: str
) -> None:
    from tests.guests.wat_guests import CLIENT, guest  # noqa: PLC0415  # it loads wasmtime

    exports = f'(func (export "{CLIENT}#{callback}") (param i32 i32) (result i32) (i32.const 0x100))'
    Path("guest.wasm").write_bytes(guest(exports=exports))
    file = write(f"name: mail\nactor: guest.wasm\n{keys}\n")
    if problem:
        assert only(file).partition(": ")[2] == problem
    else:
        assert load(file).guest is not None


def test_a_guests_file_that_is_too_large_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "actors/echo/wat/echo.wasm", "echo.wasm")
    size = Path("echo.wasm").stat().st_size
    monkeypatch.setattr(guest_settings, "MAX_GUEST", size)
    file = write("name: mail\nactor: echo.wasm\n")
    assert load(file).guest is not None
    monkeypatch.setattr(guest_settings, "MAX_GUEST", size - 1)
    assert only(file) == f"m.yaml:2: actor: echo.wasm: is larger than {size - 1} bytes"


def test_a_key_that_is_there_twice_is_refused_with_both_lines(write: Write) -> None:
    text = GOOD + "  nodelay: true\n  nodelay: false\nname: other\n"
    assert problems(write(text)) == [
        "m.yaml:8: tcp.nodelay: is there twice (line 7 too)",
        "m.yaml:9: name: is there twice (line 1 too)",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="a:-[]{}&*!#\n '\"?|>1", max_size=60).map(str.encode))
def test_any_file_is_a_manifest_or_is_refused(write: Write, content: bytes) -> None:
    try:
        load(write(content))
    except ManifestError as error:
        outcome = [str(problem) for problem in error.problems]
    assert all(line.isprintable() for line in outcome)


# -- the keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("nmae=x", "nmae: there is no such setting (did you mean 'name'?)"),
        ("name=3", "name: expected a name of at most 64 letters, digits, '.', '_' and '-', got 3"),
        ("name=a b", "name: expected a name of at most 64 letters"),
        ("name=''", "name: expected a name of at most 64 letters"),
        ("python=smtp.wasm", "python: expected a class as package.module:Class, got 'smtp.wasm'"),
        ("python=':C'", "python: expected a class as package.module:Class"),
        ("python=a..b:C", "python: expected a class as package.module:Class"),
        ("init=[a]", "init: expected a mapping of names to values or null, got ['a']"),
        ("init={1: 2}", "init: expected a mapping of names to values or null, got {1: 2}"),
        ("tcp=no", "tcp: expected a mapping of names to values or null, got false"),
        ("init=[null, {a: true}]", "init: expected a mapping of names to values or null, got [null, {'a': true}]"),
        ("name=null", "name: expected a name of at most 64 letters, digits, '.', '_' and '-', got null"),
        ("tcp.permissions.allowlist=[null]", "tcp.permissions.allowlist[0]: expected a text as '127.0.0.1:25', got"),
        ("tcp.client_tls={server_name: a b}", "tcp.client_tls.server_name: expected a host name or an address, got"),
        ("tcp.lisen=x", "tcp.lisen: there is no such setting (did you mean 'listen'?)"),
        ("tcp.nodelay=1", "tcp.nodelay: expected true or false, got 1"),
        ("tcp.nodelay='yes'", "tcp.nodelay: expected true or false, got 'yes'"),
        ("tcp.framing=lines", "tcp.framing: expected 'raw', 'line', 'length-1', 'length-2' or 'length-4', got 'lines'"),
        ("tcp.idle_timeout=5 mins", "tcp.idle_timeout: expected a duration as 30, 30 s, 100 ms or 5 min, got '5 mins'"),
        ("tcp.idle_timeout=-1", "tcp.idle_timeout: expected a duration above 0"),
        ("tcp.idle_timeout=.nan", "tcp.idle_timeout: expected a duration above 0"),
        ("tcp.read_buffer_limit=0", "tcp.read_buffer_limit: expected a size of 1 byte to 1 GiB, got 0"),
        ("tcp.read_buffer_limit=1 TiB", "tcp.read_buffer_limit: expected a size as 65536, 64 KiB or 1 MiB"),
        ("tcp.unix_mode=660", "tcp.unix_mode: a file mode stands in quotes"),
        ("tcp.listen=3", 'tcp.listen: expected addresses as ["127.0.0.1:25"], got a number'),
        ("tcp.listen={a: b}", 'tcp.listen: expected addresses as ["127.0.0.1:25"], got a mapping'),
        ("tcp.listen=[x]", "tcp.listen[0]: 'x': the port is missing"),
        ("tcp.listen=['127.0.0.1:1', 3]", "tcp.listen[1]: 3: an address is a text"),
        ("tcp.listen=example.org:25", "tcp.listen[0]: 'example.org:25': to listen takes an IP address"),
        ("tcp.permissions=all", "tcp.permissions: expected a mapping of names to values, got a text"),
        ("tcp.permissions.enabled=1", "tcp.permissions.enabled: expected true or false, got 1"),
        (
            "tcp.permissions.allow_list=[]",
            "tcp.permissions.allow_list: there is no such setting (did you mean 'allowlist'?)",
        ),
        ("tcp.permissions.http={}", "tcp.permissions.http: there is no such setting"),
        ("tcp.allowlist=[]", "tcp.allowlist: there is no such setting"),
        (
            "tcp.permissions.allowlist={a: b}",
            "tcp.permissions.allowlist: expected a list of address patterns, got {'a': 'b'}",
        ),
        (
            "tcp.permissions.allowlist=['a:1', 25]",
            "tcp.permissions.allowlist[1]: expected a text as '127.0.0.1:25', got a number",
        ),
        ("tcp.permissions.listen=['**:1']", "tcp.permissions.listen[0]: '**:1': to listen takes an IP address"),
        ("runtime.permissions={}", "runtime.permissions: there is no such setting"),
        ("runtime.options={}", "runtime.options: there is no such setting"),
        ("runtime.nodelay=true", "runtime.nodelay: there is no such setting (did you mean tcp.nodelay?)"),
        ("listen=x", "listen: there is no such setting (did you mean tcp.listen or tcp.permissions.listen?)"),
        ("idle_timeout=30", "idle_timeout: there is no such setting (did you mean tcp.idle_timeout?)"),
        (
            "max_connections=1",
            "max_connections: there is no such setting (did you mean tcp.max_connections or runtime.max_connections?)",
        ),
        ("memory=1", "memory: there is no such setting (did you mean limits.memory?)"),
        ("tcp.drain_timeout=1", "tcp.drain_timeout: there is no such setting (did you mean drain_timeout?)"),
        ("tcp.server_tls={ca_cert: x}", "tcp.server_tls.ca_cert: there is no such setting (did you mean tcp.client"),
        ("runtime.max_connections=0", "runtime.max_connections: expected a whole number from 1 to 1000000, got 0"),
        ("drain_timeout=soon", "drain_timeout: expected a duration as 30"),
        ("drain_timeout=-1", "drain_timeout: expected a duration of 0 to 1000000 s or null, got -1"),
    ],
)
def test_a_wrong_key_or_value_is_told(write: Write, override: str, reason: str) -> None:
    line = only(write(GOOD), override)
    assert line.startswith(f"m.yaml: {reason}")
    assert line.endswith(" (by --set)")


def test_permissions_of_a_manifest_are_what_its_actor_has_and_without_them_it_has_none(write: Write) -> None:
    assert load(write(GOOD)).permissions == Permissions()
    assert load(write(GOOD), [("tcp.permissions", None)]).permissions == Permissions()
    section = "  permissions: {enabled: true, allowlist: ['*.internal:25'], listen: '127.0.0.1:*'}\n"
    given = Permissions(enabled=True, allowlist=("*.internal:25",), listen=("127.0.0.1:*",))
    assert load(write(GOOD + section)).permissions == given
    empty = "  permissions:\n    enabled: true\n    allowlist:\n    listen:\n"
    assert load(write(GOOD + empty)).permissions == Permissions(enabled=True)


def test_every_wrong_pattern_is_told_with_its_line(write: Write) -> None:
    section = """  permissions:
    enabled: true
    allowlist:
      - "*.internal:25"
      - redis
      - "a..b:25"
    listen: ["127.0.0.1:0-9"]
"""
    assert problems(write(GOOD + section)) == [
        "m.yaml:11: tcp.permissions.allowlist[1]: 'redis': the port is missing (write host:port or host:*)",
        "m.yaml:12: tcp.permissions.allowlist[2]: 'a..b:25': empty label",
        "m.yaml:13: tcp.permissions.listen[0]: '127.0.0.1:0-9': port 0 stands for one that the system chooses, alone"
        " and to listen only",
    ]


def test_two_values_that_contradict_each_other_are_told(write: Write) -> None:
    file = write(GOOD + "  write_buffer_limit: 2 MiB\n  write_buffer_hard_limit: 1 MiB\n")
    reason = "tcp.write_buffer_hard_limit: 1048576 is below write_buffer_limit (2097152)"
    assert only(file) == f"m.yaml:8: {reason}"
    wrong = write(GOOD + "  write_buffer_limit: 32 MiB\n  write_buffer_hard_limit: wrong\n")
    assert only(wrong).startswith("m.yaml:8: tcp.write_buffer_hard_limit: expected a size")
    assert only(write(GOOD), "tcp.write_buffer_limit=32 MiB").startswith(
        "m.yaml: tcp.write_buffer_hard_limit: 16777216 is below"
    )


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    file = write(
        """
name: mail
python: actors_here:Server
init: {hostnme: mx}
tcp:
  listen: ["127.0.0.1:x", "127.0.0.1:1"]
  nodely: true
  idle_timeout: soon
drain_timeout: -1
""".lstrip()
    )
    assert problems(file) == [
        "m.yaml: init.hostname: is missing, and Server needs it",
        "m.yaml:3: init.hostnme: Server takes no such argument (did you mean 'hostname'?)",
        "m.yaml:5: tcp.listen[0]: '127.0.0.1:x': the port 'x' is no number",
        "m.yaml:6: tcp.nodely: there is no such setting (did you mean 'nodelay'?)",
        "m.yaml:7: tcp.idle_timeout: expected a duration as 30, 30 s, 100 ms or 5 min, got 'soon'",
        "m.yaml:8: drain_timeout: expected a duration of 0 to 1000000 s or null, got -1",
    ]


def test_the_error_tells_the_first_mistake_and_how_many_more_there_are(write: Write) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid: m.yaml: name: is missing \(and 1 more\)$"):
        load(write("tcp: {}"))


def test_name_and_python_are_needed(write: Write) -> None:
    missing = ["m.yaml: name: is missing", "m.yaml: python: is missing, or actor: for a WebAssembly guest"]
    assert problems(write("init: {}")) == missing


def test_an_actor_that_listens_nowhere_may_have_options_for_what_it_opens_by_itself(write: Write) -> None:
    manifest = load(write("name: p\npython: actors_here:Plain\ntcp: {nodelay: false}\n"))
    assert (manifest.listen, manifest.options) == ((), {"nodelay": False})


# -- TLS --------------------------------------------------------------------------------------------------------------

SECURE = """
name: mail
python: actors_here:Server
init: {hostname: mx.example.org}
tcp:
  listen: ["127.0.0.1:2525"]
  server_tls:
    cert: tls/server.pem
    key: tls/server.key
    min_version: 1.2
    alpn: [smtp]
    reload: 30 s
    sni:
      other.example.org:
        cert: tls/other.pem
        key: tls/other.key
  client_tls:
    ca_cert: tls/ca.pem
    server_name: mx.example.net
""".lstrip()


@pytest.fixture
def tls(tmp_path: Path, certificates: Certificates) -> Path:
    """A folder of certificates beside the manifest."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for name, files in (("server", certificates.server), ("other", certificates.other)):
        shutil.copy(files.cert, folder / f"{name}.pem")
        shutil.copy(str(files.key), folder / f"{name}.key")
    shutil.copy(certificates.ca, folder / "ca.pem")
    return folder


def test_sections_about_tls_become_its_settings_with_paths_beside_the_manifest(write: Write, tls: Path) -> None:
    assert load(write(SECURE)).options == {
        "server_tls": ServerTls(
            cert=f"{tls}/server.pem",
            key=f"{tls}/server.key",
            min_version="1.2",
            alpn=("smtp",),
            reload=30.0,
            sni={"other.example.org": CertificateFiles(cert=f"{tls}/other.pem", key=f"{tls}/other.key")},
        ),
        "client_tls": ClientTls(ca_cert=f"{tls}/ca.pem", server_name="mx.example.net"),
    }


def test_a_path_that_is_absolute_stays_so(write: Write, tls: Path, certificates: Certificates) -> None:
    manifest = load(write(SECURE), [("tcp.client_tls.ca_cert", certificates.ca)])
    assert manifest.options["client_tls"].ca_cert == certificates.ca


def test_each_field_about_tls_is_a_key_of_its_section(write: Write, tls: Path) -> None:
    for cls, section in ((ServerTls, "server_tls"), (ClientTls, "client_tls")):
        wanted = {field.name: field.default for field in msgspec.structs.fields(cls)}
        for name in set(wanted) - {"cert", "key", "sni", "chain", "password"}:
            value = list(wanted[name]) if isinstance(wanted[name], tuple) else wanted[name]
            manifest = load(write(SECURE), [(f"tcp.{section}.{name}", value)])
            assert getattr(manifest.options[section], name) == wanted[name]


@pytest.mark.parametrize("section", ["server_tls", "client_tls"])
def test_a_section_about_tls_may_be_null(write: Write, tls: Path, section: str) -> None:
    assert load(write(SECURE), [(f"tcp.{section}", None)]).options[section] is None


def test_files_of_a_section_that_is_not_enabled_are_not_looked_at(write: Write) -> None:
    off = [("tcp.server_tls.enabled", False), ("tcp.client_tls.enabled", False)]
    assert load(write(SECURE), off).options["server_tls"].enabled is False


def test_an_actor_that_only_connects_may_have_a_section_for_that(write: Write, tls: Path) -> None:
    manifest = load(write("name: p\npython: actors_here:Plain\ntcp: {client_tls: {ca_cert: tls/ca.pem}}\n"))
    assert manifest.options == {"client_tls": ClientTls(ca_cert=f"{tls}/ca.pem")}


def test_an_override_reaches_into_a_section_about_tls(write: Write, tls: Path) -> None:
    shutil.copy(tls / "other.pem", tls / "new.pem")
    shutil.copy(tls / "other.key", tls / "new.key")
    overrides = [("tcp.server_tls.cert", "tls/new.pem"), ("tcp.server_tls.key", "tls/new.key")]
    assert load(write(SECURE), overrides).options["server_tls"].cert == f"{tls}/new.pem"
    line = only(write(SECURE), "tcp.server_tls.key=tls/other.key")
    assert (
        line == "m.yaml: tcp.server_tls.key: tls/other.key: does not fit the certificate in tls/server.pem (by --set)"
    )


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("key: tls/server.key", "key: tls/other.key", "8: tcp.server_tls.key: tls/other.key: does not fit the"
         " certificate in tls/server.pem"),
        ("cert: tls/server.pem", "cert: tls/none.pem", "7: tcp.server_tls.cert: tls/none.pem: no such file or"
         " directory"),
        ("cert: tls/server.pem", "cert: 3", "7: tcp.server_tls.cert: expected the path of a file or null, got 3"),
        ("min_version: 1.2", "min_version: 1.1", "9: tcp.server_tls.min_version: expected '1.2' or '1.3', got '1.1'"),
        ("alpn: [smtp]", "alpn: smtp", "10: tcp.server_tls.alpn: expected a list of protocol names as h2 or smtp,"
         " got 'smtp'"),
        ("alpn: [smtp]", "alpn: ['a b']", "10: tcp.server_tls.alpn: expected a list of protocol names as h2 or smtp,"
         " got ['a b']"),
        ("alpn: [smtp]", "ciphers: NONSENSE", "10: tcp.server_tls.ciphers: 'NONSENSE' is no cipher of TLS 1.2 that"
         " OpenSSL knows"),
        ("reload: 30 s", "reload: soon", "11: tcp.server_tls.reload: expected a duration as 30, 30 s, 100 ms or 5 min,"
         " got 'soon'"),
        ("reload: 30 s", "relaod: 30 s", "11: tcp.server_tls.relaod: there is no such setting (did you mean"
         " 'reload'?)"),
        ("reload: 30 s", "ca_cert: x", "11: tcp.server_tls.ca_cert: there is no such setting"),
        ("reload: 30 s", "client_auth: required", "11: tcp.server_tls.client_auth: 'required' needs client_ca to"
         " verify with"),
        ("reload: 30 s", "password: secret", "11: tcp.server_tls.password: tls/server.key: the private key is not"
         " encrypted and needs none"),
        ("      other.example.org:", "      mx.example.net:", "14: tcp.server_tls.sni.mx.example.net.cert:"
         " tls/other.pem: is not for mx.example.net, it is for other.example.org"),
        ("      other.example.org:", "      a b:", "13: tcp.server_tls.sni.a b: is no host name"),
        ("        cert: tls/other.pem\n", "", "tcp.server_tls.sni.other.example.org.cert: is missing"),
        ("key: tls/other.key", "kay: tls/other.key", "15: tcp.server_tls.sni.other.example.org.kay: there is no such"
         " setting (did you mean 'key'?)"),
        ("ca_cert: tls/ca.pem", "ca_cert: tls/server.pem", "17: tcp.client_tls.ca_cert: tls/server.pem: certificate 1"
         " (CN=localhost) is no CA certificate"),
        ("server_name: mx.example.net", "sni: {}", "18: tcp.client_tls.sni: there is no such setting"),
        ("server_name: mx.example.net", "key: tls/other.key", "18: tcp.client_tls.key: a key without cert proves"
         " nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tls_is_told_with_its_line(write: Write, tls: Path, old: str, new: str, line: str) -> None:
    assert SECURE.count(old) == 1
    told = only(write(SECURE.replace(old, new)))
    assert told.startswith(f"m.yaml:{line}" if line[0].isdigit() else f"m.yaml: {line}")


def test_all_mistakes_about_tls_are_told_at_once(write: Write, tls: Path) -> None:
    text = SECURE.replace("min_version: 1.2", "min_version: 1.1").replace("tls/other.pem", "3")
    assert problems(write(text.replace("tls/ca.pem", "none.pem").replace("reload", "relaod"))) == [
        "m.yaml:9: tcp.server_tls.min_version: expected '1.2' or '1.3', got '1.1'",
        "m.yaml:11: tcp.server_tls.relaod: there is no such setting (did you mean 'reload'?)",
        "m.yaml:14: tcp.server_tls.sni.other.example.org.cert: expected the path of a file, got 3",
        "m.yaml:17: tcp.client_tls.ca_cert: none.pem: no such file or directory",
    ]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("server_tls=x", "server_tls: expected a mapping of names to values, got a text"),
        ("client_tls=[]", "client_tls: expected a mapping of names to values, got a list"),
        ("server_tls.sni=x", "server_tls.sni: expected a mapping of host names to cert, key, chain, got 'x'"),
        ("server_tls.sni={a.b: x}", "server_tls.sni.a.b: expected a mapping of names to values, got a text"),
        ("server_tls.sni={3: {cert: x}}", "server_tls.sni.3.cert: x: no such file or directory"),
        ("server_tls={1: 2}", "server_tls.1: there is no such setting"),
        ("server_tls={}", "server_tls.cert: a server needs a certificate"),
    ],
)
def test_a_section_about_tls_of_the_wrong_form_is_told(write: Write, tls: Path, override: str, reason: str) -> None:
    assert only(write(SECURE), f"tcp.{override}") == f"m.yaml: tcp.{reason} (by --set)"


@pytest.fixture
def encrypted(tls: Path) -> str:
    """The server's key can be opened with a password alone."""
    path = tls / "server.key"
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open it")))
    return "open it"


@pytest.mark.parametrize("written", ["'open it'", "{file: tls/password}", "{env: THEATER_TEST_PASSWORD}"])
def test_a_password_stands_in_the_manifest_or_in_a_file_or_in_the_environment(
    write: Write, tls: Path, encrypted: str, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    (tls / "password").write_text(f"{encrypted}\r\nand more\n", encoding="utf-8")
    monkeypatch.setenv("THEATER_TEST_PASSWORD", encrypted)
    text = SECURE.replace("    reload: 30 s\n", f"    password: {written}\n")
    assert load(write(text)).options["server_tls"].password == encrypted


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{file: tls/none}", "tls/none: no such file or directory"),
        ("{file: tls/binary}", "tls/binary: is no text"),
        ("{env: THEATER_TEST_NOT_THERE}", "the environment has no THEATER_TEST_NOT_THERE"),
        ("{fiel: x}", "expected a text, or {env: NAME} or {file: PATH}"),
        ("{file: 3}", "expected a text, or {env: NAME} or {file: PATH}"),
        ("{file: x, env: Y}", "expected a text, or {env: NAME} or {file: PATH}"),
        ("{}", "expected a text, or {env: NAME} or {file: PATH}"),
        ("wrong", "tls/server.key: does not open the private key"),
        ("123456", "expected a text or null, got int"),
    ],
)
def test_a_password_that_can_not_be_had_is_told(
    write: Write, tls: Path, encrypted: str, written: str, reason: str
) -> None:
    (tls / "binary").write_bytes(b"\xff\xfe")
    line = only(write(SECURE.replace("    reload: 30 s\n", f"    password: {written}\n")))
    assert line == f"m.yaml:11: tcp.server_tls.password: {reason}"
    assert "123456" not in line


def test_checking_a_manifest_warns_of_nothing_since_it_starts_nothing(
    write: Write, tls: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(write(SECURE), [("tcp.client_tls.skip_verify", True)])
    assert caplog.records == []


# -- the class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nowhere_to_be_found:X", "there is no module 'nowhere_to_be_found'"),
        ("actors_here.sub:X", "there is no module 'actors_here.sub'"),
        ("actors_here:Servr", "module 'actors_here' has no 'Servr' (did you mean 'Server'?)"),
        ("actors_here:function", "actors_here:function is a function, no class"),
        ("actors_here:NoActor", "actors_here:NoActor is no actor (no subclass of pykka.Actor)"),
        ("pykka:Actor", "pykka:Actor is abstract"),
        ("actors_here:Unfinished", "actors_here:Unfinished is abstract (it lacks rest)"),
    ],
)
def test_what_is_no_class_of_an_actor_is_refused(write: Write, spec: str, reason: str) -> None:
    assert only(write(f"name: a\npython: {spec}\n")).startswith(f"m.yaml:2: python: {reason}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all' (broken.py:1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("\n1 / 0", "ZeroDivisionError: division by zero (broken.py:2)"),
        ("import sys\nsys.exit('bye\\nbye')", "SystemExit: bye bye (broken.py:2)"),
        ("assert False", "AssertionError (broken.py:1)"),
        ("try:\n  {}['k']\nexcept KeyError as e:\n  raise OSError('outer') from e", "KeyError: 'k' (broken.py:2)"),
        ("try:\n  {}['k']\nexcept KeyError:\n  raise OSError('outer')", "KeyError: 'k' (broken.py:2)"),
        ("try:\n  {}['k']\nexcept KeyError:\n  raise OSError('outer') from None", "OSError: outer (broken.py:4)"),
    ],
)
def test_a_module_that_can_not_be_imported_is_told_with_the_innermost_cause(
    write: Write, tmp_path: Path, source: str, reason: str
) -> None:
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    assert only(write("name: a\npython: broken:X\n")) == f"m.yaml:2: python: can't import broken: {reason}"


def test_the_module_beside_the_manifest_comes_before_one_in_the_current_directory(tmp_path: Path, write: Write) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "twice.py").write_text(ACTORS, encoding="utf-8")
    (tmp_path / "twice.py").write_text("", encoding="utf-8")
    (tmp_path / "here_only.py").write_text(ACTORS, encoding="utf-8")
    assert load(write("name: a\npython: twice:Plain\n", "sub/a.yaml"))
    assert load(write("name: a\npython: here_only:Plain\n", "sub/b.yaml"))


def test_a_module_hidden_by_one_of_the_same_name_from_another_folder_is_refused(tmp_path: Path, write: Write) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(ACTORS, encoding="utf-8")
        write("name: a\npython: same:Plain\n", f"{folder}/m.yaml")
    assert load("one/m.yaml")
    assert load("one/m.yaml")
    one, two = tmp_path / "one" / "same.py", tmp_path / "two" / "same.py"
    assert only("two/m.yaml") == (
        f"two/m.yaml:2: python: {two} is hidden by {one}, which is loaded under the same name"
    )


@pytest.mark.parametrize(
    ("spec", "init", "lines"),
    [
        ("Server", "{}", ["m.yaml: init.hostname: is missing, and Server needs it"]),
        ("Server", "{hostname: a, port: 3}", ["m.yaml:3: init.port: Server takes no such argument"]),
        ("Plain", "{a: 1}", ["m.yaml:3: init.a: Plain takes no arguments"]),
        ("Positional", "{}", ["m.yaml:3: init: Positional takes 'first' by position only"]),
    ],
)
def test_arguments_that_the_class_does_not_take_are_told(write: Write, spec: str, init: str, lines: list[str]) -> None:
    assert problems(write(f"name: a\npython: actors_here:{spec}\ninit: {init}\n")) == lines


@pytest.mark.parametrize(
    ("spec", "init"), [("Server", "{hostname: a, size: 4}"), ("Open", "{any: 1}"), ("Plain", "{}")]
)
def test_arguments_that_the_class_takes_are_let_through(write: Write, spec: str, init: str) -> None:
    assert load(write(f"name: a\npython: actors_here:{spec}\ninit: {init}\n"))


def test_an_actor_that_takes_no_connections_gets_no_listener(write: Write) -> None:
    assert only(write("name: p\npython: actors_here:Plain\ntcp: {listen: '127.0.0.1:0'}\n")) == (
        "m.yaml:3: tcp.listen: Plain has no handle_connection, so it can't take what is accepted"
    )


# -- overrides and several manifests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=x", ("name", "x")),
        ("tcp.idle_timeout=30", ("tcp.idle_timeout", 30)),
        ("tcp.idle_timeout=5 min", ("tcp.idle_timeout", "5 min")),
        ("tcp.listen=['127.0.0.1:0', '[::1]:0']", ("tcp.listen", ["127.0.0.1:0", "[::1]:0"])),
        ("init.query=a=b", ("init.query", "a=b")),
        ("init.none=", ("init.none", None)),
        ("init.flag=true", ("init.flag", True)),
    ],
)
def test_an_override_is_a_key_path_and_a_yaml_value(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'': expected key=value"),
        ("name", "'name': expected key=value"),
        ("=x", "'=x': expected key=value"),
        ("a..b=x", r"'a\.\.b=x': expected key=value"),
        (".a=x", "expected key=value"),
        ("name={", "name: the value is not YAML: while parsing a flow node"),
        ("name=!!python/name:os.system", "name: the value is not YAML: could not determine a constructor"),
        ("name=" + "[" * 1000, "name: the value is not readable: it is nested too deep"),
    ],
)
def test_a_wrong_override_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        parse_override(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (aliases(8), "init.g: is larger than 4194304 characters with its aliases written out"),
        ("[" * 101 + "]" * 101, "init: is nested deeper than 100 times with its aliases written out"),
        ("{a: {b: 1, b: 2}}", "init.a.b: is there twice (line 1 too)"),
    ],
)
def test_an_override_is_held_to_what_a_manifest_is_held_to(value: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_override(f"init={value}")
    assert caught.value.detail == reason


def test_overrides_replace_what_the_file_says_before_it_is_checked(write: Write) -> None:
    file = write(GOOD.replace("hostname: mx.example.org", "hostnme: wrong"))
    changed = load(file, [("init", {"hostname": "a"}), ("init.size", 4), ("runtime.max_connections", 5)])
    assert (changed.init, changed.runtime) == ({"hostname": "a", "size": 4}, {"max_connections": 5})


def test_an_override_inside_of_what_is_no_mapping_is_refused(write: Write) -> None:
    assert only(write(GOOD), "name.first=x") == "m.yaml: name.first: name is no mapping (by --set)"


def test_what_an_override_puts_right_has_no_line_of_the_file(write: Write) -> None:
    assert (
        only(write(GOOD), "tcp.listen=[a]")
        == "m.yaml: tcp.listen[0]: 'a': the port is missing (write host:port) (by --set)"
    )


def test_manifests_that_run_together_share_the_runtimes_settings(write: Write) -> None:
    first = load(write(GOOD + "runtime: {max_connections: 5}\ndrain_timeout: 3\n"))
    second = load(
        write("name: b\npython: actors_here:Plain\nruntime: {max_connections: 5, accept_pause: 1}\ndrain_timeout: 4")
    )
    third = load(write("name: c\npython: actors_here:Plain\n"))
    assert runtime_settings([first, second, third]) == Settings(
        max_connections=5, accept_pause=1, drain_timeout=4, permissions=Permissions()
    )
    assert runtime_settings([third]) == Settings(permissions=Permissions())


def test_manifests_that_want_different_runtimes_are_refused(write: Write) -> None:
    first = load(write(GOOD + "runtime: {max_connections: 5}\n", "a.yaml"))
    second = load(write("name: mail\npython: actors_here:Plain\nruntime: {max_connections: 6}\n", "b.yaml"))
    with pytest.raises(ManifestError) as caught:
        runtime_settings([first, second])
    assert [str(problem) for problem in caught.value.problems] == [
        "b.yaml: name: 'mail' is the name in a.yaml too",
        "b.yaml: runtime.max_connections: 6 here and 5 in a.yaml, and there is one runtime",
    ]


def test_a_problem_is_one_line() -> None:
    assert str(Problem("a.yaml", "tcp.x", "is wrong", 3)) == "a.yaml:3: tcp.x: is wrong"
    assert str(Problem("a.yaml", "", "is wrong")) == "a.yaml: is wrong"


def test_the_configuration_page_has_every_key_of_a_manifest() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = page.partition("## In a manifest")[2].partition("\n## ")[0]
    keys = re.findall(r"^\| `([\w.…]+)` \|", section, re.MULTILINE)
    assert keys == ["name", "python", "init", "tcp.listen", "tcp.permissions", "tcp.…", "runtime.…", "drain_timeout"]


def test_any_actor_of_pykka_can_be_named(write: Write) -> None:
    assert load(write("name: p\npython: pykka:ThreadingActor\n")).actor_class is pykka.ThreadingActor
