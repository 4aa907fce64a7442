"""The shape of the tree: a module imports from its own floor or below, and a few rules that go with it.

``FLOORS`` is the one place where the floors stand; ``ARCHITECTURE.md`` says in words what it says here. A new module
gets its line here first.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "theater_tcp"

FLOORS: dict[int, set[str]] = {
    # values: what the others talk about
    0: {
        "errors",
        "messages",
        "fields",
        "settings",
        "tls_settings",
        "host_names",
        "address",
        "address_patterns",
        "address_classes",
        "permissions",
        "guest_settings",
        "metrics",
    },
    # pure protocol: bytes and events in, bytes and events out
    1: {
        "connection_state",
        "framing",
        "log_allowance",
        "output_queue",
        "tls_engine",
        "client_hello",
        "certificates",
        "certificate_keys",
        "certificate_names",
        "certificate_contents",
        "guest.wit_types",
        "guest.interface",
        "guest.text",
        "guest.canonical_abi",
        "guest.lifting",
        "guest.lowering",
        "guest.wasm_reader",
        "guest.core_module",
        "guest.component_types",
        "guest.component_parts",
        "guest.fast_core",
        "guest.binary",
        "guest.stage",
        "guest.adapter",
        "guest.entrance",
        "guest.outcome",
        "guest.trap_text",
    },
    # machinery: readiness, time, and pykka on the loop
    2: {
        "poller",
        "event_loop",
        "future",
        "task",
        "mailbox",
        "pykka_internals",
        "actor",
        "asyncio_bridge",
        "workers",
        "pem_file",
        "certificate_files",
        "tls_context",
        "credentials",
    },
    # actors: the thin shells around sockets, who owns them, and what owners call
    3: {
        "network",
        "ownership",
        "socket_options",
        "callback_failure",
        "transport",
        "secure_transport",
        "input_stream",
        "stream",
        "owned_stream",
        "upgradable_stream",
        "connection",
        "connector",
        "listening_socket",
        "listener",
        "opening",
        "tcp",
        "blocking",
    },
    # guests: WebAssembly actors
    4: {"guest"},
    # assembly: the parts put together, from Python and from the command line
    5: {
        "drain",
        "runtime",
        "actor_class",
        "manifest_document",
        "guest_manifest",
        "manifest",
        "certificate_folder",
        "certs_command",
        "cli_output",
        "cli",
        "__init__",
        "__main__",
    },
    # what users test with: it puts a whole runtime on a stage, and nothing else imports it
    6: {"testing"},
}
"""Floor to modules; a name without a dot stands for a package with all that is in it too."""

PURE = (0, 1)
IMPURE_MODULES = {"asyncio", "logging", "os", "pykka", "select", "selectors", "signal", "socket", "threading", "time"}
PUBLIC_MODULES = {"theater_tcp", "theater_tcp.errors"}

ALLOWED_IN_PURE = {
    ("errors", "socket"),  # socket.gaierror, to map it
    ("address", "socket"),  # the constants of address families, and inet_pton
}
"""Constants and types of a module that does I/O, without its I/O."""

TYPES_FROM_ABOVE = {("messages", "owned_stream"), ("tcp", "runtime"), ("blocking", "runtime")}
"""(module, module above it whose types it names in annotations); nothing is loaded upward for that."""

MAX_LINES = 450
TOUCHES_PYKKA = "pykka_internals"
"""The one module that may import and use private names of pykka. Its self-test at import names the hooks of pykka's
actor; a class made from an actor of pykka's may override and call these, and no others."""


