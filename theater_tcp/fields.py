"""The ground of all settings: structs whose fields carry their type, range and unit, checked whenever one is made.

A field's annotation is the only place where its type and range stand: the check, the error's words and the table in
``docs/configuration.md`` come from it. Outside of Python (manifest, command line) sizes are written as ``64 KiB``,
durations as ``30 s`` and file modes as ``"0660"``; :func:`from_text` turns these into numbers.
"""

from __future__ import annotations

import difflib
import functools
import re
import reprlib
import types
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from theater_tcp.errors import InvalidArgument

__all__ = [
    "MAX_DURATION",
    "MAX_SIZE",
    "Backlog",
    "Checked",
    "Count",
    "Duration",
    "FileMode",
    "Flag",
    "Grace",
    "KeepaliveIdle",
    "Name",
    "Size",
    "Threads",
    "check_field",
    "did_you_mean",
    "expected",
    "from_text",
    "parse_duration",
    "parse_file_mode",
    "parse_size",
    "shown",
    "unit_of",
    "unknown_name",
]

MAX_SIZE = 1 << 30
"""The largest size that a setting takes, in bytes: 1 GiB."""

MAX_DURATION = 1_000_000.0
"""The longest duration that a setting takes, in seconds: 11 days. ``epoll_wait`` counts milliseconds in 31 bits."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "K": 1 << 10,
    "KiB": 1 << 10,
    "kB": 1000,
    "M": 1 << 20,
    "MiB": 1 << 20,
    "MB": 1000**2,
    "G": 1 << 30,
    "GiB": 1 << 30,
    "GB": 1000**3,
}
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)", re.ASCII)
_MODE = re.compile(r"(?:0o)?([0-7]{3,4})", re.ASCII)

Size = Annotated[int, Meta(ge=1, le=MAX_SIZE, description="a size of 1 byte to 1 GiB", extra={"unit": "bytes"})]
Duration = Annotated[
    float,
    Meta(gt=0, le=MAX_DURATION, description="a duration above 0 and up to 1000000 s", extra={"unit": "seconds"}),
]
Grace = Annotated[
    float, Meta(ge=0, le=MAX_DURATION, description="a duration of 0 to 1000000 s", extra={"unit": "seconds"})
]
KeepaliveIdle = Annotated[
    int, Meta(ge=1, le=32767, description="true, false, or 1 to 32767 seconds", extra={"unit": "seconds"})
]
Count = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]
Threads = Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")]
Backlog = Annotated[int, Meta(ge=1, le=65535, description="a whole number from 1 to 65535")]
FileMode = Annotated[int, Meta(ge=0, le=0o777, description="a file mode as 0660 (octal)", extra={"unit": "mode"})]
Flag = Annotated[bool, Meta(description="true or false")]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="a name of at most 64 letters, digits, '.', '_' and '-'",
    ),
]


def expected(annotation: Any) -> str:
    """What a field of this annotation takes, in words."""
    words: list[str] = []
    for part in _parts(annotation):
        meta = _meta(part)
        if meta is not None and meta.description:
            words.append(meta.description)
        elif get_origin(part) is Literal:
            words += [repr(choice) for choice in get_args(part)]
        elif part is type(None):
            words.append("null")
        elif isinstance(part, type) and issubclass(part, msgspec.Struct):
            words.append(f"an instance of {part.__name__}")
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def check_field(cls: type[msgspec.Struct], name: str, value: object) -> None:
    """Checks one field's value against its annotation.

    Args:
        cls: the struct that has the field.
        name: the field's name.
        value: in the field's unit.

    Raises:
        InvalidArgument: it has the wrong type, or it is out of range.
    """
    annotation = _annotations(cls)[name]
    try:
        fits = _as_stored(value) == msgspec.convert(value, annotation)  # not so for a mapping in a struct's place
    except msgspec.ValidationError:
        fits = False
    if not fits:
        got = type(value).__name__ if unit_of(cls, name) == "secret" else shown(value)
        raise InvalidArgument(f"{name}: expected {expected(annotation)}, got {got}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question with the known name that is nearest to a wrong one: `` (did you mean 'x'?)``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_name(name: str, known: Iterable[str], elsewhere: Sequence[str] = ()) -> InvalidArgument:
    """The error for a name that no setting has.

    Args:
        name: what was written.
        known: the names that are right there.
        elsewhere: where that very name would be right.
    """
    hint = f" (did you mean {' or '.join(elsewhere)}?)" if elsewhere else did_you_mean(name, known)
    return InvalidArgument(f"{name}: there is no such setting{hint}")


@functools.cache
def _annotations(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _meta(part: Any) -> Meta | None:
    return next((entry for entry in getattr(part, "__metadata__", ()) if isinstance(entry, Meta)), None)


def unit_of(cls: type[msgspec.Struct], name: str) -> str | None:
    """The kind of a field's values: ``bytes``, ``seconds``, ``mode``, ``version``, ``path``, ``secret`` or none."""
    metas = [meta for meta in map(_meta, _parts(_annotations(cls)[name])) if meta is not None and meta.extra]
    return metas[0].extra["unit"] if metas and metas[0].extra else None


