"""Every private part of wasmtime-py that guests need, in one place, with a self-test at import.

wasmtime-py's public classes make several Python objects for each call and can't suspend a guest. The library inside of
the package can do both: its C interface is called here through ``ctypes`` with plain addresses, no object in between.
Pointers are ints everywhere. What is read from the package itself: the loaded library, the sizes of five structs, and
the addresses behind its engines, linkers and modules.

Two traps that are known and avoided:

- ``wasmtime_context_epoch_deadline_async_yield_and_update`` is declared to return an error and returns nothing.
- A store in which anything asynchronous was set up refuses every synchronous call from then on; so what can be done
  synchronously, which is faster, is done before :func:`yield_at_epoch`.

:data:`FAILURE` says why the fast roads can't be used with the wasmtime that is installed; it is None when they can.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import struct
from collections.abc import Callable
from ctypes import CFUNCTYPE, PYFUNCTYPE, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from typing import Any

import wasmtime

try:
    from wasmtime import _ffi
except ImportError:  # told by the self-test below, as all that is missing: to import this module never fails
    _ffi = None  # type: ignore[assignment]

__all__ = [
    "COMPONENT_ENTRY",
    "COMPONENT_FUNCTION",
    "COMPONENT_VALUE",
    "CONTINUATION",
    "ENTRY_VALUE",
    "EXTERN",
    "FAILURE",
    "FUNCREF",
    "I64",
    "OF",
    "SUSPENDABLE",
    "SUSPENDABLE_OF_COMPONENT",
    "SYNCHRONOUS",
    "SYNCHRONOUS_OF_COMPONENT",
    "VALUE",
    "VERSION",
    "Failed",
    "SharedMemory",
    "address_of",
    "bytes_new",
    "call",
    "call_arguments",
    "check",
    "component_add",
    "component_add_suspendable",
    "component_call",
    "component_export_delete",
    "component_get_export",
    "component_get_function",
    "component_instantiate",
    "continuation",
    "define_suspendable",
    "define_synchronous",
    "export_get",
    "forget_call",
    "give_wasi",
    "increment_epoch",
    "instance_new",
    "linker_get",
    "list_new",
    "memory_base",
    "memory_size",
    "new_error",
    "new_trap",
    "poll",
    "pre_delete",
    "pre_instantiate",
    "prepare",
    "record_new",
    "set_epoch_deadline",
    "set_fiber_stack",
    "store_context",
    "store_delete",
    "store_limiter",
    "store_new",
    "tested",
    "tuple_new",
    "value_delete",
    "value_new",
    "yield_at_epoch",
]

VERSION = importlib.metadata.version("wasmtime")
"""The version of wasmtime-py that is installed."""

_missing: list[str] = []


def _size(name: str) -> int:
    kind = getattr(_ffi, name, None)
    if kind is None:
        _missing.append(name)
    return ctypes.sizeof(kind or c_size_t)


VALUE = _size("wasmtime_val_t")
"""Bytes of a ``wasmtime_val_t``: its kind in the first byte, what it holds from :data:`OF` on."""

EXTERN = _size("wasmtime_extern_t")
"""Bytes of a ``wasmtime_extern_t``, laid out the same way."""

OF = 8
FUNCREF = 5
_SHARED_MEMORY = 4
I64 = 1

RAW = 16
"""Bytes of a ``wasmtime_val_raw_t``: what a synchronous host function gets its arguments in."""

SYNCHRONOUS = CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)
"""A host function that answers at once: (env, caller, raw values, their number) to the address of a trap, or 0."""

SUSPENDABLE = CFUNCTYPE(None, *[c_size_t] * 8)
"""A host function that may suspend the guest: (env, caller, arguments, their number, results, their number, where the
address of a trap goes, where the continuation goes)."""


def _function(name: str, result: Any, *arguments: Any, brief: bool = False) -> Any:
    """A function of the library. A brief one keeps Python's lock: it runs no guest, and is over in less than a
    microsecond; all others let other threads run meanwhile."""
    try:
        return (PYFUNCTYPE if brief else CFUNCTYPE)(result, *arguments)((name, _ffi.dll))
    except AttributeError:  # no such function, or no library
        _missing.append(name)
        return None


_p = c_void_p
_ONE, _TWO = c_size_t(1), c_size_t(2)

store_new = _function("wasmtime_store_new", _p, _p, _p, _p)
store_context = _function("wasmtime_store_context", _p, _p, brief=True)
store_delete = _function("wasmtime_store_delete", None, _p)
store_limiter = _function("wasmtime_store_limiter", None, _p, c_int64, c_int64, c_int64, c_int64, c_int64, brief=True)
set_epoch_deadline = _function("wasmtime_context_set_epoch_deadline", None, _p, c_uint64, brief=True)
yield_at_epoch = _function("wasmtime_context_epoch_deadline_async_yield_and_update", None, _p, c_uint64, brief=True)
increment_epoch = _function("wasmtime_engine_increment_epoch", None, _p)
prepare = _function("wasmtime_linker_instantiate_pre", _p, _p, _p, _p)
pre_instantiate = _function("wasmtime_instance_pre_instantiate", _p, _p, _p, _p, _p)
pre_delete = _function("wasmtime_instance_pre_delete", None, _p)
instance_new = _function("wasmtime_instance_new", _p, _p, _p, _p, c_size_t, _p, _p)
export_get = _function("wasmtime_instance_export_get", c_bool, _p, _p, c_char_p, c_size_t, _p, brief=True)
linker_get = _function("wasmtime_linker_get", c_bool, _p, _p, c_char_p, c_size_t, c_char_p, c_size_t, _p, brief=True)
memory_base = _function("wasmtime_memory_data", _p, _p, _p, brief=True)
memory_size = _function("wasmtime_memory_data_size", c_size_t, _p, _p, brief=True)
call = _function("wasmtime_func_call_async", _p, _p, _p, _p, c_size_t, _p, c_size_t, _p, _p, brief=True)
poll = _function("wasmtime_call_future_poll", c_bool, _p)
forget_call = _function("wasmtime_call_future_delete", None, _p)
_stack_size_set = _function("wasmtime_config_async_stack_size_set", None, _p, c_size_t)
_wasi_config_new = _function("wasi_config_new", _p)
_set_wasi = _function("wasmtime_context_set_wasi", _p, _p, _p)
_linker_define = _function("wasmtime_linker_define", _p, _p, _p, c_char_p, c_size_t, c_char_p, c_size_t, c_char_p)
_shared_data = _function("wasmtime_sharedmemory_data", _p, _p)
_trap_new = _function("wasmtime_trap_new", _p, c_char_p, c_size_t)
_define_synchronous = _function(
    "wasmtime_linker_define_func_unchecked", _p, _p, c_char_p, c_size_t, c_char_p, c_size_t, _p, SYNCHRONOUS, _p, _p
)
_define_suspendable = _function(
    "wasmtime_linker_define_async_func", _p, _p, c_char_p, c_size_t, c_char_p, c_size_t, _p, SUSPENDABLE, _p, _p
)

_strlen = ctypes.cast(ctypes.CDLL(None).strlen, c_void_p).value or 0

CONTINUATION = struct.Struct("QQQ")


def continuation(flag: int) -> tuple[int, int, int]:
    """What a suspended host function leaves behind: the guest goes on when the byte at ``flag`` is 1.

    wasmtime asks by calling a C function with an address whether the call is ready. ``strlen`` is such a function: over
    the two bytes ``0 0`` it says 0, over ``1 0`` it says 1; so no Python code is run only to say "not yet".
    """
    return _strlen, flag, 0


class Failed(Exception):
    """wasmtime refused something, or the guest trapped.

    Args:
        message: wasmtime's words, of several lines with a backtrace.
        trap: whether a guest's code was running.
    """

    def __init__(self, message: str, trap: bool) -> None:
        super().__init__(message)
        self.message = message
        self.trap = trap


def address_of(wrapper: Any) -> int:
    """The address behind one of wasmtime-py's objects (an engine, a linker, a module)."""
    return ctypes.cast(wrapper.ptr(), c_void_p).value or 0


