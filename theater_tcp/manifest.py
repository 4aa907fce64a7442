"""Manifests: a YAML file that names an actor's class, its arguments, its listeners and their limits.

::

    name: echo
    python: package.module:Class         # looked for beside the manifest, then in the current directory
    init: {greeting: hello}              # keyword arguments of the class
    tcp:
      listen: ["127.0.0.1:7000"]         # opened for the actor when it has started
      permissions: {listen: ["127.0.0.1:*"]}   # what it may connect to and listen at by itself; else nothing
      idle_timeout: 5 min                # and each option of a connection or a listener
    runtime: {max_connections: 1000}     # what the runtime has once, for all its actors
    drain_timeout: 10 s

:func:`load` goes on after the first mistake and reports all of them, each in one line with the file, the line, the key
and the reason. In place of ``python`` a manifest may have the keys of a guest (:mod:`theater_tcp.guest_manifest`).
The class is imported for that; nothing else of a manifest is acted upon before it is right as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pykka
import yaml
from msgspec import Meta

from theater_tcp import address
from theater_tcp.actor_class import import_actor_class, unfit_arguments
from theater_tcp.address_patterns import parse_pattern
from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Grace, Name, check_field, from_text, shown, unit_of, unknown_name
from theater_tcp.guest_manifest import GuestKeys, GuestPlan, guest_plan
from theater_tcp.guest_settings import Limits
from theater_tcp.manifest_document import MAX_MANIFEST, ManifestDocument, ManifestError, Problem, yaml_reason, yaml_type
from theater_tcp.permissions import Permissions
from theater_tcp.settings import ListenOptions, Options, Settings
from theater_tcp.tls_context import build_client, build_server
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

__all__ = ["MAX_MANIFEST", "Manifest", "ManifestError", "Problem", "load", "parse_override", "runtime_settings"]

_ITS_OWN = ("options", "listener", "permissions")
"""The settings that each manifest has for itself, under ``tcp``."""

RUNTIME_FIELDS = tuple(name for name in Settings.field_names() if name not in {*_ITS_OWN, "drain_timeout"})
"""The settings that a manifest may name under ``runtime``."""

T = TypeVar("T", ServerTls, ClientTls, CertificateFiles)

Section = Annotated[dict[str, Any], Meta(description="a mapping of names to values")]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was found right.

    Args:
        file: the path as it was given.
        name: what the actor is called in logs and in the ready file.
        python: the class as the manifest names it; empty for a guest.
        actor_class: the class; None for a guest.
        guest: the WebAssembly guest; None for a class.
        init: the keyword arguments of the class.
        listen: addresses to listen at, in the form that ``listen`` takes.
        options: the options for these listeners and their connections; only those that were named.
        permissions: what the actor may connect to and listen at by itself.
        runtime: fields of :class:`~theater_tcp.settings.Settings`; only those that were named.
        drain_timeout: seconds that the actor's connections may take to end; None for the default.
    """

    file: str
    name: str
    python: str = ""
    actor_class: type[pykka.Actor] | None = None
    guest: GuestPlan | None = None
    init: dict[str, Any] = {}
    listen: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    permissions: Permissions = Permissions()
    runtime: dict[str, Any] = {}
    drain_timeout: float | None = None


class _Keys(msgspec.Struct):
    """The keys of a manifest and what they take."""

    name: Name
    python: Annotated[
        str, Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*\Z", description="a class as package.module:Class")
    ]
    init: Annotated[dict[str, Any] | str, Meta(description="a mapping of names to values")] | None = None
    tcp: Section | None = None
    runtime: Section | None = None
    drain_timeout: Grace | None = None


_SECTIONS: dict[str, tuple[str, ...]] = {
    "": (*_Keys.__struct_fields__, *GuestKeys.__struct_fields__),
    "tcp.": ("listen", "permissions", *Options.field_names(), *ListenOptions.field_names()),
    "tcp.permissions.": Permissions.field_names(),
    "tcp.server_tls.": ServerTls.field_names(),
    "tcp.client_tls.": ClientTls.field_names(),
    "runtime.": RUNTIME_FIELDS,
    "limits.": Limits.field_names(),
}
"""The names that are right in each section."""


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
        InvalidArgument: it has another form, or the value is none that a manifest could have.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise InvalidArgument(f"{text!r}: expected key=value, as tcp.idle_timeout=30")
    document = ManifestDocument("--set")
    try:
        parsed = document.parse(value, key)
        if document.problems:
            raise ManifestError(document.problems)
    except ManifestError as error:
        problem = error.problems[0]
        raise InvalidArgument(f"{problem.key}: {problem.reason}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{key}: the value is {yaml_reason(error, marks=False)}") from None
    return key, parsed


