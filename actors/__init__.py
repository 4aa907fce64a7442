"""Actors that are ready to run, one package each, made with the public names of ``theater_tcp`` alone."""

from __future__ import annotations

__all__: list[str] = []
