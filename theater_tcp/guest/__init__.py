"""WebAssembly guests: what they are, how they run, what they may do. Nothing here is loaded before the first one."""

from __future__ import annotations

__all__ = ()