def runtime_settings(manifests: Sequence[Manifest]) -> Settings:
    """The settings for a runtime that these manifests share.

    What stands under ``runtime`` has one value for all; of the drain timeouts the longest counts. An actor that comes
    from no manifest, since another one started it, may connect to nothing and listen nowhere.

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
                reason = f"{shown(value)} here and {shown(other)} in {file}, and there is one runtime"
                problems.append(Problem(manifest.file, f"runtime.{field}", reason))
    if problems:
        raise ManifestError(problems)
    changes = {field: value for field, (value, _) in chosen.items()}
    drains = [manifest.drain_timeout for manifest in manifests if manifest.drain_timeout is not None]
    if drains:
        changes["drain_timeout"] = max(drains)
    return Settings(permissions=Permissions(), **changes)


class _Reading(ManifestDocument):
    """The values that a manifest's text stands for."""

    def manifest(self, overrides: Iterable[tuple[str, Any]]) -> Manifest:
        document = self.read()
        for key, value in overrides:
            self.override(document, key, value)
        top = self._fields("", document, (_Keys, GuestKeys))
        if "name" not in document:
            self.problem("name", "is missing")
        if "python" not in document and "actor" not in document:
            self.problem("python", "is missing, or actor: for a WebAssembly guest")
        if "actor" not in document:
            for name in GuestKeys.__struct_fields__:
                if name in document:
                    self.problem(name, "is for a guest, and there is no actor")
        tcp = dict(top.get("tcp") or {})
        permissions = self._permissions(tcp.pop("permissions", None))
        listen, options = self._tcp(tcp)
        runtime = self._runtime(top.get("runtime") or {})
        init = top.get("init") or {}
        actor_class, guest = None, None
        if "python" in document and "actor" in document:
            self.problem("actor", "is there, and python too: an actor is the one or the other")
        elif "actor" in top:
            limits = self._fields("limits.", top.get("limits", {}), (Limits,))
            guest = guest_plan(self, top, limits, bool(listen))
            init = {}
        elif isinstance(init, str):
            self.problem("init", "expected a mapping of names to values, got a text")
        elif "python" in top:
            checked = init if ("init" in top) == ("init" in document) else None
            actor_class = self._actor_class(top["python"], checked, listen)
        if self.problems or (actor_class is None and guest is None):
            raise ManifestError(sorted(self.problems, key=lambda problem: problem.line or 0))
        return Manifest(
            file=self.file,
            name=top["name"],
            python=top.get("python", ""),
            actor_class=actor_class,
            guest=guest,
            init=init,
            listen=listen,
            options=options,
            permissions=permissions,
            runtime=runtime,
            drain_timeout=top.get("drain_timeout"),
        )

    # -- the sections ---------------------------------------------------------------------------------------------

    def _fields(
        self,
        prefix: str,
        mapping: Mapping[Any, Any],
        structs: Sequence[type[msgspec.Struct]],
    ) -> dict[str, Any]:
        """What is right of a section, each value in its field's unit; all else is a problem."""
        owners = {name: cls for cls in structs for name in cls.__struct_fields__}
        known = _SECTIONS.get(prefix, tuple(owners))
        values = {}
        for name, value in mapping.items():
            try:
                if name not in known:
                    elsewhere = [f"{section}{name}" for section, names in _SECTIONS.items() if name in names]
                    raise unknown_name(name if isinstance(name, str) else shown(name), known, elsewhere)
                number = from_text(owners[name], name, value)
                check_field(owners[name], name, number)
            except InvalidArgument as error:
                self.problem_of(prefix, error)
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
        options = self._fields("tcp.", section, (Options, ListenOptions))
        if len(options) == len(section):
            try:
                Settings().for_listener(**options)
            except InvalidArgument as error:  # two that contradict each other
                self.problem_of("tcp.", error)
        return listen, options

    def _permissions(self, section: object) -> Permissions:
        key = "tcp.permissions"
        if section is None:
            return Permissions()
        if not isinstance(section, dict):
            self.problem(key, f"expected a mapping of names to values, got a {yaml_type(section)}")
            return Permissions()
        section = dict(section)
        for name in ("allowlist", "listen"):
            texts = section.get(name)
            if texts is None:
                section.pop(name, None)
            elif isinstance(texts, str | list):
                section[name] = [texts] if isinstance(texts, str) else texts
                right = [self._is_pattern(f"{key}.{name}[{i}]", name, t) for i, t in enumerate(section[name])]
                if not all(right):
                    del section[name]
        return Permissions(**self._fields(f"{key}.", section, (Permissions,)))

    def _is_pattern(self, key: str, name: str, text: object) -> bool:
        """Whether it is a pattern for addresses; if not, that is a problem."""
        try:
            if not isinstance(text, str):
                raise InvalidArgument(f"expected a text as '127.0.0.1:25', got a {yaml_type(text)}")
            parse_pattern(text, listening=name == "listen")
        except InvalidArgument as error:
            self.problem(key, error.detail)
            return False
        return True

    def _tls(self, key: str, section: object, cls: type[T]) -> T | None:
        """A section about TLS; None if it, or one of the files that it names, is wrong."""
        if not isinstance(section, dict):
            self.problem(key, f"expected a mapping of names to values, got a {yaml_type(section)}")
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
            self.problem(f"{prefix}cert", "is missing")
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
            self.problem_of(prefix, InvalidArgument(error.detail.replace(f"{self.folder}/", "")))
            return None
        return tls

    def _secret(self, key: str, source: Mapping[Any, Any]) -> str | None:
        """A password that stands elsewhere: ``{env: NAME}``, or ``{file: PATH}``, of which it is the first line."""
        kind, place = next(iter(source.items())) if len(source) == 1 else (None, None)
        if kind not in ("env", "file") or not isinstance(place, str):
            self.problem(key, "expected a text, or {env: NAME} or {file: PATH}")
        elif kind == "env" and not os.environ.get(place):
            self.problem(key, f"the environment has no {place}")
        elif kind == "env":
            return os.environ[place]
        else:
            try:
                return (self.folder / place).read_text(encoding="utf-8").partition("\n")[0]
            except (OSError, ValueError) as error:
                self.problem(key, f"{place}: {(getattr(error, 'strerror', None) or 'is no text').lower()}")
        return None

    def _listen(self, value: object) -> tuple[str, ...]:
        addresses = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(addresses, list):
            self.problem("tcp.listen", f'expected addresses as ["127.0.0.1:25"], got a {yaml_type(value)}')
            return ()
        good = []
        for index, text in enumerate(addresses):
            relative = isinstance(text, str) and text.startswith("unix:") and text[5:6] not in {"", "/", "@"}
            resolved = f"unix:{self.folder / text[5:]}" if relative else text
            try:
                address.parse(resolved, listening=True)
            except InvalidArgument as error:
                self.problem(f"tcp.listen[{index}]", error.detail)
            else:
                good.append(resolved)
        return tuple(good)

    def _runtime(self, section: dict[str, Any]) -> dict[str, Any]:
        values = self._fields("runtime.", section, (Settings,))
        if values.get("guest_cache"):  # an empty text is for no cache
            folder = values["guest_cache"] = str(self.folder / values["guest_cache"])
            try:
                if not stat.S_ISDIR(os.stat(folder).st_mode):
                    self.problem("runtime.guest_cache", "is no folder")
            except (FileNotFoundError, PermissionError):  # it may be made yet, and who runs this may be somebody else
                pass
            except (OSError, ValueError) as error:
                self.problem("runtime.guest_cache", (getattr(error, "strerror", None) or "is no path").lower())
        return values

    # -- the class ------------------------------------------------------------------------------------------------

    def _actor_class(self, spec: str, init: dict[str, Any] | None, listen: Sequence[str]) -> type[pykka.Actor] | None:
        try:
            cls = import_actor_class(spec, self.folder)
        except InvalidArgument as error:
            self.problem("python", error.detail)
            return None
        for name, reason in unfit_arguments(cls, init) if init is not None else ():
            self.problem(f"init.{name}" if name else "init", reason)
        if listen and not callable(getattr(cls, "handle_connection", None)):
            self.problem("tcp.listen", f"{cls.__name__} has no handle_connection, so it can't take what is accepted")
        return cls