def _as_stored(value: object) -> object:
    """A value as a struct keeps it: nobody can alter it any more, as long as nobody tries hard."""
    if isinstance(value, (list, set, frozenset)):
        return tuple(value)
    return dict(value) if isinstance(value, dict) else value


class _Words(reprlib.Repr):
    """``repr``, but with the words that :func:`expected` has, which are YAML's."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 1 << 20  # the whole is cut where it is too long

    def repr_NoneType(self, _value: None, _level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, _level: int) -> str:
        return "true" if value else "false"


_words = _Words()


def shown(value: object) -> str:
    """A value in an error's text: not too long, and as YAML has it where that differs from Python."""
    try:
        text = _words.repr(value)
    except ValueError:  # an integer of more than 4300 digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


class Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct that checks each field when it is made, by whichever way."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            check_field(type(self), name, value)
            stored = _as_stored(value)
            if stored is not value:
                msgspec.structs.force_setattr(self, name, stored)
        self._check_together()

    def _check_together(self) -> None:
        """Checks what one field alone can't tell."""

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, in the order of the definition."""
        return cls.__struct_fields__

    def replaced(self, **changes: Any) -> Self:
        """This with other values in some fields; equal changes to one object give one object, so that many share it.

        Args:
            changes: field names and their values, in the units of the fields.

        Raises:
            InvalidArgument: an unknown name (the nearest one is told), a wrong type, a value out of range, or two
                fields that contradict each other.
        """
        if not changes:
            return self
        # By identity and by type: Options(keepalive=1) equals Options(keepalive=True).
        key = (id(self), *((name, type(value), value) for name, value in changes.items()))
        try:
            known = _replaced.get(key)
            hashable = True
        except TypeError:  # a list or a mapping: each call makes another object
            known, hashable = None, False
        if known is not None:
            return cast("Self", known[1])
        for name in changes:
            if name not in self.__struct_fields__:
                raise unknown_name(name, self.__struct_fields__)
        replaced = msgspec.structs.replace(self, **changes)
        if hashable:
            if len(_replaced) >= 256:
                _replaced.clear()
            _replaced[key] = (self, replaced)
        return replaced


_replaced: dict[tuple[Any, ...], tuple[Checked, Checked]] = {}
"""What :meth:`Checked.replaced` made of what; it holds the original too, so that no other can get its id."""


def parse_size(text: str) -> int:
    """The bytes that a text as ``4096``, ``64 KiB``, ``16M`` or ``1.5 MB`` stands for.

    KiB, MiB, GiB and K, M, G are powers of 1024; kB, MB, GB powers of 1000.

    Raises:
        InvalidArgument: it is no size, or no whole number of bytes.
    """
    match = _QUANTITY.fullmatch(text.strip())
    factor = _BYTES.get(match[2] or "B") if match else None
    if match is None or factor is None:
        raise InvalidArgument(f"expected a size as 65536, 64 KiB or 1 MiB, got {shown(text)}")
    size = Decimal(match[1]) * factor
    if size != int(size):
        raise InvalidArgument(f"expected a whole number of bytes, got {shown(text)}")
    return int(size)


def parse_duration(text: str) -> float:
    """The seconds that a text as ``30``, ``30 s``, ``100 ms``, ``5 min``, ``2 h`` or ``1 d`` stands for.

    Raises:
        InvalidArgument: it is no duration.
    """
    match = _QUANTITY.fullmatch(text.strip())
    factor = _SECONDS.get(match[2] or "s") if match else None
    if match is None or factor is None:
        raise InvalidArgument(f"expected a duration as 30, 30 s, 100 ms or 5 min, got {shown(text)}")
    return float(match[1]) * factor


def parse_file_mode(text: str) -> int:
    """The mode that an octal text as ``0660``, ``660`` or ``0o660`` stands for.

    Raises:
        InvalidArgument: it is no mode.
    """
    match = _MODE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"expected a file mode as '0660' (octal), got {shown(text)}")
    return int(match[1], 8)


def from_text(cls: type[msgspec.Struct], name: str, value: object) -> object:
    """A field's value in the field's unit, from the way it is written outside of Python.

    Args:
        cls: the struct that has the field.
        name: the field's name.
        value: a text with a unit where the field is a size, a duration or a mode; all else is passed through.

    Raises:
        InvalidArgument: the text is no such quantity. A mode that is a number: nobody can tell 660 from 0o660 there.
    """
    unit = unit_of(cls, name)
    if unit == "mode" and isinstance(value, int) and not isinstance(value, bool):
        raise InvalidArgument(f"{name}: a file mode stands in quotes (write '0660'), got the number {value}")
    if unit == "version" and isinstance(value, float):
        return str(value)  # `min_version: 1.2` is a number in YAML
    if not isinstance(value, str) or unit not in {"bytes", "seconds", "mode"}:
        return value
    parse = {"bytes": parse_size, "seconds": parse_duration, "mode": parse_file_mode}[unit]
    try:
        number = parse(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error.detail}") from None
    # TCP counts keepalive in whole seconds.
    return int(number) if name == "keepalive" and number == int(number) else number
