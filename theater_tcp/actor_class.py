"""An actor's class: the one that a manifest names is found, imported, and held against the arguments that it will get.

Whatever is wrong with a user's module comes out as one line that names the module and the innermost cause.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pykka

from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import did_you_mean

__all__ = ["check_actor_class", "import_actor_class", "innermost_cause", "unfit_arguments"]


def check_actor_class(thing: object) -> None:
    """Refuse what is no class of actors.

    Raises:
        InvalidArgument: it is none.
    """
    if not (isinstance(thing, type) and issubclass(thing, pykka.Actor)):
        shown = thing.__name__ if isinstance(thing, type) else repr(thing)
        raise InvalidArgument(f"{shown} is not a class of actors (pykka.Actor)")


def import_actor_class(spec: str, folder: Path) -> type[pykka.Actor]:
    """The actor's class that ``package.module:Class`` names.

    Args:
        spec: the name.
        folder: looked into first; the current directory and the usual places follow. Both stay on ``sys.path``, since
            the module may import from them later.

    Raises:
        InvalidArgument: there is no such module or name in it, the module can't be imported, or it is no actor's class.
    """
    module_name, _, class_name = spec.partition(":")
    for place in (str(Path.cwd()), str(folder)):
        if place in sys.path:
            sys.path.remove(place)
        sys.path.insert(0, place)
    importlib.invalidate_caches()
    _refuse_namesake(module_name.partition(".")[0], folder)
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # a module may be a script, which exits
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise InvalidArgument(f"there is no module {missing!r}") from None
        raise InvalidArgument(f"can't import {module_name}: {innermost_cause(error)}") from None
    cls = getattr(module, class_name, None)
    if cls is None:
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise InvalidArgument(f"module {module_name!r} has no {class_name!r}{did_you_mean(class_name, names)}")
    if not isinstance(cls, type):
        raise InvalidArgument(f"{spec} is a {type(cls).__name__}, no class")
    if not issubclass(cls, pykka.Actor):
        raise InvalidArgument(f"{spec} is no actor (no subclass of pykka.Actor)")
    if inspect.isabstract(cls):
        raise InvalidArgument(f"{spec} is abstract (it lacks {', '.join(sorted(cls.__abstractmethods__))})")
    return cls


def unfit_arguments(cls: type[pykka.Actor], init: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What keeps a class from being called with these keyword arguments, as pairs of name (or "") and reason."""
    constructor = cls.__init__
    if getattr(constructor, "__module__", "").partition(".")[0] in {"pykka", "theater_tcp"}:
        # The class has no constructor of its own, and those of the bases swallow whatever they are given.
        return [(name, f"{cls.__name__} takes no arguments") for name in init]
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):  # written in C
        return []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unfit = []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in init:
            if name not in names:
                unfit.append((name, f"{cls.__name__} takes no such argument{did_you_mean(name, names)}"))
    for p in parameters:
        if p.default is p.empty and p.kind is p.POSITIONAL_ONLY:
            unfit.append(("", f"{cls.__name__} takes {p.name!r} by position only"))
        elif p.default is p.empty and p.name in names and p.name not in init:
            unfit.append((p.name, f"is missing, and {cls.__name__} needs it"))
    return unfit


def innermost_cause(error: BaseException) -> str:
    """The error that began it, in one line with the place it came from."""
    while True:
        inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if inner is None:
            break
        error = inner
    place = ""
    if not isinstance(error, SyntaxError):  # its text names the place
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        own = [frame for frame in frames if frame.filename != __file__]
        place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _refuse_namesake(package: str, folder: Path) -> None:
    """Raises if the module beside the manifest would be passed over for one of the same name, loaded from elsewhere."""
    loaded = sys.modules.get(package)
    spec = importlib.machinery.PathFinder.find_spec(package, [str(folder)])
    if loaded is None or spec is None or spec.origin is None or not isinstance(loaded.__file__, str):
        return
    if Path(loaded.__file__).resolve() != Path(spec.origin).resolve():
        raise InvalidArgument(f"{spec.origin} is hidden by {loaded.__file__}, which is loaded under the same name")
