"""The command line: ``theater-tcp run | check | certs | --version``.

``run`` is a start that happens as a whole or not at all, a wait, and an end in order:

1. All manifests are read; with one mistake in one of them nothing is started.
2. The runtime starts, then actor after actor with its listeners. If one fails, those before it are stopped.
3. The ready file appears, by a rename, when everything listens.
4. SIGTERM or SIGINT closes the listeners and lets the connections end; a second one, or the drain timeout, aborts them.
5. Where all actors have ended by themselves, so does the run.

Exit codes: 0 all connections ended by themselves; 1 some had to be aborted, or the actors ended by a failure; 2 the
configuration, the command line or the start was wrong (a line on stderr for each problem); 70 a mistake of this
program, 74 a stdout that can't be written to (sysexits.h: EX_SOFTWARE, EX_IOERR), but a run goes on without it; and, as
shells have it, 130 an interrupt before the start and 141 a reader of stdout that had enough (SIGINT, SIGPIPE).

Texts for people go to stdout and the log to stderr; with ``--json`` both are JSON, one object a line.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pykka
import typer

from theater_tcp import __version__, certs_command
from theater_tcp.cli_output import Output, StdoutLost, configure_logging, fields_of, guarded_stdout
from theater_tcp.errors import InvalidArgument, TheaterError
from theater_tcp.fields import from_text
from theater_tcp.guest import guests_of
from theater_tcp.manifest import Manifest, ManifestError, Problem, load, parse_override, runtime_settings
from theater_tcp.pykka_internals import ended_by_failure
from theater_tcp.runtime import Theater
from theater_tcp.settings import Settings

__all__ = ["EXIT_ABORTED", "EXIT_CLEAN", "EXIT_INTERNAL", "EXIT_OUTPUT", "EXIT_WRONG", "app", "main"]

EXIT_CLEAN = 0
EXIT_ABORTED = 1
EXIT_WRONG = 2
EXIT_INTERNAL = 70
EXIT_OUTPUT = 74

logger = logging.getLogger("theater_tcp.cli")

app = typer.Typer(
    name="theater-tcp",
    help="Runs actors that own TCP connections.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(certs_command.app, name="certs")

Files = Annotated[list[str], typer.Argument(metavar="MANIFEST", help="YAML files, one for each actor.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, one object a line.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a key of the manifests, as tcp.idle_timeout=30."),
]
ReadyFile = Annotated[
    Path | None,
    typer.Option("--ready-file", metavar="FILE", help="Write the addresses here as JSON once all listen."),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", help="The least severe messages that the log shows."),
]
DrainTimeout = Annotated[
    str | None,
    typer.Option("--drain-timeout", metavar="SECONDS", help="How long connections may take to end; 0 aborts them."),
]


class _Wrong(Exception):
    """The run can't be, for these reasons."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


