"""Manifests: a YAML file that names an actor's class, its arguments, its listeners and their limits.

::

    name: echo
    python: package.module:Class         # looked for beside the manifest, then in the current directory
    init: {greeting: hello}              # keyword arguments of the class
    tcp:
      listen: ["127.0.0.1:7000"]         # opened for the actor when it has started
      idle_timeout: 5 min                # and each option of a connection or a listener
    runtime: {max_connections: 1000}     # what the runtime has once, for all its actors
    drain_timeout: 10 s

:func:`load` goes on after the first mistake and reports all of them, each in one line with the file, the line, the key
and the reason. The class is imported for that; nothing else of a manifest is acted upon before it is right as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pykka
import yaml
from msgspec import Meta

from theater_tcp import address
from theater_tcp.actor_class import import_actor_class, unfit_arguments
from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Grace, check_field, from_text, unit_of, unknown_name
from theater_tcp.settings import ListenOptions, Options, Settings
from theater_tcp.tls_context import build_client, build_server
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

__all__ = ["MAX_MANIFEST", "Manifest", "ManifestError", "Problem", "load", "parse_override", "runtime_settings"]

MAX_MANIFEST = 1 << 20
"""Bytes of the largest manifest that is read."""

RUNTIME_FIELDS = tuple(name for name in Settings.field_names() if name not in {"options", "listener", "drain_timeout"})
"""The settings that a manifest may name under ``runtime``."""

T = TypeVar("T", ServerTls, ClientTls, CertificateFiles)

Section = Annotated[dict[str, Any], Meta(description="a mapping of names to values")]


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one key of one manifest.

    Args:
        file: the manifest's path as it was given.
        key: the path of the key, as ``tcp.listen[0]``; empty where it is the file itself.
        reason: one line.
        line: where it stands, from 1; None where it stands nowhere (a missing key, a value from the command line).
    """

    file: str
    key: str
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        file = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (file, self.key, self.reason) if part)


class ManifestError(InvalidArgument):
    """A manifest, or several that don't fit together, can't be used.

    Args:
        problems: all that was found, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = tuple(problems)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was found right.

    Args:
        file: the path as it was given.
        name: what the actor is called in logs and in the ready file.
        python: the class as the manifest names it.
        actor_class: the class.
        init: the keyword arguments of the class.
        listen: addresses to listen at, in the form that ``listen`` takes.
        options: the options for these listeners and their connections; only those that were named.
        runtime: fields of :class:`~theater_tcp.settings.Settings`; only those that were named.
        drain_timeout: seconds that the actor's connections may take to end; None for the default.
    """

    file: str
    name: str
    python: str
    actor_class: type[pykka.Actor]
    init: dict[str, Any] = {}
    listen: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    drain_timeout: float | None = None


class _Keys(msgspec.Struct):
    """The keys of a manifest and what they take."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
            description="a name of at most 64 letters, digits, '.', '_' and '-'",
        ),
    ]
    python: Annotated[
        str, Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*\Z", description="a class as package.module:Class")
    ]
    init: Section | None = None
    tcp: Section | None = None
    runtime: Section | None = None
    drain_timeout: Grace | None = None


def load(file: str | Path, overrides: Iterable[tuple[str, Any]] = ()) -> Manifest:
    """The manifest that a file holds.

    Args:
        file: its path.
        overrides: key paths as ``tcp.idle_timeout`` and the values that replace what the file says, in order.

    Raises:
        ManifestError: with a problem for each mistake.
    """
    return _Reading(str(file)).manifest(overrides)


def parse_override(text: str) -> tuple[str, Any]:
    """A key path and a value from ``key=value``; the value is read as YAML.

    Raises:
        InvalidArgument: it has another form, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InvalidArgument(f"{text!r}: expected key=value, as tcp.idle_timeout=30")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{key}: the value is {_yaml_reason(error, marks=False)}") from None


def runtime_settings(manifests: Sequence[Manifest]) -> Settings:
    """The settings for a runtime that these manifests share.

    What stands under ``runtime`` has one value for all; of the drain timeouts the longest counts.

    Raises:
        ManifestError: two manifests have one name, or want different values.
    """
    chosen: dict[str, tuple[Any, str]] = {}
    names: dict[str, str] = {}
    problems = []
    for manifest in manifests:
        if manifest.name in names:
            reason = f"{manifest.name!r} is the name in {names[manifest.name]} too"
            problems.append(Problem(manifest.file, "name", reason))
        names.setdefault(manifest.name, manifest.file)
        for field, value in manifest.runtime.items():
            other, file = chosen.setdefault(field, (value, manifest.file))
            if other != value:
                reason = f"{value} here and {other} in {file}, and there is one runtime"
                problems.append(Problem(manifest.file, f"runtime.{field}", reason))
    if problems:
        raise ManifestError(problems)
    changes = {field: value for field, (value, _) in chosen.items()}
    drains = [manifest.drain_timeout for manifest in manifests if manifest.drain_timeout is not None]
    if drains:
        changes["drain_timeout"] = max(drains)
    return Settings(**changes)