def modules_under(folder: Path) -> dict[str, Path]:
    """Dotted name below ``folder`` to file; a package by its own name, the root as ``__init__``."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules_under(PACKAGE)
ACTOR_MODULES = modules_under(ROOT / "actors")
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def floor_of(module: str) -> int | None:
    """The floor of the module, or of the nearest package around it that has one."""
    while module:
        for floor, names in FLOORS.items():
            if module in names:
                return floor
        module = module.rpartition(".")[0]
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes_of(path: Path, types_too: bool) -> Iterator[ast.AST]:
    """All nodes of a module, or all but those that only a type checker sees."""
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if types_too or not is_type_checking(node):
            waiting.extend(ast.iter_child_nodes(node))


def imports_of(path: Path, types_too: bool = True) -> set[tuple[str, str]]:
    """Each import as (absolute module, name); the name is empty where the module itself is imported."""
    found = set()
    for node in nodes_of(path, types_too):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join([*around, *([base] if base else [])])
            found |= {(base, alias.name) for alias in node.names}
    return found


def own_imports_of(module: str, types_too: bool = True) -> set[str]:
    """The modules of this package that a module of it imports."""
    found = set()
    for base, name in imports_of(MODULES[module], types_too):
        if base.partition(".")[0] != "theater_tcp":
            continue
        inside = base.partition(".")[2]
        with_name = f"{inside}.{name}" if inside else name
        found.add(with_name if with_name in MODULES else inside or "__init__")
    return found


@EVERY_MODULE
def test_every_module_stands_on_a_floor(module: str) -> None:
    assert floor_of(module) is not None, f"{module} is on no floor: give it one in FLOORS"


def test_the_floors_name_nothing_that_is_not_there() -> None:
    assert {name for names in FLOORS.values() for name in names} - set(MODULES) == set()


def test_no_module_stands_on_two_floors() -> None:
    names = [name for names in FLOORS.values() for name in names]
    assert len(names) == len(set(names))


def upward_imports_of(module: str, types_too: bool) -> set[str]:
    floor = floor_of(module) or 0
    return {name for name in own_imports_of(module, types_too) if (floor_of(name) or 0) > floor}


@EVERY_MODULE
def test_a_module_imports_from_its_own_floor_or_below(module: str) -> None:
    assert upward_imports_of(module, types_too=False) == set()


def test_the_types_that_are_named_from_above_are_the_ones_listed() -> None:
    named = {(module, above) for module in MODULES for above in upward_imports_of(module, types_too=True)}
    assert named == TYPES_FROM_ABOVE


@EVERY_MODULE
def test_only_testing_imports_testing(module: str) -> None:
    if module.partition(".")[0] != "testing":
        assert {name for name in own_imports_of(module) if name.partition(".")[0] == "testing"} == set()


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) in PURE])
def test_a_pure_module_imports_nothing_that_does_io(module: str) -> None:
    impure = {base.partition(".")[0] for base, _ in imports_of(MODULES[module], types_too=False)} & IMPURE_MODULES
    assert {name for name in impure if (module, name) not in ALLOWED_IN_PURE} == set()


def test_each_exception_to_purity_is_still_needed() -> None:
    unused = {
        (module, name)
        for module, name in ALLOWED_IN_PURE
        if name not in {base.partition(".")[0] for base, _ in imports_of(MODULES[module])}
    }
    assert unused == set()


@EVERY_MODULE
def test_a_module_is_one_room_not_a_house(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@EVERY_MODULE
def test_a_module_says_what_it_is_and_what_is_public(module: str) -> None:
    tree = tree_of(MODULES[module])
    assert ast.get_docstring(tree), "no docstring"
    assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                if isinstance(target, ast.Name)}  # fmt: skip
    assert "__all__" in assigned or module == "__main__", "no __all__"


# -- pykka's private names ----------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def vouched_names() -> set[str]:
    """The private names that the self-test of ``pykka_internals`` looks for when it is imported."""
    tests = [node for node in tree_of(MODULES[TOUCHES_PYKKA]).body if getattr(node, "name", "") == "_self_test"]
    texts = {node.value for test in tests for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and is_private(text)}


def names_from_pykka(path: Path) -> set[str]:
    """What the module calls pykka and its parts."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {(a.asname or a.name).partition(".")[0] for a in node.names if a.name.partition(".")[0] == "pykka"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pykka":
            found |= {a.asname or a.name for a in node.names}
    return found


def first_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def private_names_reached(path: Path, roots: set[str]) -> set[str]:
    """The private attributes that a module takes from one of the names ``roots``, or from their attributes."""
    return {
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and first_name(node.value) in roots
    }


def private_imports_from(package: str, path: Path) -> set[str]:
    return {
        f"{base}.{name}"
        for base, name in imports_of(path)
        if base.partition(".")[0] == package and any(is_private(part) for part in [*base.split("."), name])
    }


@pytest.mark.parametrize("module", [name for name in MODULES if name != TOUCHES_PYKKA])
def test_a_module_takes_no_private_name_from_pykka_but_the_hooks_that_are_vouched_for(module: str) -> None:
    path = MODULES[module]
    assert private_imports_from("pykka", path) == set()
    assert private_names_reached(path, names_from_pykka(path)) - vouched_names() == set()


def names_in_source_of(cls: type) -> set[str]:
    """The attributes and methods that a class mentions in its own source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return attributes | methods


@pytest.mark.parametrize("module", [name for name in MODULES if name not in (TOUCHES_PYKKA, "__main__")])
def test_a_class_made_from_one_of_pykkas_touches_no_private_name_but_the_hooks_that_are_vouched_for(
    module: str,
) -> None:
    loaded = importlib.import_module("theater_tcp" if module == "__init__" else f"theater_tcp.{module}")
    for cls in vars(loaded).values():
        if not inspect.isclass(cls) or cls.__module__ != loaded.__name__:
            continue
        bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "pykka"]
        private = {name for base in bases for name in names_in_source_of(base) if is_private(name)}
        assert (names_in_source_of(cls) & private) - vouched_names() == set(), cls.__name__


# -- the example actors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ACTOR_MODULES)
def test_an_example_actor_uses_public_names_only(module: str) -> None:
    path = ACTOR_MODULES[module]
    used = {(base, name) for base, name in imports_of(path) if base.partition(".")[0] == "theater_tcp"}
    for base, name in used:
        assert base in PUBLIC_MODULES, f"{base} is not public"
        assert not name or name in importlib.import_module(base).__all__, f"{base}.{name} is not public"
    assert private_imports_from("pykka", path) == set()
    assert private_names_reached(path, {name for _, name in used} | names_from_pykka(path) | {"connection"}) == set()
