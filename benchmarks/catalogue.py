"""The servers that are compared, what each needs, and which of them this machine can't run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.programs import BUILD

__all__ = ["OURS", "PEERS", "Peer", "choose", "missing_part"]

OURS = "ours"
"""The name of the runtime's own server, which the ratios are about."""


@dataclass(frozen=True)
class Peer:
    """A server that sends back what it gets.

    Args:
        name: what ``--peers`` calls it.
        title: what it is, in a few words.
        command: how it is started.
        modules: the Python modules it needs.
        programs: the programs it needs.
        tls_command: how its TLS server is started, without the arguments of
            :mod:`benchmarks.servers.tls_launch`; empty where it has none.
    """

    name: str
    title: str
    command: tuple[str, ...]
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    tls_command: tuple[str, ...] = ()


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.servers.{module}", *arguments)


# Busy waiting of Erlang's schedulers is switched off: it is CPU time that no operation needs.
_ERLANG = ("erl", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none")

PEERS = (
    Peer(
        OURS,
        "TcpActor that owns its connections, active mode",
        _python("ours"),
        modules=("theater_tcp", "pykka"),
        tls_command=_python("tls_ours"),
    ),
    Peer(
        "uvloop",
        "uvloop, Protocol",
        _python("asyncio_protocol", "uvloop"),
        modules=("uvloop",),
        tls_command=_python("tls_asyncio", "uvloop"),
    ),
    Peer(
        "asyncio",
        "asyncio, Protocol",
        _python("asyncio_protocol"),
        tls_command=_python("tls_asyncio", "asyncio"),
    ),
    Peer(
        "raw",
        "select.epoll and sockets; with TLS wrap_socket",
        _python("raw_epoll"),
        tls_command=_python("tls_wrap_socket"),
    ),
    Peer("c", "C, epoll", (str(BUILD / "echo_epoll"),)),
    Peer(
        "erlang",
        "Erlang gen_tcp, {active, once}",
        (*_ERLANG, "-noshell", "-pa", str(BUILD), "-s", "echo", "main"),
        programs=("erl", "erlc"),
    ),
    Peer("streams", "asyncio, streams", _python("asyncio_streams")),
    Peer("trio", "trio, a task for each connection", _python("trio_tasks"), modules=("trio",)),
    Peer("twisted", "Twisted, Protocol on epoll", _python("twisted_protocol"), modules=("twisted",)),
    Peer("threads", "pykka.ThreadingActor for each connection", _python("pykka_threads"), modules=("pykka",)),
)
"""All of them, ours first."""


def missing_part(modules: Iterable[str] = (), programs: Iterable[str] = ()) -> str:
    """What of this is not installed, in words; empty where nothing is missing."""
    absent = [f"Python package {name}" for name in modules if importlib.util.find_spec(name) is None]
    absent += [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def choose(names: Iterable[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers of these names, all of them where there is none, and why some can't take part.

    Args:
        names: names as ``--peers`` takes them; ours is always among the chosen.

    Raises:
        KeyError: a name that no peer has.
    """
    wanted = set(names) or {peer.name for peer in PEERS}
    if unknown := wanted - {peer.name for peer in PEERS}:
        raise KeyError(", ".join(sorted(unknown)))
    chosen, missing = [], {}
    for peer in PEERS:
        if peer.name in wanted | {OURS}:
            if reason := missing_part(peer.modules, peer.programs):
                missing[peer.name] = reason
            else:
                chosen.append(peer)
    return chosen, missing