def check(error: int | None, trap: int | None) -> None:
    """Raise what a call left behind, and free it.

    Raises:
        Failed: there is an error or a trap.
    """
    if trap:
        caught = wasmtime.Trap._from_ptr(ctypes.cast(trap, ctypes.POINTER(_ffi.wasm_trap_t)))
        message = caught.message
        del caught  # now, and not with the traceback
        raise Failed(message, True)
    if error:
        refused = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(_ffi.wasmtime_error_t)))
        message = str(refused)
        del refused
        raise Failed(message, False)


def call_arguments(context: int, function: int, arguments: int, result: int, trap: int, error: int) -> tuple[Any, ...]:
    """What :data:`call` takes for a function of two parameters and one result, converted."""
    return _p(context), _p(function), _p(arguments), _TWO, _p(result), _ONE, _p(trap), _p(error)


def set_fiber_stack(config: wasmtime.Config, size: int) -> None:
    """Bytes of stack for each suspendable call, in an engine that is yet to be made."""
    _stack_size_set(address_of(config), size)


def give_wasi(context: int) -> None:
    """Let the guest of a store have WASI: clocks and randomness, and no file, argument, variable or stream."""
    check(_set_wasi(context, _wasi_config_new()), None)


class SharedMemory:
    """A memory that belongs to no store, for the modules of ours that stand beside guests.

    Args:
        engine: whose modules it is for.
        pages: of 64 KiB; it does not grow.
    """

    def __init__(self, engine: wasmtime.Engine, pages: int) -> None:
        self._engine = engine
        self._memory = wasmtime.SharedMemory(engine, wasmtime.MemoryType(wasmtime.Limits(pages, pages), shared=True))
        address = address_of(self._memory)
        self.view = memoryview((c_uint8 * (pages << 16)).from_address(_shared_data(address))).cast("B")
        self.extern = struct.pack(f"B7xQ{EXTERN - 16}x", _SHARED_MEMORY, address)
        """It as an import of :data:`instance_new`."""

    def define(self, linker: wasmtime.Linker, module: str, name: str) -> None:
        """Let a linker have it, by a name."""
        store = store_new(address_of(self._engine), None, None)  # which one does not matter
        within, called = module.encode(), name.encode()
        try:
            check(
                _linker_define(
                    address_of(linker), store_context(store), within, len(within), called, len(called), self.extern
                ),
                None,
            )
        finally:
            store_delete(store)


