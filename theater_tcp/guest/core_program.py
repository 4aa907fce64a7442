"""A compiled guest for the fast road: its module, its adapter, and where everything in them is."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import wasmtime

from theater_tcp.errors import ShutDown
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.adapter import Import, adapter_text
from theater_tcp.guest.binary import WASI_MODULE
from theater_tcp.guest.core_road import CoreInstance
from theater_tcp.guest.interface import EXPORTS, IMPORTS
from theater_tcp.guest.stage import OUT, SECOND
from theater_tcp.guest.text import ENCODINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.core_callbacks import CoreRoad
    from theater_tcp.guest_settings import Limits

__all__ = ["CoreProgram"]


class CoreProgram:
    """What guests of one kind share.

    Args:
        road: the fast road of the engine that runs them.
        module: the compiled core module, known to be a guest by :mod:`theater_tcp.guest.binary`.
        encodings: the encoding of texts for each function of the interface that isn't ``utf8``, by full name.
        wasi: a linker with WASI, where that is granted.
    """

    road_name = "core"
    takes_arrivals = True

    def __init__(
        self,
        road: CoreRoad,
        module: wasmtime.Module,
        encodings: Mapping[str, str],
        wasi: wasmtime.Linker | None,
    ) -> None:
        self.road = road
        self.arrivals: memoryview | None = road.stage[SECOND:OUT]
        self._kept: list[Any] = [module, wasi]  # what is known to C code by its address
        self.module = inner.address_of(module)
        self.foreign_linker = inner.address_of(wasi) if wasi is not None else 0
        imports: list[Import] = []
        self.own_imports: list[tuple[int, bytes]] = []
        self.foreign_imports: list[tuple[int, bytes, bytes]] = []
        for index, item in enumerate(module.imports):
            place = index * inner.EXTERN
            if item.module == WASI_MODULE:
                self.foreign_imports.append((place, item.module.encode(), (item.name or "").encode()))
                continue
            function = IMPORTS[item.module][item.name or ""]
            self.own_imports.append((place, str(len(imports)).encode()))
            imports.append(road.import_of(function, encodings.get(function.full_name, "utf8")))
        self.import_count = len(module.imports)
        scratch = (ctypes.c_char * (inner.EXTERN * max(self.import_count, 1)))()
        self._kept.append(scratch)
        self.externs = ctypes.addressof(scratch)
        adapter = wasmtime.Module(road.engine, bytes(wasmtime.wat2wasm(adapter_text(imports))))
        self._kept.append(adapter)
        prepared = ctypes.c_size_t()
        inner.check(
            inner.prepare(inner.address_of(road.linker), inner.address_of(adapter), ctypes.addressof(prepared)), None
        )
        self.adapter = prepared.value
        names = {item.name for item in module.exports}
        self.initializes = "_initialize" in names
        self.export_names: dict[str, tuple[bytes, bytes]] = {}
        self.encoders: dict[str, Any] = {}
        self.decoders: dict[str, Any] = {}
        for function in EXPORTS.values():
            if function.full_name in names:
                post = f"cabi_post_{function.full_name}"
                self.export_names[function.name] = (
                    function.full_name.encode(),
                    post.encode() if post in names else b"",
                )
                encoding = ENCODINGS[encodings.get(function.full_name, "utf8")]
                self.encoders[function.name], self.decoders[function.name] = encoding.encode, encoding.decode
        self.exports = frozenset(self.export_names)
        """The names of the exports that it has, as ``on-data``."""

    def instantiate(self, calls: GuestCalls, limits: Limits) -> CoreInstance:
        """A new guest. On the loop's thread.

        Raises:
            GuestTrap: it does not fit in its limits, or its start function trapped.
            ShutDown: the runtime that it was loaded for has ended.
        """
        if not self.adapter:
            raise ShutDown
        return CoreInstance(self, calls, limits)

    def prepared(self, export: str, value: str | bytes) -> tuple[bytes, int, int]:
        """An argument as it goes to an export: its bytes, their alignment, and its length as it is passed."""
        if isinstance(value, str):
            return self.encoders[export](value)  # type: ignore[no-any-return]
        return value, 1, len(value)

    def may_enter(self) -> bool:
        """Whether no guest of this engine is running further up the stack."""
        return self.road.current is None

    def close(self) -> None:
        """Give back what it has of wasmtime; its guests have ended."""
        adapter, self.adapter = self.adapter, 0
        if adapter:
            inner.pre_delete(adapter)
        self._kept.clear()