class _Reading:
    """One manifest on its way from text to value, and what was found wrong with it so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.folder = Path(file).parent
        self.lines: dict[str, int] = {}
        self.overridden: set[str] = set()
        self.problems: list[Problem] = []

    def manifest(self, overrides: Iterable[tuple[str, Any]]) -> Manifest:
        document = self._document()
        for key, value in overrides:
            self._override(document, key, value)
        top = self._fields("", document, (_Keys,))
        for name in ("name", "python"):
            if name not in document:
                self._problem(name, "is missing")
        listen, options = self._tcp(top.get("tcp") or {})
        runtime = self._runtime(top.get("runtime") or {})
        init = top.get("init") or {}
        checked = init if ("init" in top) == ("init" in document) else None
        actor_class = self._actor_class(top["python"], checked, listen) if "python" in top else None
        if self.problems or actor_class is None:
            raise ManifestError(sorted(self.problems, key=lambda problem: problem.line or 0))
        return Manifest(
            file=self.file,
            name=top["name"],
            python=top["python"],
            actor_class=actor_class,
            init=init,
            listen=listen,
            options=options,
            runtime=runtime,
            drain_timeout=top.get("drain_timeout"),
        )

    # -- the text -------------------------------------------------------------------------------------------------

    def _document(self) -> dict[Any, Any]:
        """The file's top mapping; the lines of its keys are noted on the way."""
        try:
            self.folder = self.folder.absolute()
            with open(self.file, "rb") as stream:
                content = stream.read(MAX_MANIFEST + 1)
        except OSError as error:
            raise self._fatal((error.strerror or str(error)).lower()) from None
        except ValueError:  # a NUL in the path
            raise self._fatal("is no path") from None
        if len(content) > MAX_MANIFEST:
            raise self._fatal(f"is larger than {MAX_MANIFEST} bytes")
        try:
            loader = yaml.SafeLoader(content)
            node = loader.get_single_node()
            if node is None:
                raise self._fatal("the file is empty")
            self._note_lines(node, "", set())
            document = loader.construct_document(node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            raise self._fatal(_yaml_reason(error), None if mark is None else mark.line + 1) from None
        if not isinstance(document, dict):
            raise self._fatal(f"expected keys and values, got a {_yaml_type(document)}")
        return document

    def _note_lines(self, node: yaml.Node, key: str, seen: set[int]) -> None:
        """Notes the line of each key below ``node`` (aliases make circles); a key that is there twice is a problem."""
        self.lines.setdefault(key, node.start_mark.line + 1)
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._note_lines(item, f"{key}[{index}]", seen)
        elif isinstance(node, yaml.MappingNode):
            known = set()
            for name, value in node.value:
                inner = f"{key}.{name.value}" if key else str(name.value)
                if (name.tag, str(name.value)) in known:
                    reason = f"is there twice (line {self.lines[inner]} too)"
                    self._problem(inner, reason, name.start_mark.line + 1)
                known.add((name.tag, str(name.value)))
                self.lines.setdefault(inner, name.start_mark.line + 1)
                self._note_lines(value, inner, seen)

    def _override(self, document: dict[Any, Any], key: str, value: Any) -> None:
        *outer, last = key.split(".")
        self.overridden.add(key)
        target = document
        for depth, name in enumerate(outer, 1):
            if target.get(name) is None:
                target[name] = {}
            target = target[name]
            if not isinstance(target, dict):
                self._problem(key, f"{'.'.join(outer[:depth])} is no mapping")
                return
        target[last] = value

    # -- the sections ---------------------------------------------------------------------------------------------

    def _fields(
        self,
        prefix: str,
        mapping: Mapping[Any, Any],
        structs: Sequence[type[msgspec.Struct]],
        known: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """What is right of a section, each value in its field's unit; all else is a problem."""
        owners = {name: cls for cls in structs for name in cls.__struct_fields__ if known is None or name in known}
        values = {}
        for name, value in mapping.items():
            try:
                if name not in owners:
                    raise unknown_name(str(name), known or tuple(owners))
                number = from_text(owners[name], name, value)
                check_field(owners[name], name, number)
            except InvalidArgument as error:
                self._problem_of(prefix, error)
            else:
                values[name] = number
        return values

    def _tcp(self, section: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        section = dict(section)
        listen = self._listen(section.pop("listen", None))
        for name in ("server_tls", "client_tls"):
            if section.get(name) is not None:
                key, inner = f"tcp.{name}", section.pop(name)
                tls = self._tls(key, inner, ServerTls) if name == "server_tls" else self._tls(key, inner, ClientTls)
                if tls is not None:  # else its problems are told
                    section[name] = tls
        known = ("listen", *Options.field_names(), *ListenOptions.field_names())
        options = self._fields("tcp.", section, (Options, ListenOptions), known)
        if len(options) == len(section):
            try:
                Settings().for_listener(**options)
            except InvalidArgument as error:  # two that contradict each other
                self._problem_of("tcp.", error)
        return listen, options

    def _tls(self, key: str, section: object, cls: type[T]) -> T | None:
        """A section about TLS; None if it, or one of the files that it names, is wrong."""
        if not isinstance(section, dict):
            self._problem(key, f"expected a mapping of names to values, got a {_yaml_type(section)}")
            return None
        before = len(self.problems)
        section, named, prefix = dict(section), {}, f"{key}."
        if cls is ServerTls and isinstance(section.get("sni"), dict):
            for host, inner in section.pop("sni").items():
                named[str(host)] = self._tls(f"{prefix}sni.{host}", inner, CertificateFiles)
        if isinstance(section.get("password"), dict):
            section["password"] = self._secret(f"{prefix}password", section["password"])
        values = self._fields(prefix, section, (cls,))
        if cls is CertificateFiles and "cert" not in section:
            self._problem(f"{prefix}cert", "is missing")
        if len(self.problems) > before:
            return None
        if named:
            values["sni"] = named
        for name, value in values.items():
            if value is not None and unit_of(cls, name) == "path":
                values[name] = str(self.folder / value)
        try:
            tls = cls(**values)
            if isinstance(tls, ServerTls) and tls.enabled:
                build_server(tls)
            elif isinstance(tls, ClientTls) and tls.enabled:
                build_client(tls)
        except InvalidArgument as error:
            self._problem_of(prefix, InvalidArgument(error.detail.replace(f"{self.folder}/", "")))
            return None
        return tls

    def _secret(self, key: str, source: Mapping[Any, Any]) -> str | None:
        """A password that stands elsewhere: ``{env: NAME}``, or ``{file: PATH}``, of which it is the first line."""
        kind, place = next(iter(source.items())) if len(source) == 1 else (None, None)
        if kind not in ("env", "file") or not isinstance(place, str):
            self._problem(key, "expected a text, or {env: NAME} or {file: PATH}")
        elif kind == "env" and not os.environ.get(place):
            self._problem(key, f"the environment has no {place}")
        elif kind == "env":
            return os.environ[place]
        else:
            try:
                return (self.folder / place).read_text(encoding="utf-8").partition("\n")[0]
            except (OSError, ValueError) as error:
                self._problem(key, f"{place}: {(getattr(error, 'strerror', None) or 'is no text').lower()}")
        return None

    def _listen(self, value: object) -> tuple[str, ...]:
        addresses = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(addresses, list):
            self._problem("tcp.listen", f'expected addresses as ["127.0.0.1:25"], got a {_yaml_type(value)}')
            return ()
        good = []
        for index, text in enumerate(addresses):
            relative = isinstance(text, str) and text.startswith("unix:") and text[5:6] not in {"", "/", "@"}
            resolved = f"unix:{self.folder / text[5:]}" if relative else text
            try:
                address.parse(resolved, listening=True)
            except InvalidArgument as error:
                self._problem(f"tcp.listen[{index}]", error.detail)
            else:
                good.append(resolved)
        return tuple(good)

    def _runtime(self, section: dict[str, Any]) -> dict[str, Any]:
        return self._fields("runtime.", section, (Settings,), RUNTIME_FIELDS)

    # -- the class ------------------------------------------------------------------------------------------------

    def _actor_class(self, spec: str, init: dict[str, Any] | None, listen: Sequence[str]) -> type[pykka.Actor] | None:
        try:
            cls = import_actor_class(spec, self.folder)
        except InvalidArgument as error:
            self._problem("python", error.detail)
            return None
        for name, reason in unfit_arguments(cls, init) if init is not None else ():
            self._problem(f"init.{name}" if name else "init", reason)
        if listen and not callable(getattr(cls, "handle_connection", None)):
            self._problem("tcp.listen", f"{cls.__name__} has no handle_connection, so it can't take what is accepted")
        return cls

    # -- the problems ---------------------------------------------------------------------------------------------

    def _problem(self, key: str, reason: str, line: int | None = None) -> None:
        if any(key == other or key.startswith((f"{other}.", f"{other}[")) for other in self.overridden):
            self.problems.append(Problem(self.file, key, f"{reason} (by --set)"))
        else:
            self.problems.append(Problem(self.file, key, reason, line or self.lines.get(key)))

    def _problem_of(self, prefix: str, error: InvalidArgument) -> None:
        """A problem from an error of the settings, which reads ``field: reason``."""
        name, _, reason = error.detail.partition(": ")
        self._problem(prefix + name, reason)

    def _fatal(self, reason: str, line: int | None = None) -> ManifestError:
        return ManifestError([*self.problems, Problem(self.file, "", reason, line)])


def _yaml_reason(error: Exception, *, marks: bool = True) -> str:
    if isinstance(error, RecursionError):
        return "not readable: it is nested too deep"
    if isinstance(error, yaml.MarkedYAMLError):
        text = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark if marks else None
        if error.context == "while scanning an alias":
            text += "; a text that begins with '*' stands in quotes"
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        return f"not YAML: {' '.join(text.split())}{where}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"not YAML: {error.reason} (position {error.position})"
    return f"not YAML: {' '.join(str(error).split())}"


def _yaml_type(value: object) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