def new_trap(message: str) -> int:
    """The address of a trap with a message, to be returned by a host function."""
    encoded = message.encode()
    return int(_trap_new(encoded, len(encoded)))


def define_synchronous(linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType, callback: Any) -> None:
    """Define a host function that answers at once. ``callback`` (a :data:`SYNCHRONOUS`) must outlive the linker."""
    _define(_define_synchronous, linker, module, name, kind, callback)


def define_suspendable(linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType, callback: Any) -> None:
    """Define a host function that may suspend its guest; see :func:`define_synchronous`."""
    _define(_define_suspendable, linker, module, name, kind, callback)


def _define(
    define: Any, linker: wasmtime.Linker, module: str, name: str, kind: wasmtime.FuncType, callback: Any
) -> None:
    within, called = module.encode(), name.encode()
    check(
        define(address_of(linker), within, len(within), called, len(called), address_of(kind), callback, None, None),
        None,
    )


_TESTED = """
(module
  (import "host" "words" (memory $words 1 1 shared))
  (import "host" "now" (func $now (param i32) (result i64)))
  (table 1 funcref)
  (type $later (func (param i32) (result i64)))
  (memory $own (export "memory") 1)
  (func (export "run") (param $f funcref) (param i32) (result i32)
    (table.set (i32.const 0) (local.get $f))
    (i32.add
      (i32.add (i32.load $words (i32.const 8)) (i32.wrap_i64 (call $now (local.get 1))))
      (i32.wrap_i64 (call_indirect (type $later) (local.get 1) (i32.const 0)))))
  (func (export "spin") (loop $again (br $again))))
"""


def _self_test() -> None:
    """Do once, in small, all that the fast roads do; whatever goes wrong is an exception.

    Raises:
        Exception: a name is gone, or something behaves in another way.
    """
    if _missing:
        raise RuntimeError(f"there is no {', no '.join(_missing)}")
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.wasm_threads = config.shared_memory = True
    engine = wasmtime.Engine(config)
    module = wasmtime.Module(engine, bytes(wasmtime.wat2wasm(_TESTED)))
    memory = ctypes.create_string_buffer(1024)
    at = ctypes.addressof(memory)
    trap, error, instance, flag, args, result, externs = at, at + 8, at + 16, at + 32, at + 64, at + 192, at + 256

    def now(_env: int, _caller: int, raw: int, _count: int) -> int:
        value = ctypes.c_int32.from_address(raw).value
        c_int64.from_address(raw).value = 2 * value
        return 0

    def later(*given: int) -> None:
        arguments, results, ready = given[2], given[4], given[7]
        c_uint8.from_address(results).value = I64
        c_int64.from_address(results + OF).value = ctypes.c_int32.from_address(arguments + OF).value
        ctypes.memmove(ready, CONTINUATION.pack(*continuation(flag)), CONTINUATION.size)

    callbacks = SYNCHRONOUS(now), SUSPENDABLE(later)
    kind = wasmtime.FuncType([wasmtime.ValType.i32()], [wasmtime.ValType.i64()])
    linker, suspendable = wasmtime.Linker(engine), wasmtime.Linker(engine)
    define_synchronous(linker, "host", "now", kind, callbacks[0])
    define_suspendable(suspendable, "host", "later", kind, callbacks[1])
    words = SharedMemory(engine, 1)
    words.define(linker, "host", "words")
    words.view[8] = 3
    check(prepare(address_of(linker), address_of(module), at), None)
    prepared = c_size_t.from_address(at).value
    c_size_t.from_address(at).value = 0
    store = store_new(address_of(engine), None, None)
    try:
        context = store_context(store)
        store_limiter(store, 1 << 20, 10, 2, 2, 2)
        set_epoch_deadline(context, 1)
        check(pre_instantiate(prepared, context, instance, trap), c_size_t.from_address(trap).value)
        yield_at_epoch(context, 1)
        found = (
            linker_get(address_of(suspendable), context, b"host", 4, b"later", 5, externs)
            and export_get(context, instance, b"run", 3, externs + EXTERN)
            and export_get(context, instance, b"memory", 6, externs + 2 * EXTERN)
            and export_get(context, instance, b"spin", 4, externs + 3 * EXTERN)
        )
        if not found or not memory_base(context, externs + 2 * EXTERN + OF):
            raise RuntimeError("an export is not found")
        if memory_size(context, externs + 2 * EXTERN + OF) != 65536:
            raise RuntimeError("a memory of 65536 bytes has another size")
        c_uint8.from_address(args).value = FUNCREF
        ctypes.memmove(args + OF, externs + OF, 16)
        ctypes.c_int32.from_address(args + VALUE + OF).value = 7
        future = call(context, externs + EXTERN + OF, args, 2, result, 1, trap, error)
        waited = not poll(future)
        c_uint8.from_address(flag).value = 1
        ended = poll(future)
        forget_call(future)
        check(c_size_t.from_address(error).value, c_size_t.from_address(trap).value)
        if not (waited and ended and ctypes.c_int32.from_address(result + OF).value == 24):
            raise RuntimeError("a suspended call does not go on as it should")
        increment_epoch(address_of(engine))
        future = call(context, externs + 3 * EXTERN + OF, None, 0, None, 0, trap, error)
        yielded = not poll(future)
        forget_call(future)
        if not yielded:
            raise RuntimeError("an endless guest does not yield")
    finally:
        store_delete(store)
        pre_delete(prepared)