class _Signals:
    """SIGTERM and SIGINT: the first one drains, the next one aborts. It may come while actors are still starting.
    SIGHUP: changed certificate files are taken up.

    A handler in Python would run between two steps of the main thread, which may hold a lock there or be in the middle
    of a write, and it would run late if the signal came just before the main thread began to wait. So the signal's
    number goes straight into a pipe (``set_wakeup_fd``), and a thread reads it there.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, theater: Theater, output: Output) -> None:
        self.received = 0
        self._theater = theater
        self._output = output
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in (*self.NUMBERS, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        self._thread = threading.Thread(target=self._follow, name="theater-tcp-signals", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Leave the signals to the system again, so that one still ends the process if something else holds it."""
        for number in (*self.NUMBERS, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _follow(self) -> None:
        while (number := os.read(self._read, 1)[0]) != 0:
            if number == signal.SIGHUP:
                self._theater.reload_certificates()
                self._output.event("SIGHUP: looking at the certificates", "reloading", signal="SIGHUP")
            elif number in self.NUMBERS:  # and not one that an actor handles
                self.received += 1
                event, timeout = ("draining", None) if self.received == 1 else ("aborting", 0.0)
                self._theater.request_shutdown(timeout)
                name = signal.Signals(number).name
                self._output.event(f"{name}: {event}", event, signal=name)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> int:
    if version:
        print(f"theater-tcp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise _Wrong(Problem("", "", "a command is missing: run, check, certs (--help tells more)"))
    return EXIT_CLEAN


@app.command()
def check(manifests: Files, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Validate manifests, as one run would have them: the keys, the values, and the classes, which are imported."""
    output = Output(as_json)
    changes = _parse_overrides(overrides)
    right: list[Manifest] = []
    for file in manifests:
        try:
            manifest = load(file, changes)
            runtime_settings([*right, manifest])
            what, fields = _checked(manifest)
            right.append(manifest)
        except ManifestError as error:
            if as_json:
                output.event("", "check", file=file, ok=False, problems=[fields_of(p) for p in error.problems])
            else:
                for problem in error.problems:
                    output.problem(problem)
        else:
            text = f"{file}: ok ({manifest.name}: {what})"
            output.event(text, "check", "green", file=file, ok=True, name=manifest.name, **fields)
    return EXIT_CLEAN if len(right) == len(manifests) else EXIT_WRONG


def _checked(manifest: Manifest) -> tuple[str, dict[str, str]]:
    """What a manifest's actor is, for people and as fields. A guest is compiled, to see that it can be.

    Raises:
        ManifestError: it can't be.
    """
    guest = manifest.guest
    if guest is None:
        return manifest.python, {"python": manifest.python}
    guests = guests_of("check", runtime_settings([manifest]))
    try:
        road = guests.load(guest.file, guest.options.grants).road_name
    except InvalidArgument as error:
        raise ManifestError([Problem(manifest.file, "actor", error.detail)]) from None
    finally:
        guests.close()
    why = f", since it {guest.why_slow}" if guest.why_slow else ""
    fields = {"actor": guest.shown, "kind": guest.kind, "road": road, "why": guest.why_slow}
    return f"{guest.shown}, a {guest.kind}, by the {road} road{why}", fields


@app.command()
def run(
    manifests: Files,
    overrides: Overrides = None,
    ready_file: ReadyFile = None,
    drain_timeout: DrainTimeout = None,
    log_level: LogLevel = "info",
    as_json: AsJson = False,
) -> int:
    """Run the actors of the manifests until SIGTERM or SIGINT."""
    configure_logging(log_level, as_json)
    with guarded_stdout(lambda lost: logger.warning("%s; what would be told there is lost", lost)):
        loaded, settings = _load_all(manifests, _parse_overrides(overrides), drain_timeout)
        return _serve(loaded, settings, ready_file, Output(as_json))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: what stands behind the program's name; None takes it from ``sys.argv``.

    Returns:
        the exit code.
    """
    words = sys.argv[1:] if args is None else list(args)
    as_json = "--json" in words
    output = Output(as_json)
    configure_logging("warning", as_json)
    try:
        with guarded_stdout():
            code = app(words, prog_name="theater-tcp", standalone_mode=False)
    except typer.TyperException as error:  # the usage
        reason = error.format_message().replace("Value error, ", "")  # which Pydantic puts before what Typer says
        output.problem(Problem("", "", " ".join(reason.split())))
        return EXIT_WRONG
    except (_Wrong, certs_command.CertsError) as wrong:
        for problem in wrong.problems:
            output.problem(problem)
        return EXIT_WRONG
    except (typer.Abort, KeyboardInterrupt):  # before anything was started
        return 128 + signal.SIGINT
    except StdoutLost as lost:
        if lost.is_closed_pipe:  # its reader has had enough
            return 128 + signal.SIGPIPE
        output.problem(Problem("", "", str(lost)))
        return EXIT_OUTPUT
    except Exception:
        logger.critical("a command failed", exc_info=True)
        output.problem(
            Problem("", "", "this is a mistake of theater-tcp itself; please report it with the lines above")
        )
        return EXIT_INTERNAL
    return code if isinstance(code, int) else EXIT_CLEAN


def _parse_overrides(texts: Sequence[str] | None) -> list[tuple[str, Any]]:
    try:
        return [parse_override(text) for text in texts or ()]
    except InvalidArgument as error:
        raise _Wrong(Problem("", "--set", error.detail)) from None


def _load_all(
    files: Sequence[str], changes: list[tuple[str, Any]], drain_timeout: str | None
) -> tuple[list[Manifest], Settings]:
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for file in files:
        try:
            manifests.append(load(file, changes))
        except ManifestError as error:
            problems += error.problems
    settings = Settings()
    try:
        if not problems:
            settings = runtime_settings(manifests)
    except ManifestError as error:
        problems += error.problems
    if drain_timeout is not None:
        try:
            seconds = from_text(Settings, "drain_timeout", drain_timeout)
            settings = settings.replaced(drain_timeout=seconds)
        except InvalidArgument as error:
            problems.append(Problem("", "--drain-timeout", error.detail.removeprefix("drain_timeout: ")))
    if problems:
        raise _Wrong(*problems)
    return manifests, settings


def _serve(manifests: Sequence[Manifest], settings: Settings, ready_file: Path | None, output: Output) -> int:
    """Start, wait, end."""
    if ready_file is not None:
        _remove_ready_file(ready_file)  # one of a run that was killed would lie
    try:
        theater = Theater(settings)
    except RuntimeError as error:  # not in this Python
        raise _Wrong(Problem("", "", str(error))) from None
    refs: list[pykka.ActorRef[Any]] = []
    listeners: list[dict[str, str]] = []
    failed = False
    signals = _Signals(theater, output)
    try:
        theater.start()
        try:
            for manifest in manifests:
                ref, opened = _start(theater, manifest)
                refs.append(ref)
                listeners += opened
            if ready_file is not None:
                _write_ready_file(ready_file, listeners)
        except BaseException:
            theater.shutdown(0.0)
            if signals.received:  # the start was broken off by request
                return EXIT_CLEAN
            raise
        # What is there now stays for good: the collector needn't look at it again while connections come and go.
        gc.collect()
        gc.freeze()
        for listener in listeners:
            output.event(f"{listener['actor']}: listening at {listener['address']}", "listening", **listener)
        output.event(f"ready (pid {os.getpid()})", "ready", pid=os.getpid())
        while not theater.wait(1.0):
            if not theater.network.draining and not any(ref.is_alive() for ref in refs):
                metrics = theater.metrics()
                failed = metrics.guest_traps + metrics.callback_failures > 0 or any(map(ended_by_failure, refs))
                output.event("all actors have ended", "ended", failed=failed)
                theater.request_shutdown()
        clean = theater.shutdown() and not failed
    finally:
        signals.end()
        if ready_file is not None:
            with contextlib.suppress(_Wrong):  # how the run ended is told, not what became of its file
                _remove_ready_file(ready_file)
    text = "stopped" if clean or failed else "stopped; some connections had to be aborted"
    output.event(text, "stopped", clean=clean)
    return EXIT_CLEAN if clean else EXIT_ABORTED


def _spawn(theater: Theater, settings: Settings, manifest: Manifest) -> pykka.ActorRef[Any]:
    guest = manifest.guest
    if guest is not None:
        return theater.spawn_guest(
            guest.file,
            guest.config,
            permissions=manifest.permissions,
            settings=settings,
            **msgspec.structs.asdict(guest.options),
        )
    assert manifest.actor_class is not None  # a manifest has the one or the other
    ref = theater.spawn_with(settings, manifest.actor_class, **manifest.init)
    theater.ownership.name(manifest.name, ref.actor_urn)
    return ref


def _start(theater: Theater, manifest: Manifest) -> tuple[pykka.ActorRef[Any], list[dict[str, str]]]:
    """Start a manifest's actor and open its listeners; the actor, and what listens, as it stands in the ready file."""
    try:
        options, listener = theater.settings.for_listener(**manifest.options)
        settings = theater.settings.replaced(options=options, listener=listener, permissions=manifest.permissions)
        ref = _spawn(theater, settings, manifest)
    except BaseException as error:  # a SystemExit too; an interrupt comes by _Signals
        logger.debug("%s did not start", manifest.name, exc_info=error)
        raise _Wrong(Problem(manifest.file, _phase(error), _one_line(error), actor=manifest.name)) from None
    own = [info for info in theater.listeners() if info.actor_urn == ref.actor_urn]  # that it opened in on_start
    opened = []
    for index, address in enumerate(manifest.listen):
        try:
            opened.append(theater.listen_for(ref, address))
        except TheaterError as error:
            key = f"tcp.listen[{index}]"
            raise _Wrong(Problem(manifest.file, key, _one_line(error), actor=manifest.name)) from None
    return ref, [{"actor": manifest.name, "id": info.id, "address": info.address} for info in opened + own]


def _phase(error: BaseException) -> str:
    """Where in an actor's start an error was raised: in its constructor, or in its ``on_start``."""
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return "on_start" if "on_start" in names or "__init__" not in names else "init"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, TheaterError):  # begins with its kind
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write_ready_file(file: Path, listeners: list[dict[str, str]]) -> None:
    """Write beside it and rename, so that a reader sees all or nothing."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps({"pid": os.getpid(), "listeners": listeners}) + "\n", encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _wrong_ready_file(file, error) from None


def _remove_ready_file(file: Path) -> None:
    """Remove what an earlier run wrote, or this one; an empty file too. What else is there is somebody's."""
    try:
        if os.path.lexists(file) and not file.is_dir() and not (file.is_file() and _is_ready_file(file.read_bytes())):
            raise _Wrong(Problem(str(file), "--ready-file", "is there, and was not written by a run: it stays"))
        file.unlink(missing_ok=True)
    except OSError as error:
        raise _wrong_ready_file(file, error) from None


def _is_ready_file(content: bytes) -> bool:
    try:
        written = json.loads(content or b'{"pid": 0, "listeners": []}')
    except ValueError:
        return False
    return isinstance(written, dict) and written.keys() == {"pid", "listeners"}


def _wrong_ready_file(file: Path, error: OSError) -> _Wrong:
    return _Wrong(Problem(str(file), "--ready-file", (error.strerror or str(error)).lower()))
