"""Settings: each field's type and range, what contradicts, the ways quantities are written, and the reference table."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp import fields as fields_module
from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import (
    MAX_DURATION,
    MAX_SIZE,
    check_field,
    did_you_mean,
    expected,
    from_text,
    parse_duration,
    parse_file_mode,
    parse_size,
    shown,
)
from theater_tcp.permissions import Permissions
from theater_tcp.settings import ListenOptions, Options, Settings
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

STRUCTS = (Options, ListenOptions, Settings, Permissions, ServerTls, ClientTls, CertificateFiles)
PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

SIZES = ["max_frame", "read_buffer_limit", "write_buffer_limit", "write_buffer_hard_limit"]
DURATIONS = [
    "pending_timeout",
    "receive_timeout",
    "send_timeout",
    "linger_timeout",
    "idle_timeout",
    "handshake_timeout",
]
TEXTS = {"cert", "key", "chain", "password", "ciphers", "client_ca", "ca_cert", "server_name", "guest_cache"}
MAY_BE_NONE: dict[type[msgspec.Struct], set[str]] = {
    Options: {"max_frame", "receive_timeout", "idle_timeout", "server_tls", "client_tls"},
    ListenOptions: {"max_connections", "unix_mode"},
    Settings: {"permissions", "guest_cache"},
    Permissions: set(),
    ServerTls: {"cert", "key", "chain", "password", "ciphers", "client_ca", "reload"},
    ClientTls: {"cert", "key", "password", "ciphers", "ca_cert", "server_name", "reload"},
    CertificateFiles: {"key", "chain", "password"},
}
NEEDED: dict[type[msgspec.Struct], dict[str, Any]] = {
    ServerTls: {"enabled": False},
    CertificateFiles: {"cert": "server.pem"},
}
"""What a struct is not made without, if one of its fields alone is looked at."""


def defaults() -> list[tuple[type[msgspec.Struct], str]]:
    return [(cls, name) for cls in STRUCTS for name in cls.field_names()]


def wrong(cls: type[msgspec.Struct], **values: Any) -> str:
    """The text of the refusal."""
    with pytest.raises(InvalidArgument) as caught:
        cls(**{**NEEDED.get(cls, {}), **values})
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(f"invalid: {next(iter(values))}: ")
    return text


def test_the_defaults_are_those_of_the_contract() -> None:
    options, listener, settings = Options(), ListenOptions(), Settings()
    assert (options.pending_timeout, options.send_timeout, options.linger_timeout) == (30.0, 30.0, 5.0)
    assert (options.receive_timeout, options.idle_timeout) == (None, None)
    assert options.read_buffer_limit == 256 * 1024
    assert options.write_buffer_limit == 1024 * 1024
    assert options.write_buffer_hard_limit == 16 * 1024 * 1024
    assert (options.framing, options.half_open, options.nodelay, options.keepalive) == ("raw", False, True, False)
    assert (listener.max_connections, listener.at_limit) == (None, "pause")
    assert (settings.max_connections, settings.connect_timeout, settings.accept_pause) == (10_000, 30.0, 0.1)
    assert settings.connection_attempt_delay == 0.25
    assert (settings.options, settings.listener) == (options, listener)


@pytest.mark.parametrize(("cls", "name"), defaults())
def test_every_field_refuses_a_value_of_a_wrong_type(cls: type[msgspec.Struct], name: str) -> None:
    assert "expected" in wrong(cls, **{name: {"wrong": 1}})
    assert "expected" in wrong(cls, **{name: ["wrong", 1]})
    if name not in TEXTS:
        assert "got 'a text'" in wrong(cls, **{name: "a text"})


@pytest.mark.parametrize(("cls", "name"), defaults())
def test_only_a_field_that_says_so_takes_none(cls: type[msgspec.Struct], name: str) -> None:
    if name in MAY_BE_NONE[cls]:
        assert getattr(cls(**{**NEEDED.get(cls, {}), name: None}), name) is None
    else:
        assert "got null" in wrong(cls, **{name: None})


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, MAX_SIZE + 1, 1.5, 4096.0, True, pytest.param(10**5000, id="huge")])
def test_a_size_is_a_whole_number_in_its_range(name: str, value: object) -> None:
    assert "expected a size of 1 byte to 1 GiB" in wrong(Options, **{name: value})


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "value", [0, 0.0, -1, MAX_DURATION * 1.01, math.inf, -math.inf, math.nan, True, pytest.param(10**400, id="huge")]
)
def test_a_duration_is_positive_and_finite(name: str, value: object) -> None:
    assert "expected a duration above 0" in wrong(Options, **{name: value})


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, True])
def test_the_drain_timeout_is_finite_and_not_negative(value: object) -> None:
    assert "expected a duration of 0 to 1000000 s" in wrong(Settings, drain_timeout=value)
    assert Settings(drain_timeout=0).drain_timeout == 0


def test_whole_seconds_are_a_duration() -> None:
    assert Options(send_timeout=3).send_timeout == 3


@pytest.mark.parametrize("value", [True, False, 1, 32767])
def test_keepalive_is_a_flag_or_whole_seconds(value: bool | int) -> None:
    assert Options(keepalive=value).keepalive is value


@pytest.mark.parametrize("value", [0, -1, 32768, 2.5])
def test_keepalive_refuses_what_tcp_can_not_count(value: object) -> None:
    assert "expected true, false, or 1 to 32767 seconds" in wrong(Options, keepalive=value)


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (Options, "framing", "expected 'raw', 'line', 'length-1', 'length-2' or 'length-4', got 'x'"),
        (ListenOptions, "at_limit", "expected 'pause' or 'refuse', got 'x'"),
    ],
)
def test_a_choice_tells_its_alternatives(cls: type[msgspec.Struct], name: str, words: str) -> None:
    assert words in wrong(cls, **{name: "x"})


@pytest.mark.parametrize(
    ("cls", "name", "lowest", "highest"),
    [
        (ListenOptions, "backlog", 1, 65535),
        (ListenOptions, "max_connections", 1, 1_000_000),
        (ListenOptions, "unix_mode", 0, 0o777),
        (Settings, "max_connections", 1, 1_000_000),
        (Settings, "resolver_threads", 1, 256),
        (Settings, "worker_threads", 1, 256),
    ],
)
def test_a_number_has_its_range(cls: type[msgspec.Struct], name: str, lowest: int, highest: int) -> None:
    for value in (lowest, highest):
        assert getattr(cls(**{name: value}), name) == value
    for value in (lowest - 1, highest + 1):
        assert "expected" in wrong(cls, **{name: value})


def test_the_hard_limit_is_not_below_the_limit() -> None:
    Options(write_buffer_limit=4096, write_buffer_hard_limit=4096)
    with pytest.raises(InvalidArgument, match=r"write_buffer_hard_limit: 4095 is below write_buffer_limit \(4096\)"):
        Options(write_buffer_limit=4096, write_buffer_hard_limit=4095)


def test_a_frame_fits_into_the_read_buffer() -> None:
    assert Options(max_frame=100, read_buffer_limit=100).frame_limit == 100
    assert Options(read_buffer_limit=100).frame_limit == 100
    with pytest.raises(InvalidArgument, match=r"max_frame: 101 is above read_buffer_limit \(100\)"):
        Options(max_frame=101, read_buffer_limit=100)


def test_replaced_checks_like_the_constructor_and_leaves_the_original() -> None:
    options = Options()
    assert options.replaced(nodelay=False).nodelay is False
    assert options.nodelay is True
    with pytest.raises(InvalidArgument, match="nodelay: expected true or false, got 1"):
        options.replaced(nodelay=1)
    with pytest.raises(InvalidArgument, match="write_buffer_hard_limit: 5 is below"):
        options.replaced(write_buffer_hard_limit=5)


def test_a_name_that_no_setting_has_is_told_with_the_nearest_one() -> None:
    with pytest.raises(InvalidArgument, match=r"nodely: there is no such setting \(did you mean 'nodelay'\?\)"):
        Options().replaced(nodely=True)
    with pytest.raises(InvalidArgument, match=r"zzz: there is no such setting$"):
        Options().replaced(zzz=True)


def test_connections_with_equal_changes_share_one_object() -> None:
    options = Options()
    assert options.replaced() is options
    assert options.replaced(idle_timeout=5) is options.replaced(idle_timeout=5)
    assert options.replaced(idle_timeout=5) is not options.replaced(idle_timeout=6)


def test_a_flag_and_the_number_1_are_not_mixed_up() -> None:
    assert Options().replaced(keepalive=True).keepalive is True
    assert type(Options().replaced(keepalive=1).keepalive) is int
    assert type(Options(keepalive=1).replaced(nodelay=False).keepalive) is int
    assert Options(keepalive=True).replaced(nodelay=False).keepalive is True
    options = Options()
    assert options.replaced(keepalive=True) is not options.replaced(keepalive=1)
    options.replaced(nodelay=True)
    with pytest.raises(InvalidArgument):
        options.replaced(nodelay=1)


def test_an_unhashable_value_is_refused_like_any_other() -> None:
    with pytest.raises(InvalidArgument, match=r"framing: expected .*, got \['line'\]"):
        Options().replaced(framing=["line"])


def test_any_number_of_different_changes_stays_right_and_bounded() -> None:
    options = Options()
    for frame in range(1, 600):
        assert options.replaced(max_frame=frame).max_frame == frame
        assert len(fields_module._replaced) <= 256


def test_a_setting_can_not_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Options().nodelay = False  # type: ignore[misc]


def test_a_listener_gets_its_own_options_and_those_of_its_connections() -> None:
    settings = Settings(options=Options(nodelay=False), listener=ListenOptions(backlog=7))
    assert settings.for_listener() == (settings.options, settings.listener)
    options, listener = settings.for_listener(idle_timeout=5, max_connections=3)
    assert (options.nodelay, options.idle_timeout) == (False, 5)
    assert (listener.backlog, listener.max_connections) == (7, 3)
    with pytest.raises(InvalidArgument, match=r"backlg: there is no such setting \(did you mean 'backlog'\?\)"):
        settings.for_listener(backlg=7)


def test_a_connection_gets_what_the_caller_named_over_what_the_runtime_has() -> None:
    settings = Settings(options=Options(nodelay=False))
    assert settings.for_connection(half_open=True) == Options(nodelay=False, half_open=True)
    with pytest.raises(InvalidArgument, match="backlog: there is no such setting"):
        settings.for_connection(backlog=7)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1 B", 1),
        ("64 KiB", 64 << 10),
        ("64KiB", 64 << 10),
        ("64K", 64 << 10),
        ("16M", 16 << 20),
        (" 1 MiB ", 1 << 20),
        ("1G", 1 << 30),
        ("1 GiB", 1 << 30),
        ("1 kB", 1000),
        ("1.5 MB", 1_500_000),
        ("1 GB", 10**9),
        ("0.5 KiB", 512),
        ("2.3 kB", 2300),
    ],
)
def test_a_size_is_written_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "KiB", "-1", "+1", "1 KB", "1 kib", "1 Kib s", "1e3", "٣", "1_000", "0x10"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a size as 65536, 64 KiB or 1 MiB, got"):
        parse_size(text)


def test_half_a_byte_is_no_size() -> None:
    with pytest.raises(InvalidArgument, match="expected a whole number of bytes"):
        parse_size("0.0001 KiB")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("30 s", 30.0),
        ("30s", 30.0),
        ("100 ms", 0.1),
        ("250 us", 0.00025),
        ("5 min", 300.0),
        ("2 h", 7200.0),
        ("1 d", 86400.0),
    ],
)
def test_a_duration_is_written_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1 s", "1 m", "1 sec", "1 S", "1:30", "inf", "nan", "1e3"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a duration as 30, 30 s, 100 ms or 5 min, got"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0660", "660", "0o660"])
def test_a_file_mode_is_written_in_octal(text: str) -> None:
    assert parse_file_mode(text) == 0o660


@pytest.mark.parametrize("text", ["", "66", "0680", "0x1b0", "rw-rw----"])
def test_what_is_no_file_mode_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a file mode as '0660'"):
        parse_file_mode(text)


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_is_refused(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_file_mode):
        try:
            number = parse(text)
        except InvalidArgument:
            continue
        assert number >= 0


@pytest.mark.parametrize(
    ("cls", "name", "value", "number"),
    [
        (Options, "read_buffer_limit", "64 KiB", 65536),
        (Options, "read_buffer_limit", 7, 7),
        (Options, "max_frame", "512", 512),
        (Options, "max_frame", None, None),
        (Options, "idle_timeout", "5 min", 300.0),
        (Options, "keepalive", "5 min", 300),
        (Options, "keepalive", True, True),
        (Options, "framing", "line", "line"),
        (ListenOptions, "unix_mode", "0660", 0o660),
        (ListenOptions, "unix_mode", None, None),
        (Settings, "drain_timeout", "0", 0.0),
    ],
)
def test_a_text_from_outside_becomes_a_number_where_the_field_is_one(
    cls: type[msgspec.Struct], name: str, value: object, number: object
) -> None:
    converted = from_text(cls, name, value)
    assert converted == number
    check_field(cls, name, converted)


def test_a_wrong_text_from_outside_is_refused_with_the_field() -> None:
    with pytest.raises(InvalidArgument, match=r"idle_timeout: expected a duration as .*, got 'soon'"):
        from_text(Options, "idle_timeout", "soon")


def test_a_file_mode_from_outside_is_no_number_since_its_base_is_not_known() -> None:
    with pytest.raises(InvalidArgument, match=r"unix_mode: a file mode stands in quotes \(write '0660'\), got .* 660"):
        from_text(ListenOptions, "unix_mode", 660)


def test_keepalive_of_a_part_of_a_second_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="keepalive: expected true, false, or 1 to 32767 seconds"):
        check_field(Options, "keepalive", from_text(Options, "keepalive", "1.5 s"))


def test_the_nearest_name_is_told_only_where_one_is_near() -> None:
    assert did_you_mean("lisen", ["listen", "name"]) == " (did you mean 'listen'?)"
    assert did_you_mean("zzz", ["listen", "name"]) == ""


@pytest.mark.parametrize("cls", STRUCTS)
def test_every_field_is_described_where_it_is_defined(cls: type[msgspec.Struct]) -> None:
    described = re.findall(r"^    (\w+): ", inspect.getdoc(cls) or "", re.MULTILINE)
    assert described == list(cls.__struct_fields__)


def in_docs(value: object) -> str:
    """A default as the page writes it."""
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | dict):
        return "[]" if isinstance(value, tuple) else "{}"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("cls", STRUCTS)
def test_the_configuration_page_has_every_field_with_its_default_and_its_range(cls: type[msgspec.Struct]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (section,) = [part for part in page.split("\n## ") if f"`{cls.__name__}`" in part.partition("\n")[0]]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ([^|]*) \|", section, re.MULTILINE)
    hints = inspect.get_annotations(cls, eval_str=True)
    defaults = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(cls)
    }
    wanted = [
        (name, in_docs(default), expected(hints[name]).replace("'", "`"))
        for name, default in defaults.items()
        if not isinstance(default, msgspec.Struct)
    ]
    assert rows == wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ([False, {"a": None}], "[false, {'a': null}]"),
        (1, "1"),
        (1.5, "1.5"),
        ("None", "'None'"),
        ("a" * 100, f"'{'a' * 76}..."),
    ],
)
def test_a_value_is_shown_as_yaml_has_it_and_not_too_long(value: object, text: str) -> None:
    assert shown(value) == text