def tested(test: Callable[[], None]) -> str | None:
    """Run a self-test; what it says if it fails, with the version that is installed, None if it doesn't."""
    try:
        test()
    except Exception as error:
        return f"the inner parts of wasmtime {VERSION} are not as they are known: {type(error).__name__}: {error}"
    return None


FAILURE = tested(_self_test)


# -- components -----------------------------------------------------------------------------------------------------

COMPONENT_VALUE = _size("wasmtime_component_val_t")
"""Bytes of a ``wasmtime_component_val_t``: its kind in the first byte, what it holds from :data:`OF` on."""

COMPONENT_ENTRY = _size("wasmtime_component_valrecord_entry_t")
"""Bytes of a field of a record: its name, and a value from :data:`ENTRY_VALUE` on."""

ENTRY_VALUE = 16
COMPONENT_FUNCTION = _size("wasmtime_component_func_t")

SYNCHRONOUS_OF_COMPONENT = CFUNCTYPE(c_size_t, *[c_size_t] * 7)
"""A host function that answers at once: (env, context, type, arguments, their number, results, their number) to the
address of an error, or 0. It may read the arguments until it returns; wasmtime frees them, and the results."""

SUSPENDABLE_OF_COMPONENT = CFUNCTYPE(None, *[c_size_t] * 9)
"""A host function that may suspend the guest: the same, then where the address of an error goes, and where the
continuation goes. The place for results stays until the continuation says that they are there."""

component_get_export = _function("wasmtime_component_get_export_index", _p, _p, _p, c_char_p, c_size_t)
component_export_delete = _function("wasmtime_component_export_index_delete", None, _p)
component_instantiate = _function("wasmtime_component_linker_instantiate_async", _p, _p, _p, _p, _p, _p)
component_get_function = _function("wasmtime_component_instance_get_func", c_bool, _p, _p, _p, _p)
component_call = _function("wasmtime_component_func_call_async", _p, _p, _p, _p, c_size_t, _p, c_size_t, _p)
component_add = _function(
    "wasmtime_component_linker_instance_add_func", _p, _p, c_char_p, c_size_t, SYNCHRONOUS_OF_COMPONENT, _p, _p
)
component_add_suspendable = _function(
    "wasmtime_component_linker_instance_add_func_async", _p, _p, c_char_p, c_size_t, SUSPENDABLE_OF_COMPONENT, _p, _p
)
value_new = _function("wasmtime_component_val_new", _p, _p)
value_delete = _function("wasmtime_component_val_delete", None, _p)
list_new = _function("wasmtime_component_vallist_new_uninit", None, _p, c_size_t)
record_new = _function("wasmtime_component_valrecord_new_uninit", None, _p, c_size_t)
tuple_new = _function("wasmtime_component_valtuple_new_uninit", None, _p, c_size_t)
bytes_new = _function("wasm_byte_vec_new", None, _p, c_size_t, c_char_p)
new_error = _function("wasmtime_error_new", _p, c_char_p)
