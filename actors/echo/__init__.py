"""An echo server: the smallest actor that serves connections."""

from __future__ import annotations

__all__: list[str] = []
